"""Twilio: its two signatures, and what each of its posts becomes."""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from shared import twilio
from shared.channel_keys import Keys
from shared.errors import UnauthorizedError
from shared.runtime import Request

CASES = sorted((Path(__file__).parents[1] / "data" / "twilio").glob("*.json"))
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ACCOUNT = "AC00000000000000000000000000000009"
ADDRESS = "https://crm.example/webhook/twilio/0198-t"
KEYS = Keys("0198-t", "twilio", "whatsapp:+12025550100", ACCOUNT, ADDRESS, ("old token", "new token"))
FORM = "application/x-www-form-urlencoded"


def parse(form: Any, query: dict[str, str] | None = None) -> list[dict[str, Any]]:
    body = form if isinstance(form, bytes) else urlencode(form).encode()
    found = twilio.parse(body, received_at=NOW, keys=KEYS, query=query or {})
    return [json.loads(payload.to_json()) for payload in found]


def sign(url: str, said: str = "", *, secret: str = KEYS.secrets[1], algorithm: str = "sha1") -> str:
    """As Twilio's documentation describes it, for a form whose parameters are put together already."""
    return b64encode(hmac.digest(secret.encode(), (url + said).encode(), algorithm)).decode()


def verify(signature: str, body: bytes = b"", *, query: str = "", **headers: str) -> None:
    given = {"content-type": FORM, twilio.SIGNATURE: signature} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    pairs = dict(pair.split("=") for pair in query.split("&") if pair)
    path = "/twilio/0198-t"
    request = Request("POST", path, query=pairs, headers=given, body=body, query_string=query)
    twilio.verify(request, KEYS)


# The signature


def test_parameters_are_signed_in_order_of_their_names_blank_and_spaced_as_they_are() -> None:
    body = urlencode([("To", "b"), ("Body", " Hola  ñ "), ("A", ""), ("body", "z")]).encode()

    verify(sign(ADDRESS, "ABody Hola  ñ Tobbodyz"), body)


def test_a_name_that_is_repeated_counts_with_each_of_its_values_once() -> None:
    verify(sign(ADDRESS, "MediaaMediab"), b"Media=b&Media=a&Media=b")


def test_the_query_is_part_of_what_is_signed_as_it_was_written() -> None:
    verify(sign(f"{ADDRESS}?message=0198%2D1&x=", "Aa"), b"A=a", query="message=0198%2D1&x=")


@pytest.mark.parametrize("url", [ADDRESS, ADDRESS.replace("crm.example", "crm.example:443")])
def test_the_port_may_be_part_of_the_url_or_not(url: str) -> None:
    verify(sign(url, "Aa"), b"A=a")


@pytest.mark.parametrize("secret", KEYS.secrets)
def test_both_tokens_count_during_a_rotation(secret: str) -> None:
    verify(sign(ADDRESS, "Aa", secret=secret), b"A=a")


def test_the_newer_algorithm_counts_where_the_request_names_it() -> None:
    named = "key=WK1,algorithm=HMAC_SHA256"

    verify(sign(ADDRESS, "Aa", algorithm="sha256"), b"A=a", x_twilio_webhooks_signature_settings=named)


def test_a_body_that_is_no_form_is_signed_by_its_hash_in_the_query() -> None:
    query = f"bodySHA256={sha256(b'{}').hexdigest()}"

    verify(sign(f"{ADDRESS}?{query}"), b"{}", query=query, content_type="application/json")
    with pytest.raises(UnauthorizedError):
        verify(sign(f"{ADDRESS}?{query}"), b"[]", query=query, content_type="application/json")


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "ñ",
        sign(ADDRESS),
        sign(ADDRESS, "Aa", secret=""),
        sign(ADDRESS, "Aa", secret="another"),
        sign(ADDRESS, "Aa", algorithm="sha256"),
        sign(ADDRESS.replace("https", "http"), "Aa"),
        sign(f"{ADDRESS}?x=1", "Aa"),
    ],
)
def test_a_wrong_signature_is_refused(signature: str) -> None:
    with pytest.raises(UnauthorizedError):
        verify(signature, b"A=a")


@pytest.mark.parametrize("named", ["key=WK1,algorithm=HMAC_MD5", "key=WK1,algorithm=none"])
def test_an_algorithm_nobody_documented_is_refused(named: str) -> None:
    with pytest.raises(UnauthorizedError):
        verify(sign(ADDRESS, "Aa"), b"A=a", x_twilio_webhooks_signature_settings=named)


def test_a_form_of_countless_parameters_is_refused_unread() -> None:
    with pytest.raises(UnauthorizedError):
        verify(sign(ADDRESS, "a"), b"a&" * 20_000)


# What posts become


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_post_becomes_its_events(case: Path) -> None:
    recorded = json.loads(case.read_text())

    found = parse(recorded["form"], recorded.get("query"))

    keys = ("account", "number", "field", "error", "events")
    assert [{key: one[key] for key in keys if key in one} for one in found] == recorded["payloads"]
    assert [one["payload"] for one in found] == [recorded["form"]]


def test_a_post_that_comes_again_is_the_same_delivery() -> None:
    first, again, other = (parse(b"MessageSid=SM1&Body=" + word)[0] for word in (b"a", b"a", b"b"))

    assert first["delivery_id"] == again["delivery_id"] != other["delivery_id"]


def test_characters_that_jsonb_refuses_are_replaced() -> None:
    body = b"MessageSid=SM1&From=whatsapp%3A%2B12025550143&Body=a%00b%ff%ed%a0%80"

    (payload,) = parse(body)

    assert payload["events"][0]["text"].startswith("a\ufffdb\ufffd")


@pytest.mark.parametrize("body", [b"", b"&&", b"a&" * 20_000])
def test_a_body_that_is_no_form_is_kept_as_bytes(body: bytes) -> None:
    (payload,) = twilio.parse(body, received_at=NOW, keys=KEYS)

    assert (payload.raw, payload.payload, payload.events) == (body, None, ())
    assert payload.error
