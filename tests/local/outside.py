"""What the simulator's tests work with: the real process, and a webhook that notes what it is told."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.processes import child_setup
from tests.conftest import free_port

NUMBER, PHONE, CUSTOMER = "100000000000001", "57301111111", "57311111111"
APP_SECRET, VERIFY_TOKEN, API_KEY = "meta-secret", "verify-me", "sk-test"
FAST = {"sent_ms": 0, "delivered_ms": 10, "read_ms": 20, "model_ms": 0}


@dataclass
class Webhook:
    """Our side: answers with `status`, and keeps every body that was signed well."""

    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0
    badly_signed: int = 0

    def take(self, body: bytes, signature: str) -> int:
        self.attempts += 1
        right = "sha256=" + hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature, right):
            self.badly_signed += 1
            return 401
        if self.status == 200:
            self.bodies.append(json.loads(body))
        return self.status

    @property
    def values(self) -> list[dict[str, Any]]:
        return [change["value"] for body in self.bodies for change in body["entry"][0]["changes"]]

    @property
    def statuses(self) -> list[dict[str, Any]]:
        return [status for value in self.values for status in value.get("statuses", [])]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [message for value in self.values for message in value.get("messages", [])]


class Outside:
    """A running simulator, and what its tests say to it."""

    def __init__(self, file: Path, webhook: Webhook, webhook_url: str, database_url: str) -> None:
        self.webhook = webhook
        self.port = free_port()
        self._env = {
            **os.environ,
            "RECADO_PORT": str(self.port),
            "DATABASE_URL": database_url,
            "FUNCTIONS_URL": webhook_url,
            "META_APP_SECRET": APP_SECRET,
            "META_VERIFY_TOKEN": VERIFY_TOKEN,
            "OPENAI_API_KEY": API_KEY,
            "SIMULATOR_DB": str(file),
        }
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local.simulator"],
            env=self._env,
            preexec_fn=child_setup(signal.SIGKILL),
        )
        eventually(self._is_up)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=10)

    def control(self, name: str, /, **body: Any) -> Any:
        response = self.http.post(f"/control/{name}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def told(self, name: str, /, **query: str) -> Any:
        return self.http.get(f"/control/{name}", params=query).json()

    def customer_writes(self, text: str = "Hola", **more: Any) -> Any:
        return self.control("inbound", number=NUMBER, **{"from": CUSTOMER}, text=text, **more)

    def send(self, body: dict[str, Any] | None = None, token: str = f"demo-token-{NUMBER}") -> httpx.Response:
        return self.http.post(
            f"/graph/v26.0/{NUMBER}/messages",
            json={**text_message(), **(body or {})},
            headers=_bearer(token),
        )

    def ask(self, path: str, body: dict[str, Any], key: str = API_KEY) -> httpx.Response:
        return self.http.post(f"/v1/{path}", json=body, headers=_bearer(key))

    def fresh(self) -> None:
        self.control("reset")
        self.control("settings", **FAST)
        self.control("numbers", number=NUMBER, phone=PHONE, account="200000000000001", name="Citas")
        self.webhook.__init__()  # type: ignore[misc]

    def _is_up(self) -> bool:
        try:
            return self.http.get("/health").status_code == 200
        except httpx.TransportError:
            return False


def text_message(text: str = "Hola", to: str = CUSTOMER) -> dict[str, Any]:
    return {"messaging_product": "whatsapp", "to": to, "type": "text", "text": {"body": text}}


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def eventually(question: Callable[[], Any]) -> Any:
    """Repeat a question until its answer is true, and return it."""
    deadline = time.monotonic() + 20
    while not (answer := question()):
        assert time.monotonic() < deadline, "waited 20 seconds in vain"
        time.sleep(0.02)
    return answer
