"""Delivery by several real processes, counted where the messages arrive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.delivery import Business, fleet, fullest, moments, reply_seconds, survive, tune, waiting
from tests.e2e.platforms import Platform, eventually


@pytest.fixture
def sending(other_platform: Platform) -> Iterator[Platform]:
    """A platform whose customers all have written before."""
    assert other_platform.up().returncode == 0
    tune(other_platform, strangers_window_open=True, read_ms=150)
    return other_platform


def test_nothing_is_lost_or_sent_twice_while_senders_are_killed(sending: Platform) -> None:
    businesses = [Business.open(sending, numbers=5, customers=75) for _ in range(4)]

    outcome = survive(sending, businesses)

    print(outcome)  # noqa: T201
    assert (outcome.lost, outcome.twice) == (0, 0)
    assert outcome.unknown <= outcome.in_flight
    assert outcome.at_provider + outcome.unknown >= outcome.queued


def test_a_number_uses_its_rate_and_no_more(sending: Platform) -> None:
    business = Business.open(sending, numbers=4, customers=400)
    with fleet(sending):
        business.queue("reply", last=1)  # the simulator, too, meets a number for the first time
        assert eventually(lambda: not waiting(sending))
        business.queue("sequence", first=2)
        assert eventually(lambda: not waiting(sending), 300)

    for times in moments(business.sent(), after=1).values():
        assert fullest(times, 1) <= business.rate + 1
        assert fullest(times, 10) <= business.rate * 10
        assert (len(times) - 1) / (times[-1] - times[0]) >= 0.9 * business.rate


def test_a_business_with_much_to_send_does_not_delay_the_answers_of_another(sending: Platform) -> None:
    crowd = Business.open(sending, numbers=5, customers=8000)
    other = Business.open(sending, numbers=1, customers=60)
    with fleet(sending):
        idle = reply_seconds(other, 15)
        crowd.queue("sequence")
        assert eventually(crowd.sent, 20)
        busy = reply_seconds(other, 15)

    print(f"idle {idle:.3f} s, busy {busy:.3f} s")  # noqa: T201
    assert busy <= 2 * idle
