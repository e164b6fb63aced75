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


@pytest.mark.alone
def test_a_number_uses_its_rate_and_no_more(sending: Platform) -> None:
    """A machine that is busy with something else delays messages and brings them together: three tries."""
    business = Business.open(sending, numbers=4, customers=700)
    with fleet(sending):
        business.queue("reply", last=1)  # the simulator, too, meets a number for the first time
        assert eventually(lambda: not waiting(sending))
        assert any(_keeps_pace(sending, business, first) for first in (2, 222, 442))


def _keeps_pace(platform: Platform, business: Business, first: int) -> bool:
    """The fullest second and the fullest ten are within the rate, and every number used nearly all of it."""
    second, ten, used = _paced(platform, business, first)
    print(f"fullest second {second}, fullest ten {ten}, used {used:.3f}")  # noqa: T201
    return second <= business.rate + 1 and ten <= business.rate * 10 and used >= 0.9


def _paced(platform: Platform, business: Business, first: int) -> tuple[int, int, float]:
    """The fullest second, the fullest ten, and the smallest share of its rate that a number used."""
    business.queue("sequence", first=first, last=first + 219)
    assert eventually(lambda: not waiting(platform), 300)
    found = [times[first - 1 :] for times in moments(business.sent()).values()]
    return (
        max(fullest(times, 1) for times in found),
        max(fullest(times, 10) for times in found),
        min((len(times) - 1) / (times[-1] - times[0]) / business.rate for times in found),
    )


@pytest.mark.alone
def test_a_business_with_much_to_send_does_not_delay_the_answers_of_another(sending: Platform) -> None:
    crowd = Business.open(sending, numbers=5, customers=8000)
    other = Business.open(sending, numbers=1, customers=60)
    with fleet(sending):
        idle = reply_seconds(other, 9)
        crowd.queue("sequence")
        assert eventually(crowd.sent, 20)
        busy = reply_seconds(other, 9)

    print(f"idle {idle:.3f} s, busy {busy:.3f} s")  # noqa: T201
    assert busy <= 2 * idle
