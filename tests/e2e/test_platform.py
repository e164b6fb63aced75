"""A platform as its user meets it: it starts, answers, survives what is done to it, and leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

import httpx
import psutil
import pytest
from supabase import create_client

from tests.e2e.platforms import Platform, eventually

LOGINS = {
    "dental": "dr.perez@clinica.example",
    "reception": "recepcion@clinica.example",
    "plaza": "admin@laplaza.example",
}
ENV = [
    "SUPABASE_URL",
    "SUPABASE_ANON_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "DATABASE_URL",
    "FUNCTIONS_URL",
    "FUNCTIONS_SECRET",
    "META_APP_ID",
    "META_APP_SECRET",
    "META_VERIFY_TOKEN",
    "WEBHOOK_PUBLIC_URL",
    "GRAPH_URL",
    "WHAPI_URL",
    "TWILIO_URL",
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "SIMULATOR_URL",
]


def test_it_writes_what_clients_need(platform: Platform) -> None:
    assert list(platform.env) == ENV
    assert (platform.data / "env").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("who", LOGINS)
def test_the_demo_logins_see_their_own_business(platform: Platform, who: str) -> None:
    client = create_client(platform.env["SUPABASE_URL"], platform.env["SUPABASE_ANON_KEY"])
    client.auth.sign_in_with_password({"email": LOGINS[who], "password": "recado-demo"})

    seen = {row["email"] for row in client.table("users").select("email").execute().data}

    assert seen == ({LOGINS["plaza"]} if who == "plaza" else {LOGINS["dental"], LOGINS["reception"]})


def test_a_function_answers_under_its_deployed_name(platform: Platform) -> None:
    answer = httpx.get(platform.env["FUNCTIONS_URL"] + "/hello/health")

    assert answer.status_code == 200
    assert answer.json()["name"] == "hello"


def test_the_database_calls_a_function_signed(platform: Platform) -> None:
    ((request,),) = platform.query("""select private.invoke('hello/echo', '{"ñ": "sí"}')""")

    status = eventually(
        lambda: platform.query("select status_code, content from net._http_response where id = %s", request)
    )

    assert status[0][0] == 200, status


def test_status_and_logs_tell_what_runs(platform: Platform) -> None:
    status, logs = platform.command("status"), platform.command("logs", "postgrest")

    assert status.returncode == 0, status.stdout
    assert "Everything is up." in status.stdout
    assert "messages wait to be sent" in status.stdout
    assert logs.returncode == 0


def test_logs_of_an_unknown_part_names_the_known_ones(platform: Platform) -> None:
    asked = platform.command("logs", "nonsense")

    assert asked.returncode == 1
    assert "gateway" in asked.stderr


def test_a_second_up_on_the_same_data_is_refused(platform: Platform) -> None:
    again = platform.up()

    assert again.returncode == 1
    assert "already running" in again.stderr
    assert len(again.stderr.splitlines()) == 1


@pytest.mark.parametrize("part", ["gateway", "postgrest", "auth", "net", "cron", "hello", "postgres"])
def test_a_killed_part_comes_back_and_leaves_no_stray(platform: Platform, part: str) -> None:
    before = platform.pid(part)
    descendants = psutil.Process(before).children(recursive=True)

    os.kill(before, signal.SIGKILL)

    assert eventually(lambda: platform.pid(part) != before)
    assert eventually(lambda: not any(child.is_running() for child in descendants))
    assert eventually(lambda: _works(platform))


def test_clients_see_503_with_retry_after_while_postgrest_is_away(platform: Platform) -> None:
    seen: set[int] = set()
    url, key = platform.env["SUPABASE_URL"] + "/rest/v1/plans", platform.env["SUPABASE_SERVICE_ROLE_KEY"]
    os.kill(platform.pid("postgrest"), signal.SIGKILL)

    until = time.monotonic() + 3
    with httpx.Client(headers={"apikey": key}) as client:
        while time.monotonic() < until:
            answer = client.get(url)
            seen.add(answer.status_code)
            assert answer.status_code == 200 or answer.headers["retry-after"]

    assert seen <= {200, 503}
    assert answer.status_code == 200


def test_two_platforms_live_side_by_side(platform: Platform, other_platform: Platform) -> None:
    assert other_platform.up().returncode == 0
    other_platform.query("update public.users set name = 'only here'")

    assert _works(platform)
    assert _works(other_platform)
    assert platform.query("select count(*) from public.users where name = 'only here'") == [(0,)]


def test_killing_the_platform_itself_leaves_nothing_and_its_data_goes_on(other_platform: Platform) -> None:
    assert other_platform.up().returncode == 0
    other_platform.query("update public.users set name = 'kept'")

    os.kill(other_platform.state.pid, signal.SIGKILL)

    assert eventually(lambda: not other_platform.processes()), other_platform.processes()
    again = other_platform.up()
    assert again.returncode == 0, again.stderr
    assert set(other_platform.query("select name from public.users")) == {("kept",)}


def test_killed_half_way_through_the_first_start_it_starts_clean(other_platform: Platform) -> None:
    first = _start_in_background(other_platform)
    assert eventually(lambda: (other_platform.data / "postgres.new").exists())
    time.sleep(1)
    first.kill()
    first.wait()

    again = other_platform.up()

    assert again.returncode == 0, again.stderr
    assert _works(other_platform)


def test_down_stops_everything(other_platform: Platform) -> None:
    other_platform.up()

    other_platform.down()

    assert other_platform.processes() == []
    assert other_platform.command("status").returncode == 1


def test_a_taken_port_is_named(other_platform: Platform) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", other_platform.port + 1))
        squatter.listen()

        refused = other_platform.up()

    assert refused.returncode == 1
    assert f"Port {other_platform.port + 1}" in refused.stderr
    assert "--port" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_data_of_another_version_is_refused(other_platform: Platform) -> None:
    (other_platform.data / "postgres").mkdir(parents=True)
    (other_platform.data / "postgres" / "PG_VERSION").write_text("12\n")

    refused = other_platform.up()

    assert refused.returncode == 1
    assert "Postgres 12" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_without_postgrest_it_says_how_to_get_it(platform_with: Callable[..., Platform]) -> None:
    platform = platform_with(POSTGREST_BIN="/nowhere/postgrest")

    refused = platform.up()

    assert refused.returncode == 1
    assert "POSTGREST_BIN" in refused.stderr


def _works(platform: Platform) -> bool:
    """Sign-in goes through gateway, auth and Postgres; the read through PostgREST; the function by itself."""
    key = {"apikey": platform.env["SUPABASE_ANON_KEY"]}
    with httpx.Client(base_url=platform.env["SUPABASE_URL"], headers=key, timeout=5) as client:
        try:
            credentials = {"email": LOGINS["plaza"], "password": "recado-demo"}
            token = client.post("/auth/v1/token?grant_type=password", json=credentials).json()["access_token"]
            rows = client.get("/rest/v1/users", headers={"authorization": f"Bearer {token}"}).json()
            return len(rows) == 1 and client.get("/functions/v1/hello/health").status_code == 200
        except (httpx.HTTPError, KeyError, ValueError):
            return False


def _start_in_background(platform: Platform) -> psutil.Popen:
    import sys

    return psutil.Popen(
        [sys.executable, "-m", "local.cli", "up", "--port", str(platform.port), "--data", str(platform.data)]
    )
