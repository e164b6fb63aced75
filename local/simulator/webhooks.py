"""Delivers updates to our webhook, as Meta does: signed, in batches, again and again until it answers 200."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from local.events import log
from local.simulator import meta
from local.simulator.config import Config
from local.simulator.store import Row, Store, dump
from local.simulator.world import World, stranger

_ANSWER_WITHIN = 20.0
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0  # Meta's minutes to hours, compressed
_BATCH = 100
_GATHER = 0.05  # between two requests of a number, so that a busy one has its statuses in few of them
_LEASE = 25.0  # after this a delivery that was killed half way is taken up again


@dataclass(frozen=True)
class Receipt:
    """What our webhook said; status is None when it could not be reached."""

    status: int | None
    said: str


class Webhooks:
    def __init__(self, config: Config, store: Store, world: World) -> None:
        self._url = config.functions_url + "/webhook/cloud-api"
        self._secret = config.meta_app_secret
        self._verify_token = config.meta_verify_token
        self._store = store
        self._world = world
        self._client = httpx.AsyncClient(timeout=_ANSWER_WITHIN)
        self._wake = asyncio.Event()
        self._lanes: dict[str, asyncio.Task[None]] = {}
        store.create("delivery", _DELIVERY, _DELIVERY_DUE, _DELIVERY_MESSAGE)

    async def post(self, body: bytes, signature: str | None) -> Receipt:
        """Once; `signature` goes as it is."""
        headers = {"content-type": "application/json", "user-agent": "facebookexternalua"}
        if signature is not None:
            headers["x-hub-signature-256"] = signature
        try:
            response = await self._client.post(self._url, content=body, headers=headers)
        except httpx.HTTPError as exc:
            return Receipt(None, f"{type(exc).__name__}: {exc}")
        return Receipt(response.status_code, response.text[:2000])

    async def post_payload(self, payload: object) -> Receipt:
        body = meta.to_bytes(payload)
        return await self.post(body, self.sign(body))

    def sign(self, body: bytes) -> str:
        return meta.signature(self._secret, body)

    async def verify(self, token: str | None, challenge: str) -> Receipt:
        """The handshake when somebody enters our URL in the dashboard."""
        query = {
            "hub.mode": "subscribe",
            "hub.verify_token": token or self._verify_token,
            "hub.challenge": challenge,
        }
        try:
            response = await self._client.get(self._url, params=query)
        except httpx.HTTPError as exc:
            return Receipt(None, f"{type(exc).__name__}: {exc}")
        return Receipt(response.status_code, response.text[:2000])

    # the queue

    def schedule(self, number: str, kind: str, item: dict[str, Any], contact: object, due: float) -> int:
        """`kind` is the key under which Meta puts the item: messages or statuses. `due` is real time."""
        status = item["status"] if kind == "statuses" else None
        delivery = self._store.value(
            """insert into delivery (number, kind, item, contact, wa_message_id, status, due)
            values (?, ?, ?, ?, ?, ?, ?) returning id""",
            number,
            kind,
            dump(item),
            dump(contact),
            dump(item["id"]),
            status,
            due,
        )
        self._wake.set()
        return int(delivery)

    async def deliver_now(self, number: str, kind: str, item: dict[str, Any], contact: object) -> Receipt:
        """The first attempt at once; should it fail, the queue goes on with it."""
        delivery = self.schedule(number, kind, item, contact, time.time() + _LEASE)
        (row,) = self._store.rows("select * from delivery where id = ?", delivery)
        return await self._deliver(number, [row])

    def ticks(self, wa_message_id: str) -> str:
        """The last status whose time has come."""
        found = self._store.value(
            """select status from delivery
            where wa_message_id = ? and kind = 'statuses' and (due <= ? or done_at)
            order by coalesce(done_at, due) desc, id desc limit 1""",
            dump(wa_message_id),
            time.time(),
        )
        return str(found or "accepted")

    def counts(self) -> dict[str, int]:
        row = self._store.row(
            """select count(*) filter (where done_at) as delivered,
                count(*) filter (where done_at is null) as pending,
                count(*) filter (where done_at is null and attempts > 0) as failing from delivery"""
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
        """Messages one at a time, statuses together."""
        due = "select * from delivery where done_at is null and number = ? and due <= ? "
        messages = self._store.rows(
            due + "and kind = 'messages' order by due, id limit 1", number, time.time()
        )
        return messages or self._store.rows(due + "order by due, id limit ?", number, time.time(), _BATCH)

    async def _deliver(self, number: str, batch: list[Row]) -> Receipt:
        items = [json.loads(row["item"]) for row in batch]
        contacts = [contact for row in batch if (contact := json.loads(row["contact"]))]
        value = {**({"contacts": _distinct(contacts)} if contacts else {}), batch[0]["kind"]: items}
        receipt = await self.post_payload(
            meta.envelope(self._world.number(number) or stranger(number), value)
        )
        self._settle(batch, receipt)
        return receipt

    def _settle(self, batch: list[Row], receipt: Receipt) -> None:
        with self._store.transaction():
            for row in batch:
                if row["kind"] == "messages":
                    self._world.webhook_answered(
                        row["number"], json.loads(row["wa_message_id"]), receipt.status or 0
                    )
                if receipt.status == 200:
                    self._store.run(
                        "update delivery set done_at = ?, due = min(due, ?) where id = ?",
                        time.time(),
                        time.time(),
                        row["id"],
                    )
                else:
                    self._postpone(row, receipt)
        if receipt.status != 200:
            log("webhook not accepted", status=receipt.status, updates=len(batch))
            self._wake.set()

    def _postpone(self, row: Row, receipt: Receipt) -> None:
        wait = min(_FIRST_WAIT * 2 ** row["attempts"], _LONGEST_WAIT)
        self._store.run(
            "update delivery set attempts = attempts + 1, due = ?, error = ? where id = ?",
            time.time() + wait,
            dump([receipt.status, receipt.said[:200]]),
            row["id"],
        )


def _distinct(contacts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({contact["user_id"]: contact for contact in contacts}.values())


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)


_DELIVERY = """create table if not exists delivery (
    id integer primary key, number text not null, kind text not null, item text not null,
    contact text not null, wa_message_id text not null, status text, due real not null,
    attempts int not null default 0, error text, done_at real)"""
_DELIVERY_DUE = "create index if not exists delivery_due on delivery (number, due) where done_at is null"
_DELIVERY_MESSAGE = "create index if not exists delivery_message on delivery (wa_message_id)"
