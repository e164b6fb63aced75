"""The providers whose webhooks we take. A new one is a module like these, and its row here.

Their routes in the webhook function: /cloud-api, whose secrets belong to the app, and /<name>/{number_id} of
the others, whose secrets belong to the number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from shared import cloud_api, twilio, whapi

if TYPE_CHECKING:
    from shared.channel_keys import Keys
    from shared.events import Payload
    from shared.runtime import Request


class Adapter(Protocol):
    """What a module of a provider has."""

    @property
    def SIGNATURE(self) -> str:  # noqa: N802
        """The header, in lower case, that every request of theirs carries."""

    @property
    def ANSWER(self) -> tuple[str, str] | None:  # noqa: N802
        """Body and content type they want for a yes; None: they read only the status."""

    def verify(self, request: Request, keys: Keys) -> None:
        """UnauthorizedError, unless one of the secrets signed it."""

    def parse(
        self, body: bytes, *, received_at: datetime, keys: Keys, query: Mapping[str, str]
    ) -> Iterator[Payload]:
        """At least one payload, whatever the body is, made as they are asked for. Never an exception."""


# by the first part of the route
PROVIDERS: Mapping[str, Adapter] = {"cloud-api": cloud_api, "twilio": twilio, "whapi": whapi}
OF_THE_APP = "cloud-api"
