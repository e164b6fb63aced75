"""The chat page works in a real browser, and a customer's text stays text in it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.local.outside import CUSTOMER, NUMBER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.local.outside import Outside

pytest_plugins = ("tests.local.outside_fixtures",)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def test_the_page_runs_nothing_but_its_own_files(outside: Outside) -> None:
    page = outside.http.get("/")

    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in ("/page/chat.js", "/page/chat.css", "/page/icon.svg"):
        assert outside.http.get(path).status_code == 200


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_conversation_is_shown_and_markup_stays_text(outside: Outside, tmp_path: Path) -> None:
    outside.customer_writes(HOSTILE, name=HOSTILE)
    outside.send({"text": {"body": "¿En qué te ayudo?"}})

    page = _rendered(f"http://127.0.0.1:{outside.port}/#{NUMBER}/{CUSTOMER}", tmp_path)

    assert "¿En qué te ayudo?" in page
    assert "&lt;script&gt;document.title='taken'&lt;/script&gt;" in page
    assert "<title>Recado" in page
    assert "ventana abierta" in page
    assert "La base de datos no responde" in page


def _rendered(url: str, profile: Path) -> str:
    """The document after its scripts have run for two seconds."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
        " --disable-background-networking --disable-component-update --virtual-time-budget=2000 --dump-dom"
    )
    assert CHROMIUM
    browser = [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", url]
    return subprocess.run(browser, capture_output=True, text=True, timeout=60, check=True).stdout
