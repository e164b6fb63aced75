"""The table of figures: every benchmark is in it, and no verdict is given that the noise would overturn."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import SIZES
from bench.figures import Figure

BENCH = Path(__file__).parents[2] / "bench"


def test_every_benchmark_is_in_the_table() -> None:
    runnable = {path.stem for path in BENCH.glob("*.py") if "def main(" in path.read_text()}

    assert set(SIZES) == runnable - {"__main__"}


@pytest.mark.parametrize(
    ("goal", "samples", "noise", "verdict"),
    [
        ("<= 1.5", [1.0, 1.1, 1.2], 0.05, "met"),
        ("<= 1.5", [2.0, 2.1, 2.2], 0.05, "MISSED"),
        (">= 15", [40.0, 50.0, 60.0], 0.2, "met"),
        (">= 15", [5.0, 5.0, 5.0], 0.1, "MISSED"),
        ("<= 1.5", [1.4, 1.4, 1.4], 0.2, "too noisy"),
        ("<= 1.5", [1.6, 1.6, 1.6], 0.2, "too noisy"),
        ("<= 1.5", [0.5, 1.4, 3.0], 0.0, "too noisy"),
        ("<= 0.02", [0.0001, 0.0002], 0.3, "met"),
        ("<= 0.02", [0.5, 0.5], 0.3, "too noisy"),
        ("<= 0.01", [0.0], 0.3, "met"),
        ("", [3.0], 0.0, ""),
    ],
)
def test_a_verdict_is_given_only_when_noise_would_not_overturn_it(
    goal: str, samples: list[float], noise: float, verdict: str
) -> None:
    assert Figure("a / b", goal, samples).verdict(noise, is_quick=False) == verdict


@pytest.mark.parametrize(("lost", "verdict"), [(0, "met"), (1, "MISSED")])
def test_what_is_counted_has_no_noise(lost: int, verdict: str) -> None:
    assert Figure("lost", "= 0", [lost], is_counted=True).verdict(0.5, is_quick=True) == verdict


def test_what_a_small_size_cannot_show_is_left_to_the_full_one() -> None:
    figure = Figure("a / b", "<= 0.02", [0.3, 0.3], needs_scale=True)

    assert [figure.verdict(0.1, is_quick) for is_quick in (True, False)] == ["only with --full", "MISSED"]
