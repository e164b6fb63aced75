"""Keeps the parts of a platform alive, and ends all of them with itself, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil

from local.errors import PlatformError
from local.keys import write_private
from local.layout import Layout
from local.parts import Part
from local.processes import adopt_orphans, child_setup

_TICK = 0.1
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_STEADY = 10.0  # a part that ran this long starts again without a pause
_LOG_LIMIT = 20 * 1024 * 1024


@dataclass
class _Child:
    part: Part
    process: subprocess.Popen[bytes]
    started: float
    restarts: int = 0
    pause: float = _SHORTEST_PAUSE
    due: float | None = None  # when to start it again, while it is down


@dataclass
class Supervisor:
    """Starts parts, restarts those that die, and clears what they leave behind.

    Every child asks the kernel for a signal on our death; grandchildren whose own parent was killed become
    our children (we are their subreaper) and are ended here. So `kill -9` of anything leaves nothing running.
    """

    layout: Layout
    ready: bool = False
    _children: dict[str, _Child] = field(default_factory=dict)
    _stopping: bool = False

    def __post_init__(self) -> None:
        adopt_orphans()
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, self._on_signal)

    def start(self, parts: Iterable[Part]) -> None:
        for part in parts:
            self._children[part.name] = _Child(part, self._spawn(part), time.monotonic())
        self._write_state()

    def wait_until_ready(self, parts: Iterable[Part], seconds: float) -> None:
        """Return when all of them answer; raise, naming one that does not."""
        waiting = list(parts)
        deadline = time.monotonic() + seconds
        while waiting:
            self._check_stop()
            self._tend()
            waiting = [part for part in waiting if not part.ready()]
            if waiting and time.monotonic() > deadline:
                log = self.layout.log(waiting[0].name)
                raise PlatformError(f"{waiting[0].name} did not answer within {seconds:.0f} s; see {log}.")
            time.sleep(_TICK / 2 if waiting else 0)

    def run(self, every_second: Callable[[], None]) -> None:
        """Watch over the parts until somebody asks us to stop."""
        self.ready = True
        self._write_state()
        last = time.monotonic()
        while not self._stopping:
            self._tend()
            if time.monotonic() - last >= 1:
                last = time.monotonic()
                every_second()
            time.sleep(_TICK)

    def replace(self, part: Part) -> None:
        """Restart one part, perhaps with another definition, because its source changed."""
        child = self._children[part.name]
        self._end([child])
        child.part, child.process, child.started, child.due = part, self._spawn(part), time.monotonic(), None
        self._write_state()

    def stop(self) -> None:
        """End every part, the database last, and forget the state. Safe to call twice."""
        others = [child for name, child in self._children.items() if name != "postgres"]
        self._end(others)
        self._end([child for name, child in self._children.items() if name == "postgres"])
        self._clear_orphans()
        self._children.clear()
        state_file(self.layout).unlink(missing_ok=True)

    def note(self, message: str) -> None:
        with self.layout.log("supervisor").open("a") as out:
            out.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {message}\n")

    def _tend(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.due is None and child.process.poll() is not None:
                self._schedule_restart(child, now)
            if child.due is not None and now >= child.due:
                child.process, child.started, child.due = self._spawn(child.part), now, None
                self._write_state()

    def _schedule_restart(self, child: _Child, now: float) -> None:
        self._clear_orphans()
        steady = now - child.started > _STEADY
        child.pause = _SHORTEST_PAUSE if steady else min(child.pause * 2, _LONGEST_PAUSE)
        child.due = now + child.pause
        child.restarts += 1
        self.note(f"{child.part.name} ended with {child.process.returncode}, starting it again")

    def _spawn(self, part: Part) -> subprocess.Popen[bytes]:
        log = self.layout.log(part.name)
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.rename(log.with_suffix(".log.1"))
        with log.open("ab") as out:
            return subprocess.Popen(
                part.argv,
                env=dict(part.env),
                cwd=part.cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                process_group=0,  # a Ctrl-C in our terminal is ours to pass on
                preexec_fn=child_setup(part.stop, part.identity),
            )

    def _end(self, children: list[_Child], patience: float = 10) -> None:
        for child in children:
            if child.process.poll() is None:
                child.process.send_signal(child.part.stop)
        deadline = time.monotonic() + patience
        for child in children:
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()

    def _clear_orphans(self) -> None:
        """End children we did not start: workers whose master was killed, sessions of a killed Postgres."""
        ours = {child.process.pid for child in self._children.values()}
        for process in psutil.Process().children():
            if process.pid not in ours:
                process.kill()
                process.wait()

    def _write_state(self) -> None:
        parts = {
            name: {**_identity(child.process.pid), "port": child.part.port, "restarts": child.restarts}
            for name, child in self._children.items()
        }
        me = {**_identity(os.getpid()), "port": self.layout.port, "ready": self.ready, "parts": parts}
        write_private(state_file(self.layout), json.dumps(me))

    def _check_stop(self) -> None:
        if self._stopping:
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True


def _identity(pid: int) -> dict[str, float]:
    """A pid and when its process began: together they name one process for ever."""
    try:
        return {"pid": pid, "created": psutil.Process(pid).create_time()}
    except psutil.NoSuchProcess:
        return {"pid": pid, "created": 0}


def state_file(layout: Layout) -> Path:
    return layout.run / "state.json"
