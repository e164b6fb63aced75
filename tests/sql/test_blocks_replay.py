"""A month of known histories, replayed as it happened: blocks are found, and no outage is taken for one.

What customers' phones and providers do is written down first (`Story`); then the clock goes through it day by
day, statuses and messages come in through the inbox, and the detection looks after each step.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from tests.conftest import Db
from tests.sql.blocks import DAY, HOUR, Histories, set_clock
from tests.sql.given import Business, Event, Inbox, event, says

BEGIN = datetime(2026, 9, 1, 8, tzinfo=UTC)
STEP, STEPS = DAY, 45  # the last few bring only what comes late
LOST = timedelta.max
SOON = timedelta(minutes=1)


@dataclass
class Story:
    """A customer of a number: when we write, how long it takes to arrive, when the customer writes."""

    cause: str
    number: str
    sent: list[datetime]
    takes: Any  # (sent at) -> timedelta
    writes: list[datetime] = field(default_factory=list)
    phone: str = ""
    blocked_at: datetime | None = None

    def learnt(self) -> Iterator[tuple[datetime, str, Event]]:
        """What the provider tells us, and when."""
        for n, at in enumerate(self.sent):
            if (takes := self.takes(at)) is not LOST:
                yield at + takes, self.number, event("status", self.name(n), at + takes, status="delivered")
        for n, at in enumerate(self.writes):
            contact = {"phone": self.phone, "profile_name": "Cliente"}
            yield at, self.number, says(f"in.{self.phone}.{n}", contact=contact, at=at)

    def name(self, n: int) -> str:
        return f"wamid.{self.phone}.{n}"


def after(days: float) -> datetime:
    return BEGIN + days * DAY


def away(since: datetime, until: datetime, then: timedelta = SOON) -> Any:
    """The phone is off: whatever is sent meanwhile arrives when it is back."""
    return lambda at: until - at + then if since <= at < until else SOON


def lost(since: datetime, until: datetime, told_at: datetime | None = None) -> Any:
    """The provider tells nothing of what is sent meanwhile; or all of it later."""
    return lambda at: SOON if not since <= at < until else LOST if told_at is None else told_at - at


def stories(dice: Random) -> list[Story]:
    def days(every: float = 1.5) -> list[datetime]:
        first = dice.random() * every
        return [after(first + n * every + dice.random() * 0.2) for n in range(int(36 / every))]

    def blocks(at: datetime) -> Any:
        return lambda sent: LOST if sent >= at else SOON

    told: list[Story] = [Story("healthy", "busy", days(), lambda _: SOON) for _ in range(40)]
    for _ in range(12):
        at = after(8 + dice.random() * 16)
        told.append(Story("blocked", "busy", days(), blocks(at), blocked_at=at))
    for number in ("quiet", "quiet two"):  # a customer or two a day
        told += [Story("healthy", number, days(2), lambda _: SOON) for _ in range(3)]
        told.append(Story("blocked", number, days(2), blocks(after(12)), blocked_at=after(12)))
    for length in (2, 4, 5, 7, 9, 12):
        since = after(8 + dice.random() * 10)
        told.append(Story("phone off", "busy", days(), away(since, since + length * DAY)))
    for _ in range(8):
        told.append(Story("intermittent", "busy", days(), lambda _: dice.random() * 60 * HOUR))
    for _ in range(4):
        at = after(10 + dice.random() * 5)
        told.append(
            Story(
                "blocked, then writes", "busy", days(), lost(at, at + 9 * DAY), [at + 9 * DAY], blocked_at=at
            )
        )  # fmt: skip
    told += [Story("outage, lost", "out", days(), lost(after(12.3), after(17.1))) for _ in range(20)]
    late = lost(after(9.6), after(14.2), after(19))
    told += [Story("outage, told late", "out two", days(), late) for _ in range(12)]
    told += [Story("outage of a few", "out small", days(2), lost(after(14), after(23))) for _ in range(4)]
    told += [Story("outage, new number", "new", days(1)[:9], lost(after(0), after(9))) for _ in range(6)]
    for number in ("provider one", "provider two", "provider three"):
        told += [Story("provider outage", number, days(), lost(after(15), after(20))) for _ in range(7)]
    for n, story in enumerate(told):
        story.phone = str(573700000000 + n)
    return told


class Replay:
    def __init__(self, db: Db, business: Business, inbox: Inbox) -> None:
        self.db, self.inbox = db, inbox
        self.histories = Histories(db, business.tenant_id, business.number_id)
        self.chats: dict[str, uuid.UUID] = {}
        self.numbers: dict[str, tuple[uuid.UUID, str, str]] = {}
        self.marked: dict[uuid.UUID, list[str]] = {}

    def run(self, told: list[Story]) -> None:
        set_clock(self.db, BEGIN)
        self.db.run("update public.users set max_whatsapp_numbers = 50")
        self._open(told)
        news = sorted((one for story in told for one in story.learnt()), key=lambda one: one[0])
        sends = sorted(
            ((at, n, story) for story in told for n, at in enumerate(story.sent)), key=lambda one: one[0]
        )
        for step in range(1, STEPS + 1):
            until = BEGIN + step * STEP
            set_clock(self.db, until)
            self._send([send for send in sends if until - STEP <= send[0] < until])
            self._tell([one for one in news if until - STEP <= one[0] < until])
            for mark in self.histories.detect()["marked"]:
                self.marked.setdefault(uuid.UUID(mark["chat_id"]), []).append(mark["level"])

    def open(self) -> list[uuid.UUID]:
        return self.db.column("select chat_id from public.delivery_issues where resolved_at is null")

    def _open(self, told: list[Story]) -> None:
        for name in dict.fromkeys(story.number for story in told):
            provider = "twilio" if name.startswith("provider") else "cloud_api"
            number_id = self.histories.number(provider)
            address = self.db.value(
                "select provider_number_id from public.whatsapp_numbers where id = %s", number_id
            )
            self.numbers[name] = (number_id, provider, address)
        for story in told:
            self.chats[story.phone] = self.histories.chat(
                self.numbers[story.number][0], self._lead(story.phone)
            ).id

    def _lead(self, phone: str) -> uuid.UUID:
        lead_id: uuid.UUID = self.db.value(
            "with l as (insert into public.customer_leads (tenant_id, phone) values (%s, %s) returning *),"
            " i as (insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)"
            " select tenant_id, 'phone', '', phone, %s, id from l) select id from l",
            self.histories.tenant_id, phone, BEGIN,
        )  # fmt: skip
        return lead_id

    def _send(self, sends: list[tuple[datetime, int, Story]]) -> None:
        with self.db.connection.cursor() as cursor:
            cursor.executemany(
                "insert into public.messages (tenant_id, chat_id, lead_id, number_id, direction, role,"
                " source, type, content, wa_message_id, status, sent_at, provider_at)"
                " select tenant_id, id, lead_id, number_id, 'outbound', 'assistant', 'sequence', 'text',"
                " 'Hola', %s, 'sent', %s, %s"
                " from public.chats where id = %s",
                [(story.name(n), at, at, self.chats[story.phone]) for at, n, story in sends],
            )

    def _tell(self, news: list[tuple[datetime, str, Event]]) -> None:
        by_number: dict[str, list[Event]] = {}
        for _, number, told in news:
            by_number.setdefault(number, []).append(told)
        for name, events in by_number.items():
            _, provider, address = self.numbers[name]
            self.inbox.deliver(*events, provider=provider, number=address)


@pytest.fixture
def told() -> list[Story]:
    return stories(Random(20261121))  # noqa: S311  # the same every time


def test_blocks_are_found_and_outages_are_not_taken_for_them(
    db: Any, clinic: Business, inbox: Inbox, told: list[Story], capsys: pytest.CaptureFixture[str]
) -> None:
    replay = Replay(db, clinic, inbox)

    replay.run(told)

    marked = Counter(story.cause for story in told if replay.chats[story.phone] in replay.marked)
    all_of = Counter(story.cause for story in told)
    with capsys.disabled():
        print("\n" + report(marked, all_of))  # noqa: T201  # what the precision is
    assert share(marked, all_of) >= 0.95
    assert [cause for cause in marked if "outage" in cause or cause == "healthy"] == []
    still = {replay.chats[story.phone] for story in told if story.cause == "blocked"}
    assert set(replay.open()) == still & set(replay.marked)  # whoever was reached again is cleared


def share(marked: Counter[str], of: Counter[str]) -> float:
    """Of those who blocked us, how many were marked."""
    return sum(marked[cause] for cause in of if "blocked" in cause) / sum(
        count for cause, count in of.items() if "blocked" in cause
    )


def report(marked: Counter[str], all_of: Counter[str]) -> str:
    precision = sum(marked[cause] for cause in all_of if "blocked" in cause) / sum(marked.values())
    by_cause = [f"  {cause:22}{marked[cause]:4} of {count:3} marked" for cause, count in all_of.items()]
    return "\n".join([*by_cause, f"  recall {share(marked, all_of):.2f}, precision {precision:.2f}"])
