"""Functions as the framework serves them, in this process."""

from __future__ import annotations

import importlib.util
import json
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


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What was logged since the last call, one object per line."""
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]
