"""What a part of the platform has to say: one JSON object a line, on stdout, which is the part's log."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime


def log(event: str, severity: str = "INFO", **fields: object) -> None:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "severity": severity,
        "message": event,
        **fields,
    }
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()
