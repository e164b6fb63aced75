"""What telling front ends costs those who write: the same work with the triggers of sql/78 and without.

    python -m bench.realtime              a quick look
    python -m bench.realtime --pairs 12   the full measurement

Two databases of one server are compared in alternating slices, as in bench/schema.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.figures import report
from bench.schema import DURABLE, Database, Done, Receiver, Scale, databases, paired
from local import database as bootstrap
from local import postgres

TRIGGERS = {
    "messages": ("messages_broadcast_new", "messages_broadcast_status"),
    "conversations": ("conversations_broadcast",),
    "customer_leads": ("customer_leads_broadcast",),
}


class Statuses(Receiver):
    """Messages of the phone, each told to be delivered in a call that is timed."""

    def new(self) -> Done:
        written = [self._payload(next(self.serial)) for _ in range(self.size)]
        self.send(json.dumps([_retold(one, "echo", "e") for one in written]))
        return self.size, self.send(json.dumps([_retold(one, "status", "s") for one in written]))


def _retold(told: dict[str, Any], kind: str, suffix: str) -> dict[str, Any]:
    (event,) = told["events"]
    if kind == "status":
        at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        event = {"kind": kind, "id": event["id"], "at": at, "status": "delivered"}
    return told | {"delivery_id": told["delivery_id"] + suffix, "events": [event | {"kind": kind}]}


def silence(database: Database) -> None:
    with database.connect() as owner:
        for table, triggers in TRIGGERS.items():
            for trigger in triggers:
                owner.execute(f'alter table public.{table} disable trigger "{trigger}"')


def compare(told: Database, silent: Database, scale: Scale) -> None:
    for size in (1, 100):
        a, b = Receiver(told, size).warm(), Receiver(silent, size).warm()
        report(f"messages received, told / not, rows/s, {size} a call", paired(a.new, b.new, scale), ">= 0.9")
        c, d = Statuses(told, size).warm(), Statuses(silent, size).warm()
        report(f"statuses received, told / not, rows/s, {size} a call", paired(c.new, d.new, scale), ">= 0.9")
    with told.connect() as owner:
        row = owner.execute(
            "select count(*), max(pg_column_size(payload)), sum((payload ->> 'count')::int)"
            " from realtime.messages"
        ).fetchone()
    assert row
    print(f"    {row[0]:,} broadcasts of {row[2]:,} changes; the largest has {row[1]:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--slice", type=float, default=0.5, help="seconds")
    given = parser.parse_args()
    scale = Scale(0, 1, 0, given.pairs, given.slice)
    server = postgres.installation()
    with tempfile.TemporaryDirectory(prefix="recado-bench-") as home:
        pgdata, port = Path(home) / "postgres", postgres.free_port()
        postgres.create(server, pgdata)
        with postgres.running(server, pgdata, port, DURABLE, Path(home) / "log"):
            bootstrap.bootstrap(port)
            told, silent = databases(port, scale)
            silence(silent)
            compare(told, silent, scale)


if __name__ == "__main__":
    main()
