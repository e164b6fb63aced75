"""What a part of the outside world brings along: the paths it answers, and how tests move it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from starlette.routing import BaseRoute

Do = Callable[[dict[str, Any]], Awaitable[object]]


class Service(Protocol):
    def routes(self) -> list[BaseRoute]:
        """Below the service's own prefix; see app.py."""

    def controls(self) -> Mapping[str, Do]:
        """`POST /control/<name>`: a JSON object in, anything JSON out; BadInputError becomes a 400."""
