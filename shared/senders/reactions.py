"""What the errors of providers mean for a message. Each provider has one table of them, in its module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.senders.base import Outcome

MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Reaction:
    """What an error means for the message that got it."""

    outcome: Outcome
    pause: int | None = None  # seconds, when the provider names none itself
    tries: int | None = None  # sends it is worth, the first included; then the message has failed


def reaction_to(
    table: Mapping[int, Reaction], code: int | None, status: int, *, fault: Outcome = "unknown"
) -> Reaction:
    """Codes come without notice. `fault`: what a new one means when the provider takes the blame."""
    if code is not None and code in table:
        return table[code]
    if status == 429:
        return Reaction("slow_number")
    return Reaction(fault if status >= 500 else "invalid")
