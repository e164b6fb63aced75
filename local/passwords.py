"""Passwords: bcrypt hashes as the hosted auth server keeps them, never computed on the event loop."""

from __future__ import annotations

import asyncio
import re
import secrets

import bcrypt

MIN_LENGTH = 6
MAX_BYTES = 72  # bcrypt ignores the rest, so more is refused
_COST = 10
_HASH = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")
# Compared with when there is nobody: an unknown address takes as long as a wrong password.
_NOBODY = "$2a$10$7EqJtq98hPqEX7fNZaFWoOHi6Bs2pMYbHNkHrbgbCqLBTGBdFX2qK"


async def hashed(password: str) -> str:
    salt = bcrypt.gensalt(_COST, b"2a")
    return (await asyncio.to_thread(bcrypt.hashpw, password.encode(), salt)).decode()


async def matches(password: str, stored: str | None) -> bool:
    """Whether this is the password; takes its time also when nothing is stored."""
    usable = stored is not None and is_hash(stored) and len(password.encode()) <= MAX_BYTES
    attempt = password.encode()[:MAX_BYTES]
    same = await asyncio.to_thread(
        bcrypt.checkpw, attempt, (stored if usable and stored else _NOBODY).encode()
    )
    return same and usable


def is_hash(text: str) -> bool:
    return _HASH.fullmatch(text) is not None


def unguessable() -> str:
    """For an account made without a password."""
    return secrets.token_urlsafe(48)
