"""Whole platforms, started and stopped the way a person does it: with the `recado` command."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from local import state
from local.layout import Layout

RECADO = [sys.executable, "-m", "local.cli"]


@dataclass(frozen=True)
class Platform:
    """A platform of this test run: its data directory, its port, and the command line that steers it."""

    data: Path
    port: int
    environ: dict[str, str]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*RECADO, *arguments, "--data", str(self.data)],
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def up(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self.command("up", "--detach", "--port", str(self.port), *more)

    def down(self) -> None:
        self.command("down")

    @property
    def env(self) -> dict[str, str]:
        lines = (self.data / "env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def state(self) -> state.State:
        found = state.read(Layout(self.data, self.port, self.data / "env"))
        assert found is not None
        return found

    def pid(self, part: str) -> int:
        return next(found.pid for found in self.state.parts if found.name == part)

    def processes(self) -> list[psutil.Process]:
        """Every process that has anything to do with this platform, found from outside."""
        marks = (str(self.data), f":{self.port}", f"={self.port}")
        return [process for process in psutil.process_iter() if _mentions(process, marks)]

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.env["DATABASE_URL"], autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def execute(self, statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """With parameters by name."""
        with psycopg.connect(self.env["DATABASE_URL"], autocommit=True) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []


@contextmanager
def temporary_platform(**environ: str) -> Iterator[Platform]:
    """Not started yet; stopped and removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="recado-e2e-"))
    made = Platform(home / "data", free_base_port(), environ)
    try:
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


def free_base_port(span: int = 30) -> int:
    while True:
        base = random.randrange(10000, 32000, 50)  # below the ports the kernel hands out  # noqa: S311
        if all(_free(base + offset) for offset in range(span)):
            return base


def eventually(check: Callable[[], Any], seconds: float = 20) -> Any:
    """The first true answer; the last one when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(0.1)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _mentions(process: psutil.Process, marks: tuple[str, ...]) -> bool:
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        text = " ".join(process.cmdline()) + json.dumps(process.environ())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return any(mark in text for mark in marks)
