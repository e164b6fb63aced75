"""When messages go: at their slots, by the database's clock, no closer together than the rate allows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from shared import pacing
from shared.pacing import Pace

NUMBER = ("tenant", "number")
AHEAD = 1_000_000.0  # of the database's clock before ours


class Time:
    """Ours; sleeping takes exactly as long as it should."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(pacing.time, "monotonic", made.monotonic)
    monkeypatch.setattr(pacing.asyncio, "sleep", made.sleep)
    return made


@pytest.fixture
def pace(time: Time) -> Pace:
    made = Pace()
    made.hear(datetime.fromtimestamp(AHEAD, UTC).isoformat())
    return made


def went(pace: Pace, time: Time, slots: list[float], spacing: float = 0.1, stall: float = 0.0) -> list[float]:
    """When messages with these slots went; None of them: they were too late."""
    for slot in slots:
        pace.expect(NUMBER, AHEAD + slot, spacing)
    time.now += stall
    return [
        time.now
        for slot in slots
        if asyncio.run(pace.turn(NUMBER, AHEAD + slot, spacing))
    ]  # fmt: skip


def test_messages_go_at_their_slots_by_the_database_s_clock(pace: Pace, time: Time) -> None:
    assert went(pace, time, [0.1, 0.2, 0.3]) == pytest.approx([0.1, 0.2, 0.3])


def test_after_a_stall_they_catch_up_without_going_above_the_rate(pace: Pace, time: Time) -> None:
    slots = [n / 10 for n in range(20)]

    moments = went(pace, time, slots, stall=0.5)

    assert all(b - a >= 0.096 - 1e-9 for a, b in pairwise(moments))
    assert moments[0] == 0.5
    assert moments[-1] < 0.5 + slots[-1]


def test_what_is_later_than_a_number_s_last_slot_is_somebody_else_s(pace: Pace, time: Time) -> None:
    assert went(pace, time, [0.1, 0.2], stall=0.6) == []


def test_while_more_slots_are_ours_a_late_message_still_goes(pace: Pace, time: Time) -> None:
    pace.expect(NUMBER, AHEAD + 1.0, 0.1)

    assert len(went(pace, time, [0.1, 0.2], stall=0.6)) == 2


def test_the_fastest_answer_tells_the_time_best(pace: Pace, time: Time) -> None:
    time.now += 5
    pace.hear(datetime.fromtimestamp(AHEAD + 4.9, UTC).isoformat())  # it took a tenth of a second

    assert pace.now == pytest.approx(AHEAD + 5, abs=0.01)


def test_the_lead_is_what_sending_takes_and_shrinks_again(pace: Pace) -> None:
    for _ in range(5):
        pace.took(0.3)
    grown = pace.lead
    for _ in range(10):
        pace.took(0.0)

    assert grown == pytest.approx(0.31)
    assert pace.lead < grown / 2
