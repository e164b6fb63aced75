"""Storing what providers deliver: the requests of a warm instance share calls to the database.

A request that finds a call free goes at once. While all are out the others gather, and leave together as the
next batch: the busier, the larger. Each request still gets an answer of its own.

A large delivery (the history of a number that was just connected) goes on its own, a little at a time, and
only one does so at once: no other message stands behind it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Any

from shared import logs
from shared.errors import (
    DatabaseUnavailableError,
    ForbiddenError,
    NotFoundError,
    RecadoError,
    UnavailableError,
)
from shared.events import JsonObject, Payload, Receipt

CALLS = 3  # at once
BATCH_PAYLOADS = 200
BATCH_BYTES = 1_000_000  # a single larger one goes alone
LARGE_BYTES = 128_000  # of one request
STEP_BYTES = 32_000  # of a large delivery at a time; a thousand small payloads must not take a thousand calls
WAITING_BYTES = 32_000_000  # beyond it the provider is asked to come back
PAUSES = (0.05, 0.2, 0.5)  # seconds before the second and later tries
PATIENCE = 5.0  # seconds after which there is no other try: providers do not wait much longer
WINDOW_CLOSED = frozenset((131047, 63016))  # how Meta and Twilio call it

log = logging.getLogger(__name__)

Store = Callable[[Sequence[bytes]], Awaitable[list[Receipt]]]


class Inbox:
    """One for each process. `store` is the RPC; repeating it is harmless."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[_Delivery] = deque()
        self._waiting_bytes = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._large = asyncio.Lock()

    async def receive(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        """A receipt for each payload, after the commit. UnavailableError: worth repeating."""
        delivery = _Delivery(parcels)
        if self._waiting_bytes and self._waiting_bytes + delivery.size > WAITING_BYTES:
            raise UnavailableError("Too much is waiting to be stored; try again.", retry_after=1)
        self._waiting_bytes += delivery.size
        large = delivery.size > LARGE_BYTES
        receipts = await (self._receive_large(delivery) if large else self._receive_shared(delivery))
        _tell(receipts)
        return receipts

    async def _receive_shared(self, delivery: _Delivery) -> list[Receipt]:
        self._waiting.append(delivery)
        if len(self._calls) < CALLS:
            self._start_call()
        return await delivery.receipts

    async def _receive_large(self, delivery: _Delivery) -> list[Receipt]:
        try:
            async with self._large:
                return [receipt for step in _steps(delivery.parcels) for receipt in await self._sort(step)]
        finally:
            self._waiting_bytes -= delivery.size

    def _start_call(self) -> None:
        # an empty context: the log lines of a call belong to no single request
        call = asyncio.get_running_loop().create_task(self._drain(), context=Context())
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _drain(self) -> None:
        while batch := self._next_batch():
            await self._deliver(batch)

    def _next_batch(self) -> list[_Delivery]:
        batch: list[_Delivery] = []
        payloads = size = 0
        while self._waiting:
            payloads += len(self._waiting[0].parcels)
            size += self._waiting[0].size
            if batch and (payloads > BATCH_PAYLOADS or size > BATCH_BYTES):
                break
            batch.append(self._waiting.popleft())
            self._waiting_bytes -= batch[-1].size
        return batch

    async def _deliver(self, batch: list[_Delivery]) -> None:
        try:
            receipts = await self._sort([parcel for delivery in batch for parcel in delivery.parcels])
        except Exception as exc:  # whatever it is, each request must hear of it
            for delivery in batch:
                delivery.fail(exc)
        else:
            rest = iter(receipts)
            for delivery in batch:
                delivery.settle([next(rest) for _ in delivery.parcels])

    async def _sort(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        """Store them together; what the database refuses is cut in halves until the culprit is alone."""
        try:
            return await self._try([parcel.data for parcel in parcels])
        except UnavailableError:
            raise
        except (ForbiddenError, NotFoundError) as exc:  # our key or our schema is wrong, no payload is
            raise UnavailableError("The database does not let us store anything.", retry_after=60) from exc
        except RecadoError as exc:
            if len(parcels) == 1:
                return [await self._set_aside(parcels[0], exc)]
        middle = len(parcels) // 2
        return [*await self._sort(parcels[:middle]), *await self._sort(parcels[middle:])]

    async def _set_aside(self, parcel: Parcel, reason: RecadoError) -> Receipt:
        """Keep what the database will not read as jsonb, as bytes."""
        log.error("payload refused", extra={"action": "receive", "delivery_id": parcel.payload.delivery_id})
        kept = replace(
            parcel.payload, payload=None, raw=parcel.data, error=f"Refused: {reason.message}", events=()
        )
        try:
            (receipt,) = await self._try([kept.to_json()])
        except RecadoError as exc:
            raise DatabaseUnavailableError from exc
        return receipt

    async def _try(self, batch: list[bytes]) -> list[Receipt]:
        """A database that is away, or in a deadlock, gets a few more chances."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        for pause in PAUSES:
            try:
                return await self._store(batch)
            except DatabaseUnavailableError:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
        return await self._store(batch)


@dataclass(frozen=True)
class Parcel:
    """A payload, ready to go."""

    payload: Payload
    data: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", self.payload.to_json())


def _tell(receipts: Iterable[Receipt]) -> None:
    """One line for each number, and of failures for each code, however many payloads told them."""
    lines: dict[tuple[Any, ...], JsonObject] = {}
    for fact in (fact for receipt in receipts for fact in receipt.product_events):
        key = fact["event"], fact["number_id"], fact.get("error_code")
        line = lines.setdefault(key, {**fact, "count": 0, "message_ids": [], "chat_ids": []})
        line["count"] += fact["count"]
        for ids in ("message_ids", "chat_ids"):
            line[ids] += fact.get(ids, ())
    for line in lines.values():
        name: logs.ProductEvent = line.pop("event")
        logs.product_event(name, **line)
        if line.get("error_code") in WINDOW_CLOSED:
            logs.product_event("whatsapp.window.closed", **line)


def _steps(parcels: Iterable[Parcel]) -> Iterator[list[Parcel]]:
    """As many at a time as STEP_BYTES hold, and always one."""
    step: list[Parcel] = []
    size = 0
    for parcel in parcels:
        size += len(parcel.data)
        if step and size > STEP_BYTES:
            yield step
            step, size = [], len(parcel.data)
        step.append(parcel)
    yield step


@dataclass(frozen=True)
class _Delivery:
    """The parcels of one request, and its answer."""

    parcels: Sequence[Parcel]
    receipts: asyncio.Future[list[Receipt]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def size(self) -> int:
        return sum(len(parcel.data) for parcel in self.parcels)

    def settle(self, receipts: list[Receipt]) -> None:
        if not self.receipts.done():  # a request that went away leaves it cancelled
            self.receipts.set_result(receipts)

    def fail(self, reason: Exception) -> None:
        if not self.receipts.done():
            self.receipts.set_exception(reason)
