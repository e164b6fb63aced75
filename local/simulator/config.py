"""What the simulator is told by its environment, and what can be changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local.errors import PlatformError


@dataclass(frozen=True)
class Config:
    port: int
    database_url: str = field(repr=False)
    functions_url: str
    meta_app_id: str
    meta_app_secret: str = field(repr=False)
    meta_verify_token: str = field(repr=False)
    openai_api_key: str = field(repr=False)
    file: Path  # everything the simulator must still know after it was killed

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Config:
        return cls(
            port=int(_needed(environ, "RECADO_PORT")),
            database_url=_needed(environ, "DATABASE_URL"),
            functions_url=_needed(environ, "FUNCTIONS_URL").rstrip("/"),
            meta_app_id=_needed(environ, "META_APP_ID"),
            meta_app_secret=_needed(environ, "META_APP_SECRET"),
            meta_verify_token=_needed(environ, "META_VERIFY_TOKEN"),
            openai_api_key=_needed(environ, "OPENAI_API_KEY"),
            file=Path(_needed(environ, "SIMULATOR_DB")),
        )


@dataclass(frozen=True)
class Tuning:
    """How this world behaves when nothing goes wrong."""

    sent_ms: int = 50
    delivered_ms: int = 100
    read_ms: int = 200
    model_ms: int = 150
    rate_limits: bool = False  # 80 messages/s a number, one per 6 s (45 at once) a customer
    whapi_trial: bool = False  # 5 chats a month, 150 messages a day
    twilio_sha256: bool = False  # webhooks signed as an account with a signing key of its own has them
    # Somebody whose messages went past this world (posted straight to the webhook) is a stranger to it.
    strangers_window_open: bool = False


def _needed(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "").strip()
    if not value:
        raise PlatformError(f"{name} is not set: the simulator cannot start without it.")
    return value
