"""Whatever a provider signs is kept and harms nothing beside it: the parsers, and the database behind them.

RECADO_FUZZ=long looks further, in other places each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from shared.channel_keys import Keys
from shared.events import Payload
from shared.providers import PROVIDERS
from tests.sql.given import open_business

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DATA = Path(__file__).parents[1] / "data"
ACCOUNT = "AC00000000000000000000000000000009"
KEYS = {
    "cloud-api": Keys(provider="cloud_api"),
    "whapi": Keys("0198-w", "whapi", "MANTIS-A1B2C"),
    "twilio": Keys("0198-t", "twilio", "whatsapp:+12025550100", ACCOUNT),
}
FOLDERS = {"cloud-api": "whatsapp", "whapi": "whapi", "twilio": "twilio"}
FUZZ = settings(
    max_examples=1_500 if os.environ.get("RECADO_FUZZ") == "long" else 80,
    derandomize=os.environ.get("RECADO_FUZZ") != "long",
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
each_provider = pytest.mark.parametrize("provider", sorted(PROVIDERS))


def parse(provider: str, body: bytes) -> list[Payload]:
    query = {"message": "0198a000-0000-7000-8000-000000000001"}
    return list(PROVIDERS[provider].parse(body, received_at=NOW, keys=KEYS[provider], query=query))


# What may come

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
ODD = [
    *(None, True, 0, -1, 10**18, 10**120, 1.5, 1e308, float("nan"), float("inf")),
    *("", "0", "-1", "9" * 30, "1e999", "x" * 3000, "whatsapp:", "@s.whatsapp.net", "+1 202 555 0143"),
    *("\0", "a\0b", "\ud800", "\udc00\ud83d", "\uffff", "\\u0000", '"', "\x1f", "😀"),
    *([], {}, [None], [[]], {"id": {}}, ["\0"], {"\0": "\ud800"}, [1, "x", None, {"type": "text"}]),
]


@cache
def recorded(provider: str) -> list[Any]:
    cases = [json.loads(case.read_text()) for case in sorted((DATA / FOLDERS[provider]).glob("*.json"))]
    return [case.get("delivery") or case["form"] for case in cases]


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every element of a document, as the container and the key or index it has there."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in entries:
        yield document, key
        if isinstance(value, dict | list):
            yield from places(value)


def mutated(provider: str, chance: Random) -> Any:
    """A real delivery in which a few things are something else, gone, there twice, or under another name."""
    document = deepcopy(chance.choice(recorded(provider)))
    for _ in range(chance.randint(1, 4)):
        if not (found := list(places(document))):
            break
        start = 0 if chance.random() < 0.1 else len(found) // 3  # the top of a document is soon broken
        container, key = chance.choice(found[start:])
        change = chance.choice(["replace", "replace", "replace", "drop", "double", "rename"])
        if change == "replace":
            container[key] = deepcopy(chance.choice(ODD))
        elif change == "drop":
            del container[key]
        elif isinstance(container, list):
            container.insert(key, deepcopy(container[key]))
        else:
            other = chance.choice(list(container))
            container[other] = container.pop(key)
    return document


def encoded(provider: str, document: Any) -> bytes:
    if provider != "twilio":
        return json.dumps(document).encode()
    if not isinstance(document, dict):
        return repr(document).encode("utf-8", "replace")
    fields = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in document.items()
    }
    return urlencode(fields, errors="surrogatepass").encode()


def garbled(provider: str, chance: Random) -> bytes:
    """A real body in which some bytes are others."""
    body = encoded(provider, chance.choice(recorded(provider)))
    start = chance.randrange(len(body))
    return body[:start] + chance.randbytes(chance.randint(0, 6)) + body[start + chance.randint(0, 12) :]


@st.composite
def bodies(draw: st.DrawFn, provider: str) -> bytes:
    """Real ones gone wrong, by chance alone: Hypothesis by itself keeps to the top of documents."""
    chance = Random(draw(st.binary(min_size=8, max_size=8)))  # noqa: S311
    if chance.random() < 0.7:
        return encoded(provider, mutated(provider, chance))
    if chance.random() < 0.5:
        return garbled(provider, chance)
    return draw(st.binary() | anything.map(lambda document: encoded(provider, document)))


MEGABYTES = 3 * 1024 * 1024
VAST = {
    "zeros": b"\0" * MEGABYTES,
    "no utf-8": b"\xff" * MEGABYTES,
    "open brackets": b"[" * MEGABYTES,
    "one nest": b'{"entry":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "one number": b'{"messages":[' + b"9" * (MEGABYTES - 20) + b"]}",
    "one text": b'{"messages":[{"id":"' + b"x" * (MEGABYTES - 30) + b'"}]}',
    "lone surrogates": b'{"messages":"' + rb"\ud800" * 400_000 + b'"}',
    "many messages": json.dumps({"messages": [{"type": "text"}] * 30_000}).encode(),
    "many changes": json.dumps(
        {"entry": [{"changes": [{"field": "messages", "value": {"x": 1}}] * 20_000}]}
    ).encode(),
    "many keys": json.dumps({str(number): number for number in range(100_000)}).encode(),
    "many parameters": b"a=&" * 1_000_000,
    "escapes": b"%00" * 1_000_000,
}


# What holds


def check(payloads: list[Payload], body: bytes) -> None:
    assert payloads
    for payload in payloads:
        json.loads(payload.to_json())  # and not one that writes NaN
        assert payload.payload is not None or payload.raw == body
        assert payload.error or payload.events
    assert len({payload.delivery_id for payload in payloads}) == len(payloads)


@each_provider
@FUZZ
@given(data=st.data())
def test_whatever_is_signed_is_kept(provider: str, data: st.DataObject) -> None:
    body = data.draw(bodies(provider))

    check(parse(provider, body), body)


@each_provider
@pytest.mark.parametrize("body", VAST.values(), ids=VAST)
def test_three_megabytes_of_anything_are_kept(provider: str, body: bytes) -> None:
    check(parse(provider, body), body)


@dataclass(frozen=True)
class Receiver:
    """webhook_receive, for three numbers of one business."""

    connection: psycopg.Connection[Any]

    def store(self, payloads: list[Payload]) -> list[dict[str, Any]]:
        batch = b"[%b]" % b",".join(payload.to_json() for payload in payloads)
        cursor = self.connection.execute(
            "select public.webhook_receive(%s::jsonb) as answers", [batch.decode()]
        )
        return list(cursor.fetchall()[0]["answers"])


@pytest.fixture
def receiver(database: str) -> Iterator[Receiver]:
    with psycopg.connect(database, autocommit=True, row_factory=dict_row) as connection:
        business = open_business(connection, "clinic", "800000000000001")
        for provider, phone in (("whapi", "573009990002"), ("twilio", "12025550100")):
            connection.execute(
                "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id,"
                " display_name) values (%s, %s, %s, %s, 'Clinic')",
                [business.tenant_id, provider, phone, KEYS[provider].number],
            )
        connection.execute("set role service_role")
        yield Receiver(connection)


def good(provider: str, number: int) -> bytes:
    """A message that nobody ever sent before."""
    document = deepcopy(
        recorded(provider)[[c.stem for c in sorted((DATA / FOLDERS[provider]).glob("*.json"))].index("text")]
    )
    if provider == "cloud-api":
        document["entry"][0]["changes"][0]["value"]["messages"][0]["id"] = f"wamid.GOOD{number}"
    elif provider == "whapi":
        document["messages"][0]["id"] = f"GOOD{number}"
    else:
        document["MessageSid"] = f"SMGOOD{number}"
    return encoded(provider, document)


@each_provider
@FUZZ
@given(data=st.data())
def test_the_database_takes_whatever_the_parsers_make_and_the_good_message_beside_it(
    provider: str, receiver: Receiver, data: st.DataObject
) -> None:
    odd = parse(provider, data.draw(bodies(provider)))
    (fine,) = parse(provider, good(provider, next(_numbers)))

    *answers, beside = receiver.store([*odd[:20], fine])

    assert (beside["status"], beside["stored"]) == ("applied", 1)
    unexpected = [
        answer for answer, payload in zip(answers, odd, strict=False) if answer["error"] and not payload.error
    ]
    assert [answer for answer in unexpected if not answer["error"].startswith("No active number")] == []


_numbers = iter(range(10**9))
