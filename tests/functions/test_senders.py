"""What holds for every provider: what leaves, what never does, and what is known when the network fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from shared.errors import MissingSettingError
from shared.options import is_safe_url
from shared.senders import http
from shared.senders.base import Capability, Credentials, Message
from shared.senders.gestures import Inbound
from shared.senders.registry import SENDERS, senders
from shared.senders.settings import SenderSettings
from tests.functions.provider import MAY_HAVE_ARRIVED, NEVER_LEFT, Provider, sending, within

MESSAGE = Message(
    id="our-id",
    sender="100",
    number_id="our-number",
    account_id="AC1",
    phone_number="576015550100",
    phone="573001112233",
    content="Hola",
)

every_provider = pytest.mark.parametrize("provider", SENDERS)


def made(provider: str, transport: httpx.AsyncBaseTransport) -> Any:
    return SENDERS[provider](SenderSettings({}), transport)


@every_provider
@pytest.mark.parametrize("trouble", NEVER_LEFT)
def test_what_never_left_is_sent_again(provider: str, trouble: type[httpx.HTTPError]) -> None:
    assert sending(made(provider, Provider(trouble=trouble("gone"))), MESSAGE).outcome == "retry"


@every_provider
@pytest.mark.parametrize("trouble", MAY_HAVE_ARRIVED)
def test_what_may_have_arrived_is_unknown(provider: str, trouble: type[httpx.HTTPError]) -> None:
    assert sending(made(provider, Provider(trouble=trouble("gone"))), MESSAGE).outcome == "unknown"


@every_provider
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, b'{"messages": [{"i'),
        (200, b'{"sid": "SM1'),
        (200, b"[" * 100_000),
        (200, b"\xff\xfe"),
        (200, []),
        (200, {}),
        (200, {"messages": [], "message": None, "sid": None, "sent": "yes"}),
        (500, b""),
        (502, b"<html>"),
        (503, {"error": "no object"}),
        (503, {"error": {"message": "upstream connect error"}}),
        (504, b""),
    ],
)
def test_an_answer_without_sense_is_unknown(provider: str, status: int, body: Any) -> None:
    assert sending(made(provider, Provider(status, body)), MESSAGE).outcome == "unknown"


@every_provider
@pytest.mark.parametrize(
    ("status", "outcome"), [(429, "slow_number"), (403, "retry"), (404, "retry"), (407, "retry")]
)
def test_a_refusal_of_something_in_between_is_tried_again(provider: str, status: int, outcome: str) -> None:
    result = sending(made(provider, Provider(status, b"<html>", retry_after="3")), MESSAGE)

    assert (result.outcome, result.retry_after_seconds) == (outcome, 3)


@every_provider
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(provider: str, status: int) -> None:
    transport = Provider(status, location="https://elsewhere.example/")

    assert sending(made(provider, transport), MESSAGE).outcome == "retry"
    assert len(transport.asked) == 1


@every_provider
@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("7", 7),
        ("999999", 86400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 86400),
        ("soon", None),
        ("-5", None),
    ],
)
def test_a_time_to_come_back_is_kept_within_a_day(provider: str, told: str, seconds: float | None) -> None:
    result = sending(made(provider, Provider(429, retry_after=told)), MESSAGE)

    assert result.retry_after_seconds == seconds


@every_provider
def test_an_answer_that_never_ends_is_given_up(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.01)

    class Endless(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError

    quick = SenderSettings({f"{name}_SECONDS": "0.01" for name in ("GRAPH", "WHAPI", "TWILIO")})

    assert sending(SENDERS[provider](quick, Endless()), MESSAGE).outcome == "unknown"


@every_provider
@pytest.mark.parametrize(
    "changes",
    [
        {"content": ""},
        {"content": " \n"},
        {"content": None},
        {"content": "x" * 4097},
        {"type": "smoke_signal"},
        {"type": "image", "data": {}},
        {"type": "image", "data": {"media": {"id": "1", "link": "https://files.example/a.jpg"}}},
        {"type": "image", "data": {"media": {"link": "http://files.example/a.jpg"}}},
        {"type": "image", "data": {"media": {"link": "file:///etc/passwd"}}},
        {"type": "image", "content": "x" * 1025, "data": {"media": {"link": "https://files.example/a.jpg"}}},
        {"type": "audio", "data": {"media": {"link": "https://files.example/a.ogg"}}},
        {"type": "sticker", "data": {"media": {"link": "https://files.example/a.webp"}}},
        {"type": "template", "data": {}},
        {"type": "template", "data": {"template": {"name": "order_ready"}}},
        {"type": "reaction", "data": {"emoji": "👍"}},
        {"type": "interactive", "data": {}},
        {"type": "interactive", "data": {"interactive": "button"}},
        {"phone": None},
    ],
)
def test_what_cannot_be_sent_never_leaves(provider: str, changes: dict[str, Any]) -> None:
    transport = Provider()

    result = sending(made(provider, transport), replace(MESSAGE, **changes))

    assert (result.outcome, transport.asked) == ("invalid", [])
    assert result.error_message


# For each capability, a message that needs it.
NEEDS: dict[Capability, dict[str, Any]] = {
    "templates": {
        "type": "template",
        "data": {"template": {"name": "cita", "language": "es", "provider_template_id": "HX1"}},
    },
    "media_by_id": {"type": "image", "data": {"media": {"id": "77"}}},
    "interactive": {
        "type": "interactive",
        "data": {"interactive": {"type": "button", "action": {"buttons": [{"reply": {"id": "yes"}}]}}},
    },
    "reactions": {"type": "reaction", "data": {"target": "wamid.7", "emoji": "👍"}},
}


@every_provider
@pytest.mark.parametrize("capability", NEEDS)
def test_a_provider_sends_what_it_says_it_can(provider: str, capability: Capability) -> None:
    transport = Provider()

    sending(made(provider, transport), replace(MESSAGE, **NEEDS[capability]))

    assert bool(transport.asked) == (capability in SENDERS[provider].capabilities)


@every_provider
def test_a_provider_shows_what_it_says_it_can(provider: str) -> None:
    sender = SENDERS[provider]

    for gesture in ("mark_read", "typing"):
        assert hasattr(sender, gesture) == (gesture in sender.capabilities)


@every_provider
@pytest.mark.parametrize(("capability", "sign"), [("quotes", "wamid.0"), ("reference", "our-id")])
def test_what_a_provider_takes_along_is_in_the_request(provider: str, capability: str, sign: str) -> None:
    transport = Provider()
    settings = SenderSettings({"FUNCTIONS_URL": "https://crm.example"})

    sending(SENDERS[provider](settings, transport), replace(MESSAGE, reply_to="wamid.0"))

    assert (sign in transport.only.content.decode()) == (capability in SENDERS[provider].capabilities)


@every_provider
@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "cláve"])
def test_a_damaged_token_stops_the_number_and_is_not_shown(provider: str, token: str) -> None:
    transport = Provider()

    result = sending(made(provider, transport), MESSAGE, Credentials(token))

    assert (result.outcome, transport.asked) == ("stop_channel", [])
    assert "connect" in (result.error_message or "")
    assert not token or token not in repr((result, Credentials(token)))


@every_provider
def test_what_a_provider_says_can_be_stored(provider: str) -> None:
    words = rb'"\u0000 \ud800"'
    error = b'{"code": 1, "message": ' + words + b"}"
    body = b'{"error": ' + error + b', "code": 1, "message": ' + words + b"}"

    result = sending(made(provider, Provider(400, body)), MESSAGE)

    assert result.error_code == 1
    assert (result.error_message or "").encode().count(b"\0") == 0


@every_provider
def test_a_provider_that_repeats_the_token_does_not_spread_it(provider: str) -> None:
    error = {"code": 20003, "message": "Malformed access token the-token"}

    result = sending(made(provider, Provider(401, {"error": error, **error})), MESSAGE)

    assert result.error_message == "Malformed access token [token]"


@pytest.mark.parametrize("name", ["GRAPH_URL", "WHAPI_URL", "TWILIO_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "http://graph.example",
        "ftp://graph.example",
        "graph.example",
        "https://",
        "https://user:secret@graph.example",
        "https://graph.example?token=1",
        "https://graph.example#top",
        "http://127.0.0.1.graph.example",
        "https://[graph",
    ],
)
def test_a_token_is_only_sent_where_nobody_reads_it_on_the_way(name: str, url: str) -> None:
    with pytest.raises(MissingSettingError, match=name) as refusal:
        senders(SenderSettings({name: url}))

    assert "secret@" not in str(refusal.value)


@pytest.mark.parametrize("url", ["https://graph.example/x", "http://127.0.0.1:24321/graph", "http://[::1]:1"])
def test_this_machine_needs_no_https(url: str) -> None:
    assert is_safe_url(url)


@every_provider
@pytest.mark.parametrize("broken", [Provider(500), Provider(trouble=httpx.ReadTimeout("late"))])
def test_typing_never_fails_anything(provider: str, broken: Provider) -> None:
    gesture: Callable[..., Any] = made(provider, broken).typing
    inbound = Inbound(id="wamid.1", sender="100")

    assert within(gesture(inbound, Credentials("the-token"))) is False
