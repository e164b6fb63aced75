"""Twilio's Content API: the templates of an account, and whether WhatsApp approved them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local.simulator.clock import Clock
from local.simulator.http import Fields
from local.simulator.store import Row, Store, dump
from local.simulator.twilio_errors import TwilioError

SID = re.compile(r"HX[0-9a-f]{32}")
_VARIABLE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Content:
    sid: str
    account: str
    name: str
    language: str
    body: str
    category: str
    status: str  # received, pending, approved, rejected, paused, disabled
    reason: str

    @property
    def variables(self) -> list[str]:
        return list(dict.fromkeys(_VARIABLE.findall(self.body)))

    def filled(self, given: str) -> str:
        """The text with `ContentVariables`. Raises 21656 unless each of its variables is given as a text."""
        try:
            values = json.loads(given or "{}")
        except ValueError as exc:
            raise TwilioError(21656) from exc
        texts = isinstance(values, dict) and all(
            isinstance(value, str) and value for value in values.values()
        )
        if not texts or set(values) != set(self.variables):
            raise TwilioError(21656)
        return _VARIABLE.sub(lambda found: str(values[found[1]]), self.body)


class Contents:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        store.create("content", _CONTENT)

    def put(self, content: Content) -> None:
        self._store.run("insert or replace into content values (?, ?, ?)", *_row(content))

    def find(self, account: str, sid: str) -> Content | None:
        return next((content for content in self.of(account) if content.sid == sid), None)

    def of(self, account: str) -> list[Content]:
        """Every account has one from the start."""
        rows = self._store.rows("select * from content where account = ? order by rowid", account)
        return [_first(account), *map(_content, rows)]

    def describe(self, content: Content, *, approvals: bool = False) -> dict[str, Any]:
        at = self._clock.iso()
        shown = {
            "sid": content.sid,
            "account_sid": content.account,
            "friendly_name": content.name,
            "language": content.language,
            "variables": {name: f"example {name}" for name in content.variables},
            "types": {"twilio/text": {"body": content.body}},
            "date_created": at,
            "date_updated": at,
        }
        if approvals:
            return {**shown, "approval_requests": approval(content)}
        return {**shown, "url": f"https://content.twilio.com/v1/Content/{content.sid}"}


def approval(content: Content) -> dict[str, Any]:
    return {
        "name": content.name,
        "category": content.category,
        "content_type": "twilio/text",
        "status": content.status,
        "rejection_reason": content.reason,
        "allow_category_change": True,
    }


def read(given: Fields, account: str) -> Content:
    name = given.text("name")
    return Content(
        sid=given.text("sid", sid_of(account, name)),
        account=account,
        name=name,
        language=given.text("language", "es"),
        body=given.text("body"),
        category=given.choice("category", ("UTILITY", "MARKETING", "AUTHENTICATION"), "UTILITY"),
        status=given.choice("status", _STATUSES, "approved"),
        reason=given.text("reason", ""),
    )


def sid_of(account: str, name: str) -> str:
    return "HX" + hashlib.sha256(f"{account}:{name}".encode()).hexdigest()[:32]


def _first(account: str) -> Content:
    name, body = "recordatorio_cita", "Hola {{1}}, te recordamos tu cita a las {{2}}."
    return Content(sid_of(account, name), account, name, "es", body, "UTILITY", "approved", "")


def _row(content: Content) -> tuple[str, str, str]:
    return content.sid, content.account, dump(vars(content))


def _content(row: Row) -> Content:
    fields: Mapping[str, str] = json.loads(row["content"])
    return Content(**fields)


_STATUSES = ("unsubmitted", "received", "pending", "approved", "rejected", "paused", "disabled")
_CONTENT = "create table if not exists content (sid text primary key, account text, content text not null)"
