"""Blocks: who is taken for having blocked a number, who is not, and how that ends."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.conftest import Db
from tests.sql.blocks import DAY, HOUR, Chat, Histories, set_clock
from tests.sql.given import Business, Event, Inbox, echo, open_business, says, status

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OLD = NOW - 80 * HOUR


@pytest.fixture
def histories(db: Any, clinic: Business) -> Histories:
    set_clock(db, NOW)
    return Histories(db, clinic.tenant_id, clinic.number_id)


@pytest.fixture
def chat(histories: Histories) -> Chat:
    """A customer whom a message has reached once."""
    return histories.chat().sent(NOW - 20 * DAY, delivered=HOUR)


@pytest.mark.parametrize(
    ("undelivered", "state"), [(0, "none"), (1, "none"), (2, "probable"), (3, "confirmed"), (5, "confirmed")]
)
def test_messages_that_stay_sent_make_a_block(
    histories: Histories, chat: Chat, undelivered: int, state: str
) -> None:
    chat.sent(*(OLD - n * DAY for n in range(undelivered)))

    found = histories.detect()

    assert chat.state == state
    assert [marked["level"] for marked in found["marked"]] == ([state] if undelivered > 1 else [])


def test_the_issue_says_what_it_rests_on(histories: Histories, chat: Chat) -> None:
    chat.sent(OLD - 2 * DAY, OLD - DAY, OLD)

    histories.detect()

    issue = chat.issue
    told = {
        name: issue[name]
        for name in ("level", "probability", "cause", "message_count", "first_at", "last_at")
    }
    assert told == {
        "level": "confirmed",
        "probability": 99,
        "cause": "likely_block",
        "message_count": 3,
        "first_at": OLD - 2 * DAY,
        "last_at": OLD,
    }
    assert (issue["opened_at"], issue["after_hours"], issue["after_count"]) == (NOW, 72, 3)


def test_a_probable_block_becomes_certain_with_the_next_message(histories: Histories, chat: Chat) -> None:
    chat.sent(OLD - DAY, OLD)
    histories.detect()
    chat.sent(NOW - HOUR)

    histories.detect(NOW + 80 * HOUR)

    assert (chat.state, chat.issue["opened_at"]) == ("confirmed", NOW)
    assert chat.issue["confirmed_at"] == NOW + 80 * HOUR


@pytest.mark.parametrize(
    "ended",
    [
        lambda chat: chat.sent(OLD + HOUR, delivered=HOUR),
        lambda chat: chat.sent(OLD + HOUR, status="read", read_at=OLD + 2 * HOUR),
        lambda chat: chat.sent(OLD + HOUR, status="played"),
        lambda chat: chat.wrote(OLD + HOUR),
        # what was sent before, and is read after
        lambda chat: chat.sent(OLD - 3 * DAY, delivered=4 * DAY),
    ],
    ids=["delivered", "read", "played", "inbound", "delivered late"],
)
def test_a_sign_of_life_ends_the_run(histories: Histories, chat: Chat, ended: Any) -> None:
    chat.sent(OLD - 2 * DAY, OLD - DAY, OLD)
    ended(chat)

    assert histories.detect()["marked"] == []


@pytest.mark.parametrize("status", ["failed", "unknown", "skipped", "canceled", "queued"])
def test_what_was_not_sent_says_nothing(histories: Histories, chat: Chat, status: str) -> None:
    chat.sent(OLD - DAY).sent(OLD - HOUR, OLD, status=status).sent(NOW - 71 * HOUR)

    assert histories.detect()["marked"] == []


def test_what_was_written_on_the_phone_says_nothing(histories: Histories, chat: Chat) -> None:
    chat.sent(OLD - DAY, OLD - HOUR, OLD, source="manual", role="human")

    assert histories.detect()["marked"] == []


def test_each_business_has_its_own_thresholds(histories: Histories, chat: Chat) -> None:
    histories.db.run(
        "update public.tenant_settings set block_after_hours = 24, block_probable_count = 3,"
        " block_confirmed_count = 4"
    )
    chat.sent(NOW - 28 * HOUR, NOW - 27 * HOUR)
    assert histories.detect()["marked"] == []

    chat.sent(NOW - 26 * HOUR)

    assert [marked["level"] for marked in histories.detect()["marked"]] == ["probable"]
    assert (chat.issue["after_hours"], chat.issue["after_count"]) == (24, 3)


def test_detecting_again_changes_nothing(histories: Histories, chat: Chat) -> None:
    chat.sent(OLD - 2 * DAY, OLD - DAY, OLD)
    histories.detect()

    assert histories.detect(NOW + 6 * HOUR)["marked"] == []
    assert histories.db.value("select count(*) from public.delivery_issues") == 1


# Outages.


def test_an_outage_of_the_number_marks_nobody_and_raises_one_alert(histories: Histories) -> None:
    week = [NOW - n * DAY for n in range(7, 35)]
    for chat in [histories.chat() for _ in range(8)]:
        chat.sent(*week, delivered=timedelta(minutes=1)).sent(*(NOW - n * DAY for n in range(6)))

    found = histories.detect()

    assert (found["marked"], found["spared"], found["outages"]) == ([], 8, 1)
    alert = histories.db.row("select * from public.alerts where resolved_at is null")
    assert (alert["kind"], alert["subject"]) == ("deliveries_missing", str(histories.number_id))
    histories.detect(NOW + 6 * HOUR)
    assert histories.db.value("select count(*) from public.alerts") == 1


def test_the_alert_ends_when_messages_arrive_again(histories: Histories) -> None:
    for chat in [histories.chat() for _ in range(8)]:
        chat.sent(*(NOW - n * DAY for n in range(1, 6)))
    histories.detect()

    histories.healthy([NOW + DAY, NOW + 2 * DAY])

    assert histories.detect(NOW + 5 * DAY)["marked"] == []
    assert histories.db.value("select count(*) from public.alerts where resolved_at is null") == 0


def test_a_new_number_that_nothing_leaves_is_an_outage_too(histories: Histories) -> None:
    for chat in [histories.chat() for _ in range(5)]:
        chat.sent(OLD - DAY, OLD)

    assert histories.detect()["marked"] == []


def test_an_outage_may_begin_an_hour_after_everybody_was_reached(histories: Histories) -> None:
    begin = datetime(2026, 11, 17, 1, tzinfo=UTC)
    for chat in [histories.chat() for _ in range(7)]:
        chat.sent(begin, delivered=timedelta(minutes=1)).sent(*(begin + n * HOUR for n in (1, 2, 3)))

    found = histories.detect()

    assert (found["marked"], found["spared"], found["outages"]) == ([], 7, 1)


def test_blocked_customers_who_come_last_in_each_round_are_no_outage(histories: Histories) -> None:
    rounds = [OLD - n * HOUR for n in (3, 2, 1)]
    histories.healthy(rounds, chats=10)
    late = [moment + timedelta(minutes=1) for moment in rounds]
    blocked = [histories.chat().sent(*late) for _ in range(5)]

    histories.detect()

    assert {chat.state for chat in blocked} == {"confirmed"}


def test_of_a_few_customers_the_one_who_blocks_is_found(histories: Histories) -> None:
    days = [NOW - n * DAY for n in range(1, 30)]
    histories.healthy(days, chats=1)
    blocked = histories.chat().sent(OLD - 4 * DAY, OLD - 2 * DAY, OLD)

    histories.detect()

    assert blocked.state == "confirmed"


def test_a_quarter_of_all_customers_may_be_gone_without_an_outage(histories: Histories) -> None:
    histories.healthy([NOW - n * DAY for n in range(1, 30)], chats=30)
    blocked = [histories.chat().sent(*(NOW - n * DAY for n in range(4, 9))) for _ in range(10)]

    histories.detect()

    assert {chat.state for chat in blocked} == {"confirmed"}


def test_messages_before_and_after_an_outage_still_count(histories: Histories) -> None:
    outage = [NOW - n * DAY for n in (12, 13)]
    around = [NOW - n * DAY for n in range(4, 30) if n not in (12, 13)]
    for healthy in [histories.chat() for _ in range(8)]:
        healthy.sent(*around, delivered=HOUR).sent(*outage)
    blocked = histories.chat().sent(*(NOW - n * DAY for n in (13, 12, 9, 8, 7)))

    histories.detect()

    assert (blocked.state, blocked.issue["message_count"]) == ("confirmed", 3)
    assert [chat.state for chat in histories.chats if chat is not blocked] == ["none"] * 8


def test_an_outage_of_one_number_hides_no_block_on_another(histories: Histories) -> None:
    other = histories.number()
    for chat in [histories.chat(other) for _ in range(8)]:
        chat.sent(*(NOW - n * DAY for n in range(7)))
    histories.healthy([NOW - n * DAY for n in range(1, 10)])
    blocked = histories.chat().sent(OLD - 2 * DAY, OLD - DAY, OLD)

    found = histories.detect()

    assert [marked["chat_id"] for marked in found["marked"]] == [str(blocked.id)]


@pytest.mark.parametrize(("reports", "state"), [(False, "none"), (True, "confirmed")])
@pytest.mark.parametrize("provider", ["whapi", "twilio"])
def test_a_provider_that_never_tells_what_arrived_says_nothing_about_blocks(
    histories: Histories, provider: str, reports: bool, state: str
) -> None:
    number = histories.number(provider)
    if reports:
        histories.healthy([NOW - 9 * DAY], number, chats=1)
    chat = histories.chat(number).sent(OLD - 2 * DAY, OLD - DAY, OLD)

    histories.detect()

    assert chat.state == state


# How a mark ends.


@pytest.fixture
def maria(histories: Histories, inbox: Inbox) -> Chat:
    """She wrote once, three messages have not reached her since, and her sequence is paused."""
    inbox.deliver(says("hola", at=NOW - 20 * DAY))
    row = histories.db.row("select * from public.chats where number_id = %s", histories.number_id)
    maria = Chat(histories.db, histories.tenant_id, histories.number_id, row["lead_id"], row["id"])
    for n in range(3):
        maria.sent(OLD - n * DAY, wa_message_id=f"wamid.{n}")
    enroll(maria)
    histories.detect()
    assert (maria.state, enrollment(maria)) == ("confirmed", ("paused", "blocked"))
    return maria


def enroll(chat: Chat) -> None:
    sequence = chat.db.value(
        "insert into public.sequences (tenant_id, name) values (%s, 'Bienvenida') returning id",
        chat.tenant_id,
    )
    chat.db.run(
        "insert into public.sequence_versions (tenant_id, sequence_id, version) values (%s, %s, 1)",
        chat.tenant_id, sequence,
    )  # fmt: skip
    chat.db.run(
        "insert into public.sequence_enrollments (tenant_id, sequence_id, version, chat_id, next_run_at,"
        " source, enrolled_at, changed_at) values (%s, %s, 1, %s, %s, 'staff', %s, %s)",
        chat.tenant_id, sequence, chat.id, NOW + DAY, NOW, NOW,
    )  # fmt: skip


def enrollment(chat: Chat) -> tuple[str, str | None]:
    row = chat.db.row("select status, reason from public.sequence_enrollments where chat_id = %s", chat.id)
    return row["status"], row["reason"]


def ended(chat: Chat) -> str:
    return str(chat.db.value("select resolved_how from public.delivery_issues where chat_id = %s", chat.id))


def at(moment: datetime, event: Event) -> Event:
    return {**event, "at": moment.isoformat()}


@pytest.mark.parametrize(("word", "how"), [("delivered", "delivered"), ("read", "read"), ("played", "read")])
def test_a_status_that_comes_late_ends_it_at_once(maria: Chat, inbox: Inbox, word: str, how: str) -> None:
    inbox.deliver(at(NOW + HOUR, status("wamid.1", word)))

    assert (maria.state, ended(maria), enrollment(maria)) == ("none", how, ("active", None))


def test_a_message_of_the_customer_ends_it_at_once(maria: Chat, inbox: Inbox) -> None:
    inbox.deliver(says("back", at=NOW))

    assert (maria.state, ended(maria)) == ("none", "inbound")


def test_a_message_sent_from_the_phone_and_a_failure_end_nothing(maria: Chat, inbox: Inbox) -> None:
    inbox.deliver(echo("echo", at=NOW), at(NOW, status("wamid.2", "failed", error={"code": 131049})))

    assert maria.state == "confirmed"


def test_what_was_heard_before_the_block_ends_nothing(maria: Chat, inbox: Inbox) -> None:
    inbox.deliver(says("backfilled", at=NOW - 15 * DAY))

    assert maria.state == "confirmed"


def test_what_was_disproved_is_not_held_against_the_customer_again(
    histories: Histories, maria: Chat, inbox: Inbox
) -> None:
    inbox.deliver(at(NOW + HOUR, status("wamid.2", "delivered")))
    maria.sent(NOW + 2 * HOUR)

    assert histories.detect(NOW + 6 * DAY)["marked"] == []


def test_a_mark_made_in_the_moment_of_a_delivery_is_healed(histories: Histories, maria: Chat) -> None:
    histories.db.run(
        "update public.messages set status = 'delivered', delivered_at = %s where wa_message_id = 'wamid.0'",
        NOW,
    )

    assert histories.detect()["healed"] == 1
    assert (maria.state, ended(maria)) == ("none", "delivered")


# Reactivation by staff.


def reactivate(chat: Chat, who: uuid.UUID, note: str = "Llamó por teléfono") -> Any:
    with chat.db.signed_in(who):
        return chat.db.value("select public.block_reactivate(%s, %s)", chat.id, note)


def test_staff_reactivate_with_a_note_that_is_kept(
    histories: Histories, maria: Chat, clinic: Business
) -> None:
    assert reactivate(maria, clinic.owner) is True

    kept = maria.db.row("select resolved_how, resolved_by, note, resolved_at from public.delivery_issues")
    assert kept == {
        "resolved_how": "reactivated",
        "resolved_by": clinic.tenant_id,
        "note": "Llamó por teléfono",
        "resolved_at": NOW,
    }
    assert (maria.state, enrollment(maria)) == ("none", ("active", None))
    assert reactivate(maria, clinic.owner) is False


def test_old_messages_do_not_block_again_what_was_reactivated_and_new_ones_do(
    histories: Histories, maria: Chat, clinic: Business
) -> None:
    reactivate(maria, clinic.owner)
    assert histories.detect(NOW + 6 * HOUR)["marked"] == []

    maria.sent(NOW + 7 * HOUR, NOW + 8 * HOUR)

    histories.detect(NOW + 5 * DAY)
    assert (maria.state, maria.issue["message_count"]) == ("probable", 2)


def test_agents_may_not_reactivate_and_nobody_without_a_note(maria: Chat, clinic: Business) -> None:
    with refused("PT400", maria):
        reactivate(maria, clinic.owner, " ")
    with refused("PT403", maria):
        reactivate(maria, colleague(maria, clinic, "agent"))

    assert reactivate(maria, colleague(maria, clinic, "user")) is True


@contextmanager
def refused(code: str, chat: Chat) -> Iterator[None]:
    with pytest.raises(psycopg.Error) as refusal, chat.db.connection.transaction():
        yield
    assert refusal.value.sqlstate == code


def colleague(chat: Chat, business: Business, role: str) -> uuid.UUID:
    with chat.db.signed_in(business.owner):
        chat.db.value("select public.staff_invite(%s, %s, 'Ana')", f"{role}@clinic.example", role)
    return chat.db.sign_up(f"{role}@clinic.example")


def test_nobody_reactivates_chats_of_others(maria: Chat, plaza: Business) -> None:
    with refused("PT404", maria):
        reactivate(maria, plaza.owner)


def test_the_quality_of_the_detection_is_shown_by_number_threshold_and_cause(
    histories: Histories, maria: Chat, inbox: Inbox, clinic: Business
) -> None:
    for _ in range(3):
        histories.chat().sent(OLD - DAY, OLD)
    histories.detect()
    inbox.deliver(says("back", at=NOW))

    with histories.db.signed_in(clinic.owner):
        shown = histories.db.rows("select * from public.block_detection_quality order by level")

    assert [
        (row["number_id"], row["level"], row["after_count"], row["cause"], row["marked"], row["disproved"],
            float(row["disproved_rate"]))
        for row in shown
    ] == [
        (clinic.number_id, "confirmed", 3, "likely_block", 1, 1, 1.0),
        (clinic.number_id, "probable", 2, "never_delivered", 3, 0, 0.0),
    ]  # fmt: skip


# Causes: what the data can tell, and what it cannot.


def test_who_was_away_before_is_only_probably_blocked(histories: Histories) -> None:
    chat = histories.chat().sent(NOW - 20 * DAY, delivered=3 * DAY).sent(*(OLD - n * DAY for n in range(4)))

    histories.detect()

    assert (chat.issue["level"], chat.issue["cause"]) == ("probable", "phone_off")


@pytest.mark.parametrize(
    ("elsewhere", "level", "cause"), [(None, "probable", "phone_off"), (HOUR, "confirmed", "likely_block")]
)
def test_another_number_of_ours_tells_a_block_from_a_phone_that_is_off(
    histories: Histories, chat: Chat, elsewhere: timedelta | None, level: str, cause: str
) -> None:
    chat.sent(*(OLD - n * DAY for n in range(3)))
    histories.chat(histories.number(), chat.lead_id).sent(OLD, delivered=elsewhere)

    histories.detect()

    assert (chat.issue["level"], chat.issue["cause"]) == (level, cause)


def test_what_never_reached_anybody_is_said_so(histories: Histories) -> None:
    chat = histories.chat().sent(OLD - DAY, OLD)

    histories.detect()

    assert chat.issue["cause"] == "never_delivered"


def test_a_refusal_of_the_provider_among_them_leaves_it_probable(histories: Histories, chat: Chat) -> None:
    chat.sent(*(OLD - n * DAY for n in range(3))).sent(OLD, status="failed", error_code=131026)

    histories.detect()

    assert (chat.issue["level"], chat.issue["cause"]) == ("probable", "unreachable")


def test_staff_may_force_what_a_block_holds_back(histories: Histories, maria: Chat) -> None:
    def decide(purpose: str, is_forced: bool) -> tuple[str, str]:
        row = histories.db.row(
            "select verdict, reason from private.send_decisions(array[(gen_random_uuid(), %s, %s, %s, true,"
            " 'utility', null, %s)::private.send_candidate])",
            maria.tenant_id, maria.id, purpose, is_forced,
        )  # fmt: skip
        return row["verdict"], row["reason"]

    assert decide("sequence", False) == ("never", "blocked")
    assert decide("staff", False) == ("send", "blocked")
    assert decide("sequence", True) == ("send", "blocked")


def test_two_detections_at_once_mark_a_chat_once(
    database: str, connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    with psycopg.connect(database, row_factory=dict_row) as setting:
        db = Db(setting)
        business = open_business(setting, "clinic", "100000000000001")
        chat = Histories(db, business.tenant_id, business.number_id).chat()
        chat.sent(*(datetime.now(UTC) - n * DAY for n in (5, 6, 7)))
        setting.commit()
    one, two = connect(), connect()
    with ThreadPoolExecutor() as pool, one.transaction():
        first = detect(one)
        waiting = pool.submit(detect, two)
        wait_for_lock(database)
        # the first commits here, and the second goes on
    assert (len(first), waiting.result()) == (1, [])


def detect(connection: psycopg.Connection[Any]) -> list[Any]:
    row = connection.execute("select public.blocks_detect() -> 'marked' as marked").fetchone()
    assert row
    return list(row["marked"])


def wait_for_lock(database: str) -> None:
    """Until somebody waits for the chat's row."""
    with psycopg.connect(database, autocommit=True) as watcher:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            row = watcher.execute("select exists (select from pg_locks where not granted)").fetchone()
            if row == (True,):
                return
            time.sleep(0.05)
    raise AssertionError("Nobody waited.")
