"""Whapi.Cloud as a provider: its secret header, and its updates as canonical events.

A channel is one WhatsApp account linked like WhatsApp Web, so what is written on the phone arrives too, and
so do chats that are no customer's: groups, newsletters, broadcasts. Those are kept, and never become leads.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from shared import jsontext, parts, shapes
from shared.channel_keys import Keys
from shared.errors import UnauthorizedError
from shared.events import (
    Call,
    Contact,
    ContactSync,
    Context,
    Echo,
    Edit,
    Event,
    JsonObject,
    Media,
    Message,
    Other,
    Payload,
    Problem,
    Reaction,
    Revoke,
    Status,
)
from shared.shapes import OddShapeError

if TYPE_CHECKING:
    from shared.runtime import Request

SIGNATURE = "x-recado-secret"
ANSWER = None

_KEPT = timedelta(days=30)
_PERSON = ("s.whatsapp.net", "c.us")  # the second is how it was written before
_TYPES = {  # those of the Cloud API, where there is one
    "link_preview": "text",
    "gif": "video",
    "short": "video",
    "voice": "audio",
    "reply": "interactive",
    "live_location": "location",
    "contact": "contacts",
    "contact_list": "contacts",
}
_MEDIA = frozenset({"audio", "document", "gif", "image", "short", "sticker", "video", "voice"})
_NOBODY_WROTE = frozenset({"call", "story", "system"})
_MODELLED = frozenset(
    {"chat_id", "chat_name", "device_id", "from", "from_me", "from_name", "id", "source", "status"}
    | {"text", "timestamp", "type"}
)  # of a text: its raw form would add nothing
_STATUSES = frozenset({"sent", "delivered", "read", "played", "failed"})
_DOWN = frozenset({"ERROR", "NOT_INIT", "QR", "STOP", "SYNC_ERROR"})  # states of a channel that cannot send
_OFTEN = 5  # forwards, from which on WhatsApp says "forwarded many times"
_ID_PREFIX = re.compile(r"^[A-Za-z]+V\d+:")  # what Whapi puts before the id of a button or row


def verify(request: Request, keys: Keys) -> None:
    """Whapi signs nothing: all there is is a secret in a header, set when the number was connected."""
    given = request.headers.get(SIGNATURE, "").encode()
    if not any([hmac.compare_digest(given, secret.encode()) for secret in keys.secrets]):  # noqa: C419
        raise UnauthorizedError(hint="Connect the number again: its webhook's secret header is not ours.")


def parse(body: bytes, *, received_at: datetime, keys: Keys, **_: Any) -> Iterator[Payload]:
    """One payload, or one for each part of a large delivery."""
    digest = sha256(keys.number_id.encode() + body).hexdigest()
    whole = Payload(provider="whapi", delivery_id=digest, received_at=received_at, number=keys.number)
    try:
        document = jsontext.decode(body)
    except ValueError as exc:
        yield replace(whole, raw=body, error=f"The body cannot be read: {exc}.")
        return
    if not isinstance(document, dict):
        yield replace(whole, raw=body, error="The body is not an object.")
        return
    whole = replace(whole, payload=document, field=_field(document))
    if shapes.text(document.get("channel_id")) not in (None, keys.number):
        yield replace(whole, error="It is from another channel than the one whose address it came to.")
        return
    for index, part in enumerate(parts.split(document, _READERS)):
        delivery_id = digest if part is document else f"{digest}:{index}"
        events = tuple(_events(part, whole.field, received_at))
        yield replace(whole, delivery_id=delivery_id, payload=part, events=events)


def _field(document: JsonObject) -> str | None:
    """messages.post, as Whapi's settings name it."""
    event = shapes.mapping(document.get("event"))
    return ".".join(filter(None, (shapes.text(event.get("type")), shapes.text(event.get("event"))))) or None


def _events(document: JsonObject, field: str | None, now: datetime) -> list[Event]:
    """An event for each item; a document without any that we know is one event as a whole."""
    found = [
        _event(read, item, now)
        for name, read in _READERS.items()
        for item in shapes.listing(document.get(name))
    ]
    return found or [_whole(document, field, now)]


def _event(read: _Reader, raw: Any, now: datetime) -> Event:
    item = _Item(raw, now)
    try:
        return read(item)
    except OddShapeError as exc:
        return Other(id=shapes.identifier(item.fields.get("id")), at=item.at, raw=raw, error=str(exc))


def _whole(document: JsonObject, field: str | None, now: datetime) -> Event:
    """How the channel itself is; what is not about it is kept."""
    status = shapes.mapping(shapes.mapping(document.get("health")).get("status"))
    state = shapes.text(status.get("text")) or ""
    if state in _DOWN:
        code = shapes.count(status.get("code"), digits=9)
        return Problem(id=None, at=now, code=code, message=f"The channel cannot send: its state is {state}.")
    if field == "users.delete":
        return Problem(id=None, at=now, code=None, message="The phone was unlinked from the channel.")
    return Other(id=None, at=now, raw=document)


@dataclass(frozen=True, slots=True)
class _Item:
    """One element of a list of the document."""

    raw: Any
    now: datetime

    @property
    def fields(self) -> JsonObject:
        return shapes.mapping(self.raw)

    @property
    def id(self) -> str:
        if found := shapes.identifier(self.fields.get("id")):
            return found
        raise OddShapeError("It has no usable id.")

    @property
    def at(self) -> datetime:
        return shapes.unix_time(self.fields.get("timestamp")) or self.now

    @property
    def type(self) -> str:
        return shapes.identifier(self.fields.get("type")) or "unknown"

    @property
    def content(self) -> JsonObject:
        return self.part(self.type)

    @property
    def is_ours(self) -> bool:
        return self.fields.get("from_me") is True

    @property
    def by(self) -> Literal["customer", "business"]:
        return "business" if self.is_ours else "customer"

    def part(self, name: str) -> JsonObject:
        return shapes.mapping(self.fields.get(name))

    def inner(self, name: str) -> _Item:
        return _Item(self.part(name), self.now)


_Reader = Callable[[_Item], Event]


def _contact(chat_id: Any, profile_name: str | None = None) -> Contact | None:
    """Whose chat it is; None: nobody's, as of a group, a newsletter, a broadcast or WhatsApp itself."""
    user, at, server = (shapes.identifier(chat_id) or "").partition("@")
    user = user.partition(":")[0]  # the rest names a device
    phone = shapes.phone(user)
    if server == "lid" and user:
        return Contact(chat_id=f"{user}@lid", profile_name=profile_name)
    if phone is None or (at and server not in _PERSON):
        return None
    return Contact(phone=phone, chat_id=f"{phone}@{_PERSON[0]}", profile_name=profile_name)


# Readers: one item, one event.


def _message(item: _Item) -> Event:
    """The chat says who the customer is: `from` is whoever wrote, and may be a hidden identity."""
    if not isinstance(item.raw, dict):
        raise OddShapeError("It is not an object.")
    name = None if item.is_ours else shapes.text(item.fields.get("from_name"))
    contact = _contact(item.fields.get("chat_id"), name)
    if contact is None or item.type in _NOBODY_WROTE:
        return _kept(item)
    if item.type == "action":
        return _action(item, contact, None)
    if item.is_ours and item.fields.get("source") == "api":
        return _own(item, contact)
    kind = Echo if item.is_ours else Message
    return kind(
        id=item.id,
        at=item.at,
        contact=contact,
        type=_TYPES.get(item.type, item.type),
        text=_text(item),
        media=_media(item),
        context=_context(item),
        referral=_referral(item),
        data=_data(item),
        raw=None if item.type == "text" and item.fields.keys() <= _MODELLED else item.fields,
    )


def _own(item: _Item, contact: Contact) -> Status:
    """What we sent ourselves: the outbox has its text. A list of messages knows what became of it since."""
    status = item.fields.get("status")
    if status not in _STATUSES - {"sent"}:
        return Status(id=item.id, at=item.at, contact=contact, status="sent")
    return Status(id=item.id, at=item.now, contact=contact, status=status)


def _action(item: _Item, contact: Contact, target: str | None) -> Event:
    """What changes an earlier message; told as a message, as an update of the earlier one, or as both."""
    action = item.part("action")
    target = target or shapes.identifier(action.get("target"))
    kind = action.get("type")
    if kind not in ("edit", "edited", "delete", "reaction"):
        return _kept(item)
    if target is None:
        raise OddShapeError("It does not say which message it changes.")
    if kind == "reaction":
        emoji = shapes.text(action.get("emoji"))
        return Reaction(id=item.id, at=item.at, contact=contact, target=target, by=item.by, emoji=emoji)
    if kind == "delete":
        return Revoke(id=item.id, at=item.at, contact=contact, target=target)
    text = _words(shapes.mapping(action.get("edited_content")))
    return Edit(id=item.id, at=item.at, contact=contact, target=target, text=text, raw=item.fields)


def _update(item: _Item) -> Event:
    """A message as it was and as it is; the trigger, where it is told, says what was done to it."""
    trigger, before, after = item.inner("trigger"), item.inner("before_update"), item.inner("after_update")
    contact = _contact(after.fields.get("chat_id") or trigger.fields.get("chat_id"))
    if contact is None:
        return _kept(item)
    if trigger.type == "action" and trigger.part("action").get("type") in ("delete", "reaction"):
        return _action(trigger, contact, item.id)
    text, is_edit = _text(after), trigger.part("action").get("type") in ("edit", "edited")
    if not is_edit and (text is None or text == _text(before)):
        return _kept(item)
    known = shapes.identifier(trigger.fields.get("id"))
    return Edit(
        id=known or f"{item.id}:{sha256((text or '').encode()).hexdigest()[:16]}",
        at=trigger.at,
        contact=contact,
        target=item.id,
        text=text or _words(shapes.mapping(trigger.part("action").get("edited_content"))),
        media=_media(after),
        raw=item.fields,
    )


def _removal(item: _Item) -> Event:
    """It is told by its id alone."""
    if target := shapes.identifier(item.raw):
        return Revoke(id=f"{target}:removed", at=item.now, target=target)
    raise OddShapeError("It does not say which message it changes.")


def _status(item: _Item) -> Event:
    status, recipient = shapes.text(item.fields.get("status")), item.fields.get("recipient_id")
    contact = _contact(recipient)
    if status not in _STATUSES or (recipient and contact is None):
        return _kept(item)
    error = _error(item) if status == "failed" else None
    return Status(id=item.id, at=item.at, contact=contact, status=status, error=error)


def _error(item: _Item) -> JsonObject | None:
    errors = shapes.listing(item.fields.get("errors"))
    return _read_error(shapes.mapping(errors[0])) if errors else None


def _read_error(error: JsonObject) -> JsonObject:
    return {
        "code": shapes.count(error.get("code"), digits=9),
        "title": shapes.text(error.get("message")),
        "details": shapes.text(error.get("details")),
    }


def _problem(item: _Item) -> Event:
    error = _read_error(item.fields)
    message = ": ".join(filter(None, (error["title"], error["details"]))) or "The provider reports an error."
    return Problem(id=None, at=item.now, code=error["code"], message=message)


def _call(item: _Item) -> Event:
    """Of our own calls `from` is ours, and not whom the chat is with."""
    chat, caller = _contact(item.fields.get("chat_id")), _contact(item.fields.get("from"))
    contact = chat or caller
    if contact is None or item.fields.get("group_call") is True:
        return _kept(item)
    is_ours = item.is_ours or bool(chat and caller and chat.phone and chat.phone != caller.phone)
    direction: Literal["inbound", "outbound"] = "outbound" if is_ours else "inbound"
    status = shapes.lower(item.fields.get("status")) or "unknown"
    return Call(id=item.id, at=item.at, contact=contact, direction=direction, status=status)


def _contact_entry(item: _Item) -> Event:
    """Only what has a name is in the phone's address book."""
    name = shapes.text(item.fields.get("name"))
    contact = _contact(item.fields.get("id"), shapes.text(item.fields.get("pushname")))
    if contact is None or name is None:
        return _kept(item)
    return ContactSync(id=None, at=item.now, contact=contact, name=name, action="add")


def _contact_update(item: _Item) -> Event:
    found = _contact_entry(item.inner("after_update"))
    return found if isinstance(found, ContactSync) else _kept(item)


def _kept(item: _Item) -> Event:
    """Not modelled, or nobody's."""
    return Other(id=shapes.identifier(item.fields.get("id")), at=item.at, raw=item.raw)


# What a message says.


def _text(item: _Item) -> str | None:
    if item.type == "reply":
        return shapes.text(_reply(item).get("title"))
    return _words(item.content)


def _words(content: JsonObject) -> str | None:
    return shapes.text(content.get("body")) or shapes.text(content.get("caption"))


def _reply(item: _Item) -> JsonObject:
    return shapes.mapping(item.content.get(shapes.text(item.content.get("type")) or ""))


def _media(item: _Item) -> Media | None:
    if item.type not in _MEDIA:
        return None
    return Media(
        id=shapes.identifier(item.content.get("id")),
        mime=shapes.text(item.content.get("mime_type")),
        sha256=shapes.text(item.content.get("sha256")),
        size=shapes.count(item.content.get("file_size")),
        filename=shapes.text(item.content.get("file_name")),
        url=shapes.text(item.content.get("link")),
        voice=True if item.type == "voice" else None,
        animated=shapes.flag(item.content.get("animated")),
        expires_at=item.now + _KEPT,
    )


def _context(item: _Item) -> Context | None:
    context = item.part("context")
    quoted, score = shapes.identifier(context.get("quoted_id")), shapes.count(context.get("forwarding_score"))
    forwarded = context.get("forwarded") is True or bool(score)
    if not quoted and not forwarded:
        return None
    return Context(id=quoted, forwarded=forwarded, frequently_forwarded=(score or 0) >= _OFTEN)


def _referral(item: _Item) -> JsonObject | None:
    """The ad the customer came from, under the names the Cloud API has for it."""
    ad = shapes.mapping(item.part("context").get("ad"))
    source = shapes.mapping(ad.get("source"))
    found = {
        "source_type": source.get("type"),
        "source_id": source.get("id"),
        "source_url": source.get("url"),
        "headline": ad.get("title"),
        "body": ad.get("body"),
        "media_type": ad.get("media_type"),
        "image_url": ad.get("preview_url") or ad.get("media_url"),
        "ctwa_clid": ad.get("ctwa"),
    }
    return {name: held for name, held in found.items() if held is not None} or None


def _data(item: _Item) -> Any:
    """What is more than words, in the Cloud API's shape where it has one."""
    if item.type in _MEDIA or _TYPES.get(item.type, item.type) == "text":
        return None
    if item.type == "reply":
        return _interactive(item)
    if item.type == "contact":
        return [_card(item.content)]
    if item.type == "contact_list":
        return [_card(shapes.mapping(one)) for one in shapes.listing(item.content.get("list"))]
    return item.content or None


def _interactive(item: _Item) -> JsonObject:
    reply = _reply(item)
    kind = "list_reply" if item.content.get("type") == "list_reply" else "button_reply"
    id_ = _ID_PREFIX.sub("", shapes.text(reply.get("id")) or "")
    kept = {name: reply[name] for name in ("title", "description") if name in reply}
    return {"type": kind, kind: {"id": id_, **kept}}


def _card(contact: JsonObject) -> JsonObject:
    return {"name": {"formatted_name": contact.get("name")}, "vcard": contact.get("vcard")}


# What the lists of a delivery hold, and who reads it.
_READERS: Mapping[str, _Reader] = {
    "messages": _message,
    "messages_updates": _update,
    "messages_removed": _removal,
    "statuses": _status,
    "calls": _call,
    "contacts": _contact_entry,
    "contacts_updates": _contact_update,
    "chats": _kept,
    "chats_updates": _kept,
    "errors": _problem,
}
