"""A real Postgres for every test: one server a session, one template made once, clones of it for tests."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.types.json import Json

from local import database as bootstrap
from local import postgres
from local.postgres import free_port

__all__ = ["Db", "Server", "free_port"]

ROOT = Path(__file__).parent.parent
# needs extensions the embedded Postgres has not; `make test-postgres15` names the folder
collect_ignore = [] if "RECADO_POSTGRES_BIN" in os.environ else ["postgres15"]


@dataclass(frozen=True)
class Server:
    """A running server of the session."""

    port: int
    installation: postgres.Installation

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        return postgres.dsn(self.port, database, user)

    def superuser(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.dsn(database, postgres.SUPERUSER), autocommit=True) as connection:
            connection.execute(statement)

    def create(self, name: str, template: str = "template0") -> str:
        """A database owned by postgres, as the hosted one is."""
        self.superuser(f'create database "{name}" template "{template}" owner postgres')
        return name

    def drop(self, name: str) -> None:
        self.superuser(f'drop database if exists "{name}" with (force)')


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    installation = postgres.installation()
    with postgres.temporary(installation) as port:
        bootstrap.bootstrap(port)
        yield Server(port, installation)


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of a database with stand-ins and schema, without demo data: clone it, do not use it."""
    name = server.create("recado_template")
    bootstrap.bootstrap(server.port, name)
    bootstrap.apply(server.port, name, sorted((ROOT / "sql").glob("*.sql")))
    bootstrap.finish(server.port, name)
    return name


@pytest.fixture
def database(server: Server, template: str) -> Iterator[str]:
    """The DSN of a fresh clone, for tests that commit; dropped afterwards."""
    name = server.create(f"test_{uuid.uuid4().hex[:12]}", template)
    yield server.dsn(name)
    server.drop(name)


@pytest.fixture(scope="session")
def shared_database(server: Server, template: str) -> str:
    """The DSN of one clone that every rolled-back test uses."""
    return server.dsn(server.create("test_shared", template))


@pytest.fixture
def db(shared_database: str) -> Iterator[Db]:
    """One connection as role postgres, inside a transaction that is rolled back."""
    with psycopg.connect(shared_database, row_factory=dict_row) as connection:
        yield Db(connection)
        connection.rollback()


class Db:
    """Postgres as a test reads it: somebody runs a statement, rows come back."""

    def __init__(self, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self.connection = connection

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        cursor = self.connection.execute(statement, [_adapt(v) for v in values] or None)
        return cursor.fetchall() if cursor.description else []

    run = rows

    def row(self, statement: str, *values: Any) -> dict[str, Any]:
        (only,) = self.rows(statement, *values)
        return only

    def value(self, statement: str, *values: Any) -> Any:
        (value,) = self.row(statement, *values).values()
        return value

    def column(self, statement: str, *values: Any) -> list[Any]:
        return [next(iter(row.values())) for row in self.rows(statement, *values)]

    def sign_up(self, email: str, **meta: Any) -> uuid.UUID:
        """A confirmed sign-up, as the auth server writes it; returns the auth user's id."""
        auth_id: uuid.UUID = self.value(
            "insert into auth.users (id, aud, role, email, email_confirmed_at, raw_user_meta_data)"
            " values (gen_random_uuid(), 'authenticated', 'authenticated', %s, now(), %s) returning id",
            email,
            meta,
        )
        return auth_id

    @contextmanager
    def signed_in(self, auth_id: uuid.UUID | str) -> Iterator[None]:
        """Run a block as a person with a valid token, under RLS, as PostgREST would."""
        claims = {"sub": str(auth_id), "role": "authenticated", "aud": "authenticated"}
        with self._as("authenticated", claims):
            yield

    @contextmanager
    def as_service(self) -> Iterator[None]:
        with self._as("service_role", {"role": "service_role"}):
            yield

    @contextmanager
    def as_anon(self) -> Iterator[None]:
        with self._as("anon", {"role": "anon"}):
            yield

    @contextmanager
    def _as(self, role: str, claims: dict[str, str]) -> Iterator[None]:
        # a savepoint: a refused statement must neither end the test's transaction nor undo what came before
        self.connection.execute("savepoint somebody")
        self.connection.execute(f"set local role {role}")
        self.value("select set_config('request.jwt.claims', %s, true)", json.dumps(claims))
        try:
            yield
        finally:
            if self.connection.info.transaction_status == TransactionStatus.INERROR:
                self.connection.execute("rollback to savepoint somebody")
            self.connection.execute("reset role")
            self.value("select set_config('request.jwt.claims', '', true)")


def _adapt(value: Any) -> Any:
    return Json(value) if isinstance(value, dict | list) and not _is_array(value) else value


def _is_array(value: Any) -> bool:
    """A list of plain values goes as a Postgres array, a list of objects as jsonb."""
    return isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)
