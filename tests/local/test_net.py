"""net: what the pg_net stand-in queues, its worker sends, as kindly or as badly as asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from local.net import Fault, draw

Answers = Callable[[int], list[dict[str, Any]]]

if TYPE_CHECKING:  # pytest wants to be the first to import it
    from tests.local.workbench import Sql, StartWorker, Until

pytest_plugins = ("tests.local.workbench",)


class Target:
    """A web server that remembers what reached it; /slow answers only when released."""

    def __init__(self) -> None:
        target, self.requests, self.released = self, list[dict[str, Any]](), threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                seen = {"method": self.command, "path": self.path, "headers": self.headers, "body": body}
                target.requests.append(seen)
                if self.path == "/slow":
                    target.released.wait(30)
                with suppress(OSError):
                    self.send_response(418 if self.path == "/teapot" else 200)
                    self.send_header("content-type", "text/plain")
                    self.end_headers()
                    self.wfile.write(b"ok\0")

            do_GET = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 512

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    thread = threading.Thread(target=target.server.serve_forever)
    thread.start()
    yield target
    target.released.set()
    target.server.shutdown()
    target.server.server_close()
    thread.join()


@pytest.fixture
def answers(sql: Sql, until: Until) -> Answers:
    """Wait for this many stored responses."""

    def wait(count: int) -> list[dict[str, Any]]:
        until(lambda: sql("select 1 from net._http_response offset %s", count - 1))
        return sql("select * from net._http_response order by id")

    return wait


def test_a_post_arrives_as_written_and_its_answer_is_stored(
    sql: Sql, start_worker: StartWorker, target: Target, answers: Answers
) -> None:
    start_worker("net")

    sql(
        """select net.http_post(
            %s, '{"b": 1, "a": "ñ"}', headers := '{"X-Sign": "s"}', params := '{"q": "á&b"}')""",
        target.url + "/hook?x=1",
    )

    (answer,) = answers(1)
    (seen,) = target.requests
    assert (seen["method"], seen["path"]) == ("POST", "/hook?x=1&q=%C3%A1%26b")
    assert seen["body"] == '{"a": "ñ", "b": 1}'
    assert (seen["headers"]["X-Sign"], seen["headers"]["Content-Type"]) == ("s", "application/json")
    assert (answer["status_code"], answer["content_type"], answer["timed_out"]) == (200, "text/plain", False)
    assert answer["content"] == "ok"


def test_get_and_delete_are_sent_too(
    sql: Sql, start_worker: StartWorker, target: Target, answers: Answers
) -> None:
    start_worker("net")

    sql('select net.http_get(%s, \'{"a": "1"}\')', target.url + "/teapot")
    sql("select net.http_delete(%s, body := '[1]')", target.url)

    answers(2)
    seen = {(r["method"], r["path"], r["body"]) for r in target.requests}
    assert seen == {("GET", "/teapot?a=1", ""), ("DELETE", "/", "[1]")}


def test_requests_queued_before_the_worker_came_are_sent(
    sql: Sql, start_worker: StartWorker, target: Target, answers: Answers
) -> None:
    sql("select net.http_get(%s) from generate_series(1, 250)", target.url)

    start_worker("net")

    assert [a["status_code"] for a in answers(250)] == [200] * 250
    assert len(target.requests) == 250
    assert sql("select 1 from net.http_request_queue") == []


def test_a_rolled_back_caller_sends_nothing(
    sql: Sql, start_worker: StartWorker, target: Target, answers: Answers
) -> None:
    start_worker("net")

    with suppress(psycopg.errors.RaiseException):
        sql(f"do $$ begin perform net.http_get('{target.url}/undone'); raise 'no'; end $$")
    sql("select net.http_get(%s)", target.url + "/done")

    answers(1)
    assert [r["path"] for r in target.requests] == ["/done"]


def test_a_timeout_is_stored_and_does_not_fail_its_round(
    sql: Sql, start_worker: StartWorker, target: Target, answers: Answers
) -> None:
    sql("select net.http_get(%s, timeout_milliseconds := 200)", target.url + "/slow")
    sql("select net.http_get(%s)", target.url)

    start_worker("net")

    late, fine = answers(2)
    assert (late["timed_out"], late["status_code"]) == (True, None)
    assert late["error_msg"].startswith("Timeout of 200 ms reached")
    assert fine["status_code"] == 200


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "nonsense", "http://[", "ftp://127.0.0.1/", ""])
def test_a_request_that_cannot_be_made_is_answered_with_its_error(
    sql: Sql, start_worker: StartWorker, answers: Answers, url: str
) -> None:
    start_worker("net")

    sql("select net.http_get(%s)", url)

    (answer,) = answers(1)
    assert answer["status_code"] is None
    assert answer["error_msg"]


def test_a_round_that_dies_is_sent_again(
    sql: Sql, start_worker: StartWorker, target: Target, until: Until, answers: Answers
) -> None:
    first = start_worker("net")
    sql("select net.http_get(%s, timeout_milliseconds := 20000)", target.url + "/slow")
    until(lambda: target.requests)

    first.kill()
    first.wait()
    target.released.set()
    start_worker("net")

    answers(1)
    assert len(target.requests) == 2


def test_the_worker_survives_losing_its_connection(
    sql: Sql,
    start_worker: StartWorker,
    lose_connections: Callable[[], None],
    target: Target,
    answers: Answers,
) -> None:
    start_worker("net")

    lose_connections()
    sql("select net.http_get(%s)", target.url)

    assert answers(1)[0]["status_code"] == 200


def test_answers_are_forgotten_after_six_hours(sql: Sql, start_worker: StartWorker, until: Until) -> None:
    sql("insert into net._http_response (id, created) values (1, now() - interval '7 hours'), (2, now())")

    start_worker("net")

    until(lambda: sql("select id from net._http_response") == [{"id": 2}])


def test_broadcasts_are_forgotten_after_three_days(sql: Sql, start_worker: StartWorker, until: Until) -> None:
    sql("select realtime.send('{}', event, 'tenant:1') from unnest(array['old', 'new']) as event")
    sql("update realtime.messages set inserted_at = now() - interval '73 hours' where event = 'old'")

    start_worker("net")

    until(lambda: sql("select event from realtime.messages") == [{"event": "new"}])


def test_dropped_requests_are_counted_and_never_arrive(
    sql: Sql, start_worker: StartWorker, target: Target, answers: Answers
) -> None:
    sql("insert into local.net_faults (kind, remaining) values ('drop', 3)")
    sql("select net.http_get(%s) from generate_series(1, 5)", target.url)

    start_worker("net")

    assert len(answers(2)) == 2
    assert len(target.requests) == 2
    assert sql("select remaining, happened from local.net_faults") == [{"remaining": 0, "happened": 3}]


def test_doubled_requests_arrive_twice_and_are_answered_once(
    sql: Sql, start_worker: StartWorker, target: Target, answers: Answers
) -> None:
    sql("insert into local.net_faults (kind, remaining) values ('double', 2)")
    sql("select net.http_get(%s) from generate_series(1, 3)", target.url)

    start_worker("net")

    assert len(answers(3)) == 3
    assert len(target.requests) == 5


def test_a_stalled_request_holds_up_its_round_until_it_is_sent(
    sql: Sql, start_worker: StartWorker, target: Target, answers: Answers
) -> None:
    began = time.monotonic()
    sql("insert into local.net_faults (kind, remaining, milliseconds) values ('stall', 1, 400)")
    sql("select net.http_get(%s) from generate_series(1, 2)", target.url)

    start_worker("net")

    assert [a["status_code"] for a in answers(2)] == [200, 200]
    assert len(target.requests) == 2
    assert time.monotonic() - began > 0.4


def test_faults_can_be_switched_while_the_worker_runs(
    sql: Sql, start_worker: StartWorker, target: Target, until: Until, answers: Answers
) -> None:
    start_worker("net")
    sql("insert into local.net_faults (kind) values ('drop')")
    sql("select net.http_get(%s)", target.url + "/lost")
    until(lambda: sql("select 1 from local.net_faults where happened = 1"))

    sql("delete from local.net_faults")
    sql("select net.http_get(%s)", target.url + "/sent")

    answers(1)
    assert [r["path"] for r in target.requests] == ["/sent"]


def test_a_fault_strikes_as_often_as_its_probability_says() -> None:
    fault = Fault("drop", probability=0.3, remaining=10**9, milliseconds=0)

    hits = sum(draw([fault]) is fault for _ in range(10_000))

    assert 2_500 < hits < 3_500


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("""'http://x', headers := '{"content-type": "text/plain"}'""", "Content-Type header must be"),
        ("'http://x', null", "body must not be null"),
    ],
)
def test_posts_that_pg_net_refuses_are_refused(sql: Sql, call: str, message: str) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match=message):
        sql(f"select net.http_post({call})")
