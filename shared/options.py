"""Environment variables that may be left out, each declared once, with what holds then."""

from __future__ import annotations

from typing import overload

from shared.errors import MissingSettingError
from shared.settings import Setting, Settings


class Option(Setting):
    """A text."""

    def __init__(self, purpose: str, default: str) -> None:
        super().__init__(purpose)
        self.default = default

    def read(self, settings: Settings) -> str:
        return settings.environ.get(self.name, "").strip() or self.default


class Number:
    """A number above zero."""

    def __init__(self, purpose: str, default: float) -> None:
        self.purpose = purpose
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.upper()

    @overload
    def __get__(self, settings: None, owner: type) -> Number: ...
    @overload
    def __get__(self, settings: Settings, owner: type) -> float: ...
    def __get__(self, settings: Settings | None, owner: type) -> Number | float:
        return self if settings is None else self.read(settings)

    def read(self, settings: Settings) -> float:
        given = settings.environ.get(self.name, "").strip()
        try:
            value = float(given or self.default)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise MissingSettingError(
                f"{self.name} ({self.purpose}) is {given!r}.",
                hint="Set it to a number above 0, or leave it out.",
            )
        return value
