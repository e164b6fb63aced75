"""What the webhook function costs: its rate over PostgREST's, the latency it adds, and its start.

    python -m bench.webhook

Needs `wrk`. Starts a platform of its own. Signed deliveries of one new message each are posted from 64
connections, in turns with a no-op RPC straight to PostgREST; each pair of slices gives a ratio.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from bench.figures import report
from bench.function_start import bare, free_port
from local import build, keys, tokens
from local.layout import Layout
from shared import cloud_api

CONNECTIONS = 64
CUSTOMERS = 1000
REPLAY = """
local requests, at = {}, 0
function init(args)
    local file = io.open(args[1], "rb")
    for size in file:lines() do requests[#requests + 1] = file:read(tonumber(size)) end
end
function request()
    at = at % #requests + 1
    return requests[at]
end
function done(summary, latency)
    local errors = summary.errors
    print(string.format("RESULT %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
        latency:percentile(99), errors.status + errors.read + errors.write + errors.timeout))
end
"""
NUMBER, ACCOUNT = "800000000000099", "900000000000099"
SETUP = f"""
    insert into auth.users (id, aud, role, email, email_confirmed_at, raw_user_meta_data) values
        (gen_random_uuid(), 'authenticated', 'authenticated', 'bench@example.com', now(), '{{}}');
    select public.plan_set(id, 'enterprise') from public.users where email = 'bench@example.com';
    -- no replies: the work of other functions is not what is measured
    insert into public.whatsapp_numbers
        (tenant_id, provider, phone_number, provider_number_id, waba_id, display_name, auto_reply)
    select id, 'cloud_api', '12025550199', '{NUMBER}', '{ACCOUNT}', 'Bench', false
    from public.users where email = 'bench@example.com';
    create or replace function public.bench_noop() returns void language sql as 'select';
    grant execute on function public.bench_noop() to service_role;
    notify pgrst, 'reload schema';
"""
HELLO = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


@dataclass(frozen=True)
class Target:
    """Requests for one port: all of them new, or one again and again."""

    name: str
    port: int
    requests: Sequence[bytes]
    repeats: bool = False


@dataclass(frozen=True)
class Slice:
    rate: float
    p50: float  # ms
    p99: float


class Bench:
    """A running platform, and who is who on it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.env = dict(line.split("=", 1) for line in layout.env_file.read_text().splitlines())
        known = keys.load(layout.keys)
        claims = {"role": "service_role", "exp": int(time.time()) + 86_400}
        self.role = f"Bearer {tokens.sign(known.jwt_secret, claims)}"
        with psycopg.connect(self.env["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(SETUP)
        time.sleep(1)  # PostgREST reads the schema again

    def noop(self) -> Target:
        request = self._rpc("bench_noop", b"{}")
        return Target("no-op RPC", self.layout.postgrest, [request], repeats=True)

    def function(self, deliveries: int) -> Target:
        port = self.layout.function(build.functions().index("webhook"))
        return Target("function", port, self._deliveries("/cloud-api", deliveries))

    def gateway(self, deliveries: int) -> Target:
        path = "/functions/v1/webhook/cloud-api"
        return Target("gateway", self.layout.gateway, self._deliveries(path, deliveries))

    def rpc(self, deliveries: int) -> Target:
        """The same messages, as the function would store them one by one."""
        return Target("one RPC", self.layout.postgrest, [self.batch(1) for _ in range(deliveries)])

    def batch(self, payloads: int) -> bytes:
        """One call of the RPC, past the function."""
        parsed = (cloud_api.parse(self._message(), received_at=datetime.now(UTC)) for _ in range(payloads))
        body = b",".join(payload.to_json() for (payload,) in parsed)
        return self._rpc("webhook_receive", b'{"p_batch":[%b]}' % body)

    def _deliveries(self, path: str, number: int) -> list[bytes]:
        return [self.delivery(path) for _ in range(number)]

    def delivery(self, path: str = "/cloud-api") -> bytes:
        body = self._message()
        digest = hmac.digest(self.env["META_APP_SECRET"].encode(), body, "sha256").hex()
        return post(path, body, {"x-hub-signature-256": f"sha256={digest}"})

    def _rpc(self, name: str, body: bytes) -> bytes:
        return post(f"/rpc/{name}", body, {"authorization": self.role})

    def _message(self) -> bytes:
        customer = random.randrange(CUSTOMERS)
        phone, bsuid = f"5731{customer:08d}", f"CO.7{customer:019d}"
        said = {
            "from": phone,
            "from_user_id": bsuid,
            "id": f"wamid.{uuid.uuid4().hex}",
            "timestamp": str(int(time.time())),
            "type": "text",
            "text": {"body": "¡Hola! ¿Me dan una cita para mañana? 😀"},
        }
        value = {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "12025550100", "phone_number_id": NUMBER},
            "contacts": [{"profile": {"name": f"Cliente {customer}"}, "wa_id": phone, "user_id": bsuid}],
            "messages": [said],
        }
        entry = {"id": ACCOUNT, "changes": [{"field": "messages", "value": value}]}
        return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    fields = {"host": "localhost", "content-type": "application/json", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def main() -> None:
    options = arguments()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    with platform(options.port) as layout:
        bench = Bench(layout)
        rates(bench, options)
        latency(bench)
        batching(bench)
        start(bench, options.pairs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=24750, help="base port of the benchmark's platform")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=3, help="length of a slice")
    return parser.parse_args()


def rates(bench: Bench, options: argparse.Namespace) -> None:
    most = int(drive(bench.noop(), options.seconds).rate * options.seconds * 2.5)
    for place in (bench.function, bench.gateway):
        drive(place(most), options.seconds)  # warm up: every customer is known from here on
        ratios = []
        for _ in range(options.pairs):
            before, mine = drive(bench.noop(), options.seconds), drive(place(most), options.seconds)
            after = drive(bench.noop(), options.seconds)
            ratios.append(mine.rate / statistics.mean([before.rate, after.rate]))
            print(
                f"{place.__name__:9} {mine.rate:6.0f}/s  p50 {mine.p50:4.0f} ms  p99 {mine.p99:4.0f} ms"
                f"   no-op {before.rate:6.0f}/s {after.rate:6.0f}/s   ratio {ratios[-1]:.2f}"
            )
        report(f"webhooks, {place.__name__} / no-op RPC, requests/s", ratios, ">= 0.5")


def drive(target: Target, seconds: int) -> Slice:
    """Post from all connections for a while; every answer must be a 200, every delivery new."""
    with tempfile.TemporaryDirectory() as home:
        script, requests = Path(home) / "replay.lua", Path(home) / "requests"
        script.write_text(REPLAY)
        requests.write_bytes(b"".join(b"%d\n%b" % (len(one), one) for one in target.requests))
        url = f"http://127.0.0.1:{target.port}/"
        argv = [
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds}s",
            "-s",
            str(script),
            url,
            "--",
            str(requests),
        ]
        out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    done, micros, p50, p99, errors = map(int, out.rsplit("RESULT ", 1)[1].split())
    assert not errors, f"{target.name}: {errors} requests failed\n{out}"
    assert target.repeats or done <= len(target.requests), f"{target.name}: ran out of new deliveries"
    return Slice(done / micros * 1e6, p50 / 1000, p99 / 1000)


def latency(bench: Bench, turns: int = 300) -> None:
    """One request at a time, in turns."""
    targets = [bench.rpc(turns), bench.function(turns)]
    connections = [socket.create_connection(("127.0.0.1", target.port)) for target in targets]
    times: list[list[float]] = [[], []]
    for turn in range(turns):
        for connection, target, taken in zip(connections, targets, times, strict=True):
            began = time.perf_counter()
            ask(connection, target.requests[turn])
            taken.append((time.perf_counter() - began) * 1000)
    direct, through = map(statistics.median, times)
    print(f"latency: one RPC p50 {direct:.1f} ms, webhook p50 {through:.1f} ms")
    added = [mine - its for its, mine in zip(*times, strict=True)]
    report("webhook - one RPC, one at a time, ms", added, "<= 5")


def batching(bench: Bench, pairs: int = 12) -> None:
    """100 payloads in one call and in a hundred, in turns, over one connection to PostgREST."""
    ratios = []
    with socket.create_connection(("127.0.0.1", bench.layout.postgrest)) as connection:
        for _ in range(pairs):
            together, one_by_one = [bench.batch(100)], [bench.batch(1) for _ in range(100)]
            ratios.append(seconds(connection, one_by_one) / seconds(connection, together))
    report("100 payloads a call / 1 a call over HTTP, rows/s", ratios, ">= 15")


def seconds(connection: socket.socket, requests: Sequence[bytes]) -> float:
    began = time.perf_counter()
    for request in requests:
        ask(connection, request)
    return time.perf_counter() - began


def ask(connection: socket.socket, request: bytes) -> None:
    """Send a request and read its whole answer, which must be a 200."""
    connection.sendall(request)
    answer = b""
    while not is_whole(answer):
        received = connection.recv(65536)
        assert received, f"cut off after {answer!r}"
        answer += received
    assert answer.startswith(b"HTTP/1.1 200"), answer


def is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    if b"transfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])


def start(bench: Bench, pairs: int) -> None:
    """From the start of the process to the first answer, of a bare hello and of a stored message."""
    times: dict[str, list[float]] = {"bare": [], "webhook": []}
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        staged = build.build("webhook", Path(home) / "build")
        folders = {"bare": bare(staged), "webhook": staged}
        for turn in range(pairs + 1):
            for name, folder in folders.items():
                request = HELLO if name == "bare" else bench.delivery()
                seconds = seconds_to_answer(name, folder, port, bench.env, request)
                if turn:  # the first turn writes the bytecode
                    times[name].append(seconds)
    ratios = [mine / its for mine, its in zip(times["webhook"], times["bare"], strict=True)]
    medians = ", ".join(f"{name} {statistics.median(taken) * 1000:.0f} ms" for name, taken in times.items())
    report("webhook, start to first stored / bare hello's first 200", ratios, "<= 1.8", medians)


def seconds_to_answer(name: str, folder: Path, port: int, env: dict[str, str], request: bytes) -> float:
    argv, more = build.command(name, folder, port)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **env, **more}
    began = time.perf_counter()
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    ask(connection, request)
                    return time.perf_counter() - began
            except ConnectionError:
                assert process.poll() is None, f"{name} ended"
                time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def platform(port: int) -> Iterator[Layout]:
    """A platform with the demo data, for the length of a block."""
    recado = [sys.executable, "-m", "local.cli"]
    with tempfile.TemporaryDirectory(prefix="recado-bench-") as home:
        data = Path(home) / "data"
        subprocess.run(
            [*recado, "up", "--detach", "--port", str(port), "--data", data],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield Layout(data, port, data / "env")
        finally:
            subprocess.run([*recado, "down", "--data", data], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
