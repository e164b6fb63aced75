"""The release before this one, at work beside it on the same database.

It is this release, staged anew, whose calls leave out every argument that SQL has a default for: what is
added to a function later has one, so that those who do not know it yet may go on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import build, keys, parts
from local.layout import Layout
from tests.e2e.delivery import Process
from tests.e2e.platforms import Platform, eventually

FUNCTIONS = ("webhook", "reply", "deliver")
FIRST_PORT = 40
_OPTIONAL = """
    select p.proname, array_agg(a.name) from pg_catalog.pg_proc p
    cross join lateral unnest(p.proargnames[1:p.pronargs]) with ordinality as a (name, nth)
    where p.pronamespace = 'public'::regnamespace and a.nth > p.pronargs - p.pronargdefaults
    group by p.proname
"""
_WIRE = """

_UNKNOWN = {unknown!r}
_newer_rpc = Database._rpc


async def _older_rpc(self, function, **arguments):
    known = {{name: arguments[name] for name in arguments if name not in _UNKNOWN.get(function, ())}}
    return await _newer_rpc(self, function, **known)


Database._rpc = _older_rpc
"""


class Idle(Process):
    """One that others call."""

    def _wake(self) -> None:
        self._stop.wait(0.2)


@contextmanager
def older(platform: Platform) -> Iterator[dict[str, Process]]:
    """Older processes beside the platform's own, each coming back when it is killed."""
    layout = Layout(platform.data, platform.port, platform.data / "env")
    unknown = {name: set(arguments) for name, arguments in platform.query(_OPTIONAL)}
    with tempfile.TemporaryDirectory(prefix="recado-older-") as home:
        made = {
            name: _process(layout, Path(home), name, layout.port + FIRST_PORT + nth, unknown)
            for nth, name in enumerate(FUNCTIONS)
        }
        try:
            for process in made.values():
                process.start()
            assert eventually(lambda: all(parts.http_ok(one.port, "/health") for one in made.values()), 60)
            yield made
        finally:
            for process in made.values():
                process.end()


def _process(layout: Layout, home: Path, name: str, port: int, unknown: dict[str, set[str]]) -> Process:
    folder = build.build(name, home / name)
    with (folder / "shared/db.py").open("a") as db:
        db.write(_WIRE.format(unknown=unknown))
    argv, env = build.command(name, folder, port)
    known = keys.load(layout.keys)
    env = {**parts.environment(layout, known), **env, "PATH": os.environ["PATH"]}
    kind = Idle if name == "webhook" else Process
    return kind(argv, env, folder, port, known.functions_secret)
