"""Everything we claim about speed, measured now, in one table next to its goal.

    python -m bench                        small sizes, about two minutes (make bench)
    python -m bench --full --json FILE     the sizes that the goals speak of (recado bench --full)

Ratios only: what else the machine does meanwhile hits both sides of each, slice by slice. The control comes
first, a thing against itself: where that is off by more than a figure is from its goal, the verdict is
"too noisy" rather than a wrong one. Ends with 1 when a goal is missed or a benchmark breaks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import psycopg

from bench.figures import COLLECTED, Figure
from bench.schema import Done, Scale, Work, paired
from local import postgres

ROOT = Path(__file__).parent.parent
# what each module is given: for a look, and for the sizes of the goals; None: not for a look
SIZES: Mapping[str, tuple[str | None, str]] = {
    "platform": ("", ""),
    "function_start": ("4", "15"),
    "gateway": ("--pairs 3 --seconds 1", "--pairs 12"),
    "webhook": ("--pairs 2 --seconds 1", "--pairs 12"),
    "ingest": ("--pairs 2 --seconds 2", "--pairs 6"),
    "schema": (
        "--messages 5000 --tenants 50 --crowd 1000 --pairs 4 --slice 0.1",
        "--messages 2000000 --tenants 10000 --crowd 50000 --pairs 12",
    ),
    "decisions": ("--candidates 10000 --pairs 4 --slice 0.1", "--pairs 20"),
    "outbox": ("--queue 60000 --pairs 4 --slice 0.2", "--queue 400000 --pairs 12"),
    "realtime": ("--pairs 4 --slice 0.1", "--pairs 12"),
    "crm": ("--chats 10000 --pairs 4", "--chats 1000000 --pairs 12"),
    "blocks": ("--messages 20000 --pairs 4", "--messages 2000000 --candidates 1000 --pairs 12"),
    "sequences": (
        "--enrollments 4000 --idle 20000 --runs 1 --sample 10",
        "--enrollments 100000 --idle 1000000 --runs 5",
    ),
    "stats": (
        "--short 20000 --long 40000 --pairs 4 --slice 0.1",
        "--short 200000 --long 2000000 --pairs 12",
    ),
    "delivery": (None, ""),
    "load": (None, ""),
}
CONTROL = "select count(md5(n::text)) from generate_series(1, 20000) n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the sizes that the goals speak of")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("modules", nargs="*", help=f"only these: {', '.join(SIZES)}")
    given = parser.parse_args()
    if unknown := set(given.modules) - set(SIZES):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(SIZES)}")
    began = time.monotonic()
    noise = control()
    print(f"control, a thing against itself: off by up to {noise:.0%}", flush=True)
    rows = list(measure(given.modules or list(SIZES), noise, is_full=given.full))
    if given.json:
        given.json.write_text(json.dumps({"noise": noise, "is_full": given.full, "figures": rows}, indent=1))
    verdicts = [str(row["verdict"]) for row in rows]
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in dict.fromkeys(filter(None, verdicts)))
    print(f"{counts}; {time.monotonic() - began:.0f} s")
    if "MISSED" in verdicts or "broken" in verdicts:
        sys.exit(1)


def control(pairs: int = 12) -> float:
    """How far from 1 the middle half of the ratios is, of a query and the same query."""
    with postgres.temporary(postgres.installation()) as port:
        dsn = postgres.dsn(port, user=postgres.SUPERUSER)
        with psycopg.connect(dsn, autocommit=True) as one, psycopg.connect(dsn, autocommit=True) as other:
            ratios = paired(_work(one), _work(other), Scale(0, 0, 0, pairs, 0.1))
    low, high = Figure("control", "", ratios).spread
    return max(abs(low - 1), abs(high - 1))


def _work(connection: psycopg.Connection[tuple[int]]) -> Work:
    def once() -> Done:
        began = time.perf_counter()
        connection.execute(CONTROL).fetchone()
        return 1, time.perf_counter() - began

    once()
    return once


def measure(modules: Sequence[str], noise: float, *, is_full: bool) -> Iterator[dict[str, object]]:
    """Each figure with its verdict, printed as it comes."""
    for module in modules:
        sizes = SIZES[module][is_full]
        if sizes is None:
            print(f"{module}: only with --full")
            continue
        figures, problem = run(module, sizes.split())
        print(f"{module} {sizes}".rstrip())
        for figure in figures:
            verdict = figure.verdict(noise, not is_full)
            print(line(figure, verdict), flush=True)
            yield {"module": module, **asdict(figure), "median": figure.median, "verdict": verdict}
        if problem:
            print(f"  broken: {problem}", flush=True)
            yield {"module": module, "name": problem, "verdict": "broken"}


def run(module: str, sizes: Sequence[str]) -> tuple[list[Figure], str]:
    """The figures of a module, and the last thing it said if it broke."""
    with tempfile.NamedTemporaryFile("r", prefix="recado-figures-") as file:
        done = subprocess.run(
            [sys.executable, "-m", f"bench.{module}", *sizes],
            cwd=ROOT,
            env={**os.environ, COLLECTED: file.name},
            capture_output=True,
            text=True,
            check=False,
        )
        figures = [Figure(**json.loads(one)) for one in file]
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return figures, said[-1] if done.returncode and said else ""


def line(figure: Figure, verdict: str) -> str:
    low, high = figure.spread
    spread = f"{low:.2f}-{high:.2f}" if len(figure.samples) > 1 else ""
    return f"  {figure.name:66} {figure.median:9.2f}  {spread:15} {figure.goal:8} {verdict}".rstrip()


if __name__ == "__main__":
    main()
