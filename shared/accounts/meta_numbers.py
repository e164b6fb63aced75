"""Connecting a number of Meta's Cloud API: {"phone_number_id", "waba_id", "token" | "code", "pin"?}."""

from __future__ import annotations

import asyncio

from shared.accounts.base import Made, Proof, Setup, ident, secret
from shared.accounts.meta import Meta, TokenState
from shared.errors import BadRequestError, ForbiddenError, TokenRefusedError
from shared.events import JsonObject

SCOPES = ("whatsapp_business_management", "whatsapp_business_messaging")
# in this order: the history's names come from the contacts
SYNCS = ("smb_app_state_sync", "history")

_ID = r"\d{1,32}"


class MetaNumbers:
    def __init__(self, meta: Meta) -> None:
        self._meta = meta

    async def prove(self, wanted: JsonObject) -> Proof:
        """Meta must say that the token is our app's and may do all we need, and that its account has it."""
        number_id = ident(wanted, "phone_number_id", _ID, "106540352242922")
        waba_id = ident(wanted, "waba_id", _ID, "102290129340398")
        pin = ident(wanted, "pin", r"\d{6}", "123456") if wanted.get("pin") else None
        token = await self._token(wanted)
        state = await self._meta.debug(token)
        _check(state, self._meta.app_id)
        number, of_account = await asyncio.gather(
            self._meta.number(token, number_id), self._meta.numbers_of(token, waba_id)
        )
        if number_id not in of_account:
            raise BadRequestError(
                "This number is not in that WhatsApp account.", hint="Check phone_number_id and waba_id."
            )
        return Proof(
            number={**number, "waba_id": waba_id},
            token=token,
            issued_at=state.issued_at,
            expires_at=state.expires_at,
            extra=pin,
        )

    def webhook_path(self, number_id: str) -> str:
        """One for the whole app: entered in Meta's dashboard, once."""
        return "cloud-api"

    async def set_up(self, proof: Proof, made: Made) -> Setup:
        number_id, token = str(proof.number["provider_number_id"]), proof.token
        await self._meta.subscribe(token, str(proof.number["waba_id"]))
        if proof.extra and not proof.number["is_coexistence"]:  # the app has registered those
            await self._meta.register(token, number_id, proof.extra)
        if made.needs_sync:
            for sync in SYNCS:
                await self._meta.sync_app(token, number_id, sync)
        return Setup(is_synced=made.needs_sync)

    async def _token(self, wanted: JsonObject) -> str:
        if wanted.get("token") and wanted.get("code"):
            raise BadRequestError("There are both token and code.", hint="Send one of them.")
        if wanted.get("code"):
            return (await self._meta.exchange(secret(wanted, "code"))).token
        return secret(wanted, "token")


def _check(state: TokenState, app_id: str) -> None:
    if not state.is_valid:
        raise TokenRefusedError(hint="Make a new one for this account, and connect again.")
    if state.app_id != app_id:
        raise ForbiddenError(
            "This token was made for another Meta app.", hint="Make one with the app of this installation."
        )
    if missing := [scope for scope in SCOPES if scope not in state.scopes]:
        raise ForbiddenError("This token may not do all that is needed.", hint=f"Add {', '.join(missing)}.")
