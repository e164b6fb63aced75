"""Who writes while everything breaks, and what each of them was promised.

What counts is known here, outside of the product: an update that was acknowledged, a send that was accepted.
Every text says whose it is: `<number>/<customer>/<serial> …`.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from threading import Event, Lock, Thread
from typing import Any

import httpx
import psycopg

from tests.e2e.platforms import Platform

CITAS, URGENCIAS, PLAZA = "100000000000001", "100000000000002", "100000000000003"
WHAPI, TWILIO = "PULSO-WHAPI", "whatsapp:+57305555555"
STAFF = {CITAS: "dr.perez@clinica.example", PLAZA: "admin@laplaza.example", TWILIO: "admin@pulso.example"}
PATIENCE = 10  # messages to one customer: WhatsApp wants a pause after some more
TALKING = (CITAS, CITAS, PLAZA, PLAZA, WHAPI, TWILIO)  # where an agent answers; Whapi lets out one a second
SETUP = """
    select public.plan_set(id, 'enterprise') from public.users where id = tenant_id;
    update public.tenant_settings set crm_analysis_idle_minutes = 10080;
    update public.ai_agents set buffer_seconds = 0.5, trigger_keywords = '{}', active_hours = null;
    update public.whatsapp_numbers set auto_reply = false where provider_number_id = '100000000000002';
    update public.whatsapp_numbers set rate_per_second = 20 where provider = 'twilio'
"""
BULK = """
    select cardinality(private.outbox_enqueue(array[private.outgoing(
        c.tenant_id, c.id, 'sequence', 'sequence', 'assistant', %s)]))
    from public.chats c
    join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id
    join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id
    where n.provider_number_id = %s and l.phone = %s
"""


@dataclass(frozen=True)
class Told:
    """One message, whichever way it goes."""

    number: str
    customer: str
    serial: int
    words: str = "quiero una cita"

    @property
    def text(self) -> str:
        return f"{self.number}/{self.customer}/{self.serial} {self.words}"

    @staticmethod
    def owner(text: str) -> tuple[str, str]:
        """Number and customer of a text of ours."""
        number, customer, _ = text.split("/", 2)
        return number, customer


@dataclass
class Ledger:
    """Promises. `acknowledged` and `accepted` were said yes to; `unheard` may have happened."""

    acknowledged: list[Told] = field(default_factory=list)
    owed: list[Told] = field(default_factory=list)  # refused once; their providers deliver them again
    accepted: list[Told] = field(default_factory=list)
    unheard: list[Told] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    acknowledged_at: list[float] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def acknowledge(self, told: Told) -> None:
        with self.lock:
            self.acknowledged.append(told)
            self.acknowledged_at.append(time.monotonic())

    def rate(self, since: float, until: float) -> float:
        """Acknowledgements a second."""
        return sum(since <= at < until for at in list(self.acknowledged_at)) / max(until - since, 0.001)


@dataclass
class World:
    """Customers of three providers, colleagues who send, jobs that send to many: all at once."""

    platform: Platform
    seed: int
    older_webhook: int  # port of the older version of the function
    ledger: Ledger = field(default_factory=Ledger)
    _stop: Event = field(default_factory=Event)
    _serial: Iterator[int] = field(default_factory=itertools.count)
    problems: list[str] = field(default_factory=list)

    def open(self) -> None:
        for statement in SETUP.split(";\n"):
            self.platform.query(statement)
        self.control("settings", strangers_window_open=True, read_ms=150)

    @cached_property
    def outside(self) -> httpx.Client:
        return httpx.Client(base_url=self.platform.env["SIMULATOR_URL"], timeout=60, trust_env=False)

    def close(self) -> None:
        self.outside.close()

    def control(self, call: str, **data: Any) -> Any:
        answer = self.outside.post(f"/control/{call}", json=data)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def control_state(self) -> dict[str, Any]:
        return dict(self.outside.get("/control/state").json())

    @contextmanager
    def traffic(self, writers: int = 2) -> Iterator[None]:
        doings = [self._customers] * writers + [self._directly, self._bulk]
        doings += [partial(self._colleague, number) for number in STAFF]
        threads = [
            Thread(target=self._go, args=(do, random.Random(self.seed + n)), daemon=True)  # noqa: S311
            for n, do in enumerate(doings)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(90)

    def _go(self, do: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            do(chance)
        except Exception as exc:  # a harness that is broken proves nothing
            self.problems.append(f"Broken: the harness itself: {exc!r}")

    def _told(self, number: str, words: str = "quiero una cita") -> Told:
        serial = next(self._serial)
        return Told(number, f"5739{serial:08d}", serial, words)

    # customers

    def _customers(self, chance: random.Random) -> None:
        with httpx.Client(base_url=self.platform.env["SIMULATOR_URL"], timeout=90, trust_env=False) as phone:
            while not self._stop.wait(chance.uniform(0.05, 0.25)):
                told = self._told(chance.choice((*TALKING, URGENCIAS, URGENCIAS)))
                said = {"number": told.number, "from": told.customer, "name": "Ana", "text": told.text}
                answer = phone.post("/control/inbound", json=said)
                if answer.status_code != 200:
                    continue  # the simulator itself could not: nothing was written
                if answer.json()["status"] == 200:
                    self.ledger.acknowledge(told)
                elif told.number != TWILIO:  # which gives up
                    self.ledger.owed.append(told)

    def _directly(self, chance: random.Random) -> None:
        """Meta's own deliveries to the older version of the function, each until it is acknowledged."""
        with httpx.Client(
            base_url=f"http://127.0.0.1:{self.older_webhook}", timeout=30, trust_env=False
        ) as meta:
            while not self._stop.wait(chance.uniform(0.2, 0.5)):
                told = self._told(URGENCIAS)
                body = _delivery(told)
                proof = hmac.new(
                    self.platform.env["META_APP_SECRET"].encode(), body, hashlib.sha256
                ).hexdigest()
                if self._until(partial(_is_ok, meta, body, proof)):
                    self.ledger.acknowledge(told)

    def _until(self, attempt: Callable[[], bool], tries: int = 60) -> bool:
        for nth in range(tries):
            if attempt():
                return True
            time.sleep(min(0.2 * 2**nth, 2))
        return False

    # colleagues

    def _colleague(self, number: str, chance: random.Random) -> None:
        """Writes to customers of theirs, each send under a key of its own until it is accepted."""
        with closing(Desk(self.platform, STAFF[number])) as desk:
            self._write_to_customers(desk, number, chance)

    def _write_to_customers(self, desk: Desk, number: str, chance: random.Random) -> None:
        numbers, written = {CITAS: (CITAS, URGENCIAS)}.get(number, (number,)), Counter[str]()
        while not self._stop.wait(chance.uniform(0.3, 0.8)):
            heard = [
                told
                for told in self.ledger.acknowledged
                if told.number in numbers and told.serial % 3 == 0 and written[told.customer] < PATIENCE
            ]
            if not heard:
                continue
            to = chance.choice(heard)
            written[to.customer] += 1
            told = Told(to.number, to.customer, next(self._serial), "le esperamos a las diez")
            outcome = ""
            for nth in range(60):
                outcome = desk.send(told)
                if outcome != "again":
                    break
                time.sleep(min(0.2 * 2**nth, 2))
            {"accepted": self.ledger.accepted, "again": self.ledger.unheard}.get(outcome, []).append(told)
            if outcome not in ("accepted", "again"):
                self.ledger.refused.append(outcome)

    def _bulk(self, chance: random.Random) -> None:
        """A job of the database's own; an answer that is lost leaves open whether it was done."""
        done: set[str] = set()
        while not self._stop.wait(chance.uniform(0.2, 0.6)):
            heard = [
                told
                for told in self.ledger.acknowledged
                if told.number == URGENCIAS and told.serial % 3 == 1 and told.customer not in done
            ]
            for to in heard[-3:]:
                done.add(to.customer)
                told = Told(to.number, to.customer, next(self._serial), "hoy hay cupos libres")
                try:
                    added = self.platform.query(BULK, told.text, to.number, to.customer)
                except psycopg.Error:
                    self.ledger.unheard.append(told)
                else:
                    assert added == [(1,)], f"an acknowledged customer has no chat: {to.text}"
                    self.ledger.accepted.append(told)


@dataclass
class Desk:
    """A colleague, signed in."""

    platform: Platform
    email: str

    @cached_property
    def client(self) -> httpx.Client:
        key = {"apikey": self.platform.env["SUPABASE_ANON_KEY"]}
        client = httpx.Client(
            base_url=self.platform.env["SUPABASE_URL"], headers=key, timeout=30, trust_env=False
        )
        who = {"email": self.email, "password": "recado-demo"}
        answer = client.post("/auth/v1/token?grant_type=password", json=who)
        client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        return client

    def close(self) -> None:
        self.client.close()

    def send(self, told: Told) -> str:
        """accepted, again, or why not."""
        try:
            ids = self.client.get(
                "/rest/v1/chats",
                params={
                    "select": "id,whatsapp_numbers!inner(),customer_leads!inner()",
                    "whatsapp_numbers.provider_number_id": f"eq.{told.number}",
                    "customer_leads.phone": f"eq.{told.customer}",
                },
            )
            if ids.status_code != 200:
                return "again"
            (chat,) = ids.json() or [{}]
            answer = self.client.post(
                "/rest/v1/rpc/message_send",
                json={
                    "p_chat_id": chat["id"],
                    "p_content": told.text,
                    "p_idempotency_key": f"k{told.serial}",
                },
            )
        except (httpx.HTTPError, KeyError):
            return "again"
        if answer.is_success:
            return "accepted"
        return "again" if answer.status_code >= 500 else f"{answer.status_code} {answer.text[:200]}"

    def reads(self) -> list[str]:
        """Every text this person may see."""
        found: list[str] = []
        while True:
            page = self.client.get(
                f"/rest/v1/messages?select=content&order=id&limit=1000&offset={len(found)}"
            ).json()
            found += [row["content"] or "" for row in page]
            if len(page) < 1000:
                return found


def _is_ok(meta: httpx.Client, body: bytes, proof: str) -> bool:
    with suppress(httpx.HTTPError):
        answer = meta.post("/cloud-api", content=body, headers={"x-hub-signature-256": f"sha256={proof}"})
        return answer.status_code == 200
    return False


def _delivery(told: Told) -> bytes:
    message = {
        "from": told.customer,
        "id": f"wamid.{uuid.uuid4().hex}",
        "timestamp": str(int(time.time())),
        "type": "text",
        "text": {"body": told.text},
    }
    metadata = {"display_phone_number": "57302222222", "phone_number_id": told.number}
    contacts = [{"profile": {"name": "Ana"}, "wa_id": told.customer}]
    value = {
        "messaging_product": "whatsapp",
        "metadata": metadata,
        "contacts": contacts,
        "messages": [message],
    }
    entry = {"id": "200000000000001", "changes": [{"field": "messages", "value": value}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
