"""Sharing calls to the database: every request is stored once and hears of its own payloads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from shared import inbox
from shared.errors import (
    BadRequestError,
    DatabaseError,
    DatabaseUnavailableError,
    ForbiddenError,
    UnavailableError,
)
from shared.events import Payload, Receipt
from shared.inbox import Inbox, Parcel

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Database:
    """Stores batches as webhook_receive does: all of a batch or nothing, the same payload once."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}
        self.batches: list[list[str]] = []
        self.busy = self.most_busy = 0
        self.refuse: Callable[[list[dict[str, Any]]], Exception | None] = lambda batch: None

    async def receive(self, batch: Sequence[bytes]) -> list[Receipt]:
        payloads = [json.loads(one) for one in batch]
        self.batches.append([payload["delivery_id"] for payload in payloads])
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await asyncio.sleep(0.001)
        self.busy -= 1
        if refusal := self.refuse(payloads):
            raise refusal
        return [self._store(payload) for payload in payloads]

    def _store(self, payload: dict[str, Any]) -> Receipt:
        status = "duplicate" if payload["delivery_id"] in self.stored else "applied"
        self.stored.setdefault(payload["delivery_id"], payload)
        return Receipt(status=status, stored=1, repeated=0, error=payload["delivery_id"])  # type: ignore[arg-type]


def payloads(*names: str, size: int = 0) -> list[Parcel]:
    return [
        Parcel(Payload(provider="cloud_api", delivery_id=name, received_at=NOW, payload={"fill": "x" * size}))
        for name in names
    ]


def names(receipts: Sequence[Receipt]) -> list[str | None]:
    return [receipt.error for receipt in receipts]


def run(scenario: Callable[[Inbox], Awaitable[Any]], database: Database) -> Any:
    async def within() -> Any:
        return await scenario(Inbox(database.receive))

    return asyncio.run(within())


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setattr(inbox, "PAUSES", (0.0, 0.0, 0.0))
    return Database()


def test_a_lone_request_goes_at_once(database: Database) -> None:
    receipts = run(lambda box: box.receive(payloads("a", "b")), database)

    assert names(receipts) == ["a", "b"]
    assert database.batches == [["a", "b"]]


def test_requests_that_come_together_share_few_calls(database: Database) -> None:
    async def crowd(box: Inbox) -> list[list[Receipt]]:
        return await asyncio.gather(*(box.receive(payloads(f"{n}")) for n in range(100)))

    answers = run(crowd, database)

    assert [names(answer) for answer in answers] == [[f"{n}"] for n in range(100)]
    assert len(database.batches) <= 3
    assert database.most_busy <= inbox.CALLS


def test_a_steady_crowd_fills_the_next_batch_while_calls_are_out(database: Database) -> None:
    async def client(box: Inbox, n: int) -> None:
        for turn in range(20):
            assert names(await box.receive(payloads(f"{n}-{turn}"))) == [f"{n}-{turn}"]

    async def crowd(box: Inbox) -> None:
        await asyncio.gather(*(client(box, n) for n in range(64)))

    run(crowd, database)

    assert len(database.stored) == 64 * 20
    assert len(database.batches) < 64 * 20 / 4


def test_a_batch_ends_at_its_limits(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "CALLS", 1)
    monkeypatch.setattr(inbox, "BATCH_PAYLOADS", 3)
    monkeypatch.setattr(inbox, "BATCH_BYTES", 5000)

    async def crowd(box: Inbox) -> None:
        sizes = {"a": 0, "b": 0, "c": 0, "d": 9000, "e": 0}
        await asyncio.gather(*(box.receive(payloads(name, size=size)) for name, size in sizes.items()))

    run(crowd, database)

    assert database.batches == [["a", "b", "c"], ["d"], ["e"]]


def test_a_payload_the_database_refuses_is_set_aside_alone(database: Database) -> None:
    def refuse(batch: list[dict[str, Any]]) -> Exception | None:
        is_bad = any(one["delivery_id"] == "7" and one.get("payload") for one in batch)
        return BadRequestError("unsupported Unicode escape sequence") if is_bad else None

    database.refuse = refuse

    async def crowd(box: Inbox) -> list[list[Receipt]]:
        return await asyncio.gather(*(box.receive(payloads(f"{n}")) for n in range(16)))

    answers = run(crowd, database)

    assert [names(answer) for answer in answers] == [[f"{n}"] for n in range(16)]
    kept = database.stored["7"]
    assert kept["error"] == "Refused: unsupported Unicode escape sequence"
    assert (kept.get("payload"), kept["events"]) == (None, [])
    assert kept["raw"]


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_database_that_is_away_for_a_moment_is_asked_again(database: Database, failures: int) -> None:
    database.refuse = lambda _: DatabaseUnavailableError() if len(database.batches) <= failures else None

    receipts = run(lambda box: box.receive(payloads("a")), database)

    assert names(receipts) == ["a"]
    assert len(database.batches) == failures + 1


def test_a_database_that_stays_away_is_said_to_each_request(database: Database) -> None:
    database.refuse = lambda _: DatabaseUnavailableError()

    async def crowd(box: Inbox) -> list[Any]:
        return await asyncio.gather(
            *(box.receive(payloads(f"{n}")) for n in range(9)), return_exceptions=True
        )

    answers = run(crowd, database)

    assert {type(answer) for answer in answers} == {DatabaseUnavailableError}
    assert len(database.batches) == 4


def test_patience_ends_before_the_providers_does(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "PATIENCE", -1.0)
    database.refuse = lambda _: DatabaseUnavailableError()

    with pytest.raises(DatabaseUnavailableError):
        run(lambda box: box.receive(payloads("a")), database)

    assert len(database.batches) == 1


def test_a_key_that_is_not_let_in_blames_no_payload(database: Database) -> None:
    database.refuse = lambda _: ForbiddenError()

    with pytest.raises(UnavailableError, match="does not let us store"):
        run(lambda box: box.receive(payloads("a", "b")), database)

    assert len(database.batches) == 1


def test_what_cannot_even_be_set_aside_comes_again(database: Database) -> None:
    database.refuse = lambda _: DatabaseError()

    with pytest.raises(UnavailableError):
        run(lambda box: box.receive(payloads("a")), database)


def test_too_much_waiting_is_refused_and_what_waits_is_stored(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "WAITING_BYTES", 2000)

    async def crowd(box: Inbox) -> list[Any]:
        requests = (box.receive(payloads(f"{n}")) for n in range(100))
        return await asyncio.gather(*requests, return_exceptions=True)

    answers = run(crowd, database)

    refused = [answer for answer in answers if isinstance(answer, UnavailableError)]
    assert refused
    assert refused[0].retry_after == 1
    assert len(database.stored) == 100 - len(refused) > 0


def test_a_request_that_goes_away_takes_nobody_along(database: Database) -> None:
    async def crowd(box: Inbox) -> list[Any]:
        tasks = [asyncio.create_task(box.receive(payloads(f"{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[5].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = run(crowd, database)

    assert [isinstance(answer, list) for answer in answers] == [n not in (0, 5) for n in range(10)]
    assert len(database.stored) == 10


def test_an_unexpected_failure_reaches_every_request_and_the_next_one_works(database: Database) -> None:
    database.refuse = lambda _: RuntimeError("bug") if len(database.batches) == 1 else None

    async def scenario(box: Inbox) -> list[Any]:
        first = await asyncio.gather(
            *(box.receive(payloads(f"{n}")) for n in range(3)), return_exceptions=True
        )
        return [*map(type, first), names(await box.receive(payloads("after")))]

    assert run(scenario, database) == [RuntimeError] * 3 + [["after"]]


def test_a_large_delivery_goes_step_by_step_and_keeps_nobody_waiting(database: Database) -> None:
    large = payloads(*[f"large {n}" for n in range(20)], size=inbox.STEP_BYTES)

    async def scenario(box: Inbox) -> list[int]:
        storing = asyncio.create_task(box.receive(large))
        await asyncio.sleep(0)
        waited = []
        for name in ("a", "b"):
            assert names(await box.receive(payloads(name))) == [name]
            waited.append(len(database.batches))
        assert names(await storing) == [one.payload.delivery_id for one in large]
        return waited

    waited = run(scenario, database)

    assert max(waited) < 10
    assert [batch for batch in database.batches if len(batch) > 1] == []


def test_a_large_delivery_of_a_thousand_small_payloads_takes_a_few_calls(database: Database) -> None:
    many = payloads(*[f"small {n}" for n in range(1000)], size=200)

    receipts = run(lambda box: box.receive(many), database)

    assert names(receipts) == [one.payload.delivery_id for one in many]
    assert len(database.batches) <= sum(len(one.data) for one in many) / inbox.STEP_BYTES + 1


def test_of_large_deliveries_one_is_stored_after_the_other(database: Database) -> None:
    several = [payloads(f"{n}", size=inbox.LARGE_BYTES) for n in range(4)]

    run(lambda box: asyncio.gather(*map(box.receive, several)), database)

    assert (database.most_busy, len(database.stored)) == (1, 4)
