"""What whoever runs it sees of a conversation: lines in the log, broadcasts, figures."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.e2e.clinics import Business
from tests.e2e.platforms import Platform, eventually

CUSTOMER = "573009998877"


@pytest.fixture
def tenant_id(platform: Platform, business: Business) -> str:
    query = "select tenant_id::text from public.whatsapp_numbers where provider_number_id = %s"
    return str(platform.query(query, business.number)[0][0])


def product_events(platform: Platform, tenant_id: str) -> dict[str, dict[str, Any]]:
    """The lines about this business, by their event."""
    lines = [line for log in (platform.data / "logs").glob("*.log") for line in log.read_text().splitlines()]
    found = [json.loads(line) for line in lines if '"event": "whatsapp.' in line]
    return {line["event"]: line for line in found if line["tenant_id"] == tenant_id}


def test_a_conversation_is_told_by_ids_to_the_log_and_to_front_ends(
    platform: Platform, business: Business, tenant_id: str
) -> None:
    business.write(CUSTOMER, "Me duele la muela")

    wanted = {"whatsapp.message.received", "whatsapp.message.sent"}
    assert eventually(lambda: wanted <= product_events(platform, tenant_id).keys())
    found = product_events(platform, tenant_id)
    received, sent = (found[name] for name in sorted(wanted))
    assert received["chat_ids"] == [sent["chat_id"]]
    assert not [word for word in (CUSTOMER, "muela") if word in str(found)]

    def told() -> list[tuple[str, str]]:
        query = "select event, payload::text from realtime.messages where topic = 'tenant:' || %s"
        return [(event, payload) for event, payload in platform.query(query, tenant_id)]

    assert eventually(lambda: {event for event, _ in told()} >= {"message.new", "message.status"})
    assert [payload for event, payload in told() if event == "message.new" and sent["message_id"] in payload]
    assert not [word for word in (CUSTOMER, "muela") if word in str(told())]


def test_a_send_that_fails_is_told_with_its_code(
    platform: Platform, business: Business, tenant_id: str
) -> None:
    business.order("graph.send", "code:131026")

    business.write(CUSTOMER, "Hola")

    assert eventually(lambda: "whatsapp.send.failed" in product_events(platform, tenant_id))
    failed = product_events(platform, tenant_id)["whatsapp.send.failed"]
    assert (failed["error_code"], failed["outcome"]) == (131026, "unreachable")


def test_the_secret_key_alone_is_told_how_the_installation_does(platform: Platform) -> None:
    url, env = f"{platform.env['SUPABASE_URL']}/rest/v1/rpc/ops_status", platform.env

    def ask(key: str) -> httpx.Response:
        return httpx.post(url, json={}, headers={"apikey": key, "authorization": f"Bearer {key}"})

    assert ask(env["SUPABASE_SERVICE_ROLE_KEY"]).json()["webhook"]["dead"] >= 0
    assert ask(env["SUPABASE_ANON_KEY"]).status_code in (401, 403)
