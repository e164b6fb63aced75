"""A colleague at work on a running platform: what they send, schedule, take back, repeat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.e2e.platforms import Platform, eventually
from tests.e2e.test_conversation import Business

MARIA, NOBODY = "573111111111", "573444444444"  # who wrote to us, and who never did


@dataclass(frozen=True)
class Colleague:
    """An agent of the business, signed in through the platform's own door."""

    business: Business
    client: httpx.Client

    def ask(self, function: str, **arguments: Any) -> httpx.Response:
        named = {f"p_{name}": value for name, value in arguments.items()}
        return self.client.post(f"/rest/v1/rpc/{function}", json=named)

    def done(self, function: str, **arguments: Any) -> dict[str, Any]:
        answer = self.ask(function, **arguments)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def rows(self, question: str) -> list[dict[str, Any]]:
        return list(self.client.get(f"/rest/v1/{question}").json())

    def becomes(self, message: dict[str, Any], status: str) -> bool:
        question = f"messages?select=status&id=eq.{message['id']}"
        return bool(eventually(lambda: self.rows(question) == [{"status": status}], 60))


@pytest.fixture
def colleague(platform: Platform) -> Iterator[Colleague]:
    with closing(Business(platform)) as business:
        business.open()
        platform.query(
            "update public.whatsapp_numbers set auto_reply = false where provider_number_id = %s",
            business.number,
        )
        with httpx.Client(base_url=platform.env["SUPABASE_URL"], timeout=30) as client:
            yield Colleague(business, sign_up(platform, business, client))


def sign_up(platform: Platform, business: Business, client: httpx.Client) -> httpx.Client:
    """The seat waits; whoever proves the address takes it."""
    email = f"agent-{business.number}@example.com"
    platform.query(
        "insert into public.users (tenant_id, role, email)"
        " select tenant_id, 'agent', %s from public.whatsapp_numbers where provider_number_id = %s",
        email,
        business.number,
    )
    client.headers["apikey"] = platform.env["SUPABASE_ANON_KEY"]
    answer = client.post("/auth/v1/signup", json={"email": email, "password": "a colleague"})
    client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
    return client


def chat_with(colleague: Colleague, customer: str) -> str:
    colleague.business.write(customer, "Hola")
    (chat,) = eventually(lambda: colleague.rows("chats?select=id"))
    return str(chat["id"])


def lead_of(colleague: Colleague, phone: str) -> str:
    """Somebody the business knows from elsewhere."""
    ((lead,),) = colleague.business.platform.query(
        "with lead as (insert into public.customer_leads (tenant_id, phone)"
        "     select tenant_id, %s from public.whatsapp_numbers where provider_number_id = %s returning *),"
        " known as (insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)"
        "     select tenant_id, 'phone', '', phone, now(), id from lead)"
        " select id::text from lead",
        phone,
        colleague.business.number,
    )
    return str(lead)


def texts(business: Business) -> list[str]:
    return [message["text"] for message in business.sent()]


def test_a_text_reaches_whoever_wrote(colleague: Colleague) -> None:
    chat = chat_with(colleague, MARIA)
    asked = {"chat_id": chat, "content": "¿Te sirve a las 10?", "idempotency_key": "one"}

    first, again = colleague.done("message_send", **asked), colleague.done("message_send", **asked)

    assert first["id"] == again["id"]
    assert colleague.becomes(first, "read")
    assert texts(colleague.business) == ["¿Te sirve a las 10?"]


def test_only_a_template_reaches_whoever_never_did(colleague: Colleague) -> None:
    (number,) = colleague.rows("whatsapp_numbers?select=id")
    to = {"lead_id": lead_of(colleague, NOBODY), "number_id": number["id"]}
    listed = "message_templates?select=id&name=eq.recordatorio_cita"
    (template,) = eventually(lambda: colleague.rows(listed), 60)

    refused = colleague.ask("message_send", content="Hola", **to)
    sent = colleague.done(
        "message_send",
        type="template",
        template_id=template["id"],
        parameters={"body": ["Ana", "10:00"]},
        **to,
    )

    assert (refused.status_code, json.loads(refused.json()["details"])["reason"]) == (409, "window_closed")
    assert sent["content"] == "Hola Ana, te recordamos tu cita a las 10:00."
    assert colleague.becomes(sent, "delivered")
    (outside,) = colleague.business.sent()
    assert outside["message"]["template"]["components"] == sent["data"]["template"]["components"]


def test_what_is_scheduled_can_be_taken_back(colleague: Colleague) -> None:
    chat = chat_with(colleague, MARIA)
    at = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
    soon = colleague.done("message_send", chat_id=chat, content="en cuatro segundos", send_at=at)
    later = colleague.done("message_send", chat_id=chat, content="nunca", send_at=at)

    canceled = colleague.done("message_cancel", message_id=later["id"])

    assert (soon["status"], canceled["status"]) == ("queued", "canceled")
    assert colleague.becomes(soon, "read")
    assert texts(colleague.business) == ["en cuatro segundos"]
    assert colleague.ask("message_cancel", message_id=soon["id"]).status_code == 409


def test_what_failed_is_sent_again_once(colleague: Colleague) -> None:
    chat = chat_with(colleague, MARIA)
    colleague.business.order("graph.send", "code:131053")
    sent = colleague.done("message_send", chat_id=chat, content="otra vez")
    assert colleague.becomes(sent, "failed")

    again = colleague.done("message_retry", message_id=sent["id"])

    assert again["status"] == "queued"
    assert colleague.becomes(sent, "read")
    assert texts(colleague.business) == ["otra vez"]
    assert colleague.ask("message_retry", message_id=sent["id"]).status_code == 409
