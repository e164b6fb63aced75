"""The loop every worker runs in: claim what is due, act, settle; leave when there is nothing more to do.

A wake-up starts it and stays open while it runs, since a cloud function has no processor without a request.
Any number of loops may run anywhere: claims keep them apart. The lease only says "somebody is awake", so that
new work need not wake anybody.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from shared.errors import DatabaseUnavailableError, RecadoError
from shared.options import Number
from shared.settings import Settings

POLL_SECONDS = 0.25  # at most until new work is seen
BUSY_SECONDS = 0.05  # until a full worker looks for room again
SOON_SECONDS = 15.0  # what is due within these is waited for; private.worker_has_work knows the same number
LEASE_SECONDS = 5
BEAT_SECONDS = 1.0
PAUSES = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0)

log = logging.getLogger(__name__)
T = TypeVar("T")
Task = Callable[[], Awaitable[Mapping[str, int]]]


class DrainSettings(Settings):
    drain_idle_seconds = Number("how long a loop waits for more before it leaves", 5)
    drain_budget_seconds = Number("how long a loop runs at most; less than the function's timeout", 240)


@dataclass(frozen=True, slots=True)
class Claim:
    """Tasks in hand, each telling in the end what it did; `next_in`: seconds until something else is due."""

    tasks: Sequence[Task]
    next_in: float | None


class Worker(Protocol):
    name: str

    @property
    def room(self) -> int:
        """How much more can be taken now."""

    async def warm(self) -> None:
        """Get ready for the first task."""

    async def claim(self) -> Claim: ...


class Leases(Protocol):
    async def worker_beat(self, *, worker: str, loop_id: str, seconds: int) -> None: ...
    async def worker_leave(self, *, worker: str, loop_id: str) -> None: ...
    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None: ...


class Drain:
    """One for each process, and at most one loop in it."""

    def __init__(self, worker: Worker, leases: Leases, settings: DrainSettings) -> None:
        self._worker = worker
        self._leases = leases
        self._settings = settings
        self._loop: asyncio.Task[Mapping[str, int]] | None = None
        self._nudge = asyncio.Event()

    async def join(self) -> Mapping[str, int]:
        """Run the loop until it leaves, and tell what it did. One that runs already looks again at once."""
        if self._loop and not self._loop.done():
            self._nudge.set()
            return {"joined": 1}
        run = _Run(self._worker, self._leases, self._settings, self._nudge)
        self._loop = asyncio.create_task(run.whole(), context=Context())
        return await asyncio.shield(self._loop)


class _Run:
    """A loop from its first claim to its row in job_runs."""

    def __init__(self, worker: Worker, leases: Leases, settings: DrainSettings, nudge: asyncio.Event) -> None:
        self._worker = worker
        self._leases = leases
        self._nudge = nudge
        self._id = str(uuid.uuid4())
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts: Counter[str] = Counter()
        self._started_at = datetime.now(UTC)
        self._time = asyncio.get_running_loop().time
        self._beat_at = 0.0
        self._quiet_at = self._time() + settings.drain_idle_seconds
        self._idle = settings.drain_idle_seconds
        self._ends_at = self._time() + settings.drain_budget_seconds
        self._error: str | None = None

    async def whole(self) -> Mapping[str, int]:
        warming = asyncio.create_task(self._worker.warm())
        try:
            with _on_sigterm(self._stop):
                await self._turns()
        except RecadoError as exc:
            self._error = exc.message
            log.exception(exc.message, extra={"action": self._worker.name})
        finally:
            await asyncio.wait({warming, *self._tasks})
            await self._leave()
        return dict(self._counts)

    def _stop(self) -> None:
        """End after this turn: what is in hand is finished, the rest is somebody else's."""
        self._ends_at = 0.0
        self._nudge.set()

    async def _turns(self) -> None:
        while self._time() < self._ends_at:
            self._nudge.clear()
            claim = await self._claim()
            for task in claim.tasks:
                self._start(task)
            if self._tasks or 0 < (claim.next_in or 0) < SOON_SECONDS:
                self._quiet_at = self._time() + self._idle
            elif self._time() >= self._quiet_at:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause(claim)):
                    await self._nudge.wait()

    def _pause(self, claim: Claim) -> float:
        if self._worker.room <= 0:
            return BUSY_SECONDS
        if claim.tasks:
            return 0.0
        return min(claim.next_in or POLL_SECONDS, POLL_SECONDS)  # 0: another loop has it

    async def _claim(self) -> Claim:
        nothing = Claim((), None)
        try:
            if self._time() >= self._beat_at:
                await self._beat()
            return await self._worker.claim() if self._worker.room > 0 else nothing
        except DatabaseUnavailableError:
            log.warning("database away", extra={"action": self._worker.name})
            await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311
            return nothing

    async def _beat(self) -> None:
        await self._leases.worker_beat(worker=self._worker.name, loop_id=self._id, seconds=LEASE_SECONDS)
        self._beat_at = self._time() + BEAT_SECONDS

    def _start(self, work: Task) -> None:
        task = asyncio.create_task(self._work(work))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._nudge.set()  # there is room, and its chat may have more to do

    async def _work(self, work: Task) -> None:
        try:
            self._counts.update(await work())
        except Exception:  # one bad task must not end the others; its lease gives it back
            self._counts["broken"] += 1
            log.exception("task broken", extra={"action": self._worker.name})

    async def _leave(self) -> None:
        """The lease goes first: from then on new work wakes somebody again, and so does what is left here."""
        name = self._worker.name
        log.info("loop ended", extra={"action": name, **self._counts})
        try:
            await self._leases.worker_leave(worker=name, loop_id=self._id)
            await self._leases.job_run_record(
                job=name, started_at=self._started_at, counts=self._counts, error=self._error
            )
        except RecadoError as exc:
            # not worth insisting: the lease ends by itself, and a shutdown does not wait
            log.warning("run not recorded", extra={"action": name, "reason": exc.message})


def seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Tell the database something it must know; it may be away for a while. The call must be repeatable."""
    for pause in PAUSES:
        with suppress(DatabaseUnavailableError):
            return await call()
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
    return await call()


@contextmanager
def _on_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """Hear of the shutdown as well as the server, which waits for open requests and says nothing to them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(stop)
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
