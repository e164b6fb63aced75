"""The function backfill: providers' lists of messages, read to their end, whatever becomes of one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from shared import backfill, drain, histories
from shared.backfill import Backfill
from shared.events import Receipt
from shared.histories import History, TwilioHistory, WhapiHistory
from shared.inbox import Inbox

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SINCE = NOW - timedelta(hours=1)
ACCOUNT = "AC00000000000000000000000000000009"
Answer = Callable[[httpx.Request], httpx.Response]


def number(provider: str, name: str = "n1", **more: Any) -> dict[str, Any]:
    return {
        "tenant_id": "t1",
        "number_id": name,
        "provider": provider,
        "provider_number_id": {"whapi": "C1", "twilio": "whatsapp:+12025550100"}[provider],
        "phone_number": "12025550100",
        "account_id": ACCOUNT if provider == "twilio" else None,
        "token": "the token",
        "since": SINCE.isoformat(),
        **more,
    }


class Database:
    """Numbers that are due once, what was told about them, and the messages stored by their ids."""

    def __init__(self, *numbers: dict[str, Any]) -> None:
        self.due = [list(numbers)]
        self.settled: list[tuple[str, datetime, bool]] = []
        self.failed: list[tuple[str, str, bool, int | None]] = []
        self.events: dict[tuple[str, str], dict[str, Any]] = {}
        self.runs: list[Mapping[str, int]] = []

    async def backfill_claim(self, *, limit: int, lease_seconds: int) -> dict[str, Any]:
        return {"claim": "c", "now": NOW.isoformat(), "numbers": self.due.pop() if self.due else []}

    async def backfill_settle(
        self, *, number_id: str, read_until: datetime, is_done: bool, **key: str
    ) -> bool:
        self.settled.append((number_id, read_until, is_done))
        return True

    async def backfill_fail(
        self, *, number_id: str, problem: str, is_temporary: bool, retry_after_seconds: int | None, **key: str
    ) -> bool:
        self.failed.append((number_id, problem, is_temporary, retry_after_seconds))
        return True

    async def job_run_record(self, *, counts: Mapping[str, int], **run: Any) -> None:
        self.runs.append(dict(counts))

    async def receive(self, batch: Sequence[bytes]) -> list[Receipt]:
        return [self._store(json.loads(one)) for one in batch]

    def _store(self, payload: dict[str, Any]) -> Receipt:
        before = len(self.events)
        for event in payload["events"]:
            self.events.setdefault((event["kind"], event["id"]), event)
        return Receipt(status="applied", stored=len(self.events) - before, repeated=0)


def run(database: Database, answer: Answer) -> Mapping[str, int]:
    async def within() -> Mapping[str, int]:
        transport = httpx.MockTransport(answer)
        lists: dict[str, History] = {
            "whapi": WhapiHistory("https://whapi.example", transport),
            "twilio": TwilioHistory("https://twilio.example", transport),
        }
        return await Backfill(database, Inbox(database.receive), lists).run()

    return asyncio.run(within())


def whapi_message(at: datetime, **more: Any) -> dict[str, Any]:
    chat = {"chat_id": "12025550143@s.whatsapp.net", "from": "12025550143", "from_me": False}
    at_ = int(at.timestamp())
    return {"id": f"W{at_}", **chat, "type": "text", "timestamp": at_, "text": {"body": "Hola"}, **more}


def whapi(messages: Sequence[dict[str, Any]]) -> Answer:
    """A channel that remembers these; newest first, as it lists them."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.url.path, request.headers["authorization"]) == ("/messages/list", "Bearer the token")
        query = {name: int(value) for name, value in request.url.params.items()}
        found = [m for m in messages if query["time_from"] <= m["timestamp"] <= query["time_to"]]
        found.sort(key=lambda one: -one["timestamp"])
        part = found[query["offset"] : query["offset"] + query["count"]]
        return httpx.Response(200, json={"messages": part, "count": len(part), "total": len(found)})

    return answer


def record(sid: str, **more: Any) -> dict[str, Any]:
    ends = {"from": "whatsapp:+12025550143", "to": "whatsapp:+12025550100", "direction": "inbound"}
    given = {"sid": sid, "account_sid": ACCOUNT, "body": "Hola", "status": "received", "num_media": "0"}
    return {**given, **ends, "date_sent": "Fri, 20 Nov 2026 11:30:00 +0000", **more}


def sent(sid: str, status: str, **more: Any) -> dict[str, Any]:
    ends = {"to": "whatsapp:+12025550143", "from": "whatsapp:+12025550100", "direction": "outbound-api"}
    return record(sid, status=status, **ends, **more)


def twilio(*records: dict[str, Any]) -> Answer:
    """An account that remembers these, in pages of two."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = f"/2010-04-01/Accounts/{ACCOUNT}/"
        assert request.headers["authorization"].startswith("Basic ")
        assert request.url.path.startswith(path)
        query = dict(request.url.params)
        if request.url.path.endswith("/Media.json"):
            uri = f"{request.url.path.removesuffix('.json')}/ME1.json"
            return httpx.Response(200, json={"media_list": [{"content_type": "image/jpeg", "uri": uri}]})
        found = [
            r
            for r in records
            if r["to"] == query.get("To", r["to"]) and r["from"] == query.get("From", r["from"])
        ]
        page = int(query.get("Page", 0))
        link = str(request.url.copy_merge_params({"Page": str(page + 1)}).copy_with(host="evil.example"))
        more = link if len(found) > 2 * page + 2 else None
        return httpx.Response(200, json={"messages": found[2 * page : 2 * page + 2], "next_page_uri": more})

    return answer


def test_what_whapi_remembers_is_stored_once_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "_PAGE", 10)
    missed = [whapi_message(SINCE + timedelta(minutes=n)) for n in range(25)]
    database = Database(number("whapi"))

    counts = run(database, whapi(missed))

    assert [id_ for _, id_ in database.events] == [one["id"] for one in reversed(missed)]
    assert (counts, database.settled) == ({"read": 1, "stored": 25}, [("n1", NOW, True)])
    assert database.runs == [counts]


def test_what_is_nobodys_is_not_kept_again_and_again() -> None:
    group = whapi_message(SINCE, chat_id="1203@g.us")
    database = Database(number("whapi"))

    run(database, whapi([group]))

    assert database.events == {}


def test_what_we_sent_is_known_by_its_status() -> None:
    database = Database(number("whapi"))

    run(database, whapi([whapi_message(SINCE, from_me=True, source="api", status="read")]))

    ((kind, _), event), = database.events.items()  # fmt: skip
    assert (kind, event["status"]) == ("status", "read")


def test_an_empty_list_leaves_nothing_behind() -> None:
    database = Database(number("whapi"))

    assert run(database, whapi([])) == {"read": 1, "stored": 0}


def test_of_a_time_too_full_for_one_run_the_first_part_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "_PAGE", 2)
    monkeypatch.setattr(backfill, "PAGES", 3)
    missed = [whapi_message(SINCE + timedelta(minutes=5 * n)) for n in range(12)]
    database = Database(number("whapi"))

    run(database, whapi(missed))

    ((_, until, is_done),) = database.settled
    assert SINCE < until < NOW
    assert not is_done
    read = {id_ for _, id_ in database.events}
    assert {one["id"] for one in missed if one["timestamp"] <= until.timestamp()} <= read


def test_what_twilio_received_and_what_became_of_what_it_sent() -> None:
    records = [record(f"SM{n}") for n in range(5)]
    records += [sent("SM8", "delivered"), sent("SM9", "undelivered", error_code=63024), sent("SM7", "queued")]
    database = Database(number("twilio"))

    run(database, twilio(*records))

    kinds = {id_: (kind, event.get("status")) for (kind, id_), event in database.events.items()}
    assert kinds == {
        **{f"SM{n}": ("message", None) for n in range(5)},
        "SM8": ("status", "delivered"),
        "SM9": ("status", "failed"),
    }
    assert database.events["message", "SM0"]["at"] == "2026-11-20T11:30:00+00:00"
    assert database.events["status", "SM9"]["error"]["code"] == 63024


def test_the_files_of_a_message_are_asked_for() -> None:
    database = Database(number("twilio"))

    run(database, twilio(record("MM1", num_media="1")))

    event = database.events["message", "MM1"]
    assert (event["type"], event["media"]["mime"]) == ("image", "image/jpeg")
    assert (
        event["media"]["url"]
        == f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages/MM1/Media/ME1"
    )


def refuse(status: int, **headers: str) -> Answer:
    return lambda request: httpx.Response(status, json={"message": "no"}, headers=headers)


def lost(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("too slow", request=request)


def away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("away", request=request)


@pytest.mark.parametrize(
    ("answer", "is_temporary", "wait"),
    [
        (refuse(401), False, None),
        (refuse(404), False, None),
        (refuse(302, location="https://evil.example"), False, None),
        (refuse(429, **{"retry-after": "90"}), True, 90),
        (refuse(500), True, 5),
        (away, True, 5),
        (lost, True, 5),
        (lambda request: httpx.Response(200, content=b"<html>"), False, None),
    ],
)
@pytest.mark.parametrize("provider", ["whapi", "twilio"])
def test_a_list_that_cannot_be_read_is_told_and_comes_up_again(
    provider: str, answer: Answer, is_temporary: bool, wait: int | None
) -> None:
    database = Database(number(provider))

    assert run(database, answer) == {"failed": 1}

    ((_, problem, was_temporary, waited),) = database.failed
    assert (was_temporary, waited, database.settled) == (is_temporary, wait, [])
    assert "the token" not in problem


def test_one_number_that_fails_is_nothing_to_the_others() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "twilio.example":
            raise RuntimeError("a fault of ours")
        return whapi([whapi_message(SINCE)])(request)

    database = Database(number("twilio", "n1"), number("whapi", "n2"), number("whapi", "n3", token=None))

    assert run(database, answer) == {"failed": 2, "read": 1, "stored": 1}

    assert [number_id for number_id, _, _ in database.settled] == ["n2"]
    assert {(number_id, temporary) for number_id, _, temporary, _ in database.failed} == {
        ("n1", True),
        ("n3", False),
    }


def test_no_number_is_begun_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "BUDGET_SECONDS", 0.0)
    database = Database(number("whapi"))

    assert run(database, whapi([])) == {}


def test_a_database_that_is_away_for_a_moment_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "PAUSES", (0.0,))
    database = Database(number("whapi"))
    settle, tries = database.backfill_settle, []

    async def settle_later(**told: Any) -> bool:
        tries.append(told)
        if len(tries) == 1:
            raise drain.DatabaseUnavailableError
        return await settle(**told)

    monkeypatch.setattr(database, "backfill_settle", settle_later)

    run(database, whapi([]))

    assert len(database.settled) == 1
