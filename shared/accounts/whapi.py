"""Connecting a channel of Whapi: {"token"}. A token is a channel's own, so it proves whose the number is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.accounts.base import AccountSettings, Answer, Api, Made, Proof, Setup, secret, without
from shared.errors import (
    BadRequestError,
    ConflictError,
    ForbiddenError,
    RecadoError,
    TokenRefusedError,
    UpstreamError,
)
from shared.events import JsonObject
from shared.senders.settings import WhapiSettings
from shared.shapes import listing, mapping, phone, text

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

SECRET_HEADER = "X-Recado-Secret"  # noqa: S105
EVENTS = (
    *(("messages", method) for method in ("post", "put", "patch", "delete")),
    *(("statuses", method) for method in ("post", "put")),
    ("chats", "patch"),
    ("contacts", "patch"),
    ("channel", "post"),
    *(("users", method) for method in ("post", "delete")),
)

# of an answer about a channel; what is missing here is a mistake of ours
ERRORS: Mapping[int, type[RecadoError]] = {
    401: TokenRefusedError,
    403: TokenRefusedError,
    402: ForbiddenError,
    404: TokenRefusedError,  # no such channel any more
}


class ChannelSettings(WhapiSettings, AccountSettings):
    """What is needed to ask."""


class WhapiChannels:
    def __init__(self, settings: ChannelSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._api = Api(settings.whapi_url, settings.accounts_seconds, _judge, transport)

    async def prove(self, wanted: JsonObject) -> Proof:
        """The channel must be linked to a WhatsApp account right now."""
        token = secret(wanted, "token")
        health = await self._call("GET", "health?wakeup=false", token)
        state, user = text(mapping(health.get("status")).get("text")), mapping(health.get("user"))
        if state != "AUTH":
            raise ConflictError(
                "This channel is not linked to a WhatsApp account.",
                hint=f"Scan its QR code in Whapi, then connect again (it is in state {state or 'unknown'}).",
            )
        channel, digits = text(health.get("channel_id")), phone((text(user.get("id")) or "").split("@")[0])
        if channel is None or digits is None:
            raise UpstreamError("Whapi did not say which number that is.", hint="Try again later.")
        number: JsonObject = {
            "provider": "whapi",
            "provider_number_id": channel,
            "phone_number": digits,
            "display_name": text(user.get("name")),
        }
        return Proof(number=number, token=token)

    def webhook_path(self, number_id: str) -> str:
        return f"whapi/{number_id}"

    async def set_up(self, proof: Proof, made: Made) -> Setup:
        """Whoever else listens to the channel goes on listening."""
        now = await self._call("GET", "settings", proof.token)
        others = [one for one in listing(now.get("webhooks")) if mapping(one).get("url") != made.webhook_url]
        settings = {
            "webhooks": [*others, _webhook(made)],
            "callback_persist": True,  # what we could not take is kept
            "callback_backoff_delay_ms": 3_000,
            "max_callback_backoff_delay_ms": 900_000,
        }
        await self._call("PATCH", "settings", proof.token, settings)
        return Setup()

    async def _call(self, method: str, path: str, token: str, body: JsonObject | None = None) -> JsonObject:
        headers = {"authorization": f"Bearer {token}"}
        request: dict[str, Any] = {"headers": headers, **({"json": body} if body else {})}
        return await self._api.call(method, path, hide=(token,), **request)


def _webhook(made: Made) -> JsonObject:
    return {
        "url": made.webhook_url,
        "mode": "body",
        "events": [{"type": kind, "method": method} for kind, method in EVENTS],
        "headers": {SECRET_HEADER: made.webhook_secret},
    }


def _judge(answer: Answer, secrets: Sequence[str]) -> JsonObject:
    error = mapping(answer.body.get("error"))
    if answer.is_success and not error:
        return answer.body
    log.warning("whapi refuses", extra={"action": "account", "error_code": answer.status})
    kind = ERRORS.get(answer.status, BadRequestError)
    if kind is TokenRefusedError:
        raise TokenRefusedError(hint="Copy the token of the channel from Whapi, and connect again.")
    words = without(text(error.get("message")) or f"it answered {answer.status}.", secrets)
    raise kind(f"Whapi refuses: {words}")
