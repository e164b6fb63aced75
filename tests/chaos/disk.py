"""A disk for the database alone, small enough to be filled.

As root it is a tmpfs. Where none can be mounted, the server's files are forbidden to grow instead, which
Postgres meets in the same places; the report says which of the two it was.
"""

from __future__ import annotations

import os
import resource
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg

from local.processes import unprivileged
from tests.e2e.platforms import Platform

MEGABYTES = 700  # a platform wants 300 to begin with
OTHERS = ("logs", "run", "simulator.db")  # of the world around it, which keeps its space


class Disk:
    def __init__(self, data: Path) -> None:
        self._data = data
        self.is_mounted = False

    def open(self) -> None:
        self._data.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "recado-chaos", str(self._data)]
        with suppress(FileNotFoundError):
            self.is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        if self.is_mounted:
            self._data.chmod(0o755)
            for name in OTHERS:
                beside = self._data.parent / f"beside-{name}"
                if "." not in name:
                    beside.mkdir()
                (self._data / name).symlink_to(beside)

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self._data)], check=False)

    @property
    def how(self) -> str:
        return (
            "a full tmpfs" if self.is_mounted else "files that may not grow (no tmpfs could be mounted here)"
        )

    def fill(self, platform: Platform) -> None:
        if not self.is_mounted:
            return _limit(platform, 0)
        with self._ballast.open("wb", buffering=0) as ballast:
            for block in (2**20, 2**12):
                with suppress(OSError):
                    while True:
                        ballast.write(bytes(block))
        return None

    def empty(self, platform: Platform) -> None:
        if not self.is_mounted:
            return _limit(platform, resource.RLIM_INFINITY)
        self._ballast.unlink(missing_ok=True)
        return None

    def is_felt(self, platform: Platform) -> bool:
        """The server can store nothing more."""
        try:
            platform.query(
                "create temp table more as select md5(n::text) || md5(random()::text) as said"
                " from generate_series(1, 50000) n"
            )
        except psycopg.Error:
            return True
        return False

    @property
    def _ballast(self) -> Path:
        return self._data / "ballast"


def _limit(platform: Platform, size: int) -> None:
    """By the server's own user, who needs no further right."""
    with suppress(psutil.NoSuchProcess, StopIteration):
        server = psutil.Process(platform.pid("postgres"))
        pids = [server.pid, *(child.pid for child in server.children(recursive=True))]
        child = os.fork()
        if child == 0:
            os._exit(_limited(pids, size))
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("The server's files could not be forbidden to grow.")


def _limited(pids: list[int], size: int) -> int:
    """In a process of its own, which ends with this status; soft limits only, which may be lifted again."""
    try:
        if identity := unprivileged():
            identity.assume()
        for pid in pids:
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    except OSError:
        return 1
    return 0
