"""What a provider tells our webhook: single items, and the requests they go out in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from local.simulator.messages import Sent
    from local.simulator.world import Contact, Number
    from local.simulator.writing import Writing


@dataclass(frozen=True)
class Item:
    """One thing that happened. `kind` is the list it belongs to in the provider's own words."""

    kind: str
    id: str  # of the message it is about
    body: dict[str, Any]
    at: float
    about: dict[str, Any] | None = None  # Meta's contact, or the URL Twilio tells it to
    status: str | None = None


@dataclass(frozen=True)
class Letter:
    """A request to our webhook."""

    url: str
    headers: dict[str, str]
    content: bytes

    def proven_by(self, proof: str, value: str | None) -> Letter:
        """With another proof of who sent it, or with none at all."""
        kept = {name: said for name, said in self.headers.items() if name != proof}
        return replace(self, headers=kept if value is None else {**kept, proof: value})


@dataclass(frozen=True)
class Receipt:
    """What our webhook said; status is None when it could not be reached."""

    status: int | None
    said: str

    @property
    def accepted(self) -> bool:
        return self.status == 200


@dataclass(frozen=True)
class Said:
    """What a person would read of a message; and what the business wrote on its back, to know it again."""

    type: str
    text: str
    callback: str | None = None


@dataclass(frozen=True)
class Fate:
    """A status that is due: how many seconds from now, and what went wrong."""

    status: str
    after: float = 0.0
    code: int | None = None
    free: bool = False  # within a free entry point


class Voice(Protocol):
    """How a provider speaks."""

    statuses: tuple[str, ...]
    failed: tuple[str, ...]  # those of them that carry an error
    errors: Collection[int]
    proof: str  # the header that proves who speaks
    closed: int | None  # what free text outside the window fails with; None: there is no window

    def written(self, contact: Contact, writing: Writing) -> Item:
        """What a customer wrote, or the business on its phone. Raises BadInputError when nobody can here."""

    def said(self, item: Item) -> Said: ...

    def status(self, contact: Contact, sent: Sent, fate: Fate) -> Item: ...

    def letter(self, number: Number, items: list[Item]) -> Letter | None:
        """Items of one kind in one request; None when nobody wants to know."""

    def anything(self, number: Number, payload: object, raw: bytes | None) -> Letter:
        """Whatever a test wants to be posted, proven as the real thing."""

    def batch(self, kind: str) -> int:
        """How many items of a kind go out together at most."""

    def wait(self, attempts: int, receipt: Receipt) -> float | None:
        """Seconds until the next attempt after so many; None gives up."""
