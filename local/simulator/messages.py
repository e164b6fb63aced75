"""What customers wrote and were written, as each provider keeps it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from local.simulator.clock import Clock
from local.simulator.letters import Item, Said
from local.simulator.store import Row, Store, dump
from local.simulator.world import WINDOW, Contact, World, read_contact

FREE_ENTRY = 72 * 3600.0
_OPENS_NOTHING = ("reaction", "system", "edit", "revoke", "request_welcome")


@dataclass(frozen=True)
class Sent:
    """A message the business sent through the API."""

    wa_message_id: str
    provider: str
    number: str
    bsuid: str
    recipient: str
    at: float
    said: Said
    message: dict[str, Any]  # as it was asked for

    def shown(self, clock: Clock) -> dict[str, Any]:
        return {
            "to": self.recipient,
            "type": self.said.type,
            "text": self.said.text,
            "at": clock.iso(self.at),
            "wa_message_id": self.wa_message_id,
            "number": self.number,
            "provider": self.provider,
            "callback": self.said.callback,
            "message": self.message,
        }


@dataclass(frozen=True)
class Received:
    """What a customer wrote, or the business on its phone."""

    wa_message_id: str
    bsuid: str
    at: float
    said: Said
    message: dict[str, Any]  # in the provider's words
    is_echo: bool
    ticks: str

    def shown(self, clock: Clock) -> dict[str, Any]:
        return {
            "from": "business" if self.is_echo else "customer",
            "type": self.said.type,
            "text": self.said.text,
            "at": clock.iso(self.at),
            "wa_message_id": self.wa_message_id,
            "status": self.ticks,
        }


class Messages:
    def __init__(self, store: Store, clock: Clock, world: World) -> None:
        self._store = store
        self._clock = clock
        self._world = world
        store.create("received", _RECEIVED, _RECEIVED_CONTACT)
        store.create("sent", _SENT, _SENT_CONTACT)

    def receive(self, contact: Contact, item: Item, said: Said, at: float, *, is_echo: bool = False) -> None:
        """Keeps the message; a customer's opens the window from its own time on."""
        now = self._clock.now()
        # the providers' times have no fractions, but messages of a second have an order
        at = now if int(now) == at else at
        opens = not is_echo and said.type not in _OPENS_NOTHING
        referral = item.body.get("referral")
        advert = isinstance(referral, dict) and referral.get("source_type") == "ad"
        with self._store.transaction():
            self._world.keep(
                replace(
                    contact,
                    window_until=max(contact.window_until, at + WINDOW if opens else 0.0),
                    ad_at=at if advert else contact.ad_at,
                )
            )
            self._store.run(
                """insert or ignore into received
                    (wa_message_id, number, bsuid, at, said, message, is_echo)
                values (?, ?, ?, ?, ?, ?, ?)""",
                dump(item.id),
                contact.number,
                contact.bsuid,
                at,
                dump(vars(said)),
                dump(item.body),
                is_echo,
            )

    def webhook_answered(self, number: str, wa_message_id: str, status: int) -> None:
        self._store.run(
            "update received set status = ? where number = ? and wa_message_id = ? and status is not 200",
            status,
            number,
            dump(wa_message_id),
        )

    def business_reads(self, number: str, wa_message_id: str, typing: bool) -> bool:
        """Everything up to the message is read; the typing indicator goes out by itself after 25 seconds."""
        now = self._clock.now()
        row = self._store.row(
            "select id, bsuid from received where number = ? and wa_message_id = ?",
            number,
            dump(wa_message_id),
        )
        if row is None:
            return False
        self._store.run(
            "update received set read_at = ? where number = ? and bsuid = ? and id <= ? and read_at is null",
            now,
            number,
            row["bsuid"],
            row["id"],
        )
        if typing:
            self._store.run("update received set typing_until = ? where id = ?", now + 25, row["id"])
        return True

    def business_types(self, contact: Contact, typing: bool) -> None:
        """Beside the customer's last message, which stays unread."""
        self._store.run(
            """update received set typing_until = ?3
            where id = (select max(id) from received where number = ?1 and bsuid = ?2)""",
            contact.number,
            contact.bsuid,
            self._clock.now() + 25 if typing else None,
        )

    def send(
        self, contact: Contact, wa_message_id: str, provider: str, said: Said, message: dict[str, Any]
    ) -> tuple[Sent, bool]:
        """Keeps the message. Returns it, and whether it is within a free entry point."""
        now = self._clock.now()
        starts_free = contact.free_until < now and contact.ad_at > 0 and now - contact.ad_at <= WINDOW
        if starts_free:
            contact = replace(contact, free_until=now + FREE_ENTRY, ad_at=0.0)
        self._world.keep(contact)
        sent = Sent(
            wa_message_id, provider, contact.number, contact.bsuid, contact.address, now, said, message
        )
        self._store.run(
            """insert into sent (wa_message_id, provider, number, bsuid, recipient, at, said, message)
            values (?, ?, ?, ?, ?, ?, ?, ?)""",
            *(sent.wa_message_id, sent.provider, sent.number, sent.bsuid, sent.recipient, sent.at),
            dump(vars(said)),
            dump(message),
        )
        return sent, contact.free_until >= now

    def sent(self, number: str | None = None, to: str | None = None) -> list[Sent]:
        """Oldest first."""
        rows = self._store.rows(
            """select * from sent where (?1 is null or number = ?1) and (?2 is null or recipient = ?2)
            order by id""",
            number,
            to,
        )
        return [_sent(row) for row in rows]

    def latest_sent(self, count: int) -> list[Sent]:
        return [_sent(row) for row in self._store.rows("select * from sent order by id desc limit ?", count)]

    def sent_message(self, wa_message_id: str) -> Sent | None:
        row = self._store.row("select * from sent where wa_message_id = ?", wa_message_id)
        return _sent(row) if row else None

    def received(self, number: str) -> list[Received]:
        """Everything, oldest first."""
        rows = self._store.rows("select * from received where number = ? order by id", number)
        return [_received(row) for row in rows]

    def received_message(self, number: str, wa_message_id: str) -> Received | None:
        query = "select * from received where number = ? and wa_message_id = ?"
        row = self._store.row(query, number, dump(wa_message_id))
        return _received(row) if row else None

    def last_word(self, contact: Contact, words: Sequence[str]) -> str | None:
        """Which of these words, as a whole message, the customer wrote last."""
        marks = ", ".join("?" for _ in words)
        found = self._store.value(
            f"""select upper(trim(json_extract(said, '$.text'))) as word from received
            where number = ? and bsuid = ? and word in ({marks}) order by id desc limit 1""",
            contact.number,
            contact.bsuid,
            *words,
        )
        return None if found is None else str(found)

    # what the page shows

    def latest_contacts(self) -> list[Contact]:
        """The fifty who wrote or were written to last, of the last two thousand messages."""
        return [read_contact(row) for row in self._store.rows(_LATEST_CONTACTS)]

    def conversation(self, contact: Contact, count: int = 100) -> list[Received | Sent]:
        """The last messages of both sides, in order."""
        last = "where number = ? and bsuid = ? order by id desc limit ?"
        whose = (contact.number, contact.bsuid, count)
        received = self._store.rows(f"select * from received {last}", *whose)
        sent = self._store.rows(f"select * from sent {last}", *whose)
        both: list[Received | Sent] = [*map(_received, reversed(received)), *map(_sent, reversed(sent))]
        return sorted(both, key=lambda message: message.at)

    def is_typing(self, contact: Contact) -> bool:
        """The business shows that it is writing, and has not written yet."""
        return bool(
            self._store.value(
                """select 1 from received r
                where number = ?1 and bsuid = ?2 and typing_until > ?3 and not exists (
                    select 1 from sent s
                    where s.number = ?1 and s.bsuid = ?2 and s.at > r.typing_until - 25)""",
                contact.number,
                contact.bsuid,
                self._clock.now(),
            )
        )

    def counts(self) -> dict[str, int]:
        tables = ("number", "contact", "received", "sent")
        return {table: int(self._store.value(f"select count(*) from {table}")) for table in tables}


def _sent(row: Row) -> Sent:
    fields = {key: row[key] for key in row.keys() if key != "id"}  # noqa: SIM118  # a Row iterates its values
    said = Said(**json.loads(row["said"]))
    return Sent(**{**fields, "said": said, "message": json.loads(row["message"])})


def _received(row: Row) -> Received:
    return Received(
        wa_message_id=json.loads(row["wa_message_id"]),
        bsuid=row["bsuid"],
        at=row["at"],
        said=Said(**json.loads(row["said"])),
        message=json.loads(row["message"]),
        is_echo=bool(row["is_echo"]),
        ticks="read" if row["read_at"] else "delivered" if row["status"] == 200 else "sent",
    )


_RECEIVED = """create table if not exists received (
    id integer primary key, wa_message_id text not null, number text not null, bsuid text not null,
    at real not null, said text not null, message text not null, is_echo int not null, status int,
    read_at real, typing_until real, unique (number, wa_message_id))"""
_RECEIVED_CONTACT = "create index if not exists received_contact on received (number, bsuid, id)"
_SENT = """create table if not exists sent (
    id integer primary key, wa_message_id text not null unique, provider text not null, number text not null,
    bsuid text not null, recipient text not null, at real not null, said text not null,
    message text not null)"""
_SENT_CONTACT = "create index if not exists sent_contact on sent (number, bsuid, id)"
_LATEST_CONTACTS = """
    with latest as (
        select * from (select number, bsuid, at from received order by id desc limit 1000)
        union all
        select * from (select number, bsuid, at from sent order by id desc limit 1000)
    )
    select contact.* from contact join latest using (number, bsuid)
    group by number, bsuid order by max(at) desc limit 50"""
