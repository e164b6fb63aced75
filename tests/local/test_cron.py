"""cron: schedules are read as pg_cron reads them, and fire once, by a clock that can be moved."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from local.cron import Job, Timetable, next_fire

if TYPE_CHECKING:  # pytest wants to be the first to import it
    from tests.local.workbench import Sql, StartWorker, Until

pytest_plugins = ("tests.local.workbench",)

FRIDAY = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)

FIRES = {
    "* * * * *": ["2026-11-20 12:01", "2026-11-20 12:02"],
    "*/15 * * * *": ["2026-11-20 12:15", "2026-11-20 12:30"],
    "0 9 * * *": ["2026-11-21 09:00", "2026-11-22 09:00"],
    "5-59/20 8-10 * * *": ["2026-11-21 08:05", "2026-11-21 08:25"],
    "0 */6 * * *": ["2026-11-20 18:00", "2026-11-21 00:00"],
    "30 12 * * mon-fri": ["2026-11-20 12:30", "2026-11-23 12:30"],
    "0 0 * * 0": ["2026-11-22 00:00", "2026-11-29 00:00"],
    "0 0 * * 7": ["2026-11-22 00:00", "2026-11-29 00:00"],
    "0 0 1 JAN,jul *": ["2027-01-01 00:00", "2027-07-01 00:00"],
    "0 0 $ * *": ["2026-11-30 00:00", "2026-12-31 00:00"],
    "0 0 29 2 *": ["2028-02-29 00:00", "2032-02-29 00:00"],
    "0 0 13 * fri": ["2026-11-27 00:00", "2026-12-04 00:00"],  # both days restricted: either will do
    "0 2 29 3 *": ["2027-03-29 02:00", "2028-03-29 02:00"],  # UTC knows no summer time
    "10 seconds": ["2026-11-20 12:00:40", "2026-11-20 12:00:50"],
    " 59  Seconds ": ["2026-11-20 12:01:29", "2026-11-20 12:02:28"],
    "1 second": ["2026-11-20 12:00:31", "2026-11-20 12:00:32"],
}
REFUSED = [
    *("", "x", "* * * *", "* * * * * *", "@every", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *"),
    *("* * * 13 *", "* * * 0 *", "* * * * 8", "* * * janu *", "* * mon * *", "*/0 * * * *", "5/15 * * * *"),
    *("1-90 * * * *", "9-5 * * * *", "1, * * * *", "-5 * * * *", "1--2 * * * *", "* * * * $", "* * L * *"),
    *("0 seconds", "60 seconds", "1.5 seconds", "10 minutes", "10 s", "1-x * * * *", "** * * * *"),
]


@pytest.mark.parametrize("schedule", FIRES)
def test_schedules_fire_at_the_times_pg_cron_would(sql: Sql, schedule: str) -> None:
    sql("select cron.schedule(%s, 'select 1')", schedule)

    first = next_fire(schedule, FRIDAY)
    second = next_fire(schedule, first or FRIDAY)
    assert [first, second] == [datetime.fromisoformat(f"{time}+00:00") for time in FIRES[schedule]]


@pytest.mark.parametrize("schedule", REFUSED)
def test_rubbish_is_refused_as_a_schedule(sql: Sql, schedule: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="invalid schedule"):
        sql("select cron.schedule('job', %s, 'select 1')", schedule)


def test_a_day_that_never_comes_never_fires() -> None:
    assert next_fire("0 0 30 2 *", FRIDAY) is None


def job(jobid: int, schedule: str, scheduled_at: datetime = FRIDAY) -> Job:
    return Job(jobid, schedule, "", "", "", scheduled_at)


def test_missed_times_fire_once() -> None:
    timetable = Timetable()
    timetable.update([job(1, "0 9 * * *"), job(2, "0 0 1 1 *")], FRIDAY)

    assert timetable.due(FRIDAY) == []
    assert timetable.due(FRIDAY + timedelta(days=10)) == [1]
    assert timetable.due(FRIDAY + timedelta(days=10)) == []


def test_a_new_schedule_counts_from_when_it_was_made() -> None:
    timetable = Timetable()
    timetable.update([job(1, "0 9 * * *")], FRIDAY)
    later = FRIDAY + timedelta(days=10)

    timetable.update([job(1, "0 8 * * *", later), job(2, "* * * * *", later), job(3, "0 9 * * *")], later)

    assert timetable.due(later) == [3]
    assert timetable.seconds_to_next(later) == 30


def test_what_was_missed_while_no_worker_ran_is_not_made_up_for() -> None:
    timetable = Timetable()

    timetable.update([job(1, "0 9 * * *", FRIDAY - timedelta(days=10))], FRIDAY)

    assert timetable.due(FRIDAY) == []


def test_scheduling_a_name_again_changes_the_job(sql: Sql) -> None:
    (first,) = sql("select cron.schedule('job', '0 1 * * *', 'select 1') as id")

    (second,) = sql("select cron.schedule('job', '0 2 * * *', 'select 2') as id")

    assert first == second
    (job,) = sql(
        "select jobname, schedule, command, username, database = current_database() as here from cron.job"
    )
    assert job == {
        "jobname": "job",
        "schedule": "0 2 * * *",
        "command": "select 2",
        "username": "postgres",
        "here": True,
    }


def test_unscheduling_takes_a_name_or_an_id_and_refuses_what_is_not_there(sql: Sql) -> None:
    sql("select cron.schedule('named', '* * * * *', 'select 1')")
    (other,) = sql("select cron.schedule('* * * * *', 'select 1') as id")

    assert sql("select cron.unschedule('named') as done") == [{"done": True}]
    assert sql("select cron.unschedule(%s::bigint) as done", other["id"]) == [{"done": True}]
    for absent in ("'named'", "7"):
        with pytest.raises(psycopg.errors.InternalError_, match="could not find valid entry for job"):
            sql(f"select cron.unschedule({absent})")


def test_altering_a_job_keeps_what_is_not_given(sql: Sql) -> None:
    (job,) = sql("select cron.schedule('job', '* * * * *', 'select 1') as id")

    sql("select cron.alter_job(%s, active := false, schedule := '5 seconds')", job["id"])

    kept = sql("select schedule, command, active from cron.job")
    assert kept == [{"schedule": "5 seconds", "command": "select 1", "active": False}]
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        sql("select cron.alter_job(%s, schedule := 'never')", job["id"])
    with pytest.raises(psycopg.errors.InternalError_):
        sql("select cron.alter_job(99, active := true)")


def test_jobs_are_written_by_functions_only(sql: Sql) -> None:
    for statement in ("update cron.job set active = false", "delete from cron.job"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql(statement)


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_api_roles_schedule_nothing(sql: Sql, role: str) -> None:
    sql(f"set role {role}")

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sql("select cron.schedule('* * * * *', 'select 1')")


def ended(sql: Sql, count: int = 1) -> list[dict[str, Any]]:
    runs = sql("select * from cron.job_run_details where end_time is not null order by runid")
    return runs if len(runs) >= count else []


def test_a_job_runs_as_its_owner_and_leaves_a_record(
    sql: Sql, start_worker: StartWorker, until: Until
) -> None:
    sql("create table public.ran as select ''::text as who where false")
    start_worker("cron")

    sql("select cron.schedule('job', '1 second', $$insert into public.ran select current_user; select 1$$)")

    run = until(lambda: ended(sql))[0]
    assert (run["status"], run["return_message"], run["username"]) == ("succeeded", "1 row", "postgres")
    assert run["job_pid"]
    assert run["start_time"] <= run["end_time"]
    assert sql("select who from public.ran limit 1") == [{"who": "postgres"}]


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("select 1 from generate_series(1, 3) where '%s' = '%s'", "succeeded", "3 rows"),
        ("create table public.made ()", "succeeded", "CREATE TABLE"),
        ("vacuum cron.job_run_details", "succeeded", "VACUUM"),
        ("select 1 / 0", "failed", "ERROR:  division by zero"),
        ("select pg_terminate_backend(pg_backend_pid())", "failed", "ERROR:  "),
        ("", "succeeded", ""),
    ],
)
def test_the_record_says_what_the_last_statement_did(
    sql: Sql, start_worker: StartWorker, until: Until, command: str, status: str, message: str
) -> None:
    start_worker("cron")

    sql("select cron.schedule('job', '* * * * *', %s)", command)
    sql("select local.clock_advance('2 minutes')")

    run = until(lambda: ended(sql))[0]
    assert run["status"] == status
    assert run["return_message"].startswith(message)


def test_a_jump_of_the_clock_fires_each_missed_job_once(
    sql: Sql, start_worker: StartWorker, until: Until
) -> None:
    sql("select cron.schedule('minutely', '* * * * *', 'select 1')")
    sql("select cron.schedule('daily', '0 9 * * *', 'select 1')")
    sql("select cron.schedule('in a year', %s, 'select 1')", f"0 0 1 {datetime.now(UTC).month} *")
    start_worker("cron")

    sql("select local.clock_advance('3 days')")

    until(lambda: len(ended(sql, 2)) >= 2)
    names = sql("select jobname from cron.job_run_details join cron.job using (jobid) order by jobname")
    assert {row["jobname"] for row in names} >= {"daily", "minutely"}
    assert [row["jobname"] for row in names].count("daily") == 1


def test_a_second_run_waits_for_the_first_and_a_third_is_not_queued(
    sql: Sql, start_worker: StartWorker, until: Until
) -> None:
    sql("select cron.schedule('slow', '0 9 * * *', 'select pg_sleep(1.5)')")
    start_worker("cron")

    for _ in range(4):
        sql("select local.clock_advance('1 day')")
        until(lambda: sql("select 1 from cron.job_run_details"))

    first, second, *more = until(lambda: ended(sql, 2))
    assert not more
    assert second["start_time"] >= first["end_time"]
    assert len(sql("select 1 from cron.job_run_details")) == 2


def test_an_unscheduled_or_inactive_job_does_not_fire(
    sql: Sql, start_worker: StartWorker, until: Until
) -> None:
    start_worker("cron")
    for name in ("gone", "kept"):
        sql("select cron.schedule(%s, '0 9 * * *', 'select 1')", name)
    (off,) = sql("select cron.schedule('off', '0 9 * * *', 'select 1') as id")

    sql("select cron.unschedule('gone'), cron.alter_job(%s, active := false)", off["id"])
    sql("select local.clock_advance('1 day')")

    until(lambda: ended(sql))
    fired = sql("select jobname from cron.job_run_details left join cron.job using (jobid)")
    assert fired == [{"jobname": "kept"}]


def test_runs_of_a_worker_that_was_killed_are_given_up(
    sql: Sql, start_worker: StartWorker, until: Until
) -> None:
    killed = start_worker("cron")
    sql("select cron.schedule('slow', '0 9 * * *', 'select pg_sleep(60)')")
    sql("select local.clock_advance('1 day')")
    until(lambda: sql("select 1 from cron.job_run_details where status = 'running'"))

    killed.kill()
    killed.wait()
    sql("select pg_terminate_backend(job_pid) from cron.job_run_details")
    start_worker("cron")

    (run,) = until(lambda: ended(sql))
    assert (run["status"], run["return_message"]) == ("failed", "server restarted")


def test_a_jump_while_the_worker_had_lost_its_connection_is_not_missed(
    sql: Sql, start_worker: StartWorker, lose_connections: Callable[[], None], until: Until
) -> None:
    sql("select cron.schedule('daily', '0 9 * * *', 'select 1')")
    start_worker("cron")

    lose_connections()
    sql("select local.clock_advance('1 day')")

    assert until(lambda: ended(sql))[0]["status"] == "succeeded"


def test_the_business_clock_moves_forwards_only(sql: Sql) -> None:
    sql("select local.clock_advance('1 month')")

    (clock,) = sql(
        "select private.clock() - now() as ahead, private.clock() = now() + ahead as same from local.clock"
    )
    assert clock["ahead"] >= timedelta(days=28)
    assert clock["same"]
    for backwards in ("-1 second", "1 day -25 hours", None):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="only moves forwards"):
            sql("select local.clock_advance(%s)", backwards)


def test_a_signed_in_person_reads_the_clock_and_cannot_move_it(sql: Sql) -> None:
    sql("set role authenticated")

    assert sql("select private.clock() >= now() as ok") == [{"ok": True}]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sql("select local.clock_advance('1 day')")
