"""`recado up --reload`, on a copy of the checkout whose functions may be changed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.layout import ROOT
from tests.e2e.platforms import RECADO, eventually, free_base_port


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Its own functions, shared, local, sql and migrations; the npm packages are ours."""
    copy = tmp_path / "checkout"
    for folder in ("functions", "shared", "local", "sql"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copytree(ROOT / "supabase", copy / "supabase", ignore=shutil.ignore_patterns("node_modules"))
    (copy / "supabase/node_modules").symlink_to(ROOT / "supabase/node_modules")
    for file in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, copy / file)
    return copy


@pytest.fixture
def hello(checkout: Path) -> Iterator[str]:
    """The URL of the function, on a platform that watches the copy."""
    port = free_base_port()
    subprocess.run(
        [*RECADO, "up", "--detach", "--reload", "--port", str(port)],
        cwd=checkout,
        check=True,
        capture_output=True,
    )
    yield f"http://127.0.0.1:{port}/functions/v1/hello/"
    subprocess.run([*RECADO, "down"], cwd=checkout, check=True, capture_output=True)


def said(url: str) -> str:
    return httpx.get(url, timeout=5).text.strip()


def test_a_changed_function_is_served_anew_and_a_broken_one_stops_nothing(checkout: Path, hello: str) -> None:
    source, needs = checkout / "functions/hello/main.py", checkout / "functions/hello/requirements.txt"
    assert said(hello) == "Hello, world!"

    source.write_text(source.read_text().replace("Hello, ", "Hola, "))
    assert eventually(lambda: said(hello) == "Hola, world!")

    needs.write_text(needs.read_text() + "a-package-nobody-pinned\n")
    log = checkout / ".recado/logs/supervisor.log"
    assert eventually(lambda: log.exists() and "a-package-nobody-pinned" in log.read_text())
    assert said(hello) == "Hola, world!"
