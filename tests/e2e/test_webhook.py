"""Meta's own door: signed deliveries posted straight to the function, past the simulator."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import uuid
from typing import Any

import httpx

from tests.e2e.platforms import Platform, eventually

CITAS = "100000000000001"


def delivery(*messages: dict[str, Any], number: str = CITAS) -> bytes:
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "57301111111", "phone_number_id": number},
        "contacts": [{"profile": {"name": "Ana"}, "wa_id": message["from"]} for message in messages],
        "messages": list(messages),
    }
    change = {"field": "messages", "value": value}
    entry = {"id": "200000000000001", "changes": [change]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def says(customer: str, text: str) -> dict[str, Any]:
    return {
        "from": customer,
        "id": f"wamid.{uuid.uuid4().hex}",
        "timestamp": str(int(time.time())),
        "type": "text",
        "text": {"body": text},
    }


def post(platform: Platform, body: bytes, secret: str | None = None) -> httpx.Response:
    key = (secret or platform.env["META_APP_SECRET"]).encode()
    signature = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
    url = platform.env["FUNCTIONS_URL"] + "/webhook/cloud-api"
    return httpx.post(url, content=body, headers={"x-hub-signature-256": signature})


def outbound(platform: Platform, customer: str) -> list[str]:
    return [
        status
        for (status,) in platform.query(
            "select m.status from public.messages m join public.customer_leads l"
            " on l.tenant_id = m.tenant_id and l.id = m.lead_id"
            " where l.phone = %s and m.direction = 'outbound'",
            customer,
        )
    ]


def test_a_message_is_stored_answered_and_the_answer_read(platform: Platform) -> None:
    body = delivery(says("573155500001", "Hola, quiero una cita"))

    assert post(platform, body).status_code == 200

    assert eventually(lambda: outbound(platform, "573155500001") == ["read"])


def test_the_same_delivery_again_changes_nothing(platform: Platform) -> None:
    body = delivery(says("573155500002", "Hola"), says("573155500003", "Buenas"))

    answers = [post(platform, body).json() for _ in range(3)]

    assert [answer["stored"] for answer in answers] == [2, 0, 0]


def test_what_nobody_signed_is_refused_and_leaves_nothing(platform: Platform) -> None:
    body = delivery(says("573155500004", "Hola"))

    assert post(platform, body, secret="of another app").status_code == 401

    assert platform.query("select from public.customer_leads where phone = '573155500004'") == []


def test_a_message_for_a_number_nobody_has_is_kept_with_the_reason(platform: Platform) -> None:
    body = delivery(says("573155500005", "Hola"), number="999")

    assert post(platform, body).status_code == 200

    ((status, error),) = platform.query("select status, error from public.webhook_logs where number = '999'")
    assert status == "failed"
    assert "999" in error
