"""Connecting numbers on a running platform: whose they are, what then works, and tokens that grow old."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
import pytest

from tests.e2e.platforms import Platform, eventually

DAY = 86400
PROVIDERS = ("cloud_api", "whapi", "twilio")
_serial = itertools.count(100_000 + random.randrange(800_000))  # noqa: S311


@dataclass(frozen=True)
class Admin:
    """The owner of a business of their own, signed in, with a number that nobody has connected yet."""

    platform: Platform
    provider: str
    serial: int = field(default_factory=lambda: next(_serial))

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(timeout=60, trust_env=False)

    @cached_property
    def session(self) -> dict[str, str]:
        key = {"apikey": self.platform.env["SUPABASE_ANON_KEY"]}
        body = {"email": f"admin{self.serial}@example.com", "password": "recado-demo"}
        answer = self.http.post(f"{self.platform.env['SUPABASE_URL']}/auth/v1/signup", json=body, headers=key)
        self.platform.query(
            "select public.plan_set(id, 'basic') from public.users where email = %s", body["email"]
        )
        self.platform.query(
            "insert into public.ai_agents (tenant_id, name, is_default, model, buffer_seconds)"
            " select id, 'DrBot', true, 'gpt-6-luna', 0.5 from public.users where email = %s",
            body["email"],
        )
        return {**key, "authorization": f"Bearer {answer.json()['access_token']}"}

    def close(self) -> None:
        self.http.close()

    @property
    def phone(self) -> str:
        return f"5761{self.serial}"

    @property
    def account(self) -> str:
        return "AC" + f"{self.serial:032}" if self.provider == "twilio" else f"4{self.serial}"

    @property
    def number(self) -> str:
        """As its provider names it."""
        names = {"cloud_api": f"88{self.serial}", "whapi": f"CH-{self.serial}"}
        return names.get(self.provider, f"whatsapp:+{self.phone}")

    def exists(self) -> None:
        """The number is at its provider, as it is before anybody connects it."""
        told = {"number": self.number, "phone": self.phone, "account": self.account, "name": "Citas"}
        self.control("numbers", **told, provider=self.provider)

    @property
    def wanted(self) -> dict[str, Any]:
        token = f"demo-token-{self.account if self.provider == 'twilio' else self.number}"
        fields: dict[str, dict[str, Any]] = {
            "cloud_api": {"phone_number_id": self.number, "waba_id": self.account, "token": token},
            "whapi": {"token": token},
            "twilio": {"account_sid": self.account, "auth_token": token, "sender": f"+{self.phone}"},
        }
        return {"provider": self.provider, **fields[self.provider]}

    def connect(self, **changes: Any) -> httpx.Response:
        url = f"{self.platform.env['FUNCTIONS_URL']}/connect-number"
        return self.http.post(url, json={**self.wanted, **changes}, headers=self.session)

    def rpc(self, name: str, **arguments: Any) -> httpx.Response:
        url = f"{self.platform.env['SUPABASE_URL']}/rest/v1/rpc/{name}"
        return self.http.post(url, json=arguments, headers=self.session)

    def control(self, call: str, **data: Any) -> Any:
        answer = self.http.post(f"{self.platform.env['SIMULATOR_URL']}/control/{call}", json=data)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def code(self, **more: Any) -> str:
        return str(self.control("codes", number=self.number, **more)["code"])

    def converse(self) -> bool:
        """A customer writes, and is answered."""
        before = self.sent()
        told = self.control("inbound", number=self.number, **{"from": "573111111111"}, text="Hola")
        assert told["status"] == 200
        return bool(eventually(lambda: self.sent() > before, 60))

    def sent(self) -> int:
        url = f"{self.platform.env['SIMULATOR_URL']}/control/sent"
        return len(self.http.get(url, params={"number": self.number}).json())

    def tokens(self) -> dict[str, str]:
        return dict(
            self.platform.query(
                "select s.kind, v.decrypted_secret from public.channel_secrets s"
                " join vault.decrypted_secrets v on v.id = s.secret_id"
                " join public.whatsapp_numbers n on n.tenant_id = s.tenant_id and n.id = s.number_id"
                " where n.provider_number_id = %s",
                self.number,
            )
        )

    def alerts(self) -> list[tuple[Any, ...]]:
        return self.platform.query(
            "select a.kind, a.severity from public.alerts a"
            " join public.users u on u.id = a.tenant_id where u.email = %s and a.resolved_at is null",
            f"admin{self.serial}@example.com",
        )

    def refresh(self) -> dict[str, int]:
        """What cron does in the morning."""
        at, secret = str(int(time.time())), self.platform.env["FUNCTIONS_SECRET"]
        signed = hmac.new(secret.encode(), f"{at}.{{}}".encode(), hashlib.sha256).hexdigest()
        headers = {"x-recado-timestamp": at, "x-recado-signature": f"sha256={signed}"}
        url = f"{self.platform.env['FUNCTIONS_URL']}/refresh-tokens"
        answer = self.http.post(url, content=b"{}", headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture(params=PROVIDERS)
def admin(request: pytest.FixtureRequest, platform: Platform) -> Iterator[Admin]:
    with closing(Admin(platform, request.param)) as made:
        made.exists()
        yield made


@pytest.fixture
def meta_admin(platform: Platform) -> Iterator[Admin]:
    with closing(Admin(platform, "cloud_api")) as made:
        made.exists()
        yield made


def test_a_connected_number_receives_and_answers(admin: Admin) -> None:
    answer = admin.connect()

    assert (answer.status_code, answer.json()["problem"]) == (200, None)
    assert admin.converse()


def test_a_second_business_is_refused_and_told_nothing(admin: Admin) -> None:
    assert admin.connect().status_code == 200

    with closing(Admin(admin.platform, admin.provider)) as other:
        refused = other.connect(**admin.wanted)

        assert refused.status_code == 409
        assert str(admin.serial) not in refused.text
    assert admin.converse()


def test_a_token_that_is_not_the_numbers_connects_nothing(admin: Admin) -> None:
    name = "auth_token" if admin.provider == "twilio" else "token"

    refused = admin.connect(**{name: "stolen-token-of-nobody"})

    assert (refused.status_code, refused.json()["code"]) == (400, "token_refused")
    assert "stolen" not in refused.text
    assert admin.tokens() == {}


def test_what_was_given_up_may_be_connected_by_another(admin: Admin) -> None:
    number_id = admin.connect().json()["number_id"]

    assert admin.rpc("number_disconnect", p_number_id=number_id).status_code == 204

    with closing(Admin(admin.platform, admin.provider)) as other:
        assert other.connect(**admin.wanted).status_code == 200
    assert admin.connect().status_code == 409


def test_one_number_more_than_the_plan_has_is_refused_in_a_sentence(meta_admin: Admin) -> None:
    assert meta_admin.connect().status_code == 200
    with closing(Admin(meta_admin.platform, "cloud_api")) as other:
        other.exists()

        refused = meta_admin.connect(**other.wanted)

    assert refused.status_code == 402
    assert (
        refused.json()["message"] == "Números de WhatsApp en el plan basic: 1 como mucho, y este sería el 2."
    )


def test_a_refused_token_stops_the_number_until_it_is_connected_anew(meta_admin: Admin) -> None:
    """The templates are listed after connecting, sooner or later: with a dead token that is an alert too."""
    meta_admin.connect(token=None, code=meta_admin.code())
    meta_admin.control("tokens", token=meta_admin.tokens()["access_token"], subject="-", expires_in=0)
    meta_admin.control("inbound", number=meta_admin.number, **{"from": "573111111111"}, text="Hola")
    assert eventually(lambda: ("channel_stopped", "critical") in meta_admin.alerts(), 60)

    meta_admin.connect(token=None, code=meta_admin.code())

    assert ("channel_stopped", "critical") not in meta_admin.alerts()
    assert eventually(lambda: meta_admin.sent() == 1, 60)  # what waited goes out
    assert eventually(lambda: meta_admin.alerts() == [], 60)


def test_no_token_is_in_a_log_or_a_row(meta_admin: Admin) -> None:
    meta_admin.connect(token=None, code=meta_admin.code())
    meta_admin.connect(token="EAAnot-a-token-of-anybody")
    assert meta_admin.converse()

    tokens = [meta_admin.tokens()["access_token"], "EAAnot-a-token-of-anybody"]
    logs = "".join(
        file.read_text(errors="replace") for file in (meta_admin.platform.data / "logs").glob("*.log")
    )
    query = meta_admin.platform.query
    tables = [row[0] for row in query("select tablename from pg_tables where schemaname = 'public'")]
    dump = "".join(str(query(f"select string_agg(t::text, '') from public.{table} t")) for table in tables)
    assert meta_admin.number in dump
    assert len(logs) > 1000
    assert not [token for token in tokens if token in logs or token in dump]


def test_a_token_is_replaced_while_the_clock_moves_and_never_missing(other_platform: Platform) -> None:
    assert other_platform.up().returncode == 0
    with closing(Admin(other_platform, "cloud_api")) as admin:
        admin.exists()
        admin.connect(token=None, code=admin.code(token_expires_in=60 * DAY))
        first = admin.tokens()["access_token"]

        admin.control("clock", advance_seconds=44 * DAY)
        admin.refresh()
        assert admin.tokens() == {"access_token": first}

        admin.control("clock", advance_seconds=1.1 * DAY)
        assert eventually(lambda: admin.tokens().get("access_token") != first and admin.refresh(), 30)
        assert admin.converse()

        admin.control("clock", advance_seconds=DAY)
        assert eventually(lambda: "old_token" not in admin.tokens() or not admin.refresh(), 30)
        admin.control("clock", advance_seconds=50 * DAY)  # the first would have ended long ago
        assert eventually(lambda: admin.refresh() is not None and admin.converse(), 60)
        assert admin.alerts() == []


def test_a_run_killed_half_way_leaves_a_token_that_works(other_platform: Platform) -> None:
    assert other_platform.up().returncode == 0
    with closing(Admin(other_platform, "cloud_api")) as admin, ThreadPoolExecutor(1) as pool:
        admin.exists()
        admin.connect(token=None, code=admin.code(token_expires_in=10 * DAY))
        first = admin.tokens()["access_token"]
        # Meta issues the new token and is asked about it, and never answers
        admin.control("faults", target="graph.accounts", kind="timeout", match=f"{admin.number} fields")
        run = pool.submit(admin.refresh)
        assert eventually(lambda: "next_token" in admin.tokens(), 30)

        os.kill(other_platform.pid("refresh_tokens"), signal.SIGKILL)
        with pytest.raises((httpx.HTTPError, AssertionError)):
            run.result()

        assert admin.tokens()["access_token"] == first
        assert admin.converse()
        issued = admin.tokens()["next_token"]
        other_platform.query("update public.channel_secrets set lease_until = now()")  # as two minutes do
        assert eventually(lambda: _is_up(admin) and admin.refresh(), 30)
        assert admin.tokens() == {"access_token": issued, "old_token": first}
        assert admin.converse()


def _is_up(admin: Admin) -> bool:
    return admin.http.get(f"{admin.platform.env['FUNCTIONS_URL']}/refresh-tokens/health").status_code == 200


def test_a_page_of_any_origin_may_connect(platform: Platform) -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answer = httpx.options(f"{platform.env['FUNCTIONS_URL']}/connect-number", headers=asked)

    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "*")
