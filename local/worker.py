"""What the workers beside the database share: they outlive its restarts, log JSON, and end on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from local.events import log

Connection = psycopg.AsyncConnection[dict[str, Any]]
Serve = Callable[[str], Awaitable[None]]

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


def run(name: str, serve: Serve) -> None:
    """Serve the database at DATABASE_URL until SIGTERM."""
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_until_terminated(name, serve, os.environ["DATABASE_URL"]))


async def connect(url: str, name: str) -> Connection:
    return await psycopg.AsyncConnection.connect(
        url, autocommit=True, application_name=name, row_factory=dict_row
    )


async def rows(
    connection: Connection, statement: LiteralString, values: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    return await (await connection.execute(statement, values)).fetchall()


async def notified(connection: Connection, seconds: float) -> None:
    """Return at the first notification, one that came earlier included, or when the time is over."""
    async for _ in connection.notifies(timeout=seconds, stop_after=1):
        pass
    async for _ in connection.notifies(timeout=0):  # the rest of a burst asks for nothing more
        pass


async def _until_terminated(name: str, serve: Serve, url: str) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    log(f"{name} worker started")
    wait = _FIRST_WAIT
    while True:
        began = time.monotonic()
        try:
            await serve(url)
        except* psycopg.Error as lost:
            log(f"{name} worker lost the database", "WARNING", error=str(lost.exceptions[0]), retry_in=wait)
        await asyncio.sleep(wait)
        lasted = time.monotonic() - began
        wait = _FIRST_WAIT if lasted > 2 * _LONGEST_WAIT else min(wait * 2, _LONGEST_WAIT)
