"""Sending through Meta's Graph API, and what its errors mean for a message that was sent by it.

A request is refused for certain when nothing was sent, or when Graph says so in its own words. Whatever else
goes wrong, nobody knows whether the customer got the message: it is `unknown`, never sent again by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from shared.errors import AnswerLostError, UnreachableError, UpstreamError, http_errors
from shared.events import JsonObject
from shared.options import Number, Option
from shared.settings import Settings
from shared.shapes import count, listing, mapping, text

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
MINUTE, HOUR, DAY = 60, 3600, 86400

Outcome = Literal[
    "sent",
    "unknown",  # a status webhook may still tell
    "retry",
    "slow_number",
    "slow_pair",
    "needs_template",
    "opted_out",
    "invalid",
    "stop_channel",
]


class GraphSettings(Settings):
    graph_url = Option("where Meta's Graph API is", "https://graph.facebook.com")
    graph_version = Option("version of Meta's Graph API", "v26.0")
    graph_seconds = Number("how long Meta may take to accept a message", 20)


@dataclass(frozen=True, kw_only=True)
class Message:
    """To a phone, else to a business-scoped id. Our own `id` comes back in statuses."""

    id: str
    sender: str  # phone_number_id
    phone: str | None = None
    bsuid: str | None = None
    type: str = "text"
    content: str | None = None
    reply_to: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    outcome: Outcome
    wa_message_id: str | None = None
    error_code: int | None = None
    error_message: str | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Reaction:
    """What an error means for the message, and how long to wait when Meta names no time itself."""

    outcome: Outcome
    pause: int | None = None


_RETRY = Reaction("retry")
_INVALID = Reaction("invalid")
_STOP = Reaction("stop_channel")

# https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
REACTIONS: Mapping[int, Reaction] = {
    **dict.fromkeys((1, 2, 131000, 131016, 135000), _RETRY),  # an outage, as they come
    131057: Reaction("retry", 90),  # maintenance, a minute or two
    132069: Reaction("retry", HOUR),  # a Flow, ten an hour
    130429: Reaction("slow_number"),
    **dict.fromkeys((4, 613, 80007), Reaction("slow_number", MINUTE)),
    **dict.fromkeys((131064, 133016), Reaction("slow_number", HOUR)),  # lifted by itself, later
    131056: Reaction("slow_pair"),
    131047: Reaction("needs_template"),
    131050: Reaction("opted_out"),
    # the token, its rights, the account or its payment: no message of this number will get through
    **dict.fromkeys((0, 3, 10, 190, 368, 131005, 131031, 131042, 131045, 133010), _STOP),
    **dict.fromkeys(range(200, 300), _STOP),
    # this message is wrong or cannot reach this customer; the next one may
    **dict.fromkeys((33, 100, 131008, 131009, 131021, 131051, 131052, 131053, 131062, 137000), _INVALID),
    **dict.fromkeys((130403, 130472, 130497, 131026, 131030, 131037, 131048, 131049, 131063), _INVALID),
    **dict.fromkeys((132000, 132001, 132005, 132007, 132008, 132012, 132015, 132016, 132068), _INVALID),
}
_NO_SUCH_NUMBER = 33  # as a subcode: the number is gone, or the token has no right to it


class Graph:
    """One for each process."""

    def __init__(self, settings: GraphSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._transport = transport

    async def send(self, message: Message, token: str) -> Result:
        """Never raises for anything that Meta or the network does."""
        body = body_of(message)
        if body is None:
            return Result(outcome="invalid", error_message=f"A {message.type} message cannot be sent.")
        try:
            with http_errors():
                response = await self._http.post(
                    f"{self._settings.graph_version}/{message.sender}/messages",
                    content=json.dumps(body).encode(),
                    headers={"authorization": f"Bearer {token}"},
                )
        except UnreachableError:
            return Result(outcome="retry", error_message="Meta could not be reached.")
        except (AnswerLostError, UpstreamError):
            return Result(outcome="unknown", error_message="Meta's answer was lost.")
        return read(response)

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(
            base_url=self._settings.graph_url.rstrip("/") + "/",
            headers={"content-type": "application/json"},
            timeout=httpx.Timeout(self._settings.graph_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=50),
            transport=self._transport,
        )


def body_of(message: Message) -> JsonObject | None:
    """None: there is nothing that could be sent, or nobody to send it to."""
    address = {"to": message.phone} if message.phone else {"recipient": message.bsuid}
    if message.type != "text" or not message.content or not any(address.values()):
        return None
    return {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        **address,
        "type": "text",
        "text": {"body": message.content, "preview_url": "://" in message.content},
        **({"context": {"message_id": message.reply_to}} if message.reply_to else {}),
        "biz_opaque_callback_data": message.id,
    }


def read(response: httpx.Response) -> Result:
    try:
        body = mapping(json.loads(response.content))
    except ValueError:
        body = {}
    if isinstance(body.get("error"), dict):
        return _refused(body["error"], response)
    if response.is_success:
        sent = text(mapping(next(iter(listing(body.get("messages"))), None)).get("id"))
        if sent:
            return Result(outcome="sent", wa_message_id=sent)
    if response.is_success or response.status_code >= 500:
        return Result(outcome="unknown", error_message=f"Meta answered {response.status_code} with no sense.")
    outcome: Outcome = "slow_number" if response.status_code == 429 else "retry"
    result = Result(outcome=outcome, error_message=f"Meta answered {response.status_code}.")
    return replace(result, retry_after_seconds=_retry_after(response))


def reaction(code: int, status: int) -> Reaction:
    """Codes come without notice; a new one is an outage if Meta says it is its own fault."""
    return REACTIONS.get(code) or (_RETRY if status >= 500 else _INVALID)


def _refused(error: JsonObject, response: httpx.Response) -> Result:
    code = count(error.get("code"), 9)
    is_gone = error.get("error_subcode") == _NO_SUCH_NUMBER
    found = _STOP if is_gone else reaction(code or 0, response.status_code)
    return Result(
        outcome=found.outcome,
        error_code=code,
        error_message=_words(error),
        retry_after_seconds=_retry_after(response) or found.pause,
    )


def _words(error: Mapping[str, Any]) -> str:
    """The details say what the message only names."""
    title = text(error.get("message")) or "Meta refused the message."
    details = text(mapping(error.get("error_data")).get("details"))
    return (f"{title}: {details}" if details and details not in title else title)[:500]


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds; nobody is made to wait longer than a day."""
    seconds = count(response.headers.get("retry-after"), 9)
    return None if seconds is None else float(min(seconds, DAY))
