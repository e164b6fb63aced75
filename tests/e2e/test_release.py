"""A release goes out and back on a running platform, as docs/operations.md says; customers see nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.e2e.clinics import Business
from tests.e2e.platforms import Platform, eventually

RELEASES = Path(__file__).parents[1] / "data" / "releases"


@pytest.fixture
def clinic(other_platform: Platform) -> Iterator[Business]:
    started = other_platform.up()
    assert started.returncode == 0, started.stderr
    with closing(Business(other_platform)) as made:
        made.open()
        yield made


def migrate(platform: Platform, name: str) -> None:
    with psycopg.connect(platform.env["DATABASE_URL"]) as connection:
        connection.execute((RELEASES / name).read_bytes())


def deploy_functions(platform: Platform) -> None:
    """What a deployment of functions does to those that run: they are stopped, and others take over."""
    for part in ("webhook", "reply", "deliver"):
        before = platform.pid(part)
        os.kill(before, signal.SIGTERM)
        assert eventually(lambda part=part, before=before: platform.pid(part) != before, 30)


def test_a_release_goes_out_and_back_and_every_customer_is_answered(clinic: Business) -> None:
    platform = clinic.platform

    clinic.write("573155590001", "Hola")  # is worked on while the schema changes
    migrate(platform, "next.sql")
    clinic.write("573155590002", "Hola, esto es con el esquema nuevo")
    deploy_functions(platform)
    clinic.write("573155590003", "Hola, esto es con las funciones nuevas")
    deploy_functions(platform)  # the way back: functions first
    migrate(platform, "back.sql")
    clinic.write("573155590004", "Hola, como antes")

    assert eventually(lambda: len(clinic.sent()) == 4, 60)
    assert sorted(one["to"][-1] for one in clinic.sent()) == ["1", "2", "3", "4"]
    assert clinic.alerts() == set()
