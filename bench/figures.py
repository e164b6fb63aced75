"""How a benchmark tells a figure: a line for who runs the module, and an object for `python -m bench`."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

COLLECTED = "RECADO_FIGURES"  # a file that figures are added to, one JSON object a line
STEADY = 0.15  # of a run whose control is off by more, nothing is said to be missed
_GOAL = re.compile(r"(<=|>=|=) ([\d.]+)")


@dataclass(frozen=True)
class Figure:
    """`goal` is `<= 1.3`, `>= 20`, `= 0`, or empty: told without one. `is_counted`: noise does not change it.

    `needs_scale`: at a small size it may miss its goal and say nothing about a large one.
    """

    name: str
    goal: str
    samples: Sequence[float]
    note: str = ""
    is_counted: bool = False
    needs_scale: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The middle half of the samples."""
        if len(self.samples) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.samples, n=4)
        return low, high

    def verdict(self, noise: float, is_quick: bool) -> str:
        """`noise`: how far from 1 the ratio of a thing and itself was, in this run."""
        if not self.goal:
            return ""
        if not self.is_counted and self._distance() < max(noise, self._own_noise()):
            return "too noisy"
        if self._holds():
            return "met"
        if is_quick and self.needs_scale:
            return "only with --full"
        return "too noisy" if noise > STEADY and not self.is_counted else "MISSED"

    def _bound(self) -> tuple[str, float]:
        found = _GOAL.fullmatch(self.goal)
        assert found, f"{self.goal!r} is no goal"
        return found[1], float(found[2])

    def _holds(self) -> bool:
        sign, bound = self._bound()
        if sign == "=":
            return all(sample == bound for sample in self.samples)
        return self.median <= bound if sign == "<=" else self.median >= bound

    def _distance(self) -> float:
        """Of the median to the goal, as a part of the larger of them."""
        bound = self._bound()[1]
        return abs(self.median - bound) / (max(self.median, bound) or 1)

    def _own_noise(self) -> float:
        low, high = self.spread
        return (high - low) / 2 / (max(self.median, self._bound()[1]) or 1)


def report(
    name: str,
    samples: Sequence[float],
    goal: str,
    note: str = "",
    *,
    is_counted: bool = False,
    needs_scale: bool = False,
) -> None:
    figure = Figure(name, goal, list(samples), note, is_counted, needs_scale)
    low, high = figure.spread
    spread = f" (IQR {low:.2f}-{high:.2f})" if len(samples) > 1 else ""
    print(f"{name:58} {figure.median:8.2f}   goal {goal or '-':8}{spread} {note}".rstrip(), flush=True)
    if path := os.environ.get(COLLECTED):
        with Path(path).open("a") as file:
            file.write(json.dumps(asdict(figure)) + "\n")
