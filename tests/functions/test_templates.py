"""sync_templates: every account's templates as its provider lists them, each account for itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import respx

from shared import signature
from shared.accounts import base
from shared.errors import (
    BadRequestError,
    DatabaseUnavailableError,
    ForbiddenError,
    RecadoError,
    TokenRefusedError,
    UnavailableError,
    UpstreamError,
)
from shared.template_sync import TemplateSync
from shared.templates import (
    GraphTemplates,
    Listed,
    TemplateSettings,
    TwilioContents,
    graph_template,
    twilio_template,
)
from tests.functions.conftest import SECRET, client, load

SETTINGS = TemplateSettings(
    {"GRAPH_URL": "https://graph.example", "TWILIO_URL": "https://api.twilio.example"}
)
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TENANT = "0190a0a0-0000-7000-8000-000000000001"
GIVEN = {
    "id": "1200",
    "name": "cita",
    "language": "es",
    "category": "UTILITY",
    "status": "APPROVED",
    "rejected_reason": "NONE",
    "quality_score": {"score": "GREEN", "date": 1},
    "parameter_format": "POSITIONAL",
    "components": [{"type": "BODY", "text": "Hola {{1}}"}],
}
OURS = {
    "provider_template_id": "1200",
    "name": "cita",
    "language": "es",
    "category": "utility",
    "correct_category": None,
    "status": "approved",
    "rejected_reason": None,
    "quality": "GREEN",
    "parameter_format": "positional",
    "components": [{"type": "BODY", "text": "Hola {{1}}"}],
}
CONTENT = {
    "sid": "HX1",
    "friendly_name": "my content",
    "language": "es",
    "variables": {"1": "Ana"},
    "types": {
        "twilio/call-to-action": {
            "body": "Hola {{1}}",
            "actions": [{"type": "URL", "title": "Ver", "url": "https://c.example/{{2}}"}],
        }
    },
    "approval_requests": {
        "name": "cita",
        "category": "MARKETING",
        "content_type": "twilio/call-to-action",
        "status": "rejected",
        "rejection_reason": "Too loud",
    },
}

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PAUSES", (0.0, 0.0))


def graph(answer: Answer, account: str = "200") -> Listed:
    return asyncio.run(GraphTemplates(SETTINGS, httpx.MockTransport(answer)).of(account, "the token"))


def twilio(answer: Answer) -> Listed:
    return asyncio.run(TwilioContents(SETTINGS, httpx.MockTransport(answer)).of("AC1", "the token"))


def answering(*bodies: Any, status: int = 200) -> tuple[Answer, list[httpx.Request]]:
    """These answers one after the other, the last for ever; and what was asked."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        body = bodies[min(len(asked), len(bodies)) - 1]
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, content=content)

    return answer, asked


# what providers say


def test_a_list_is_read_to_its_end() -> None:
    first = {"data": [GIVEN], "paging": {"cursors": {"after": "abc"}, "next": "https://evil.example/"}}
    last = {"data": [{**GIVEN, "id": "1300"}], "paging": {"cursors": {"after": "xyz"}}}
    answer, asked = answering(first, last)

    listed = graph(answer)

    assert [one["provider_template_id"] for one in listed.templates] == ["1200", "1300"]
    assert listed.is_complete
    assert [request.url.host for request in asked] == ["graph.example"] * 2
    assert asked[0].url.path == "/v26.0/200/message_templates"
    assert asked[0].headers["authorization"] == "Bearer the token"
    assert [request.url.params.get("after") for request in asked] == [None, "abc"]


def test_a_list_without_end_is_left_and_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.templates.MOST_PAGES", 3)
    answer, asked = answering({"data": [GIVEN], "paging": {"cursors": {"after": "abc"}, "next": "x"}})

    listed = graph(answer)

    assert (len(asked), listed.is_complete) == (3, False)


def test_an_account_is_one_step_of_the_path() -> None:
    answer, asked = answering({"data": []})

    graph(answer, "200/../300?x=")

    assert asked[0].url.raw_path.startswith(b"/v26.0/200%2F..%2F300%3Fx%3D/message_templates?")


def test_a_template_of_graph_in_our_words() -> None:
    assert graph_template(GIVEN) == OURS


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"rejected_reason": "SCAM"}, {"rejected_reason": "SCAM"}),
        ({"category": "ACCOUNT_UPDATE"}, {"category": "marketing"}),
        ({"correct_category": "MARKETING"}, {"correct_category": "marketing"}),
        ({"parameter_format": "NAMED"}, {"parameter_format": "named"}),
        ({"quality_score": "RED"}, {"quality": "RED"}),
        ({"quality_score": None}, {"quality": None}),
        ({"components": [7, {"type": "BODY"}]}, {"components": [{"type": "BODY"}]}),
        ({"components": None}, {"components": []}),
        ({"id": 1200}, {}),
    ],
)
def test_what_graph_may_say(given: dict[str, Any], ours: dict[str, Any]) -> None:
    assert graph_template({**GIVEN, **given}) == {**OURS, **ours}


@pytest.mark.parametrize("missing", ["id", "name", "language", "status"])
def test_an_entry_that_makes_no_sense_makes_the_list_incomplete(missing: str) -> None:
    answer, _ = answering({"data": [GIVEN, {**GIVEN, missing: None}, "rubbish"]})

    listed = graph(answer)

    assert (len(listed.templates), listed.is_complete) == (1, False)


def test_twilio_s_contents_are_read_to_their_end_and_at_its_own_host() -> None:
    following = {"next_page_url": "https://evil.example/v1/Content?PageSize=100&PageToken=abc"}
    answer, asked = answering({"contents": [CONTENT], "meta": following}, {"contents": [], "meta": {}})

    listed = twilio(answer)

    assert listed.is_complete
    assert [str(request.url.copy_with(query=None)) for request in asked] == [
        "https://content.twilio.example/v1/ContentAndApprovals"
    ] * 2
    assert asked[1].url.params["PageToken"] == "abc"
    assert asked[0].headers["authorization"].startswith("Basic ")


def test_a_content_of_twilio_in_our_words() -> None:
    assert twilio_template(CONTENT) == {
        "provider_template_id": "HX1",
        "name": "cita",
        "language": "es",
        "category": "marketing",
        "status": "rejected",
        "rejected_reason": "Too loud",
        "parameter_format": "positional",
        "components": [
            {"type": "BODY", "text": "Hola {{1}}"},
            {
                "type": "BUTTONS",
                "buttons": [{"type": "URL", "text": "Ver", "url": "https://c.example/{{2}}"}],
            },
        ],
    }


def test_a_content_nobody_asked_approval_for_is_not_approved() -> None:
    found = twilio_template({**CONTENT, "approval_requests": {}})

    assert found is not None
    assert (found["name"], found["status"]) == ("my content", "unsubmitted")


@pytest.mark.parametrize(
    ("content", "components"),
    [
        (
            {"title": "Oferta", "subtitle": "Hoy", "media": ["https://cdn.example/{{1}}.jpg"], "actions": []},
            [
                {"type": "HEADER", "format": "MEDIA", "media": ["https://cdn.example/{{1}}.jpg"]},
                {"type": "BODY", "text": "Oferta"},
                {"type": "FOOTER", "text": "Hoy"},
            ],
        ),
        (
            {"header_text": "Cita", "body": "Hola", "actions": [{"title": "Sí", "id": "yes"}]},
            [
                {"type": "HEADER", "text": "Cita"},
                {"type": "BODY", "text": "Hola"},
                {"type": "BUTTONS", "buttons": [{"type": "QUICK_REPLY", "text": "Sí"}]},
            ],
        ),
        ({}, []),
    ],
)
def test_contents_come_in_many_types(content: dict[str, Any], components: list[Any]) -> None:
    found = twilio_template({**CONTENT, "types": {"twilio/call-to-action": content}})

    assert found is not None
    assert found["components"] == components


# when they cannot


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, {}, UpstreamError),
        (200, [], UpstreamError),
        (200, {"data": None}, UpstreamError),
        (200, b"<html>", UpstreamError),
        (400, {"error": {"code": 190, "message": "the token has ended"}}, TokenRefusedError),
        (403, {"error": {"code": 10, "message": "(#10) no right"}}, ForbiddenError),
        (400, {"error": {"code": 80007, "message": "too often"}}, UnavailableError),
        (400, {"error": {"code": 100, "message": "no such account"}}, BadRequestError),
        (429, b"", UnavailableError),
        (500, b"", UnavailableError),
        (503, {"error": {"code": 2}}, UnavailableError),
    ],
)
def test_each_refusal_of_meta_is_an_error_of_ours(status: int, body: Any, error: type[RecadoError]) -> None:
    answer, _ = answering(body, status=status)

    with pytest.raises(error) as refused:
        graph(answer)
    assert "the token" not in refused.value.message


@pytest.mark.parametrize(
    ("status", "error"), [(401, TokenRefusedError), (403, ForbiddenError), (500, UnavailableError)]
)
def test_each_refusal_of_twilio_too(status: int, error: type[RecadoError]) -> None:
    answer, _ = answering({"code": status, "message": "no"}, status=status)

    with pytest.raises(error):
        twilio(answer)


@pytest.mark.parametrize("trouble", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_a_network_that_fails_is_asked_twice_more(trouble: type[httpx.HTTPError]) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) < 3:
            raise trouble("gone")
        return httpx.Response(200, json={"data": [GIVEN]})

    assert graph(answer).templates == [OURS]


# bringing them home


class Database:
    """Accounts and tokens, and what it was told."""

    def __init__(self, *accounts: dict[str, Any], tokens: Mapping[str, str] | None = None) -> None:
        self.accounts = list(accounts)
        self.tokens = {"n1": "t1", "n2": "t2"} if tokens is None else tokens
        self.applied: list[dict[str, Any]] = []
        self.failed: list[tuple[str, str]] = []
        self.runs: list[Mapping[str, int]] = []
        self.trouble: list[Exception] = []

    async def template_accounts(self, *, tenant_id: str | None) -> dict[str, Any]:
        return {"now": NOW.isoformat(), "accounts": self.accounts}

    async def channel_tokens(self, *, numbers: Sequence[Any]) -> list[Any]:
        return [
            {"number_id": one["number_id"], "token": self.tokens[one["number_id"]]}
            for one in numbers
            if one["number_id"] in self.tokens
        ]

    async def templates_apply(self, **told: Any) -> Mapping[str, int]:
        if self.trouble:
            raise self.trouble.pop()
        self.applied.append(told)
        return {"added": len(told["templates"]), "changed": 0, "deleted": 0}

    async def templates_fail(self, *, tenant_id: str, waba_id: str, problem: str) -> None:
        self.failed.append((waba_id, problem))

    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None:
        self.runs.append(dict(counts))


class Provider:
    """Lists one template for every account but those in trouble."""

    def __init__(self, trouble: Mapping[str, Exception] | None = None) -> None:
        self.trouble = trouble or {}
        self.asked: list[tuple[str, str]] = []

    async def of(self, account: str, token: str) -> Listed:
        self.asked.append((account, token))
        if account in self.trouble:
            raise self.trouble[account]
        return Listed([OURS], is_complete=True)


def account(waba_id: str, *numbers: str, provider: str = "cloud_api") -> dict[str, Any]:
    keys = [{"tenant_id": TENANT, "number_id": number} for number in numbers]
    return {"tenant_id": TENANT, "provider": provider, "waba_id": waba_id, "numbers": keys}


def sync(database: Database, provider: Provider) -> Mapping[str, int]:
    catalogues = {"cloud_api": provider, "twilio": provider}
    return asyncio.run(TemplateSync(database, catalogues).run(None))


def test_every_account_is_listed_with_a_token_of_its_own() -> None:
    database, provider = Database(account("A", "n0", "n1"), account("B", "n2", provider="twilio")), Provider()

    counts = sync(database, provider)

    assert provider.asked == [("A", "t1"), ("B", "t2")]
    assert counts == {"accounts": 2, "added": 2, "changed": 0, "deleted": 0}
    assert [(told["waba_id"], told["provider"]) for told in database.applied] == [
        ("A", "cloud_api"),
        ("B", "twilio"),
    ]
    assert NOW <= database.applied[0]["listed_at"] < NOW + timedelta(seconds=5)
    assert database.runs == [counts]


@pytest.mark.parametrize("trouble", [TokenRefusedError(), UnavailableError(), KeyError("a mistake of ours")])
def test_an_account_that_fails_is_nothing_to_the_others(trouble: Exception) -> None:
    database = Database(*(account(str(n), "n1") for n in range(12)))

    counts = sync(database, Provider({"3": trouble}))

    assert (counts["accounts"], counts["failed"]) == (11, 1)
    assert [waba_id for waba_id, _ in database.failed] == ["3"]
    assert "a mistake of ours" not in database.failed[0][1]


def test_without_a_token_there_is_nobody_to_ask() -> None:
    database, provider = Database(account("A", "n9")), Provider()

    assert sync(database, provider) == {"without_token": 1}
    assert (provider.asked, database.failed) == ([], [])


def test_a_database_that_is_away_for_a_moment_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.drain.PAUSES", (0.0,))
    database = Database(account("A", "n1"))
    database.trouble = [DatabaseUnavailableError()]

    assert sync(database, Provider())["accounts"] == 1


# the function


def call(body: bytes, monkeypatch: pytest.MonkeyPatch) -> httpx.Response:
    monkeypatch.setenv("SUPABASE_URL", "https://db.example")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "key")
    monkeypatch.setenv("FUNCTIONS_SECRET", SECRET)
    headers = signature.sign(SECRET, body, at=int(time.time()))
    answer = client(load("sync_templates").main).post("/", content=body, headers=headers)
    return httpx.Response(answer.status_code, json=answer.json())


@pytest.mark.parametrize(
    ("body", "asked"), [(b"{}", None), (json.dumps({"tenant_id": TENANT}).encode(), TENANT)]
)
def test_it_lists_all_or_one_business(
    body: bytes, asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with respx.mock(base_url="https://db.example/rest/v1/rpc") as database:
        accounts = database.post("/template_accounts").respond(json={"now": NOW.isoformat(), "accounts": []})
        database.post("/job_run_record").respond(json=None)

        answer = call(body, monkeypatch)

    assert (answer.status_code, answer.json()) == (200, {})
    assert json.loads(accounts.calls[0].request.content) == {"p_tenant_id": asked}


@pytest.mark.parametrize("body", [b'{"tenant_id": "all"}', b'{"tenant_id": 7}', b"", b"nonsense"])
def test_a_business_is_named_by_its_id(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(body, monkeypatch).status_code == 400
