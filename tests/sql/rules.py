"""The catalogue's rules: what a new object of the schema must have, and what is said when it has not.

A rule is catalogue/NNNN_name.sql, a query that answers with every `object` that breaks it and the `fix`; its
first lines say why. Those below compare with access.toml, or read what SQL cannot.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import access
from tests.conftest import Db

FOLDER = Path(__file__).parent / "catalogue"
EXCEPTIONS: dict[str, dict[str, str]] = tomllib.loads((FOLDER / "exceptions.toml").read_text())
API_ROLES = ("authenticated", "service_role")


@dataclass(frozen=True, order=True)
class Finding:
    """An object that breaks a rule, and what to do about it."""

    object: str
    fix: str

    def __str__(self) -> str:
        return f"{self.object}: {self.fix}"


Rule = Callable[[Db], Iterator[Finding]]


def findings(db: Db, name: str) -> list[Finding]:
    """What breaks a rule, without what exceptions.toml excuses."""
    return [found for found in all_findings(db, name) if found.object not in EXCEPTIONS.get(name, {})]


def stale_exceptions(db: Db, name: str) -> set[str]:
    return set(EXCEPTIONS.get(name, {})) - {found.object for found in all_findings(db, name)}


def all_findings(db: Db, name: str) -> list[Finding]:
    db.run("set local search_path = ''")  # so that every name is printed with its schema
    return sorted(RULES[name](db))


def _from_file(file: Path) -> Rule:
    def rule(db: Db) -> Iterator[Finding]:
        return (Finding(**row) for row in db.rows(file.read_text()))

    return rule


def access_objects(db: Db) -> Iterator[Finding]:
    """access.toml knows every table, view and function of public, and nothing else."""
    known, existing = set(access.RELATIONS) | set(access.FUNCTIONS), set(_objects(db))
    for name in existing - known:
        yield Finding(name, "say in tests/access.toml who may do what with it")
    for name in known - existing:
        yield Finding(name, "is in tests/access.toml but not in the schema: take it out, or create it")


def access_grants(db: Db) -> Iterator[Finding]:
    """The grants on tables and views are those that access.toml implies, column by column."""
    columns = _columns(db)
    wanted = {
        (name, role, verb, column)
        for name, relation in access.RELATIONS.items()
        for role in API_ROLES
        for verb in access.VERBS
        for column in relation.columns(role, verb, columns.get(name, ()))
    }
    granted = _granted(db)
    for says, side in (("does not allow", granted - wanted), ("allows", wanted - granted)):
        for name, role, verb in {grant[:3] for grant in side if grant[0] in access.RELATIONS}:
            touched = ", ".join(sorted(column for *grant, column in side if grant == [name, role, verb]))
            fix = "revoke" if says == "does not allow" else "grant"
            yield Finding(name, f"{fix} {verb} ({touched}) for {role}, which tests/access.toml {says}")


def access_execute(db: Db) -> Iterator[Finding]:
    """Each function can be called by exactly the roles that access.toml says, helpers of private included."""
    for row in db.rows(_EXECUTE):
        name = row["name"]
        if row["is_public"] and name not in access.FUNCTIONS:
            continue  # access_objects reports it
        wanted = access.FUNCTIONS[name].roles if row["is_public"] else access.helper_roles(name)
        for role in API_ROLES:
            if role in wanted and not row[role]:
                yield Finding(name, f"grant execute on it to {role}, as tests/access.toml says")
            # service_role may call what it likes in private: it bypasses RLS, and private is not exposed
            elif row[role] and role not in wanted and (row["is_public"] or role == "authenticated"):
                yield Finding(name, f"take execute from {role}, or let tests/access.toml say so")


def policy_per_row(db: Db) -> Iterator[Finding]:
    """A policy's calls are inside `(select …)` that reads no column of the row, and so run once a query."""
    for row in db.rows(_POLICIES):
        if per_row(row["tree"], set(row["immutable"])):
            yield Finding(row["object"], "wrap the call in (select …) and pass it no column of the row")


def per_row(tree: str, immutable: set[int]) -> bool:
    """Does this stored expression (pg_node_tree) call a function, or look something up, for each row?

    Depth counts the queries we are in. A call outside any is made per row; so is a sub-select with a column
    from as many levels up as we are deep."""
    depth, braces = 0, [False]
    for token in re.finditer(r"\\.|\{(\w+)|\}|:(funcid|varlevelsup) (\d+)", tree):
        text, node, field, number = token.group(), *token.groups()
        if text == "}":
            depth -= braces.pop()
        elif node:
            braces.append(node == "QUERY")
            depth += braces[-1]
        elif field == "funcid":
            if depth == 0 and int(number) not in immutable:
                return True
        elif field and depth > 0 and int(number) == depth:
            return True
    return False


def _objects(db: Db) -> list[str]:
    return [str(name) for name in db.column(_OBJECTS)]


def _columns(db: Db) -> dict[str, list[str]]:
    return {row["relation"]: row["columns"] for row in db.rows(_COLUMNS)}


def _granted(db: Db) -> set[tuple[str, str, str, str]]:
    return {tuple(row.values()) for row in db.rows(_GRANTED, list(API_ROLES), list(access.VERBS))}


_OBJECTS = """
    select c.oid::regclass::text from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
        and not c.relispartition
    union all
    select p.pronamespace::regnamespace || '.' || p.proname from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace"""

_COLUMNS = """
    select c.oid::regclass::text as relation, array_agg(a.attname::text order by a.attnum) as columns
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
    group by c.oid"""

# a delete has no columns
_GRANTED = """
    select distinct
        c.oid::regclass::text, role, verb,
        case verb when 'delete' then '*' else a.attname::text end as touched
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    cross join unnest(%s::text[]) as role
    cross join unnest(%s::text[]) as verb
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
        and not c.relispartition
        and case verb
            when 'delete' then has_table_privilege(role, c.oid, verb)
            else has_column_privilege(role, c.oid, a.attnum, verb)
        end"""

_EXECUTE = """
    select
        p.pronamespace::regnamespace || '.' || p.proname as name,
        p.pronamespace = 'public'::regnamespace as is_public,
        has_function_privilege('authenticated', p.oid, 'execute') as authenticated,
        has_function_privilege('service_role', p.oid, 'execute') as service_role
    from pg_catalog.pg_proc p
    where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)"""

# a cast or lower() costs nothing worth a sub-select; a function of our own always does
_POLICIES = """
    select
        format('%s on %s', p.polname, p.polrelid::regclass) as object,
        tree::text as tree,
        array(
            select f.oid::int8 from pg_catalog.pg_proc f
            where f.provolatile = 'i' and f.pronamespace = 'pg_catalog'::regnamespace) as immutable
    from pg_catalog.pg_policy p
    join pg_catalog.pg_class c on c.oid = p.polrelid
    cross join lateral (values (p.polqual), (p.polwithcheck)) as predicate (tree)
    where c.relnamespace in ('public'::regnamespace, 'private'::regnamespace) and tree is not null"""

RULES: dict[str, Rule] = {file.stem: _from_file(file) for file in sorted(FOLDER.glob("0*.sql"))} | {
    rule.__name__: rule for rule in (access_objects, access_grants, access_execute, policy_per_row)
}
