"""Breaks a running platform: one bad thing after the other, drawn from a seed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.chaos import lossy
from tests.chaos.disk import Disk
from tests.chaos.world import CITAS, TWILIO, WHAPI, World
from tests.e2e.delivery import Process
from tests.e2e.platforms import Platform, eventually

GROUP = 25  # sends that share an intent: what one lost answer to outbox_intent may leave unknown
FUNCTIONS = ("webhook", "reply", "deliver")
SENDS = ("graph.send", "whapi.send", "twilio.send")
CUT = ("timeout", "reset", "truncated", "garbage", "ok_with_error")  # nobody can tell whether it was sent
REFUSED = ("http_500", "http_503", "http_429")
MOST_AHEAD = 6 * 3600.0  # of the business clock, in one storm: windows stay open
POISON: tuple[Any, ...] = (
    '{"entry":[{"changes":[{"value":{"messages":[{"id":"\\u0000"}]}}]}]}',
    "[" * 100_000,
    '{"entry": 1e400, "n": ' + "9" * 50_000 + "}",
    '{"entry":[{"id":"x","changes":[{"field":"messages","value":{"messages":[{"id":null,"from":7}]}}]}]}',
    '{"entry":[{"changes":[{"field":"messages","value":{"messages":"\\ud800"}}]}]}',
    '{"object":"x","entry":[{"text":"' + "a" * 2_000_000 + '"}]}',
)


@dataclass
class Saboteur:
    """`in_flight` and `doubtful` bound how many sends may end with nobody knowing of them."""

    platform: Platform
    world: World
    home: Path
    disk: Disk
    others: Mapping[str, Process]
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)
    in_flight: set[Any] = field(default_factory=set)
    doubtful: int = 0
    unkind: list[str] = field(default_factory=list)  # what already was not as it should be
    _ahead: float = 0.0

    @property
    def faults(self) -> list[Callable[[], str]]:
        return [
            *[
                lambda part=part: self.kill(part)
                for part in (*FUNCTIONS, "postgrest", "postgres", "net", "cron")
            ],
            self.stop_postgres,
            self.kill_an_older_one,
            self.end_connections,
            self.lose_answers,
            self.misdeliver_wake_ups,
            self.break_a_send,
            self.refuse_sends,
            self.break_the_model,
            self.disturb_webhooks,
            self.poison,
            self.jump,
            self.fill_the_disk,
        ]

    def rampage(self, seconds: float, pause: tuple[float, float]) -> None:
        """Every fault once, in an order of the seed, then any until the time is up."""
        until = time.monotonic() + seconds
        first = self.chance.sample(self.faults, len(self.faults))
        while first or time.monotonic() < until:
            self.do(first.pop() if first else self.chance.choice(self.faults))
            time.sleep(self.chance.uniform(*pause))

    def do(self, fault: Callable[[], str]) -> None:
        self._look()
        name = fault()
        self._look()
        self.done[name] += 1

    # processes

    def kill(self, part: str) -> str:
        with suppress(ProcessLookupError, StopIteration):
            pid = self.platform.pid(part)
            if part == "deliver":  # nothing goes out between the look and the end
                os.killpg(pid, signal.SIGSTOP)
                time.sleep(0.05)
                self._look()
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)
        return f"kill -9 {part}"

    def kill_an_older_one(self) -> str:
        name = self.chance.choice(list(self.others))
        self.others[name].kill(self._look)
        return f"kill -9 an older {name}"

    def stop_postgres(self) -> str:
        with suppress(ProcessLookupError, StopIteration):
            os.kill(self.platform.pid("postgres"), signal.SIGQUIT)
        return "stop Postgres, immediate"

    def end_connections(self) -> str:
        for _ in range(4):
            self._query(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid <> pg_backend_pid() and backend_type = 'client backend'"
                " and usename in ('authenticator', 'postgres')"
            )
            time.sleep(0.3)
        return "end all connections"

    # answers and wake-ups

    def lose_answers(self) -> str:
        before = len(lossy.lost(self.home))
        lossy.order(self.home, self.chance.choice((0.2, 0.5)))
        eventually(lambda: len(lossy.lost(self.home)) >= before + 5, 4)
        lossy.order(self.home, 0)
        return "lose answers after commit"

    def misdeliver_wake_ups(self) -> str:
        kind = self.chance.choice(("drop", "double", "stall"))
        self._query(
            "insert into local.net_faults (kind, probability, milliseconds, remaining)"
            " values (%s, 0.7, 700, 10) on conflict (kind) do update set remaining = 10",
            kind,
        )
        return f"net: {kind}"

    # the world outside

    def break_a_send(self) -> str:
        target, kind = self.chance.choice(SENDS), self.chance.choice(CUT)
        after = kind in CUT[:3] and self.chance.random() < 0.5
        self.world.control("faults", target=target, kind=kind, seconds=4, after_accept=after)
        self.doubtful += 1
        return f"{target}: {kind}{' after it was accepted' if after else ''}"

    def refuse_sends(self) -> str:
        target, kind = self.chance.choice(SENDS), self.chance.choice(REFUSED)
        self.world.control("faults", target=target, kind=kind, times=2)
        return f"{target}: {kind}"

    def break_the_model(self) -> str:
        kind = self.chance.choice(("http_500", "http_429", "timeout", "reset", "truncated"))
        self.world.control("faults", target="openai", kind=kind, seconds=4)
        return f"model: {kind}"

    def disturb_webhooks(self) -> str:
        target = self.chance.choice(("webhook", "webhook.status"))
        kind = self.chance.choice(("duplicate", "reorder"))
        self.world.control("faults", target=target, kind=kind, times=5)
        return f"{target}: {kind}"

    def poison(self) -> str:
        """Signed, and of no sense: taken or refused, and never an error of ours."""
        for number in (CITAS, WHAPI, TWILIO):
            with suppress(httpx.HTTPError):
                said = self.world.control("webhook", number=number, raw=self.chance.choice(POISON))
                if said["status"] is not None and not 200 <= said["status"] < 500 and said["status"] != 503:
                    self.unkind.append(f"{number} was answered {said['status']}: {said['said'][:100]}")
        return "poison"

    def jump(self) -> str:
        by = self.chance.choice((600.0, 3600.0))
        if self._ahead + by <= MOST_AHEAD:
            answer = self.world.outside.post("/control/clock", json={"advance_seconds": by})
            self._ahead += by if answer.is_success else 0
        return "clock jumps ahead"

    def fill_the_disk(self) -> str:
        self.disk.fill(self.platform)
        felt = eventually(lambda: self.disk.is_felt(self.platform), 10)
        time.sleep(1)
        self.disk.empty(self.platform)
        if not felt:
            self.unkind.append(f"Not run: the database never met the end of its disk, {self.disk.how}")
        return "disk full"

    # bookkeeping

    @property
    def most_unknown(self) -> int:
        intents = sum(rpc == "outbox_intent" for rpc in lossy.lost(self.home))
        return len(self.in_flight) + self.doubtful + GROUP * intents

    def _look(self) -> None:
        self.in_flight |= {
            row[0] for row in self._query("select message_id from public.outbox where state = 'sending'")
        }

    def _query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Nothing, when there is no database."""
        try:
            return self.platform.query(statement, *values)
        except psycopg.Error:
            return []
