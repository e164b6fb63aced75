"""What Whapi keeps of a channel: its settings, whether its phone is still linked, the labels of its chats."""

from __future__ import annotations

import json
from typing import Any

from local.simulator.store import Store, dump
from local.simulator.world import Number


class Channels:
    def __init__(self, store: Store, functions_url: str) -> None:
        self._store = store
        self._functions_url = functions_url
        store.create("channel", _CHANNEL)
        store.create("chat", _CHAT)

    def settings(self, number: Number) -> dict[str, Any]:
        """As they were set; a channel that was connected past this world gets what our function expects."""
        found = self._store.value("select settings from channel where number = ?", number.number)
        if found is not None:
            return dict(json.loads(found))
        if not number.id:
            return {"webhooks": []}
        url = f"{self._functions_url}/webhook/whapi/{number.id}"
        return {"webhooks": [{"url": url, "mode": "body", "headers": {"X-Recado-Secret": number.secret}}]}

    def change(self, number: Number, settings: dict[str, Any]) -> dict[str, Any]:
        changed = {**self.settings(number), **settings}
        self._store.run(
            """insert into channel (number, settings) values (?, ?)
            on conflict (number) do update set settings = excluded.settings""",
            number.number,
            dump(changed),
        )
        return changed

    def webhook(self, number: Number, kind: str, method: str) -> dict[str, Any] | None:
        """Whom it is told to: the last that wants such an event; one that names none wants them all."""
        for hook in reversed(self.settings(number)["webhooks"]):
            wanted = hook.get("events")
            if wanted is None or {"type": kind, "method": method} in wanted:
                return dict(hook)
        return None

    def is_linked(self, number: Number) -> bool:
        return not self._store.noted(f"unlinked:{number.number}", False)

    def link(self, number: Number, linked: bool) -> None:
        self._store.note(f"unlinked:{number.number}", not linked)

    def labels(self, number: Number, chat_id: str) -> list[dict[str, str]]:
        found = self._store.value(
            "select labels from chat where number = ? and chat_id = ?", number.number, chat_id
        )
        names = [] if found is None else json.loads(found)
        return [{"id": str(1 + i), "name": name, "color": "salmon"} for i, name in enumerate(names)]

    def put_labels(self, number: Number, chat_id: str, names: list[str]) -> None:
        self._store.run("insert or replace into chat values (?, ?, ?)", number.number, chat_id, dump(names))


_CHANNEL = "create table if not exists channel (number text primary key, settings text not null)"
_CHAT = """create table if not exists chat (
    number text, chat_id text, labels text not null, primary key (number, chat_id))"""
