"""Stands before PostgREST and loses answers: what was asked for is committed, and nobody ever hears of it.

`install` makes a program for POSTGREST_BIN; it starts the real one, and dies and is killed with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from local import parts
from local.layout import ROOT
from local.processes import child_setup

BESIDE = 6  # the real one's port, above the one it is known by
_PROGRAM = """#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.chaos.lossy import main
main({real!r}, {home!r})
"""


def install(home: Path) -> Path:
    """The program; `order` tells it what to lose."""
    program = home / "postgrest"
    real = parts.postgrest_program()
    program.write_text(_PROGRAM.format(python=sys.executable, root=str(ROOT), real=real, home=str(home)))
    program.chmod(0o755)
    order(home, 0)
    return program


def order(home: Path, share: float) -> None:
    """This share of the answers to RPCs is lost from now on."""
    beside = home / "lose.new"
    beside.write_text(json.dumps(share))
    beside.rename(home / "lose")


def lost(home: Path) -> list[str]:
    """The RPCs whose answers were lost."""
    with suppress(FileNotFoundError):
        return (home / "lost").read_text().split()
    return []


class Line:
    """One client's connection and its own to PostgREST, a request at a time."""

    def __init__(self, home: Path, port: int) -> None:
        self._home, self._port, self._rpc = home, port, ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            upstream, up = await asyncio.open_connection("127.0.0.1", self._port)
            ends = [
                asyncio.create_task(self._ask(reader, up)),
                asyncio.create_task(self._answer(upstream, writer)),
            ]
            with suppress(OSError):
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            up.transport.abort()
        writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if data.startswith(b"POST /rpc/"):
                self._rpc = data[10:].split(b" ", 1)[0].decode()
            up.write(data)
            await up.drain()

    async def _answer(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await upstream.read(65536):
            if self._rpc and data.startswith(b"HTTP/1.1 2") and random.random() < self._share():  # noqa: S311
                with (self._home / "lost").open("a") as noted:
                    noted.write(f"{self._rpc}\n")
                return
            writer.write(data)
            await writer.drain()

    def _share(self) -> float:
        return float((self._home / "lose").read_text())


async def _serve(home: Path, port: int, beside: int) -> None:
    server = await asyncio.start_server(lambda r, w: Line(home, beside).serve(r, w), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def main(real: str, home: str) -> None:
    port = int(os.environ["PGRST_SERVER_PORT"])
    subprocess.Popen(
        [real],
        env={**os.environ, "PGRST_SERVER_PORT": str(port + BESIDE)},
        preexec_fn=child_setup(signal.SIGKILL),
    )
    signal.signal(signal.SIGCHLD, lambda *_: os._exit(1))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # it goes with us
    asyncio.run(_serve(Path(home), port, port + BESIDE))
