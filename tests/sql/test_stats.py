"""stats: days are what their messages are, by the business's clock, whatever comes when."""

from __future__ import annotations

import random
import statistics
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from tests.sql.given import CARLOS, NOW, Business, Inbox, echo, open_business, says, status

OUT = ("sent", "delivered", "read", "played")
STATUSES = (*OUT, "queued", "sending", "failed", "skipped", "canceled", "unknown")
ANSWERS = ("agent", "staff", "manual", "api")
Connection = psycopg.Connection[Any]


def at(moment: str) -> datetime:
    return datetime.fromisoformat(moment).replace(tzinfo=UTC)


def value(connection: Connection, statement: str, *values: Any) -> Any:
    row = connection.execute(statement, values).fetchone()
    return next(iter(row.values())) if row else None


def open_chat(connection: Connection, business: Business, number_id: uuid.UUID | None = None) -> uuid.UUID:
    chat: uuid.UUID = value(
        connection,
        "with l as (insert into public.customer_leads (tenant_id) values (%s) returning id) insert into"
        " public.chats (tenant_id, lead_id, number_id, last_interaction_at) select %s, id, %s, now() from l"
        " returning id",
        business.tenant_id, business.tenant_id, number_id or business.number_id,
    )  # fmt: skip
    return chat


def write(
    connection: Connection, chat: uuid.UUID, when: datetime, told: str = "received", **more: Any
) -> Any:
    """A message of that moment: the customer's, or with another status than received one of ours."""
    is_inbound = told == "received"
    row = {
        "provider_at": when,
        "status": told,
        "direction": "inbound" if is_inbound else "outbound",
        "role": "user" if is_inbound else "assistant",
        "source": "customer" if is_inbound else "agent",
        "type": "text",
        **more,
    }
    names = ", ".join(row)
    return value(
        connection,
        f"insert into public.messages (tenant_id, chat_id, lead_id, number_id, {names}) select tenant_id, id,"
        f" lead_id, number_id, {', '.join(['%s'] * len(row))} from public.chats where id = %s returning id",
        *row.values(), chat,
    )  # fmt: skip


def refresh(db: Any) -> int:
    with db.as_service():
        return int(db.value("select public.stats_refresh()"))


def days(db: Any, column: str = "inbound + outbound") -> dict[str, Any]:
    found = db.rows(f"select day, {column} as it from public.message_stats_daily order by day")
    return {row["day"].isoformat(): row["it"] for row in found}


def set_zone(db: Any, business: Business, zone: str) -> None:
    db.run("update public.users set timezone = %s where id = %s", zone, business.tenant_id)


@pytest.fixture
def chat(db: Any, clinic: Business) -> uuid.UUID:
    return open_chat(db.connection, clinic)


def test_a_day_counts_each_message_once_with_the_status_it_has_now(db: Any, chat: uuid.UUID) -> None:
    noon = at("2026-03-10T17:00")
    for n, told in enumerate(["received", *STATUSES, "read"]):
        write(db.connection, chat, noon + timedelta(minutes=n), told)

    assert refresh(db) == 1

    row = db.row("select * from public.message_stats_daily")
    assert (row["inbound"], row["outbound"], row["pending"], row["read"]) == (1, 11, 2, 2)
    assert {row[name] for name in set(STATUSES) - {"queued", "sending", "read"}} == {1}


def test_details_tell_sources_classes_errors_and_money(db: Any, chat: uuid.UUID) -> None:
    noon = at("2026-03-10T17:00")
    dollars = {"currency": "USD", "estimated_cost": 0.02, "price_class": "utility"}
    write(db.connection, chat, noon, "read", **dollars, actual_cost=0.01)
    write(db.connection, chat, noon, "sent", source="sequence", **dollars)
    write(db.connection, chat, noon, "delivered", currency="COP", estimated_cost=100, price_class="marketing")
    write(db.connection, chat, noon, "failed", error_code=131026, **dollars)
    write(db.connection, chat, noon, "failed", **dollars)

    refresh(db)

    row = db.row("select * from public.message_stats_daily")
    assert row["sources"] == {
        "agent": {"outbound": 4, "arrived": 2, "read": 1, "failed": 2},
        "sequence": {"outbound": 1, "arrived": 0, "read": 0, "failed": 0},
    }
    assert row["price_classes"] == {"utility": 2, "marketing": 1}
    assert row["error_codes"] == {"131026": 1, "none": 1}
    assert {c: {k: float(v) for k, v in m.items()} for c, m in row["costs"].items()} == {
        "USD": {"estimated": 0.04, "actual": 0.01},
        "COP": {"estimated": 100, "actual": 0},
    }


@pytest.mark.parametrize(
    ("zone", "moments", "expected"),
    [
        ("America/Bogota", ["2026-03-10T04:59", "2026-03-10T05:00"], {"2026-03-09": 1, "2026-03-10": 1}),
        ("Asia/Kathmandu", ["2026-03-10T18:14", "2026-03-10T18:15"], {"2026-03-10": 1, "2026-03-11": 1}),
        # no midnight: clocks go from 23:59 to 01:00 at 04:00 UTC
        ("America/Santiago", ["2026-09-06T03:59", "2026-09-06T04:00"], {"2026-09-05": 1, "2026-09-06": 1}),
        # 25 hours: 23:00 comes twice, at 02:00 and 03:00 UTC
        (
            "America/Santiago",
            ["2026-04-05T02:30", "2026-04-05T03:30", "2026-04-05T04:00"],
            {"2026-04-04": 2, "2026-04-05": 1},
        ),
        # midnight comes twice, at 04:00 and 05:00 UTC
        (
            "America/Havana",
            ["2026-11-01T03:59", "2026-11-01T04:30", "2026-11-01T05:30"],
            {"2026-10-31": 1, "2026-11-01": 2},
        ),
        ("Europe/Madrid", ["2026-03-28T22:59", "2026-03-28T23:00", "2026-03-29T21:59"],
            {"2026-03-28": 1, "2026-03-29": 2}),
    ],
)  # fmt: skip
def test_days_are_the_business_s_own_also_when_its_clocks_change(
    db: Any, clinic: Business, chat: uuid.UUID, zone: str, moments: list[str], expected: dict[str, int]
) -> None:
    set_zone(db, clinic, zone)
    for moment in moments:
        write(db.connection, chat, at(moment))

    refresh(db)

    assert days(db) == expected


def test_a_business_that_sets_its_clock_gets_all_its_days_cut_anew(
    db: Any, clinic: Business, chat: uuid.UUID
) -> None:
    set_zone(db, clinic, "Pacific/Kiritimati")
    moments = [at("2026-03-10T11:00"), at("2026-03-12T09:00"), at("2026-03-12T10:00")]
    for moment in moments:
        write(db.connection, chat, moment)
    refresh(db)
    assert days(db) == {"2026-03-11": 1, "2026-03-12": 1, "2026-03-13": 1}

    with db.signed_in(clinic.owner):
        set_zone(db, clinic, "Etc/GMT+12")
    refresh(db)

    assert days(db) == {"2026-03-09": 1, "2026-03-11": 2}


def test_a_late_status_counts_its_own_day_anew_and_no_other(
    db: Any, clinic: Business, inbox: Inbox, chat: uuid.UUID
) -> None:
    for ago in (0, 21):
        inbox.deliver(echo(f"w{ago}", at=NOW - timedelta(days=ago)))
    refresh(db)
    db.run("update public.message_stats_daily set inbound = 1000")

    inbox.deliver(status("w21", "read"))
    assert refresh(db) == 1

    assert [*days(db, "array[inbound, sent, read]").values()] == [[0, 0, 1], [1000, 1, 0]]


def test_the_same_status_again_and_what_does_not_count_touch_nothing(
    db: Any, inbox: Inbox, chat: uuid.UUID
) -> None:
    inbox.deliver(echo("w1"), status("w1", "read"))
    refresh(db)

    inbox.deliver(status("w1", "read"))
    db.run("update public.messages set content = 'otra cosa', conversation_id = null")

    assert refresh(db) == 0


def test_numbers_and_businesses_are_kept_apart(
    db: Any, clinic: Business, plaza: Business, inbox: Inbox
) -> None:
    second = db.value(
        "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id,"
        " display_name) values (%s, 'whapi', '573009998877', 'SECOND', 'Dos') returning id", clinic.tenant_id,
    )  # fmt: skip
    day = at("2026-03-10T17:00")
    numbers = {clinic.number_id: (clinic, 1), second: (clinic, 2), plaza.number_id: (plaza, 3)}
    for number, (business, messages) in numbers.items():
        mine = open_chat(db.connection, business, number)
        for _ in range(messages):
            write(db.connection, mine, day)

    assert refresh(db) == 2

    found = db.rows("select tenant_id, number_id, inbound from public.message_stats_daily")
    assert {row["number_id"]: (row["tenant_id"], row["inbound"]) for row in found} == {
        number: (business.tenant_id, messages) for number, (business, messages) in numbers.items()
    }


def test_a_day_whose_messages_are_gone_has_no_row(db: Any, chat: uuid.UUID) -> None:
    write(db.connection, chat, at("2026-03-10T17:00"))
    refresh(db)

    db.run("delete from public.messages")
    refresh(db)

    assert days(db) == {}


def test_an_answer_counts_on_its_day_from_the_customer_s_last_message(db: Any, chat: uuid.UUID) -> None:
    midnight = at("2026-03-11T05:00")
    turns = [(-30, "received"), (-10, "received"), (5, "delivered"), (6, "read")]
    for minutes, told in [*turns, (10, "received"), (12, "failed"), (13, "queued"), (20, "sent")]:
        write(db.connection, chat, midnight + timedelta(minutes=minutes), told)
    write(db.connection, chat, midnight + timedelta(minutes=30))
    write(db.connection, chat, midnight + timedelta(minutes=31), "sent", source="sequence")

    refresh(db)

    answers = days(db, "array[responses, response_seconds, response_p50, response_p90]")
    assert answers == {"2026-03-10": [0, 0, None, None], "2026-03-11": [2, 1500, 750, 870]}


@pytest.mark.parametrize("late", ["received", "sent"])
def test_what_comes_late_changes_the_answer_of_another_day(db: Any, chat: uuid.UUID, late: str) -> None:
    midnight = at("2026-03-11T05:00")
    write(db.connection, chat, midnight - timedelta(hours=3))
    write(db.connection, chat, midnight + timedelta(hours=1), "sent")
    refresh(db)
    assert days(db, "response_seconds")["2026-03-11"] == 4 * 3600

    write(db.connection, chat, midnight - timedelta(hours=1), late)
    refresh(db)

    assert days(db, "response_seconds")["2026-03-11"] == (2 * 3600 if late == "received" else 0)


def test_an_answer_that_never_went_out_after_all_was_none(db: Any, chat: uuid.UUID) -> None:
    midnight = at("2026-03-11T05:00")
    write(db.connection, chat, midnight - timedelta(hours=3))
    failing = write(db.connection, chat, midnight - timedelta(hours=2), "sent")
    write(db.connection, chat, midnight + timedelta(hours=1), "sent")
    refresh(db)
    assert days(db, "responses") == {"2026-03-10": 1, "2026-03-11": 0}

    db.run("update public.messages set status = 'failed' where id = %s", failing)
    refresh(db)

    assert days(db, "responses") == {"2026-03-10": 0, "2026-03-11": 1}


def test_operators_have_days_counted_again(db: Any, clinic: Business, chat: uuid.UUID) -> None:
    for day in (1, 10, 20):
        write(db.connection, chat, at(f"2026-03-{day:02}T03:00"))
    db.run("delete from private.stats_touches")

    with db.as_service():
        assert db.value("select public.stats_recount(%s, '2026-03-09', '2026-03-31')", clinic.tenant_id) == 23
    refresh(db)
    assert days(db) == {"2026-03-09": 1, "2026-03-19": 1}

    with db.as_service():
        assert db.value("select public.stats_recount(%s)", clinic.tenant_id) == 20
    refresh(db)
    assert days(db) == {"2026-02-28": 1, "2026-03-09": 1, "2026-03-19": 1}


def test_what_a_refresh_has_no_time_for_waits_for_the_next(db: Any, chat: uuid.UUID) -> None:
    for ago in range(120):
        write(db.connection, chat, at("2026-03-10T17:00") - timedelta(days=ago))

    with db.as_service():
        assert [db.value("select public.stats_refresh(0)") for _ in range(4)] == [50, 50, 20, 0]

    assert list(days(db).values()) == [1] * 120


@pytest.fixture
def committed(connect: Callable[[], Connection]) -> tuple[Connection, uuid.UUID]:
    """A business with a chat, for tests with several transactions."""
    connection = connect()
    return connection, open_chat(connection, open_business(connection, "clinic", "100000000000001"))


def count(connection: Connection) -> int:
    return int(value(connection, "select coalesce(sum(inbound), 0) from public.message_stats_daily"))


def test_a_message_that_commits_while_days_are_counted_is_counted_by_the_next_refresh(
    committed: tuple[Connection, uuid.UUID], connect: Callable[[], Connection]
) -> None:
    writer, chat = committed
    counter = connect()
    write(writer, chat, NOW)
    with writer.transaction():
        write(writer, chat, NOW)
        # its day is counted without it, and the note of it is not lost
        assert value(counter, "select public.stats_refresh()") == 1
        assert count(counter) == 1

    assert value(counter, "select public.stats_refresh()") == 1
    assert count(counter) == 2


def test_a_message_that_commits_between_taking_a_day_and_counting_it_is_counted(
    committed: tuple[Connection, uuid.UUID], connect: Callable[[], Connection]
) -> None:
    writer, chat = committed
    counter = connect()
    write(writer, chat, NOW)
    with counter.transaction():
        taken = counter.execute("create temp table taken as select private.stats_days_take() as days")
        assert taken.rowcount == 1
        write(writer, chat, NOW)
        counter.execute("select private.stats_count(days) from taken")
    assert count(counter) == 2

    assert value(counter, "select public.stats_refresh()") == 1
    assert count(counter) == 2


def test_one_refresh_at_a_time(
    committed: tuple[Connection, uuid.UUID], connect: Callable[[], Connection]
) -> None:
    writer, chat = committed
    first, second = connect(), connect()
    write(writer, chat, NOW)
    with first.transaction():
        assert value(first, "select public.stats_refresh()") == 1
        write(writer, chat, NOW)
        assert value(second, "select public.stats_refresh()") == 0

    assert value(second, "select public.stats_refresh()") == 1
    assert count(second) == 2


def test_a_clock_set_while_days_are_counted_is_the_next_refresh_s(
    committed: tuple[Connection, uuid.UUID], connect: Callable[[], Connection]
) -> None:
    writer, chat = committed
    counter = connect()
    write(writer, chat, at("2026-03-10T04:30"))
    with counter.transaction():
        value(counter, "select public.stats_refresh()")
        writer.execute("update public.users set timezone = 'UTC'")

    value(counter, "select public.stats_refresh()")

    assert value(counter, "select array_agg(day) from public.message_stats_daily") == [date(2026, 3, 10)]


def test_many_changes_counted_bit_by_bit_are_what_all_of_them_are(
    db: Any, clinic: Business, inbox: Inbox
) -> None:
    dice = random.Random(7)  # noqa: S311
    chats = [open_chat(db.connection, clinic) for _ in range(2)]
    written: list[Any] = []
    for _ in range(150):
        moment = at("2026-03-10T00:00") + timedelta(hours=5 * dice.randrange(250))
        step = dice.random()
        if step < 0.6 or not written:
            told = dice.choice(["received", *STATUSES])
            source = "customer" if told == "received" else dice.choice([*ANSWERS, "sequence"])
            written.append(write(db.connection, dice.choice(chats), moment, told, source=source))
        elif step < 0.8:
            db.run(
                "update public.messages set status = %s where id = %s and direction = 'outbound'",
                dice.choice(STATUSES), dice.choice(written),
            )  # fmt: skip
        elif step < 0.85:
            db.run("update public.messages set provider_at = %s where id = %s", moment, dice.choice(written))
        else:
            db.run("delete from public.messages where id = %s", dice.choice(written))
        refresh(db)

    assert told_by(db, "public.message_stats_daily") == model(db, "America/Bogota")


def told_by(db: Any, table: str) -> dict[date, tuple[Any, ...]]:
    rows = db.rows(
        f"select day, inbound, outbound, read + played as read, failed, responses, response_seconds,"
        f" response_p50 from {table} order by day"
    )
    return {row.pop("day"): tuple(row.values()) for row in rows}


def model(db: Any, zone: str) -> dict[date, tuple[Any, ...]]:
    """The same, counted here from the messages themselves."""
    rows = db.rows("select * from public.messages order by provider_at, direction, id")
    before: dict[uuid.UUID, Any] = {}
    by_day: dict[date, list[tuple[Any, float | None]]] = {}
    for row in rows:
        waited, is_out = None, row["status"] in OUT
        last = before.get(row["chat_id"])
        if is_out and row["source"] in ANSWERS and last and last["direction"] == "inbound":
            waited = (row["provider_at"] - last["provider_at"]).total_seconds()
        if is_out or row["direction"] == "inbound":
            before[row["chat_id"]] = row
        by_day.setdefault(row["provider_at"].astimezone(ZoneInfo(zone)).date(), []).append((row, waited))
    return {day: summed(told) for day, told in sorted(by_day.items())}


def summed(told: list[tuple[Any, float | None]]) -> tuple[Any, ...]:
    states = [row["status"] for row, _ in told]
    waits = [waited for _, waited in told if waited is not None]
    inbound = states.count("received")
    return (
        inbound, len(states) - inbound, states.count("read") + states.count("played"), states.count("failed"),
        len(waits), sum(waits), round(statistics.median(waits)) if waits else None,
    )  # fmt: skip


def test_messages_of_two_customers_told_by_webhooks_are_counted(
    db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None
) -> None:
    set_zone(db, clinic, "UTC")
    inbox.deliver(
        says("w1"),
        says("w2", contact=CARLOS),
        echo("w3", at=NOW + timedelta(seconds=30)),
        status("w3", "delivered"),
    )
    inbox.deliver(status("w3", "read"))

    refresh(db)

    row = db.row(
        "select sum(inbound) as i, sum(read) as r, sum(response_seconds) as s from public.message_stats_daily"
    )
    assert (row["i"], row["r"], row["s"]) == (2, 1, 30)
