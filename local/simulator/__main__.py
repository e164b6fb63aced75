"""`python -m local.simulator`: one process, on 127.0.0.1, until SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

import uvicorn

from local.errors import PlatformError
from local.events import log
from local.simulator.app import application
from local.simulator.config import Config
from local.simulator.http import AbortableProtocol


def main() -> None:
    try:
        config = Config.read(os.environ)
    except PlatformError as error:
        sys.exit(f"simulator: {error}")
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # we say ourselves when the database is away
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    log("simulator started", port=config.port)
    uvicorn.run(
        application(config),
        host="127.0.0.1",
        port=config.port,
        loop="uvloop",
        http=AbortableProtocol,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
    )


def _leave(number: int, frame: FrameType | None) -> None:
    """uvicorn raises the signal that ended it once more, when everything is closed."""
    sys.exit(0)


if __name__ == "__main__":
    main()
