"""What is known from outside about a platform: is it running, which processes, since when."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from local.errors import PlatformError
from local.layout import Layout
from local.supervisor import state_file


@dataclass(frozen=True)
class PartState:
    name: str
    pid: int
    port: int | None
    restarts: int
    alive: bool


@dataclass(frozen=True)
class State:
    """The supervisor's last word; `alive` is checked now."""

    pid: int
    port: int
    ready: bool
    alive: bool
    parts: list[PartState]


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Hold the data directory; the kernel lets go of it when we die, however that happens."""
    layout.run.mkdir(parents=True, exist_ok=True)
    with (layout.run / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlatformError(
                f"A platform is already running on the data in {layout.data}: "
                "see `recado status`, stop it with `recado down`, or choose another --data directory."
            ) from None
        yield


def held(layout: Layout) -> bool:
    try:
        with exclusive(layout):
            return False
    except PlatformError:
        return True


def read(layout: Layout) -> State | None:
    try:
        found = json.loads(state_file(layout).read_text())
    except FileNotFoundError:
        return None
    parts = [
        PartState(name, part["pid"], part["port"], part["restarts"], _process(part) is not None)
        for name, part in found["parts"].items()
    ]
    return State(found["pid"], found["port"], found["ready"], _process(found) is not None, parts)


def clear_leftovers(layout: Layout, patience: float = 15) -> None:
    """Wait for what a killed platform left behind, which is already ending; then end it ourselves."""
    try:
        found = json.loads(state_file(layout).read_text())
    except FileNotFoundError:
        return
    left = [process for process in map(_process, found["parts"].values()) if process]
    _, stubborn = psutil.wait_procs(left, timeout=patience)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=5)
    state_file(layout).unlink(missing_ok=True)


def stop(layout: Layout, patience: float = 40) -> bool:
    """Ask the platform to stop and wait for it; False when none was running."""
    state = read(layout)
    if state is None or not state.alive:
        clear_leftovers(layout, patience=0)
        return False
    os.kill(state.pid, 15)
    deadline = time.monotonic() + patience
    while held(layout) and time.monotonic() < deadline:
        time.sleep(0.05)
    if held(layout):
        os.kill(state.pid, 9)
        clear_leftovers(layout, patience=5)
    return True


def _process(identity: dict[str, Any]) -> psutil.Process | None:
    """The very process that was written down, not a later one with its number."""
    try:
        process = psutil.Process(int(identity["pid"]))
        same = process.create_time() == identity["created"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None
