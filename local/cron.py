"""Fires the jobs of the pg_cron stand-in by the business clock, each in a connection of its own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from cronsim import CronSim, CronSimError
from psycopg.conninfo import make_conninfo

from local import worker
from local.events import log
from local.worker import Connection

LONGEST_SLEEP = 60.0

# Two workers would fire every job twice; the second waits for the first to be gone.
_ONLY_ONE = "select pg_advisory_lock(hashtext('cron worker'))"
_GIVE_UP_OLD_RUNS = """
    update cron.job_run_details set status = 'failed', return_message = 'server restarted', end_time = now()
    where status in ('starting', 'running')"""
_NOW = "select now() + ahead as now from local.clock"
_JOBS = """
    select jobid, schedule, command, database, username, scheduled_at
    from cron.job where active order by jobid"""
_STARTING = """
    insert into cron.job_run_details (jobid, command, database, username, status)
    values (%(jobid)s, %(command)s, %(database)s, %(username)s, 'starting') returning runid"""
_RUNNING = """
    update cron.job_run_details set status = 'running', job_pid = %s, start_time = now() where runid = %s"""
_ENDED = """
    update cron.job_run_details set status = %s, return_message = %s, end_time = now() where runid = %s"""


@dataclass(frozen=True)
class Job:
    jobid: int
    schedule: str
    command: str
    database: str
    username: str
    scheduled_at: datetime


def next_fire(schedule: str, after: datetime) -> datetime | None:
    """The first time a schedule fires later than `after`, which is in UTC; None for a 30 February."""
    if seconds := re.match(r"\s*(\d+)\s+second", schedule, re.IGNORECASE):
        return after + timedelta(seconds=int(seconds[1]))
    try:
        return next(CronSim(schedule.replace("$", "L"), after))
    except (CronSimError, StopIteration):
        return None


@dataclass
class Timetable:
    """When each job fires next. It outlives a lost connection, so that a moved clock is not missed."""

    _since: datetime | None = None
    _next: dict[tuple[int, str], datetime | None] = field(default_factory=dict)

    def update(self, jobs: Iterable[Job], now: datetime) -> None:
        """Take over the schedules as they are; a new one counts from when it was made, or we began."""
        self._since = since = self._since or now
        made = {(job.jobid, job.schedule): max(job.scheduled_at, since) for job in jobs}
        fresh = {key: next_fire(key[1], at) for key, at in made.items() if key not in self._next}
        self._next = {key: fresh[key] if key in fresh else self._next[key] for key in made}

    def due(self, now: datetime) -> list[int]:
        """The jobs whose time has come, each once, however many of its times have passed."""
        due = [key for key, time in self._next.items() if time and time <= now]
        self._next.update({key: next_fire(key[1], now) for key in due})
        return [jobid for jobid, _ in due]

    def seconds_to_next(self, now: datetime) -> float:
        waits = ((time - now).total_seconds() for time in self._next.values() if time)
        return min(waits, default=LONGEST_SLEEP)


@dataclass
class Runs:
    """The runs in progress: one of a job at a time, and at most one queued behind it."""

    url: str
    records: Connection
    tasks: asyncio.TaskGroup
    jobs: dict[int, Job] = field(default_factory=dict)
    _going: set[int] = field(default_factory=set)
    _queued: set[int] = field(default_factory=set)

    def start(self, jobid: int) -> None:
        if jobid in self._going:
            self._queued.add(jobid)
        else:
            self._going.add(jobid)
            self.tasks.create_task(self._run_until_idle(jobid))

    async def _run_until_idle(self, jobid: int) -> None:
        self._queued.add(jobid)
        while jobid in self._queued:
            self._queued.remove(jobid)
            if job := self.jobs.get(jobid):  # as it is now; it may be gone
                await self._run(job)
        self._going.remove(jobid)

    async def _run(self, job: Job) -> None:
        (run,) = await worker.rows(self.records, _STARTING, vars(job))
        try:
            status, message = "succeeded", await self._execute(job, run["runid"])
        except psycopg.Error as error:
            status, message = "failed", f"ERROR:  {error}"
        await self.records.execute(_ENDED, (status, message, run["runid"]))
        log("cron job ended", jobid=job.jobid, status=status, result=message)

    async def _execute(self, job: Job, runid: int) -> str:
        url = make_conninfo(self.url, user=job.username, dbname=job.database)
        async with await worker.connect(url, "pg_cron") as connection:
            await self.records.execute(_RUNNING, (connection.info.backend_pid, runid))
            return _result(await connection.execute(job.command.encode()))


async def serve(url: str, timetable: Timetable) -> None:
    """Fire jobs for as long as the connections live."""
    async with (
        await worker.connect(url, "pg_cron launcher") as launcher,
        await worker.connect(url, "pg_cron records") as records,
        asyncio.TaskGroup() as tasks,
    ):
        await launcher.execute(_ONLY_ONE)
        await launcher.execute("listen cron")
        await records.execute(_GIVE_UP_OLD_RUNS)
        runs = Runs(url, records, tasks)
        while True:
            seconds = await fire(launcher, timetable, runs)
            await worker.notified(launcher, min(max(seconds, 0), LONGEST_SLEEP))


async def fire(launcher: Connection, timetable: Timetable, runs: Runs) -> float:
    """Start what is due; returns the seconds until something else is."""
    (clock,) = await worker.rows(launcher, _NOW)  # before the jobs: one that was unscheduled by then is gone
    jobs = [Job(**row) for row in await worker.rows(launcher, _JOBS)]
    runs.jobs = {job.jobid: job for job in jobs}
    timetable.update(jobs, clock["now"])
    for jobid in timetable.due(clock["now"]):
        runs.start(jobid)
    return timetable.seconds_to_next(clock["now"])


def _result(cursor: psycopg.AsyncCursor[Any]) -> str:
    """What the last statement of a command did, in pg_cron's words."""
    while cursor.nextset():
        pass
    if cursor.description is None:
        return cursor.statusmessage or ""
    return f"{cursor.rowcount} row{'' if cursor.rowcount == 1 else 's'}"


def main() -> None:
    timetable = Timetable()
    worker.run("cron", lambda url: serve(url, timetable))


if __name__ == "__main__":
    main()
