"""Delivers updates to our webhook, each as its provider does: proven, in batches, again when not accepted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from local.events import log
from local.simulator.config import Config
from local.simulator.faults import Faults
from local.simulator.letters import Item, Letter, Receipt, Voice
from local.simulator.messages import Messages
from local.simulator.store import Row, Store, dump
from local.simulator.world import Number, World, stranger

_ANSWER_WITHIN = 20.0
_GATHER = 0.05  # between two requests of a number, so that a busy one has its statuses in few of them
_LEASE = 25.0  # after this a delivery that was killed half way is taken up again
_OVERTAKEN_IN = 1.0  # what is to be out of order waits so long for what follows it
_HELD_BACK = Receipt(None, "A fault was ordered: it is lost, or held back.")


class Webhooks:
    def __init__(
        self,
        config: Config,
        store: Store,
        world: World,
        messages: Messages,
        faults: Faults,
        voices: Mapping[str, Voice],
    ) -> None:
        self._handshake = config.functions_url + "/webhook/cloud-api"
        self._verify_token = config.meta_verify_token
        self._store = store
        self._world = world
        self._messages = messages
        self._faults = faults
        self.voices = voices
        self._client = httpx.AsyncClient(timeout=_ANSWER_WITHIN)
        self._wake = asyncio.Event()
        self._lanes: dict[str, asyncio.Task[None]] = {}
        store.create("delivery", _DELIVERY, _DELIVERY_DUE, _DELIVERY_MESSAGE)

    def speaker(self, number: str) -> tuple[Number, Voice]:
        """The number, and how its provider speaks; whom nobody knows is Meta's."""
        known = self._world.number(number) or stranger(number)
        return known, self.voices[known.provider]

    async def post(self, letter: Letter) -> Receipt:
        """Once, as it is."""
        try:
            response = await self._client.post(letter.url, content=letter.content, headers=letter.headers)
        except httpx.HTTPError as exc:
            return Receipt(None, f"{type(exc).__name__}: {exc}")
        return Receipt(response.status_code, response.text[:2000])

    async def verify(self, token: str | None, challenge: str) -> Receipt:
        """Meta's handshake when somebody enters our URL in the dashboard."""
        query = {
            "hub.mode": "subscribe",
            "hub.verify_token": token or self._verify_token,
            "hub.challenge": challenge,
        }
        try:
            response = await self._client.get(self._handshake, params=query)
        except httpx.HTTPError as exc:
            return Receipt(None, f"{type(exc).__name__}: {exc}")
        return Receipt(response.status_code, response.text[:2000])

    # the queue

    def schedule(self, number: str, item: Item, due: float) -> int | None:
        """Queue an item for `due`, which is real time; None when a fault swallows it or holds it back."""
        fault = self._faults.take("webhook", f"{number} {item.kind} {dump(item.body)}")
        kind = fault.kind if fault else ""
        if kind == "drop":
            return None
        wait = {"delay": fault.seconds if fault else 0.0, "reorder": _OVERTAKEN_IN}.get(kind, 0.0)
        delivery = self._enqueue(number, item, time.time() + wait if wait else due)
        if kind == "duplicate":
            self._enqueue(number, item, time.time())
        return None if wait else delivery

    def _enqueue(self, number: str, item: Item, due: float) -> int:
        delivery = self._store.value(
            """insert into delivery (number, kind, item, contact, at, wa_message_id, status, due)
            values (?, ?, ?, ?, ?, ?, ?, ?) returning id""",
            *(number, item.kind, dump(item.body), dump(item.about), item.at, dump(item.id), item.status),
            due,
        )
        self._wake.set()
        return int(delivery)

    async def deliver_now(self, number: str, item: Item) -> Receipt:
        """The first attempt at once; should it fail, the queue goes on with it."""
        delivery = self.schedule(number, item, time.time() + _LEASE)
        if delivery is None:
            return _HELD_BACK
        return await self._deliver(number, self._store.rows("select * from delivery where id = ?", delivery))

    def ticks(self, wa_message_id: str) -> str:
        """The last status whose time has come."""
        return self.last_status(wa_message_id)[0]

    def last_status(self, wa_message_id: str) -> tuple[str, dict[str, Any]]:
        """With all that was told of it."""
        row = self._store.row(
            """select status, item from delivery
            where wa_message_id = ? and status is not null and (due <= ? or done_at)
            order by coalesce(done_at, due) desc, id desc limit 1""",
            dump(wa_message_id),
            time.time(),
        )
        return (row["status"], json.loads(row["item"])) if row else ("accepted", {})

    def counts(self) -> dict[str, int]:
        row = self._store.row(
            """select count(*) filter (where done_at and not lost) as delivered,
                count(*) filter (where done_at is null) as pending,
                count(*) filter (where done_at is null and attempts > 0) as failing,
                count(*) filter (where lost) as lost from delivery"""
        )
        return dict(row) if row else {}

    def failing(self) -> list[dict[str, Any]]:
        rows = self._store.rows(
            """select number, kind, wa_message_id, status, attempts, error from delivery
            where done_at is null and attempts > 0 order by id limit 20"""
        )
        return [{**dict(row), "wa_message_id": json.loads(row["wa_message_id"])} for row in rows]

    async def run(self) -> None:
        """For ever; each number's updates go one request after the other, so they batch by themselves."""
        try:
            while True:
                self._wake.clear()
                for number in self._due_numbers():
                    if number not in self._lanes:
                        self._lanes[number] = asyncio.create_task(self._drain(number))
                await self._rest()
        finally:
            for lane in self._lanes.values():
                lane.cancel()

    async def close(self) -> None:
        await self._client.aclose()

    def _due_numbers(self) -> list[str]:
        rows = self._store.rows(
            "select distinct number from delivery where done_at is null and due <= ?", time.time()
        )
        return [row["number"] for row in rows]

    async def _rest(self) -> None:
        waiting = "select min(due) from delivery where done_at is null"
        soonest = self._store.value(f"{waiting} and number not in ({_marks(self._lanes)})", *self._lanes)
        wait = 60.0 if soonest is None else max(soonest - time.time(), 0.001)
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _drain(self, number: str) -> None:
        try:
            while batch := self._next_batch(number):
                await self._deliver(number, batch)
                await asyncio.sleep(_GATHER)
        except Exception as exc:  # a lane must not end for good: the loop opens it again
            log("delivery failed", number=number, reason=repr(exc))
            await asyncio.sleep(1)
        finally:
            del self._lanes[number]
            self._wake.set()

    def _next_batch(self, number: str) -> list[Row]:
        """What was written goes before statuses; what is of a kind goes together."""
        due = "select * from delivery where done_at is null and number = ? and due <= ?"
        now = time.time()
        first = self._store.row(f"{due} order by status is not null, due, id limit 1", number, now)
        if first is None:
            return []
        _, voice = self.speaker(number)
        kind = first["kind"]
        return self._store.rows(
            f"{due} and kind = ? order by due, id limit ?", number, now, kind, voice.batch(kind)
        )

    async def _deliver(self, number: str, batch: list[Row]) -> Receipt:
        known, voice = self.speaker(number)
        letter = voice.letter(known, [_item(row) for row in batch])
        receipt = await self.post(letter) if letter else Receipt(200, "Nobody wants to know.")
        self._settle(batch, receipt, voice)
        return receipt

    def _settle(self, batch: list[Row], receipt: Receipt, voice: Voice) -> None:
        with self._store.transaction():
            for row in batch:
                if row["status"] is None:
                    self._messages.webhook_answered(
                        row["number"], json.loads(row["wa_message_id"]), receipt.status or 0
                    )
                wait = None if receipt.accepted else voice.wait(row["attempts"], receipt)
                if wait is None:
                    self._done(row, lost=not receipt.accepted)
                else:
                    self._postpone(row, receipt, wait)
        if not receipt.accepted:
            log("webhook not accepted", status=receipt.status, updates=len(batch))
            self._wake.set()

    def _done(self, row: Row, *, lost: bool) -> None:
        now = time.time()
        self._store.run(
            "update delivery set done_at = ?, due = min(due, ?), lost = ? where id = ?",
            now,
            now,
            lost,
            row["id"],
        )

    def _postpone(self, row: Row, receipt: Receipt, wait: float) -> None:
        self._store.run(
            "update delivery set attempts = attempts + 1, due = ?, error = ? where id = ?",
            time.time() + wait,
            dump([receipt.status, receipt.said[:200]]),
            row["id"],
        )


def _item(row: Row) -> Item:
    body, contact = json.loads(row["item"]), json.loads(row["contact"])
    return Item(row["kind"], json.loads(row["wa_message_id"]), body, row["at"], contact, row["status"])


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)


_DELIVERY = """create table if not exists delivery (
    id integer primary key, number text not null, kind text not null, item text not null,
    contact text not null, at real not null, wa_message_id text not null, status text, due real not null,
    attempts int not null default 0, error text, done_at real, lost int not null default 0)"""
_DELIVERY_DUE = "create index if not exists delivery_due on delivery (number, due) where done_at is null"
_DELIVERY_MESSAGE = "create index if not exists delivery_message on delivery (wa_message_id)"
