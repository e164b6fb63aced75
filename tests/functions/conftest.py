"""Functions as the framework serves them, in this process."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from functions_framework.aio import create_asgi_app_from_module
from starlette.testclient import TestClient

from shared import logs

ROOT = Path(__file__).parent.parent.parent
SECRET = "the functions secret"
# what the tests of this folder use for what must not be in any log: tokens, secrets, customers
PRIVATE = (
    *("the-token", "the token", "EAAtoken-of-the-business", "header-secret", "the.users.jwt", "sb_secret_x"),
    *(SECRET, "the app secret", "app-secret-xyz", "old token", "new token"),
    *("12025550143", "+1 202 555 0143", "US.7001", "wamid."),
)
_NOT_SAID = {*vars(logging.makeLogRecord({})), "message", "asctime"} - {"msg", "args"}

Lines = Callable[[], list[dict[str, Any]]]


def client(main: Any) -> TestClient:
    """A client of `main = serve(…)`, through the real framework."""
    app = create_asgi_app_from_module("main", "main.py", "http", SimpleNamespace(main=main), None)  # type: ignore[no-untyped-call]
    return TestClient(app, raise_server_exceptions=False)


def load(name: str) -> ModuleType:
    """functions/<name>/main.py as a fresh module; set its environment first."""
    spec = importlib.util.spec_from_file_location(f"function_{name}", ROOT / "functions" / name / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """serve() speaks for a whole process; a test gives the root logger back."""
    yield
    logs.reset()


class _Listener(logging.Handler):
    """Hears what is handed to the log before anything is redacted: that is a net, and not a licence."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: value for name, value in vars(record).items() if name not in _NOT_SAID}
        stack = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        self.said.append(f"{record.getMessage()} {fields!r} {logs.redact(stack)}")


@pytest.fixture(autouse=True)
def nothing_private_is_logged() -> Iterator[None]:
    """Holds for every test here, whatever else it is about."""
    ours, listener = logging.getLogger("shared"), _Listener()
    ours.addHandler(listener)
    ours.setLevel(logging.INFO)
    yield
    ours.removeHandler(listener)
    ours.setLevel(logging.NOTSET)
    leaks = [(word, said) for said in listener.said for word in PRIVATE if word in said]
    assert not leaks, f"{leaks[0][0]!r} is handed to the log: {leaks[0][1]}"


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What was logged since the last call, one object per line."""
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]
