"""What Whapi remembers of a channel: its messages and chats, in pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local.simulator.messages import Received, Sent
from local.simulator.outside import Outside
from local.simulator.whapi_errors import WhapiError
from local.simulator.world import Contact, Number

_CHANGES = ("reaction", "edit", "revoke")


@dataclass(frozen=True)
class Call:
    """An authorised request."""

    number: Number
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: dict[str, Any]

    @property
    def subject(self) -> str:
        return f"{self.number.number} {json.dumps(self.body, ensure_ascii=False)}"


class History:
    def __init__(self, outside: Outside) -> None:
        self._out = outside
        self._channels = outside.channels
        self._voice = outside.whapi

    async def message(self, call: Call) -> dict[str, Any]:
        return self._shown(call.number, self.find(call))

    async def messages(self, call: Call) -> dict[str, Any]:
        given, chat = _Page.read(call.query), call.path.get("chat")
        found = [
            shown
            for message in self._all(call.number)
            if given.time_from <= message.at <= given.time_to
            and chat in (None, (shown := self._shown(call.number, message))["chat_id"])
            and given.from_me in (None, shown["from_me"])
        ]
        return given.answer("messages", found if given.ascending else found[::-1])

    async def chats(self, call: Call) -> dict[str, Any]:
        latest: dict[str, dict[str, Any]] = {}
        for message in self._all(call.number):
            shown = self._shown(call.number, message)
            latest[shown["chat_id"]] = shown
        found = [self.describe(call.number, chat, last) for chat, last in reversed(latest.items())]
        return _Page.read(call.query).answer("chats", found)

    async def chat(self, call: Call) -> dict[str, Any]:
        wanted = call.path["chat"]
        shown = [self._shown(call.number, message) for message in self._all(call.number)]
        last = [message for message in shown if message["chat_id"] == wanted]
        if not last and not self._channels.labels(call.number, wanted):
            raise WhapiError(404, f"there is no chat {wanted}")
        return self.describe(call.number, wanted, last[-1] if last else None)

    def _all(self, number: Number) -> list[Received | Sent]:
        """Messages of both sides, oldest first; what changes another is none of its own."""
        both: list[Received | Sent] = [
            *self._out.messages.received(number.number),
            *self._out.messages.sent(number.number),
        ]
        return sorted((one for one in both if one.said.type not in _CHANGES), key=lambda one: one.at)

    def find(self, call: Call) -> Received | Sent:
        id_ = call.path["id"]
        sent = self._out.messages.sent_message(id_)
        found = sent or self._out.messages.received_message(call.number.number, id_)
        if found is None or (sent and sent.number != call.number.number):
            raise WhapiError(404, "there is no such message")
        return found

    def _shown(self, number: Number, message: Received | Sent) -> dict[str, Any]:
        if isinstance(message, Received):
            return message.message
        contact = self._out.world.contact(number.number, message.bsuid)
        return self._voice.sent(contact, message, self._out.webhooks.ticks(message.wa_message_id))

    def describe(self, number: Number, chat: str, last: dict[str, Any] | None) -> dict[str, Any]:
        contact = self.contact(number, chat)
        labels = self._channels.labels(number, chat)
        return {
            "id": chat,
            **({"name": contact.name} if contact.name else {}),
            "type": {"g.us": "group", "newsletter": "newsletter"}.get(chat.partition("@")[2], "contact"),
            "timestamp": last["timestamp"] if last else int(self._out.clock.now()),
            "unread": 0,
            "not_spam": True,
            **({"last_message": last} if last else {}),
            **({"labels": labels} if labels else {}),
        }

    def contact(self, number: Number, chat: str) -> Contact:
        return self._out.world.contact(number.number, chat.removesuffix("@s.whatsapp.net"))


@dataclass(frozen=True)
class _Page:
    """Which part of a list is wanted."""

    count: int
    offset: int
    time_from: float
    time_to: float
    from_me: bool | None
    ascending: bool

    @classmethod
    def read(cls, query: Mapping[str, str]) -> _Page:
        from_me = query.get("from_me")
        if from_me not in (None, "true", "false") or query.get("sort", "desc") not in ("asc", "desc"):
            raise WhapiError(400, "from_me must be true or false, and sort asc or desc")
        return cls(
            count=_whole(query, "count", 100, 1, 500),
            offset=_whole(query, "offset", 0, 0, 10**9),
            time_from=_whole(query, "time_from", 0, 0, 10**11),
            time_to=_whole(query, "time_to", 10**11, 0, 10**11),
            from_me=None if from_me is None else from_me == "true",
            ascending=query.get("sort") == "asc",
        )

    def answer(self, name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
        part = found[self.offset : self.offset + self.count]
        return {name: part, "count": len(part), "total": len(found), "offset": self.offset}


def _whole(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    given = query.get(name, str(default))
    if not given.isdecimal() or not least <= int(given) <= most:
        raise WhapiError(400, f"{name} must be a whole number between {least} and {most}")
    return int(given)
