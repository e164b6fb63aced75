"""How Meta writes: payloads, their bytes and their signature."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

from local.simulator.world import Contact, Number


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


def conversation_id(contact: Contact, until: float) -> str:
    return hashlib.md5(
        f"{contact.number}:{contact.bsuid}:{until}".encode(), usedforsecurity=False
    ).hexdigest()


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
