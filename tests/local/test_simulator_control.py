"""The control API says what is wrong with a request, and moves the platform's clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from local import postgres
from local.simulator.limits import Limits
from tests.local.outside import CUSTOMER, NUMBER, Outside, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Server
    from tests.local.outside import Webhook

pytest_plugins = ("tests.local.outside_fixtures",)

WRITES = {"number": NUMBER, "from": CUSTOMER}


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("inbound", {"from": CUSTOMER, "text": "x"}, "`number` is missing"),
        ("inbound", {"number": 5, "from": CUSTOMER, "text": "x"}, "`number` must be a text, not a number"),
        ("inbound", {**WRITES, "from": "me", "text": "x"}, "8 to 15 digits"),
        ("inbound", WRITES, "Give `text` or `message`"),
        ("inbound", {**WRITES, "text": "x", "message": {"type": "text"}}, "Give `text` or `message`"),
        ("inbound", {**WRITES, "message": {"text": {"body": "x"}}}, "`message.type`"),
        (
            "inbound",
            {**WRITES, "text": "x", "colour": "red"},
            "Unknown field colour; allowed: provider, number, from",
        ),
        ("inbound", {**WRITES, "text": "x", "bsuid": "123"}, "`bsuid` must look like"),
        ("webhook", {}, "Give `payload`"),
        ("webhook", {"raw": 5}, "`raw` must be a text"),
        ("status", {"wa_message_id": "x", "status": "seen"}, "allowed: sent, delivered, read"),
        ("status", {"wa_message_id": "x", "status": "failed", "error": 1234567}, "allowed: 0, 1, 2"),
        ("status", {"wa_message_id": "x", "status": "read", "error": 131026}, "failed only"),
        ("faults", {"target": "moon", "kind": "reset"}, "allowed: graph.send"),
        ("faults", {"target": "graph.send", "kind": "rain"}, "allowed for graph.send: http_500"),
        ("faults", {"target": "graph.send", "kind": "reset", "times": -1}, "at least 1"),
        ("openai", {"queue": "x"}, "`queue` must be a list"),
        ("openai", {"queue": [{"error": "gremlins"}]}, "allowed: server_error"),
        ("openai", {"queue": [{"text": "x", "refusal": "y"}]}, "Only one of"),
        ("clock", {}, "`advance_seconds` is missing"),
        ("clock", {"advance_seconds": -1}, "at least 0"),
        ("settings", {"sent_ms": "soon"}, "`sent_ms` must be a number"),
        ("reset", {"all": True}, "Unknown field all"),
    ],
)
def test_bad_input_is_named(outside: Outside, name: str, body: dict[str, Any], said: str) -> None:
    refused = outside.http.post(f"/control/{name}", json=body)

    assert refused.status_code == 400
    assert said in refused.json()["error"]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_a_body_that_is_no_object_is_refused(outside: Outside, content: bytes) -> None:
    assert outside.http.post("/control/inbound", content=content).status_code == 400


def test_an_unknown_control_is_not_found(outside: Outside) -> None:
    assert outside.http.get("/control/weather").status_code == 404


def test_what_was_sent_can_be_listed_by_number_and_customer(outside: Outside) -> None:
    outside.send({"biz_opaque_callback_data": "mine"})
    outside.send({"to": "57399999999"})

    (message,) = outside.told("sent", number=NUMBER, to=CUSTOMER)

    assert len(outside.told("sent", number=NUMBER)) == 2
    assert outside.told("sent", number="999") == []
    assert (message["to"], message["type"], message["text"]) == (CUSTOMER, "text", "Hola")
    assert (message["number"], message["callback"]) == (NUMBER, "mine")
    assert message["wa_message_id"].startswith("wamid.")
    assert message["at"]


def test_the_state_shows_counts_and_faults(outside: Outside) -> None:
    outside.customer_writes()
    outside.control("faults", target="openai", kind="timeout", times=3)

    state = outside.told("state")

    assert state["counts"]["received"] == 1
    assert [(fault["target"], fault["times"]) for fault in state["faults"]] == [("openai", 3)]
    assert state["webhooks"]["pending"] == 0
    outside.control("faults", target="openai", times=0)
    assert outside.told("state")["faults"] == []


def test_the_clock_stays_when_the_database_is_away(outside: Outside) -> None:
    refused = outside.http.post("/control/clock", json={"advance_seconds": 60})

    assert refused.status_code == 503
    assert "did not move its clock" in refused.json()["error"]


def test_a_number_may_take_eighty_messages_a_second() -> None:
    limits = Limits()

    reached = [limits.reached(NUMBER, str(customer), now=0.0) for customer in range(100)]

    assert reached == [None] * 80 + ["number"] * 20
    assert limits.reached(NUMBER, "later", now=1.01) is None


@pytest.fixture
def with_database(
    server: Server, database: str, tmp_path: Path, webhook_server: tuple[Webhook, str]
) -> Iterator[tuple[Outside, str]]:
    """A simulator beside a database of the product, and that database's DSN."""
    name = database.rsplit("/", 1)[-1]
    made = Outside(tmp_path / "simulator.db", *webhook_server, server.dsn(name, postgres.SUPERUSER))
    made.start()
    try:
        made.webhook.__init__()  # type: ignore[misc]
        yield made, database
    finally:
        made.kill()
        made.http.close()


def test_the_platforms_clock_and_ours_move_together(with_database: tuple[Outside, str]) -> None:
    outside, database = with_database
    outside.customer_writes()

    moved = outside.control("clock", advance_seconds=90000)

    with psycopg.connect(database, autocommit=True) as connection:
        ahead = connection.execute("select extract(epoch from private.clock() - now())").fetchone()
    assert ahead == (90000,)
    assert moved["ahead_seconds"] == 90000
    view = outside.told("view", number=NUMBER, **{"from": CUSTOMER})
    assert view["contact"]["window_open"] is False


def test_the_clock_follows_whoever_moves_it(with_database: tuple[Outside, str]) -> None:
    outside, database = with_database

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("select local.clock_advance('1 hour')")

    eventually(lambda: outside.told("state")["ahead_seconds"] == 3600)


def test_numbers_are_those_the_platform_connected(with_database: tuple[Outside, str]) -> None:
    outside, database = with_database
    missing = outside.send()
    assert (missing.status_code, missing.json()["error"]["error_subcode"]) == (400, 33)

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(_CONNECT)

    assert outside.send().status_code == 200
    view = outside.told("view", number=NUMBER, **{"from": CUSTOMER})
    number = {"number": NUMBER, "phone": "57301111111", "account": "200000000000001", "name": "Citas"}
    assert view["numbers"] == [{**number, "provider": "cloud_api"}]
    assert view["business"]["number"]["business"] == "Clínica"
    assert view["business"]["lead"] is None


_CONNECT = """
    with sign_up as (
        insert into auth.users (id, aud, role, email, email_confirmed_at, raw_user_meta_data)
        values (gen_random_uuid(), 'authenticated', 'authenticated', 'owner@clinica.example', now(),
            '{"name": "Owner", "business_name": "Clínica"}')
    )
    select 1;
    select public.plan_set(id, 'pro') from public.users where email = 'owner@clinica.example';
    insert into public.whatsapp_numbers
        (tenant_id, provider, phone_number, provider_number_id, waba_id, display_name)
    select id, 'cloud_api', '57301111111', '100000000000001', '200000000000001', 'Citas'
    from public.users where email = 'owner@clinica.example'"""
