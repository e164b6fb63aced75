"""Small rules that say what JSON an API accepts, put together like the JSON itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[Any, str], None]  # (value, path)


class BrokenRuleError(Exception):
    """The value at `path` is not what it must be; `missing` says that it is not there at all."""

    def __init__(self, path: str, reason: str, *, missing: bool = False) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason
        self.missing = missing


def anything(value: Any, path: str) -> None:
    """Accepted as it is."""


def boolean(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise BrokenRuleError(path, "must be a boolean")


def number(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BrokenRuleError(path, "must be a number")


def within(least: float, most: float) -> Rule:
    def check(value: Any, path: str) -> None:
        number(value, path)
        if not least <= value <= most:
            raise BrokenRuleError(path, f"must be between {least:g} and {most:g}")

    return check


def text(shortest: int, longest: int) -> Rule:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise BrokenRuleError(path, "must be a string")
        if len(value) < shortest:
            raise BrokenRuleError(path, f"must be at least {shortest} characters long")
        if len(value) > longest:
            raise BrokenRuleError(path, f"must be at most {longest} characters long")

    return check


def matching(pattern: str, words: str) -> Rule:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise BrokenRuleError(path, f"must be {words}")

    return check


def one_of(*allowed: str) -> Rule:
    def check(value: Any, path: str) -> None:
        if value not in allowed:
            raise BrokenRuleError(path, f"must be one of {{{', '.join(allowed)}}}")

    return check


def array(item: Rule, fewest: int, most: int) -> Rule:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, list):
            raise BrokenRuleError(path, "must be an array")
        if not fewest <= len(value) <= most:
            raise BrokenRuleError(path, f"must have between {fewest} and {most} elements")
        for index, element in enumerate(value):
            item(element, f"{path}[{index}]")

    return check


def record(needed: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    """An object with these keys and no others."""
    known = {**needed, **(optional or {})}

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise BrokenRuleError(path, "must be an object")
        for key in value:
            if key not in known:
                raise BrokenRuleError(path, f'has an unexpected key "{key}"')
        for key in needed:
            if key not in value:
                raise BrokenRuleError(f"{path}['{key}']", "is required", missing=True)
        for key, element in value.items():
            known[key](element, f"{path}['{key}']")

    return check


def either(*rules: Rule) -> Rule:
    """The first that fits; otherwise the complaint of the last."""

    def check(value: Any, path: str) -> None:
        for rule in rules[:-1]:
            try:
                return rule(value, path)
            except BrokenRuleError:
                continue
        return rules[-1](value, path)

    return check
