"""Sequences as tests are given them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.sql.given import MARIA, Business

Document = dict[str, Any]


@dataclass(frozen=True)
class Chat:
    tenant_id: uuid.UUID
    id: uuid.UUID


@dataclass(frozen=True)
class Drip:
    """An active sequence of a business, and what tests do with it."""

    db: Any
    business: Business
    id: uuid.UUID

    @classmethod
    def of(cls, db: Any, business: Business, *steps: Document, name: str = "Bienvenida", **more: Any) -> Drip:
        saved = save(db, business, {"name": name, "steps": list(steps), **more})
        db.run("update sequences set is_active = true where id = %s", saved["id"])
        return cls(db, business, uuid.UUID(saved["id"]))

    @classmethod
    def of_texts(cls, db: Any, business: Business, *texts: str, **more: Any) -> Drip:
        """One a day, the first at once."""
        return cls.of(db, business, *(text_step(text, n) for n, text in enumerate(texts)), **more)

    def save(self, *steps: Document, **more: Any) -> Any:
        return save(self.db, self.business, {"name": "Bienvenida", "steps": list(steps), **more}, self.id)

    def chat(self, contact: dict[str, Any] = MARIA) -> Chat:
        row = self.db.row(
            "select c.tenant_id, c.id from chats c join customer_leads l on l.tenant_id = c.tenant_id"
            " and l.id = c.lead_id where c.tenant_id = %s and l.phone = %s",
            self.business.tenant_id,
            contact["phone"],
        )
        return Chat(row["tenant_id"], row["id"])

    def enroll(self, contact: dict[str, Any] = MARIA, again: bool = False) -> Any:
        """What sequence_enroll answers the owner."""
        lead = self.db.value(
            "select id from customer_leads where tenant_id = %s and phone = %s",
            self.business.tenant_id,
            contact["phone"],
        )
        with self.db.signed_in(self.business.owner):
            return self.db.value("select sequence_enroll(%s, %s, null, %s)", self.id, lead, again)

    def enroll_many(self, **criteria: Any) -> Any:
        with self.db.signed_in(self.business.owner):
            return self.db.value("select sequence_enroll_many(%s, %s::jsonb)", self.id, criteria)

    def history(self) -> list[tuple[str, str, str | None]]:
        rows = self.db.rows(
            "select step_key, outcome, reason from sequence_history where sequence_id = %s"
            " order by at, position",
            self.id,
        )
        return [(row["step_key"], row["outcome"], row["reason"]) for row in rows]

    def enrollments(self, columns: str = "status, reason, position") -> list[tuple[Any, ...]]:
        rows = self.db.rows(
            f"select {columns} from sequence_enrollments where sequence_id = %s order by id", self.id
        )
        return [tuple(row.values()) for row in rows]

    def texts(self, status: str = "queued") -> list[str]:
        """Of its messages with that status, in the order in which they were written."""
        return list(
            self.db.column(
                "select content from messages where tenant_id = %s and source = 'sequence' and status = %s"
                " order by provider_at, id", self.business.tenant_id, status,
            )
        )  # fmt: skip


def text_step(text: str, n: int = 0, **more: Any) -> Document:
    """The n-th of a sequence: a day after the one before, the first at once."""
    return {"key": f"s{n}", "after": {"hours": 24 if n else 0}, "text": text, **more}


def save(db: Any, business: Business, document: Document, sequence_id: Any = None) -> Any:
    return db.value(
        "select private.sequence_save(%s, %s, %s::jsonb, null)", business.tenant_id, sequence_id, document
    )


def process(db: Any, limit: int = 100) -> dict[str, int]:
    """A batch, as the worker runs it; what it answers."""
    answer: dict[str, int] = machine(db, "select sequences_process(%s)", limit)
    answer.pop("closed", None)  # for the log
    return answer


def later(db: Any, **by: float) -> None:
    """Let business time pass."""
    db.run("update local.clock set ahead = ahead + %s", timedelta(**by))


def at(db: Any, moment: str | datetime) -> None:
    """Set business time."""
    db.run("update local.clock set ahead = %s::timestamptz - now()", moment)


def delivered(db: Any) -> None:
    """Whatever is in the outbox goes out now."""
    db.run(
        "update messages m set status = 'sent', sent_at = private.clock() from outbox o"
        " where m.tenant_id = o.tenant_id and m.id = o.message_id"
    )
    db.run("delete from outbox")


def enrolled(db: Any, drip: Drip, contact: dict[str, Any]) -> Chat:
    assert drip.enroll(contact)["enrolled"] == 1
    return drip.chat(contact)


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
