"""How much of PostgREST's rate is left behind the gateway: both asked in turn, slice by slice, in one run.

Needs `wrk`. Starts its own Postgres, PostgREST and gateway; prints each pair of slices and the ratio.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from bench.figures import report
from local import parts, postgres, tokens

ROOT = Path(__file__).parents[1]
KEYS = tokens.Keys("a-secret-of-the-benchmark-with-32-characters", "sb_publishable_bench", "sb_secret_bench")
TABLE = """
    create role anon nologin; create role authenticator login noinherit; grant anon to authenticator;
    create table items as select n as id, md5(n::text) as body from generate_series(1, 1000) n;
    alter table items add primary key (id); grant select on items to anon;
"""


def main() -> None:
    options = arguments()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    base = options.port
    with stack(base):
        role = tokens.Gate(KEYS).admit(KEYS.publishable, None, "bench")
        path = "/items?select=id,body&limit=10"
        direct = [f"http://127.0.0.1:{base + 2}{path}", "-H", f"Authorization: {role}"]
        through = [f"http://127.0.0.1:{base}/rest/v1{path}", "-H", f"apikey: {KEYS.publishable}"]
        rate(direct, options), rate(through, options)  # warm up
        pairs = [(rate(direct, options), rate(through, options)) for _ in range(options.pairs)]
    for straight, proxied in pairs:
        print(f"direct {straight:8.0f}/s   gateway {proxied:8.0f}/s   ratio {proxied / straight:.2f}")
    report("gateway / direct PostgREST, requests/s", [p / s for s, p in pairs], ">= 0.5")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=24390, help="base port of the benchmark's own servers")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="length of a slice")
    parser.add_argument("--connections", type=int, default=32)
    return parser.parse_args()


def rate(target: list[str], options: argparse.Namespace) -> float:
    """Requests a second; every one of them must succeed."""
    argv = ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s", *target]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if "Non-2xx" in out or not found:
        raise RuntimeError(out)
    return float(found[1])


@contextmanager
def stack(base: int) -> Iterator[None]:
    server = postgres.installation()
    with ExitStack() as cleanup:
        home = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="recado-bench-")))
        postgres.create(server, home / "postgres")
        cleanup.enter_context(postgres.running(server, home / "postgres", base + 1, {}, home / "log"))
        with psycopg.connect(postgres.dsn(base + 1, user=postgres.SUPERUSER)) as connection:
            connection.execute(TABLE)
        rest = {
            "PGRST_DB_URI": postgres.dsn(base + 1, user="authenticator"),
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_JWT_SECRET": KEYS.jwt_secret,
            "PGRST_SERVER_PORT": str(base + 2),
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_LOG_LEVEL": "crit",
        }
        gateway = {
            "RECADO_PORT": str(base),
            "REST_URL": f"http://127.0.0.1:{base + 2}",
            "AUTH_URL": f"http://127.0.0.1:{base + 4}",
            "JWT_SECRET": KEYS.jwt_secret,
            "PUBLISHABLE_KEY": KEYS.publishable,
            "SECRET_KEY": KEYS.secret,
        }
        cleanup.enter_context(process([parts.postgrest_program()], rest))
        cleanup.enter_context(process([sys.executable, "-m", "local.gateway"], gateway))
        wait_for(base, f"/rest/v1/items?limit=1&apikey={KEYS.publishable}")
        yield


@contextmanager
def process(argv: list[str], env: Mapping[str, str]) -> Iterator[None]:
    running = subprocess.Popen(
        argv,
        env={"PATH": os.environ["PATH"], **env},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=10)


def wait_for(port: int, path: str) -> None:
    for _ in range(200):
        if parts.http_ok(port, path):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing answers at port {port}")


if __name__ == "__main__":
    main()
