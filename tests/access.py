"""access.toml as Python reads it: who may do what with every object of the public schema."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERBS = ("select", "insert", "update", "delete")
# whom each word of access.toml means, besides the service; `self` and `everybody` also depend on the row
ROLES = {
    "everybody": {"owner", "admin", "user", "agent", "removed"},
    "staff": {"owner", "admin", "user", "agent"},
    "self": {"owner", "admin", "user", "agent"},
    "user": {"owner", "admin", "user"},
    "admin": {"owner", "admin"},
    "owner": {"owner"},
    "service": set[str](),
}


@dataclass(frozen=True)
class Verb:
    """What people may do with a relation: who, and with which columns (empty: all)."""

    who: str
    named: tuple[str, ...] = ()

    def columns(self, existing: Iterable[str]) -> tuple[str, ...]:
        return self.named or tuple(existing)


@dataclass(frozen=True)
class Relation:
    """A table or view."""

    domain: str
    verbs: Mapping[str, Verb]
    service: tuple[str, ...]

    def columns(self, role: str, verb: str, existing: Iterable[str]) -> tuple[str, ...]:
        """The columns that a database role may touch with a verb; a delete touches `*`."""
        if role == "service_role":
            allowed = tuple(existing) if verb in self.service else ()
        else:
            allowed = self.verbs[verb].columns(existing) if verb in self.verbs else ()
        return ("*",) if allowed and verb == "delete" else allowed

    def allows(self, role: str, verb: str) -> bool:
        """May this person (owner, admin, user, agent, removed, service) do it with rows of their business?"""
        if role == "service":
            return verb in self.service
        return verb in self.verbs and role in ROLES[self.verbs[verb].who]

    @property
    def is_everybodys(self) -> bool:
        return "select" in self.verbs and self.verbs["select"].who == "everybody"


@dataclass(frozen=True)
class Function:
    """An RPC."""

    domain: str
    who: str

    @property
    def roles(self) -> tuple[str, ...]:
        """The database roles that may execute it."""
        return ("service_role",) if self.who == "service" else ("authenticated",)

    def allows(self, role: str) -> bool:
        return (role == "service") == (self.who == "service") and (
            role == "service" or role in ROLES[self.who]
        )


def helper_roles(name: str) -> tuple[str, ...]:
    """Which roles of people may execute a function of private."""
    return ("authenticated",) if name.removeprefix("private.") in _HELPERS else ()


def _relation(domain: str, entry: Mapping[str, Any]) -> Relation:
    verbs = {
        verb: Verb(said["who"], tuple(said.get("columns", ())))
        for verb, said in entry.items()
        if verb in VERBS
    }
    return Relation(domain, verbs, tuple(entry.get("service", VERBS)))


_FILE: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
_HELPERS = frozenset(_FILE.pop("helpers")["authenticated"])

RELATIONS = {
    f"public.{name}": _relation(domain, entry)
    for domain, entries in _FILE.items()
    for name, entry in entries.items()
    if name != "functions"
}
FUNCTIONS = {
    f"public.{name}": Function(domain, who)
    for domain, entries in _FILE.items()
    for name, who in entries.get("functions", {}).items()
}
DOMAINS = {name: entry.domain for entries in (RELATIONS, FUNCTIONS) for name, entry in entries.items()}
