"""A business of its own for each test, on a platform that many share."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx

from tests.e2e.platforms import Platform

_serial = itertools.count(100_000 + random.randrange(800_000))  # noqa: S311


@dataclass(frozen=True)
class Business:
    """A business of its own with one number and one agent, and the world outside as its customers see it."""

    platform: Platform
    number: str = field(default_factory=lambda: f"77{next(_serial)}")

    @cached_property
    def outside(self) -> httpx.Client:
        return httpx.Client(base_url=self.platform.env["SIMULATOR_URL"], timeout=60, trust_env=False)

    def close(self) -> None:
        self.outside.close()

    def open(self, **agent: Any) -> None:
        email = f"{self.number}@example.com"
        self.platform.query(
            "insert into auth.users (id, aud, role, email, email_confirmed_at, raw_user_meta_data)"
            " values (gen_random_uuid(), 'authenticated', 'authenticated', %s, now(), %s)",
            email,
            json.dumps({"business_name": f"Clínica{self.number}"}),
        )
        self.platform.query("select public.plan_set(id, 'pro') from public.users where email = %s", email)
        self.platform.query(
            "with agent as ("
            "    insert into public.ai_agents (tenant_id, name, is_default, model, buffer_seconds)"
            "    select id, 'DrBot', true, 'gpt-6-luna', %s from public.users where email = %s"
            "    returning tenant_id, id),"
            " number as ("
            "    insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id,"
            "        waba_id, display_name, default_agent_id)"
            "    select tenant_id, 'cloud_api', '5760' || %s, %s, 'waba', 'Citas', id from agent"
            "    returning tenant_id, id)"
            " insert into public.channel_secrets (tenant_id, number_id, kind, secret_id)"
            " select tenant_id, id, 'access_token', vault.create_secret('demo-token-' || %s) from number",
            agent.get("buffer_seconds", 0.5),
            email,
            self.number,
            self.number,
            self.number,
        )

    def write(self, customer: str, text: str) -> None:
        told = {"number": self.number, "from": customer, "name": "María", "text": text}
        assert self.outside.post("/control/inbound", json=told).json()["status"] == 200

    def order(self, target: str, kind: str, times: int = 1, **more: Any) -> None:
        """A bad day for this business alone."""
        fault = {"target": target, "kind": kind, "times": times, "match": self.number, **more}
        assert self.outside.post("/control/faults", json=fault).status_code == 200

    def script(self, customer_words: str, *answers: Any) -> None:
        said = {"queue": list(answers), "match": customer_words}
        assert self.outside.post("/control/openai", json=said).status_code == 200

    def sent(self, customer: str | None = None) -> list[dict[str, Any]]:
        query = {"number": self.number, **({"to": customer} if customer else {})}
        return list(self.outside.get("/control/sent", params=query).json())

    def rows(self, columns: str, table: str, where: str = "true") -> list[tuple[Any, ...]]:
        return self.platform.query(
            f"select {columns} from public.{table} t join public.whatsapp_numbers n using (tenant_id)"
            f" where n.provider_number_id = %s and {where}",
            self.number,
        )

    def statuses(self) -> list[str]:
        return [row[0] for row in self.rows("t.status", "messages", "t.direction = 'outbound'")]

    def alerts(self) -> set[str]:
        return {row[0] for row in self.rows("t.kind", "alerts", "t.resolved_at is null")}

    def needs_a_person(self) -> bool:
        return bool(self.rows("1", "conversations", "t.requires_attention"))
