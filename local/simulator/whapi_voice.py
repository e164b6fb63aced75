"""How Whapi speaks: messages of both sides in one shape, batches, and a secret header for a signature."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Collection
from typing import Any

from local.simulator.clock import Clock
from local.simulator.letters import Fate, Item, Letter, Receipt, Said
from local.simulator.messages import Messages, Sent
from local.simulator.whapi_channels import Channels
from local.simulator.whapi_errors import ERRORS
from local.simulator.world import Contact, Number, World
from local.simulator.writing import Writing

# list in the body: type and method of the event
_EVENTS = {
    "messages": ("messages", "post"),
    "messages_updates": ("messages", "patch"),
    "messages_removed": ("messages", "delete"),
    "statuses": ("statuses", "post"),
    "chats_updates": ("chats", "patch"),
    "user": ("users", "delete"),
}
_CODES = {"failed": 0, "pending": 1, "sent": 2, "delivered": 3, "read": 4, "played": 5}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_STEP, _LONGEST_WAIT = 0.3, 5.0  # seconds that are minutes there
_BATCH = 100


class Whapi:
    statuses: tuple[str, ...] = ("pending", "sent", "delivered", "read", "played", "failed", "deleted")
    failed: tuple[str, ...] = ("failed",)
    errors: Collection[int] = ERRORS
    proof = "x-recado-secret"
    closed: int | None = None

    def __init__(self, clock: Clock, world: World, messages: Messages, channels: Channels) -> None:
        self._clock = clock
        self._world = world
        self._messages = messages
        self._channels = channels

    def written(self, contact: Contact, writing: Writing) -> Item:
        given = writing.content
        if writing.kind == "revoke":
            return Item("messages_removed", new_id(), {"id": given["target"]}, writing.at)
        body = {**self._frame(contact, writing), **_content(writing), **_context(writing)}
        if writing.kind == "edit":
            return self._edit(contact, body, writing)
        return Item("messages", str(body["id"]), body, float(body["timestamp"]))

    def said(self, item: Item) -> Said:
        if item.kind == "messages_removed":
            return Said("revoke", "")
        if item.kind == "messages_updates":
            return Said("edit", said(item.body["after_update"]).text)
        return said(item.body)

    def status(self, contact: Contact, sent: Sent, fate: Fate) -> Item:
        at = self._clock.now() + fate.after
        code = {"code": _CODES[fate.status]} if fate.status in _CODES else {}
        body: dict[str, Any] = {
            "id": sent.wa_message_id,
            **code,
            "status": fate.status,
            "recipient_id": chat_id(contact),
            "timestamp": str(int(at)),  # a text here, a number in messages
        }
        if fate.status in self.failed:
            body["errors"] = [{"code": fate.code or 500, "message": ERRORS.get(fate.code or 500, "Error")}]
        return Item("statuses", sent.wa_message_id, body, at, status=fate.status)

    def letter(self, number: Number, items: list[Item]) -> Letter | None:
        kind = items[0].kind
        bodies: list[Any] = [item.body for item in items]
        told: Any = bodies
        if kind == "messages_removed":
            told = [body["id"] for body in bodies]
        elif kind == "user":
            told = bodies[0]
        type_, method = _EVENTS[kind]
        hook = self._channels.webhook(number, type_, method)
        payload = {kind: told, "event": {"type": type_, "event": method}, "channel_id": number.number}
        return _letter(hook, json.dumps(payload).encode()) if hook else None

    def anything(self, number: Number, payload: object, raw: bytes | None) -> Letter:
        """To the webhook that gets messages; without one it goes nowhere that answers."""
        hook = self._channels.webhook(number, "messages", "post") or {"url": "http://127.0.0.1:9/"}
        return _letter(hook, json.dumps(payload).encode() if raw is None else raw)

    def batch(self, kind: str) -> int:
        return 1 if kind == "user" else _BATCH

    def wait(self, attempts: int, receipt: Receipt) -> float:
        """The delay grows linearly."""
        return min(_STEP * (attempts + 1), _LONGEST_WAIT)

    # messages

    def sent(self, contact: Contact, sent: Sent, status: str) -> dict[str, Any]:
        """What the business sent, as the answer, the webhook and the lists show it."""
        number = self._world.number(contact.number)
        kind = sent.message["type"]
        quoted = sent.message.get("quoted")
        return {
            "id": sent.wa_message_id,
            "from_me": True,
            "type": kind,
            "chat_id": chat_id(contact),
            "from": number.phone if number else "",
            "source": "api",
            "timestamp": int(sent.at),
            "status": status,
            kind: _sent_content(kind, sent.message),
            **({"context": {"quoted_id": quoted}} if quoted else {}),
        }

    def _frame(self, contact: Contact, writing: Writing) -> dict[str, Any]:
        number = self._world.number(contact.number)
        ours = number.phone if number else ""
        named = {"from_name": contact.name} if contact.name and not writing.is_echo else {}
        return {
            "id": writing.id or new_id(),
            "from_me": writing.is_echo,
            "chat_id": chat_id(contact),
            "from": ours if writing.is_echo else contact.phone or contact.bsuid.partition("@")[0],
            **named,
            "source": "mobile",
            "timestamp": int(writing.at),
        }

    def _edit(self, contact: Contact, action: dict[str, Any], writing: Writing) -> Item:
        """The message as it was and as it is, with the action that made the difference."""
        target, new = writing.content["target"], writing.content["text"]
        before = self._known(contact, target) or {
            **{key: action[key] for key in ("from_me", "chat_id", "from", "timestamp")},
            "id": target,
            "type": "text",
            "text": {"body": ""},
        }
        key, words = ("text", "body") if before["type"] == "text" else (before["type"], "caption")
        after = {**before, key: {**before.get(key, {}), words: new}}
        body = {"id": target, "trigger": action, "before_update": before, "after_update": after}
        return Item("messages_updates", str(action["id"]), {**body, "changes": [key]}, writing.at)

    def _known(self, contact: Contact, target: str) -> dict[str, Any] | None:
        received = self._messages.received_message(contact.number, target)
        if received:
            return received.message
        sent = self._messages.sent_message(target)
        return self.sent(contact, sent, "read") if sent else None


def chat_id(contact: Contact) -> str:
    return f"{contact.phone}@s.whatsapp.net" if contact.phone else contact.bsuid


def new_id() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(15)) + "-w" + secrets.token_urlsafe(5)[:6]


def said(message: dict[str, Any]) -> Said:
    """What a person would read of a message of either side."""
    kind = str(message.get("type", ""))
    content = message.get(kind)
    found = content if isinstance(content, dict) else {}
    if kind == "reply":
        found = found.get(str(found.get("type")), {})
    if kind == "action":
        return Said(str(found.get("type", "action")), str(found.get("emoji", "")))
    words = (found.get(key) for key in ("body", "caption", "title", "name", "file_name"))
    texts = (word.get("text") if isinstance(word, dict) else word for word in words)
    return Said(kind, next((text for text in texts if isinstance(text, str) and text), ""))


def _content(writing: Writing) -> dict[str, Any]:
    given = writing.content
    match writing.kind:
        case "raw":
            return given
        case "button":
            reply = {"id": f"ButtonsV3:{given['id']}", "title": given["title"]}
            return {"type": "reply", "reply": {"type": "buttons_reply", "buttons_reply": reply}}
        case "list":
            reply = {**given, "id": f"ListV3:{given['id']}"}
            return {"type": "reply", "reply": {"type": "list_reply", "list_reply": reply}}
        case "contact":
            card = f"BEGIN:VCARD\nVERSION:3.0\nFN:{given['name']}\nTEL;TYPE=CELL:+{given['phone']}\nEND:VCARD"
            return {"type": "contact", "contact": {"name": given["name"], "vcard": card}}
        case "reaction":
            return {"type": "action", "action": {"type": "reaction", **given}}
        case "edit":
            edited = {
                "target": given["target"],
                "edited_type": "text",
                "edited_content": {"body": given["text"]},
            }
            return {"type": "action", "action": {"type": "edit", **edited}}
        case "text" | "location" as kind:
            return {"type": kind, kind: given}
        case kind:
            kind = "voice" if kind == "audio" and given["voice"] else kind
            return {"type": kind, kind: _media(given)}


def _media(given: dict[str, Any]) -> dict[str, Any]:
    named = {name: given.get(key) for name, key in _MEDIA_NAMES.items()}
    return {
        "id": given.get("id") or f"{given['mime'].split('/')[0]}-{secrets.token_hex(16)}",
        "mime_type": given["mime"],
        "file_size": given["size"],
        "sha256": given.get("sha256") or base64.b64encode(secrets.token_bytes(32)).decode(),
        **{name: value for name, value in named.items() if value is not None},
    }


_MEDIA_NAMES = {"file_name": "filename", "caption": "caption", "link": "link"}


def _context(writing: Writing) -> dict[str, Any]:
    ad = writing.referral
    source = {"id": ad.get("source_id"), "type": ad.get("source_type"), "url": ad.get("source_url")}
    told = {
        "title": ad.get("headline"),
        "body": ad.get("body"),
        "ctwa": ad.get("ctwa_clid"),
        "source": source,
    }
    context = {
        **({"quoted_id": writing.reply_to} if writing.reply_to else {}),
        **({"forwarded": True, "forwarding_score": 1} if writing.forwarded else {}),
        **({"ad": told} if ad else {}),
        **writing.context,
    }
    return {"context": context} if context else {}


def _sent_content(kind: str, message: dict[str, Any]) -> dict[str, Any]:
    content = {
        key: value for key, value in message.items() if key not in ("type", "to", "quoted", "typing_time")
    }
    media = content.pop("media", None)
    if media is None:
        return content
    known = {"link": media} if media.startswith("http") else {"id": media}
    name = {"file_name": content.pop("filename")} if "filename" in content else {}
    return {**known, **name, **content}


def _letter(hook: dict[str, Any], body: bytes) -> Letter:
    headers = {str(name).lower(): str(value) for name, value in hook.get("headers", {}).items()}
    return Letter(hook["url"], {"content-type": "application/json", **headers}, body)
