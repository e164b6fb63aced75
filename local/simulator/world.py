"""Who is out there: numbers, their customers, what they wrote and were written, and when a window closes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from local.simulator.clock import Clock
from local.simulator.store import Row, Store, dump

BSUID = re.compile(r"[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}")
PHONE = re.compile(r"[1-9]\d{7,14}")

WINDOW = 24 * 3600.0
FREE_ENTRY = 72 * 3600.0
_OPENS_NOTHING = ("reaction", "system", "edit", "revoke", "request_welcome")
_COUNTRIES = {"1": "US", "34": "ES", "51": "PE", "52": "MX", "54": "AR", "55": "BR", "56": "CL", "57": "CO"}


@dataclass(frozen=True)
class Number:
    """A WhatsApp number of a business."""

    number: str
    phone: str
    account: str  # WABA
    name: str = ""


@dataclass(frozen=True)
class Contact:
    """A customer as one number knows them. Times are 0 when it never happened."""

    number: str
    bsuid: str
    phone: str | None
    name: str = ""
    username: str | None = None
    window_until: float = 0.0
    ad_at: float = 0.0
    free_until: float = 0.0

    @property
    def address(self) -> str:
        return self.phone or self.bsuid


class World:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        store.create("number", _NUMBER)
        store.create("contact", _CONTACT, _CONTACT_PHONE)
        store.create("received", _RECEIVED, _RECEIVED_CONTACT)
        store.create("sent", _SENT, _SENT_CONTACT)

    # numbers

    def learn(self, number: Number) -> None:
        self._store.run(
            "insert or replace into number values (?, ?, ?, ?)",
            number.number,
            number.phone,
            number.account,
            number.name,
        )

    def number(self, number: str) -> Number | None:
        row = self._store.row("select * from number where number = ?", number)
        return Number(*row) if row else None

    def numbers(self) -> list[Number]:
        return [Number(*row) for row in self._store.rows("select * from number order by number")]

    # customers

    def contact(self, number: str, address: str) -> Contact:
        """The customer at a phone number or a business-scoped id; a new one when nobody wrote yet."""
        column = "bsuid" if BSUID.fullmatch(address) else "phone"
        row = self._store.row(f"select * from contact where number = ? and {column} = ?", number, address)
        if row:
            return _contact(row)
        if column == "bsuid":
            return Contact(number, address, None)
        return Contact(number, _bsuid(number, address), address)

    def latest_contacts(self) -> list[Contact]:
        """The fifty who wrote or were written to last, of the last two thousand messages."""
        return [_contact(row) for row in self._store.rows(_LATEST_CONTACTS)]

    def keep(self, contact: Contact) -> None:
        try:
            self._store.run(_KEEP, *_values(contact))
        except sqlite3.IntegrityError:  # the phone was somebody else's id before: it is theirs now
            self._store.run(
                "delete from contact where number = ? and phone = ?", contact.number, contact.phone
            )
            self._store.run(_KEEP, *_values(contact))

    def is_stranger(self, contact: Contact) -> bool:
        """Nothing was ever written, in either direction, as far as this world knows."""
        return not contact.window_until

    # messages

    def wrote(self, contact: Contact, at: float) -> Contact:
        """They wrote at that time, though not through this world."""
        kept = replace(contact, window_until=max(contact.window_until, at + WINDOW))
        self.keep(kept)
        return kept

    def customer_writes(self, contact: Contact, message: dict[str, Any], at: float) -> None:
        """Keeps the message, and opens the window from its own time on."""
        now = self._clock.now()
        at = (
            now if int(now) == at else at
        )  # Meta's time has no fractions, but messages of a second have an order
        until = 0.0 if message.get("type") in _OPENS_NOTHING else at + WINDOW
        referral = message.get("referral")
        advert = isinstance(referral, dict) and referral.get("source_type") == "ad"
        kept = replace(
            contact,
            window_until=max(contact.window_until, until),
            ad_at=at if advert else contact.ad_at,
        )
        with self._store.transaction():
            self.keep(kept)
            self._store.run(
                """insert or ignore into received (wa_message_id, number, bsuid, at, message)
                values (?, ?, ?, ?, ?)""",
                dump(message["id"]),
                contact.number,
                contact.bsuid,
                at,
                dump(message),
            )

    def webhook_answered(self, number: str, wa_message_id: str, status: int) -> None:
        self._store.run(
            "update received set status = ? where number = ? and wa_message_id = ? and status is not 200",
            status,
            number,
            dump(wa_message_id),
        )

    def business_reads(self, number: str, wa_message_id: str, typing: bool) -> None:
        """Everything up to the message is read; the typing indicator goes out by itself after 25 seconds."""
        now = self._clock.now()
        row = self._store.row(
            "select id, bsuid from received where number = ? and wa_message_id = ?",
            number,
            dump(wa_message_id),
        )
        if row is None:
            return
        self._store.run(
            "update received set read_at = ? where number = ? and bsuid = ? and id <= ? and read_at is null",
            now,
            number,
            row["bsuid"],
            row["id"],
        )
        if typing:
            self._store.run("update received set typing_until = ? where id = ?", now + 25, row["id"])

    def business_writes(
        self, contact: Contact, to: str, message: dict[str, Any], provider: str
    ) -> tuple[str, bool]:
        """Keeps the message. Returns its id, and whether it is within a free entry point."""
        now, wa_message_id = self._clock.now(), new_id(contact.address)
        starts_free = contact.free_until < now and contact.ad_at > 0 and now - contact.ad_at <= WINDOW
        if starts_free:
            contact = replace(contact, free_until=now + FREE_ENTRY, ad_at=0.0)
        self.keep(contact)
        self._store.run(
            """insert into sent (wa_message_id, provider, number, bsuid, recipient, at, message)
            values (?, ?, ?, ?, ?, ?, ?)""",
            wa_message_id,
            provider,
            contact.number,
            contact.bsuid,
            to,
            now,
            dump(message),
        )
        return wa_message_id, contact.free_until >= now

    def sent(self, number: str | None = None, to: str | None = None) -> list[dict[str, Any]]:
        """Oldest first."""
        rows = self._store.rows(
            """select * from sent where (?1 is null or number = ?1) and (?2 is null or recipient = ?2)
            order by id""",
            number,
            to,
        )
        return [self._outgoing(row) for row in rows]

    def latest_sent(self, count: int) -> list[dict[str, Any]]:
        rows = self._store.rows("select * from sent order by id desc limit ?", count)
        return [self._outgoing(row) for row in rows]

    def sent_message(self, wa_message_id: str) -> Row | None:
        return self._store.row("select * from sent where wa_message_id = ?", wa_message_id)

    def conversation(self, contact: Contact) -> list[dict[str, Any]]:
        """The last hundred messages of both sides, in order."""
        whose = (contact.number, contact.bsuid)
        received = self._store.rows(f"select * from received {_LATEST}", *whose)
        sent = self._store.rows(f"select * from sent {_LATEST}", *whose)
        messages = [self._incoming(row) for row in reversed(received)]
        messages += [{"from": "business", **self._outgoing(row)} for row in reversed(sent)]
        return sorted(messages, key=lambda message: str(message["at"]))

    def last_message(self, contact: Contact) -> dict[str, Any] | None:
        whose = (contact.number, contact.bsuid)
        last = "where number = ? and bsuid = ? order by id desc limit 1"
        received = self._store.row(f"select * from received {last}", *whose)
        sent = self._store.row(f"select * from sent {last}", *whose)
        if sent and (received is None or sent["at"] >= received["at"]):
            return self._outgoing(sent)
        return self._incoming(received) if received else None

    def typing(self, contact: Contact) -> bool:
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

    def _incoming(self, row: Row) -> dict[str, Any]:
        message = json.loads(row["message"])
        return {
            "from": "customer",
            "type": str(message.get("type", "")),
            "text": text_of(message),
            "at": self._clock.iso(row["at"]),
            "wa_message_id": message["id"],
            "status": _customer_ticks(row),
        }

    def _outgoing(self, row: Row) -> dict[str, Any]:
        message = json.loads(row["message"])
        return {
            "to": row["recipient"],
            "type": message["type"],
            "text": text_of(message),
            "at": self._clock.iso(row["at"]),
            "wa_message_id": row["wa_message_id"],
            "number": row["number"],
            "provider": row["provider"],
            "callback": message.get("biz_opaque_callback_data"),
            "message": message,
        }


def new_id(address: str) -> str:
    who = address.encode()
    unique = secrets.token_hex(9).upper().encode()
    raw = b"\x1d" + bytes([len(who)]) + who + b"\x15\x02\x00\x11\x18\x12" + unique + b"\x00"
    return "wamid." + base64.b64encode(raw).decode()


def text_of(message: dict[str, Any]) -> str:
    """What a person would read of it."""
    content = message.get(str(message.get("type")))
    if not isinstance(content, dict):
        return ""
    if message["type"] == "interactive":
        content = content.get(str(content.get("type")), content)
        if not isinstance(content, dict):
            return ""
    for key in ("body", "caption", "title", "text", "emoji", "name", "filename"):
        value = content.get(key)
        if isinstance(value, dict):
            value = value.get("text")
        if isinstance(value, str) and value:
            return value
    return ""


def stranger(number: str) -> Number:
    """How a number nobody connected looks in a webhook."""
    return Number(number, "1555" + f"{int(_digest(number), 16) % 10**7:07}", "999999999999999", "")


def _bsuid(number: str, phone: str) -> str:
    country = next((name for prefix, name in _COUNTRIES.items() if phone.startswith(prefix)), "US")
    return f"{country}.{int(_digest(number + ':' + phone), 16) % 10**20:020}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _customer_ticks(row: Row) -> str:
    if row["read_at"]:
        return "read"
    return "delivered" if row["status"] == 200 else "sent"


def _contact(row: Row) -> Contact:
    fields = dict(row)
    return Contact(**{**fields, "name": json.loads(fields["name"])})


def _values(contact: Contact) -> tuple[Any, ...]:
    return (
        contact.number,
        contact.bsuid,
        contact.phone,
        dump(contact.name),
        contact.username,
        contact.window_until,
        contact.ad_at,
        contact.free_until,
    )


_NUMBER = """create table if not exists number (
    number text primary key, phone text not null, account text not null, name text not null)"""
_CONTACT = """create table if not exists contact (
    number text, bsuid text, phone text, name text not null, username text,
    window_until real not null, ad_at real not null, free_until real not null, primary key (number, bsuid))"""
_CONTACT_PHONE = "create unique index if not exists contact_phone on contact (number, phone)"
_KEEP = """insert into contact values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (number, bsuid) do update set
    phone = excluded.phone, name = excluded.name, username = excluded.username,
    window_until = excluded.window_until, ad_at = excluded.ad_at, free_until = excluded.free_until"""
_RECEIVED = """create table if not exists received (
    id integer primary key, wa_message_id text not null, number text not null, bsuid text not null,
    at real not null, message text not null, status int, read_at real, typing_until real,
    unique (number, wa_message_id))"""
_RECEIVED_CONTACT = "create index if not exists received_contact on received (number, bsuid, id)"
_SENT = """create table if not exists sent (
    id integer primary key, wa_message_id text not null unique, provider text not null, number text not null,
    bsuid text not null, recipient text not null, at real not null, message text not null)"""
_SENT_CONTACT = "create index if not exists sent_contact on sent (number, bsuid, id)"
_LATEST_CONTACTS = """
    with latest as (
        select * from (select number, bsuid, at from received order by id desc limit 1000)
        union all
        select * from (select number, bsuid, at from sent order by id desc limit 1000)
    )
    select contact.* from contact join latest using (number, bsuid)
    group by number, bsuid order by max(at) desc limit 50"""
_LATEST = "where number = ? and bsuid = ? order by id desc limit 100"
