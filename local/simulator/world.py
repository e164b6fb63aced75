"""Who is out there: the numbers of all providers, their customers, and when a window closes."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from dataclasses import dataclass, field, replace
from typing import Any

from local.simulator.store import Row, Store, dump

PROVIDERS = ("cloud_api", "whapi", "twilio")
BSUID = re.compile(r"[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}")
PHONE = re.compile(r"[1-9]\d{7,14}")

WINDOW = 24 * 3600.0
_COUNTRIES = {"1": "US", "34": "ES", "51": "PE", "52": "MX", "54": "AR", "55": "BR", "56": "CL", "57": "CO"}


@dataclass(frozen=True)
class Number:
    """A WhatsApp number of a business."""

    number: str  # phone_number_id, channel id or sender
    phone: str
    account: str  # WABA, or the SID of a Twilio account
    name: str = ""
    provider: str = "cloud_api"
    id: str = ""  # our own; empty while no business has connected it
    secret: str = field(default="", repr=False)  # of Whapi's webhook, when it was set past this world

    def shown(self) -> dict[str, str]:
        return {
            "number": self.number,
            "phone": self.phone,
            "account": self.account,
            "name": self.name,
            "provider": self.provider,
        }


@dataclass(frozen=True)
class Contact:
    """A customer as one number knows them. Times are 0 when it never happened."""

    number: str
    bsuid: str  # whatever identifies them best: Whapi's chat id when it is no phone
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
    def __init__(self, store: Store) -> None:
        self._store = store
        store.create("number", _NUMBER)
        store.create("contact", _CONTACT, _CONTACT_PHONE)

    # numbers

    def learn(self, number: Number) -> None:
        self._store.run("insert or replace into number values (?, ?, ?, ?, ?, ?, ?)", *vars(number).values())

    def number(self, number: str) -> Number | None:
        row = self._store.row("select * from number where number = ?", number)
        return Number(*row) if row else None

    def find(self, provider: str, wanted: str) -> Number | None:
        """By the provider's id of the number, its phone, or the name its business gave it."""
        known = self.number(wanted)
        if known and provider in ("", known.provider):
            return known
        row = self._store.row(
            """select * from number
            where (?1 = '' or provider = ?1) and (phone = ?2 or name = ?2 collate nocase) limit 1""",
            provider,
            wanted,
        )
        return Number(*row) if row else None

    def numbers(self) -> list[Number]:
        return [Number(*row) for row in self._store.rows("select * from number order by provider, number")]

    # customers

    def contact(self, number: str, address: str) -> Contact:
        """The customer at a phone number or any other id; a new one when nobody wrote yet."""
        column = "phone" if PHONE.fullmatch(address) else "bsuid"
        row = self._store.row(f"select * from contact where number = ? and {column} = ?", number, address)
        if row:
            return read_contact(row)
        if column == "bsuid":
            return Contact(number, address, None)
        return Contact(number, _bsuid(number, address), address)

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

    def wrote(self, contact: Contact, at: float) -> Contact:
        """They wrote at that time: their window is open from then on."""
        kept = replace(contact, window_until=max(contact.window_until, at + WINDOW))
        self.keep(kept)
        return kept


def stranger(number: str) -> Number:
    """How a number nobody connected looks in a webhook of Meta's."""
    return Number(number, "1555" + f"{int(_digest(number), 16) % 10**7:07}", "999999999999999", "")


def read_contact(row: Row) -> Contact:
    fields = dict(row)
    return Contact(**{**fields, "name": json.loads(fields["name"])})


def _bsuid(number: str, phone: str) -> str:
    country = next((name for prefix, name in _COUNTRIES.items() if phone.startswith(prefix)), "US")
    return f"{country}.{int(_digest(number + ':' + phone), 16) % 10**20:020}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _values(contact: Contact) -> tuple[Any, ...]:
    return tuple({**vars(contact), "name": dump(contact.name)}.values())


_NUMBER = """create table if not exists number (
    number text primary key, phone text not null, account text not null, name text not null,
    provider text not null, id text not null, secret text not null)"""
_CONTACT = """create table if not exists contact (
    number text, bsuid text, phone text, name text not null, username text,
    window_until real not null, ad_at real not null, free_until real not null, primary key (number, bsuid))"""
_CONTACT_PHONE = "create unique index if not exists contact_phone on contact (number, phone)"
_KEEP = """insert into contact values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (number, bsuid) do update set
    phone = excluded.phone, name = excluded.name, username = excluded.username,
    window_until = excluded.window_until, ad_at = excluded.ad_at, free_until = excluded.free_until"""
