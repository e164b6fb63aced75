"""What providers tell us, in our own words: adapters make these, the RPC webhook_receive stores them.

A `Payload` is one change of one delivery, applied or kept as failed on its own; its events are in order.
In JSON an absent key means null, and `kind` says which event it is.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

JsonObject = dict[str, Any]
Provider = Literal["cloud_api", "whapi", "twilio"]


@dataclass(frozen=True, kw_only=True)
class Contact:
    """The customer, as far as the provider gives them away; any of it may be missing."""

    phone: str | None = None  # 8 to 15 digits
    bsuid: str | None = None
    parent_bsuid: str | None = None
    username: str | None = None
    chat_id: str | None = None
    profile_name: str | None = None

    @property
    def is_known(self) -> bool:
        return bool(self.phone or self.bsuid or self.chat_id)


@dataclass(frozen=True, kw_only=True)
class Media:
    """A file the provider holds for us; its caption is the text of the message."""

    id: str | None = None
    mime: str | None = None
    sha256: str | None = None
    size: int | None = None
    filename: str | None = None
    url: str | None = None
    voice: bool | None = None
    animated: bool | None = None
    expires_at: datetime | None = None  # until then the provider keeps it


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a message answers, or that it was forwarded (then without an id)."""

    id: str | None = None
    forwarded: bool = False
    frequently_forwarded: bool = False


@dataclass(frozen=True, kw_only=True)
class Event:
    """`at` is the provider's time."""

    kind: ClassVar[str]
    id: str | None
    at: datetime
    contact: Contact | None = None


@dataclass(frozen=True, kw_only=True)
class Message(Event):
    """A customer wrote. `history` is a message from before we were connected: stored, never answered."""

    kind = "message"
    type: str
    text: str | None = None
    media: Media | None = None
    context: Context | None = None
    referral: JsonObject | None = None
    data: Any = None
    raw: JsonObject | None = None
    history: bool = False


@dataclass(frozen=True, kw_only=True)
class Echo(Message):
    """The business wrote, on the phone or another client; the contact is the customer."""

    kind = "echo"


@dataclass(frozen=True, kw_only=True)
class Status(Event):
    kind = "status"
    status: str
    error: JsonObject | None = None
    pricing: JsonObject | None = None
    conversation: JsonObject | None = None
    callback: str | None = None


@dataclass(frozen=True, kw_only=True)
class Edit(Event):
    kind = "edit"
    target: str
    text: str | None = None
    media: Media | None = None
    raw: JsonObject | None = None


@dataclass(frozen=True, kw_only=True)
class Revoke(Event):
    kind = "revoke"
    target: str


@dataclass(frozen=True, kw_only=True)
class Reaction(Event):
    """Without an emoji the reaction was taken back."""

    kind = "reaction"
    target: str
    by: Literal["customer", "business"]
    emoji: str | None = None


@dataclass(frozen=True, kw_only=True)
class Identity(Event):
    """The same person under a new number or id."""

    kind = "identity"
    from_: Contact
    to: Contact


@dataclass(frozen=True, kw_only=True)
class Preference(Event):
    kind = "preference"
    category: Literal["marketing"]
    value: Literal["stop", "resume"]


@dataclass(frozen=True, kw_only=True)
class Call(Event):
    kind = "call"
    direction: Literal["inbound", "outbound"]
    status: str


@dataclass(frozen=True, kw_only=True)
class ContactSync(Event):
    """An entry of the business's own address book: "add" also when it was edited."""

    kind = "contact_sync"
    name: str | None
    action: Literal["add", "remove"]


@dataclass(frozen=True, kw_only=True)
class Account(Event):
    """Something happened to what the business has at the provider; the last one, by `at`, holds.

    A payload of these has no `number`: its `account` routes it, or the `phone` in `data`. By subject:
    template_status      {template_id, name, language, category, status, reason}
    template_quality     {template_id, name, language, quality: GREEN | YELLOW | RED | UNKNOWN}
    template_category    {template_id, name, language, category, previous, correct}; without a category it is
                         the announcement that it will become `correct`
    template_components  {template_id, name, language, components: as Graph lists them}
    number_quality       {phone, event, limit}
    number_name          {phone, name, decision, reason}
    number_username      {phone, username, status}
    capability           {limit, max_numbers}
    account              {event, phone, reason, details: the whole value}
    alert                {severity, status, type, message}
    review               {decision}
    security             {event, phone, requester}
    `limit`: customers a day outside windows; null when there is none, absent when it was not told. Events,
    categories, decisions and statuses are in lower case.
    """

    kind = "account"
    subject: str
    data: JsonObject


@dataclass(frozen=True, kw_only=True)
class Problem(Event):
    """The provider reports that something is wrong with the number, and with no message of it."""

    kind = "problem"
    code: int | None
    message: str


@dataclass(frozen=True, kw_only=True)
class Other(Event):
    """Not modelled, or with an `error` not understood: kept as it came."""

    kind = "other"
    raw: Any
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Payload:
    """`delivery_id` is the same whenever the same delivery is repeated; `number` routes it to a tenant."""

    provider: Provider
    delivery_id: str
    received_at: datetime
    account: str | None = None
    number: str | None = None
    field: str | None = None
    payload: JsonObject | None = None
    raw: bytes | None = None  # only what could not be understood, with the error
    error: str | None = None
    events: tuple[Event, ...] = ()

    def to_json(self) -> bytes:
        return _encode(self).encode()


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of one payload. `product_events`: what it told for the first time, as the log says it."""

    status: Literal["applied", "failed", "duplicate"]
    stored: int
    repeated: int
    error: str | None = None
    product_events: Sequence[JsonObject] = ()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode()
    fields = {name: held for name, held in vars(value).items() if held is not None}
    if isinstance(value, Event):
        fields["kind"] = value.kind
    if isinstance(value, Identity):
        fields["from"] = fields.pop("from_")
    return fields


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain).encode
