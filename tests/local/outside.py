"""What the simulator's tests work with: the real process, and a webhook that notes what it is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx

from local.processes import child_setup
from tests.conftest import free_port

NUMBER, PHONE, CUSTOMER = "100000000000001", "57301111111", "57311111111"
APP_ID = "1000000000000001"
APP_SECRET, VERIFY_TOKEN, API_KEY = "meta-secret", "verify-me", "sk-test"
CHANNEL, CHANNEL_ID, WHAPI_SECRET = "PULSO-WHAPI", "5a000000-0000-4000-8000-000000000004", "header-secret"
ACCOUNT, SENDER, SENDER_ID = "AC" + "5" * 32, "57305555555", "5a000000-0000-4000-8000-000000000005"
TWILIO_TOKEN = f"demo-token-{ACCOUNT}"
FAST = {"sent_ms": 0, "delivered_ms": 10, "read_ms": 20, "model_ms": 0}


@dataclass(frozen=True)
class Request:
    """What came to our webhook."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True, strict_parsing=True))


@dataclass
class Webhook:
    """Our side: answers with `status`, and keeps all that was proven well; Meta's bodies also read."""

    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    attempts: int = 0

    def take(self, request: Request, url: str) -> int:
        self.attempts += 1
        if not _is_proven(request, url):
            return 401
        if self.status == 200:
            self.requests.append(request)
            if request.path.endswith("/cloud-api"):
                self.bodies.append(json.loads(request.body))
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

    def told(self, key: str) -> list[Any]:
        """Whapi's lists of that name, one after the other."""
        bodies = [json.loads(one.body) for one in self.requests if "/whapi/" in one.path]
        return [item for body in bodies for item in body.get(key, [])]

    def forms(self, name: str) -> list[dict[str, str]]:
        """Twilio's requests that have that parameter."""
        return [one.form for one in self.requests if "/twilio/" in one.path and name in one.form]


def _is_proven(request: Request, url: str) -> bool:
    """As each provider documents it, written apart from the simulator."""
    if "/whapi/" in request.path:
        return request.headers.get("x-recado-secret") == WHAPI_SECRET
    if "/twilio/" in request.path:
        signed = url + request.path
        if "bodySHA256" not in request.path:
            signed += "".join(map("".join, sorted(request.form.items())))
        settings = request.headers.get("x-twilio-webhooks-signature-settings", "")
        algorithm = "sha256" if settings.endswith("algorithm=HMAC_SHA256") else "sha1"
        digest = hmac.digest(TWILIO_TOKEN.encode(), signed.encode(), algorithm)
        return request.headers.get("x-twilio-signature") == base64.b64encode(digest).decode()
    right = "sha256=" + hmac.new(APP_SECRET.encode(), request.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(request.headers.get("x-hub-signature-256", ""), right)


class Outside:
    """A running simulator, and what its tests say to it."""

    def __init__(self, file: Path, webhook: Webhook, webhook_url: str, database_url: str) -> None:
        self.webhook = webhook
        self.webhook_port = webhook_url.rpartition(":")[2]
        self.port = free_port()
        self._env = {
            **os.environ,
            "RECADO_PORT": str(self.port),
            "DATABASE_URL": database_url,
            "FUNCTIONS_URL": webhook_url,
            "META_APP_ID": APP_ID,
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

    def whapi(self, method: str, path: str, body: Any = None, token: str = CHANNEL) -> httpx.Response:
        headers = _bearer(f"demo-token-{token}")
        return self.http.request(method, f"/whapi/{path}", json=body, headers=headers)

    def twilio(
        self, method: str, path: str, form: Mapping[str, Any] | None = None, **more: Any
    ) -> httpx.Response:
        """`path` is below the account, unless it begins with a slash."""
        whole = path if path.startswith("/") else f"/2010-04-01/Accounts/{ACCOUNT}/{path}"
        auth = more.pop("auth", (ACCOUNT, TWILIO_TOKEN))
        return self.http.request(method, f"/twilio{whole}", data=form, auth=auth, **more)

    def ask(self, path: str, body: dict[str, Any], key: str = API_KEY) -> httpx.Response:
        return self.http.post(f"/v1/{path}", json=body, headers=_bearer(key))

    def fresh(self) -> None:
        self.control("reset")
        self.control("settings", **FAST)
        self.control("numbers", number=NUMBER, phone=PHONE, account="200000000000001", name="Citas")
        self.control(
            "numbers",
            provider="whapi",
            number=CHANNEL,
            phone="57304444444",
            name="Pulso",
            id=CHANNEL_ID,
            secret=WHAPI_SECRET,
        )
        self.control(
            "numbers",
            provider="twilio",
            number=f"whatsapp:+{SENDER}",
            phone=SENDER,
            account=ACCOUNT,
            name="Pulso ventas",
            id=SENDER_ID,
        )
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
