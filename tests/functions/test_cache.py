"""What a warm instance remembers: asked for once, believed for five minutes, and not without end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from shared import cache
from shared.attention import Attention
from shared.cache import CONFIGURATION_SECONDS, Cache
from shared.enrichment import Enrichment
from shared.outbox import Outbox
from shared.tokens import Tokens
from tests.functions.test_attention import SEEN, Phone
from tests.functions.test_deliver import Database, Provider, errand

A, B = ("tenant", "a"), ("tenant", "b")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Vault:
    """channel_tokens: what there is now, and how often it was asked."""

    def __init__(self) -> None:
        self.tokens = {"a": "first", "b": "another"}
        self.asked: list[list[str]] = []

    async def channel_tokens(self, *, numbers: Sequence[Any]) -> list[Any]:
        self.asked.append([one["number_id"] for one in numbers])
        await asyncio.sleep(0)
        return [
            {**one, "token": self.tokens[one["number_id"]]}
            for one in numbers
            if one["number_id"] in self.tokens
        ]


def run(scenario: Callable[[Tokens], Awaitable[Any]], vault: Vault, clock: Clock | None = None) -> Any:
    async def within() -> Any:
        return await scenario(Tokens(vault, clock or Clock()))

    return asyncio.run(within())


def test_what_was_learnt_is_known_for_its_time_however_often_it_is_asked_for() -> None:
    known: Cache[str, int] = Cache(10, clock=(clock := Clock()))
    known.put("a", 1)

    found = []
    for wait in (0, 5, 4.9, 0.1):
        clock.now += wait
        found.append(known.get("a"))

    assert found == [1, 1, 1, None]


def test_the_first_learnt_is_the_first_forgotten() -> None:
    known: Cache[int, int] = Cache(entries=3, clock=Clock())

    for key in (1, 2, 1, 3, 4):
        known.put(key, key)

    assert [known.get(key) for key in (1, 2, 3, 4)] == [1, None, 3, 4]


def test_how_long_something_is_known() -> None:
    known: Cache[str, int] = Cache(clock=(clock := Clock()))
    known.put("a", 1)
    clock.now += 7

    assert (known.age("a"), known.age("b")) == (7, float("inf"))


def test_a_token_that_was_changed_is_in_force_within_five_minutes() -> None:
    clock, vault = Clock(), Vault()

    async def over_time(tokens: Tokens) -> list[str]:
        found = [(await tokens.of([A]))[A]]
        vault.tokens["a"] = "second"
        for wait in (CONFIGURATION_SECONDS - 1, 1):
            clock.now += wait
            found.append((await tokens.of([A]))[A])
        return found

    assert cache.CONFIGURATION_SECONDS == 300
    assert run(over_time, vault, clock) == ["first", "first", "second"]


def test_a_token_that_was_taken_away_is_gone_within_five_minutes() -> None:
    clock, vault = Clock(), Vault()

    async def over_time(tokens: Tokens) -> Any:
        await tokens.of([A])
        del vault.tokens["a"]
        clock.now += CONFIGURATION_SECONDS
        return await tokens.of([A])

    assert run(over_time, vault, clock) == {}


def test_a_number_without_a_token_is_asked_for_again_at_once() -> None:
    vault = Vault()
    del vault.tokens["a"]

    async def connected_meanwhile(tokens: Tokens) -> Any:
        before = await tokens.of([A, B])
        vault.tokens["a"] = "new"
        return before, await tokens.of([A, B])

    assert run(connected_meanwhile, vault) == ({B: "another"}, {A: "new", B: "another"})
    assert vault.asked == [["a", "b"], ["a"]]


def test_groups_that_start_together_ask_once() -> None:
    async def together(tokens: Tokens) -> None:
        await asyncio.gather(*[tokens.of([A]) for _ in range(50)])

    run(together, vault := Vault())

    assert vault.asked == [["a"]]


def test_a_claim_of_many_groups_asks_for_the_token_of_their_number_once() -> None:
    database = Database(*[errand(str(n)) for n in range(100)])

    async def within() -> int:
        claim = await Outbox(database, {"cloud_api": Provider(database)}, at_once=100).claim()
        await asyncio.gather(*(task() for task in claim.tasks))
        return len(claim.tasks)

    assert asyncio.run(within()) == 4
    assert database.told("tokens") == [1]


def test_an_answer_and_what_the_phone_knows_ask_for_one_token() -> None:
    vault = Vault()
    number = {"tenant_id": "tenant", "number_id": "a", "provider": "cloud_api"}

    class KnowsNothing:
        async def chat(self, *_: Any) -> None:
            return None

    async def within() -> None:
        tokens = Tokens(vault)
        attention = Attention(tokens, lambda: {"cloud_api": Phone()})
        enrichment = Enrichment(vault, tokens, lambda: {"cloud_api": KnowsNothing()})  # type: ignore[arg-type,dict-item]
        enrichment.start([{**number, "chat_id": "c", "address": "x"}])
        attention.show({**SEEN, **number})
        await asyncio.gather(*attention._running, *enrichment._running)

    asyncio.run(within())

    assert vault.asked == [["a"]]
