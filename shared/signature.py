"""How our own callers (pg_cron through pg_net) prove who they are: an HMAC over the time and the raw body."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping

from shared.errors import MissingSettingError, UnauthorizedError

TIMESTAMP = "x-recado-timestamp"
SIGNATURE = "x-recado-signature"
WINDOW = 300  # seconds, both ways: clocks differ, and a recorded call must not live for ever


def sign(secret: str, body: bytes, *, at: int) -> dict[str, str]:
    """The two headers that go with `body`."""
    return {TIMESTAMP: str(at), SIGNATURE: _signature(secret, str(at), body)}


def check(secrets: str, headers: Mapping[str, str], body: bytes) -> None:
    """Refuse what none of the comma-separated `secrets` signed within the window."""
    timestamp = headers.get(TIMESTAMP, "")
    if not _is_recent(timestamp):
        raise UnauthorizedError(hint=f"Sign the request now: {TIMESTAMP} must be within {WINDOW} seconds.")
    given = headers.get(SIGNATURE, "").encode()
    expected = [_signature(secret, timestamp, body).encode() for secret in _split(secrets)]
    if not any(hmac.compare_digest(given, one) for one in expected):
        raise UnauthorizedError(
            hint=f"{SIGNATURE} must be sha256=HMAC(secret, timestamp.body) over the raw body."
        )


def _signature(secret: str, timestamp: str, body: bytes) -> str:
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def _is_recent(timestamp: str) -> bool:
    is_number = timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12
    return is_number and abs(time.time() - int(timestamp)) <= WINDOW


def _split(secrets: str) -> list[str]:
    """An empty secret would let everybody in, so it is none at all."""
    found = [secret.strip() for secret in secrets.split(",") if secret.strip()]
    if not found:
        raise MissingSettingError(
            "FUNCTIONS_SECRET holds no secret.", hint="Set one, or two separated by a comma."
        )
    return found
