"""Our functions as plpgsql_check sees them."""

from __future__ import annotations

from typing import Any

from local import schema


def test_plpgsql_check_finds_nothing(server: Any, database: str) -> None:
    name = database.rsplit("/", 1)[1]
    server.superuser("create extension plpgsql_check with schema extensions", name)

    assert schema.lint(database) == []
