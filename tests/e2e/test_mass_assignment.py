"""Nobody writes what is not theirs to write: plan, limits, role, tenant, status, counters, times, ids.

tests/access.toml names the columns that people may set; everybody tries every other column of every table.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests import access
from tests.e2e.businesses import CAST, MARKS, World, foreign_keys, two_businesses
from tests.e2e.platforms import Platform

PEOPLE = [person for person in CAST if person != "service"]
TABLES = [name.removeprefix("public.") for name in access.RELATIONS]
UPDATES = [name for name in TABLES if "update" in access.RELATIONS[f"public.{name}"].verbs]
INSERTS = [name for name in TABLES if "insert" in access.RELATIONS[f"public.{name}"].verbs]


@pytest.fixture(scope="module")
def made(platform: Platform) -> Iterator[World]:
    with two_businesses(platform) as world:
        yield world


@pytest.fixture
def world(made: World) -> Iterator[World]:
    yield made
    made.settle()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("person", PEOPLE)
def test_no_column_but_the_declared_ones_can_be_updated(world: World, person: str, name: str) -> None:
    for column in sorted(set(columns(world, name)) - set(allowed(world, name, "update"))):
        for business in MARKS:
            answer = world.ask(
                person,
                "PATCH",
                one(world, name, business),
                json={column: other_value(world, name, business, column)},
            )

            assert answer.status_code in (401, 403), f"{person} updates {name}.{column}: {answer.text}"
    assert world.touched() == set()


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("person", ["owner_a", "admin_a", "user_a", "agent_a"])
def test_a_declared_column_takes_no_other_with_it(world: World, person: str, name: str) -> None:
    declared = allowed(world, name, "update")[0]
    for column in sorted(set(columns(world, name)) - set(allowed(world, name, "update"))):
        row = world.rows[name]["a"]

        answer = world.ask(
            person, "PATCH", one(world, name, "a"), json={declared: row[declared], column: row[column]}
        )

        assert answer.status_code == 403, f"{person} updates {name}.{column}: {answer.text}"
    assert world.touched() == set()


@pytest.mark.parametrize("name", INSERTS)
def test_no_column_but_the_declared_ones_can_be_inserted(world: World, name: str) -> None:
    given = {
        column: value
        for column, value in world.fresh(world.tables[name], "a").items()
        if column in allowed(world, name, "insert")
    }
    for column in sorted(set(columns(world, name)) - set(allowed(world, name, "insert"))):
        answer = world.ask("owner_a", "POST", name, json={**given, column: world.rows[name]["a"][column]})

        assert answer.status_code == 403, f"{name}.{column}: {answer.text}"
    assert world.touched() == set()


@pytest.mark.parametrize("name", UPDATES)
def test_the_declared_columns_can_be_updated(world: World, name: str) -> None:
    row = world.rows[name]["a"]
    same = {column: row[column] for column in allowed(world, name, "update")}

    answer = world.ask("owner_a", "PATCH", one(world, name, "a"), json=same)

    assert answer.status_code == 204, answer.text
    assert world.touched() == {"a"}


def test_no_reference_can_be_turned_to_another_business(world: World) -> None:
    for key in foreign_keys(world.database):
        if key.column in allowed(world, key.child, "update"):
            theirs = world.rows[key.parent]["b"][key.parent_column]

            answer = world.ask("owner_a", "PATCH", one(world, key.child, "a"), json={key.column: theirs})

            assert answer.status_code == 409, f"{key.child}.{key.column}: {answer.text}"
            assert world.touched() == set()


def columns(world: World, name: str) -> list[str]:
    return world.tables[name].writable


def allowed(world: World, name: str, verb: str) -> tuple[str, ...]:
    verbs = access.RELATIONS[f"public.{name}"].verbs
    return verbs[verb].columns(columns(world, name)) if verb in verbs else ()


def one(world: World, name: str, business: str) -> str:
    row = world.rows[name][business]
    return f"{name}?{urlencode({column: f'eq.{row[column]}' for column in world.tables[name].key})}"


def other_value(world: World, name: str, business: str, column: str) -> object:
    """What an attacker would put there: the other business, or whatever fits."""
    other = "b" if business == "a" else "a"
    return world.tenants[other] if column == "tenant_id" else world.rows[name][business][column]
