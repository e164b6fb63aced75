"""What every provider is given to send, and what it answers in return. See registry.py for who they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from shared.events import JsonObject

Outcome = Literal[
    "sent",
    "unknown",  # nobody knows: never sent again by itself, a status may still tell
    "retry",
    "slow_number",
    "slow_pair",
    "pause_bulk",  # this one failed, and whatever is not an answer waits
    "needs_template",
    "opted_out",
    "unreachable",  # this customer cannot be reached on WhatsApp; no proof that they never will be
    "invalid",
    "stop_channel",
]

Capability = Literal[
    "window",  # free text only for 24 hours after the customer wrote
    "templates",
    "media_by_id",
    "interactive",
    "reactions",
    "quotes",  # without it an answer goes out as a message of its own
    "reference",  # statuses bring our own id back, so that an unknown send can be told
    "mark_read",
    "typing",
]


@dataclass(frozen=True, kw_only=True)
class Message:
    """To a chat, a phone or a business-scoped id, whichever the provider prefers.

    `data` by type: {"media": {"id"} or {"link"}, "filename"?, "mime"?}, whose caption is `content`;
    {"template": {"name", "language", "components", "provider_template_id", "variables"}};
    {"interactive": Graph's object}; {"target", "emoji"} for a reaction, without emoji to take it back.
    """

    id: str  # ours
    sender: str  # the provider's id of our number
    number_id: str | None = None  # ours
    account_id: str | None = None
    phone_number: str | None = None  # ours, in digits
    phone: str | None = None
    bsuid: str | None = None
    chat_id: str | None = None
    type: str = "text"
    content: str | None = None
    data: JsonObject = field(default_factory=dict)
    reply_to: str | None = None
    attempts: int = 1  # this send included


@dataclass(frozen=True)
class Credentials:
    """Kept out of repr()."""

    token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    outcome: Outcome
    wa_message_id: str | None = None
    error_code: int | None = None
    error_message: str | None = None
    retry_after_seconds: float | None = None


class UnsendableError(Exception):
    """The message cannot leave as it is. Its text says why, to the people who wrote it."""

    outcome: Outcome = "invalid"


class NotConnectedError(UnsendableError):
    """Nothing can leave through this number until somebody connects it again."""

    outcome: Outcome = "stop_channel"


class Sender(Protocol):
    """A provider. Nothing raises for what it or the network does."""

    @property
    def capabilities(self) -> frozenset[Capability]: ...
    async def send(self, message: Message, credentials: Credentials) -> Result: ...
