"""Sequence files through a project's API: export and import, as an admin or with the secret key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.errors import UnauthorizedError, UpstreamError, http_errors
from shared.events import JsonObject
from shared.settings import Settings

if TYPE_CHECKING:
    import httpx

MODES = ("update", "create", "replace", "check")
_SECONDS = 70.0  # the database gives an import a minute


class Refused(Exception):  # noqa: N818  # what became of a file, no mistake of a program
    """The project did not do it. `faults` are all that is wrong with a file, as (path, fault)."""

    def __init__(self, message: str, hint: str | None, faults: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.message, self.hint, self.faults = message, hint, faults


@dataclass(frozen=True)
class Library:
    """The sequences of one business."""

    client: httpx.Client
    tenant_id: str | None = None  # for the secret key, which belongs to nobody

    @classmethod
    def of_person(
        cls, settings: Settings, email: str, password: str, transport: httpx.BaseTransport | None = None
    ) -> Library:
        """As an admin with their password: it is the business that they are of."""
        client = _client(settings, settings.supabase_anon_key, transport)
        with http_errors():
            answer = client.post(
                "/auth/v1/token?grant_type=password", json={"email": email, "password": password}
            )
        if answer.is_client_error:
            raise UnauthorizedError(
                f"{email} could not sign in.",
                hint="Check the e-mail, the password and SUPABASE_URL.",
            )
        with http_errors():
            answer.raise_for_status()
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return cls(client)

    @classmethod
    def of_machine(
        cls, settings: Settings, tenant_id: str, transport: httpx.BaseTransport | None = None
    ) -> Library:
        """With the secret key, for the business named: `users.id` of its owner."""
        key = settings.supabase_service_role_key
        client = _client(settings, key, transport)
        client.headers["Authorization"] = f"Bearer {key}"
        return cls(client, tenant_id)

    def export(self, names: Sequence[str] = ()) -> JsonObject:
        """A file of these sequences, or of all."""
        return self._call("sequences_export", {"p_names": list(names) or None})

    def take(self, file: Any, mode: str = "update") -> JsonObject:
        """Import a file, whole or not at all: {"mode", "sequences": [{"name", "outcome", …}], "deleted"}."""
        return self._call("sequences_import", {"p_document": file, "p_mode": mode})

    def _call(self, function: str, arguments: Mapping[str, Any]) -> JsonObject:
        named = {"p_tenant_id": self.tenant_id, **arguments} if self.tenant_id else arguments
        path = f"/rest/v1/rpc/{'tenant_' if self.tenant_id else ''}{function}"
        with http_errors():
            answer = self.client.post(path, json=named)
            if answer.is_client_error:
                raise _refusal(answer)
            answer.raise_for_status()
        made = answer.json()
        if not isinstance(made, dict):
            raise UpstreamError(f"{function} answered with something else than an object.")
        return made


def _client(settings: Settings, key: str, transport: httpx.BaseTransport | None) -> httpx.Client:
    import httpx

    return httpx.Client(
        base_url=settings.supabase_url,
        headers={"apikey": key},
        timeout=_SECONDS,
        transport=transport,
    )


def _refusal(answer: httpx.Response) -> Refused:
    """What the database said; a proxy in its place may have said anything."""
    try:
        told = answer.json()
        message, details = told.get("message"), told.get("details")
    except (ValueError, AttributeError):
        message = None
    if not message:
        return Refused(f"The project refused it with HTTP {answer.status_code}.", None)
    try:
        read = json.loads(details or "{}")
    except ValueError:  # words of Postgres
        return Refused(str(message), details)
    faults = read.get("faults", []) if isinstance(read, dict) else []
    return Refused(str(message), told.get("hint"), [(fault["path"], fault["fault"]) for fault in faults])
