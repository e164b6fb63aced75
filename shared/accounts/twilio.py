"""Connecting a WhatsApp sender of Twilio: {"account_sid", "auth_token", "sender"}.

The auth token opens the account and signs its webhooks; Twilio's own list says whose a sender is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.accounts.base import AccountSettings, Answer, Api, Made, Proof, Setup, ident, secret, without
from shared.errors import BadRequestError, ForbiddenError, RecadoError, TokenRefusedError, UnavailableError
from shared.events import JsonObject
from shared.senders.settings import TwilioSettings
from shared.shapes import listing, mapping, phone, text

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

SANDBOX = "14155238886"

ERRORS: Mapping[int, type[RecadoError]] = {
    401: TokenRefusedError,
    403: ForbiddenError,
    404: TokenRefusedError,  # no such account
}


class SenderAccountSettings(TwilioSettings, AccountSettings):
    """What is needed to ask."""


class TwilioSenders:
    def __init__(
        self, settings: SenderAccountSettings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._accounts = Api(settings.twilio_url, settings.accounts_seconds, judge, transport)
        # the senders have a host of their own, in every region
        messaging = settings.twilio_url.replace("://api.", "://messaging.", 1)
        self._messaging = Api(messaging, settings.accounts_seconds, judge, transport)

    async def prove(self, wanted: JsonObject) -> Proof:
        account = ident(wanted, "account_sid", "AC[0-9a-fA-F]{32}", "AC and 32 letters and digits")
        token, digits = secret(wanted, "auth_token"), _sender(wanted)
        found = await self._call(self._accounts, "GET", f"2010-04-01/Accounts/{account}.json", account, token)
        if text(found.get("status")) != "active":
            raise ForbiddenError("This Twilio account is not active.", hint="Look at it in Twilio's console.")
        sender = await self._sender_of(account, token, f"whatsapp:+{digits}")
        number: JsonObject = {
            "provider": "twilio",
            "provider_number_id": f"whatsapp:+{digits}",
            "phone_number": digits,
            "account_id": account,
            "display_name": text(mapping(sender.get("profile")).get("name")),
        }
        return Proof(number=number, token=token, extra=text(sender.get("sid")))

    def webhook_path(self, number_id: str) -> str:
        return f"twilio/{number_id}"

    async def set_up(self, proof: Proof, made: Made) -> Setup:
        """Where the API does not let us, a person enters the address."""
        account = str(proof.number["account_id"])
        try:
            sid = ident({"sid": proof.extra}, "sid", "XE[0-9a-fA-F]{32}", "XE and 32 letters and digits")
            webhook = {
                "callback_url": made.webhook_url,
                "callback_method": "POST",
                "status_callback_url": made.webhook_url,
                "status_callback_method": "POST",
            }
            await self._call(
                self._messaging,
                "POST",
                f"v2/Channels/Senders/{sid}",
                account,
                proof.token,
                json={"webhook": webhook},
            )
        except UnavailableError:
            raise
        except RecadoError:
            return Setup(next_step=f"Enter {made.webhook_url} as the sender's webhook in Twilio's console.")
        return Setup()

    async def _sender_of(self, account: str, token: str, sender: str) -> JsonObject:
        """The account's own sender of that number, which must be online."""
        query = {"Channel": "whatsapp", "PageSize": "500"}
        answer = await self._call(self._messaging, "GET", "v2/Channels/Senders", account, token, params=query)
        for one in map(mapping, listing(answer.get("senders"))):
            if one.get("sender_id") == sender and str(one.get("status", "")).startswith("ONLINE"):
                return one
        raise BadRequestError(
            "This sender is not an active WhatsApp sender of that Twilio account.",
            hint="Compare it with Messaging > Senders > WhatsApp senders in Twilio's console.",
        )

    async def _call(
        self, api: Api, method: str, path: str, account: str, token: str, **request: Any
    ) -> JsonObject:
        return await api.call(method, path, hide=(token,), auth=(account, token), **request)


def _sender(wanted: JsonObject) -> str:
    """`whatsapp:+57…`, `+57…` or the digits alone."""
    given = wanted.get("sender")
    digits = phone(given.strip().removeprefix("whatsapp:")) if isinstance(given, str) else None
    if digits is None:
        raise BadRequestError("sender is missing or wrong.", hint="It looks like whatsapp:+573001112233.")
    if digits == SANDBOX:
        raise BadRequestError(
            "Twilio's sandbox is everybody's number and cannot be connected.", hint="Use a sender of yours."
        )
    return digits


def judge(answer: Answer, secrets: Sequence[str]) -> JsonObject:
    """What was asked for, or the error it means."""
    if answer.is_success:
        return answer.body
    log.warning("twilio refuses", extra={"action": "account", "error_code": answer.body.get("code")})
    kind = ERRORS.get(answer.status, BadRequestError)
    if kind is TokenRefusedError:
        raise TokenRefusedError(hint="Copy account SID and auth token from Twilio's console.")
    words = without(text(answer.body.get("message")) or f"it answered {answer.status}.", secrets)
    raise kind(f"Twilio refuses: {words}")
