"""JSON from outside, read so that Postgres can store it: jsonb refuses NUL, lone surrogates and NaN.

Everything is repaired in the text or by the parser's own hooks, so nothing here walks the document in Python.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

DEEPEST = 100  # levels; what lies deeper is replaced by TOO_DEEP, long before a parser's stack ends
TOO_DEEP = '"[nested too deeply]"'
_LONGEST_INTEGER = 100  # digits; Python refuses 4301, and nothing of ours counts that far

_ESCAPES = re.compile(
    r"""
    (?P<good> (?: [^\\]++
                | \\[^u]
                | \\u(?!0000|d[89a-f])
                | \\ud[89ab]..\\ud[c-f]..
              )++ )
    | \\u....
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_TO_NEXT_BRACKET = re.compile(r'(?:[^][{}"]++|"(?:[^"\\]++|\\.)*+")*+([][{}]|"|\Z)', re.DOTALL)


def clean(text: str) -> str:
    """Text that was no JSON, and is decoded already."""
    return text.replace("\0", "\ufffd")


def decode(body: bytes) -> Any:
    """The document, with U+FFFD for characters Postgres has no place for. Raises ValueError if it is none."""
    text = clean(body.decode(errors="replace"))
    if "\\u0000" in text or "\\ud" in text or "\\uD" in text:
        text = _ESCAPES.sub(lambda found: found["good"] or "\\ufffd", text)
    if text.count("[") + text.count("{") > DEEPEST:
        text = _flattened(text)
    try:
        return _decode(text)
    except RecursionError as exc:  # brackets that never close
        raise ValueError("nested too deeply") from exc


def _flattened(text: str) -> str:
    kept, depth, start, end = [], 0, 0, 0
    for found in _TO_NEXT_BRACKET.finditer(text):
        bracket = found[1]
        if bracket in ("[", "{"):
            if depth == DEEPEST:
                start = found.start(1)
            depth += 1
        elif bracket in ("]", "}"):
            depth -= 1
            if depth == DEEPEST:
                kept += [text[end:start], TOO_DEEP]
                end = found.end()
    return "".join([*kept, text[end:]])


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else digits


def _float(digits: str) -> float | str:
    value = float(digits)
    return value if math.isfinite(value) else digits


# strict=False: a raw line break inside a string spoils nothing
_decode = json.JSONDecoder(
    strict=False, parse_int=_integer, parse_float=_float, parse_constant=lambda name: name
).decode
