"""PostgREST, auth server and gateway as real processes over a clone of the test database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from local import parts
from local.processes import child_setup
from tests.conftest import Server, free_port

JWT_SECRET = "a-secret-of-the-tests-with-more-than-32-characters"
PUBLISHABLE = "sb_publishable_tests"
SECRET = "sb_secret_tests"
ROOT = Path(__file__).parents[2]

NOTES = """
    create table public.notes (
        id uuid primary key default gen_random_uuid(),
        owner uuid not null default auth.uid(),
        body text not null
    );
    alter table public.notes enable row level security;
    grant select, insert, update, delete on public.notes to authenticated, service_role;
    grant select on public.notes to anon;
    create policy notes_all_owner on public.notes for all to authenticated
        using (owner = (select auth.uid())) with check (owner = (select auth.uid()));
"""


@dataclass
class Stack:
    """The running platform, and the processes a test may kill."""

    url: str
    dsn: str
    rest_port: int
    auth_port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def token(self, secret: str = JWT_SECRET, algorithm: str = "HS256", **claims: Any) -> str:
        """A token as the auth server makes it, unless told otherwise."""
        usual = {"role": "authenticated", "sub": "00000000-0000-4000-8000-000000000001"}
        payload = {**usual, "exp": int(time.time()) + 60, **claims}
        payload = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode(payload, secret if algorithm != "none" else "", algorithm)

    def start_rest(self) -> None:
        env = {
            "PGRST_DB_URI": psycopg.conninfo.make_conninfo(self.dsn, user="authenticator"),
            "PGRST_DB_SCHEMAS": "public",
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_DB_POOL": "10",
            "PGRST_JWT_SECRET": JWT_SECRET,
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(self.rest_port),
            "PGRST_LOG_LEVEL": "crit",
        }
        self.processes["rest"] = start([parts.postgrest_program()], env)

    def start_auth(self) -> None:
        dsn = psycopg.conninfo.make_conninfo(self.dsn, user="supabase_auth_admin")
        env = {
            "DATABASE_URL": dsn,
            "JWT_SECRET": JWT_SECRET,
            "SUPABASE_URL": self.url,
            "RECADO_PORT": str(self.auth_port),
        }
        self.processes["auth"] = start([sys.executable, "-m", "local.auth"], env)

    def wait_until_ready(self) -> None:
        wait_for(f"{self.url}/health")


@pytest.fixture(scope="session")
def stack(server: Server, template: str) -> Iterator[Stack]:
    database = server.create("test_gateway", template)
    with psycopg.connect(server.dsn(database), autocommit=True) as connection:
        connection.execute(NOTES)
    port = free_port()
    running = Stack(f"http://127.0.0.1:{port}", server.dsn(database), free_port(), free_port())
    with ExitStack() as cleanup:
        cleanup.callback(lambda: [end(process) for process in running.processes.values()])
        running.start_rest()
        running.start_auth()
        rest, auth = f"http://127.0.0.1:{running.rest_port}", f"http://127.0.0.1:{running.auth_port}"
        cleanup.enter_context(gateway(port, rest, auth))
        running.wait_until_ready()
        yield running
    server.drop(database)


@contextmanager
def gateway(
    port: int, rest: str, auth: str, functions: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway process, for the length of a block."""
    env = {
        "RECADO_PORT": str(port),
        "REST_URL": rest,
        "AUTH_URL": auth,
        "FUNCTION_URLS": json.dumps(dict(functions or {})),
        "JWT_SECRET": JWT_SECRET,
        "PUBLISHABLE_KEY": PUBLISHABLE,
        "SECRET_KEY": SECRET,
    }
    process = start([sys.executable, "-m", "local.gateway"], env)
    try:
        wait_for(f"http://127.0.0.1:{port}/nothing", expected=404)
        yield process
    finally:
        end(process)


def start(argv: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process that ends with us, whatever happens."""
    return subprocess.Popen(
        argv,
        env={"PATH": os.environ["PATH"], **env},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        preexec_fn=child_setup(signal.SIGKILL, None),
    )


def end(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def wait_for(url: str, expected: int = 200, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while status(url) != expected:
        assert time.monotonic() < deadline, f"{url} did not answer {expected} within {seconds} s"
        time.sleep(0.05)


def status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0
