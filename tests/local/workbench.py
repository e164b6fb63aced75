"""Fixtures of the stand-ins' tests: a database with next to nothing of the product, and workers on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from local import database as bootstrap
from local import postgres
from tests.conftest import Server

ROOT = Path(__file__).parent.parent.parent
# a worker waits for news once the connection of this name has done this
READY = {"net": ("pg_net", "COMMIT"), "cron": ("pg_cron launcher", "%from cron.job where active%")}
_WAITS = """
    select 1 from pg_stat_activity
    where datname = current_database() and application_name = %s and query like %s and state = 'idle'"""

Sql = Callable[..., list[dict[str, Any]]]
StartWorker = Callable[[str], subprocess.Popen[bytes]]
Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="session")
def bare_template(server: Server) -> str:
    """What our first migration finds on a hosted project, and the ground of our own schema."""
    name = server.create("recado_bare")
    bootstrap.bootstrap(server.port, name)
    bootstrap.apply(server.port, name, [ROOT / "sql/00_base.sql"])
    bootstrap.finish(server.port, name)
    return name


@pytest.fixture
def bare(server: Server, bare_template: str) -> Iterator[str]:
    """The name of a fresh clone, dropped afterwards."""
    name = server.create(f"bare_{uuid.uuid4().hex[:12]}", bare_template)
    yield name
    server.drop(name)


@pytest.fixture
def sql(server: Server, bare: str) -> Iterator[Sql]:
    """Statements of role postgres on the clone, each committed at once."""
    with psycopg.connect(server.dsn(bare), autocommit=True, row_factory=dict_row) as connection:

        def run(statement: str, *values: Any) -> list[dict[str, Any]]:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture
def lose_connections(server: Server, bare: str) -> Callable[[], None]:
    """End every session of the workers, as a restart of the server would."""
    return lambda: server.superuser(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name like 'pg!_%' escape '!'",
        bare,
    )


@pytest.fixture
def until() -> Until:
    """Repeat a question until its answer is true, and return it."""

    def ask(question: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 20
        while not (answer := question()):
            assert time.monotonic() < deadline, "waited 20 seconds in vain"
            time.sleep(0.02)
        return answer

    return ask


@pytest.fixture
def start_worker(server: Server, bare: str, sql: Sql, until: Until) -> Iterator[StartWorker]:
    """Start `python -m local.<name>`; in the end it must stop with 0 when asked to, or the test killed it."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "DATABASE_URL": server.dsn(bare, postgres.SUPERUSER)}
        process = subprocess.Popen([sys.executable, "-m", f"local.{name}"], env=env)
        processes.append(process)
        until(lambda: sql(_WAITS, *READY[name]))
        return process

    yield start
    _end(processes)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    try:
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            process.terminate()
        assert [process.wait(timeout=10) for process in alive] == [0] * len(alive)
    finally:
        for process in processes:
            process.kill()
