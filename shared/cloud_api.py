"""The Meta Cloud API as a provider: its handshake, its signature, and its updates as canonical events.

Whatever is signed is kept. A part of unexpected shape becomes `Other` with the reason; its neighbours pass.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from shared import cloud_accounts, jsontext, parts, shapes
from shared.channel_keys import Keys
from shared.errors import ForbiddenError, MissingSettingError, UnauthorizedError
from shared.events import (
    Call,
    Contact,
    ContactSync,
    Context,
    Echo,
    Edit,
    Event,
    Identity,
    JsonObject,
    Media,
    Message,
    Other,
    Payload,
    Preference,
    Problem,
    Reaction,
    Revoke,
    Status,
)
from shared.shapes import OddShapeError

if TYPE_CHECKING:
    from shared.runtime import Request

SIGNATURE = "x-hub-signature-256"
ANSWER = None

_MEDIA = frozenset({"audio", "document", "image", "sticker", "video"})
_WORDS = {
    "text": "body",
    "button": "text",
    "order": "text",
}  # the key of what was said; elsewhere the caption
_MODELLED = frozenset(
    {"context", "from", "from_user_id", "id", "text", "timestamp", "to", "to_user_id", "type"}
)  # of a text: its raw form would add nothing
_KEPT = timedelta(days=7)  # how long Meta keeps a file under the id of a webhook
_STATUSES = frozenset({"sent", "delivered", "read", "played", "failed"})


def answer_handshake(query: Mapping[str, str], verify_token: str) -> str:
    """What Meta wants back when the callback URL is registered."""
    is_ours = hmac.compare_digest(query.get("hub.verify_token", "").encode(), verify_token.encode())
    challenge = query.get("hub.challenge", "")
    if query.get("hub.mode") != "subscribe" or not is_ours or not challenge:
        raise ForbiddenError(hint="Enter META_VERIFY_TOKEN as the verify token of the callback URL.")
    return challenge


def verify(request: Request, keys: Keys) -> None:
    """The secrets are the app's."""
    check_signature(request.headers, request.body, keys.secrets)


def check_signature(headers: Mapping[str, str], body: bytes, secrets: Iterable[str]) -> None:
    """Refuse a body that none of the app's secrets signed."""
    given = [value for name, value in headers.items() if name == SIGNATURE]
    expected = [f"sha256={hmac.digest(secret.encode(), body, 'sha256').hex()}" for secret in secrets]
    if len(given) != 1 or not any(hmac.compare_digest(given[0].encode(), one.encode()) for one in expected):
        raise UnauthorizedError(hint="Check that META_APP_SECRET is the secret of the app that posts here.")


def app_keys(app_secrets: str) -> Keys:
    """The comma-separated secrets of the app. An empty one would let everybody in, so it is none at all."""
    found = tuple(secret.strip() for secret in app_secrets.split(",") if secret.strip())
    if not found:
        raise MissingSettingError(
            "META_APP_SECRET holds no secret.", hint="Set one, or two separated by a comma."
        )
    return Keys(provider="cloud_api", secrets=found)


def parse(body: bytes, *, received_at: datetime, **_of_a_number: Any) -> Iterator[Payload]:
    """A payload for each change of the delivery, or for each part of a large one.

    A delivery without a change is a payload with an error.
    """
    digest = sha256(body).hexdigest()
    try:
        changes = list(_changes(jsontext.decode(body)))
    except ValueError as exc:
        changes = [_Change(raw=body, error=f"The body cannot be read: {exc}.")]
    for index, change in enumerate(changes or [_Change(raw=body, error="There is no change in the body.")]):
        for part, piece in enumerate(change.parts()):
            delivery_id = f"{digest}:{index}:{part}" if piece.is_part else f"{digest}:{index}"
            yield piece.to_payload(delivery_id, received_at)


@dataclass(frozen=True, kw_only=True)
class _Change:
    account: str | None = None
    time: Any = None
    change: JsonObject | None = None
    raw: bytes | None = None
    error: str | None = None
    is_part: bool = False

    def parts(self) -> Iterator[_Change]:
        """Of a large change several, each with the contacts it speaks of."""
        change = self.change or {}
        value, field = shapes.mapping(change.get("value")), shapes.text(change.get("field")) or ""
        lists = tuple(_READERS.get(field, ()))
        if not lists:
            yield self
            return
        contacts = _by_address(value)
        for part in parts.split(value, lists, "history" if field == "history" else ""):
            if part is value:
                yield self
            else:
                mentioned = part | {"contacts": _mentioned(part, lists, contacts)} if contacts else part
                yield replace(self, change=change | {"value": mentioned}, is_part=True)

    def to_payload(self, delivery_id: str, received_at: datetime) -> Payload:
        change = self.change or {}
        field = shapes.text(change.get("field"))
        now = shapes.unix_time(self.time) or received_at
        value = _Value(shapes.mapping(change.get("value")), now, is_part=self.is_part)
        return Payload(
            provider="cloud_api",
            delivery_id=delivery_id,
            received_at=received_at,
            account=self.account,
            number=shapes.text(value.metadata.get("phone_number_id")),
            field=field,
            payload=self.change,
            raw=self.raw,
            error=self.error,
            events=() if self.error else tuple(_events(field, value)),
        )


def _changes(document: Any) -> Iterator[_Change]:
    for entry in shapes.listing(shapes.mapping(document).get("entry")):
        account, time = shapes.text(shapes.mapping(entry).get("id")), shapes.mapping(entry).get("time")
        changes = shapes.listing(shapes.mapping(entry).get("changes"))
        if not changes:
            yield _Change(account=account, change={"entry": entry}, error="There is no change in the entry.")
        for change in changes:
            if shapes.mapping(shapes.mapping(change).get("value")):
                yield _Change(account=account, time=time, change=change)
            else:
                kept = change if isinstance(change, dict) else {"change": change}
                yield _Change(account=account, change=kept, error="The change has no value.")


def _events(field: str | None, value: _Value) -> list[Event]:
    """An event for each item; a value without any that we know is one event as a whole."""
    found = [_event(item, read, about) for item, read, about in _items(field, value)]
    return found or [_whole(field or "", value)]


def _whole(field: str, value: _Value) -> Event:
    try:
        about_account = cloud_accounts.read(field, value.raw, value.now)
    except OddShapeError as exc:
        return Other(id=None, at=value.now, raw=value.raw, error=str(exc))
    return about_account or Other(id=None, at=value.now, raw=value.raw)


def _items(field: str | None, value: _Value) -> Iterator[tuple[Any, Reader, _Value]]:
    for name, read in _READERS.get(field or "", {}).items():
        for item in value.items(name):
            yield item, read, value
    if field == "history":
        yield from _history(value)


def _history(value: _Value) -> Iterator[tuple[Any, Reader, _Value]]:
    """Chunks of threads of old messages; what is empty on the way may hold an error, and is kept."""
    for chunk in value.items("history"):
        threads = shapes.listing(shapes.mapping(chunk).get("threads"))
        if not threads:
            yield chunk, _kept, value
        for thread in threads:
            messages = shapes.listing(shapes.mapping(thread).get("messages"))
            for message in messages:
                yield message, _old_message, replace(value, customer=shapes.mapping(thread).get("id"))
            if not messages:
                yield thread, _kept, value


def _event(item: Any, read: Reader, value: _Value) -> Event:
    at = shapes.unix_time(shapes.mapping(item).get("timestamp")) or value.now
    if not isinstance(item, dict):
        return Other(id=None, at=at, raw=item, error="It is not an object.")
    known = _Item(item, shapes.identifier(item.get("id")), at, value.now)
    try:
        return read(known, value)
    except OddShapeError as exc:
        return Other(id=known.given_id, at=at, raw=item, error=str(exc))


@dataclass(frozen=True, slots=True)
class _Item:
    """One element of a value's list."""

    raw: JsonObject
    given_id: str | None
    at: datetime
    told_at: datetime

    @property
    def id(self) -> str:
        if self.given_id is None:
            raise OddShapeError("It has no usable id.")
        return self.given_id

    @property
    def type(self) -> str:
        return shapes.identifier(self.raw.get("type")) or "unknown"

    def part(self, name: str) -> JsonObject:
        return shapes.mapping(self.raw.get(name))


@dataclass(frozen=True)
class _Value:
    """The value of a change: lists of items, and the contacts they speak of."""

    raw: JsonObject
    now: datetime  # stands in for a time that is missing
    customer: Any = None  # of the thread being read
    is_part: bool = False

    @property
    def metadata(self) -> JsonObject:
        return shapes.mapping(self.raw.get("metadata"))

    def items(self, name: str) -> list[Any]:
        return shapes.listing(self.raw.get(name))

    def contact(self, item: _Item, side: str) -> Contact:
        """The customer on one `side` of an item, under the keys this side has."""
        phone, bsuid = (
            shapes.text(item.raw.get(_PHONE_KEYS[side])),
            shapes.text(item.raw.get(f"{side}_user_id")),
        )
        listed = self._listed(phone, bsuid)
        profile = shapes.mapping(listed.get("profile"))
        found = _contact(
            shapes.text(phone or self.customer) or shapes.text(listed.get("wa_id")),
            bsuid or listed.get("user_id"),
            item.raw.get(f"{side}_parent_user_id") or listed.get("parent_user_id"),
            wa_id=listed.get("wa_id"),
            username=shapes.identifier(profile.get("username")),
            profile_name=shapes.text(profile.get("name")),
        )
        if not found.is_known:
            raise OddShapeError("It does not say who the customer is.")
        return found

    def _listed(self, phone: str | None, bsuid: str | None) -> JsonObject:
        """The contact with this number or id; Meta may write the number of the only one differently."""
        for known in (bsuid, phone):
            if known and known in self._contacts:
                return self._contacts[known]
        contacts = self.items("contacts")
        items = sum(len(self.items(name)) for name in _LISTS)
        is_only = len(contacts) == items == 1 and not self.is_part
        only = shapes.mapping(contacts[0]) if is_only else {}
        return {} if bsuid and only.get("user_id") else only

    @cached_property
    def _contacts(self) -> dict[str | None, JsonObject]:
        return _by_address(self.raw)


Reader = Callable[[_Item, _Value], Event]


def _by_address(value: JsonObject) -> dict[str | None, JsonObject]:
    """Everybody a value lists, by number and by id."""
    listed = [contact for contact in shapes.listing(value.get("contacts")) if isinstance(contact, dict)]
    return {shapes.text(contact.get(key)): contact for contact in listed for key in ("wa_id", "user_id")}


def _mentioned(
    value: JsonObject, lists: Iterable[str], contacts: Mapping[str | None, JsonObject]
) -> list[JsonObject]:
    """Those of the contacts whom the items of these lists name."""
    items = [shapes.mapping(item) for name in lists for item in shapes.listing(value.get(name))]
    named = [
        contacts.get(shapes.text(item.get(key))) for item in items for key in _ADDRESS_KEYS if key in item
    ]
    return list({id(contact): contact for contact in named if contact}.values())


_LISTS = ("messages", "message_echoes", "statuses", "calls")
_ADDRESS_KEYS = ("from", "from_user_id", "to", "to_user_id", "recipient_id", "recipient_user_id")
_PHONE_KEYS = {"from": "from", "to": "to", "recipient": "recipient_id"}


def _contact(
    phone: str | None, bsuid: Any, parent_bsuid: Any, *, wa_id: Any = None, **profile: str | None
) -> Contact:
    """What is no phone number, and how WhatsApp writes one when that differs, is the id of the chat."""
    number, wa_id = shapes.phone(phone), shapes.identifier(wa_id) or shapes.identifier(phone)
    return Contact(
        phone=number,
        bsuid=shapes.identifier(bsuid),
        parent_bsuid=shapes.identifier(parent_bsuid),
        chat_id=None if wa_id == number else wa_id,
        **profile,
    )


# Readers: one item, one event.


def _message(item: _Item, value: _Value) -> Event:
    if item.type == "system":
        return _system(item, value)
    if item.raw.get("group_id") is not None:
        return _kept(item, value)  # a group is nobody's lead
    contact = value.contact(item, "from")
    return _change_of_message(item, contact, "customer") or Message(
        id=item.id, at=item.at, contact=contact, **_content(item)
    )


def _echo(item: _Item, value: _Value) -> Event:
    contact = value.contact(item, "to")
    return _change_of_message(item, contact, "business") or Echo(
        id=item.id, at=item.at, contact=contact, **_content(item)
    )


def _old_message(item: _Item, value: _Value) -> Event:
    """Ours names the customer in `to`, or comes from our own number."""
    number, sender = value.metadata.get("display_phone_number"), shapes.phone(item.raw.get("from"))
    is_from_us = sender is not None and sender == shapes.phone(number)
    is_ours = is_from_us or bool(item.raw.keys() & {"to", "to_user_id"})
    contact = value.contact(item, "to" if is_ours else "from")
    kind = Echo if is_ours else Message
    return _change_of_message(item, contact, "business" if is_ours else "customer") or kind(
        id=item.id, at=item.at, contact=contact, history=True, **_content(item)
    )


def _change_of_message(item: _Item, contact: Contact, by: Literal["customer", "business"]) -> Event | None:
    """Three types are no message of their own: they change an earlier one."""
    if item.type == "reaction":
        reaction = item.part("reaction")
        target, emoji = _target(reaction.get("message_id")), shapes.text(reaction.get("emoji"))
        return Reaction(id=item.id, at=item.at, contact=contact, target=target, by=by, emoji=emoji)
    if item.type == "edit":
        edit = item.part("edit")
        new = _Item(shapes.mapping(edit.get("message")), item.id, item.at, item.told_at)
        target, text, media = _target(edit.get("original_message_id")), _body(new), _media(new)
        return Edit(
            id=item.id, at=item.at, contact=contact, target=target, text=text, media=media, raw=item.raw
        )
    if item.type == "revoke":
        target = _target(item.part("revoke").get("original_message_id"))
        return Revoke(id=item.id, at=item.at, contact=contact, target=target)
    return None


def _target(id_: Any) -> str:
    if target := shapes.identifier(id_):
        return target
    raise OddShapeError("It does not say which message it changes.")


def _content(item: _Item) -> dict[str, Any]:
    """What a message of either side says."""
    is_text = item.type == "text"
    return {
        "type": item.type,
        "text": _body(item),
        "media": _media(item),
        "context": _context(item),
        "referral": item.part("referral") or None,
        "data": None if is_text or item.type in _MEDIA else item.raw.get(item.type),
        "raw": None if is_text and item.raw.keys() <= _MODELLED else item.raw,
    }


def _body(item: _Item) -> str | None:
    """The words of a message, wherever its type keeps them."""
    part = item.part(item.type)
    if item.type == "interactive":
        reply = shapes.mapping(part.get(shapes.text(part.get("type")) or ""))
        return shapes.text(reply.get("title")) or shapes.text(reply.get("body"))
    return shapes.text(part.get(_WORDS.get(item.type, "caption")))


def _media(item: _Item) -> Media | None:
    if item.type not in _MEDIA:
        return None
    part = item.part(item.type)
    return Media(
        id=shapes.identifier(part.get("id")),
        mime=shapes.text(part.get("mime_type")),
        sha256=shapes.text(part.get("sha256")),
        size=shapes.count(part.get("file_size")),
        filename=shapes.text(part.get("filename")),
        url=shapes.text(part.get("url")),
        voice=shapes.flag(part.get("voice")),
        animated=shapes.flag(part.get("animated")),
        expires_at=item.told_at + _KEPT,
    )


def _context(item: _Item) -> Context | None:
    context = item.part("context")
    if not context:
        return None
    frequently = shapes.flag(context.get("frequently_forwarded")) or False
    return Context(
        id=shapes.identifier(context.get("id")),
        forwarded=frequently or shapes.flag(context.get("forwarded")) or False,
        frequently_forwarded=frequently,
    )


def _system(item: _Item, value: _Value) -> Event:
    system = item.part("system")
    if system.get("type") not in ("user_changed_number", "user_changed_user_id"):
        return _kept(item, value)
    old = _contact(
        shapes.text(item.raw.get("from")),
        system.get("previous_user_id"),
        system.get("previous_parent_user_id"),
    )
    new = _contact(shapes.text(system.get("wa_id")), system.get("user_id"), system.get("parent_user_id"))
    if not old.is_known or not new.is_known:
        raise OddShapeError("It does not say who the customer was and is.")
    return Identity(id=item.id, at=item.at, contact=old, from_=old, to=new)


def _status(item: _Item, value: _Value) -> Event:
    if item.type == "call":
        return _call_status(item, value)
    status = shapes.text(item.raw.get("status")) or ""
    if status not in _STATUSES or item.raw.get("recipient_type") == "group":
        return _kept(item, value)
    return Status(
        id=item.id,
        at=item.at,
        contact=_recipient(item, value),
        status=status,
        error=_error(item),
        pricing=item.part("pricing") or None,
        conversation=_conversation(item),
        callback=shapes.text(item.raw.get("biz_opaque_callback_data")),
    )


def _recipient(item: _Item, value: _Value) -> Contact | None:
    """A status may do without: its message is known by its id."""
    try:
        return value.contact(item, "recipient")
    except OddShapeError:
        return None


def _error(item: _Item) -> JsonObject | None:
    errors = shapes.listing(item.raw.get("errors"))
    return _read_error(shapes.mapping(errors[0])) if errors else None


def _read_error(error: JsonObject) -> JsonObject:
    details = shapes.mapping(error.get("error_data")).get("details") or error.get("message")
    return {
        "code": shapes.count(error.get("code"), digits=9),
        "title": shapes.text(error.get("title")),
        "details": shapes.text(details),
    }


def _conversation(item: _Item) -> JsonObject | None:
    conversation = item.part("conversation")
    if not conversation:
        return None
    expires_at = shapes.unix_time(conversation.get("expiration_timestamp"))
    return {
        "id": shapes.text(conversation.get("id")),
        "origin": shapes.text(shapes.mapping(conversation.get("origin")).get("type")),
        "expires_at": expires_at and expires_at.isoformat(),
    }


def _call(item: _Item, value: _Value) -> Event:
    is_ours = item.raw.get("direction") == "BUSINESS_INITIATED"
    contact = value.contact(item, "to" if is_ours else "from")
    status = shapes.identifier(item.raw.get("event")) or "unknown"
    direction: Literal["inbound", "outbound"] = "outbound" if is_ours else "inbound"
    return Call(id=item.id, at=item.at, contact=contact, direction=direction, status=status.lower())


def _call_status(item: _Item, value: _Value) -> Event:
    """Only calls of ours ring, and are accepted or rejected."""
    status = shapes.identifier(item.raw.get("status")) or "unknown"
    contact = value.contact(item, "recipient")
    return Call(id=item.id, at=item.at, contact=contact, direction="outbound", status=status.lower())


def _preference(item: _Item, value: _Value) -> Event:
    """It has no id of its own; who wanted what and when is one."""
    wish = item.raw.get("value")
    if item.raw.get("category") != "marketing_messages" or wish not in ("stop", "resume"):
        return _kept(item, value)
    contact = _contact(
        shapes.text(item.raw.get("wa_id")), item.raw.get("user_id"), item.raw.get("parent_user_id")
    )
    if not contact.is_known:
        raise OddShapeError("It does not say who the customer is.")
    id_ = f"preference:{contact.bsuid or contact.phone or contact.chat_id}:{item.at.timestamp():.0f}:{wish}"
    return Preference(id=id_, at=item.at, contact=contact, category="marketing", value=wish)


def _contact_sync(item: _Item, value: _Value) -> Event:
    entry, action = item.part("contact"), item.raw.get("action")
    if item.type != "contact" or action not in ("add", "remove"):
        return _kept(item, value)
    contact = _contact(
        shapes.text(entry.get("phone_number")),
        entry.get("user_id"),
        entry.get("parent_user_id"),
        username=shapes.identifier(entry.get("username")),
    )
    if not contact.is_known:
        raise OddShapeError("It does not say who the contact is.")
    at = shapes.unix_time(item.part("metadata").get("timestamp")) or item.at
    name = shapes.text(entry.get("full_name")) or shapes.text(entry.get("first_name"))
    return ContactSync(id=None, at=at, contact=contact, name=name, action=action)


def _problem(item: _Item, value: _Value) -> Event:
    error = _read_error(item.raw)
    said = [error["title"], error["details"]]
    message = ": ".join(dict.fromkeys(filter(None, said))) or "The provider reports an error."
    return Problem(id=None, at=item.at, code=error["code"], message=message)


def _kept(item: _Item, value: _Value) -> Event:
    """Not modelled."""
    return Other(id=item.given_id, at=item.at, raw=item.raw)


# What each field of a change lists, and who reads it; history has levels of its own besides.
_READERS: Mapping[str, Mapping[str, Reader]] = {
    "messages": {"messages": _message, "statuses": _status, "errors": _problem},
    "smb_message_echoes": {"message_echoes": _echo, "errors": _problem},
    "smb_app_state_sync": {"state_sync": _contact_sync, "errors": _problem},
    "history": {"messages": _old_message, "errors": _problem},
    "user_preferences": {"user_preferences": _preference},
    "calls": {"calls": _call, "statuses": _status, "errors": _problem},
}
