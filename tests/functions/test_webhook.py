"""The function webhook, from a provider's request to the call of the database."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from starlette.testclient import TestClient

from tests.functions.conftest import Lines, client, load

ENVIRON = {
    "SUPABASE_URL": "http://db.example",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
    "META_APP_SECRET": "the app secret",
    "META_VERIFY_TOKEN": "word",
}
OPTIONS = {
    "WEBHOOK_PUBLIC_URL": "https://crm.example/webhook/",
    "WEBHOOK_UNSIGNED_BURST": "3",
    "WEBHOOK_UNSIGNED_PER_SECOND": "0.001",
}
WHAPI, TWILIO, NOBODY = (f"0198a000-0000-7000-8000-00000000000{n}" for n in (1, 2, 3))
NUMBERS = {
    WHAPI: {"provider": "whapi", "provider_number_id": "MANTIS-A1B2C", "secrets": ["the header"]},
    TWILIO: {
        "provider": "twilio",
        "provider_number_id": "whatsapp:+12025550100",
        "account_id": "AC1",
        "secrets": ["the token"],
    },
}
DELIVERY = json.loads((Path(__file__).parents[1] / "data/whatsapp/text.json").read_text())["delivery"]
BODY = json.dumps(DELIVERY).encode()
APPLIED = {"status": "applied", "stored": 1, "repeated": 0}
FAILED = {"status": "failed", "stored": 0, "repeated": 0, "error": "why"}


@pytest.fixture
def rpcs() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture
def database(rpcs: respx.MockRouter) -> respx.Route:
    """webhook_receive, which applies whatever could be read."""

    def apply(request: httpx.Request) -> httpx.Response:
        batch = json.loads(request.content)["p_batch"]
        return httpx.Response(200, json=[FAILED if one.get("error") else APPLIED for one in batch])

    return rpcs.post("http://db.example/rest/v1/rpc/webhook_receive").mock(side_effect=apply)


@pytest.fixture(autouse=True)
def keys(rpcs: respx.MockRouter) -> respx.Route:
    """channel_webhook_keys."""

    def find(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=NUMBERS.get(json.loads(request.content)["p_number_id"]))

    return rpcs.post("http://db.example/rest/v1/rpc/channel_webhook_keys").mock(side_effect=find)


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    for name, value in (ENVIRON | OPTIONS).items():
        monkeypatch.setenv(name, value)
    with client(load("webhook").main) as made:
        yield made


def post(webhook: TestClient, body: bytes = BODY) -> Any:
    signature = hmac.new(b"the app secret", body, "sha256").hexdigest()
    return webhook.post("/cloud-api", content=body, headers={"x-hub-signature-256": f"sha256={signature}"})


def batch(database: respx.Route) -> list[dict[str, Any]]:
    return list(json.loads(database.calls.last.request.content)["p_batch"])


def test_the_handshake_is_answered_as_plain_text(webhook: TestClient) -> None:
    query = {"hub.mode": "subscribe", "hub.verify_token": "word", "hub.challenge": "<1158201444>"}

    answer = webhook.get("/cloud-api", params=query)

    assert (answer.status_code, answer.text) == (200, "<1158201444>")
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_wrong_handshake_is_forbidden(webhook: TestClient) -> None:
    assert webhook.get("/cloud-api").status_code == 403


def test_a_signed_delivery_is_stored_before_it_is_acknowledged(
    webhook: TestClient, database: respx.Route
) -> None:
    answer = post(webhook)

    assert (answer.status_code, answer.json()) == (200, {"stored": 1, "payloads": 1})
    assert batch(database)[0]["events"][0]["text"] == "¿Me das una cita? 😀"


@pytest.mark.parametrize("signature", ["", "sha256=" + "0" * 64])
def test_an_unsigned_delivery_is_refused_before_any_work(
    webhook: TestClient, database: respx.Route, lines: Lines, signature: str
) -> None:
    answer = webhook.post("/cloud-api", content=BODY, headers={"x-hub-signature-256": signature})

    assert answer.status_code == 401
    assert not database.called
    assert [line["status"] for line in lines()] == [401]


def test_a_signed_body_that_cannot_be_read_is_kept(webhook: TestClient, database: respx.Route) -> None:
    answer = post(webhook, b"hello")

    assert (answer.status_code, answer.json()) == (200, {"stored": 0, "payloads": 1})
    assert batch(database)[0]["raw"] == "aGVsbG8="


def test_a_body_over_three_megabytes_is_too_large(webhook: TestClient, database: respx.Route) -> None:
    fits, too_large = post(webhook, b"x" * 3 * 1024 * 1024), post(webhook, b"x" * (3 * 1024 * 1024 + 1))

    assert (fits.status_code, too_large.status_code) == (200, 413)


def test_nothing_is_acknowledged_while_the_database_is_away(
    webhook: TestClient, database: respx.Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.inbox.PAUSES", (0.0,))
    database.mock(side_effect=httpx.ConnectError)

    answer = post(webhook)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert database.call_count == 2


# Whapi and Twilio, each number at an address of its own


def post_whapi(webhook: TestClient, header: str = "the header", number: str = WHAPI) -> Any:
    said = {"id": "A1", "chat_id": "12025550143@s.whatsapp.net", "type": "text", "text": {"body": "Hola"}}
    return webhook.post(f"/whapi/{number}", json={"messages": [said]}, headers={"x-recado-secret": header})


def post_twilio(webhook: TestClient, query: str = "", token: bytes = b"the token") -> Any:
    said = f"https://crm.example/webhook/twilio/{TWILIO}{query}MessageSidSM1MessageStatusread"
    signature = b64encode(hmac.digest(token, said.encode(), "sha1")).decode()
    form = {"MessageStatus": "read", "MessageSid": "SM1"}
    return webhook.post(f"/twilio/{TWILIO}{query}", data=form, headers={"x-twilio-signature": signature})


def test_whapis_updates_are_stored_for_the_number_of_the_address(
    webhook: TestClient, database: respx.Route
) -> None:
    assert post_whapi(webhook).json() == {"stored": 1, "payloads": 1}

    (payload,) = batch(database)
    assert (payload["provider"], payload["number"]) == ("whapi", "MANTIS-A1B2C")


def test_twilio_is_answered_with_nothing_that_it_could_send(
    webhook: TestClient, database: respx.Route
) -> None:
    answer = post_twilio(webhook, f"?message={NOBODY}")

    assert (answer.status_code, answer.text) == (200, "<Response/>")
    assert answer.headers["content-type"].startswith("text/xml")
    assert batch(database)[0]["events"][0]["callback"] == NOBODY


@pytest.mark.parametrize(
    "path", [f"/whapi/{NOBODY}", f"/twilio/{NOBODY}", f"/twilio/{WHAPI}", f"/whapi/{TWILIO}"]
)
def test_an_address_that_is_no_numbers_is_not_found_by_its_head(
    webhook: TestClient, database: respx.Route, path: str
) -> None:
    headers = {"x-recado-secret": "the header", "x-twilio-signature": "x"}

    answer = webhook.post(path, content=never_read(), headers=headers)

    assert (answer.status_code, database.called) == (404, False)


def never_read() -> Iterator[bytes]:
    yield from [b"x" * 1024] * 4096  # over the limit: whoever reads it answers 413


def test_a_wrong_secret_is_one_line_that_says_nothing_of_it(
    webhook: TestClient, database: respx.Route, lines: Lines
) -> None:
    assert (
        post_whapi(webhook, "guessed").status_code,
        post_twilio(webhook, token=b"guessed").status_code,
    ) == (
        401,
        401,
    )

    said = lines()
    assert [line["status"] for line in said] == [401, 401]
    assert not [word for word in ("guessed", "the header", "the token") if word in json.dumps(said)]


def test_a_numbers_secrets_are_asked_for_once(
    webhook: TestClient, database: respx.Route, keys: respx.Route
) -> None:
    for _ in range(3):
        post_whapi(webhook)
        post_whapi(webhook, number=NOBODY)

    assert keys.call_count == 2


# What nobody signed


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/", 404), ("POST", "/whapi", 404), ("POST", "/whapi/7", 404), ("PUT", "/cloud-api", 405)],
)
def test_what_is_nobodys_is_refused_unread(webhook: TestClient, method: str, path: str, status: int) -> None:
    assert webhook.request(method, path, content=never_read()).status_code == status


def test_what_is_unsigned_is_refused_unread_and_in_the_end_for_its_number(
    webhook: TestClient, database: respx.Route
) -> None:
    answers = [webhook.post("/cloud-api", content=never_read()) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    assert answers[-1].headers["retry-after"]


def test_an_address_that_is_used_up_still_takes_what_is_signed(
    webhook: TestClient, database: respx.Route
) -> None:
    for _ in range(6):
        webhook.post("/cloud-api", content=BODY)
        post_whapi(webhook, "guessed")

    assert post_whapi(webhook, "guessed").status_code == 429
    assert (post(webhook).status_code, post_whapi(webhook).status_code) == (200, 200)


def test_one_address_does_not_use_up_anothers_share(webhook: TestClient, database: respx.Route) -> None:
    def unsigned(address: str) -> int:
        headers = {"x-forwarded-for": f"203.0.113.1, {address}"}
        return int(webhook.post("/cloud-api", content=BODY, headers=headers).status_code)

    for _ in range(4):
        unsigned("198.51.100.7")

    assert (unsigned("198.51.100.7"), unsigned("198.51.100.8")) == (429, 401)


# The log


def test_a_log_names_no_customer(webhook: TestClient, database: respx.Route, lines: Lines) -> None:
    post(webhook)

    said = json.dumps(lines())
    assert not [word for word in ("12025550143", "Ana", "cita", "wamid", "US.7001") if word in said]


@pytest.mark.parametrize("missing", sorted(ENVIRON))
def test_without_a_setting_it_says_which_from_the_start(
    monkeypatch: pytest.MonkeyPatch, lines: Lines, missing: str
) -> None:
    for name in ENVIRON.keys() - {missing}:
        monkeypatch.setenv(name, ENVIRON[name])
    monkeypatch.delenv(missing, raising=False)

    answer = post(client(load("webhook").main))

    assert answer.status_code == 503
    assert missing in answer.text
    assert lines()[0]["missing"] == [missing]
