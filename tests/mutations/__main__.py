"""Adds faults to a copy of the tree, one at a time, and sees that a test names each.

    python -m tests.mutations [words]

faults.toml has the faults. One whose place is not in the code any more, or whose test does not turn red, ends
this with 1. With words, only the faults whose names have all of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parents[2]
WORKERS = 2
SECONDS = 600  # a fault may make a test wait for ever
_RED = re.compile(r"^(?:FAILED|ERROR) (.+?::.+?)(?: - (.*))?$", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """`red`: the test that must fail, as pytest names it; a name without [parameters] means any of them."""

    name: str
    file: str
    changes: Sequence[tuple[str, str]]
    red: str

    def spoil(self, source: str) -> str:
        """LookupError: the code is not what it was when the fault was written."""
        for was, becomes in self.changes:
            if source.count(was) != 1:
                raise LookupError(f"is in {self.file} {source.count(was)} times, not once: {was.strip()}")
            source = source.replace(was, becomes)
        return source


@dataclass(frozen=True)
class Outcome:
    fault: Fault
    problem: str
    seen: str


def read() -> list[Fault]:
    entries = tomllib.loads(Path(__file__).with_name("faults.toml").read_text())
    return [
        Fault(name, entry["file"], [(was, becomes) for was, becomes in entry["changes"]], entry["red"])
        for name, entry in entries.items()
    ]


@contextmanager
def copy() -> Iterator[Path]:
    """The tree as it is in the working directory, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    with tempfile.TemporaryDirectory(prefix="recado-faults-") as home:
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (Path(home) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(home) / name)
        yield Path(home)


def pytest(tree: Path, *tests: str) -> tuple[int, str]:
    """Exit code and output; none of the bytecode of one tree is used for another."""
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        "--color=no",
        "-p",
        "no:cacheprovider",
        *tests,
    ]
    environ = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"}
    done = subprocess.run(
        argv, cwd=tree, env=environ, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    return done.returncode, done.stdout + done.stderr


def judge(tree: Path, fault: Fault) -> Outcome:
    path = tree / fault.file
    source = path.read_text()
    try:
        path.write_text(fault.spoil(source))
        code, output = pytest(tree, fault.red)
    except LookupError as exc:
        return Outcome(fault, str(exc), "")
    except subprocess.TimeoutExpired:
        return Outcome(fault, f"{fault.red} did not end within {SECONDS} s.", "")
    finally:
        path.write_text(source)
    red = [found for found in _RED.findall(output) if found[0].startswith(fault.red)]
    if code == 0:
        return Outcome(fault, f"{fault.red} stays green.", "")
    if not red:
        return Outcome(fault, f"{fault.red} did not run (exit {code}):\n{output[-2000:]}", "")
    return Outcome(fault, "", red[0][0] + (f"\n      {red[0][1][:200]}" if red[0][1] else ""))


def outcomes(faults: Sequence[Fault]) -> Iterator[Outcome]:
    """Each worker has a tree of its own."""
    trees: Queue[Path] = Queue()

    def one(fault: Fault) -> Outcome:
        tree = trees.get()
        try:
            return judge(tree, fault)
        finally:
            trees.put(tree)

    with copy() as first, copy() as second, ThreadPoolExecutor(WORKERS) as workers:
        trees.put(first)
        trees.put(second)
        code, output = pytest(first, *sorted({fault.red for fault in faults}))
        if code:
            sys.exit(f"Without any fault these tests are red already:\n{output[-4000:]}")
        yield from workers.map(one, faults)


def main(*words: str) -> None:
    began = time.monotonic()
    faults = [fault for fault in read() if all(word in fault.name for word in words)]
    missed = 0
    for outcome in outcomes(faults):
        missed += bool(outcome.problem)
        print(f"{'MISSED' if outcome.problem else 'red   '} {outcome.fault.name}", flush=True)
        print(f"      {outcome.problem or outcome.seen}", flush=True)
    print(f"{len(faults) - missed} of {len(faults)} faults turn a test red; {time.monotonic() - began:.0f} s")
    if missed or not faults:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
