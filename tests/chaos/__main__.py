"""A storm over a platform of its own: python -m tests.chaos, with RECADO_SEED, RECADO_CHAOS_SECONDS"""

from __future__ import annotations

import os
import sys

from tests.chaos.storm import Plan, run, seed_of


def main() -> None:
    seed, seconds = seed_of(), float(os.environ.get("RECADO_CHAOS_SECONDS") or 180)
    print(f"RECADO_SEED={seed}, {seconds:.0f} s of faults", flush=True)  # noqa: T201
    report = run(Plan(seed, seconds, calm=15, pause=(0.2, 3), patient=True, writers=3))
    print(report)  # noqa: T201
    sys.exit(bool(report.broken))


if __name__ == "__main__":
    main()
