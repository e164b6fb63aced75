"""What tests of the schema are given: businesses with numbers, and what providers deliver to them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

Event = dict[str, Any]
NOW = datetime.now(UTC).replace(microsecond=0)
MARIA = {"phone": "57311111111", "bsuid": "CO.111", "profile_name": "María González"}
CARLOS = {"phone": "57322222222", "bsuid": "CO.222", "profile_name": "Carlos López"}


@dataclass
class Business:
    """A tenant, its owner's sign-in, one number and one agent."""

    tenant_id: uuid.UUID
    owner: uuid.UUID
    number_id: uuid.UUID
    number: str
    agent_id: uuid.UUID


@dataclass
class Inbox:
    """Providers' side: what they deliver goes to webhook_receive(), as the webhook function sends it."""

    connection: psycopg.Connection[Any]
    deliveries: int = field(default=0)

    def receive(self, *payloads: Event) -> list[dict[str, Any]]:
        self.connection.execute("set role service_role")
        cursor = self.connection.execute(
            "select public.webhook_receive(%s) as answers", [Jsonb(list(payloads))]
        )
        (row,) = cursor.fetchall()
        self.connection.execute("reset role")
        return list(row["answers"])

    def payload(self, *events: Event, number: str = "100000000000001", **changes: Any) -> Event:
        self.deliveries += 1
        delivery = {
            "delivery_id": f"delivery-{self.deliveries}:0",
            "received_at": NOW.isoformat(),
            "number": number,
        }
        envelope = {
            "provider": "cloud_api",
            "account": "200",
            "field": "messages",
            "payload": {"n": self.deliveries},
        }
        return {**envelope, **delivery, "raw": None, "error": None, "events": list(events), **changes}

    def deliver(self, *events: Event, **changes: Any) -> dict[str, Any]:
        """One payload with these events; its answer."""
        (answer,) = self.receive(self.payload(*events, **changes))
        return answer


def event(kind: str, name: str, at: datetime = NOW, **body: Any) -> Event:
    return {"kind": kind, "id": name, "at": at.isoformat(), **body}


def says(
    name: str, text: str = "Hola", contact: dict[str, Any] = MARIA, at: datetime = NOW, **body: Any
) -> Event:
    return event("message", name, at, contact=contact, type="text", text=text, **body)


def echo(
    name: str, text: str = "Soy yo", contact: dict[str, Any] = MARIA, at: datetime = NOW, **body: Any
) -> Event:
    return event("echo", name, at, contact=contact, type="text", text=text, **body)


def status(name: str, status: str, minutes: float = 1, **body: Any) -> Event:
    return event("status", name, NOW + timedelta(minutes=minutes), status=status, **body)


def open_business(
    connection: psycopg.Connection[Any], name: str, number: str, plan: str = "enterprise"
) -> Business:
    def value(statement: str, *values: Any) -> Any:
        row = connection.execute(statement, values).fetchone()
        return next(iter(row.values())) if row else None

    owner = value(
        "insert into auth.users (id, aud, role, email, email_confirmed_at)"
        " values (gen_random_uuid(), 'authenticated', 'authenticated', %s, now()) returning id",
        f"{name}@business.example",
    )
    tenant = value("select tenant_id from public.users where auth_id = %s", owner)
    value("select public.plan_set(%s, %s)", tenant, plan)
    agent = value("insert into public.ai_agents (tenant_id, name) values (%s, 'DrBot') returning id", tenant)
    number_id = value(
        "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id, waba_id,"
        " display_name, default_agent_id) values (%s, 'cloud_api', %s, %s, '200', %s, %s) returning id",
        tenant, f"5730{number[-8:]}", number, name, agent,
    )  # fmt: skip
    return Business(tenant, owner, number_id, number, agent)
