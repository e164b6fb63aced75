"""Nobody sees or changes another business: every person, at every table, view and RPC, through the real door.

What each may do is in tests/access.toml. All else is refused and leaves every row untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import httpx
import pytest

from tests import access
from tests.e2e.businesses import (
    CAST,
    MARKS,
    Person,
    World,
    arguments,
    foreign_keys,
    functions,
    two_businesses,
)
from tests.e2e.platforms import Platform

# who was refused by a grant or a policy; a conflict means that they got past both
REFUSED, CONFLICT = (401, 403), 409
WRITES = ("insert", "update", "delete", "upsert")
RELATIONS = [name.removeprefix("public.") for name in access.RELATIONS]
TARGETS = [
    (person, name)
    for person in CAST
    for name in RELATIONS
    # those rows are not made anew after each test
    if not (person == "service" and access.RELATIONS[f"public.{name}"].is_everybodys)
]


@pytest.fixture(scope="module")
def made(platform: Platform) -> Iterator[World]:
    with two_businesses(platform) as world:
        yield world


@pytest.fixture
def world(made: World) -> Iterator[World]:
    yield made
    made.settle()


def test_every_object_is_declared(made: World) -> None:
    exist = {f"public.{name}" for name in {*made.tables, *functions(made.database)}}

    assert exist - access.DOMAINS.keys() == set(), "say in tests/access.toml who may do what with these"


@pytest.mark.parametrize("name", RELATIONS)
@pytest.mark.parametrize("person", CAST)
def test_select(world: World, person: str, name: str) -> None:
    who, relation = world.people[person], access.RELATIONS[f"public.{name}"]

    answer = world.ask(person, "GET", f"{name}?select={selected(name)}{page(world, person, name)}")

    assert answer.status_code in ((200, 206) if is_granted(who, relation, "select") else REFUSED), answer.text
    assert world.shown(answer) == (set() if relation.is_everybodys else reach(who, relation, "select"))


@pytest.mark.parametrize("name", RELATIONS)
@pytest.mark.parametrize("person", CAST)
def test_asking_for_another_business_by_name(world: World, person: str, name: str) -> None:
    for other in world.people[person].others:
        tenant = world.tenants[other]
        for question in (f"tenant_id=eq.{tenant}", f"or=(tenant_id.eq.{tenant},tenant_id.is.null)"):
            answer = world.ask(person, "GET", f"{name}?select={selected(name)}&{question}")

            assert other not in world.shown(answer)


@pytest.mark.parametrize("verb", WRITES)
@pytest.mark.parametrize(("person", "name"), TARGETS)
def test_write(world: World, person: str, name: str, verb: str) -> None:
    who, relation = world.people[person], access.RELATIONS[f"public.{name}"]
    for business in MARKS:
        answer = write(world, person, name, verb, business)

        if business in reach(who, relation, verb):
            assert answer.status_code not in REFUSED, f"of {business}: {answer.text}"
            assert world.touched() == {business} or answer.status_code == CONFLICT, answer.text
        else:
            assert world.touched() == set(), f"{person} changed rows of {business}"
            assert answer.status_code in REFUSED or is_granted(who, relation, verb), (
                f"of {business}: {answer.text}"
            )
        world.settle()


@pytest.mark.parametrize(("person", "name"), [target for target in TARGETS if target[0] != "service"])
def test_a_write_without_a_filter_reaches_ones_own_business(world: World, person: str, name: str) -> None:
    who, relation = world.people[person], access.RELATIONS[f"public.{name}"]
    column = updatable(world, name)

    world.ask(person, "PATCH", f"{name}?{column}=not.is.null", json={column: world.rows[name]["a"][column]})
    touched = world.touched()
    world.ask(person, "DELETE", f"{name}?{column}=not.is.null")

    assert touched <= (who.own if relation.allows(who.role, "update") else set())
    assert world.touched() <= (who.own if relation.allows(who.role, "delete") else set())


@pytest.mark.parametrize("person", [person for person in CAST if person != "service"])
def test_a_hidden_column_cannot_be_read(made: World, person: str) -> None:
    for name in (name for name in RELATIONS if selected(name) != "*"):
        for column in set(made.tables[name].writable) - set(selected(name).split(",")):
            answer = made.ask(person, "GET", f"{name}?select={column}")

            assert answer.status_code in REFUSED, f"{person} reads {name}.{column}: {answer.text}"


@pytest.mark.parametrize("person", CAST)
def test_embedding(made: World, person: str) -> None:
    """Each foreign key, from both of its ends."""
    who = made.people[person]
    for key in foreign_keys(made.database):
        ends = (key.child, key.parent)
        if not set(ends) <= set(RELATIONS):
            continue  # test_every_object_is_declared names it
        allowed = all(is_granted(who, access.RELATIONS[f"public.{end}"], "select") for end in ends)
        for outer, inner in (ends, ends[::-1]):
            question = f"{outer}?select={selected(outer)},{inner}!{key.hint}({selected(inner)})"

            answer = made.ask(person, "GET", question)

            assert not made.shown(answer) & who.others, f"{person} reads another business by {question}"
            if not key.is_ambiguous:
                assert answer.status_code in ((200, 206) if allowed else REFUSED), (
                    f"{question}: {answer.text}"
                )


@pytest.mark.parametrize("name", [name.removeprefix("public.") for name in access.FUNCTIONS])
@pytest.mark.parametrize("person", CAST)
def test_rpc(world: World, person: str, name: str) -> None:
    who, function = world.people[person], access.FUNCTIONS[f"public.{name}"]
    for business in MARKS:
        told = arguments(functions(world.database)[name], world, business)

        answer = world.ask(person, "POST", f"rpc/{name}", json=told)

        reached = world.touched() | world.shown(answer)
        if function.allows(who.role):
            assert not reached & ({*who.others, "?"} if person != "service" else set()), (
                f"{person} reached {reached}, asking about {business}: {answer.text}"
            )
            assert business in who.others or answer.status_code not in (*REFUSED, 404), answer.text
        else:
            assert not reached, f"{person} reached {reached}, asking about {business}: {answer.text}"
            assert is_refusal(answer), answer.text
        world.settle()


def write(world: World, person: str, name: str, verb: str, business: str) -> httpx.Response:
    table, row, verbs = (
        world.tables[name],
        world.rows[name][business],
        access.RELATIONS[f"public.{name}"].verbs,
    )
    one = urlencode({column: f"eq.{row[column]}" for column in table.key})
    if verb == "delete":
        return world.ask(person, "DELETE", f"{name}?{one}")
    if verb == "update":
        column = updatable(world, name)
        return world.ask(person, "PATCH", f"{name}?{one}", json={column: row[column]})
    if verb == "upsert":
        body = {column: row[column] for column in table.writable}
        return world.ask(person, "POST", name, json=body, headers={"Prefer": "resolution=merge-duplicates"})
    body = world.fresh(table, business)
    if person != "service" and "insert" in verbs:
        body = {column: body[column] for column in verbs["insert"].columns(table.writable) if column in body}
    return world.ask(person, "POST", name, json=body)


def page(world: World, person: str, name: str) -> str:
    """The service sees everybody's rows, and an answer holds a thousand of them."""
    if person != "service" or not world.tables[name].has_tenant:
        return ""
    return f"&tenant_id=in.({','.join(world.tenants.values())})"


def updatable(world: World, name: str) -> str:
    """A column that whoever may update the table may write."""
    verbs, writable = access.RELATIONS[f"public.{name}"].verbs, world.tables[name].writable
    return (verbs["update"].columns(writable) if "update" in verbs else writable)[0]


def selected(name: str) -> str:
    """What people may select of a table; all of it, if only some or nobody may."""
    verbs = access.RELATIONS[f"public.{name}"].verbs
    return ",".join(verbs["select"].named) if "select" in verbs and verbs["select"].named else "*"


def is_granted(who: Person, relation: access.Relation, verb: str) -> bool:
    """Has this person's database role a grant? A policy may still leave them nothing."""
    if who.role in ("anon", "service"):
        return relation.allows(who.role, verb)
    # an upsert also writes the columns that make the row's key, which no grant includes
    return verb in relation.verbs


def reach(who: Person, relation: access.Relation, verb: str) -> set[str]:
    """The businesses whose row this person may treat so."""
    if who.role == "service":
        needed = ("insert", "update") if verb == "upsert" else (verb,)
        return set(MARKS) if all(relation.allows("service", each) for each in needed) else set()
    if not relation.allows(who.role, verb):
        return set()
    # the row that we try is the owner's
    return who.own if relation.verbs[verb].who != "self" or who.role == "owner" else set()


def is_refusal(answer: httpx.Response) -> bool:
    """By status, or by an answer that says there is nothing."""
    return answer.status_code in (*REFUSED, 404) or answer.json() in ([], None)
