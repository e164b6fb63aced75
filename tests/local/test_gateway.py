"""The gateway: what passes through unchanged, who is let in, and what clients see when a service is away."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import jwt
import psycopg
import pytest

from local.messages import Forward
from local.proxy import MAX_HEAD, Server
from local.tokens import Gate, Keys, RefusedError
from local.upstream import Upstream
from tests.conftest import free_port
from tests.local.conftest import JWT_SECRET, PUBLISHABLE, SECRET, Stack, end, gateway, wait_for

BROWSER = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"


class Service(BaseHTTPRequestHandler):
    """A service behind the gateway that behaves as its path says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    released = threading.Event()
    served = 0

    def handle_one_request(self) -> None:
        super().handle_one_request()
        self.served += 1

    def answer(self, body: bytes = b"", code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if code not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/") or "echo"
        getattr(self, path)()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        if self.path == "/dies":
            return self.dies()
        if self.path == "/reject":
            self.answer(b"too large", 413)
            self.sized()
            return None
        body = self.chunks() if self.headers["Transfer-Encoding"] else self.sized()
        return self.answer(json.dumps([len(body), hashlib.sha256(body).hexdigest()]).encode())

    def sized(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def echo(self) -> None:
        seen = {"path": self.path, "headers": {name.lower(): value for name, value in self.headers.items()}}
        self.answer(json.dumps(seen).encode(), Keep_Alive="timeout=5", X_Mine="yes")

    def empty(self) -> None:
        self.answer(code=204)

    def unchanged(self) -> None:
        self.answer(code=304, ETag='"1"')

    def large(self) -> None:
        self.answer(b"x" * 30_000_000)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        assert self.released.wait(10)
        self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")

    def until_close(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\nto the end")
        self.close_connection = True

    def cut(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes!")
        self.close_connection = True

    def dies(self) -> None:
        self.close_connection = True

    def dies_when_reused(self) -> None:
        if self.served:
            self.close_connection = True
        else:
            self.answer(b"fresh")

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Proxied:
    port: int
    url: str


@pytest.fixture(scope="module")
def proxied() -> Iterator[Proxied]:
    """A gateway in front of one function that is ours, and of services that are away."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port, nobody = free_port(), f"http://127.0.0.1:{free_port()}"
    functions = {"service": f"http://127.0.0.1:{server.server_port}", "away": nobody}
    with gateway(port, nobody, nobody, functions):
        yield Proxied(port, f"http://127.0.0.1:{port}/functions/v1/service")
    server.shutdown()
    server.server_close()


def raw(port: int, request: bytes) -> bytes:
    """What a connection brings until the gateway closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# what passes


def test_a_function_sees_its_own_path_and_whose_request_it_is(proxied: Proxied) -> None:
    seen = httpx.get(f"{proxied.url}/echo/?a=1&b=%2F", headers={"X-Forwarded-For": "203.0.113.9"}).json()

    assert seen["path"] == "/echo/?a=1&b=%2F"
    assert seen["headers"]["x-forwarded-for"] == "203.0.113.9, 127.0.0.1"
    assert seen["headers"]["x-forwarded-host"] == f"127.0.0.1:{proxied.port}"
    assert seen["headers"]["x-forwarded-proto"] == "http"


def test_headers_of_one_hop_stay_on_it(proxied: Proxied) -> None:
    sent = {"Connection": "keep-alive, X-Hop", "X-Hop": "1", "TE": "trailers", "X-Custom": "2"}

    answer = httpx.get(f"{proxied.url}/echo", headers=sent)

    assert answer.json()["headers"].keys().isdisjoint({"connection", "x-hop", "te"})
    assert answer.json()["headers"]["x-custom"] == "2"
    assert "keep-alive" not in answer.headers
    assert answer.headers["x-mine"] == "yes"


@pytest.mark.parametrize("chunked", [True, False])
def test_a_large_upload_arrives_whole(proxied: Proxied, chunked: bool) -> None:
    body = bytes(range(256)) * 80_000
    parts = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]

    answer = httpx.post(f"{proxied.url}/upload", content=iter(parts) if chunked else body)

    assert answer.json() == [len(body), hashlib.sha256(body).hexdigest()]


def test_a_large_download_waits_for_a_slow_reader_and_holds_up_nobody(proxied: Proxied) -> None:
    with httpx.stream("GET", f"{proxied.url}/large") as slow:
        pieces = slow.iter_raw(1000)
        size = len(next(pieces))
        assert httpx.get(f"{proxied.url}/echo").status_code == 200
        size += sum(len(piece) for piece in pieces)

    assert size == 30_000_000


def test_a_response_streams_while_it_is_made(proxied: Proxied) -> None:
    Service.released.clear()
    with httpx.stream("GET", f"{proxied.url}/stream") as response:
        pieces = response.iter_raw()
        first = next(pieces)
        Service.released.set()

        assert [first, *pieces] == [b"first", b"second"]


@pytest.mark.parametrize(("path", "code"), [("empty", 204), ("unchanged", 304)])
def test_responses_without_a_body_leave_the_connection_usable(proxied: Proxied, path: str, code: int) -> None:
    with httpx.Client() as client:
        assert [client.get(f"{proxied.url}/{path}").status_code for _ in range(3)] == [code] * 3


def test_head_announces_a_body_and_sends_none(proxied: Proxied) -> None:
    with httpx.Client() as client:
        answers = [client.head(f"{proxied.url}/large") for _ in range(3)]

    assert [(a.headers["content-length"], a.content) for a in answers] == [("30000000", b"")] * 3


def test_a_body_that_ends_with_its_connection_is_passed_on_whole(proxied: Proxied) -> None:
    assert httpx.get(f"{proxied.url}/until_close").text == "to the end"


def test_a_client_that_asks_before_sending_is_told_to_go_on(proxied: Proxied) -> None:
    with socket.create_connection(("127.0.0.1", proxied.port), timeout=10) as connection:
        head = b"POST /functions/v1/service/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        connection.sendall(head + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hi")
        assert hashlib.sha256(b"hi").hexdigest().encode() in b"".join(
            iter(lambda: connection.recv(1000), b"")
        )


def test_a_client_that_asks_before_sending_is_refused_before(proxied: Proxied) -> None:
    head = b"POST /rest/v1/notes HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"

    assert raw(proxied.port, head).startswith(b"HTTP/1.1 401 Unauthorized\r\n")


def test_pipelined_requests_are_answered_in_order(proxied: Proxied) -> None:
    request = b"GET /functions/v1/service/echo?%d HTTP/1.1\r\nHost: x\r\n%b\r\n"
    many = [request % (n, b"Connection: close\r\n" if n == 199 else b"") for n in range(200)]

    answers = raw(proxied.port, b"".join(many)).split(b"HTTP/1.1 200")[1:]

    assert [b"/echo?%d" % n in answer for n, answer in enumerate(answers)] == [True] * 200


def test_a_client_that_would_rather_speak_http_2_is_answered_in_http_1(proxied: Proxied) -> None:
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"

    answer = raw(proxied.port, b"GET /functions/v1/service/echo HTTP/1.1\r\nHost: x\r\n" + wish + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"h2c" not in answer


def test_an_http_1_0_client_gets_a_body_it_understands(proxied: Proxied) -> None:
    Service.released.set()

    answer = raw(proxied.port, b"GET /functions/v1/service/stream HTTP/1.0\r\n\r\n")

    assert answer.endswith(b"\r\n\r\nfirstsecond")
    assert b"chunked" not in answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"400"),
    ],
    ids=["no http", "large head", "two lengths", "two content lengths"],
)
def test_what_is_no_proper_request_is_refused(proxied: Proxied, request_bytes: bytes, status: bytes) -> None:
    assert raw(proxied.port, request_bytes).startswith(b"HTTP/1.1 " + status)


def test_a_head_without_end_is_refused(proxied: Proxied) -> None:
    with socket.create_connection(("127.0.0.1", proxied.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        time.sleep(0.1)
        connection.sendall(b"x" * (MAX_HEAD + 1))

        assert connection.recv(1000).startswith(b"HTTP/1.1 431 ")


# services that fail


def test_a_service_that_is_away_answers_503_and_when_to_come_back(proxied: Proxied) -> None:
    answer = httpx.post(proxied.url.replace("service", "away"), content=b"x" * 100_000)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json().keys() == {"code", "message", "hint", "details"}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_service_that_dies_before_it_answers_is_a_503(proxied: Proxied, method: str) -> None:
    assert httpx.request(method, f"{proxied.url}/dies").status_code == 503


def test_a_response_that_breaks_off_does_not_look_whole(proxied: Proxied) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{proxied.url}/cut")


def test_a_get_that_met_a_closing_connection_is_repeated(proxied: Proxied) -> None:
    with httpx.Client() as client:
        answers = [client.get(f"{proxied.url}/dies_when_reused").text for _ in range(5)]

    assert answers == ["fresh"] * 5


def test_an_early_refusal_reaches_a_client_that_still_sends(proxied: Proxied) -> None:
    answer = httpx.post(f"{proxied.url}/reject", content=b"x" * 5_000_000)

    assert (answer.status_code, answer.text) == (413, "too large")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 504 Gateway Timeout\r\n"), (b"GET / HTT", b""), (b"", b"")],
    ids=["a service that never answers", "half a head", "an idle client"],
)
def test_nobody_is_waited_for_for_ever(sent: bytes, answer: bytes) -> None:
    assert asyncio.run(overdue(sent)).startswith(answer)


async def overdue(sent: bytes) -> bytes:
    """What a client gets when its time is over; the service behind takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        upstream = Upstream("silent", f"http://127.0.0.1:{silent.getsockname()[1]}")
        server = Server(lambda request: Forward(upstream, b"/", request.headers), [upstream])
        running = asyncio.create_task(server.run(port := free_port(), stop := asyncio.Event(), grace=0))
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await asyncio.sleep(0.05)
        for client in server.clients:
            client.extend(-1)
        received = b""
        with suppress(ConnectionResetError):
            received = await reader.readline()
        writer.close()
        stop.set()
        await running
        await asyncio.sleep(0)  # the loop closes what was aborted
    return received


def test_an_unknown_function_names_the_known_ones(proxied: Proxied) -> None:
    answer = httpx.get(proxied.url.replace("service", "nothing"))

    assert answer.status_code == 404
    assert answer.json()["hint"] == "Functions: away, service."


def test_health_says_which_service_is_away(proxied: Proxied) -> None:
    answer = httpx.get(f"http://127.0.0.1:{proxied.port}/health")

    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "rest": False, "auth": False}


def test_sigterm_finishes_what_runs_and_exits_with_0() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with gateway(port := free_port(), nobody, nobody) as process:
        idle = socket.create_connection(("127.0.0.1", port))
        process.send_signal(signal.SIGTERM)
        with idle:
            assert idle.recv(1) == b""

        assert process.wait(timeout=5) == 0


# who is let in


def notes(
    stack: Stack, *, apikey: str | None = PUBLISHABLE, token: str | None = None, **headers: str
) -> httpx.Response:
    """Read the notes with these credentials."""
    chosen = {"apikey": apikey, "Authorization": f"Bearer {token}" if token else None, **headers}
    return httpx.get(
        f"{stack.url}/rest/v1/notes",
        headers={name: value for name, value in chosen.items() if value is not None},
    )


@pytest.mark.parametrize("token", [None, PUBLISHABLE])
def test_the_publishable_key_is_anon(stack: Stack, token: str | None) -> None:
    answer = httpx.post(
        f"{stack.url}/rest/v1/notes",
        json={"body": "x"},
        headers={"apikey": PUBLISHABLE, "Prefer": "return=minimal"},
    )

    assert notes(stack, token=token).json() == []
    assert (answer.status_code, answer.json()["code"]) == (401, "42501")


def test_the_secret_key_is_service_role(stack: Stack) -> None:
    with_key = {"apikey": SECRET, "Authorization": f"Bearer {SECRET}", "Prefer": "return=representation"}
    note = {"body": "from the service", "owner": "00000000-0000-4000-8000-00000000000a"}

    created = httpx.post(f"{stack.url}/rest/v1/notes", json=note, headers=with_key)

    assert created.status_code == 201
    assert created.json()[0]["body"] in [row["body"] for row in notes(stack, apikey=SECRET).json()]


@pytest.mark.parametrize("apikey", [PUBLISHABLE, SECRET])
def test_a_users_token_runs_as_the_user_whatever_the_key(stack: Stack, apikey: str) -> None:
    me = "00000000-0000-4000-8000-00000000000b"
    headers = {"apikey": apikey, "Authorization": f"Bearer {stack.token(sub=me)}"}
    httpx.post(f"{stack.url}/rest/v1/notes", json={"body": apikey}, headers=headers).raise_for_status()

    seen = notes(stack, apikey=apikey, token=stack.token(sub=me)).json()

    assert {row["owner"] for row in seen} == {me}


def test_the_key_may_come_in_the_query(stack: Stack) -> None:
    answer = httpx.get(f"{stack.url}/rest/v1/notes?select=id&apikey={PUBLISHABLE}&limit=1")

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("apikey", "message"), [(None, "No API key found in request"), ("sb_publishable_x", "Invalid API key")]
)
@pytest.mark.parametrize("path", ["/rest/v1/notes", "/auth/v1/settings"])
def test_no_key_or_a_wrong_one_is_refused(stack: Stack, path: str, apikey: str | None, message: str) -> None:
    answer = httpx.get(stack.url + path, headers={"apikey": apikey} if apikey else {})

    assert (answer.status_code, answer.json()["message"]) == (401, message)


def test_the_secret_key_is_refused_in_a_browser(stack: Stack) -> None:
    answer = notes(stack, apikey=SECRET, **{"User-Agent": BROWSER})

    assert (answer.status_code, answer.json()["code"]) == (401, "secret_key_in_browser")
    assert notes(stack, **{"User-Agent": BROWSER}).status_code == 200


def refused_tokens(stack: Stack) -> dict[str, str]:
    good = stack.token()
    return {
        "forged": stack.token(secret="another secret of more than 32 characters"),
        "changed": good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB"),
        "expired": stack.token(exp=int(time.time()) - 1),
        "alg none": stack.token(algorithm="none"),
        "other algorithm": stack.token(algorithm="HS512"),
        "no role": stack.token(role=None),
        "unknown role": stack.token(role="nobody"),
        "elevated role": stack.token(role="postgres"),
        "a forged service role": stack.token(role="service_role", secret="x" * 40),
        "an unsigned service role": stack.token(role="service_role", algorithm="none"),
        "without its signature": good.rpartition(".")[0] + ".",
        "another head, the same signature": f"eyJhbGciOiJub25lIn0.{good.partition('.')[2]}",
        "a list of roles": stack.token(role=["authenticated", "service_role"]),
        "signed with the public key": stack.token(role="service_role", secret=PUBLISHABLE),
        "huge": good + "A" * 6_000,
        "no token": "x",
        "another key": SECRET,
    }


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
@pytest.mark.parametrize("path", ["/rest/v1/notes", "/auth/v1/user", "/auth/v1/admin/users"])
def test_tokens_that_are_not_ours_are_refused(stack: Stack, path: str) -> None:
    answers = {
        why: httpx.get(stack.url + path, headers={"apikey": PUBLISHABLE, "Authorization": f"Bearer {token}"})
        for why, token in refused_tokens(stack).items()
    }

    assert {why: answer.status_code for why, answer in answers.items()} == dict.fromkeys(answers, 401)
    assert all({"message", "msg"} & answer.json().keys() for answer in answers.values())


def test_a_token_checked_before_is_refused_once_it_expires(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, authorization = Gate(Keys(JWT_SECRET, PUBLISHABLE, SECRET)), f"Bearer {stack.token()}"
    assert gate.admit(PUBLISHABLE, authorization, "") == authorization
    later = time.time() + 61

    monkeypatch.setattr(time, "time", lambda: later)

    with pytest.raises(RefusedError, match="JWT expired"):
        gate.admit(PUBLISHABLE, authorization, "")


def test_the_token_made_for_a_key_is_renewed_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(Keys(JWT_SECRET, PUBLISHABLE, SECRET))
    first = gate.admit(PUBLISHABLE, None, "")
    assert gate.admit(PUBLISHABLE, None, "") == first
    nearly = jwt.decode(first[7:], JWT_SECRET, ["HS256"])["exp"] - 30

    monkeypatch.setattr(time, "time", lambda: nearly)

    assert gate.admit(PUBLISHABLE, None, "") != first


@pytest.mark.parametrize("path", ["/rest/v1/notes", "/auth/v1/token"])
def test_a_browser_may_call_from_any_page(stack: Stack, path: str) -> None:
    asked = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "apikey,authorization,x-client-info",
    }

    allowed = httpx.options(stack.url + path, headers=asked)
    refused = httpx.post(stack.url + path, headers={"Origin": "https://shop.example"})

    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
    assert (
        allowed.headers["access-control-allow-origin"]
        == refused.headers["access-control-allow-origin"]
        == "*"
    )


# bad days


def hammer(stack: Stack, stop: threading.Event) -> list[httpx.Response]:
    answers = []
    with httpx.Client(headers={"apikey": PUBLISHABLE}) as client:
        while not stop.is_set():
            answers.append(client.get(f"{stack.url}/rest/v1/notes"))
    return answers


def test_a_restart_of_postgrest_under_load_is_only_ever_a_503(stack: Stack) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(hammer, stack, stop) for _ in range(8)]
        try:
            for kill in (signal.SIGKILL, signal.SIGTERM):
                time.sleep(0.3)
                stack.processes["rest"].send_signal(kill)
                stack.processes["rest"].wait(timeout=10)
                time.sleep(0.2)
                stack.start_rest()
                wait_for(f"{stack.url}/rest/v1/notes?apikey={PUBLISHABLE}")
        finally:
            stop.set()
    answers = [answer for future in running for answer in future.result()]

    assert {answer.status_code for answer in answers} == {200, 503}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)


def test_database_sessions_that_break_under_load_are_only_ever_a_503(stack: Stack) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(hammer, stack, stop) for _ in range(4)]
        try:
            for _ in range(10):
                terminate_sessions(stack)
                time.sleep(0.05)
            wait_for(f"{stack.url}/health")
            wait_for(f"{stack.url}/rest/v1/notes?apikey={PUBLISHABLE}")
        finally:
            stop.set()
    answers = [answer for future in running for answer in future.result()]

    assert {answer.status_code for answer in answers} <= {200, 503}
    assert 200 in {answer.status_code for answer in answers[-4:]}


def test_the_auth_server_exits_with_0(stack: Stack) -> None:
    assert end(stack.processes["auth"]) == 0

    assert httpx.get(f"{stack.url}/health").json()["auth"] is False
    stack.start_auth()
    stack.wait_until_ready()
    assert httpx.get(f"{stack.url}/auth/v1/settings", headers={"apikey": PUBLISHABLE}).status_code == 200


def terminate_sessions(stack: Stack) -> None:
    with psycopg.connect(stack.dsn, user="supabase_admin", autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
