"""The platform's own Postgres: its clock, its numbers, and what the business knows about a customer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from local.events import log
from local.simulator.clock import Clock
from local.simulator.store import Store
from local.simulator.world import Contact, Number, World

Rows = list[dict[str, Any]]


class Database:
    """Everything here copes with a database that is away: the outside world has no need of ours."""

    def __init__(self, url: str) -> None:
        self.away = False
        self._pool = AsyncConnectionPool(
            url,
            connection_class=psycopg.AsyncConnection[dict[str, Any]],
            kwargs={"autocommit": True, "row_factory": dict_row, "application_name": "simulator"},
            min_size=1,
            max_size=4,
            timeout=2,
            reconnect_timeout=2,
            check=AsyncConnectionPool.check_connection,
            open=False,
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        await self._pool.open()
        try:
            yield
        finally:
            await self._pool.close(timeout=1)

    async def advance(self, seconds: float) -> None:
        """Move the platform's clock. Raises psycopg.Error when the database refuses or is away."""
        await self._rows("select local.clock_advance(make_interval(secs => %s))", float(seconds))

    async def follow(self, clock: Clock, store: Store) -> None:
        """Our clock goes with the platform's, whoever moves it; while the database is away it goes on."""
        found = await self._try("select extract(epoch from ahead)::float8 as ahead from local.clock")
        if found and found[0]["ahead"] != clock.ahead:
            clock.ahead = found[0]["ahead"]
            store.note("ahead", clock.ahead)

    async def learn_numbers(self, world: World) -> None:
        for row in await self._try(_NUMBERS):
            world.learn(Number(**row))

    async def business_side(self, contact: Contact) -> dict[str, Any]:
        """Each part on its own, as JSON of whatever columns there are: the schema may grow without us."""
        number = {"number": contact.number}
        owner = await self._one(_OWNER, number)
        if owner is None:
            return {"number": None}
        key = {**number, **owner, "phone": contact.phone, "bsuid": contact.bsuid, "lead": None, "chat": None}
        lead = await self._one(_LEAD, key)
        key["lead"] = lead["row"]["id"] if lead else None
        chat = await self._one(_CHAT, key)
        key["chat"] = chat["row"]["id"] if chat else None
        parts = {name: await self._many(statement, key) for name, statement in _PARTS.items()}
        return {
            "number": await self._row(_NUMBER, key),
            "lead": lead and lead["row"],
            "chat": chat and chat["row"],
            **{
                name: (rows[0] if rows else None) if name in _SINGLE else rows for name, rows in parts.items()
            },
        }

    async def wrote_at(self, contact: Contact) -> float | None:
        """When this customer last wrote to this number, as the business stored it."""
        key = {"number": contact.number, "phone": contact.phone, "bsuid": contact.bsuid}
        found = await self._one(_WROTE_AT, key)
        return found["at"] if found else None

    async def _row(self, statement: LiteralString, key: dict[str, Any]) -> Any:
        found = await self._one(statement, key)
        return found and found["row"]

    async def _many(self, statement: LiteralString, key: dict[str, Any]) -> list[Any]:
        return [row["row"] for row in await self._try(statement, key)]

    async def _one(self, statement: LiteralString, key: dict[str, Any]) -> dict[str, Any] | None:
        found = await self._try(statement, key)
        return found[0] if found else None

    async def _try(self, statement: LiteralString, key: dict[str, Any] | None = None) -> Rows:
        try:
            found = await self._rows(statement, key)
        except psycopg.OperationalError as exc:
            self._noticed(away=True, reason=type(exc).__name__)
            return []
        except psycopg.Error:  # a table or column that this schema does not have
            return []
        self._noticed(away=False)
        return found

    def _noticed(self, *, away: bool, reason: str = "") -> None:
        if away != self.away:
            self.away = away
            log("database away" if away else "database back", reason=reason)

    async def _rows(self, statement: LiteralString, values: Any = None) -> Rows:
        if isinstance(values, float):
            values = [values]
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement, values)).fetchall()


_NUMBERS: LiteralString = """
    select n.provider_number_id as number, n.phone_number as phone, n.display_name as name, n.provider,
        coalesce(n.waba_id, n.account_id, '') as account, n.id::text as id,
        coalesce(v.decrypted_secret, '') as secret
    from public.whatsapp_numbers n
    left join public.channel_secrets s
        on s.tenant_id = n.tenant_id and s.number_id = n.id and s.kind = 'webhook_secret'
    left join vault.decrypted_secrets v on v.id = s.secret_id
    where n.is_active"""
_OWNER: LiteralString = """
    select n.tenant_id, n.id as number_id from public.whatsapp_numbers n
    where n.provider_number_id = %(number)s and n.is_active limit 1"""
_NUMBER: LiteralString = """
    select to_jsonb(n) || jsonb_build_object('business', s.business_name) as row
    from public.whatsapp_numbers n join public.tenant_settings s on s.tenant_id = n.tenant_id
    where n.tenant_id = %(tenant_id)s and n.id = %(number_id)s"""
_WROTE_AT: LiteralString = """
    select extract(epoch from max(m.provider_at))::float8 as at
    from public.whatsapp_numbers n
    join public.lead_identities i on i.tenant_id = n.tenant_id and i.valid_to = 'infinity'
        and (i.kind = 'phone' and i.value = %(phone)s::text
            or i.kind in ('bsuid', 'chat_id') and i.value = %(bsuid)s::text)
    join public.messages m on m.tenant_id = i.tenant_id and m.lead_id = i.lead_id and m.number_id = n.id
    where n.provider_number_id = %(number)s and n.is_active
        and m.direction = 'inbound' and m.type <> 'reaction'"""
_LEAD: LiteralString = """
    select to_jsonb(l) as row from public.customer_leads l
    where l.tenant_id = %(tenant_id)s and l.id = (
        select i.lead_id from public.lead_identities i
        where i.tenant_id = %(tenant_id)s and i.valid_to = 'infinity'
            and (i.kind = 'phone' and i.value = %(phone)s::text
            or i.kind in ('bsuid', 'chat_id') and i.value = %(bsuid)s::text)
        order by i.kind desc limit 1)"""
_CHAT: LiteralString = """
    select to_jsonb(c) as row from public.chats c
    where c.tenant_id = %(tenant_id)s and c.lead_id = %(lead)s and c.number_id = %(number_id)s"""

_SINGLE = ("conversation", "pending_activity", "pending_reply")
_PARTS: dict[str, LiteralString] = {
    "conversation": """
        select to_jsonb(c) || jsonb_build_object('agent', a.name) as row
        from public.conversations c
        left join public.ai_agents a on a.tenant_id = c.tenant_id and a.id = c.current_agent_id
        where c.tenant_id = %(tenant_id)s and c.chat_id = %(chat)s order by c.opened_at desc limit 1""",
    "pending_activity": """
        select to_jsonb(p) as row from public.pending_activity p
        where p.tenant_id = %(tenant_id)s and p.lead_id = %(lead)s""",
    "pending_reply": """
        select to_jsonb(p) as row from public.pending_replies p
        where p.tenant_id = %(tenant_id)s and p.chat_id = %(chat)s""",
    "outbox": """
        select jsonb_build_object('status', m.status, 'source', m.source, 'content', m.content, 'verdict',
            m.send_verdict, 'reason', m.send_reason, 'error_code', m.error_code, 'error', m.error_message,
            'wa_message_id', m.wa_message_id, 'at', m.created_at) as row
        from public.messages m
        where m.tenant_id = %(tenant_id)s and m.chat_id = %(chat)s and m.direction = 'outbound'
        order by m.provider_at desc limit 6""",
    "alerts": """
        select to_jsonb(a) as row from public.alerts a
        where a.tenant_id = %(tenant_id)s and a.resolved_at is null
            and coalesce(a.chat_id = %(chat)s, coalesce(a.number_id = %(number_id)s, true))
        order by a.created_at desc limit 3""",
    "logs": """
        select jsonb_build_object('status', w.status, 'received_at', w.received_at, 'error', w.error,
            'field', w.field, 'attempts', w.attempts) as row
        from public.webhook_logs w
        where w.tenant_id = %(tenant_id)s and w.number = %(number)s order by w.received_at desc limit 6""",
}
