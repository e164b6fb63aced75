"""One storm: traffic in peace, the same traffic while everything breaks, peace again, and the verdict."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import lossy
from tests.chaos.disk import Disk
from tests.chaos.older import FIRST_PORT, older
from tests.chaos.saboteur import Saboteur
from tests.chaos.verdict import Verdict
from tests.chaos.world import World
from tests.e2e.platforms import Platform, eventually, free_base_port
from tests.e2e.secrecy import Watch

STUCK = """
    select 'send', message_id, claim from public.outbox where state in ('claimed', 'sending')
    union all select 'answer', chat_id, claim from public.pending_replies where claim is not null
"""


@dataclass(frozen=True)
class Report:
    """What was done to the platform, and what came of it."""

    seed: int
    faults: Counter[str]
    lost_answers: Counter[str]
    disk: str
    updates: int
    sends: int
    unheard: int
    unknown: int
    most_unknown: int
    answering_again: float  # seconds from the last fault until an update is acknowledged
    at_rest: float  # seconds from the last fault until nothing waits
    baseline: float  # updates acknowledged a second
    recovered: float
    broken: list[str]

    def __str__(self) -> str:
        lost = ", ".join(f"{count} x {rpc}" for rpc, count in self.lost_answers.items())
        faults = "".join(f"\n  {count:3} x {name}" for name, count in sorted(self.faults.items()))
        return f"""seed {self.seed}: {self.faults.total()} faults; the disk: {self.disk}{faults}
answers lost after commit: {lost or "none"}
{self.updates} updates acknowledged, {self.sends} sends accepted, {self.unheard} that nobody heard of,
{self.unknown} sends unknown (at most {self.most_unknown} were in flight)
after the last fault: acknowledging again in {self.answering_again:.1f} s, at rest in {self.at_rest:.1f} s
updates/s {self.baseline:.1f} before, {self.recovered:.1f} after: {self.recovered / self.baseline:.2f} of it
""" + "\n".join(self.broken or ["every promise kept"])


@dataclass(frozen=True)
class Plan:
    """`patient`: leases of the dead run out by themselves, as they do; else the harness says they have."""

    seed: int
    seconds: float
    calm: float
    pause: tuple[float, float]
    patient: bool
    writers: int = 2


def run(plan: Plan) -> Report:
    chance = random.Random(plan.seed)  # noqa: S311
    with (
        _platform() as (platform, home, disk),
        older(platform) as others,
        closing(World(platform, plan.seed, platform.port + FIRST_PORT)) as world,
    ):
        world.open()
        saboteur = Saboteur(platform, world, home, disk, others, chance)
        with world.traffic(plan.writers):
            time.sleep(2)  # for whoever signs in, and meets a number for the first time
            began = time.monotonic()
            time.sleep(plan.calm)
            baseline = world.ledger.rate(began, time.monotonic())
            saboteur.rampage(plan.seconds, plan.pause)
            over = time.monotonic()
            answering = _answering_again(world, over)
            calm_again = time.monotonic()
            time.sleep(plan.calm)
            recovered = world.ledger.rate(calm_again, time.monotonic())
        at_rest = _at_rest(world, plan, over)
        verdict = Verdict(world, saboteur.most_unknown)
        watch = Watch()
        watch.look(platform)
        ledger = world.ledger
        return Report(
            plan.seed, saboteur.done, Counter(lossy.lost(home)), disk.how, len(ledger.acknowledged),
            len(ledger.accepted), len(ledger.unheard), len(verdict.unknown), saboteur.most_unknown, answering,
            at_rest, baseline, recovered,
            [*world.problems, *saboteur.unkind, *verdict.broken(), *sorted(watch.findings)],
        )  # fmt: skip


@contextmanager
def _platform() -> Iterator[tuple[Platform, Path, Disk]]:
    home = Path(tempfile.mkdtemp(prefix="recado-chaos-"))
    home.chmod(0o755)
    disk = Disk(home / "data")
    program = lossy.install(home)
    platform = Platform(home / "data", free_base_port(span=50), {"POSTGREST_BIN": str(program)})
    try:
        disk.open()
        started = platform.up()
        assert started.returncode == 0, started.stderr
        yield platform, home, disk
    finally:
        platform.down()
        if os.environ.get("RECADO_CHAOS_KEEP"):
            print(f"kept, with whatever is mounted there: {home}")  # noqa: T201
        else:
            disk.close()
            shutil.rmtree(home, ignore_errors=True)


def _answering_again(world: World, since: float) -> float:
    """The moment from which on updates are acknowledged: the first that is."""
    heard = len(world.ledger.acknowledged)
    assert eventually(lambda: len(world.ledger.acknowledged) > heard, 120), "nothing is acknowledged any more"
    return world.ledger.acknowledged_at[heard] - since


def _at_rest(world: World, plan: Plan, since: float) -> float:
    """Seconds until nothing waits, or until patience ends."""
    patience = time.monotonic() + (400 if plan.patient else 180)
    before: Any = None
    same_since = time.monotonic()
    while time.monotonic() < patience:
        waiting, stuck = _waiting(world), _stuck(world)
        if not waiting:
            break
        if stuck != before:
            before, same_since = stuck, time.monotonic()
        if not plan.patient and stuck and time.monotonic() - same_since > 6:
            _expire(world, stuck)
        time.sleep(0.5)
    return time.monotonic() - since


def _waiting(world: World) -> int:
    counts = world.control_state()["webhooks"]
    return int(counts["pending"]) + sum(
        int(row[0])
        for row in world.platform.query(
            "select count(*) from public.outbox where state <> 'unknown'"
            " union all select count(*) from public.pending_replies"
            " union all select count(*) from public.webhook_logs where status = 'pending'"
        )
    )


def _stuck(world: World) -> set[tuple[Any, ...]]:
    return set(world.platform.query(STUCK))


def _expire(world: World, stuck: set[tuple[Any, ...]]) -> None:
    """Time passes for what nobody has touched for longer than any call of a living worker takes."""
    for table, kind, key in (("outbox", "send", "message_id"), ("pending_replies", "answer", "chat_id")):
        ids = [row[1] for row in stuck if row[0] == kind]
        world.platform.query(
            f"update public.{table} set lease_until = now() where {key} = any(%s) and claim is not null", ids
        )
    world.platform.query("select public.outbox_sweep()")


def seed_of(environ: Any = os.environ) -> int:
    return int(environ.get("RECADO_SEED") or random.SystemRandom().randrange(10**6))
