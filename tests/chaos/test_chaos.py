"""Real processes, real kills: what was promised holds. `make chaos` goes on for minutes."""

from __future__ import annotations

from tests.chaos.storm import Plan, run, seed_of


def test_no_promise_breaks_in_a_storm() -> None:
    plan = Plan(seed_of(), seconds=8, calm=3, pause=(0, 0.3), patient=False)

    report = run(plan)

    print(report)  # noqa: T201
    assert not report.broken, str(report)
