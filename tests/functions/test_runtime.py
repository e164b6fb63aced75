"""The wrapper: what every function refuses, reports and logs, whatever its handlers do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from shared import health, logs, signature
from shared.errors import DatabaseUnavailableError, UnauthorizedError
from shared.health import POSTGREST, Dependency
from shared.runtime import Deps, Request, Response, Route, serve
from shared.settings import Setting, Settings
from tests.functions.conftest import SECRET, Lines, client, load

NOW = 1_800_000_000


async def answer(request: Request, deps: Deps) -> Response:
    return Response.json(200, {"path": request.path, "query": dict(request.query), "size": len(request.body)})


async def read_json(request: Request, deps: Deps) -> Response:
    return Response.json(200, request.json())


def serving(handler: Any = answer, *, environ: dict[str, str] | None = None, **options: Any) -> TestClient:
    settings = Settings({"FUNCTIONS_SECRET": SECRET} if environ is None else environ)
    routes = {("GET", "/"): handler, ("POST", "/"): handler, ("POST", "/run"): Route(handler, internal=True)}
    return client(serve(routes, deps=lambda: Deps(settings), **options))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


def test_main_is_the_plain_function_the_framework_wants() -> None:
    assert isinstance(serve({}), FunctionType)


def test_a_handler_gets_path_query_and_raw_body() -> None:
    found = serving().post("/?name=Ana", content=b"abc").json()

    assert found == {"path": "/", "query": {"name": "Ana"}, "size": 3}


def test_an_unknown_path_is_not_found() -> None:
    refused = serving().get("/nowhere")

    assert refused.status_code == 404
    assert refused.json().keys() == {"code", "message", "hint"}
    assert refused.json()["code"] == "not_found"


def test_a_wrong_method_says_which_ones_are_right() -> None:
    refused = serving().delete("/")

    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
    assert refused.json()["hint"] == "Use GET, POST."


def test_an_escaped_question_mark_belongs_to_the_path() -> None:
    assert serving().get("/%3Fname=Ana").status_code == 404


def test_head_is_answered_like_get() -> None:
    assert serving().head("/").status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"NaN", b"[" * 100_000, b"9" * 5_000])
def test_a_body_that_is_not_json_is_a_bad_request(body: bytes) -> None:
    refused = serving(read_json).post("/", content=body)

    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


def test_a_body_at_the_limit_is_read() -> None:
    assert serving(max_body=10).post("/", content=b"x" * 10).json()["size"] == 10


def test_a_declared_body_over_the_limit_is_refused() -> None:
    refused = serving(max_body=10).post("/", content=b"x" * 11)

    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert refused.headers["connection"] == "close"


def test_a_streamed_body_is_refused_as_soon_as_it_passes_the_limit() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 6

    # a client may promise less than it sends, or nothing at all
    assert serving(max_body=10).post("/", content=_first(endless(), 3)).status_code == 413


def _first(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    return (next(chunks) for _ in range(count))


def test_an_error_of_ours_becomes_its_status_with_retry_after() -> None:
    async def fail(request: Request, deps: Deps) -> Response:
        raise DatabaseUnavailableError

    refused = serving(fail).get("/")

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_an_unexpected_error_leaks_nothing_but_the_request_id(lines: Lines) -> None:
    async def fail(request: Request, deps: Deps) -> Response:
        raise ValueError("the password is hunter2")

    refused = serving(fail).get("/", headers={"x-request-id": "abc-1"})

    assert refused.status_code == 500
    assert "hunter2" not in refused.text
    assert "abc-1" in refused.json()["hint"]
    crash, _request = lines()
    assert crash["severity"] == "ERROR"
    assert "ValueError" in crash["stack_trace"]


# --- calls of our own workers


def test_a_signed_call_is_let_in(clock: None) -> None:
    signed = signature.sign(SECRET, b"{}", at=NOW)

    assert serving().post("/run", content=b"{}", headers=signed).status_code == 200


@pytest.mark.parametrize("age", [-301, 301, 10**9])
def test_a_call_outside_the_window_is_refused_in_both_directions(clock: None, age: int) -> None:
    signed = signature.sign(SECRET, b"{}", at=NOW - age)

    assert serving().post("/run", content=b"{}", headers=signed).status_code == 401


@pytest.mark.parametrize("timestamp", ["", "soon", "-5", "1e9", "٣", "9" * 5_000, f" {NOW}"])
def test_a_timestamp_that_is_no_number_is_refused(clock: None, timestamp: str) -> None:
    headers = {signature.TIMESTAMP: timestamp, signature.SIGNATURE: "sha256=00"}

    with pytest.raises(UnauthorizedError):
        signature.check(SECRET, headers, b"{}")


@pytest.mark.parametrize("forged", ["", "sha256=", "sha256=" + "0" * 64, "ñ"])
def test_a_wrong_signature_is_refused_before_the_handler_runs(clock: None, forged: str) -> None:
    headers = {signature.TIMESTAMP: str(NOW), signature.SIGNATURE: forged}

    with pytest.raises(UnauthorizedError):
        signature.check(SECRET, headers, b"{}")


def test_a_body_changed_on_the_way_is_refused(clock: None) -> None:
    signed = signature.sign(SECRET, b'{"pay": 1}', at=NOW)

    refused = serving().post("/run", content=b'{"pay": 9}', headers=signed)

    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")


def test_both_secrets_are_accepted_during_a_rotation(clock: None) -> None:
    function = serving(environ={"FUNCTIONS_SECRET": "new, old"})

    def call(secret: str) -> int:
        return function.post("/run", content=b"{}", headers=signature.sign(secret, b"{}", at=NOW)).status_code

    assert [call("new"), call("old"), call("older")] == [200, 200, 401]


@pytest.mark.parametrize("secrets", [",", " , ", "x,"])
def test_an_empty_secret_lets_nobody_in(clock: None, secrets: str) -> None:
    signed = signature.sign("", b"{}", at=NOW)

    refused = serving(environ={"FUNCTIONS_SECRET": secrets}).post("/run", content=b"{}", headers=signed)

    assert refused.status_code in {401, 503}


@given(
    body=st.binary(max_size=200),
    secret=st.text(min_size=1).filter(lambda text: "," not in text and text.strip() == text),
)
def test_whatever_is_signed_can_be_checked(body: bytes, secret: str) -> None:
    signature.check(secret, signature.sign(secret, body, at=int(time.time())), body)


# --- health and settings


def test_health_tells_name_version_and_state() -> None:
    report = serving().get("/health")

    assert report.status_code == 200
    assert report.json() == {
        "status": "ok",
        "name": "checkout",
        "version": "unbuilt",
        "dependencies": {},
        "missing": [],
    }


async def _up(settings: Settings) -> None:
    return None


async def _down(settings: Settings) -> None:
    raise ConnectionRefusedError("10.0.0.7:5432 said no")


async def _stalled(settings: Settings) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("probe", "needed", "status", "state"),
    [
        (_up, True, 200, "up"),
        (_down, True, 503, "down: ConnectionRefusedError"),
        (_down, False, 200, "down: ConnectionRefusedError"),
        (_stalled, True, 503, "down: no answer within 0.05 seconds"),
    ],
)
def test_health_fails_with_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, probe: Any, needed: bool, status: int, state: str
) -> None:
    monkeypatch.setattr(health, "TIMEOUT", 0.05)

    report = serving(dependencies=[Dependency("it", probe, needed=needed)]).get("/health")

    assert (report.status_code, report.json()["dependencies"]) == (status, {"it": state})


def test_a_dependency_is_asked_once_a_second_however_many_ask() -> None:
    asked: list[int] = []

    async def count(settings: Settings) -> None:
        asked.append(1)

    function = serving(dependencies=[Dependency("it", count)])
    for _ in range(20):
        function.get("/health")

    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "state"), [(200, "up"), (401, "down: answered 401"), (503, "down: answered 503")]
)
def test_postgrest_is_up_when_it_can_read(status: int, state: str) -> None:
    async def ask() -> dict[str, str]:
        async def one_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HEAD /rest/v1/plans?")
            assert b"apikey: sb_secret_x\r\n" in head
            writer.write(f"HTTP/1.1 {status} whatever\r\n\r\n".encode())
            writer.close()

        async with await asyncio.start_server(one_answer, "127.0.0.1", 0) as gateway:
            port = gateway.sockets[0].getsockname()[1]
            settings = Settings(
                {"SUPABASE_URL": f"http://127.0.0.1:{port}", "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x"}
            )
            return await health.Health([POSTGREST]).states(settings)

    assert asyncio.run(ask()) == {"postgrest": state}


def test_a_missing_setting_is_reported_at_start_and_refuses_every_request(lines: Lines) -> None:
    function = serving(environ={}, needs=[Settings.supabase_url])

    (start,) = lines()
    assert (start["severity"], start["missing"]) == ("CRITICAL", ["FUNCTIONS_SECRET", "SUPABASE_URL"])
    assert function.get("/").status_code == 503
    assert function.get("/health").status_code == 503
    assert function.get("/health").json()["missing"] == ["FUNCTIONS_SECRET", "SUPABASE_URL"]


def test_without_the_secret_only_signed_calls_are_refused() -> None:
    function = serving(environ={})

    assert [function.get("/").status_code, function.post("/run").status_code] == [200, 503]
    assert function.get("/health").json()["missing"] == ["FUNCTIONS_SECRET"]


def test_reading_a_setting_that_is_not_set_names_it() -> None:
    with pytest.raises(Exception, match=r"SUPABASE_URL \(address of the project's API\) is not set"):
        _ = Settings({"SUPABASE_URL": "  "}).supabase_url


def test_settings_keep_their_values_out_of_repr() -> None:
    assert SECRET not in repr(Deps(Settings({"FUNCTIONS_SECRET": SECRET})))


def test_every_setting_says_what_it_is_for() -> None:
    declared = [value for value in vars(Settings).values() if isinstance(value, Setting)]

    assert declared
    assert all(setting.purpose for setting in declared)


# --- logs


def test_a_request_is_one_line(lines: Lines) -> None:
    serving().get("/?phone=573001234567", headers={"x-request-id": "abc-1"})

    (line,) = lines()
    assert line["severity"] == "INFO"
    assert (line["method"], line["route"], line["status"]) == ("GET", "/", 200)
    assert (line["function"], line["request_id"]) == ("checkout", "abc-1")
    assert line["ms"] >= 0


def test_a_refusal_is_one_warning_that_names_its_code(lines: Lines) -> None:
    serving().get("/+573001234567")

    (line,) = lines()
    assert (line["severity"], line["code"], line["route"]) == ("WARNING", "not_found", "unknown")


def test_a_healthy_answer_is_not_worth_a_line(lines: Lines) -> None:
    serving().get("/health")

    assert lines() == []


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("headers", "request_id", "span"),
    [
        ({"x-cloud-trace-context": f"{TRACE}/255;o=1"}, TRACE, "00000000000000ff"),
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, TRACE, "b7ad6b7169203331"),
        (
            {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "mine"},
            "mine",
            "b7ad6b7169203331",
        ),
    ],
)
def test_lines_of_a_request_share_the_callers_trace(
    monkeypatch: pytest.MonkeyPatch, lines: Lines, headers: dict[str, str], request_id: str, span: str
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "shop")

    answered = serving().get("/", headers=headers)

    (line,) = lines()
    assert answered.headers["x-request-id"] == line["request_id"] == request_id
    assert line["logging.googleapis.com/trace"] == f"projects/shop/traces/{TRACE}"
    assert line["logging.googleapis.com/spanId"] == span


@pytest.mark.parametrize("forged", ["", "a b", "x" * 129, 'a"}'])
def test_a_request_id_that_could_break_a_log_is_replaced(forged: str) -> None:
    given = serving().get("/", headers={"x-request-id": forged}).headers["x-request-id"]

    assert len(given) == 32


@pytest.mark.parametrize(
    "secret",
    [
        "+57 300 123 4567",
        "573001234567@c.us",
        "(300) 123-4567",
        "lead_573001234567",
        "Bearer abc.def",
        "sb_secret_0123456789",
        "sk-proj-0123456789",
        "EAAGm0PX4ZCpsBAKZ",
        "eyJhbGciOi.eyJzdWIi.c2ln",
        "wamid.HBgMNTczMDAxMjM0NTY3",
        "ana@clinica.example",
    ],
)
def test_what_looks_private_is_redacted_wherever_it_is_said(secret: str) -> None:
    assert logs.redact(f"to {secret} now") in {"to [redacted] now", "to lead_[redacted] now"}
    assert logs.redact({"note": [secret]})["note"][0].endswith("[redacted]")


@pytest.mark.parametrize(
    "fields",
    [{"phone": "x"}, {"text": "hola"}, {"access_token": "x"}, {"number": 573001234567}, {"a": {"body": "x"}}],
)
def test_private_fields_are_redacted_whatever_they_hold(fields: dict[str, Any]) -> None:
    assert "[redacted]" in str(logs.redact(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"lead_id": "01983f7e-5c1a-7d3e-9b2a-123456789012"},
        {"due": "2026-11-20 09:00:00", "at": "2026-11-20T09:00:00.123456+00:00"},
        {"count": 200, "ms": 12.5, "ok": True, "none": None},
        {"tokens_used": 1200, "thread_token_count": 5},
        {"version": "0.1.0+31b4574a4b8e", "route": "/health"},
    ],
)
def test_what_an_operator_needs_stays(fields: dict[str, Any]) -> None:
    assert logs.redact(fields) == fields


def test_libraries_speak_from_warning_on(lines: Lines) -> None:
    serving()
    logging.getLogger("httpx").info("HTTP Request: GET https://graph.example/573001234567")
    logging.getLogger("shared.inbox").info("stored", extra={"action": "receive", "stored": 3})

    (line,) = lines()
    assert (line["message"], line["stored"]) == ("stored", 3)


# --- hello


def test_hello_greets() -> None:
    assert client(load("hello").main).get("/?name=Ana").text == "Hello, Ana!\n"


def test_hello_echoes_what_our_own_callers_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNCTIONS_SECRET", SECRET)
    signed = signature.sign(SECRET, b'{"n": 1}', at=int(time.time()))

    answered = client(load("hello").main).post("/echo", content=b'{"n": 1}', headers=signed)

    assert answered.json() == {"echo": {"n": 1}}


# Paths with parameters, and gates


ID = "0198a000-0000-7000-8000-000000000001"


def test_a_parameter_of_the_path_is_one_of_our_ids() -> None:
    async def tell(request: Request, deps: Deps) -> Response:
        return Response.json(200, dict(request.params))

    serving = client(serve({("GET", "/of/{lead_id}"): tell}, deps=lambda: Deps(Settings({}))))

    assert serving.get(f"/of/{ID}").json() == {"lead_id": ID}
    assert [serving.get(f"/of/{other}").status_code for other in ("7", f"{ID}/x", "", ID.upper())] == [
        404
    ] * 4
    assert serving.post(f"/of/{ID}").status_code == 405


def test_a_gate_refuses_before_the_body_is_read() -> None:
    async def refuse(request: Request, deps: Deps) -> None:
        assert request.body == b""
        raise UnauthorizedError

    routes = {("POST", "/"): Route(answer, gate=refuse)}

    refused = client(serve(routes, max_body=1, deps=lambda: Deps(Settings({})))).post(
        "/", content=b"too long"
    )

    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [(None, "testclient"), ("203.0.113.1", "203.0.113.1"), ("any, 203.0.113.2", "203.0.113.2")],
)
def test_a_request_comes_from_where_the_last_proxy_says(forwarded: str | None, address: str) -> None:
    async def tell(request: Request, deps: Deps) -> Response:
        return Response(200, request.client)

    headers = {"x-forwarded-for": forwarded} if forwarded else {}

    assert serving(tell).get("/", headers=headers).text == address
