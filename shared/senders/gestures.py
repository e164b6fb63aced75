"""What some providers can do besides sending. Nothing raises, and nothing is tried twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.senders.base import Credentials


@dataclass(frozen=True, kw_only=True)
class Inbound:
    """A customer's message, as far as it takes to show them that we saw it."""

    id: str  # the provider's
    sender: str
    account_id: str | None = None
    phone: str | None = None
    chat_id: str | None = None


class MarksRead(Protocol):
    async def mark_read(self, inbound: Inbound, credentials: Credentials) -> bool:
        """The customer sees that their message was read. Did the provider take it?"""


class ShowsTyping(Protocol):
    async def typing(self, inbound: Inbound, credentials: Credentials) -> bool:
        """The customer sees that it was read, and that somebody writes. Did the provider take it?"""


@dataclass(frozen=True, slots=True)
class ChatFacts:
    """What the phone's address book and labels say of a chat."""

    name: str | None
    labels: tuple[str, ...]


class KnowsChats(Protocol):
    async def chat(self, chat_id: str, credentials: Credentials) -> ChatFacts | None:
        """None: the provider does not know the chat, or did not say."""
