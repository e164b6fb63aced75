"""How Meta speaks: payloads, their bytes and their signature."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from local.simulator.clock import Clock
from local.simulator.config import Config
from local.simulator.graph_errors import ERRORS, GraphError
from local.simulator.http import BadInputError
from local.simulator.letters import Fate, Item, Letter, Receipt, Said
from local.simulator.messages import Sent
from local.simulator.world import Contact, Number, World
from local.simulator.writing import Writing

_FIELDS = {"message_echoes": "smb_message_echoes"}  # webhook field of a list, where it is not `messages`
_MARKETING = ("promo", "oferta", "marketing", "campaign", "campana")
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0  # minutes to hours, compressed
_BATCH = 100


class Meta:
    statuses: tuple[str, ...] = ("sent", "delivered", "read", "played", "failed")
    failed: tuple[str, ...] = ("failed",)
    errors: Collection[int] = ERRORS
    proof = "x-hub-signature-256"
    closed: int | None = 131047

    def __init__(self, config: Config, clock: Clock, world: World) -> None:
        self._url = config.functions_url + "/webhook/cloud-api"
        self._secret = config.meta_app_secret
        self._clock = clock
        self._world = world

    def written(self, contact: Contact, writing: Writing) -> Item:
        number = self._world.number(contact.number)
        content = _contents(writing)
        kept = _context(writing, number)
        whose = _addressee(contact, number) if writing.is_echo else sender(contact)
        body = {
            **whose,
            "id": writing.id or new_id(contact.address),
            "timestamp": str(int(writing.at)),
            **content,
            **({"context": kept} if kept else {}),
            **({"referral": writing.referral} if writing.referral else {}),
        }
        at = _check(body)
        known = None if body["type"] == "system" else profile(contact)
        return Item("message_echoes" if writing.is_echo else "messages", body["id"], body, at, known)

    def said(self, item: Item) -> Said:
        return said(item.body)

    def status(self, contact: Contact, sent: Sent, fate: Fate) -> Item:
        at = self._clock.now() + fate.after
        body: dict[str, Any] = {
            "id": sent.wa_message_id,
            "status": fate.status,
            "timestamp": str(int(at)),
            **recipient(contact),
        }
        if fate.status == "failed":
            if "to" in sent.message:
                body.pop("recipient_user_id", None)
            body["errors"] = [GraphError(fate.code or 131026).as_status()]
        elif fate.status in ("sent", "delivered"):
            body |= _pricing(sent.message, fate.free) | self._free_entry(contact, fate)
        if sent.said.callback is not None:
            body["biz_opaque_callback_data"] = sent.said.callback
        # a failed status carries no contact
        known = None if fate.status == "failed" else status_contact(contact, fate.status)
        return Item("statuses", sent.wa_message_id, body, at, known, fate.status)

    def letter(self, number: Number, items: list[Item]) -> Letter:
        known = _distinct(item.about for item in items if item.about)
        value = {**({"contacts": known} if known else {}), items[0].kind: [item.body for item in items]}
        return self.anything(number, envelope(number, value, _FIELDS.get(items[0].kind, "messages")), None)

    def anything(self, number: Number, payload: object, raw: bytes | None) -> Letter:
        body = to_bytes(payload) if raw is None else raw
        headers = {"content-type": "application/json", "user-agent": "facebookexternalua"}
        return Letter(self._url, {**headers, self.proof: signature(self._secret, body)}, body)

    def batch(self, kind: str) -> int:
        return _BATCH if kind == "statuses" else 1

    def wait(self, attempts: int, receipt: Receipt) -> float:
        """Again and again until it is accepted; a week is no time here."""
        return float(min(_FIRST_WAIT * 2**attempts, _LONGEST_WAIT))

    def _free_entry(self, contact: Contact, fate: Fate) -> dict[str, Any]:
        """Since v24 only a free entry point still has a conversation, and only `sent` tells when it ends."""
        if not fate.free:
            return {}
        until = self._world.contact(contact.number, contact.address).free_until
        conversation: dict[str, Any] = {
            "id": _conversation_id(contact, until),
            "origin": {"type": "referral_conversion"},
        }
        if fate.status == "sent":
            conversation["expiration_timestamp"] = str(int(until))
        return {"conversation": conversation}


def envelope(number: Number, value: dict[str, Any], field: str = "messages") -> dict[str, Any]:
    metadata = {"display_phone_number": number.phone, "phone_number_id": number.number}
    whole = {"messaging_product": "whatsapp", "metadata": metadata, **value}
    entry = {"id": number.account, "changes": [{"value": whole, "field": field}]}
    return {"object": "whatsapp_business_account", "entry": [entry]}


def to_bytes(payload: object) -> bytes:
    """Meta escapes non-ASCII and slashes: a body that was serialised again has another signature."""
    return json.dumps(payload, separators=(",", ":")).replace("/", "\\/").encode()


def signature(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def new_id(address: str) -> str:
    who = address.encode()
    unique = secrets.token_hex(9).upper().encode()
    raw = b"\x1d" + bytes([len(who)]) + who + b"\x15\x02\x00\x11\x18\x12" + unique + b"\x00"
    return "wamid." + base64.b64encode(raw).decode()


def profile(contact: Contact) -> dict[str, Any]:
    shown = {"name": contact.name} if contact.name else {}
    if contact.username:
        shown["username"] = contact.username
    phone = {"wa_id": contact.phone} if contact.phone else {}
    return {"profile": shown, **phone, "user_id": contact.bsuid}


def sender(contact: Contact) -> dict[str, str]:
    phone = {"from": contact.phone} if contact.phone else {}
    return {**phone, "from_user_id": contact.bsuid}


def recipient(contact: Contact) -> dict[str, str]:
    phone = {"recipient_id": contact.phone} if contact.phone else {}
    return {**phone, "recipient_user_id": contact.bsuid}


def status_contact(contact: Contact, status: str) -> dict[str, Any]:
    """A user name is not told before the message has arrived."""
    told = profile(contact)
    if status == "sent":
        told["profile"].pop("username", None)
    return told


def said(message: dict[str, Any]) -> Said:
    """What a person would read of a message of either side."""
    callback = message.get("biz_opaque_callback_data")
    return Said(str(message.get("type", "")), _text(message), callback)


def _text(message: dict[str, Any]) -> str:
    content = message.get(str(message.get("type")))
    if not isinstance(content, dict):
        return ""
    if message["type"] == "interactive":
        content = _dict(content.get(str(content.get("type")), content))
    for key in ("body", "caption", "title", "text", "emoji", "name", "filename"):
        value = content.get(key)
        if isinstance(value, dict):
            value = value.get("text")
        if isinstance(value, str) and value:
            return value
    return ""


def _contents(writing: Writing) -> dict[str, Any]:
    """Type, and what is under the key of that type."""
    given = writing.content
    match writing.kind:
        case "raw":
            return given
        case "button" | "list" as kind:
            reply = f"{kind}_reply"
            return {"type": "interactive", "interactive": {"type": reply, reply: given}}
        case "contact":
            phone = {"phone": "+" + given["phone"], "wa_id": given["phone"], "type": "CELL"}
            card = {"name": {"formatted_name": given["name"], "first_name": given["name"]}, "phones": [phone]}
            return {"type": "contacts", "contacts": [card]}
        case "reaction":
            emoji = {"emoji": given["emoji"]} if given["emoji"] else {}  # none takes it back
            return {"type": "reaction", "reaction": {"message_id": given["target"], **emoji}}
        case "edit":
            new = {"type": "text", "text": {"body": given["text"]}}
            return {"type": "edit", "edit": {"original_message_id": given["target"], "message": new}}
        case "revoke":
            return {"type": "revoke", "revoke": {"original_message_id": given["target"]}}
        case "text" | "location" as kind:
            return {"type": kind, kind: given}
        case kind:
            return {"type": kind, kind: _media(kind, given)}


def _media(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    own = {"audio": {"voice": given["voice"]}, "sticker": {"animated": False}}
    named = {"caption": given.get("caption"), "filename": given.get("filename"), "url": given.get("link")}
    return {
        "id": given.get("id") or str(secrets.randbelow(10**15)),
        "mime_type": given["mime"],
        "sha256": given.get("sha256") or base64.b64encode(secrets.token_bytes(32)).decode(),
        **{key: value for key, value in named.items() if value is not None},
        **own.get(kind, {}),
    }


def _context(writing: Writing, number: Number | None) -> dict[str, Any]:
    quoted = {"from": number.phone if number else "", "id": writing.reply_to} if writing.reply_to else {}
    return {**({"forwarded": True} if writing.forwarded else {}), **quoted, **writing.context}


def _addressee(contact: Contact, number: Number | None) -> dict[str, str]:
    phone = {"to": contact.phone} if contact.phone else {}
    return {"from": number.phone if number else "", **phone, "to_user_id": contact.bsuid}


def _check(message: dict[str, Any]) -> float:
    """A raw message may say anything, but these: its time, in seconds, is the answer."""
    if not isinstance(message.get("type"), str) or not isinstance(message["id"], str) or not message["id"]:
        raise BadInputError("`message.type` is missing, or `message.id` is not a text.")
    at = unix(message.get("timestamp"))
    if at is None:
        raise BadInputError("`message.timestamp` must be seconds since 1970, as a text.")
    return at


def unix(given: object) -> float | None:
    text = str(given)
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 12 else None


def _pricing(message: dict[str, Any], free: bool) -> dict[str, Any]:
    category, kind = "service", "regular"
    if message.get("type") == "template":
        name = message["template"]["name"]
        category = "marketing" if any(word in name for word in _MARKETING) else "utility"
    if free:
        category, kind = "referral_conversion", "free_entry_point"
    return {"pricing": {"billable": not free, "pricing_model": "PMP", "type": kind, "category": category}}


def _conversation_id(contact: Contact, until: float) -> str:
    return hashlib.md5(
        f"{contact.number}:{contact.bsuid}:{until}".encode(), usedforsecurity=False
    ).hexdigest()


def _distinct(contacts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({contact["user_id"]: contact for contact in contacts}.values())


def inbound_messages(payload: Any) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(number, message, its contact) of every customer's message in a payload, which may be rubbish."""
    for value in _values(payload):
        number = _dict(value.get("metadata")).get("phone_number_id")
        contacts = [_dict(contact) for contact in _list(value.get("contacts"))]
        for message in map(_dict, _list(value.get("messages"))):
            who = _address(message)
            if isinstance(number, str) and who and isinstance(message.get("id"), str):
                known = next((c for c in contacts if who in (c.get("wa_id"), c.get("user_id"))), {})
                yield number, message, known


def _address(message: dict[str, Any]) -> str:
    return str(message.get("from") or message.get("from_user_id") or "")


def _values(payload: Any) -> Iterator[dict[str, Any]]:
    for entry in _list(_dict(payload).get("entry")):
        for change in map(_dict, _list(_dict(entry).get("changes"))):
            if change.get("field") == "messages":
                yield _dict(change.get("value"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
