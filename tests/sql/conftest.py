"""Two businesses with numbers, and a way to tell them what providers deliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.sql.given import NOW, Business, Inbox, open_business


@pytest.fixture
def clinic(db: Any) -> Business:
    return open_business(db.connection, "clinic", "100000000000001")


@pytest.fixture
def plaza(db: Any) -> Business:
    return open_business(db.connection, "plaza", "100000000000003")


@pytest.fixture
def inbox(db: Any, clinic: Business) -> Inbox:
    return Inbox(db.connection)


@pytest.fixture
def connect(database: str) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    """For tests with several transactions: each call is another connection, autocommit; none waits long."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(
            psycopg.connect(database, autocommit=True, row_factory=dict_row, options="-c lock_timeout=30s")
        )


@pytest.fixture
def time_of_the_tests(db: Any) -> None:
    """Business time is that of the tests' NOW, however long ago they were collected."""
    db.run("update local.clock set ahead = %s - now()", NOW)
