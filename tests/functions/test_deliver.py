"""The function deliver: an intent before each send, its result afterwards, nothing sent without a yes."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import respx
from starlette.testclient import TestClient

from shared import drain, outbox, signature
from shared.errors import DatabaseUnavailableError
from shared.outbox import Errand, Outbox, groups
from shared.senders.base import Capability, Credentials, Message, Outcome, Result
from tests.functions.conftest import SECRET, client, load

NOW = datetime.now(UTC).isoformat()
RPC = "http://db.example/rest/v1/rpc/"


def errand(message_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "tenant_id": "tenant",
        "message_id": message_id,
        "number_id": "number",
        "chat_id": "chat",
        "provider": "cloud_api",
        "provider_number_id": "100",
        "to": {"phone": "573001112233"},
        "type": "text",
        "content": "Hola",
        "reply_to": None,
        "send_at": NOW,
        "spacing": 0.0,
        **changes,
    }


class Database:
    """An outbox, and everything it was told, in order."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)
        self.heard: list[tuple[str, Any]] = []
        self.refused: set[str] = set()
        self.trouble: list[Exception] = []
        self.tokens = {"number": "the token"}
        self.closed: list[dict[str, Any]] = []

    async def outbox_claim(self, **_: Any) -> dict[str, Any]:
        claim = {"claim": "claim", "now": NOW, "next_in_ms": None, "unknown": 0}
        return {**claim, "messages": self.messages, "closed": self.closed}

    async def outbox_intent(self, *, claim: str, items: Sequence[Any], lease_seconds: int) -> list[str]:
        if self.trouble:
            raise self.trouble.pop()
        ids = [item["message_id"] for item in items if item["message_id"] not in self.refused]
        self.heard.append(("intent", ids))
        return ids

    async def outbox_settle(self, *, claim: str, results: Sequence[Any]) -> int:
        self.heard.append(("settle", {result["message_id"]: result["outcome"] for result in results}))
        return len(results)

    async def channel_tokens(self, *, numbers: Sequence[Any]) -> list[Any]:
        self.heard.append(("tokens", len(numbers)))
        await asyncio.sleep(0)  # as whoever is far away
        return [
            {**number, "token": self.tokens[number["number_id"]]}
            for number in numbers
            if number["number_id"] in self.tokens
        ]

    def told(self, what: str) -> list[Any]:
        return [said for kind, said in self.heard if kind == what]


class Provider:
    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, database: Database, outcome: Outcome | Exception = "sent", *, slow: str = "") -> None:
        self.database = database
        self.outcome = outcome
        self.slow = slow
        self.tokens: list[str] = []

    async def send(self, message: Message, credentials: Credentials) -> Result:
        self.database.heard.append(("send", message.id))
        self.tokens.append(credentials.token)
        if message.id == self.slow:
            await asyncio.sleep(0.3)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return Result(outcome=self.outcome)


def deliver(database: Database, provider: Provider, times: int = 1) -> Mapping[str, int]:
    async def within() -> Mapping[str, int]:
        work = Outbox(database, {"cloud_api": provider}, at_once=50)
        counts: dict[str, int] = {}
        for _ in range(times):
            claim = await work.claim()
            assert work.room == 50 - len(database.messages)
            for task in claim.tasks:
                counts.update(await task())
            assert work.room == 50
        return counts

    return asyncio.run(within())


def test_an_intent_is_committed_before_and_a_result_after_the_call() -> None:
    database = Database(errand("one"), errand("two"))

    counts = deliver(database, Provider(database))

    assert counts == {"sent": 2}
    assert [kind for kind, _ in database.heard] == ["tokens", "intent", "send", "send", "settle"]


def test_what_is_not_ours_any_more_is_not_sent() -> None:
    database = Database(errand("one"), errand("two"))
    database.refused = {"one"}

    deliver(database, Provider(database))

    assert database.told("send") == ["two"]


def test_without_a_word_from_the_database_nothing_is_sent_and_everything_goes_back() -> None:
    database = Database(errand("one"))
    database.trouble = [DatabaseUnavailableError()]

    deliver(database, Provider(database))

    assert database.told("send") == []
    assert database.told("settle") == [{"one": "late"}]


def test_a_link_into_a_private_network_is_not_handed_over() -> None:
    inside = errand("one") | {"type": "image", "data": {"media": {"link": "https://169.254.169.254/a.jpg"}}}
    database = Database(inside)

    counts = deliver(database, Provider(database))

    assert (counts, database.told("send")) == ({"invalid": 1}, [])


def test_the_fast_are_settled_before_the_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "SETTLE_SECONDS", 0.02)
    database = Database(errand("slow"), errand("fast"))

    deliver(database, Provider(database, slow="slow"))

    assert database.told("settle") == [{"fast": "sent"}, {"slow": "sent"}]


def test_a_bug_in_sending_may_have_sent() -> None:
    database = Database(errand("one"))

    assert deliver(database, Provider(database, RuntimeError("a bug"))) == {"unknown": 1}


def test_a_number_without_a_token_stops() -> None:
    database = Database(errand("one", number_id="other"))

    assert deliver(database, Provider(database)) == {"stop_channel": 1}
    assert database.told("send") == []


def test_a_provider_we_cannot_speak_to_is_said_to_be_one() -> None:
    database = Database(errand("one", provider="whapi"))

    assert deliver(database, Provider(database)) == {"invalid": 1}


def test_a_token_is_asked_for_once_and_again_when_it_was_refused() -> None:
    kept, refused = Database(errand("one")), Database(errand("one"))

    deliver(kept, Provider(kept), times=2)
    deliver(refused, Provider(refused, "stop_channel"))

    assert (len(kept.told("tokens")), len(refused.told("tokens"))) == (1, 2)


def test_a_token_that_was_replaced_meanwhile_does_not_stop_the_number() -> None:
    class Picky(Provider):
        """Takes the new token, and no other."""

        async def send(self, message: Message, credentials: Credentials) -> Result:
            self.outcome = "sent" if credentials.token == "new" else "stop_channel"
            result = await super().send(message, credentials)
            database.tokens["number"] = "new"
            return result

    database = Database(errand("one"))
    provider = Picky(database)

    assert deliver(database, provider) == {"sent": 1}
    assert provider.tokens == ["the token", "new"]


def test_messages_of_close_moments_go_together() -> None:
    moments = [0.0, 0.05, 0.1, 0.15, 5.0]
    errands = [
        Errand.read(errand(str(index), send_at=datetime.fromtimestamp(moment, UTC).isoformat()))
        for index, moment in enumerate(moments)
    ]

    grouped = [[one.message.id for one in group] for group in groups(reversed(errands))]

    assert grouped == [["0", "1", "2"], ["3"], ["4"]]


def test_a_moment_is_waited_for_but_never_long() -> None:
    soon = datetime.fromtimestamp(time.time() + 0.2, UTC)
    database = Database(errand("one", send_at=soon.isoformat()))

    deliver(database, Provider(database))

    assert time.time() >= soon.timestamp()


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    environ = {"SUPABASE_URL": "http://db.example", "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x"}
    settings = {
        "FUNCTIONS_SECRET": SECRET,
        "GRAPH_URL": "https://graph.example",
        "DRAIN_IDLE_SECONDS": "0.01",
    }
    for name, value in (environ | settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(drain, "POLL_SECONDS", 0.01)
    with client(load("deliver").main) as made:
        yield made


@pytest.fixture
def waiting() -> list[dict[str, Any]]:
    """What the next claim finds."""
    return []


@pytest.fixture
def world(waiting: list[dict[str, Any]]) -> Iterator[respx.MockRouter]:
    """A database and Graph, where everything goes well."""
    claimed = {"claim": "c", "now": NOW, "next_in_ms": None, "unknown": 0}

    def claim(_: httpx.Request) -> httpx.Response:
        messages = [waiting.pop()] if waiting else []
        return httpx.Response(200, json={**claimed, "messages": messages})

    with respx.mock(assert_all_called=False) as router:
        router.post(RPC + "outbox_claim").mock(side_effect=claim)
        router.post(RPC + "channel_tokens").respond(
            json=[{"tenant_id": "tenant", "number_id": "number", "token": "EAAthetoken"}]
        )
        router.post(RPC + "outbox_intent").respond(json=["one"])
        router.post(RPC + "outbox_settle", name="settle").respond(json=1)
        router.post(url__regex=RPC + "(worker_|job_run).*").respond(204)
        router.post("https://graph.example/v26.0/100/messages").respond(
            json={"messages": [{"id": "wamid.1"}]}
        )
        yield router


def wake(function: TestClient) -> Any:
    headers = signature.sign(SECRET, b"{}", at=int(time.time()))
    return function.post("/", content=b"{}", headers=headers).json()


def test_a_wake_up_sends_what_waits(
    function: TestClient, world: respx.MockRouter, waiting: list[dict[str, Any]]
) -> None:
    waiting.append(errand("one"))

    assert wake(function) == {"sent": 1}

    (result,) = json.loads(world["settle"].calls.last.request.content)["p_results"]
    assert (result["outcome"], result["wa_message_id"]) == ("sent", "wamid.1")


def test_a_warm_instance_asks_for_nothing_but_the_work(
    function: TestClient, world: respx.MockRouter, waiting: list[dict[str, Any]]
) -> None:
    asked = []

    for _ in range(2):
        waiting.append(errand("one"))
        before = len(world.calls)
        assert wake(function) == {"sent": 1}
        paths = [call.request.url.path.rpartition("/")[2] for call in world.calls[before:]]
        asked.append(Counter(path for path in paths if not path.startswith(("worker_", "job_", "outbox_cl"))))

    work = {"outbox_intent": 1, "messages": 1, "outbox_settle": 1}
    assert asked == [{"channel_tokens": 1, **work}, work]
