"""How long `recado up` takes on existing data, and what the platform holds in memory when it is idle."""

from __future__ import annotations

import time

import psutil

from bench.figures import report
from tests.e2e.platforms import Platform, temporary_platform

MEGABYTE = 1024 * 1024


def main(starts: int = 3) -> None:
    with temporary_platform() as platform:
        assert platform.up().returncode == 0
        seconds = []
        for _ in range(starts):
            platform.down()
            began = time.monotonic()
            assert platform.up().returncode == 0
            seconds.append(time.monotonic() - began)
        report("recado up on existing data, seconds", seconds, "<= 8")
        time.sleep(5)
        shared, plain = memory(platform)
        report("idle platform, MB, shared pages counted once", [shared], "<= 700", is_counted=True)
        report("idle platform, MB, shared pages counted in each process", [plain], "")


def memory(platform: Platform) -> tuple[float, float]:
    """Proportional and plain; without the right to read the first, both are plain."""
    used = [process.memory_full_info() for process in platform.processes()]
    plain = sum(one.rss for one in used) / MEGABYTE
    return sum(getattr(one, "pss", one.rss) for one in used) / MEGABYTE, plain


if __name__ == "__main__":
    assert psutil.LINUX, "memory is counted as Linux tells it"
    main()
