"""How long a staged function takes from start to its first 200, against a bare functions-framework hello.

    python -m bench.function_start [pairs]

Both run the same command on the same packages, in turns, so that what the machine does meanwhile hits both.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import report
from local.build import build, command

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
BARE = """\
async def main(request):
    return "Hello, world!"
"""


def bare(beside: Path) -> Path:
    """The least a function can be, with the packages of the staged one."""
    folder = beside.parent / "bare"
    folder.mkdir()
    (folder / "main.py").write_text(BARE)
    (folder / "requirements.txt").write_text((beside / "requirements.txt").read_text())
    return folder


def seconds_to_first_200(name: str, folder: Path, port: int) -> float:
    argv, environment = command(name, folder, port)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "FUNCTIONS_SECRET": "bench",
        **environment,
    }
    started = time.perf_counter()
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while not answers(port):
            assert process.poll() is None, f"{name} ended"
            time.sleep(0.002)
        return time.perf_counter() - started
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(REQUEST)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def main(pairs: int = 15) -> None:
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        staged = build("hello", Path(home) / "build")
        folders = {"bare": bare(staged), "hello": staged}
        times: dict[str, list[float]] = {name: [] for name in folders}
        for turn in range(pairs + 1):
            for name, folder in folders.items():
                seconds = seconds_to_first_200(name, folder, port)
                if turn:  # the first turn writes the bytecode
                    times[name].append(seconds)
    for name, measured in times.items():
        print(f"{name:6} {statistics.median(measured) * 1000:6.0f} ms  (best {min(measured) * 1000:.0f})")
    ratios = [mine / its for mine, its in zip(times["hello"], times["bare"], strict=True)]
    report("staged function / bare hello, start to first 200", ratios, "<= 1.3")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
