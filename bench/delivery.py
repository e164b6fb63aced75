"""Delivery on a running platform, counted where the messages arrive: 10,000 messages while senders are
killed, what a number's rate comes to, and what a crowd costs another business's answers.

    python -m bench.delivery [--messages 10000] [--crowd 40000]

Starts platforms of its own; minutes, and it wants the machine for itself.
"""

from __future__ import annotations

import argparse
import time

from bench.figures import report
from tests.e2e.delivery import Business, fleet, fullest, moments, reply_seconds, survive, tune, waiting
from tests.e2e.platforms import Platform, eventually, temporary_platform


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--crowd", type=int, default=40_000)
    given = parser.parse_args()
    with temporary_platform() as platform:
        assert platform.up().returncode == 0
        tune(platform, strangers_window_open=True)
        pace(platform)
        fairness(platform, given.crowd)
    with temporary_platform() as platform:
        assert platform.up().returncode == 0
        tune(platform, strangers_window_open=True)
        kills(platform, given.messages)


def kills(platform: Platform, messages: int) -> None:
    businesses = [Business.open(platform, numbers=5, customers=messages // 20) for _ in range(4)]
    outcome = survive(platform, businesses, seconds=3600)
    what = f"{outcome.queued:,} messages, {outcome.kills} kills in {outcome.seconds:.0f} s"
    report(f"{what}: lost", [outcome.lost], "= 0", is_counted=True)
    report(f"{what}: sent twice", [outcome.twice], "= 0", is_counted=True)
    most = f"<= {outcome.in_flight}"
    report(f"{what}: unknown, of those in flight", [outcome.unknown], most, is_counted=True)


def pace(platform: Platform, seconds: int = 30) -> None:
    for rate in (20, 80):
        business = Business.open(platform, numbers=2, customers=rate * seconds, rate=rate)
        with fleet(platform):
            business.queue("reply", last=1)
            assert eventually(lambda: not waiting(platform))
            count = business.queue("sequence", first=2)
            began = time.monotonic()
            assert eventually(lambda: not waiting(platform), 10 * seconds)
            took = time.monotonic() - began
        for times in moments(business.sent(), after=1).values():
            used = (len(times) - 1) / (times[-1] - times[0]) / rate
            for span, most in ((1, rate + 1), (10, rate * 10)):
                name = f"rate {rate}/s: most sends in {span} s"
                report(name, [fullest(times, span)], f"<= {most}", is_counted=True)
            report(f"rate {rate}/s: part of it that is used", [used], ">= 0.9")
        print(f"rate {rate}/s: {count / took:.0f} messages/s at the simulator, by three processes")


def fairness(platform: Platform, queued: int) -> None:
    crowd = Business.open(platform, numbers=5, customers=queued // 5)
    other = Business.open(platform, numbers=1, customers=100)
    with fleet(platform):
        idle = reply_seconds(other, 20)
        crowd.queue("sequence")
        assert eventually(crowd.sent, 60)
        busy = reply_seconds(other, 20)
    name = f"an answer beside {queued:,} queued messages of another business / alone, time"
    report(name, [busy / idle], "<= 2", f"{idle * 1000:.0f} ms alone, {busy * 1000:.0f} ms beside them")


if __name__ == "__main__":
    main()
