"""What many messages, and one very large delivery, do to the others' waiting: ratios measured in one run.

    python -m bench.ingest

Needs `wrk`. Deliveries of one new message each are posted at set times, whether or not those before were
answered, and each is timed from when it was due. The last figure is taken in turns, without and with
histories of three megabytes being posted, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import socket
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bench.figures import report
from bench.webhook import ACCOUNT, NUMBER, Bench, ask, drive, is_whole, platform, post
from local import build

CONNECTIONS = 64
MEGABYTES = 3 * 1024 * 1024
SLOW_MS = 250.0


@dataclass
class Pool:
    """Connections to the function, each with one request at a time."""

    port: int
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(
        default_factory=asyncio.Queue
    )

    @asynccontextmanager
    async def opened(self, connections: int) -> AsyncIterator[Pool]:
        made = [await asyncio.open_connection("127.0.0.1", self.port) for _ in range(connections)]
        for one in made:
            self.free.put_nowait(one)
        yield self
        for _, writer in made:
            writer.close()

    async def ask(self, request: bytes) -> None:
        reader, writer = await self.free.get()
        writer.write(request)
        answer = b""
        while not is_whole(answer):
            received = await reader.read(65536)
            assert received, f"cut off after {answer!r}"
            answer += received
        assert answer.startswith(b"HTTP/1.1 200"), answer
        self.free.put_nowait((reader, writer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=24750, help="base port of the benchmark's platform")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a slice")
    parser.add_argument("--pairs", type=int, default=4)
    options = parser.parse_args()
    with platform(options.port) as layout:
        bench = Bench(layout)
        drive(bench.function(20_000), 3)  # warm up: every customer is known from here on
        most = statistics.median(drive(bench.function(20_000), 3).rate for _ in range(3))
        half_load(bench, most / 2, options.seconds)
        large_beside(bench, most / 4, options.seconds, options.pairs)


def half_load(bench: Bench, rate: float, seconds: float) -> None:
    alone = statistics.median(unloaded(bench, 300))
    taken = asyncio.run(at_rate(bench, rate, seconds))
    p50 = statistics.median(taken)
    slow = sum(one > SLOW_MS for one in taken) / len(taken)
    print(f"half load: {rate:.0f}/s  p50 {p50:.1f} ms, unloaded {alone:.1f} ms")
    report("p50 at half load / unloaded", [p50 / alone], "<= 3")
    note = f"p99 {percentile(taken, 99):.0f} ms"
    report(f"part of deliveries above {SLOW_MS:.0f} ms at half load", [slow], "<= 0.01", note)


def unloaded(bench: Bench, turns: int) -> Iterator[float]:
    """One request at a time."""
    with socket.create_connection(("127.0.0.1", port_of(bench))) as connection:
        for _ in range(turns):
            request, began = bench.delivery(), time.perf_counter()
            ask(connection, request)
            yield (time.perf_counter() - began) * 1000


def large_beside(bench: Bench, rate: float, seconds: float, pairs: int) -> None:
    """The others' p99, without and with histories in flight."""
    ratios = []
    for _ in range(pairs):
        alone = asyncio.run(at_rate(bench, rate, seconds))
        beside, histories = asyncio.run(with_histories(bench, rate, seconds))
        before, now = percentile(alone, 99), percentile(beside, 99)
        ratios.append(now / before)
        print(
            f"3 MB: {rate:.0f}/s  p99 {before:5.1f} ms alone, {now:5.1f} ms beside {len(histories)} histories"
            f" ({statistics.mean(histories):.1f} s each): {ratios[-1]:.2f} times"
        )
    report("p99 beside a history of 3 MB in flight / alone", ratios, "<= 3")


async def at_rate(bench: Bench, rate: float, seconds: float) -> list[float]:
    """Milliseconds that each delivery took from when it was due."""
    requests = [bench.delivery() for _ in range(int(rate * seconds))]
    async with Pool(port_of(bench)).opened(CONNECTIONS) as pool:
        began = time.perf_counter()

        async def one(number: int) -> float:
            due = began + number / rate
            await asyncio.sleep(due - time.perf_counter())
            await pool.ask(requests[number])
            return (time.perf_counter() - due) * 1000

        return list(await asyncio.gather(*map(one, range(len(requests)))))


async def with_histories(bench: Bench, rate: float, seconds: float) -> tuple[list[float], list[float]]:
    """The same while one history after the other is posted; and the seconds that each of those took."""
    requests = [history(bench) for _ in range(4)]
    taken: list[float] = []

    async def post_histories() -> None:
        async with Pool(port_of(bench)).opened(1) as pool:
            for request in requests:
                began = time.perf_counter()
                await pool.ask(request)
                taken.append(time.perf_counter() - began)

    posting = asyncio.create_task(post_histories())
    beside = await at_rate(bench, rate, seconds)
    requests.clear()
    await posting
    return beside, taken


def history(bench: Bench) -> bytes:
    """Three megabytes of messages that nobody told us before, in threads of a hundred."""
    stamp, threads, size = int(time.time()) - 40 * 86400, [], 0
    while size < MEGABYTES - 30_000:
        phone = f"5732{len(threads):08d}"
        said = [
            {
                "from": phone,
                "id": f"wamid.{uuid.uuid4().hex}",
                "timestamp": str(stamp + len(threads)),
                "type": "text",
                "text": {"body": "Buenas tardes, ¿todavía tienen citas para el jueves?"},
                "history_context": {"status": "READ"},
            }
            for _ in range(100)
        ]
        threads.append({"id": phone, "messages": said})
        size += len(json.dumps(said))
    metadata = {"display_phone_number": "12025550100", "phone_number_id": NUMBER}
    value = {"metadata": metadata, "history": [{"metadata": {"phase": 1}, "threads": threads}]}
    body = json.dumps(
        {"entry": [{"id": ACCOUNT, "changes": [{"field": "history", "value": value}]}]}
    ).encode()
    assert len(body) <= MEGABYTES, len(body)
    digest = hmac.digest(bench.env["META_APP_SECRET"].encode(), body, "sha256").hex()
    return post("/cloud-api", body, {"x-hub-signature-256": f"sha256={digest}"})


def port_of(bench: Bench) -> int:
    return bench.layout.function(build.functions().index("webhook"))


def percentile(taken: list[float], percent: int) -> float:
    return statistics.quantiles(taken, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    main()
