"""The secrets of one platform: made at random on its first start, kept for its life."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Keys:
    """Everything here is a secret but the publishable key and the id of the app."""

    jwt_secret: str
    publishable_key: str
    secret_key: str
    functions_secret: str
    meta_app_id: str
    meta_app_secret: str
    meta_verify_token: str
    openai_api_key: str


def load(path: Path) -> Keys:
    """Read the keys, making those that there are none of yet."""
    known = json.loads(path.read_text()) if path.exists() else {}
    keys = asdict(_make()) | known
    if keys != known:
        write_private(path, json.dumps(keys, indent=2))
    return Keys(**keys)


def write_private(path: Path, text: str) -> None:
    """Replace a file that only its owner may read; a kill leaves the old one or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    beside.rename(path)


def _make() -> Keys:
    return Keys(
        jwt_secret=secrets.token_urlsafe(48),
        publishable_key="sb_publishable_" + secrets.token_urlsafe(24),
        secret_key="sb_secret_" + secrets.token_urlsafe(24),
        functions_secret=secrets.token_hex(32),
        meta_app_id=str(10**15 + secrets.randbelow(10**15)),
        meta_app_secret=secrets.token_hex(16),
        meta_verify_token=secrets.token_urlsafe(16),
        openai_api_key="sk-local-" + secrets.token_urlsafe(16),
    )
