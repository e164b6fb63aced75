"""The catalogue says what a new object was made without; catalogue/faults.sql is the proof that it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import access
from tests.conftest import Db
from tests.sql.rules import EXCEPTIONS, FOLDER, RULES, findings, stale_exceptions

ROOT = Path(__file__).parents[2]
_FAULT = re.compile(r"^-- (.+) -> (\w+): (.+)\n((?:(?!-- ).*\n?)+)", re.MULTILINE)
FAULTS = {match[1]: match.groups()[1:] for match in _FAULT.finditer((FOLDER / "faults.sql").read_text())}


@pytest.mark.parametrize("rule", RULES)
def test_rule(db: Db, rule: str) -> None:
    found = findings(db, rule)

    assert not found, "\n" + "\n".join(map(str, found))


@pytest.mark.parametrize("rule", RULES)
def test_every_exception_still_excuses_something(db: Db, rule: str) -> None:
    assert not stale_exceptions(db, rule)


def test_exceptions_are_of_rules_that_exist() -> None:
    assert set(EXCEPTIONS) <= set(RULES)


@pytest.mark.parametrize("name", access.DOMAINS)
def test_each_object_is_created_in_the_file_of_its_domain(name: str) -> None:
    domain = access.DOMAINS[name]
    source = (ROOT / "sql" / f"{domain}.sql").read_text()

    assert any(
        f"create {kind} {name}{end}" in source for kind in ("table", "view", "function") for end in " ("
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(db: Db, fault: str) -> None:
    rule, name, statements = FAULTS[fault]
    assert name not in {found.object for found in findings(db, rule)}

    db.connection.execute(statements.encode())

    assert name in {found.object for found in findings(db, rule)}


def test_every_rule_has_a_fault_that_it_sees() -> None:
    assert {rule for rule, _, _ in FAULTS.values()} == set(RULES)
