"""Meta's Graph API about accounts: tokens from their issue to their end, and the numbers they open."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shared.accounts.base import AccountSettings, Answer, Api, without
from shared.errors import (
    BadRequestError,
    ForbiddenError,
    RecadoError,
    TokenRefusedError,
    UnavailableError,
    UpstreamError,
)
from shared.events import JsonObject
from shared.senders.settings import GraphSettings
from shared.settings import Setting
from shared.shapes import count, listing, mapping, phone, text, unix_time

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

_NUMBER_FIELDS = (
    "id,display_phone_number,verified_name,quality_rating,is_on_biz_app,platform_type,"
    "whatsapp_business_manager_messaging_limit"
)
_QUALITIES = frozenset({"GREEN", "YELLOW", "RED"})
_THOUSANDS = {"1K": 1_000, "2K": 2_000, "10K": 10_000, "100K": 100_000}

# https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
ERRORS: Mapping[int, type[RecadoError]] = {
    **dict.fromkeys((0, 190), TokenRefusedError),
    **dict.fromkeys((3, 10, 368, 131005, 131031, *range(200, 300)), ForbiddenError),
    **dict.fromkeys(
        (1, 2, 4, 613, 80007, 80008, 131000, 131016, 131057, 133004, 133016, 135000), UnavailableError
    ),
    **dict.fromkeys((33, 100, 133005, 133006, 133008, 133009, 133015), BadRequestError),
}
_HINTS: Mapping[int, str] = {
    10: "Give the token whatsapp_business_management and whatsapp_business_messaging for this account.",
    100: "Check phone_number_id and waba_id, and that the token was made for this account.",
    133005: "The pin is not the number's: use the one of its two-step verification, or reset that in Meta.",
    133016: "Meta allows ten registrations in three days; wait, and do not repeat it.",
}


class MetaSettings(GraphSettings, AccountSettings):
    meta_app_id = Setting("id of the Meta app that numbers are connected to")
    meta_app_secret = Setting("secret of that app; two, separated by a comma, during a rotation")


@dataclass(frozen=True, slots=True)
class Issued:
    """A token as Meta hands it out."""

    token: str = field(repr=False)
    seconds: int | None = None  # until it expires; None: Meta does not say


@dataclass(frozen=True, kw_only=True)
class TokenState:
    """What Meta says about a token. `expires_at` None: never."""

    is_valid: bool
    app_id: str | None = None
    scopes: frozenset[str] = frozenset()
    issued_at: datetime | None = None
    expires_at: datetime | None = None


class Meta:
    """One for each process."""

    def __init__(self, settings: MetaSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        url = f"{settings.graph_url.rstrip('/')}/{settings.graph_version}"
        self._api = Api(url, settings.accounts_seconds, judge, transport)

    @property
    def app_id(self) -> str:
        return self._settings.meta_app_id

    # tokens

    async def exchange(self, code: str) -> Issued:
        """The token for the code of an embedded sign-up. A code is good once, and not for long."""
        try:
            query = {**self._app, "code": code}
            return _issued(await self._ask("oauth/access_token", code, query, once=True))
        except BadRequestError as exc:
            raise BadRequestError(
                "Meta does not accept this code.", hint="It is good once, for minutes: sign up again."
            ) from exc

    async def refresh(self, token: str) -> Issued:
        """Another token for the same account, for sixty days. The one given stays good until its own end."""
        query = {
            **self._app,
            "grant_type": "fb_exchange_token",
            "set_token_expires_in_60_days": "true",
            "fb_exchange_token": token,
        }
        return _issued(await self._ask("oauth/access_token", token, query))

    async def revoke(self, token: str) -> None:
        """Over for good. One that is over already is fine."""
        query = {**self._app, "revoke_token": token, "access_token": self._app_token}
        with suppress(TokenRefusedError):
            await self._ask("oauth/revoke", token, query)

    async def debug(self, token: str) -> TokenState:
        try:
            query = {"input_token": token, "access_token": self._app_token}
            answer = await self._ask("debug_token", token, query)
        except TokenRefusedError as exc:  # not the token asked about: that one would be told as invalid
            raise UpstreamError(
                "Meta does not know this installation's app.", hint="Check META_APP_ID and META_APP_SECRET."
            ) from exc
        data = mapping(answer.get("data"))
        expires = count(data.get("expires_at"))
        return TokenState(
            is_valid=data.get("is_valid") is True,
            app_id=text(data.get("app_id")),
            scopes=frozenset(one for one in listing(data.get("scopes")) if isinstance(one, str)),
            issued_at=unix_time(data.get("issued_at")),
            expires_at=unix_time(expires) if expires else None,
        )

    # numbers

    async def number(self, token: str, number_id: str) -> JsonObject:
        """Its part of what channel_connect takes."""
        answer = await self._get(token, number_id, fields=_NUMBER_FIELDS)
        digits = phone("".join(filter(str.isdecimal, text(answer.get("display_phone_number")) or "")))
        if text(answer.get("id")) != number_id or digits is None:
            raise UpstreamError("Meta did not say which number that is.", hint="Try again later.")
        quality = text(answer.get("quality_rating"))
        return {
            "provider": "cloud_api",
            "provider_number_id": number_id,
            "phone_number": digits,
            "display_name": text(answer.get("verified_name")),
            "quality_rating": quality if quality in _QUALITIES else "UNKNOWN",
            "messaging_limit": limit(answer.get("whatsapp_business_manager_messaging_limit")),
            "is_coexistence": answer.get("is_on_biz_app") is True,
        }

    async def numbers_of(self, token: str, waba_id: str) -> list[str]:
        """The ids of a WABA's numbers."""
        answer = await self._get(token, f"{waba_id}/phone_numbers", fields="id", limit="200")
        return [found for one in listing(answer.get("data")) if (found := text(mapping(one).get("id")))]

    async def subscribe(self, token: str, waba_id: str) -> None:
        """From now on this app's webhook gets what happens in the account."""
        await self._post(token, f"{waba_id}/subscribed_apps", {})

    async def register(self, token: str, number_id: str, pin: str) -> None:
        """Ready to send. Not repeated when the answer is lost: Meta counts."""
        body = {"messaging_product": "whatsapp", "pin": pin}
        await self._post(token, f"{number_id}/register", body, once=True)

    async def sync_app(self, token: str, number_id: str, sync_type: str) -> None:
        """Ask the Business app for its contacts or history. Meta takes each once."""
        body = {"messaging_product": "whatsapp", "sync_type": sync_type}
        await self._post(token, f"{number_id}/smb_app_data", body, once=True)

    async def _ask(
        self, path: str, token: str, query: Mapping[str, str], *, once: bool = False
    ) -> JsonObject:
        """As the app."""
        return await self._api.call("GET", path, hide=(token, self._secret), once=once, params=query)

    async def _get(self, token: str, path: str, **query: str) -> JsonObject:
        return await self._api.call("GET", path, hide=(token,), params=query, headers=_bearer(token))

    async def _post(self, token: str, path: str, body: JsonObject, *, once: bool = False) -> None:
        answer = await self._api.call(
            "POST", path, hide=(token,), once=once, json=body, headers=_bearer(token)
        )
        if answer.get("success") is not True and not answer.get("request_id"):
            raise UpstreamError("Meta did not say that it is done.", hint="Try again later.")

    @property
    def _app(self) -> dict[str, str]:
        return {"client_id": self.app_id, "client_secret": self._secret}

    @property
    def _app_token(self) -> str:
        return f"{self.app_id}|{self._secret}"

    @property
    def _secret(self) -> str:
        return self._settings.meta_app_secret.split(",")[0].strip()


def limit(value: Any) -> int | None:
    """Customers a day; None: as many as one likes, or nobody knows. TIER_250, TIER_2K, …, TIER_UNLIMITED."""
    tier = (text(value) or "").removeprefix("TIER_")
    return _THOUSANDS.get(tier) or count(tier, 9) or None


def reaction(code: int, status: int) -> type[RecadoError]:
    """A code nobody knows is Meta's trouble when it says so itself."""
    return ERRORS.get(code) or (UnavailableError if status >= 500 else BadRequestError)


def judge(answer: Answer, secrets: Sequence[str]) -> JsonObject:
    """What was asked for, or the error it means."""
    error = mapping(answer.body.get("error"))
    if not error and answer.is_success:
        return answer.body
    code, subcode = count(error.get("code"), 9) or 0, count(error.get("error_subcode"), 9)
    log.warning("meta refuses", extra={"action": "account", "error_code": code, "subcode": subcode})
    kind = reaction(code, answer.status)
    if kind is TokenRefusedError:  # its words may quote the token
        raise TokenRefusedError(hint="Make a new one for this account, and connect again.")
    words = without(text(error.get("message")) or f"it answered {answer.status}.", secrets)
    raise kind(f"Meta refuses: {words}", hint=_HINTS.get(10 if kind is ForbiddenError else code))


def _issued(body: JsonObject) -> Issued:
    token = text(body.get("access_token"))
    if token is None:
        raise UpstreamError("Meta issued no token.", hint="Try again later.")
    return Issued(token, count(body.get("expires_in")))


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
