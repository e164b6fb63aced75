"""What must survive a kill -9, in one SQLite file. Each module keeps its own tables in it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from local.simulator.config import Tuning

Row = sqlite3.Row
_SHAPE = 2  # of all tables; add one when a table changes


class Store:
    """Synchronous on purpose: a statement takes microseconds, and one writer needs no locks."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute(
            "pragma synchronous = normal"
        )  # outlives the process; a power cut may lose some
        self._begin_anew_unless(_SHAPE)
        self._tables: list[str] = []
        self._tuning: Tuning | None = None
        self.create("note", "create table if not exists note (key text primary key, value text not null)")

    def _begin_anew_unless(self, shape: int) -> None:
        """The file of an older simulator has tables that this one cannot read."""
        if self.value("pragma user_version") == shape:
            return
        for row in self.rows(
            "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"
        ):
            self.run(f'drop table "{row["name"]}"')
        self.run(f"pragma user_version = {shape}")

    def create(self, table: str, *statements: str) -> None:
        for statement in statements:
            self._connection.execute(statement)
        self._tables.append(table)

    def run(self, statement: str, *values: Any) -> int:
        """The number of rows it touched."""
        return self._connection.execute(statement, values).rowcount

    def rows(self, statement: str, *values: Any) -> list[Row]:
        return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, *values: Any) -> Row | None:
        return next(iter(self.rows(statement, *values)), None)

    def value(self, statement: str, *values: Any) -> Any:
        found = self.row(statement, *values)
        return None if found is None else found[0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._connection.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")

    def forget_everything(self, *, but: Sequence[str] = ()) -> None:
        self._tuning = None
        with self.transaction():
            for table in self._tables:
                if table not in but:
                    self.run(f"delete from {table}")

    def note(self, key: str, value: Any) -> None:
        self.run("insert or replace into note values (?, ?)", key, dump(value))

    def noted(self, key: str, default: Any) -> Any:
        found = self.value("select value from note where key = ?", key)
        return default if found is None else json.loads(found)

    @property
    def tuning(self) -> Tuning:
        """Asked for with every message, so it is read once."""
        self._tuning = self._tuning or replace(Tuning(), **self.noted("tuning", {}))
        return self._tuning

    @tuning.setter
    def tuning(self, chosen: Tuning) -> None:
        self.note("tuning", asdict(chosen))
        self._tuning = chosen

    def close(self) -> None:
        self._connection.close()


def dump(value: Any) -> str:
    """JSON in ASCII: customers' words may hold lone surrogates, which SQLite and UTF-8 refuse."""
    return json.dumps(value, separators=(",", ":"))
