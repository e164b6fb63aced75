"""The function refresh_tokens: a token is replaced long before its end, and nothing is let go too early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import respx

from shared import drain, signature
from shared.accounts import base
from shared.accounts.meta import Meta, MetaSettings
from shared.token_checks import TokenChecks
from tests.functions.conftest import SECRET, Lines, client, load

GRAPH = "https://graph.facebook.com/v26.0"
NOW = datetime(2026, 11, 20, 4, 10, tzinfo=UTC)
SETTINGS = MetaSettings({"META_APP_ID": "777", "META_APP_SECRET": "app-secret-xyz"})
DAY = 86400


class Database:
    """Numbers to look at, each once, and what was told about them in order."""

    def __init__(self, *numbers: dict[str, Any], mine: bool = True) -> None:
        self.pages = [list(numbers), []]
        self.told: list[tuple[str, Any]] = []
        self.sinces: list[str | None] = []
        self.mine = mine

    async def token_checks_claim(
        self, *, since: str | None, limit: int, lease_seconds: int
    ) -> dict[str, Any]:
        self.sinces.append(since)
        return {"claim": "claim", "now": NOW.isoformat(), "numbers": self.pages.pop(0)}

    async def token_offer(self, *, token: str, expires_at: Any, **key: str) -> bool:
        self.told.append(("offer", token))
        return self.mine

    async def token_adopt(self, *, issued_at: Any, expires_at: Any, **key: str) -> bool:
        self.told.append(("adopt", expires_at))
        return self.mine

    async def token_drop(self, *, kind: str, **key: str) -> bool:
        self.told.append(("drop", kind))
        return self.mine

    async def token_check_settle(
        self, *, result: str, problem: str | None, issued_at: Any, expires_at: Any, **key: str
    ) -> bool:
        self.told.append((result, key["number_id"]))
        return self.mine

    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None:
        self.told.append(("run", dict(counts)))

    @property
    def steps(self) -> list[str]:
        return [step for step, _ in self.told if step != "run"]


class Graph:
    """Tokens by their names: how many days they have left; None: for ever; below 0: over."""

    def __init__(self, router: respx.Router, **days: float | None) -> None:
        self.days = days
        self.debug = router.get(f"{GRAPH}/debug_token").mock(side_effect=self._debug)
        self.refresh = router.get(f"{GRAPH}/oauth/access_token").mock(
            return_value=httpx.Response(200, json={"access_token": "new", "expires_in": 60 * DAY})
        )
        shown = {"id": "100", "display_phone_number": "+57 3001112233"}
        self.number = router.get(f"{GRAPH}/100").mock(return_value=httpx.Response(200, json=shown))
        self.revoke = router.get(f"{GRAPH}/oauth/revoke").mock(
            return_value=httpx.Response(200, json={"success": True})
        )

    def _debug(self, request: httpx.Request) -> httpx.Response:
        left = self.days[request.url.params["input_token"]]
        end = 0 if left is None else int((NOW + timedelta(days=left)).timestamp())
        data = {"is_valid": left is None or left > 0, "app_id": "777", "expires_at": end}
        return httpx.Response(200, json={"data": data})


def held(number_id: str = "n-1", **tokens: str) -> dict[str, Any]:
    key = {"tenant_id": "t", "number_id": number_id, "provider_number_id": "100"}
    return {**key, "token": "current", **tokens}


def check(database: Database) -> Mapping[str, int]:
    return asyncio.run(TokenChecks(database, Meta(SETTINGS)).run())


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Iterator[respx.Router]:
    monkeypatch.setattr(base, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(drain, "PAUSES", (0.0,))
    with respx.mock(assert_all_called=False) as made:
        yield made


@pytest.mark.parametrize("left", [16, 45, None])
def test_a_token_with_time_left_or_without_end_is_left_alone(
    router: respx.Router, left: float | None
) -> None:
    graph, database = Graph(router, current=left), Database(held())

    assert check(database) == {"good": 1}
    assert database.steps == ["good"]
    assert not graph.refresh.called


def test_a_token_is_replaced_before_day_45_of_60_and_proven_before_it_is_used(router: respx.Router) -> None:
    graph, database = Graph(router, current=15, new=60), Database(held())

    assert check(database) == {"good": 1}
    assert database.steps == ["offer", "adopt", "good"]
    assert graph.number.calls.last.request.headers["authorization"] == "Bearer new"
    query = graph.refresh.calls.last.request.url.params
    assert query["set_token_expires_in_60_days"] == "true"
    assert not graph.revoke.called


def test_what_no_worker_remembers_any_more_is_revoked_and_forgotten(router: respx.Router) -> None:
    graph, database = Graph(router, current=60), Database(held(old_token="old"))

    check(database)

    assert graph.revoke.calls.last.request.url.params["revoke_token"] == "old"
    assert database.steps == ["drop", "good"]


@pytest.mark.parametrize(
    ("said", "steps"),
    [
        (httpx.Response(400, json={"error": {"code": 190}}), ["drop", "good"]),  # it is over already
        (httpx.Response(503), ["good"]),
        (httpx.ReadTimeout("x"), ["good"]),
    ],
)
def test_what_cannot_be_revoked_today_is_kept_for_tomorrow(
    router: respx.Router, said: Any, steps: list[str]
) -> None:
    graph, database = Graph(router, current=60), Database(held(old_token="old"))
    graph.revoke.mock(side_effect=[said] * 3)

    check(database)

    assert database.steps == steps


def test_a_run_that_died_after_the_issue_is_finished_by_the_next(router: respx.Router) -> None:
    graph, database = Graph(router, current=10, issued=59), Database(held(next_token="issued"))

    assert check(database) == {"good": 1}
    assert database.steps == ["adopt", "good"]
    assert not graph.refresh.called


def test_a_token_left_behind_that_does_not_work_gives_way_to_another(router: respx.Router) -> None:
    Graph(router, current=10, issued=-1, new=60)
    database = Database(held(next_token="issued"))

    check(database)

    assert database.steps == ["drop", "offer", "adopt", "good"]


@pytest.mark.parametrize("trouble", ["invalid", "other number", "no right"])
def test_a_new_token_that_proves_nothing_is_dropped_and_the_old_one_stays(
    router: respx.Router, trouble: str
) -> None:
    graph, database = Graph(router, current=10, new=-1 if trouble == "invalid" else 60), Database(held())
    if trouble == "no right":
        graph.number.mock(return_value=httpx.Response(403, json={"error": {"code": 10}}))
    if trouble == "other number":
        graph.number.mock(return_value=httpx.Response(400, json={"error": {"code": 100}}))

    assert check(database) == {"failed": 1}
    assert database.steps == ["offer", "drop", "failed"]


def test_a_token_that_was_only_prolonged_is_never_revoked(router: respx.Router) -> None:
    graph, database = Graph(router, current=10), Database(held())
    graph.refresh.mock(return_value=httpx.Response(200, json={"access_token": "current"}))

    assert check(database) == {"good": 1}
    assert database.steps == ["good"]


def test_a_dead_token_is_told(router: respx.Router) -> None:
    Graph(router, current=-1)
    database = Database(held())

    assert check(database) == {"dead": 1}
    assert database.told[0] == ("dead", "n-1")


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(500),
        httpx.Response(200, text="<html>"),
        httpx.Response(400, json={"error": {"code": 190}}),
        httpx.Response(400, json={"error": {"code": 4}}),
        httpx.ConnectError("x"),
        httpx.ReadTimeout("x"),
    ],
)
@pytest.mark.parametrize("call", ["debug", "refresh"])
def test_trouble_with_meta_is_a_failure_and_never_a_dead_channel(
    router: respx.Router, call: str, trouble: Any
) -> None:
    graph, database = Graph(router, current=10), Database(held())
    getattr(graph, call).mock(side_effect=[trouble] * 3)

    assert check(database) == {"failed": 1}
    assert database.steps == ["failed"]


def test_what_becomes_of_one_number_is_nothing_to_the_others(router: respx.Router) -> None:
    graph = Graph(router, current=60, broken=60)
    database = Database(held("n-1"), held("n-2", token="broken"), held("n-3"))
    graph.debug.mock(
        side_effect=lambda request: (
            graph._debug(request)
            if request.url.params["input_token"] == "current"
            else httpx.Response(200, json={"data": {"is_valid": True, "expires_at": 1, "scopes": 3}})
        )
    )
    graph.refresh.mock(side_effect=ValueError("a mistake of ours"))

    assert check(database) == {"good": 2, "failed": 1}
    assert ("failed", "n-2") in database.told


def test_a_number_that_was_connected_meanwhile_is_left_to_who_has_it(router: respx.Router) -> None:
    Graph(router, current=10, new=60)

    assert check(Database(held(), mine=False)) == {"lost": 1}


def test_a_run_goes_on_from_the_time_of_its_first_claim(router: respx.Router) -> None:
    Graph(router, current=60)
    database = Database(held())

    check(database)

    assert database.sinces == [None, NOW.isoformat()]
    assert database.told[-1] == ("run", {"good": 1})


def test_it_answers_only_who_signs_and_says_no_token(
    monkeypatch: pytest.MonkeyPatch, router: respx.Router, lines: Lines
) -> None:
    environ = {
        "SUPABASE_URL": "http://db.example",
        "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
        "FUNCTIONS_SECRET": SECRET,
        **SETTINGS.environ,
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    Graph(router, current=10, new=60)
    pages = [[held()], []]
    rpc = router.post(url__regex=r"http://db.example/rest/v1/rpc/(?P<name>\w+)")
    answers = {"token_checks_claim": lambda: {"claim": "c", "now": NOW.isoformat(), "numbers": pages.pop(0)}}
    rpc.mock(side_effect=lambda _, name: httpx.Response(200, json=answers.get(name, lambda: True)()))
    with client(load("refresh_tokens").main) as function:
        unsigned = function.post("/", content=b"{}")
        headers = signature.sign(SECRET, b"{}", at=int(datetime.now(UTC).timestamp()))
        signed = function.post("/", content=b"{}", headers=headers)

    assert unsigned.status_code == 401
    assert (signed.status_code, signed.json()) == (200, {"good": 1})
    said = json.dumps(lines()) + signed.text
    assert not [secret for secret in ("app-secret-xyz", '"current"', '"new"') if secret in said]
