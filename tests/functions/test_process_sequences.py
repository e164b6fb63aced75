"""The function process_sequences: batches until nothing is due, or the limit or the time is reached."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from functions.process_sequences.main import read_limit
from shared import logs
from shared.errors import BadRequestError, DatabaseUnavailableError
from shared.sequences import BATCH, Sequences
from tests.functions.conftest import Lines


class Database:
    """So many enrollments are due; each batch sends what it gets."""

    def __init__(self, due: int, fails_at: int | None = None) -> None:
        self.due = due
        self.sizes: list[int] = []
        self.fails_at = fails_at
        self.runs: list[tuple[Mapping[str, int], str | None]] = []
        self.leases = 0
        self.told: dict[str, Any] = {}

    async def sequences_process(self, *, limit: int) -> dict[str, Any]:
        if len(self.sizes) == self.fails_at:
            raise DatabaseUnavailableError
        done = min(limit, self.due)
        self.due -= done
        self.sizes.append(limit)
        return {"claimed": done, "send": done, **self.told} if done else {"claimed": 0}

    async def worker_beat(self, *, worker: str, loop_id: str, seconds: int) -> None:
        self.leases = 1

    async def worker_leave(self, *, worker: str, loop_id: str) -> None:
        self.leases = 0

    async def job_run_record(self, *, counts: Mapping[str, int], error: str | None, **run: Any) -> None:
        self.runs.append((dict(counts), error))


def run(database: Database, limit: int | None = None, budget: float = 10) -> Mapping[str, int]:
    return asyncio.run(Sequences(database, budget=budget).run(limit))


def test_it_goes_on_until_nothing_is_due() -> None:
    database = Database(2 * BATCH + 7)

    assert run(database) == {"claimed": 2 * BATCH + 7, "send": 2 * BATCH + 7}
    assert database.due == database.leases == 0
    assert database.runs == [({"claimed": 2 * BATCH + 7, "send": 2 * BATCH + 7}, None)]


@pytest.mark.parametrize("limit", [1, BATCH, BATCH + 1])
def test_a_limit_is_kept(limit: int) -> None:
    database = Database(5 * BATCH)

    assert run(database, limit)["claimed"] == limit
    assert sum(database.sizes) == limit


def test_when_its_time_is_over_it_leaves_the_rest_to_the_next_run() -> None:
    database = Database(5 * BATCH)

    assert run(database, budget=0) == {"claimed": 0}
    assert database.due == 5 * BATCH


def test_a_database_that_goes_away_is_noted_with_what_was_done() -> None:
    database = Database(5 * BATCH, fails_at=1)

    with pytest.raises(DatabaseUnavailableError):
        run(database)
    assert [counts for counts, error in database.runs if error] == [{"claimed": BATCH, "send": BATCH}]
    assert database.leases == 0


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "viele", "٣", ""])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(BadRequestError):
        read_limit(limit)


def test_windows_that_had_closed_are_told_to_the_log(lines: Lines) -> None:
    logs.configure("test")
    database = Database(1)
    closed = {"tenant_id": "t", "number_id": "n", "count": 1, "chat_ids": ["c"], "reason": "window_closed"}
    database.told = {"closed": [closed]}

    assert run(database) == {"claimed": 1, "send": 1}

    said, *_ = lines()
    assert said["message"] == "whatsapp.window.closed"
    assert {name: said[name] for name in closed} == closed
