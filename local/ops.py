"""What `recado status` says of the work, out of ops_status()."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from local import postgres
from local.state import State

Found = Mapping[str, Any]


def ask(running: State) -> Found | None:
    """None while the database, or its schema, is not there to be asked."""
    port = next((part.port for part in running.parts if part.name == "postgres"), None)
    if port is None:
        return None
    try:
        with psycopg.connect(postgres.dsn(port), connect_timeout=2) as connection:
            row = connection.execute("select public.ops_status()").fetchone()
    except psycopg.Error:
        return None
    return row[0] if row else None


def lines(found: Found) -> Iterator[str]:
    """How it goes, and then only what somebody should look at."""
    webhook, outbox, replies = found["webhook"], found["outbox"], found["replies"]
    speed = webhook["received_to_applied"]
    stored = f", stored within {speed['p95']} ms" if speed else ""
    yield f"The last 15 minutes brought {webhook['deliveries']} deliveries{stored}."
    yield f"{outbox['due']} messages wait to be sent, {replies['waiting']} chats to be answered."
    yield from _troubles(found)


def _troubles(found: Found) -> Iterator[str]:
    schedules = found["schedules"].items()
    for title, names in (
        ("Deliveries that could not be applied", _counted(found["webhook"], "failed", "dead")),
        ("Sends", _counted(found["outbox"], "unknown")),
        ("Tokens", _counted(found["tokens"], "expired", "expiring")),
        ("Schedules that did not run", [name for name, one in schedules if one["is_overdue"]]),
        ("Schedules that failed", [name for name, one in schedules if one["failures"]]),
        ("Runs that failed", [name for name, one in found["runs"].items() if one["failures"]]),
        ("Alerts", [f"{kind} {one['open']}" for kind, one in found["alerts"].items()]),
    ):
        if names:
            yield f"{title}: {', '.join(sorted(names))}."


def _counted(part: Found, *names: str) -> list[str]:
    return [f"{name} {part[name]}" for name in names if part[name]]
