"""What Twilio keeps of a sender: where it is told what happens."""

from __future__ import annotations

import hashlib
from typing import Any

from local.simulator.store import Store
from local.simulator.world import Number


class Senders:
    def __init__(self, store: Store, functions_url: str) -> None:
        self._store = store
        self._functions_url = functions_url
        store.create("sender", _SENDER)

    def url(self, number: Number) -> str:
        """Where messages go; a sender that was connected past this world tells our function."""
        found = self._store.value("select callback_url from sender where number = ?", number.number)
        if found is not None or not number.id:
            return str(found or "")
        return f"{self._functions_url}/webhook/twilio/{number.id}"

    def status_url(self, number: Number) -> str:
        """For messages that name no callback of their own."""
        found = self._store.value("select status_callback_url from sender where number = ?", number.number)
        return str(found or "")

    def change(self, number: Number, callback_url: str, status_callback_url: str) -> None:
        self._store.run(
            "insert or replace into sender values (?, ?, ?)",
            number.number,
            callback_url,
            status_callback_url,
        )

    def describe(self, number: Number) -> dict[str, Any]:
        sid = sender_sid(number)
        return {
            "sid": sid,
            "status": "ONLINE",
            "sender_id": f"whatsapp:+{number.phone}",
            "configuration": {"waba_id": "200000000000009"},
            "webhook": {
                "callback_url": self.url(number) or None,
                "callback_method": "POST",
                "fallback_url": None,
                "status_callback_url": self.status_url(number) or None,
                "status_callback_method": "POST",
            },
            "profile": {"name": number.name},
            "properties": {"quality_rating": "HIGH", "messaging_limit": "1K Customers/24hr"},
            "offline_reasons": None,
            "url": f"https://messaging.twilio.com/v2/Channels/Senders/{sid}",
        }


def sender_sid(number: Number) -> str:
    return "XE" + hashlib.sha256(number.number.encode()).hexdigest()[:32]


_SENDER = """create table if not exists sender (
    number text primary key, callback_url text not null, status_callback_url text not null)"""
