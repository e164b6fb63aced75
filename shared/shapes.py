"""JSON from outside has any shape: each of these answers with the shape asked for, or with nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from shared.events import JsonObject

LONGEST_ID = 256  # what an identity of a lead may have


class OddShapeError(Exception):
    """Something is missing without which an item means nothing."""


def mapping(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """One thing where a list belongs is a list of one."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def text(value: Any) -> str | None:
    """Ids come as numbers now and then."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def identifier(value: Any) -> str | None:
    found = text(value)
    return found if found and len(found) <= LONGEST_ID else None


def phone(value: Any) -> str | None:
    """8 to 15 digits, as WhatsApp writes numbers."""
    digits = (text(value) or "").removeprefix("+")
    is_number = digits.isascii() and digits.isdecimal() and 8 <= len(digits) <= 15
    return digits if is_number and digits[0] != "0" else None


def digits(value: Any) -> str | None:
    """A phone number without the signs people write between its digits: +1 202-555-0100."""
    return phone("".join(sign for sign in text(value) or "" if sign not in "+-() ."))


def lower(value: Any) -> str | None:
    found = identifier(value)
    return found and found.lower()


def count(value: Any, digits: int = 18) -> int | None:
    """18 digits fit a bigint, 9 an int."""
    number = text(value) or ""
    return int(number) if number.isascii() and number.isdecimal() and len(number) <= digits else None


def flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def unix_time(value: Any) -> datetime | None:
    """Seconds, as number or text; up to the year 5138."""
    seconds = count(value)
    return None if seconds is None or seconds >= 10**11 else datetime.fromtimestamp(seconds, UTC)
