"""The loop: it takes what is due, waits for what is soon, lets itself be nudged, and leaves properly."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import pytest

from shared import drain
from shared.drain import Claim, Drain, DrainSettings, insist
from shared.errors import DatabaseError, DatabaseUnavailableError


class Work:
    """A worker whose queue is a list of tasks."""

    name = "work"

    def __init__(
        self, *queue: Callable[[], Awaitable[Mapping[str, int]]], next_in: float | None = None
    ) -> None:
        self.queue = list(queue)
        self.next_in = next_in
        self.room = 10
        self.claims = 0
        self.trouble: list[Exception] = []

    async def warm(self) -> None:
        pass

    async def claim(self) -> Claim:
        self.claims += 1
        if self.trouble:
            raise self.trouble.pop()
        taken, self.queue = self.queue, []
        return Claim(taken, self.next_in)


class Leases:
    """What the database hears of loops."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.runs: list[dict[str, Any]] = []

    async def worker_beat(self, *, worker: str, loop_id: str, seconds: int) -> None:
        self.heard.append("beat")

    async def worker_leave(self, *, worker: str, loop_id: str) -> None:
        self.heard.append("leave")

    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None:
        self.runs.append({"job": job, "counts": dict(counts), "error": error})


async def until(happened: Callable[[], object]) -> None:
    while not happened():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def done() -> Mapping[str, int]:
    return {"done": 1}


async def broken() -> Mapping[str, int]:
    raise RuntimeError("oh")


def loop(work: Work, leases: Leases, *, idle: float = 0.01, budget: float = 60) -> Drain:
    environ = {"DRAIN_IDLE_SECONDS": str(idle), "DRAIN_BUDGET_SECONDS": str(budget)}
    return Drain(work, leases, DrainSettings(environ))


def test_it_does_what_is_due_and_leaves_a_row() -> None:
    work, leases = Work(done, done), Leases()

    counts = asyncio.run(loop(work, leases).join())

    assert counts == {"done": 2}
    assert leases.runs == [{"job": "work", "counts": {"done": 2}, "error": None}]
    assert (leases.heard[0], leases.heard[-1]) == ("beat", "leave")


def test_a_broken_task_is_counted_and_the_others_go_on() -> None:
    counts = asyncio.run(loop(Work(broken, done), Leases()).join())

    assert counts == {"broken": 1, "done": 1}


def test_there_is_one_loop_and_who_joins_makes_it_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "POLL_SECONDS", 2.0)
    work, leases = Work(), Leases()

    async def within() -> Mapping[str, int]:
        one = loop(work, leases, idle=1)
        first = asyncio.create_task(one.join())
        await until(lambda: work.claims)
        work.queue.append(done)
        assert await one.join() == {"joined": 1}
        await until(lambda: not work.queue)
        return await first

    assert asyncio.run(within()) == {"done": 1}
    assert leases.heard.count("leave") == 1


def test_it_waits_for_what_is_due_soon() -> None:
    work = Work(next_in=0.05)

    async def within() -> Mapping[str, int]:
        joined = asyncio.create_task(loop(work, Leases()).join())
        await until(lambda: work.claims >= 3)
        work.queue, work.next_in = [done], None
        return await joined

    assert asyncio.run(within()) == {"done": 1}


def test_it_does_not_wait_for_tomorrow() -> None:
    assert asyncio.run(loop(Work(next_in=86400.0), Leases()).join()) == {}


def test_it_takes_nothing_without_room() -> None:
    work = Work(done)
    work.room = 0

    assert asyncio.run(loop(work, Leases()).join()) == {}
    assert work.claims == 0


def test_it_goes_when_its_time_is_over_and_finishes_what_it_has() -> None:
    async def slow() -> Mapping[str, int]:
        await asyncio.sleep(0.2)
        return {"slow": 1}

    work = Work(slow, next_in=0.01)

    assert asyncio.run(loop(work, Leases(), budget=0.05).join()) == {"slow": 1}


def test_a_database_that_was_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)
    work = Work(done)
    work.trouble = [DatabaseUnavailableError()]

    assert asyncio.run(loop(work, Leases()).join()) == {"done": 1}


def test_a_database_that_refuses_ends_the_run_and_says_why() -> None:
    work, leases = Work(), Leases()
    work.trouble = [DatabaseError("no such function")]

    asyncio.run(loop(work, leases).join())

    assert leases.runs == [{"job": "work", "counts": {}, "error": "no such function"}]
    assert leases.heard[-1] == "leave"


def test_a_shutdown_ends_it_after_what_it_has_in_hand() -> None:
    async def told_to_stop() -> Mapping[str, int]:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        return {"finished": 1}

    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        counts = asyncio.run(loop(Work(told_to_stop), Leases(), idle=60).join())
    finally:
        assert signal.getsignal(signal.SIGTERM) is not before
        signal.signal(signal.SIGTERM, before)

    assert counts == {"finished": 1}
    assert heard == [signal.SIGTERM]  # the server hears of it as well


def test_a_cancelled_loop_gives_its_lease_back() -> None:
    leases = Leases()

    async def within() -> None:
        one = loop(Work(), leases, idle=60)
        joined = asyncio.create_task(one.join())
        await until(lambda: leases.heard)
        assert one._loop is not None
        one._loop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joined

    asyncio.run(within())
    assert leases.heard[-1] == "leave"


def test_a_caller_that_goes_away_does_not_end_the_loop() -> None:
    work, leases = Work(), Leases()

    async def within() -> None:
        one = loop(work, leases, idle=0.1)
        joined = asyncio.create_task(one.join())
        await until(lambda: work.claims)
        joined.cancel()
        work.queue.append(done)
        await until(lambda: leases.runs)

    asyncio.run(within())
    assert leases.runs[0]["counts"] == {"done": 1}


def test_insisting_ends_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "PAUSES", (0.0, 0.0))
    calls: list[int] = []

    async def away() -> None:
        calls.append(1)
        raise DatabaseUnavailableError

    with pytest.raises(DatabaseUnavailableError):
        asyncio.run(insist(away))
    assert len(calls) == 3
