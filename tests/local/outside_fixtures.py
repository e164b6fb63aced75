"""Fixtures over tests/local/outside.py; a module of their own, since pytest wants to import plugins first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.conftest import free_port
from tests.local.outside import VERIFY_TOKEN, Outside, Request, Webhook


@pytest.fixture(scope="module")
def webhook_server() -> Iterator[tuple[Webhook, str]]:
    webhook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            url = f"http://{headers['host']}"
            self._answer(webhook.take(Request(self.path, headers, body), url), b"noted")

        def do_GET(self) -> None:
            query = dict(httpx.URL(self.path).params)
            right = query.get("hub.verify_token") == VERIFY_TOKEN
            self._answer(200 if right else 403, query["hub.challenge"].encode() if right else b"no")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silence."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield webhook, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, webhook_server: tuple[Webhook, str]
) -> Iterator[Outside]:
    """Without a database: the outside world goes on when ours is away."""
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    made = Outside(tmp_path_factory.mktemp("outside") / "simulator.db", *webhook_server, nowhere)
    made.start()
    try:
        yield made
    finally:
        made.kill()
        made.http.close()


@pytest.fixture
def outside(running: Outside) -> Outside:
    """Everything forgotten, one number known, statuses at once."""
    running.fresh()
    return running
