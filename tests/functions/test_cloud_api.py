"""Meta's Cloud API: who may post, and what each of its updates becomes."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from shared import cloud_api, parts
from shared.errors import ForbiddenError, MissingSettingError, UnauthorizedError

CASES = sorted((Path(__file__).parents[1] / "data" / "whatsapp").glob("*.json"))
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECRET = "the app secret"
HANDSHAKE = {"hub.mode": "subscribe", "hub.verify_token": "word", "hub.challenge": "1158201444"}


def walk(value: Any) -> Iterator[Any]:
    """A document and everything in it."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


RECORDED = [part for case in CASES for part in walk(json.loads(case.read_text())["delivery"])]
KEYS = st.sampled_from(sorted({key for part in RECORDED if isinstance(part, dict) for key in part}))
WORDS = st.sampled_from(sorted({part for part in RECORDED if isinstance(part, str)}))


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Our own keys in the wrong places, among any others."""
    return st.dictionaries(KEYS | st.text(), values | WORDS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | objects(inner),
)


def parse(document: Any) -> list[dict[str, Any]]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return [json.loads(payload.to_json()) for payload in cloud_api.parse(body, received_at=NOW)]


def delivery(*messages: Any, **value: Any) -> dict[str, Any]:
    value = {"metadata": {"phone_number_id": "8001"}, "messages": list(messages), **value}
    return {"entry": [{"id": "9001", "changes": [{"field": "messages", "value": value}]}]}


def text(id_: Any = "wamid.1", **more: Any) -> dict[str, Any]:
    return {
        "from": "12025550143",
        "id": id_,
        "timestamp": "1795000000",
        "type": "text",
        "text": {"body": "Hola"},
        **more,
    }


def events_of(document: Any) -> list[dict[str, Any]]:
    return [event for payload in parse(document) for event in payload["events"]]


def signed(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest()


def check(headers: Any, body: bytes, app_secrets: str) -> None:
    cloud_api.check_signature(headers, body, cloud_api.app_keys(app_secrets).secrets)


# The handshake


def test_the_handshake_gives_the_challenge_back() -> None:
    assert cloud_api.answer_handshake(HANDSHAKE, "word") == "1158201444"


@pytest.mark.parametrize(
    "change",
    [
        {"hub.mode": "unsubscribe"},
        {"hub.mode": ""},
        {"hub.verify_token": "another"},
        {"hub.verify_token": ""},
        {"hub.challenge": ""},
    ],
)
def test_any_other_handshake_is_refused(change: dict[str, str]) -> None:
    (key,) = change

    for query in ({**HANDSHAKE, **change}, {k: v for k, v in HANDSHAKE.items() if k != key}):
        with pytest.raises(ForbiddenError):
            cloud_api.answer_handshake(query, "word")


# The signature


def test_a_signed_body_passes_byte_for_byte() -> None:
    body = '{"text": "ñ \\u00f1"}'.encode()

    check({cloud_api.SIGNATURE: signed(body)}, body, SECRET)


def test_both_secrets_count_during_a_rotation() -> None:
    for secret in ("old", "new"):
        check({cloud_api.SIGNATURE: signed(b"{}", secret)}, b"{}", "old, new")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "sha256=",
        signed(b"{}").upper(),
        signed(b"{} "),
        signed(b"{}", "another"),
        signed(b"{}")[7:],
        "sha256=ñ",
    ],
)
def test_a_wrong_signature_is_refused(header: str) -> None:
    with pytest.raises(UnauthorizedError):
        check({cloud_api.SIGNATURE: header}, b"{}", SECRET)


@pytest.mark.parametrize("copies", [0, 2])
def test_a_signature_must_be_there_exactly_once(copies: int) -> None:
    headers = Headers(raw=[(cloud_api.SIGNATURE.encode(), signed(b"{}").encode())] * copies)

    with pytest.raises(UnauthorizedError):
        check(headers, b"{}", SECRET)


@pytest.mark.parametrize("secrets", ["", " ", ",", " , "])
def test_an_empty_secret_lets_nobody_in(secrets: str) -> None:
    with pytest.raises(MissingSettingError):
        check({cloud_api.SIGNATURE: signed(b"{}", "")}, b"{}", secrets)


# What updates become


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_an_update_becomes_its_events(case: Path) -> None:
    recorded = json.loads(case.read_text())

    found = parse(recorded["delivery"])

    keys = ("account", "number", "field", "events")
    assert [{key: one[key] for key in keys if key in one} for one in found] == recorded["payloads"]


def test_every_change_is_a_payload_with_its_raw_form() -> None:
    document = json.loads((CASES[0].parent / "batch.json").read_text())["delivery"]

    found = parse(document)

    changes = [change for entry in document["entry"] for change in entry["changes"]]
    assert [payload["payload"] for payload in found] == changes
    assert all(payload["received_at"] == NOW.isoformat() for payload in found)


def test_the_same_delivery_has_the_same_ids() -> None:
    first, again, other = (
        [one["delivery_id"] for one in parse(document)]
        for document in (delivery(text()), delivery(text()), delivery(text("wamid.2")))
    )

    assert first == again
    assert first != other


def test_a_message_is_never_given_somebody_elses_name() -> None:
    ana = {"wa_id": "12025550143", "user_id": "US.1", "profile": {"name": "Ana"}}
    stranger = {**text(), "from": "12025550199", "from_user_id": "US.2"}

    (event,) = events_of(delivery(stranger, contacts=[ana]))

    assert event["contact"] == {"phone": "12025550199", "bsuid": "US.2"}


# Large deliveries


def test_a_batch_of_a_thousand_comes_in_parts_that_lose_nothing() -> None:
    sent = [text(f"wamid.{n}", **{"from": f"5730000{n:05d}"}) for n in range(1000)]
    contacts = [{"wa_id": one["from"], "profile": {"name": one["from"]}} for one in sent]

    found = parse(delivery(*sent, contacts=contacts))

    events = [event for payload in found for event in payload["events"]]
    assert [event["id"] for event in events] == [one["id"] for one in sent]
    assert all(event["contact"]["profile_name"] == event["contact"]["phone"] for event in events)
    values = [payload["payload"]["value"] for payload in found]
    assert [one for value in values for one in value["messages"]] == sent
    assert [one for value in values for one in value["contacts"]] == contacts
    assert [payload["delivery_id"].partition(":")[2] for payload in found] == [
        f"0:{n}" for n in range(1000 // parts.PART)
    ]


def test_the_last_of_many_is_not_taken_for_the_only_one() -> None:
    """A lone message may be its contact's however the number is written; the last of 101 not."""
    sent = [text(f"wamid.{n}", **{"from": "12025550199"}) for n in range(parts.PART + 1)]

    found = parse(delivery(*sent, contacts=[{"wa_id": "12025550143", "profile": {"name": "Ana"}}]))

    assert not [
        event for payload in found for event in payload["events"] if "profile_name" in event["contact"]
    ]


def test_a_long_history_comes_in_parts_that_lose_nothing() -> None:
    threads = [
        {"id": f"5730000{n:05d}", "messages": [text(f"wamid.{n}.{m}") for m in range(30)]} for n in range(10)
    ]
    chunks = [
        {"metadata": {"phase": 0}, "threads": threads[:7]},
        {"errors": [{"code": 1}]},
        {"threads": threads[7:]},
    ]
    value = {
        "metadata": {"phone_number_id": "8001"},
        "history": chunks,
        "errors": [{"code": 2, "title": "x"}],
    }

    found = parse({"entry": [{"id": "9001", "changes": [{"field": "history", "value": value}]}]})

    kept = [chunk for payload in found for chunk in payload["payload"]["value"].get("history", ())]
    listed = [thread for chunk in kept for thread in chunk.get("threads", ())]
    assert [m for thread in listed for m in thread["messages"]] == [m for t in threads for m in t["messages"]]
    assert {thread["id"] for thread in listed} == {thread["id"] for thread in threads}
    assert [chunk for chunk in kept if "errors" in chunk] == [chunks[1]]
    events = [event for payload in found for event in payload["events"]]
    assert len(events) == 302
    assert max(len(payload["events"]) for payload in found) == parts.PART


# Accounts


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("message_template_status_update", {"event": "APPROVED"}, "which template"),
        ("message_template_status_update", {"message_template_id": 1}, "no event"),
        ("phone_number_quality_update", {"event": "ONBOARDING"}, "which number"),
        ("account_update", {"event": []}, "no event"),
        ("account_alerts", {"alert_info": "x"}, "no alert_type"),
    ],
)
def test_an_account_update_that_lacks_its_subject_is_kept(field: str, value: Any, reason: str) -> None:
    (event,) = events_of({"entry": [{"id": "9001", "changes": [{"field": field, "value": value}]}]})

    assert (event["kind"], event["raw"]) == ("other", value)
    assert reason in event["error"]


@pytest.mark.parametrize(
    ("told", "limit"),
    [
        ({"max_daily_conversations_per_business": "TIER_250"}, {"limit": 250}),
        ({"max_daily_conversations_per_business": "TIER_100K"}, {"limit": 100_000}),
        ({"max_daily_conversation_per_phone": 2000}, {"limit": 2000}),
        ({"max_daily_conversations_per_business": "TIER_UNLIMITED"}, {"limit": None}),
        ({"max_daily_conversation_per_phone": -1}, {"limit": None}),
        ({"max_daily_conversations_per_business": "TIER_NOT_SET"}, {}),
        ({}, {}),
    ],
)
def test_a_limit_is_a_number_of_customers_or_none_or_not_told(told: Any, limit: Any) -> None:
    value = {"max_phone_numbers_per_business": 2, **told}

    (event,) = events_of({"entry": [{"changes": [{"field": "business_capability_update", "value": value}]}]})

    assert event["data"] == {"max_numbers": 2, **limit}


# Odd shapes


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ("Hola", "not an object"),
        (None, "not an object"),
        ([], "not an object"),
        (text(id_=None), "no usable id"),
        (text(id_="x" * 300), "no usable id"),
        (text(**{"from": None}), "who the customer is"),
        (text(**{"from": {"phone": "1"}}), "who the customer is"),
        (text(type="reaction"), "which message"),
        (text(type="edit", edit=[]), "which message"),
        (text(type="revoke", revoke={"original_message_id": ""}), "which message"),
        (text(type="system", system={"type": "user_changed_number"}), "was and is"),
    ],
)
def test_an_odd_item_is_kept_and_its_neighbours_pass(odd: Any, reason: str) -> None:
    before, kept, after = events_of(delivery(text("wamid.before"), odd, text("wamid.after")))

    assert (before["id"], after["id"]) == ("wamid.before", "wamid.after")
    assert (kept["kind"], kept.get("raw")) == ("other", odd)
    assert reason in kept["error"]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"changes": []},
        {"changes": [None]},
        {"changes": ["x"]},
        {"changes": [{"field": "messages"}]},
        "entry",
        7,
    ],
)
def test_an_odd_entry_is_kept_and_its_neighbours_pass(odd: Any) -> None:
    good = delivery(text())["entry"]

    before, kept, after = parse({"entry": [*good, odd, *good]})

    assert before["events"] == after["events"] != []
    assert kept["events"] == []
    assert kept["error"].startswith("There is no change") or kept["error"] == "The change has no value."


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"\xff\xfe", b"[" * 200_000, b"[]", b"{}", b'{"entry": []}', b"7"]
)
def test_a_body_without_a_change_is_kept_as_bytes(body: bytes) -> None:
    (payload,) = cloud_api.parse(body, received_at=NOW)

    assert (payload.raw, payload.payload, payload.events) == (body, None, ())
    assert payload.error


def test_a_time_that_makes_no_sense_is_the_time_of_arrival() -> None:
    strange: list[Any] = [None, "", "soon", -1, "9" * 30, {}, 1e300, True]

    found = events_of(delivery(*[text(timestamp=one) for one in strange]))

    assert {event["at"] for event in found} == {NOW.isoformat()}


def test_text_that_jsonb_refuses_is_cleaned() -> None:
    body = json.dumps(delivery(text(text={"body": "a\0b \ud800"}))).encode()

    (event,) = events_of(body)

    assert event["text"] == "a\ufffdb \ufffd"


@given(json_values.filter(lambda value: value is not None))
def test_no_document_makes_the_parser_fail(document: Any) -> None:
    assert parse(document)


@given(st.binary())
def test_no_body_makes_the_parser_fail(body: bytes) -> None:
    assert parse(body)


@given(
    st.sampled_from(sorted(cloud_api._READERS)),
    objects(json_values),
    st.lists(json_values | objects(json_values | objects(json_values)), max_size=4),
)
def test_no_item_is_lost(field: str, value: dict[str, Any], items: list[Any]) -> None:
    """Whatever lies in the list that a field is about: each element is an event, in order."""
    name = next(iter(cloud_api._READERS[field]))
    value = {"contacts": value.get("contacts"), "metadata": value.get("metadata"), name: items}

    (payload,) = parse({"entry": [{"changes": [{"field": field, "value": value}]}]})

    assert len(payload["events"]) == max(len(items), 1)
