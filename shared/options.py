"""Environment variables that may be left out, each declared once, with what holds then."""

from __future__ import annotations

from typing import overload
from urllib.parse import urlsplit

from shared.errors import MissingSettingError
from shared.settings import Setting, Settings

_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


class Option(Setting):
    """A text."""

    def __init__(self, purpose: str, default: str) -> None:
        super().__init__(purpose)
        self.default = default

    def read(self, settings: Settings) -> str:
        return settings.environ.get(self.name, "").strip() or self.default


class Url(Option):
    """Where a service is that gets our secrets: https, or http on this machine. Ends without a slash."""

    def read(self, settings: Settings) -> str:
        given = super().read(settings).rstrip("/")
        if not is_safe_url(given):
            raise MissingSettingError(
                f"{self.name} ({self.purpose}) is no address a secret may be sent to.",
                hint="Set it to an https address without user, query or fragment (plain http only on this "
                "machine), or leave it out.",
            )
        return given


def is_safe_url(url: str) -> bool:
    """What is sent there can be read by nobody on the way."""
    try:
        parts = urlsplit(url)
        name = parts.hostname
    except ValueError:
        return False
    is_private = parts.scheme == "https" or (parts.scheme == "http" and name in _THIS_MACHINE)
    return is_private and bool(name) and "@" not in parts.netloc and not parts.query and not parts.fragment


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
