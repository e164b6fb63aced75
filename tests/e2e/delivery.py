"""Deliver processes of one's own on a platform, businesses with much to send, and counts at the simulator."""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx

from local import build, keys, parts
from local.layout import Layout
from local.processes import child_setup
from shared import signature
from tests.e2e.platforms import Platform, eventually

SETUP = """
    with person as (
        insert into auth.users (id, aud, role, email, email_confirmed_at, raw_user_meta_data)
        values (gen_random_uuid(), 'authenticated', 'authenticated', %(email)s, now(), '{}') returning email
    ) select from person;
    select public.plan_set(id, 'enterprise') from public.users where email = %(email)s;
    update public.users set max_whatsapp_numbers = 100 where email = %(email)s;
    with numbers as (
        insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id, waba_id,
            display_name, auto_reply, rate_per_second)
        select u.id, 'cloud_api', '57' || n.n, n.n, 'waba', n.n, false, %(rate)s
        from public.users u, unnest(%(numbers)s::text[]) n (n) where u.email = %(email)s
        returning tenant_id, id, provider_number_id
    )
    insert into public.channel_secrets (tenant_id, number_id, kind, secret_id)
    select tenant_id, id, 'access_token', vault.create_secret('demo-token-' || provider_number_id)
    from numbers;
    with wanted as (
        select u.id as tenant_id, n.id as number_id, n.provider_number_id || lpad(c.c::text, 5, '0') as phone
        from public.users u
        join public.whatsapp_numbers n on n.tenant_id = u.id
        cross join generate_series(1, %(customers)s) c (c)
        where u.email = %(email)s
    ),
    leads as (
        insert into public.customer_leads (tenant_id, phone) select tenant_id, phone from wanted
        returning tenant_id, id, phone
    ),
    addresses as (
        insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)
        select tenant_id, 'phone', '', phone, now(), id from leads
    )
    insert into public.chats (tenant_id, lead_id, number_id, last_interaction_at, window_expires_at)
    select l.tenant_id, l.id, w.number_id, now(), now() + interval '20 hours'
    from leads l join wanted w using (tenant_id, phone);
"""
QUEUE = """
    with chat as (
        select c.*, row_number() over (partition by c.number_id order by c.id) as nth
        from public.chats c join public.users u on u.id = c.tenant_id
        where u.email = %(email)s
    )
    select private.outbox_enqueue(array_agg(private.outgoing(
        tenant_id, id, %(purpose)s, 'agent', 'assistant', id || '/' || m.m) order by m.m, nth))
    from chat cross join generate_series(1, %(times)s) m (m)
    where nth between %(first)s and %(last)s
"""
_serial = iter(range(random.randrange(100_000, 900_000), 1_000_000))  # noqa: S311


@dataclass(frozen=True)
class Business:
    """A business whose numbers have customers in open windows."""

    platform: Platform
    numbers: list[str]
    customers: int
    rate: int = 20

    @classmethod
    def open(cls, platform: Platform, *, numbers: int, customers: int, rate: int = 20) -> Business:
        made = cls(platform, [f"78{next(_serial)}" for _ in range(numbers)], customers, rate)
        given = {"numbers": made.numbers, "customers": customers, "rate": rate, "email": made.email}
        for statement in SETUP.split(";\n"):
            if statement.strip():
                platform.execute(statement, given)
        return made

    @property
    def email(self) -> str:
        return f"{self.numbers[0]}@example.com"

    def queue(self, purpose: str, times: int = 1, first: int = 1, last: int | None = None) -> int:
        """`times` messages for each of these customers of each number; how many that were."""
        last = last or self.customers
        given = {"email": self.email, "purpose": purpose, "times": times, "first": first, "last": last}
        self.platform.execute(QUEUE, given)
        return times * (last - first + 1) * len(self.numbers)

    def sent(self) -> list[dict[str, Any]]:
        """As the simulator got them."""
        url = self.platform.env["SIMULATOR_URL"]
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as outside:
            return [
                one
                for number in self.numbers
                for one in outside.get("/control/sent", params={"number": number}).json()
            ]

    def statuses(self) -> Counter[str]:
        rows = self.platform.execute(
            "select m.status, count(*) from public.messages m join public.users u on u.id = m.tenant_id"
            " where u.email = %(email)s and m.direction = 'outbound' group by 1",
            {"email": self.email},
        )
        return Counter(dict(rows))


@dataclass
class Process:
    """A deliver function from its staged folder, woken again and again; killed, it comes back."""

    argv: list[str]
    env: dict[str, str]
    folder: Path
    port: int
    secret: str
    _stop: Event = field(default_factory=Event)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._thread = Thread(target=self._live, daemon=True)
        self._thread.start()

    def kill(self, seen: Any) -> bool:
        """Freeze it, ask `seen` what is in flight, then kill it: nothing more goes out in between."""
        running = self._process
        if running is None or not parts.http_ok(self.port, "/health"):
            return False
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGSTOP)
            time.sleep(0.05)
            seen()
            os.killpg(running.pid, signal.SIGKILL)
        return True

    def end(self) -> None:
        self._stop.set()
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._thread.join(20)

    def _live(self) -> None:
        while not self._stop.is_set():
            if self._process is None or self._process.poll() is not None:
                self._process = self._spawn()
            self._wake()

    def _wake(self) -> None:
        headers = signature.sign(self.secret, b"{}", at=int(time.time()))
        try:
            httpx.post(f"http://127.0.0.1:{self.port}/", content=b"{}", headers=headers, timeout=300)
        except httpx.HTTPError:
            self._stop.wait(0.1)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv,
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=child_setup(signal.SIGKILL),
        )


@contextmanager
def fleet(platform: Platform, count: int = 3, first_port: int = 40) -> Iterator[list[Process]]:
    """Processes beside the platform's own, which the database does not wake while one of these is awake."""
    layout = Layout(platform.data, platform.port, platform.data / "env")
    home = Path(tempfile.mkdtemp(prefix="recado-fleet-"))
    folder = build.build("deliver", home)
    known = keys.load(layout.keys)
    made = []
    for index in range(count):
        port = platform.port + first_port + index
        argv, env = build.command("deliver", folder, port)
        (home / f"run{index}").mkdir()
        more = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(home / f"run{index}")}
        env = {**parts.environment(layout, known), **env, **more}
        made.append(Process(argv, env, folder, port, known.functions_secret))
    try:
        for process in made:
            process.start()
        assert eventually(lambda: all(parts.http_ok(process.port, "/health") for process in made), 60)
        yield made
    finally:
        for process in made:
            process.end()
        shutil.rmtree(home, ignore_errors=True)


def tune(platform: Platform, **settings: Any) -> None:
    url = platform.env["SIMULATOR_URL"]
    answer = httpx.post(f"{url}/control/settings", json=settings, trust_env=False)
    assert answer.status_code == 200, answer.text


@dataclass(frozen=True)
class Outcome:
    """What became of messages while their senders were killed."""

    queued: int
    kills: int
    in_flight: int  # when a sender was killed, its own or another's
    at_provider: int
    twice: int
    lost: int
    unknown: int
    seconds: float


def survive(platform: Platform, businesses: Sequence[Business], *, seconds: float = 600) -> Outcome:
    """Send whatever is queued with three processes, one killed at random every half second."""
    began, kills, in_flight = time.monotonic(), 0, set[Any]()
    queued = sum(business.queue("reply") for business in businesses)

    def look() -> None:
        rows = platform.execute("select message_id from public.outbox where state = 'sending'", {})
        in_flight.update(row[0] for row in rows)

    with fleet(platform) as processes:
        while time.monotonic() - began < seconds and waiting(platform):
            kills += random.choice(processes).kill(look)  # noqa: S311
            time.sleep(0.5)
        settled = eventually(lambda: not _open(businesses), 300)
    took = time.monotonic() - began
    found = Counter(one["text"] for business in businesses for one in business.sent())
    ends = sum((business.statuses() for business in businesses), Counter())
    never = {
        row[0]
        for row in platform.execute(
            "select content from public.messages where status in ('sent', 'delivered', 'read')", {}
        )
    } - set(found)
    assert settled, ends
    return Outcome(
        queued=queued,
        kills=kills,
        in_flight=len(in_flight),
        at_provider=found.total(),
        twice=found.total() - len(found),
        lost=queued - ends["sent"] - ends["delivered"] - ends["read"] - ends["unknown"] + len(never),
        unknown=ends["unknown"],
        seconds=took,
    )


def waiting(platform: Platform) -> int:
    """Messages on their way; to ask the simulator again and again would be most of its work."""
    return int(platform.execute("select count(*) from public.outbox where state <> 'unknown'", {})[0][0])


def _open(businesses: Sequence[Business]) -> int:
    return sum(
        count
        for business in businesses
        for status, count in business.statuses().items()
        if status in ("queued", "sending", "sent")
    )


def moments(sent: Sequence[dict[str, Any]], after: int = 0) -> dict[str, list[float]]:
    """When each number's messages reached the provider, but for the first ones."""
    found = defaultdict(list)
    for one in sent:
        found[one["number"]].append(datetime.fromisoformat(one["at"]).timestamp())
    return {number: sorted(times)[after:] for number, times in found.items()}


def fullest(times: Sequence[float], seconds: float) -> int:
    """Most moments in any window of that length, its end excluded."""
    most = start = 0
    for index, moment in enumerate(times):
        while times[start] <= moment - seconds:
            start += 1
        most = max(most, index - start + 1)
    return most


def reply_seconds(business: Business, count: int) -> float:
    """The median time from an answer in the outbox to its arrival at the provider."""
    taken = []
    known = len(business.sent())
    for nth in range(count):
        began = time.time()
        business.queue("reply", first=known + nth + 1, last=known + nth + 1)
        assert eventually(lambda n=nth: len(business.sent()) > known + n, 30)
        arrived = max(datetime.fromisoformat(one["at"]).timestamp() for one in business.sent())
        taken.append(arrived - began)
        time.sleep(random.uniform(0.2, 0.5))  # noqa: S311
    return statistics.median(taken)
