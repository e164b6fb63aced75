"""A platform from nothing to ready: its data made once, as a whole, then its parts, then the word."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg

from local import build, database, keys, parts, postgres, schema, state
from local.errors import PlatformError
from local.keys import Keys
from local.layout import DEFAULT_PORT, ROOT, Layout
from local.postgres import Installation
from local.reload import SourceWatch
from local.supervisor import Supervisor

_ROOM = 300 * 1024 * 1024  # a fresh cluster, its first write-ahead log, and something to work with
_PATIENCE = 60.0


def up(layout: Layout, *, reload: bool, on_ready: Callable[[Keys], None]) -> None:
    """Run a platform until told to stop; `on_ready` is called once everything answers."""
    with _disk_full_explained(layout), state.exclusive(layout):
        secrets, server = _prepare(layout)
        supervisor = Supervisor(layout)
        try:
            _start(supervisor, layout, secrets, server)
            _write_env(layout, secrets)
            on_ready(secrets)
            supervisor.run(_reloader(supervisor, layout, secrets) if reload else lambda: None)
        finally:
            supervisor.stop()


def up_detached(layout: Layout, *, reload: bool) -> None:
    """Start the same command in a session of its own and wait for its word."""
    if state.held(layout):
        raise PlatformError(
            f"A platform is already running on the data in {layout.data}; see `recado status`."
        )
    layout.logs.mkdir(parents=True, exist_ok=True)
    again = ["up", "--port", str(layout.port), "--data", str(layout.data), "--env-file", str(layout.env_file)]
    with layout.log("up").open("wb") as problems:
        child = subprocess.Popen(
            [sys.executable, "-m", "local.cli", *again, *(["--reload"] if reload else [])],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what is there to connect with is for a person's eyes, and for no log
            stderr=problems,
            start_new_session=True,
        )
    while child.poll() is None:
        found = state.read(layout)
        if found and found.ready and found.pid == child.pid:
            return
        time.sleep(0.05)
    said = layout.log("up").read_text().removeprefix("recado: ").strip()
    raise PlatformError(said or f"The platform did not start; see {layout.logs}.")


def free_base_port() -> int:
    """A base port none of whose ports is taken at the moment."""
    for port in range(DEFAULT_PORT, 32000, 100):
        layout = Layout(Path(), port, Path())
        with suppress(PlatformError):
            _check_ports(layout)
            return port
    raise PlatformError("There is no room for the platform's ports: choose a base port with --port.")


def _prepare(layout: Layout) -> tuple[Keys, Installation]:
    server = postgres.installation()
    parts.postgrest_program()
    layout.logs.mkdir(parents=True, exist_ok=True)
    state.clear_leftovers(layout)
    unfinished = layout.data / "postgres.new"
    for pgdata in (layout.pgdata, unfinished):
        _end_leftover_server(pgdata)
    shutil.rmtree(unfinished, ignore_errors=True)
    _check_ports(layout)
    secrets = keys.load(layout.keys)
    if not layout.pgdata.exists():
        _make_data(layout, server, unfinished)
    postgres.check(server, layout.pgdata)
    build.build_all(layout.build)
    return secrets, server


def _make_data(layout: Layout, server: Installation, unfinished: Path) -> None:
    """Cluster, stand-ins, schema and demo data, made beside and renamed: a kill leaves nothing half done."""
    free = shutil.disk_usage(layout.data).free
    if free < _ROOM:
        raise PlatformError(
            f"{layout.data} has {free // 2**20} MB of disk space left and a new platform needs "
            f"{_ROOM // 2**20} MB: free some, or choose another --data directory."
        )
    postgres.create(server, unfinished)
    with postgres.running(server, unfinished, layout.postgres, {"fsync": "off"}, layout.log("postgres")):
        database.bootstrap(layout.postgres)
        schema.push(postgres.dsn(layout.postgres))
        schema.seed(postgres.dsn(layout.postgres))
        database.finish(layout.postgres)
    os.sync()  # it was filled without fsync: durable first, then the name that says so
    unfinished.rename(layout.pgdata)


def _start(supervisor: Supervisor, layout: Layout, secrets: Keys, server: Installation) -> None:
    first = [parts.database(layout, server)]
    supervisor.start(first)
    supervisor.wait_until_ready(first, _PATIENCE)
    if schema.pending(postgres.dsn(layout.postgres)):
        schema.push(postgres.dsn(layout.postgres))
        database.finish(layout.postgres)
    _tell_database(layout, secrets)
    rest = parts.everything_else(layout, secrets, server)
    supervisor.start(rest)
    supervisor.wait_until_ready(rest, _PATIENCE)


def _tell_database(layout: Layout, secrets: Keys) -> None:
    """Where functions are, and the secret their calls are signed with, into Vault as on a hosted project."""
    wanted = {
        "functions_url": parts.environment(layout, secrets)["FUNCTIONS_URL"] + "/{function}",
        "functions_secret": secrets.functions_secret,
    }
    with psycopg.connect(postgres.dsn(layout.postgres), autocommit=True) as connection:
        for name, value in wanted.items():
            found = connection.execute("select id from vault.secrets where name = %s", [name]).fetchone()
            if found:
                connection.execute("select vault.update_secret(%s, %s)", [found[0], value])
            else:
                connection.execute("select vault.create_secret(%s, %s)", [value, name])


def _reloader(supervisor: Supervisor, layout: Layout, secrets: Keys) -> Callable[[], None]:
    """Restarts the functions whose staged folder comes out differently; a source that is broken waits."""
    watch = SourceWatch()

    def reload() -> None:
        if not watch.changed():
            return
        before = {part.name: _release(layout, part.name) for part in parts.functions_of(layout, secrets)}
        try:
            build.build_all(layout.build)
        except PlatformError as error:
            supervisor.note(str(error))
            return
        for part in parts.functions_of(layout, secrets):
            if part.name in before and _release(layout, part.name) != before[part.name]:
                supervisor.replace(part)

    return reload


def _release(layout: Layout, function: str) -> bytes | None:
    stamp = layout.build / function / "release.json"
    return stamp.read_bytes() if stamp.exists() else None


def _write_env(layout: Layout, secrets: Keys) -> None:
    layout.env_file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name}={value}" for name, value in parts.environment(layout, secrets).items()]
    keys.write_private(layout.env_file, "\n".join(lines) + "\n")


def _check_ports(layout: Layout) -> None:
    wanted = {
        "the gateway": layout.gateway,
        "Postgres": layout.postgres,
        "PostgREST": layout.postgrest,
        "PostgREST's admin server": layout.postgrest_admin,
        "the auth server": layout.auth,
        "the simulator": layout.simulator,
        **{f"function {name}": layout.function(i) for i, name in enumerate(build.functions())},
    }
    for who, port in wanted.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise PlatformError(
                    f"Port {port}, meant for {who}, is taken: choose another base port with --port."
                ) from None


def _end_leftover_server(pgdata: Path) -> None:
    """A server whose supervisor was killed is stopping by itself; we hold the lock, so it is nobody's."""
    process = postgres.owner(pgdata)
    if process is None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(15)
    except psutil.TimeoutExpired:
        process.kill()


@contextmanager
def _disk_full_explained(layout: Layout) -> Iterator[None]:
    try:
        yield
    except (OSError, psycopg.errors.DiskFull) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            raise
        raise PlatformError(
            f"There is no disk space left under {layout.data}: free some, or choose another --data directory."
        ) from error
