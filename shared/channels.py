"""Connecting a number: a person says which, its provider whose it is, our database whether they may."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from shared.accounts.base import Made, Proof, Provider, Setup
from shared.errors import BadRequestError, ForbiddenError, RecadoError, UnauthorizedError
from shared.events import JsonObject
from shared.shapes import mapping

log = logging.getLogger(__name__)

_JWT = re.compile(r"[\w.~+/=-]{1,8192}", re.ASCII)


class Database(Protocol):
    async def me(self, *, jwt: str) -> JsonObject | None: ...
    async def channel_connect(
        self,
        *,
        admin_id: str,
        number: JsonObject,
        token: str,
        issued_at: datetime | None,
        expires_at: datetime | None,
    ) -> JsonObject: ...
    async def channel_setup_settle(
        self, *, admin_id: str, number_id: str, webhook_url: str | None, problem: str | None, is_synced: bool
    ) -> None: ...


class Channels:
    """`webhook_url`: the public address of the function webhook."""

    def __init__(self, database: Database, providers: Mapping[str, Provider], webhook_url: str) -> None:
        self._database = database
        self._providers = providers
        self._webhook_url = webhook_url.rstrip("/")

    async def connect(self, authorization: str, wanted: JsonObject) -> JsonObject:
        """{"number_id", "number": what its provider says, "webhook_url", "next_step", "problem"}.

        The number is connected when this returns. `problem` says why it does not receive yet: then the same
        request again goes on where this one ended, as it also mends a channel that was stopped.
        """
        admin_id = await self._admin(authorization)
        provider = self._providers.get(str(wanted.get("provider")))
        if provider is None:
            raise BadRequestError(
                "provider is missing or unknown.", hint=f"Choose {', '.join(self._providers)}."
            )
        proof = await provider.prove(wanted)
        made = await self._take(admin_id, provider, proof)
        setup, problem = await self._set_up(admin_id, provider, proof, made)
        log.info("number connected", extra={"action": "connect", "number_id": made.number_id})
        return {
            "number_id": made.number_id,
            "number": proof.number,
            "webhook_url": made.webhook_url,
            "next_step": setup.next_step,
            "problem": problem,
        }

    async def _admin(self, authorization: str) -> str:
        """Who calls, as PostgREST reads their token."""
        scheme, _, jwt = authorization.partition(" ")
        if scheme.lower() != "bearer" or not _JWT.fullmatch(jwt.strip()):
            raise UnauthorizedError("Nobody is signed in.", hint="Send `Authorization: Bearer <token>`.")
        user = mapping((await self._database.me(jwt=jwt.strip()) or {}).get("user"))
        if user.get("role") != "admin":
            raise ForbiddenError(
                "Only an admin of the business may connect a number.", hint="Ask the owner or an admin."
            )
        return str(user["id"])

    async def _take(self, admin_id: str, provider: Provider, proof: Proof) -> Made:
        made = await self._database.channel_connect(
            admin_id=admin_id,
            number=proof.number,
            token=proof.token,
            issued_at=proof.issued_at,
            expires_at=proof.expires_at,
        )
        number_id = str(made["number_id"])
        return Made(
            number_id=number_id,
            webhook_url=f"{self._webhook_url}/{provider.webhook_path(number_id)}",
            webhook_secret=made["webhook_secret"],
            needs_sync=made["needs_sync"],
        )

    async def _set_up(
        self, admin_id: str, provider: Provider, proof: Proof, made: Made
    ) -> tuple[Setup, JsonObject | None]:
        try:
            setup, failed = await provider.set_up(proof, made), None
        except RecadoError as exc:
            log.warning("number not set up", extra={"action": "connect", "number_id": made.number_id})
            setup, failed = Setup(), exc
        await self._database.channel_setup_settle(
            admin_id=admin_id,
            number_id=made.number_id,
            webhook_url=None if failed else made.webhook_url,
            problem=failed.message if failed else None,
            is_synced=setup.is_synced,
        )
        return setup, failed.report if failed else None
