"""The secrets of numbers: remembered for a while, and asked for as seldom as can be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared import channel_keys
from shared.cache import CONFIGURATION_SECONDS
from shared.channel_keys import KeyRing
from shared.errors import DatabaseUnavailableError, ForbiddenError, NotFoundError, UnavailableError
from shared.throttle import Throttle


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Database:
    """channel_webhook_keys, which counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.secret = "first"
        self.refusal: Exception | None = None

    async def look_up(self, number_id: str) -> dict[str, Any] | None:
        self.asked.append(number_id)
        await asyncio.sleep(0)
        if self.refusal:
            raise self.refusal
        if number_id == "nobody":
            return None
        return {
            "provider": "whapi",
            "provider_number_id": "C1",
            "account_id": None,
            "secrets": [self.secret, ""],
        }


def run(scenario: Callable[[KeyRing], Awaitable[Any]], database: Database, clock: Clock | None = None) -> Any:
    async def within() -> Any:
        return await scenario(KeyRing(database.look_up, clock or Clock()))

    return asyncio.run(within())


async def secret(ring: KeyRing) -> str:
    return (await ring.get("number", "whapi")).secrets[0]


def test_an_empty_secret_is_none() -> None:
    keys = run(lambda ring: ring.get("number", "whapi"), Database())

    assert keys.secrets == ("first",)
    assert "first" not in repr(keys)


def test_many_who_ask_at_once_ask_the_database_once() -> None:
    async def ask(ring: KeyRing) -> None:
        await asyncio.gather(*[ring.get("number", "whapi") for _ in range(50)])

    run(ask, database := Database())

    assert database.asked == ["number"]


def test_a_changed_secret_holds_within_five_minutes() -> None:
    clock, database = Clock(), Database()

    async def over_time(ring: KeyRing) -> list[str]:
        found = [await secret(ring)]
        database.secret = "second"
        for wait in (CONFIGURATION_SECONDS - 1, 1):
            clock.now += wait
            found.append(await secret(ring))
        return found

    assert run(over_time, database, clock) == ["first", "first", "second"]


def test_a_secret_that_opens_nothing_is_asked_for_again_but_not_at_once() -> None:
    clock, database = Clock(), Database()

    async def over_time(ring: KeyRing) -> list[bool]:
        await secret(ring)
        at_once = ring.forget("number")
        clock.now += channel_keys.FRESH_SECONDS + 1
        return [at_once, ring.forget("number")]

    assert run(over_time, database, clock) == [False, True]


def test_a_number_that_nobody_has_is_remembered_too() -> None:
    clock, database = Clock(), Database()

    async def over_time(ring: KeyRing) -> None:
        for wait in (0, channel_keys.UNKNOWN_SECONDS - 1, 1):
            clock.now += wait
            with pytest.raises(NotFoundError):
                await ring.get("nobody", "whapi")

    run(over_time, database, clock)

    assert len(database.asked) == 2


def test_a_number_of_another_provider_is_nobodys() -> None:
    with pytest.raises(NotFoundError):
        run(lambda ring: ring.get("number", "twilio"), Database())


@pytest.mark.parametrize("refusal", [DatabaseUnavailableError(), ForbiddenError(), NotFoundError()])
def test_while_the_database_does_not_tell_the_provider_is_asked_to_come_back(refusal: Exception) -> None:
    database = Database()
    database.refusal = refusal

    with pytest.raises(UnavailableError):
        run(lambda ring: ring.get("number", "whapi"), database)


# The throttle


def test_failures_use_up_a_share_that_fills_again() -> None:
    throttle = Throttle(2, 0.5, clock := Clock())

    found = []
    for wait in (0, 0, 0, 1, 1):
        clock.now += wait
        found.append(throttle.is_exhausted("a"))
        throttle.count("a")

    assert found == [False, False, True, True, True]
    clock.now += 2
    assert not throttle.is_exhausted("a")


def test_a_share_never_grows_beyond_its_burst() -> None:
    throttle = Throttle(2, 0.5, clock := Clock())
    throttle.count("a")
    clock.now += 1_000

    for _ in range(2):
        throttle.count("a")

    assert throttle.is_exhausted("a")
    assert not throttle.is_exhausted("b")
