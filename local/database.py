"""What a hosted database already holds before our first migration, and what only a local one has after it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psycopg

from local import postgres

STAND_INS = Path(__file__).parent / "sql"  # 10 to 89 come before our schema, 90 and above after it


def bootstrap(port: int, database: str = "postgres") -> None:
    """Roles, auth, vault, net, cron, realtime and storage, under their hosted names."""
    _apply(port, database, postgres.SUPERUSER, _files("[1-8]*.sql"))


def finish(port: int, database: str = "postgres") -> None:
    """What replaces parts of our own schema on a local machine: the clock that can be moved."""
    _apply(port, database, postgres.SUPERUSER, _files("9*.sql"))


def apply(port: int, database: str, files: Iterable[Path]) -> None:
    """Our own schema, straight from its source files, as the role that owns it."""
    _apply(port, database, "postgres", files)


def _files(pattern: str) -> list[Path]:
    return sorted(STAND_INS.glob(pattern))


def _apply(port: int, database: str, user: str, files: Iterable[Path]) -> None:
    with psycopg.connect(postgres.dsn(port, database, user), autocommit=True) as connection:
        for file in files:
            connection.execute(file.read_text())
