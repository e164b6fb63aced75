"""The function webhook, from Meta's request to the call of the database."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from starlette.testclient import TestClient

from tests.functions.conftest import Lines, client, load

ENVIRON = {
    "SUPABASE_URL": "http://db.example",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
    "META_APP_SECRET": "the app secret",
    "META_VERIFY_TOKEN": "word",
}
DELIVERY = json.loads((Path(__file__).parents[1] / "data/whatsapp/text.json").read_text())["delivery"]
BODY = json.dumps(DELIVERY).encode()
APPLIED = {"status": "applied", "stored": 1, "repeated": 0}
FAILED = {"status": "failed", "stored": 0, "repeated": 0, "error": "why"}


@pytest.fixture
def database() -> Iterator[respx.Route]:
    """webhook_receive, which applies whatever could be read."""

    def apply(request: httpx.Request) -> httpx.Response:
        batch = json.loads(request.content)["p_batch"]
        return httpx.Response(200, json=[FAILED if one.get("error") else APPLIED for one in batch])

    with respx.mock(assert_all_called=False) as router:
        yield router.post("http://db.example/rest/v1/rpc/webhook_receive").mock(side_effect=apply)


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    with client(load("webhook").main) as made:
        yield made


def post(webhook: TestClient, body: bytes = BODY) -> Any:
    signature = hmac.new(b"the app secret", body, "sha256").hexdigest()
    return webhook.post("/cloud-api", content=body, headers={"x-hub-signature-256": f"sha256={signature}"})


def batch(database: respx.Route) -> list[dict[str, Any]]:
    return list(json.loads(database.calls.last.request.content)["p_batch"])


def test_the_handshake_is_answered_as_plain_text(webhook: TestClient) -> None:
    query = {"hub.mode": "subscribe", "hub.verify_token": "word", "hub.challenge": "<1158201444>"}

    answer = webhook.get("/cloud-api", params=query)

    assert (answer.status_code, answer.text) == (200, "<1158201444>")
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_wrong_handshake_is_forbidden(webhook: TestClient) -> None:
    assert webhook.get("/cloud-api").status_code == 403


def test_a_signed_delivery_is_stored_before_it_is_acknowledged(
    webhook: TestClient, database: respx.Route
) -> None:
    answer = post(webhook)

    assert (answer.status_code, answer.json()) == (200, {"stored": 1, "payloads": 1})
    assert batch(database)[0]["events"][0]["text"] == "¿Me das una cita? 😀"


@pytest.mark.parametrize("signature", ["", "sha256=" + "0" * 64])
def test_an_unsigned_delivery_is_refused_before_any_work(
    webhook: TestClient, database: respx.Route, lines: Lines, signature: str
) -> None:
    answer = webhook.post("/cloud-api", content=BODY, headers={"x-hub-signature-256": signature})

    assert answer.status_code == 401
    assert not database.called
    assert [line["status"] for line in lines()] == [401]


def test_a_signed_body_that_cannot_be_read_is_kept(webhook: TestClient, database: respx.Route) -> None:
    answer = post(webhook, b"hello")

    assert (answer.status_code, answer.json()) == (200, {"stored": 0, "payloads": 1})
    assert batch(database)[0]["raw"] == "aGVsbG8="


def test_a_body_over_three_megabytes_is_too_large(webhook: TestClient, database: respx.Route) -> None:
    fits, too_large = post(webhook, b"x" * 3 * 1024 * 1024), post(webhook, b"x" * (3 * 1024 * 1024 + 1))

    assert (fits.status_code, too_large.status_code) == (200, 413)


def test_nothing_is_acknowledged_while_the_database_is_away(
    webhook: TestClient, database: respx.Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.inbox.PAUSES", (0.0,))
    database.mock(side_effect=httpx.ConnectError)

    answer = post(webhook)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert database.call_count == 2


def test_a_log_names_no_customer(webhook: TestClient, database: respx.Route, lines: Lines) -> None:
    post(webhook)

    said = json.dumps(lines())
    assert not [word for word in ("12025550143", "Ana", "cita", "wamid", "US.7001") if word in said]


@pytest.mark.parametrize("missing", sorted(ENVIRON))
def test_without_a_setting_it_says_which_from_the_start(
    monkeypatch: pytest.MonkeyPatch, lines: Lines, missing: str
) -> None:
    for name in ENVIRON.keys() - {missing}:
        monkeypatch.setenv(name, ENVIRON[name])
    monkeypatch.delenv(missing, raising=False)

    answer = post(client(load("webhook").main))

    assert answer.status_code == 503
    assert missing in answer.text
    assert lines()[0]["missing"] == [missing]
