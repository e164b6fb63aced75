"""The schema's road: sql/ is what it is now, supabase/migrations how a database gets there.

Thin wrappers over the Supabase CLI, which works on any Postgres URL without Docker.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psycopg

from local.errors import PlatformError

ROOT = Path(__file__).parent.parent
SQL = ROOT / "sql"
SUPABASE = ROOT / "supabase"
MIGRATIONS = SUPABASE / "migrations"
SEED = SUPABASE / "seed.sql"
TYPES = SUPABASE / "types" / "database.ts"
CLI = SUPABASE / "node_modules" / ".bin" / "supabase"

# Until the first release there is one migration, rewritten from sql/. Afterwards it never changes again.
INITIAL = MIGRATIONS / "20261120000000_initial.sql"
_HEADER = "-- The schema of sql/, in order, written by local.schema.squash(): edit it there.\n"


def sql_files() -> list[Path]:
    """The files of sql/ in the order in which they apply."""
    return sorted(SQL.glob("[0-9][0-9]_*.sql"))


def migrations() -> dict[str, Path]:
    """Every migration by its version, oldest first."""
    return {file.name.split("_")[0]: file for file in sorted(MIGRATIONS.glob("*.sql"))}


def squashed() -> str:
    """What the initial migration must say."""
    parts = (f"-- sql/{file.name}\n\n{file.read_text().rstrip()}\n" for file in sql_files())
    return "\n\n".join([_HEADER.rstrip(), *parts])


def squash() -> Path:
    """Write the initial migration from sql/."""
    INITIAL.write_text(squashed())
    return INITIAL


def pending(dsn: str) -> list[Path]:
    """The migrations this database lacks; refuses a database whose past is not ours."""
    known, applied = migrations(), _applied(dsn)
    for version, statements in applied.items():
        if version not in known:
            raise PlatformError(
                f"The database has migration {version}, but this checkout has not: update it."
            )
        if _essence("".join(statements)) != _essence(known[version].read_text()):
            raise PlatformError(
                f"The database was built from another {known[version].name} than this checkout has: "
                "start with fresh data, or go back to the checkout that made it."
            )
    return [file for version, file in known.items() if version not in applied]


def push(dsn: str) -> None:
    """Apply the pending migrations, each in a transaction, as a deployment to the hosted platform does."""
    _supabase(dsn, "db", "push", "--yes", f"--remote={dsn}")


def seed(dsn: str) -> None:
    """Put the demo data in; on anything but a local platform the seed itself refuses."""
    with psycopg.connect(dsn) as connection:
        try:
            connection.execute(SEED.read_bytes())
        except psycopg.errors.RaiseException as refusal:
            raise PlatformError(str(refusal.diag.message_primary)) from refusal


def diff(dsn_a: str, dsn_b: str) -> str:
    """The SQL that would turn the schema of A into that of B; empty when they are equal. It sees no rows."""
    return str(_json(dsn_a, "db", "diff", "--from", dsn_a, "--to", dsn_b)["diff"]).strip()


def advisors(dsn: str, level: str = "warn") -> list[dict[str, Any]]:
    """What Supabase's own security and performance lints find."""
    return _findings(dsn, "advisors", "--type", "all", "--level", level)


def lint(dsn: str) -> list[dict[str, Any]]:
    """What plpgsql_check finds in our functions; the server must have that extension."""
    return _findings(dsn, "lint", "--schema", "public,private", "--level", "warning")


def types(dsn: str, lang: Literal["typescript", "python"] = "typescript") -> str:
    """The types of the public schema, for front ends."""
    text = _supabase(dsn, "gen", "types", "--lang", lang, "--schema", "public", f"--remote={dsn}")
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def write_types(dsn: str) -> Path:
    """Write supabase/types/database.ts from a database that has the schema."""
    TYPES.parent.mkdir(exist_ok=True)
    TYPES.write_text(types(dsn))
    return TYPES


def _applied(dsn: str) -> dict[str, list[str]]:
    """The statements of each recorded migration, by version."""
    with psycopg.connect(dsn) as connection:
        table = connection.execute("select to_regclass('supabase_migrations.schema_migrations')").fetchone()
        if table == (None,):
            return {}
        rows = connection.execute("select version, statements from supabase_migrations.schema_migrations")
        return {version: statements or [] for version, statements in rows}


def _essence(text: str) -> str:
    """A migration without what the CLI loses when it cuts a file into statements."""
    return re.sub(r"[\s;]", "", text)


def _findings(dsn: str, check: str, *options: str) -> list[dict[str, Any]]:
    return list(_json(dsn, "db", check, f"--remote={dsn}", *options, "--fail-on", "none")["results"])


def _json(dsn: str, *arguments: str) -> dict[str, Any]:
    return dict(json.loads(_supabase(dsn, *arguments, "--output-format", "json")))


def _supabase(dsn: str, *arguments: str) -> str:
    """Run the CLI; what it prints."""
    if not CLI.exists():
        raise PlatformError("The Supabase CLI is not installed: run `npm ci` in the folder supabase.")
    done = subprocess.run(
        [CLI, *arguments, "--workdir", ROOT],
        env=_environment(dsn),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join(filter(None, [done.stderr.strip(), done.stdout.strip()]))
        raise PlatformError(f"`supabase {arguments[0]} {arguments[1]}` failed:\n{said}")
    return done.stdout


def _environment(dsn: str) -> dict[str, str]:
    """Ours, without telemetry. A server on this machine has no TLS, which the CLI would report on stdout."""
    local = {"PGSSLMODE": "disable"} if urlsplit(dsn).hostname in {"127.0.0.1", "localhost", "::1"} else {}
    return {**os.environ, "DO_NOT_TRACK": "1", **local}
