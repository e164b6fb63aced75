"""What providers may post to a running platform, past the simulators, and the rows it leaves."""

from __future__ import annotations

import hmac
import json
import time
import uuid
from base64 import b64encode
from hashlib import sha256
from random import Random
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from shared import signature
from tests.e2e.platforms import Platform, eventually

CITAS, ACCOUNT = "100000000000001", "200000000000001"
WHAPI, TWILIO = "5a000000-0000-4000-8000-000000000004", "5a000000-0000-4000-8000-000000000005"
CHANNEL, SENDER, TWILIO_ACCOUNT = "PULSO-WHAPI", "whatsapp:+57305555555", "AC00000000000000000000000000000005"
SECRET, TOKEN = "demo-secret-PULSO-WHAPI", "demo-token-AC00000000000000000000000000000005"


# Posting as each provider


def meta(platform: Platform, body: bytes) -> httpx.Response:
    signed = hmac.new(platform.env["META_APP_SECRET"].encode(), body, sha256).hexdigest()
    return post(platform, "/cloud-api", body, {"x-hub-signature-256": f"sha256={signed}"})


def whapi(platform: Platform, body: bytes) -> httpx.Response:
    return post(platform, f"/whapi/{WHAPI}", body, {"x-recado-secret": SECRET})


def twilio(platform: Platform, body: bytes) -> httpx.Response:
    """A form; what is none goes with the hash that stands for it in what is signed."""
    said, query, kind = "", "", "application/x-www-form-urlencoded"
    try:
        said = "".join(sorted(name + value for name, value in _pairs(body)))
    except ValueError:
        query, kind = f"?bodySHA256={sha256(body).hexdigest()}", "application/octet-stream"
    path = f"/twilio/{TWILIO}{query}"
    url = platform.env["WEBHOOK_PUBLIC_URL"] + path
    signed = b64encode(hmac.digest(TOKEN.encode(), (url + said).encode(), "sha1")).decode()
    return post(platform, path, body, {"x-twilio-signature": signed, "content-type": kind})


def _pairs(body: bytes) -> list[tuple[str, str]]:
    pairs = [part.split(b"=") for part in body.split(b"&")]
    if not all(len(pair) == 2 and pair[0].isalnum() and pair[1].isalnum() for pair in pairs):
        raise ValueError
    return [(name.decode(), value.decode()) for name, value in pairs]


def post(platform: Platform, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    url = platform.env["WEBHOOK_PUBLIC_URL"] + path
    return httpx.post(url, content=body, headers=headers, timeout=60, trust_env=False)


def delivery(field: str, value: dict[str, Any]) -> bytes:
    metadata = {"display_phone_number": "57301111111", "phone_number_id": CITAS}
    change = {"field": field, "value": {"metadata": metadata, **value}}
    return json.dumps({"entry": [{"id": ACCOUNT, "changes": [change]}]}).encode()


def says(text: str, id_: str | None = None, **who: Any) -> dict[str, Any]:
    told = {"id": id_ or new_id(), "timestamp": str(int(time.time())), "type": "text", "text": {"body": text}}
    return {**told, **who}


def new_id() -> str:
    return f"wamid.{uuid.uuid4().hex}"


def messages(platform: Platform, column: str, value: str) -> list[tuple[Any, ...]]:
    return platform.query(
        "select m.content, m.direction, m.source, l.phone from public.messages m"
        " join public.customer_leads l on l.tenant_id = m.tenant_id and l.id = m.lead_id"
        f" where {column} = %s and m.source in ('customer', 'manual') order by m.provider_at, m.id",
        value,
    )


# Meta


def test_a_batch_of_a_thousand_updates_is_stored_to_the_last_and_once(platform: Platform) -> None:
    phones = [f"5731660{n:05d}" for n in range(100)]
    sent = [says(f"mensaje {n}", **{"from": phones[n % 100]}) for n in range(1000)]
    contacts = [{"wa_id": phone, "profile": {"name": f"Cliente {phone}"}} for phone in phones]
    body = delivery("messages", {"contacts": contacts, "messages": sent})

    answers = [meta(platform, body) for _ in range(2)]

    assert [(answer.status_code, answer.json()["stored"]) for answer in answers] == [(200, 1000), (200, 0)]
    (leads,) = platform.query(
        "select count(*), count(*) filter (where name = 'Cliente ' || phone) from public.customer_leads"
        " where phone like '5731660%%'"
    )
    assert leads == (100, 100)


def test_a_customer_who_hides_their_phone_is_a_lead(platform: Platform) -> None:
    bsuid = f"CO.{uuid.uuid4().hex}"
    contact = {"user_id": bsuid, "profile": {"name": "Ana", "username": "ana.p"}}

    meta(
        platform,
        delivery("messages", {"contacts": [contact], "messages": [says("Hola", from_user_id=bsuid)]}),
    )

    found = platform.query(
        "select l.phone, l.name from public.lead_identities i join public.customer_leads l"
        " on l.tenant_id = i.tenant_id and l.id = i.lead_id where i.kind = 'bsuid' and i.value = %s",
        bsuid,
    )
    assert found == [(None, "Ana")]


def test_what_the_business_writes_on_its_phone_and_what_is_edited(platform: Platform) -> None:
    customer, first = "573155600001", new_id()
    edit = {"original_message_id": first, "message": {"type": "text", "text": {"body": "Dos citas"}}}

    meta(platform, delivery("messages", {"messages": [says("Una cita", first, **{"from": customer})]}))
    meta(platform, delivery("smb_message_echoes", {"message_echoes": [says("Claro", to=customer)]}))
    changed = {
        "id": new_id(),
        "from": customer,
        "timestamp": str(int(time.time())),
        "type": "edit",
        "edit": edit,
    }
    meta(platform, delivery("messages", {"messages": [changed]}))

    found = messages(platform, "l.phone", customer)
    assert {one[:3] for one in found} == {
        ("Dos citas", "inbound", "customer"),
        ("Claro", "outbound", "manual"),
    }


def test_a_long_history_is_stored_and_answers_nobody(platform: Platform) -> None:
    customer, old = "573155600002", int(time.time()) - 40 * 86400
    said = [says(f"antes {n}", **{"from": customer}) | {"timestamp": str(old + n)} for n in range(450)]
    value = {"history": [{"metadata": {"phase": 1}, "threads": [{"id": customer, "messages": said}]}]}

    answer = meta(platform, delivery("history", value))

    assert answer.json() == {"stored": 450, "payloads": 9}
    assert [one[0] for one in messages(platform, "l.phone", customer)] == [f"antes {n}" for n in range(450)]


# Whapi and Twilio


def test_whapis_people_become_leads_and_its_groups_do_not(platform: Platform) -> None:
    person, group = "573155600003", f"1203630{uuid.uuid4().int % 10**11:011d}"
    common = {
        "type": "text",
        "timestamp": int(time.time()),
        "from": person,
        "from_me": False,
        "from_name": "Ana",
    }
    said = [
        {"id": new_id(), "chat_id": f"{person}@s.whatsapp.net", "text": {"body": "Hola"}, **common},
        {"id": new_id(), "chat_id": f"{group}@g.us", "text": {"body": "Hola a todos"}, **common},
    ]

    assert (
        whapi(platform, json.dumps({"messages": said, "channel_id": CHANNEL}).encode()).json()["stored"] == 1
    )

    assert messages(platform, "l.phone", person) == [("Hola", "inbound", "customer", person)]
    assert platform.query("select from public.lead_identities where value like %s", f"{group}%") == []


def test_twilios_form_is_stored_and_answered_with_empty_twiml(platform: Platform) -> None:
    sid = f"SM{uuid.uuid4().hex}"
    form = {
        "MessageSid": sid,
        "From": "whatsapp:+573155600004",
        "To": SENDER,
        "Body": "Hola",
        "NumMedia": "0",
    }
    form |= {"AccountSid": TWILIO_ACCOUNT, "ProfileName": "Ana", "SmsStatus": "received"}
    said = "".join(name + form[name] for name in sorted(form))
    url = f"{platform.env['WEBHOOK_PUBLIC_URL']}/twilio/{TWILIO}"
    signed = b64encode(hmac.digest(TOKEN.encode(), (url + said).encode(), "sha1")).decode()
    headers = {"x-twilio-signature": signed, "content-type": "application/x-www-form-urlencoded"}

    answers = [post(platform, f"/twilio/{TWILIO}", urlencode(form).encode(), headers) for _ in range(2)]

    assert [(one.status_code, one.text, one.headers["content-type"]) for one in answers] == [
        (200, "<Response/>", "text/xml")
    ] * 2
    assert messages(platform, "m.wa_message_id", sid) == [("Hola", "inbound", "customer", "573155600004")]


@pytest.mark.parametrize("path", [f"/whapi/{WHAPI}", f"/twilio/{TWILIO}", "/cloud-api"])
def test_whoever_guesses_is_refused(platform: Platform, path: str) -> None:
    names = ("x-recado-secret", "x-twilio-signature", "x-hub-signature-256")

    assert post(platform, path, b"{}", dict.fromkeys(names, "guessed")).status_code == 401
    assert post(platform, f"/whapi/{uuid.uuid4()}", b"{}", {names[0]: SECRET}).status_code == 404


# Garbage


@pytest.mark.parametrize("door", [meta, whapi, twilio])
def test_signed_garbage_is_kept_and_never_an_error_of_ours(platform: Platform, door: Any) -> None:
    chance = Random(7)  # noqa: S311
    garbage = [chance.randbytes(chance.randint(0, 400)) for _ in range(20)]
    garbage += [
        b"",
        b"{}",
        b"[" * 100_000,
        b"9" * 100_000,
        b'"\\u0000\\ud800"',
        b'{"messages":[{"id":"\\u0000"}]}',
    ]

    answers = [door(platform, body).status_code for body in garbage]

    assert set(answers) == {200}


# Backfill


@pytest.mark.parametrize("number", [CHANNEL, SENDER])
def test_what_could_not_be_delivered_is_read_from_the_providers_list(platform: Platform, number: str) -> None:
    customer = f"5731557{uuid.uuid4().int % 10**5:05d}"
    control = httpx.Client(base_url=platform.env["SIMULATOR_URL"], timeout=60, trust_env=False)
    told = {"number": number, "from": customer, "name": "Ana", "text": "¿Hola?"}
    with control:
        control.post("/control/faults", json={"target": "webhook", "kind": "drop", "match": customer})
        control.post("/control/inbound", json=told)
        assert messages(platform, "l.phone", customer) == []
        platform.query("update private.backfills set due_at = now() - interval '1 second'")

        url = f"{platform.env['FUNCTIONS_URL']}/backfill"
        headers = signature.sign(platform.env["FUNCTIONS_SECRET"], b"{}", at=int(time.time()))
        assert httpx.post(url, content=b"{}", headers=headers, timeout=60).json()["stored"] >= 1

    assert eventually(lambda: messages(platform, "l.phone", customer) != [])
    assert messages(platform, "l.phone", customer) == [("¿Hola?", "inbound", "customer", customer)]
