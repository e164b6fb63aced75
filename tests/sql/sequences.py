"""Sequences as tests are given them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from tests.sql.given import Business


@dataclass(frozen=True)
class Chat:
    tenant_id: uuid.UUID
    id: uuid.UUID


@dataclass(frozen=True)
class Drip:
    """An active sequence of a business."""

    db: Any
    business: Business
    id: uuid.UUID

    @classmethod
    def of_texts(cls, db: Any, business: Business, *texts: str) -> Drip:
        tenant_id = business.tenant_id
        sequence = db.value(
            "insert into sequences (tenant_id, name, is_active) values (%s, 'Bienvenida', true) returning id",
            tenant_id,
        )
        db.run(
            "insert into sequence_versions (tenant_id, sequence_id, version) values (%s, %s, 1)",
            tenant_id,
            sequence,
        )
        for position, text in enumerate(texts, 1):
            db.run(
                "insert into sequence_steps (tenant_id, sequence_id, version, order_position, key,"
                " delay_minutes, type, text) values (%s, %s, 1, %s, %s, 1440, 'text', %s)",
                tenant_id, sequence, position, f"s{position}", text,
            )  # fmt: skip
        return cls(db, business, sequence)

    def chat(self, contact: dict[str, Any]) -> Chat:
        row = self.db.row(
            "select c.tenant_id, c.id from chats c join customer_leads l on l.tenant_id = c.tenant_id"
            " and l.id = c.lead_id where c.tenant_id = %s and l.phone = %s",
            self.business.tenant_id,
            contact["phone"],
        )
        return Chat(row["tenant_id"], row["id"])


def enrolled(db: Any, drip: Drip, contact: dict[str, Any]) -> Chat:
    chat = drip.chat(contact)
    db.run(
        "insert into sequence_enrollments (tenant_id, sequence_id, version, chat_id, next_run_at, source,"
        " enrolled_at, changed_at) select %s, %s, 1, %s, at, 'staff', at, at from private.clock() at",
        chat.tenant_id, drip.id, chat.id,
    )  # fmt: skip
    return chat


def refs(*chats: Chat) -> str:
    return "{" + ",".join(f'"({chat.tenant_id},{chat.id})"' for chat in chats) + "}"


def live(db: Any, chat: Chat) -> tuple[str, str | None] | None:
    """Status and reason of the chat's enrollment that is not over."""
    found = db.rows(
        "select status, reason from sequence_enrollments where tenant_id = %s and chat_id = %s"
        " and status in ('active', 'paused')", chat.tenant_id, chat.id,
    )  # fmt: skip
    return (found[0]["status"], found[0]["reason"]) if found else None


def machine(db: Any, statement: str, *values: Any) -> Any:
    """What a worker gets, with the rights that workers have."""
    db.run("set role service_role")
    answer = db.value(statement, *values)
    db.run("reset role")
    return answer
