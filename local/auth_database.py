"""The auth server's database: transactions over a pool; what Postgres refuses becomes an answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from local.accounts import Connection, Row
from local.auth_messages import AuthError, invalid
from local.events import log

REGISTERED = ("user_already_exists", "User already registered")
_TAKEN = ("email_exists", "A user with this email address has already been registered")
# Text that is too long, not UTF-8 or holds NUL; the last is found before it is sent.
_UNSTORABLE = ("22001", "22021", "22P05", None)


class Database:
    def __init__(self, dsn: str) -> None:
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # it reports each attempt
        # A connection that broke is replaced when one is next wanted. The pool's own attempts grow apart, so
        # it is told to give up soon: then the next request starts them anew.
        self._pool = AsyncConnectionPool(
            dsn,
            connection_class=psycopg.AsyncConnection[Row],
            kwargs={"row_factory": dict_row},
            min_size=1,
            max_size=10,
            timeout=3,
            reconnect_timeout=2,
            reconnect_failed=lambda _: log("database away", severity="WARNING"),
            check=AsyncConnectionPool.check_connection,
            open=False,
        )

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close(timeout=1)

    @asynccontextmanager
    async def transaction(self, taken: tuple[str, str] = _TAKEN) -> AsyncIterator[Connection]:
        """Commits at the end of the block. `taken` is what to say about an address that somebody has."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, PoolTimeout) as exc:
            message = "The database is not available: try again in a second"
            raise AuthError(503, "unavailable", message) from exc
        except psycopg.Error as exc:
            if exc.diag.constraint_name == "users_email_partial_key":
                raise AuthError(422, *taken) from exc
            raise _explained(exc) from exc


def _explained(exc: psycopg.Error) -> AuthError:
    """A trigger may choose the status with a SQLSTATE like PT409, as it does behind PostgREST."""
    message = exc.diag.message_primary or str(exc)
    if isinstance(exc, psycopg.DataError) and exc.sqlstate in _UNSTORABLE:
        return invalid(f"The database does not take this: {message}")
    log("database refused", severity="WARNING", sqlstate=exc.sqlstate, reason=message)
    state = exc.sqlstate or ""
    if state.startswith("PT") and state[2:].isdecimal():
        return AuthError(int(state[2:]), "database_refused", message, hint=exc.diag.message_hint)
    return AuthError(500, "unexpected_failure", f"Database error saving user: {message}")
