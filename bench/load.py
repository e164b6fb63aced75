"""The whole product under load: 1,000 customers at once, and then 100 messages a second for five minutes.

    python -m bench.load                                          seven minutes, wants the machine for itself
    python -m bench.load --rate 20 --seconds 30 --contacts 200    a quick look

Starts a platform of its own on loopback and stops by itself. Deliveries are signed as Meta signs them and
posted through the gateway at their moment, whether or not those before were answered; agents answer. As
many customers again, who write nothing, are in a sequence with a step a minute.
What counts is seen from outside: acknowledgements here, answers at the simulator. Generator, simulator and
product share the machine: what is measured is all of them together.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg

from bench.figures import report
from tests.e2e.delivery import fullest, moments
from tests.e2e.platforms import Platform, eventually, temporary_platform

NUMBERS, RATE = 5, 80  # of the business, and what each may send in a second
STEP = "step"  # how the texts of the sequence begin
BUFFER = 1.0  # seconds an agent waits for the rest of a burst
CONNECTIONS = 64
DRAIN = 300.0  # seconds after the last message until all must be answered
SETUP = f"""
    insert into auth.users (id, aud, role, email, email_confirmed_at)
    values (gen_random_uuid(), 'authenticated', 'authenticated', 'load@example.com', now());
    select public.plan_set(id, 'enterprise') from public.users where email = 'load@example.com';
    insert into public.ai_agents (tenant_id, name, is_default, model, buffer_seconds)
    select id, 'DrBot', true, 'gpt-6-luna', {BUFFER} from public.users where email = 'load@example.com';
    insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id, waba_id,
        display_name, default_agent_id, rate_per_second)
    select a.tenant_id, 'cloud_api', '1202555' || (1000 + n), '70000000000000' || n, 'waba', 'L', a.id, {RATE}
    from public.ai_agents a join public.users u on u.id = a.tenant_id, generate_series(1, {NUMBERS}) n
    where u.email = 'load@example.com';
    insert into public.channel_secrets (tenant_id, number_id, kind, secret_id)
    select tenant_id, id, 'access_token', vault.create_secret('demo-token-' || provider_number_id)
    from public.whatsapp_numbers where waba_id = 'waba'
"""
ENROLL = """
    with wanted as (
        select n.tenant_id, n.id as number_id, '57318' || lpad(c.c::text, 7, '0') as phone
        from generate_series(1, %(contacts)s) c (c)
        join public.whatsapp_numbers n on n.provider_number_id = '70000000000000' || (c.c %% %(numbers)s + 1)
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
    select private.sequence_save(id, null, %(document)s::jsonb, id)
    from public.users where email = 'load@example.com';
    select private.sequence_switch(tenant_id, id, true) from public.sequences;
    select private.enrollments_counted(private.enrollments_add(array(
        select (c.tenant_id, s.id, c.lead_id, c.id, 'staff', c.tenant_id, false)::private.enrollment_ask
        from public.chats c join public.sequences s using (tenant_id))))
"""
DEPTH = """
    select (select count(*) from public.pending_replies),
        (select count(*) from public.outbox where state <> 'unknown'),
        (select count(*) from public.sequence_enrollments where status = 'active')
"""


Depth = tuple[float, int, int, int]  # after so many seconds: replies, sends, enrollments that go on
STORED = "select content from public.messages where direction = 'inbound'"


@dataclass
class Written:
    """One message of a customer: when it was due, and when it was acknowledged; seconds of the wall clock."""

    contact: int
    text: str
    due: float
    body: bytes = field(repr=False)
    status: int = 0
    acknowledged: float = 0.0


@dataclass(frozen=True)
class Plan:
    contacts: int
    rate: float
    seconds: float

    @property
    def steps(self) -> int:
        """Of the sequence: one a minute."""
        return max(1, int(self.seconds // 60))

    def enroll(self, platform: Platform) -> None:
        steps = [
            {"key": f"s{nth}", "after": {"minutes": 1}, "text": f"{STEP} {nth}"}
            for nth in range(1, self.steps + 1)
        ]
        document = json.dumps({"name": "Load", "on_reply": {"resume": "never"}, "steps": steps})
        given = {"contacts": self.contacts, "numbers": NUMBERS, "document": document}
        for statement in ENROLL.split(";\n"):
            answer = platform.execute(statement, given)
        assert answer[0][0]["enrolled"] == self.contacts, answer

    def messages(self, start: float) -> list[Written]:
        """Everybody once, in the first second; then one after the other, everybody in turn."""
        first = [start + nth / self.contacts for nth in range(self.contacts)]
        rest = [start + 1 + nth / self.rate for nth in range(int(self.rate * self.seconds))]
        return [self._message(nth, due) for nth, due in enumerate(first + rest)]

    def _message(self, nth: int, due: float) -> Written:
        contact = nth % self.contacts
        text = f"load {nth} quiero una cita"
        return Written(contact, text, due, _delivery(contact, text, nth))


def number_of(contact: int) -> str:
    return f"70000000000000{contact % NUMBERS + 1}"


def phone_of(contact: int) -> str:
    return f"57317{contact:07d}"


def _delivery(contact: int, text: str, nth: int) -> bytes:
    phone, number = phone_of(contact), number_of(contact)
    message = {
        "from": phone,
        "id": f"wamid.load{nth}",
        "timestamp": str(int(time.time())),
        "type": "text",
        "text": {"body": text},
    }
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "12025551000", "phone_number_id": number},
        "contacts": [{"profile": {"name": "Ana"}, "wa_id": phone}],
        "messages": [message],
    }
    entry = {"id": "waba", "changes": [{"field": "messages", "value": value}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


class Generator:
    """Posts each message at its moment; a message that finds every connection busy waits, and that counts."""

    def __init__(self, platform: Platform) -> None:
        self._url = urlsplit(platform.env["FUNCTIONS_URL"])
        self._key = platform.env["META_APP_SECRET"].encode()

    async def run(self, messages: Sequence[Written]) -> None:
        queue: asyncio.Queue[Written] = asyncio.Queue()
        lines = [asyncio.create_task(self._line(queue)) for _ in range(CONNECTIONS)]
        for message in messages:
            await asyncio.sleep(max(0.0, message.due - time.time()))
            queue.put_nowait(message)
        await queue.join()
        for line in lines:
            line.cancel()

    async def _line(self, queue: asyncio.Queue[Written]) -> None:
        reader = writer = None
        while True:
            message = await queue.get()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
                assert reader
                message.status = await asyncio.wait_for(self._post(reader, writer, message.body), 30)
                message.acknowledged = time.time()
            except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
                if writer:
                    writer.close()
                writer = None
            queue.task_done()

    async def _post(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> int:
        proof = hmac.new(self._key, body, hashlib.sha256).hexdigest()
        head = (
            f"POST {self._url.path}/webhook/cloud-api HTTP/1.1",
            "host: load",
            "content-type: application/json",
            f"x-hub-signature-256: sha256={proof}",
            f"content-length: {len(body)}",
        )
        writer.write("\r\n".join((*head, "", "")).encode() + body)
        return await self._status(reader)

    async def _status(self, reader: asyncio.StreamReader) -> int:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length: " in head:
            await reader.readexactly(int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]))
        else:
            await reader.readuntil(b"0\r\n\r\n")
        return int(head.split(b" ", 2)[1])


class Depths:
    """How much waits, each second, while the block runs."""

    def __init__(self, platform: Platform) -> None:
        self.samples: list[Depth] = []
        self._dsn = platform.env["DATABASE_URL"]
        self._stop = Event()
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Depths:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        began = time.time()
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.wait(1):
                (depth,) = connection.execute(DEPTH).fetchall()
                self.samples.append((round(time.time() - began, 1), *depth))


@dataclass(frozen=True)
class Figures:
    """What came of it. Milliseconds are p50, p95, p99."""

    written: int
    offered_per_second: float
    acknowledged: int
    acknowledged_per_second: float
    acknowledge_ms: tuple[float, float, float]
    answers: int
    answers_per_second: float
    answer_ms: tuple[float, float, float]  # from a burst's last message, its wait for more included
    lost: int  # acknowledged and not stored
    unanswered: int  # customers whose last message nobody answered
    doubled_updates: int
    doubled_sends: int
    pacing_violations: int  # numbers that sent more in some second than their rate allows
    drained_in: float
    deepest: tuple[int, ...]  # replies and sends that waited, enrollments that went on
    depth_at_the_end: tuple[int, ...]  # when the last message was written
    steps_sent: int
    steps_missing: int
    sustained: bool
    depth: list[Depth]


def measure(platform: Platform, plan: Plan) -> Figures:
    messages = plan.messages(time.time() + 1)
    with Depths(platform) as depths:
        asyncio.run(Generator(platform).run(messages))
        ended, last = time.time(), depths.samples[-1] if depths.samples else (0.0, 0, 0, 0)
        eventually(lambda: depths.samples and depths.samples[-1][1:] == (0, 0, 0), DRAIN)
        drained = time.time() - ended
    everything = _sent(platform)
    steps = [one for one in everything if one[4].startswith(STEP)]
    sent = [one for one in everything if not one[4].startswith(STEP)]
    good = [one for one in messages if one.status == 200]
    stored = Counter(
        row[0] for row in platform.query("select content from public.messages where direction = 'inbound'")
    )
    took = max(one.acknowledged for one in good) - messages[0].due
    late = [1000 * (one.acknowledged - one.due) for one in good]
    answer_ms, unanswered = _answers(good, sent)
    offered = len(messages) / (messages[-1].due - messages[0].due)
    span = max(sent[-1][0] - messages[0].due, 0.001) if sent else 1.0
    numbers = moments([{"number": number, "at": at} for _, at, number, *_ in everything])
    return Figures(
        written=len(messages),
        offered_per_second=round(offered, 1),
        acknowledged=len(good),
        acknowledged_per_second=round(len(good) / took, 1),
        acknowledge_ms=_percentiles(late),
        answers=len(sent),
        answers_per_second=round(len(sent) / span, 1),
        answer_ms=_percentiles(answer_ms),
        lost=sum(stored[one.text] == 0 for one in good),
        unanswered=unanswered,
        doubled_updates=sum(count > 1 for count in stored.values()),
        doubled_sends=sum(n > 1 for n in Counter(ours for *_, ours in everything).values()),
        pacing_violations=sum(fullest(times, 1) > RATE + 1 for times in numbers.values()),
        drained_in=round(drained, 1),
        deepest=tuple(max(sample[queue] for sample in depths.samples) for queue in (1, 2, 3)),
        depth_at_the_end=last[1:],
        steps_sent=len(steps),
        steps_missing=plan.contacts * plan.steps - len({(to, text) for *_, to, text, _ in steps}),
        sustained=len(good) == len(messages) and _percentiles(late)[2] < 5000 and last[1] <= 10 * plan.rate,
        depth=depths.samples,
    )


def _sent(platform: Platform) -> list[tuple[float, str, str, str, str, str]]:
    """(moment, the same as text, number, customer, text, our id) of what the provider got, in order."""
    with httpx.Client(base_url=platform.env["SIMULATOR_URL"], timeout=600, trust_env=False) as outside:
        found = outside.get("/control/sent").json()
    return sorted(
        (
            datetime.fromisoformat(one["at"]).timestamp(),
            one["at"],
            one["number"],
            one["to"],
            one["text"],
            str(one["callback"]),
        )
        for one in found
    )


def _answers(good: Sequence[Written], sent: Sequence[tuple[Any, ...]]) -> tuple[list[float], int]:
    """How long each answer took, and how many customers had none after their last message."""
    wrote: dict[str, list[float]] = {}
    for one in sorted(good, key=lambda one: one.due):
        wrote.setdefault(phone_of(one.contact), []).append(one.due)
    answered: dict[str, float] = {}
    taken: list[float] = []
    for moment, _, _, to, *_ in sent:
        before = [due for due in wrote.get(to, []) if due <= moment]
        if before:
            taken.append(1000 * (moment - before[-1]))
        answered[to] = moment
    return taken, sum(answered.get(phone, 0) < dues[-1] for phone, dues in wrote.items())


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (0.0, 0.0, 0.0)
    cuts = statistics.quantiles(values, n=100)
    return (round(cuts[49], 1), round(cuts[94], 1), round(cuts[98], 1))


def table(figures: Figures) -> Iterator[str]:
    for name, value in asdict(figures).items():
        if name != "depth":
            shown = " / ".join(f"{part:,}" for part in value) if isinstance(value, tuple) else str(value)
            yield f"{name.replace('_', ' '):<28}{shown:>24}"
    step = max(1, len(figures.depth) // 12)
    yield "waiting after seconds: replies, sends, enrollments that go on"
    yield "  " + "; ".join(
        f"{at:.0f}: {', '.join(map(str, waiting))}" for at, *waiting in figures.depth[::step]
    )
    if not figures.sustained:
        yield (
            f"The limit of this machine, with generator and simulator on its {os.cpu_count()} cores:"
            f" {figures.acknowledged_per_second} updates and {figures.answers_per_second} answers a second."
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contacts", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=100, help="messages a second")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    with temporary_platform() as platform:
        started = platform.up()
        assert started.returncode == 0, started.stderr
        for statement in SETUP.split(";\n"):
            platform.query(statement)
        tuned = {"strangers_window_open": True}
        httpx.post(f"{platform.env['SIMULATOR_URL']}/control/settings", json=tuned, trust_env=False)
        plan = Plan(given.contacts, given.rate, given.seconds)
        plan.enroll(platform)
        figures = measure(platform, plan)
    print("\n".join(table(figures)))
    for name in ("lost", "unanswered", "doubled_updates", "doubled_sends", "pacing_violations"):
        count = getattr(figures, name)
        report(f"under load: {name.replace('_', ' ')}", [count], "= 0", is_counted=True)
    sent = f"answered {figures.answers_per_second}/s, p99 {figures.answer_ms[2]:.0f} ms"
    report("under load: updates acknowledged a second", [figures.acknowledged_per_second], ">= 100", sent)
    if given.json:
        given.json.write_text(json.dumps(asdict(figures)))


if __name__ == "__main__":
    main()
