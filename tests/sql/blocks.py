"""Histories of messages, as their numbers would have left them: what was sent when, and what became of it."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.conftest import Db

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_PHONES = itertools.count(573900000000)


@dataclass
class Chat:
    """A customer of one number."""

    db: Db
    tenant_id: uuid.UUID
    number_id: uuid.UUID
    lead_id: uuid.UUID
    id: uuid.UUID

    def sent(self, *at: datetime, delivered: timedelta | None = None, **changes: Any) -> Chat:
        """Messages of ours, which arrived so long after they were sent, or never."""
        for moment in at:
            self._store(
                direction="outbound",
                role="assistant",
                source="sequence",
                status="sent" if delivered is None else "delivered",
                sent_at=moment,
                provider_at=moment,
                delivered_at=None if delivered is None else moment + delivered,
                changes=changes,
            )
        return self

    def wrote(self, at: datetime) -> Chat:
        self._store(
            direction="inbound", role="user", source="customer", status="received", provider_at=at, changes={}
        )
        self.db.run(
            "update public.chats set last_inbound_at = greatest(last_inbound_at, %s) where id = %s",
            at,
            self.id,
        )
        return self

    @property
    def state(self) -> str:
        return str(self.db.value("select block_state from public.chats where id = %s", self.id))

    @property
    def issue(self) -> dict[str, Any]:
        return self.db.row(
            "select * from public.delivery_issues where chat_id = %s and resolved_at is null", self.id
        )

    def _store(self, *, changes: dict[str, Any], **columns: Any) -> None:
        row = {
            "tenant_id": self.tenant_id,
            "chat_id": self.id,
            "lead_id": self.lead_id,
            "number_id": self.number_id,
            "type": "text",
            "content": "Hola",
            "wa_message_id": f"wamid.{uuid.uuid4().hex}",
            **columns,
            **changes,
        }
        names, blanks = ", ".join(row), ", ".join(["%s"] * len(row))
        self.db.run(f"insert into public.messages ({names}) values ({blanks})", *row.values())


@dataclass
class Histories:
    """A business's customers, in one transaction, at a time that the test sets."""

    db: Db
    tenant_id: uuid.UUID
    number_id: uuid.UUID
    chats: list[Chat] = field(default_factory=list)

    def chat(self, number_id: uuid.UUID | None = None, lead_id: uuid.UUID | None = None) -> Chat:
        number_id = number_id or self.number_id
        lead_id = lead_id or self.db.value(
            "insert into public.customer_leads (tenant_id, phone) values (%s, %s) returning id",
            self.tenant_id, str(next(_PHONES)),
        )  # fmt: skip
        chat_id = self.db.value(
            "insert into public.chats (tenant_id, lead_id, number_id, last_interaction_at)"
            " values (%s, %s, %s, '2026-01-01') returning id",
            self.tenant_id, lead_id, number_id,
        )  # fmt: skip
        assert lead_id
        chat = Chat(self.db, self.tenant_id, number_id, lead_id, chat_id)
        self.chats.append(chat)
        return chat

    def number(self, provider: str = "cloud_api") -> uuid.UUID:
        number_id: uuid.UUID = self.db.value(
            "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id,"
            " display_name) values (%s, %s, %s, %s, 'Otro') returning id",
            self.tenant_id, provider, str(next(_PHONES)), uuid.uuid4().hex,
        )  # fmt: skip
        return number_id

    def healthy(self, days: Iterable[datetime], number_id: uuid.UUID | None = None, chats: int = 8) -> None:
        """So many customers are sent a message on each of these days, and get it within a minute."""
        for chat in [self.chat(number_id) for _ in range(chats)]:
            chat.sent(*days, delivered=timedelta(minutes=1))

    def detect(self, at: datetime | None = None) -> dict[str, Any]:
        if at:
            set_clock(self.db, at)
        with self.db.as_service():
            found: dict[str, Any] = self.db.value("select public.blocks_detect()")
        return found


def set_clock(db: Db, at: datetime) -> None:
    """Business time is this; only for this transaction."""
    db.run(
        "create or replace function private.clock() returns timestamptz language sql stable"
        f" set search_path = '' as $$ select '{at.isoformat()}'::timestamptz $$"
    )
