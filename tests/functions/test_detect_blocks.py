"""detect_blocks: one call finds who has blocked a number; the log and job_runs say what came of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared import logs
from shared.blocks import Detection
from shared.errors import DatabaseUnavailableError
from tests.functions.conftest import Lines

MARKED = {
    "tenant_id": "t1",
    "number_id": "n1",
    "chat_id": "c1",
    "level": "confirmed",
    "cause": "likely_block",
}


class Database:
    def __init__(self, *marked: dict[str, str]) -> None:
        self.found = {"marked": list(marked), "spared": 4, "outages": 1, "healed": 0}
        self.trouble: list[Exception] = []
        self.runs: list[dict[str, Any]] = []

    async def blocks_detect(self) -> dict[str, Any]:
        if self.trouble:
            raise self.trouble.pop()
        return self.found

    async def job_run_record(self, **run: Any) -> None:
        self.runs.append(run)


def test_each_mark_is_told_in_the_log_and_the_run_is_recorded(lines: Lines) -> None:
    logs.configure("detect-blocks")
    database = Database(MARKED, MARKED | {"chat_id": "c2", "level": "probable", "cause": "phone_off"})

    counts = asyncio.run(Detection(database).run())

    assert counts == {"probable": 1, "confirmed": 1, "spared": 4, "outages": 1, "healed": 0}
    assert [(run["job"], run["counts"]) for run in database.runs] == [("detect_blocks", counts)]
    told = [(line["event"], line["chat_id"], line["level"], line["reason"]) for line in lines()]
    assert told == [
        ("whatsapp.block.detected", "c1", "confirmed", "likely_block"),
        ("whatsapp.block.detected", "c2", "probable", "phone_off"),
    ]


def test_a_database_that_is_away_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.drain.PAUSES", (0.0,))
    database = Database(MARKED)
    database.trouble = [DatabaseUnavailableError()]

    assert asyncio.run(Detection(database).run())["confirmed"] == 1
