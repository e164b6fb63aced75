"""What may be sent, in plain Python: the design's table of rules and the facts about WhatsApp, not our SQL.

Slow and obvious on purpose: the first open moment is found by trying every minute. test_decisions_model.py
compares it with private.send_decisions().
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

HOUR, DAY, MINUTE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)
SERVICE_IS_BILLED = date(2026, 10, 1)
FREE_SERVICE_MESSAGES = 1000
RATES = {  # the rows of rate_cards that a fresh database has
    "marketing": Decimal("0.0740"),
    "utility": Decimal("0.0113"),
    "authentication": Decimal("0.0113"),
    "service": Decimal("0.0113"),
}
TWILIO_FEE = Decimal("0.0050")
COUNTRIES = {  # longest first: where a number is, and what the clock shows there
    "1416": ("CA", "America/Toronto"),
    "1310": ("US", "America/Los_Angeles"),
    "1": ("US", "America/New_York"),
    "34": ("ES", "Europe/Madrid"),
    "55": ("BR", "America/Sao_Paulo"),
    "56": ("CL", "America/Santiago"),
    "57": ("CO", "America/Bogota"),
}
BSUID_ZONES = {"CL": "America/Santiago", "ES": "Europe/Madrid", "US": "America/New_York"}


@dataclass(frozen=True)
class Span:
    """From and to by a local clock; over midnight it belongs to the day on which it starts. Days are ISO."""

    start: time
    end: time
    days: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)

    def contains(self, local: datetime) -> bool:
        today = local.isoweekday() in self.days
        yesterday = (local - DAY).isoweekday() in self.days
        if self.start < self.end:
            return today and self.start <= local.time() < self.end
        return (today and local.time() >= self.start) or (yesterday and local.time() < self.end)


@dataclass(frozen=True)
class Business:
    name: str
    zone: str
    quiet: Span | None
    monthly_quota: int | None
    sent_this_month: int


@dataclass(frozen=True)
class Number:
    name: str
    provider: str
    is_active: bool
    is_coexistence: bool
    connected_at: datetime
    zone: str
    hours: tuple[Span, ...] | None
    quality: str
    paused_for: timedelta | None  # timedelta.max: until somebody mends it
    bulk_paused_for: timedelta | None
    portfolio: str
    messaging_limit: int | None
    service_messages: int  # sent in this month


@dataclass(frozen=True)
class Case:
    """One thing that may be sent, and everything that matters about it."""

    business: Business
    number: Number
    purpose: str
    is_template: bool
    category: str | None
    template_status: str | None  # None: which template it is, is not known; "missing": not this account's
    is_forced: bool
    phone: str | None
    bsuid_country: str
    lead_zone: str | None
    opted_out: str | None
    block: str
    is_unreachable: bool
    taken_over_until: datetime | None
    window_until: datetime | None
    free_entry_until: datetime | None
    reply_by: datetime | None
    reached_at: datetime | None  # last template outside the window


@dataclass(frozen=True)
class Decision:
    verdict: str
    reason: str
    not_before: datetime | None
    price_class: str
    cost: Decimal


class Batch:
    """Decides case by case, in order; remembers who took the places that are limited."""

    def __init__(self, now: datetime, reached: dict[tuple[str, str], list[datetime]]) -> None:
        self.now = now
        self.reached = reached  # by business and portfolio: the last times, within 24 hours
        self.in_line_for_plan: Counter[str] = Counter()
        self.in_line_for_tier: dict[tuple[str, str], set[int]] = {}

    def decide(self, case: Case, lead: int) -> Decision:
        verdict, reason, not_before = self._rules(case, lead)
        price_class, cost = price(case, self.now)
        return Decision(verdict, reason, not_before, price_class, cost)

    def _rules(self, case: Case, lead: int) -> tuple[str, str, datetime | None]:
        for rule in (refused, unsendable, held_back):
            if found := rule(case, self.now):
                return found
        if case.purpose != "reply" and (found := self._places(case, lead)):
            return found
        return "send", warning(case, self.now) or plain_reason(case, self.now), None

    def _places(self, case: Case, lead: int) -> tuple[str, str, datetime | None] | None:
        business, number = case.business, case.number
        if business.monthly_quota is not None:
            self.in_line_for_plan[business.name] += 1
            free = max(business.monthly_quota - business.sent_this_month, 0)
            if self.in_line_for_plan[business.name] > free:
                if case.purpose == "staff":
                    return "never", "plan_quota", None
                return "wait", "plan_quota", next_month(self.now, business.zone)
        outreach = case.is_template and not window_open(case, self.now)
        if outreach and number.messaging_limit is not None:
            if case.reached_at and case.reached_at > self.now - DAY:
                return None
            key = (business.name, number.portfolio)
            times = sorted(self.reached.get(key, []))
            line = self.in_line_for_tier.setdefault(key, set())
            line.add(lead)
            if len(line) > max(number.messaging_limit - len(times), 0):
                over = max(len(times) - number.messaging_limit, 0)
                return "wait", "messaging_limit", times[over] + DAY if over < len(times) else self.now + HOUR
        return None


def is_bulk(case: Case) -> bool:
    return case.purpose in {"sequence", "daily_action", "call_followup"}


def is_marketing(case: Case) -> bool:
    return case.is_template and (case.category or "marketing") == "marketing"


def window_open(case: Case, now: datetime) -> bool:
    if case.number.provider == "whapi":
        return True  # it knows no window
    if case.window_until is None or case.window_until <= now:
        return False
    opened_at = case.window_until - DAY
    return not (case.number.is_coexistence and opened_at < case.number.connected_at)


def refused(case: Case, now: datetime) -> tuple[str, str, None] | None:
    """What the business or the customer does not want."""
    if not case.number.is_active:
        return "never", "number_inactive", None
    if case.opted_out == "all":
        return "never", "opted_out", None
    if case.is_forced:
        return None
    if case.opted_out == "marketing" and (is_bulk(case) or is_marketing(case)):
        return "never", "opted_out_of_marketing", None
    if case.block == "confirmed" and is_bulk(case):
        return "never", "blocked", None
    if case.is_unreachable and is_bulk(case):
        return "never", "unreachable", None
    if case.purpose == "reply" and case.taken_over_until and case.taken_over_until > now:
        return "never", "human_takeover", None
    return None


def unsendable(case: Case, now: datetime) -> tuple[str, str, None] | None:
    """What the provider would not deliver."""
    if not case.is_template:
        if window_open(case, now):
            return None
        return "manual" if case.purpose in {"reply", "sequence"} else "template", "window_closed", None
    if case.number.provider == "whapi":
        return "never", "templates_unsupported", None
    match case.template_status:
        case None | "approved" | "flagged" | "reinstated":
            pass
        case "missing" | "rejected" | "paused" as status:
            return "manual", f"template_{status}", None
        case "pending" | "in_appeal":
            return "manual", "template_pending", None
        case _:
            return "manual", "template_disabled", None
    if is_marketing(case) and country(case) == "US":
        return "never", "marketing_to_us", None
    return None


def held_back(case: Case, now: datetime) -> tuple[str, str, datetime | None] | None:
    """What may be sent later."""
    number, look_again = case.number, now + HOUR
    if number.paused_for:
        return (
            "wait",
            "number_paused",
            look_again if number.paused_for == timedelta.max else now + number.paused_for,
        )
    if not is_bulk(case):
        return None
    if pause := number.bulk_paused_for:
        return "wait", "bulk_paused", look_again if pause == timedelta.max else now + pause
    if case.is_forced:
        return None
    if case.block == "probable":
        return "wait", "probably_blocked", look_again
    if number.quality == "RED" and number.provider != "whapi":
        return "wait", "quality_low", look_again
    if reason := hours_reason(case, now):
        opens_at = first_open(case, now)
        return ("wait", reason, opens_at) if opens_at else ("manual", "hours_never_open", None)
    return None


def warning(case: Case, now: datetime) -> str | None:
    """What a person who sends it all the same should know."""
    if case.opted_out == "marketing" and (case.purpose != "reply" or is_marketing(case)):
        return "opted_out_of_marketing"
    if case.purpose == "reply":
        taken_over = case.taken_over_until and case.taken_over_until > now
        return "human_takeover" if taken_over else None
    if case.block == "confirmed":
        return "blocked"
    if case.is_unreachable:
        return "unreachable"
    if case.block == "probable":
        return "probably_blocked"
    if case.number.quality == "RED" and case.number.provider != "whapi":
        return "quality_low"
    if is_bulk(case) and (reason := hours_reason(case, now)):
        return reason if first_open(case, now) else "hours_never_open"
    return None


def plain_reason(case: Case, now: datetime) -> str:
    if case.number.provider == "whapi":
        return "no_window"
    return "window_open" if window_open(case, now) else "template"


def country(case: Case) -> str:
    if case.phone is None:
        return case.bsuid_country
    return next(found[0] for prefix, found in COUNTRIES.items() if case.phone.startswith(prefix))


def lead_zone(case: Case) -> str:
    if case.lead_zone:
        return case.lead_zone
    if case.phone is None:
        return BSUID_ZONES[case.bsuid_country]
    return next(found[1] for prefix, found in COUNTRIES.items() if case.phone.startswith(prefix))


def hours_reason(case: Case, at: datetime) -> str | None:
    quiet = case.business.quiet
    if quiet and quiet.start != quiet.end and quiet.contains(at.astimezone(ZoneInfo(lead_zone(case)))):
        return "quiet_hours"
    local = at.astimezone(ZoneInfo(case.number.zone))
    if case.number.hours is not None and not any(span.contains(local) for span in case.number.hours):
        return "outside_business_hours"
    return None


def first_open(case: Case, now: datetime) -> datetime | None:
    minute = now.replace(second=0, microsecond=0)
    for n in range(1, 9 * 24 * 60):
        if not hours_reason(case, minute + n * MINUTE):
            return minute + n * MINUTE
    return None


def next_month(now: datetime, zone: str) -> datetime:
    local = now.astimezone(ZoneInfo(zone))
    year, month = (local.year + 1, 1) if local.month == 12 else (local.year, local.month + 1)
    return datetime(year, month, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def price(case: Case, now: datetime) -> tuple[str, Decimal]:
    number = case.number
    if number.provider == "whapi":
        return "none", Decimal(0)
    fee = TWILIO_FEE if number.provider == "twilio" else Decimal(0)
    if free_entry(case, now):
        return "free_entry_point", fee
    today, is_open = now.astimezone(ZoneInfo(number.zone)).date(), window_open(case, now)
    if not case.is_template:
        if not is_open:  # it would take a template: the cheaper kind
            return "utility", RATES["utility"] + fee
        is_free = today < SERVICE_IS_BILLED or number.service_messages < FREE_SERVICE_MESSAGES
        return "service", (Decimal(0) if is_free else RATES["service"]) + fee
    category = case.category or "marketing"
    if category == "utility" and is_open and today < SERVICE_IS_BILLED:
        return category, fee
    return category, RATES[category] + fee


def free_entry(case: Case, now: datetime) -> bool:
    """Open, or about to be opened by this very message: the first one since the ad, in time."""
    until, reply_by = case.free_entry_until, case.reply_by
    if until and until > now:
        return True
    if not reply_by or reply_by < now:
        return False
    clicked_at = reply_by - DAY
    opened_at = until - 3 * DAY if until else None
    return opened_at is None or opened_at < clicked_at
