"""send_decisions: ten thousand random cases, decided as by a model that does not know our SQL."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.sql.decision_model import DAY, HOUR, Batch, Business, Case, Decision, Number, Span
from tests.sql.given import open_business

CLOCKS, CASES = 40, 250
# around changes of a clock, of Meta's prices and of the month, and any time
MOMENTS = [
    *(datetime(2026, 3, 8, h, 17, tzinfo=UTC) for h in (4, 6, 8)),
    *(datetime(2026, 3, 28, h, 0, tzinfo=UTC) for h in (20, 23)),
    *(datetime(2026, 4, 4, h, 59, tzinfo=UTC) for h in (22, 23)),
    *(datetime(2026, 9, 6, h, 30, tzinfo=UTC) for h in (1, 3, 5)),
    *(datetime(2026, 10, 1, h, 1, tzinfo=UTC) for h in (0, 4, 7)),
    *(datetime(2026, 10, 24, h, 45, tzinfo=UTC) for h in (21, 23)),
    *(datetime(2026, 11, 1, h, 3, 20, tzinfo=UTC) for h in (1, 4, 7)),
    *(datetime(2026, 12, 31, h, 59, 59, tzinfo=UTC) for h in (4, 22)),
]
ZONES = ["America/Santiago", "America/New_York", "Europe/Madrid", "America/Sao_Paulo", "America/Bogota"]
PHONES = ["1416555", "1310555", "1212555", "34600", "5511900", "569900", "57311"]
SPANS = [
    Span(time(21), time(8)),
    Span(time(0), time(0)),
    Span(time(22, 30), time(2, 30)),
    Span(time(23), time(1, 30)),
    Span(time(13), time(15)),
    Span(time(0), time(23, 59)),
]
HOURS = [
    (Span(time(8), time(18), (1, 2, 3, 4, 5)),),
    (Span(time(9), time(13)), Span(time(15), time(19), (1, 3, 5))),
    (Span(time(20), time(2), (5, 6)),),
    (Span(time(2, 30), time(3)),),
]
STATUSES = [
    "approved",
    "flagged",
    "rejected",
    "paused",
    "pending",
    "in_appeal",
    "disabled",
    "deleted",
    "missing",
]


class Dice(random.Random):
    """Draws states; ordinary ones come often enough for the rules at the end of the table to be reached."""

    def maybe(self, share: float, value: Any, otherwise: Any = None) -> Any:
        return value if self.random() < share else otherwise

    def around(self, now: datetime, hours: float) -> datetime:
        moment = now + timedelta(hours=self.uniform(-hours, hours))
        return self.maybe(0.1, now, moment.replace(microsecond=0))

    def business(self, name: str, zone: str) -> Business:
        return Business(
            name,
            zone,
            self.maybe(0.5, self.choice(SPANS)),
            self.maybe(0.4, self.randrange(30)),
            self.randrange(25),
        )

    def number(self, now: datetime) -> Number:
        pauses = [timedelta(minutes=7), 3 * HOUR, timedelta.max]
        return Number(
            name=uuid.UUID(int=self.getrandbits(128), version=4).hex,
            provider=self.choice(["cloud_api", "cloud_api", "twilio", "whapi"]),
            is_active=self.random() < 0.95,
            is_coexistence=self.random() < 0.3,
            connected_at=self.maybe(0.5, self.around(now, 30), now - 90 * DAY),
            zone=self.choice(ZONES),
            hours=self.maybe(0.4, self.choice(HOURS)),
            quality=self.choice(["GREEN", "GREEN", "YELLOW", "RED"]),
            paused_for=self.maybe(0.1, self.choice(pauses)),
            bulk_paused_for=self.maybe(0.1, self.choice(pauses)),
            portfolio=self.choice(["P1", "P2"]),
            messaging_limit=self.maybe(0.5, self.randrange(1, 7)),
            service_messages=self.choice([0, 999, 1000, 1500]),
        )

    def template_status(self) -> Any:
        return self.maybe(0.7, self.maybe(0.7, "approved", self.choice(STATUSES)))

    def case(self, business: Business, number: Number, now: datetime) -> Case:
        is_template = self.random() < 0.5
        phone = self.maybe(0.9, self.choice(PHONES))
        return Case(
            business=business,
            number=number,
            purpose=self.choice(["reply", "staff", "sequence", "daily_action", "call_followup"]),
            is_template=is_template,
            category=self.choice(["marketing", "utility", "authentication", None]),
            template_status=self.template_status() if is_template else None,
            is_forced=self.random() < 0.2,
            phone=phone and phone + str(self.randrange(10**4, 10**5)),
            bsuid_country=self.choice(["CL", "ES", "US"]),
            lead_zone=self.maybe(0.2, self.choice(ZONES)),
            opted_out=self.maybe(0.2, self.choice(["all", "marketing"])),
            block=self.maybe(0.2, self.choice(["probable", "confirmed"]), "none"),
            is_unreachable=self.random() < 0.06,
            taken_over_until=self.maybe(0.3, self.around(now, 1)),
            window_until=self.maybe(0.85, self.around(now, 24)),
            free_entry_until=self.maybe(0.2, self.around(now, 72)),
            reply_by=self.maybe(0.2, self.around(now, 24)),
            reached_at=self.maybe(0.3, self.around(now - 24 * HOUR, 24)),
        )


class Stage:
    """Puts cases into the database, and asks it."""

    def __init__(self, db: Any, tenants: dict[str, uuid.UUID]) -> None:
        self.db, self.tenants = db, tenants

    def set_clock(self, now: datetime) -> None:
        self.db.run(
            "create or replace function private.clock() returns timestamptz language sql stable"
            f" set search_path = '' as $$ select '{now.isoformat()}'::timestamptz $$"
        )

    def businesses(self, businesses: list[Business], now: datetime) -> None:
        for b in businesses:
            tenant = self.tenants[b.name]
            quiet = b.quiet and Jsonb({"from": f"{b.quiet.start:%H:%M}", "to": f"{b.quiet.end:%H:%M}"})
            self.db.run(
                "update public.tenant_settings set quiet_hours = %s where tenant_id = %s", quiet, tenant
            )
            self.db.run(
                "update public.users set timezone = %s, max_messages_per_month = %s where id = %s",
                b.zone,
                b.monthly_quota,
                tenant,
            )

    def numbers(self, pairs: list[tuple[Business, Number]], now: datetime) -> None:
        self._copy(
            "public.whatsapp_numbers (tenant_id, id, provider, phone_number, provider_number_id, waba_id,"
            " account_id, portfolio_id, display_name, is_active, is_coexistence, created_at, timezone,"
            " business_hours, quality_rating, messaging_limit)",
            (
                (
                    self.tenants[b.name],
                    n.name,
                    n.provider,
                    f"5731000{i:05}",
                    n.name,
                    "200",
                    "200",
                    n.portfolio,
                    n.name,
                    n.is_active,
                    n.is_coexistence,
                    n.connected_at,
                    n.zone,
                    n.hours and Jsonb([_span(s) for s in n.hours]),
                    n.quality,
                    n.messaging_limit,
                )
                for i, (b, n) in enumerate(pairs)
            ),
        )
        for b, n in pairs:
            self.db.run(
                "insert into public.number_pacing (tenant_id, number_id, paused_until, bulk_paused_until,"
                " service_month, service_count) values (%s, %s, now() + %s, now() + %s,"
                " date_trunc('month', %s at time zone %s)::date - case when %s = 0 then 1 else 0 end, %s)",
                self.tenants[b.name],
                n.name,
                _finite(n.paused_for),
                _finite(n.bulk_paused_for),
                now,
                n.zone,
                n.service_messages,
                n.service_messages or 1200,
            )
            for column, pause in (("paused_until", n.paused_for), ("bulk_paused_until", n.bulk_paused_for)):
                if pause == timedelta.max:
                    self.db.run(
                        f"update public.number_pacing set {column} = 'infinity' where number_id = %s", n.name
                    )
        first = {b.name: (b, n) for b, n in pairs}
        for b, n in first.values():
            self.db.run(
                "insert into public.monthly_sends select id, date_trunc('month', %s at time zone timezone),"
                " %s, %s from public.users where id = %s",
                now,
                n.name,
                b.sent_this_month,
                self.tenants[b.name],
            )

    def ask(self, cases: list[Case], templates: dict[TemplateKey, uuid.UUID]) -> list[Decision]:
        ids = [uuid.uuid4() for _ in cases]
        rows = list(zip(ids, ((self.tenants[c.business.name], c) for c in cases), strict=True))
        self._copy(
            "public.customer_leads (tenant_id, id, phone, timezone, opted_out_at, opt_out_scope)",
            (
                (t, i, c.phone, c.lead_zone, c.opted_out and datetime.now(UTC), c.opted_out)
                for i, (t, c) in rows
            ),
        )
        self._copy(
            "public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)",
            ((t, "bsuid", "P1", f"{c.bsuid_country}.{i.hex}", datetime.now(UTC), i) for i, (t, c) in rows),
        )
        self._copy(
            "public.chats (tenant_id, id, lead_id, number_id, last_interaction_at, window_expires_at,"
            " free_entry_until, free_entry_reply_by, block_state, reach_state, agent_paused_until)",
            (
                (
                    t,
                    i,
                    i,
                    c.number.name,
                    datetime.now(UTC),
                    c.window_until,
                    c.free_entry_until,
                    c.reply_by,
                    c.block,
                    "unreachable" if c.is_unreachable else "ok",
                    c.taken_over_until,
                )
                for i, (t, c) in rows
            ),
        )
        self._copy(
            "public.outreaches (tenant_id, portfolio, lead_id, last_at)",
            ((t, c.number.portfolio, i, c.reached_at) for i, (t, c) in rows if c.reached_at),
        )
        candidates = [
            (
                str(i),
                str(t),
                str(i),
                c.purpose,
                c.is_template,
                None if c.template_status else c.category,
                c.template_status and str(templates[_template_key(c)]),
                c.is_forced,
            )
            for i, (t, c) in rows
        ]
        answers = self.db.rows(
            "select d.* from private.send_decisions(array(select (c ->> 0, c ->> 1, c ->> 2, c ->> 3,"
            " c ->> 4, c ->> 5, c ->> 6, c ->> 7)::text::private.send_candidate"
            " from jsonb_array_elements(%s) with ordinality as a (c, n) order by n)) d",
            Jsonb(candidates),
        )
        found = {a["ref"]: a for a in answers}
        return [
            Decision(a["verdict"], a["reason"], a["not_before"], a["price_class"], a["estimated_cost"])
            for a in (found[i] for i in ids)
        ]

    def _copy(self, target: str, rows: Iterator[tuple[Any, ...]]) -> None:
        with self.db.connection.cursor().copy(f"copy {target} from stdin") as copy:
            for row in rows:
                copy.write_row(row)


def _span(span: Span) -> dict[str, Any]:
    return {"from": f"{span.start:%H:%M}", "to": f"{span.end:%H:%M}", "days": list(span.days)}


def _finite(pause: timedelta | None) -> timedelta | None:
    return HOUR if pause == timedelta.max else pause


TemplateKey = tuple[str, str, str, str]  # of which business, provider and category, in which state


def _templates(db: Any, tenant: uuid.UUID, name: str) -> dict[TemplateKey, uuid.UUID]:
    return {
        (name, provider, category, status): db.value(
            "insert into public.message_templates (tenant_id, provider, waba_id, provider_template_id, name,"
            " language, category, status) values (%s, %s, %s, gen_random_uuid(), %s, 'es', %s, %s)"
            " returning id",
            tenant,
            provider,
            "201" if status == "missing" else "200",
            f"{category}_{status}",
            category,
            "approved" if status == "missing" else status,
        )
        for provider in ("cloud_api", "twilio")
        for category in ("marketing", "utility", "authentication")
        for status in STATUSES
    }


def _template_key(case: Case) -> TemplateKey:
    provider = "twilio" if case.number.provider == "twilio" else "cloud_api"
    return case.business.name, provider, case.category or "marketing", str(case.template_status)


@pytest.fixture
def stage(db: Any) -> Stage:
    names = [f"model{n}" for n in range(5)]
    tenants = {n: open_business(db.connection, n, f"9000000000{i:05}").tenant_id for i, n in enumerate(names)}
    db.run("update public.users set max_whatsapp_numbers = 100000 where crm_plan is not null")
    return Stage(db, tenants)


def test_ten_thousand_random_cases_are_decided_as_the_model_does(db: Any, stage: Stage) -> None:
    dice, seen = Dice(20261122), Counter[tuple[str, str]]()
    templates = {k: v for name, t in stage.tenants.items() for k, v in _templates(db, t, name).items()}
    for n in range(CLOCKS):
        now = MOMENTS[n] if n < len(MOMENTS) else datetime(2026, 1, 1, tzinfo=UTC) + dice.random() * 500 * DAY
        businesses = [dice.business(name, dice.choice(ZONES)) for name in stage.tenants]
        pairs = [(b, dice.number(now)) for b in businesses for _ in range(5)]
        cases = [dice.case(*dice.choice(pairs), now) for _ in range(CASES)]
        with db.connection.transaction(force_rollback=True):
            stage.set_clock(now)
            stage.businesses(businesses, now)
            stage.numbers(pairs, now)
            decided = stage.ask(cases, templates)
        for case, found, wanted in zip(cases, decided, _by_model(cases, now), strict=True):
            assert found == wanted, f"{case}\nat {now}"
            seen[wanted.verdict, wanted.reason] += 1
    assert sum(seen.values()) == 10_000
    assert (len(seen), min(seen.values()) >= 5) == (37, True), seen.most_common()[::-1]


def _by_model(cases: list[Case], now: datetime) -> list[Decision]:
    reached: dict[tuple[str, str], list[datetime]] = {}
    for case in cases:
        if case.reached_at and case.reached_at > now - DAY:
            reached.setdefault((case.business.name, case.number.portfolio), []).append(case.reached_at)
    batch = Batch(now, reached)
    return [batch.decide(case, lead) for lead, case in enumerate(cases)]
