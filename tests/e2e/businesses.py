"""Two businesses that know nothing of each other, with people who signed in and a row in every table.

The rows are made from the catalogue, so that a new table is there without anybody thinking of it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local.postgres import SUPERUSER
from tests.e2e.platforms import Platform

Row = dict[str, Any]
MARKS = {"a": "quetzal", "b": "tucan"}  # words by which a business's data is known, wherever it turns up
CAST = ("anon", "owner_a", "admin_a", "user_a", "agent_a", "owner_b", "removed_a", "service")
_TOML = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
_MADE_BY_SIGN_UP = ("users", "tenant_settings")


@dataclass(frozen=True)
class Person:
    """Somebody with a key, and a token unless they are anon or the service."""

    name: str
    headers: Mapping[str, str]

    @property
    def role(self) -> str:
        return self.name.partition("_")[0]

    @property
    def business(self) -> str | None:
        return self.name.partition("_")[2] or None

    @property
    def others(self) -> set[str]:
        """The businesses whose data this person must never see or change."""
        return set() if self.role == "service" else set(MARKS) - self.own

    @property
    def own(self) -> set[str]:
        """The business in which this person has a seat."""
        return {self.business} if self.business and self.role != "removed" else set()


@dataclass(frozen=True)
class Table:
    """A table or view of public, as the catalogue has it; a view's key is its first column."""

    name: str
    kind: str
    key: list[str]
    columns: list[Row]
    has_tenant: bool

    @property
    def is_view(self) -> bool:
        return self.kind == "v"

    @property
    def writable(self) -> list[str]:
        return [column["name"] for column in self.columns if not column["generated"]]


@dataclass(frozen=True)
class ForeignKey:
    """A reference between two tables of public, by its last column: tenant_id comes before."""

    child: str
    name: str
    parent: str
    column: str
    parent_column: str
    columns: int

    @property
    def hint(self) -> str:
        """By which PostgREST knows it; a table that refers to itself has two ends of the same name."""
        return self.column if self.child == self.parent and self.columns == 1 else self.name

    @property
    def is_ambiguous(self) -> bool:
        """PostgREST cannot be told which of the two ends is meant, and says so."""
        return self.child == self.parent and self.columns > 1


@dataclass
class World:
    """Both businesses, seen from outside (client) and from below (database)."""

    client: httpx.Client
    database: psycopg.Connection[Row]
    people: dict[str, Person]
    tenants: dict[str, str]  # business -> users.id of its owner
    agents: dict[str, str]  # business -> users.id of its agent
    tables: dict[str, Table]
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)  # table, business -> its row
    _is_suspect: bool = False  # something was written, it seems
    _is_changed: bool = False  # rows did change
    _pristine: dict[str, list[Row]] = field(default_factory=dict)
    _seen: dict[tuple[str, str], str] = field(default_factory=dict)

    def ask(self, person: str, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**self.people[person].headers, **more.pop("headers", {})}
        answer = self.client.request(method, f"/rest/v1/{path}", headers=headers, **more)
        self._is_suspect = self._is_suspect or (method != "GET" and answer.is_success)
        assert answer.status_code < 500, (
            f"{person}: {method} {path} answered {answer.status_code}: {answer.text}"
        )
        return answer

    def shown(self, answer: httpx.Response) -> set[str]:
        """The businesses whose data is in an answer."""
        return {name for name in MARKS if self.tenants[name] in answer.text or MARKS[name] in answer.text}

    def touched(self) -> set[str]:
        """Whose rows were written since the last call, were it with the same values; `?`: everybody's."""
        before, self._seen = self._seen, self._fingerprints()
        differ = {key for key in before.keys() | self._seen.keys() if before.get(key) != self._seen.get(key)}
        names = {tenant: name for name, tenant in self.tenants.items()}
        self._is_suspect, self._is_changed = False, self._is_changed or bool(differ)
        return {names.get(tenant, "?") for _, tenant in differ}

    def settle(self) -> None:
        """Make both businesses again, if somebody did change something."""
        if self._is_suspect:
            self.touched()
        if self._is_changed:
            self._restore()

    def _restore(self) -> None:
        with self.database.transaction():
            # foreign keys and triggers are off: rows go in and out in any order
            self.database.execute("set local session_replication_role = replica")
            for table in self._of_tenants():
                self._delete(table)
                self._insert(table, self._pristine[table.name])
        self.touched()
        self._is_changed = False

    def make_rows(self) -> None:
        """A row of each business in every table that sign-up left empty."""
        with self.database.transaction():
            self.database.execute("set local session_replication_role = replica")
            for table in self._of_tenants():
                if table.name not in _MADE_BY_SIGN_UP:
                    self._insert(table, [self.fresh(table, name, "0") for name in MARKS])
        for table in self.tables.values():
            self._pristine[table.name] = self._read(table)
            self.rows[table.name] = {name: self._row(table, name) for name in MARKS}
        self.touched()
        self._is_changed = False

    def remove(self) -> None:
        with self.database.transaction():
            self.database.execute("set local session_replication_role = replica")
            for table in self._of_tenants():
                self._delete(table)
            self.database.execute("delete from auth.users where email like %s", [f"%@{MARKS['a']}.example"])
            self.database.execute("delete from auth.users where email like %s", [f"%@{MARKS['b']}.example"])

    def fresh(self, table: Table, business: str, series: str = "1") -> Row:
        """A row of that business that might be inserted, complete; series tells two of them apart."""
        made = {
            column["name"]: self._value(table, column, business, series)
            for column in table.columns
            if not column["generated"]
        }
        return {name: value for name, value in made.items() if value is not None}

    def named(self, value: Any, business: str) -> Any:
        """What a value of businesses.toml stands for."""
        if not isinstance(value, str):
            return value
        table, _, column = value.partition(".")
        if table in self.tables and column:
            return self._id(table, column, business, "0")
        return value.format(n=1 if business == "a" else 2, mark=MARKS[business])

    def _id(self, table: str, column: str, business: str, series: str) -> str:
        """The value of a key column; a row of the first series is what foreign keys refer to."""
        found = next(entry for entry in self.tables[table].columns if entry["name"] == column)
        if table == "users" and series == "0":
            return self.tenants[business]
        if found["target"]:
            return self._id(found["target"], found["target_column"], business, "0")
        number = list(self.tables).index(table)
        return f"{business * 8}-{series * 4}-4000-8000-{number:012d}"

    def _value(self, table: Table, column: Row, business: str, series: str) -> Any:
        name = column["name"]
        said = _TOML["rows"].get(table.name, {})
        if name == "tenant_id":
            return self.tenants[business]
        if name in said:
            return self.named(said[name], business)
        if column["target"] or name == "id":
            return self._id(table.name, name, business, series)
        if column["words"]:
            return re.findall(r"'([^']*)'", column["words"])[0]
        if column["has_default"] or (column["is_checked"] and not column["is_required"]):
            return None
        return _of_type(column, MARKS[business] + ("" if series == "0" else series))

    def _of_tenants(self) -> list[Table]:
        return [table for table in self.tables.values() if table.has_tenant and not table.is_view]

    def _read(self, table: Table) -> list[Row]:
        query = sql.SQL("select to_jsonb(t) as row from {} t {}").format(_name(table), _ours(table))
        found = self.database.execute(query, self._parameters)
        return [row["row"] for row in found]

    def _row(self, table: Table, business: str) -> Row:
        """The business's row, of its people the owner; any row where a table has no tenants."""
        rows = self._pristine[table.name]
        mine = [
            row for row in rows if self.tenants[business] in row.values() or MARKS[business] in row.values()
        ]
        return next((row for row in mine if row.get("id") == row.get("tenant_id")), (mine or rows)[0])

    def _delete(self, table: Table) -> None:
        self.database.execute(
            sql.SQL("delete from {} {}").format(_name(table), _ours(table)), self._parameters
        )

    def _insert(self, table: Table, rows: Sequence[Row]) -> None:
        for row in rows:
            columns = sql.SQL(", ").join(sql.Identifier(name) for name in table.writable if name in row)
            self.database.execute(
                sql.SQL(
                    "insert into {0} ({1}) overriding system value"
                    " select {1} from jsonb_populate_record(null::{0}, %s)"
                ).format(_name(table), columns),
                [Jsonb(row)],
            )

    def _fingerprints(self) -> dict[tuple[str, str], str]:
        """One for each table and business; xmin betrays a write of the same values."""
        parts = [
            sql.SQL(
                "select {} as name, {}::text as tenant,"
                " md5(string_agg(t.xmin || t::text, ',' order by t::text)) as md5 from {} t {} group by 2"
            ).format(
                table.name,
                sql.SQL("tenant_id" if table.has_tenant else "null"),
                _name(table),
                _ours(table),
            )
            for table in self.tables.values()
            if not table.is_view
        ]
        rows = self.database.execute(sql.SQL(" union all ").join(parts), self._parameters)
        return {(row["name"], row["tenant"]): row["md5"] for row in rows}

    @property
    def _parameters(self) -> Row:
        return {"tenants": list(self.tenants.values())}


@contextmanager
def two_businesses(platform: Platform) -> Iterator[World]:
    """Made with sign-ups and invitations through the platform's own door; gone afterwards."""
    superuser = make_conninfo(platform.env["DATABASE_URL"], user=SUPERUSER)
    with (
        psycopg.connect(superuser, autocommit=True, row_factory=dict_row) as database,
        httpx.Client(base_url=platform.env["SUPABASE_URL"], timeout=30) as client,
        _nobody_works(database),
    ):
        world = World(client, database, {}, {}, {}, _tables(database))
        try:
            _people(world, platform.env)
            world.make_rows()
            yield world
        finally:
            world.remove()


def arguments(function: Row, world: World, business: str) -> Row:
    """What to call an RPC with, so that it speaks of that business."""
    return {
        name: _argument(name, kind, world, business)
        for name, kind, is_required in zip(
            *(function[key] for key in ("names", "types", "required")), strict=True
        )
        if is_required or kind == "uuid" or name in _TOML["arguments"]
    }


def functions(database: psycopg.Connection[Row]) -> dict[str, Row]:
    return {row["name"]: row for row in database.execute(_FUNCTIONS)}


def foreign_keys(database: psycopg.Connection[Row]) -> list[ForeignKey]:
    return [ForeignKey(**row) for row in database.execute(_FOREIGN_KEYS)]


def _argument(name: str, kind: str, world: World, business: str) -> Any:
    noun = name.removeprefix("p_").removesuffix("_id")
    if name in ("p_tenant_id", "p_admin_id"):  # the owner, who is an admin
        return world.tenants[business]
    if name == "p_user_id":
        return world.agents[business]
    if name in _TOML["arguments"]:
        return world.named(_TOML["arguments"][name], business)
    if f"{noun}s" in world.tables:
        return world.named(f"{noun}s.id", business)
    return _of_type({"type": kind}, MARKS[business])


def _of_type(column: Row, mark: str) -> Any:
    """Some value of a type, with the mark if it can hold one; nothing where none is required."""
    if column["type"] == "text":
        return mark
    if column["type"] == "jsonb":
        return {"mark": mark}
    if not column.get("is_required", True):
        return None
    return {
        "uuid": "cccccccc-cccc-4ccc-8ccc-cccccccccccc",
        "timestamp with time zone": "2026-01-01T00:00:00Z",
        "date": "2026-01-01",
        "boolean": False,
        "text[]": [mark],
        "uuid[]": [],
        "jsonb[]": [],
        "bytea": "\\x00",
    }.get(column["type"], 1)


def _name(table: Table) -> sql.Identifier:
    return sql.Identifier("public", table.name)


def _ours(table: Table) -> sql.SQL:
    """The rows of the two businesses; all of a table that has no tenants."""
    return sql.SQL("where tenant_id = any(%(tenants)s)" if table.has_tenant else "")


def _people(world: World, env: Mapping[str, str]) -> None:
    """Owners open their businesses; the staff of A is invited, signs up, and one of them is removed again."""
    world.people["anon"] = Person("anon", {"apikey": env["SUPABASE_ANON_KEY"]})
    world.people["service"] = Person("service", {"apikey": env["SUPABASE_SERVICE_ROLE_KEY"]})
    for business in MARKS:
        _sign_up(world, f"owner_{business}")
        ((me),) = world.ask(f"owner_{business}", "GET", "users?select=tenant_id").json()
        world.tenants[business] = me["tenant_id"]
        world.ask(
            "service", "POST", "rpc/plan_set", json={"p_tenant_id": me["tenant_id"], "p_plan": "enterprise"}
        )
        _invite(world, business, "admin")
        _invite(world, business, "user")
        world.agents[business] = _invite(world, business, "agent")
    removed = _invite(world, "a", "admin", "removed_a")
    world.ask("owner_a", "POST", "rpc/staff_remove", json={"p_user_id": removed})


def _invite(world: World, business: str, role: str, name: str = "") -> str:
    """The id of the new colleague's seat."""
    name = name or f"{role}_{business}"
    invitation = {"p_email": _email(name), "p_role": role, "p_name": MARKS[business]}
    seat = world.ask(f"owner_{business}", "POST", "rpc/staff_invite", json=invitation).json()
    _sign_up(world, name)
    return str(seat)


def _sign_up(world: World, name: str) -> None:
    body = {"email": _email(name), "password": "isolation", "data": {"business_name": name}}
    key = world.people["anon"].headers
    answer = world.client.post("/auth/v1/signup", json=body, headers=key)
    assert answer.status_code == 200, answer.text
    world.people[name] = Person(name, {**key, "authorization": f"Bearer {answer.json()['access_token']}"})


def _email(name: str) -> str:
    role, _, business = name.partition("_")
    return f"{role}@{MARKS[business]}.example"


@contextmanager
def _nobody_works(database: psycopg.Connection[Row]) -> Iterator[None]:
    """No worker changes a row behind the tests' back: none is due, and none can be woken."""
    jobs = [row["jobid"] for row in database.execute("select jobid from cron.job where active")]
    hidden = "update vault.secrets set name = %s where name = %s"
    database.execute("update cron.job set active = false where jobid = any(%s)", [jobs])
    database.execute(hidden, ["hidden_url", "functions_url"])
    try:
        yield
    finally:
        database.execute(hidden, ["functions_url", "hidden_url"])
        database.execute("update cron.job set active = true where jobid = any(%s)", [jobs])


def _tables(database: psycopg.Connection[Row]) -> dict[str, Table]:
    return {row["name"]: Table(**row) for row in database.execute(_TABLES)}


# words: the first of a closed list; is_checked: some other condition, which any text would break
_TABLES = """
    select
        c.relname as name,
        c.relkind::text as kind,
        coalesce((
            select array_agg(k.attname::text order by position)
            from pg_catalog.pg_index i
            cross join unnest(i.indkey) with ordinality as key (attnum, position)
            join pg_catalog.pg_attribute k on k.attrelid = c.oid and k.attnum = key.attnum
            where i.indrelid = c.oid and i.indisprimary),
            array[min(a.attname::text) filter (where a.attnum = 1)]) as key,
        bool_or(a.attname = 'tenant_id') as has_tenant,
        jsonb_agg(jsonb_build_object(
            'name', a.attname,
            'type', format_type(a.atttypid, null),
            'generated', a.attgenerated <> '' or a.attidentity <> '',
            'is_required', a.attnotnull,
            'has_default', a.atthasdef,
            'target', target.table_name,
            'target_column', target.column_name,
            'words', (
                select pg_get_constraintdef(k.oid) from pg_catalog.pg_constraint k
                where k.conrelid = c.oid and k.contype = 'c' and k.conkey = array[a.attnum]
                    and pg_get_constraintdef(k.oid) ~ '= ANY \\(\\(?ARRAY\\[' limit 1),
            'is_checked', exists (
                select from pg_catalog.pg_constraint k
                where k.conrelid = c.oid and k.contype = 'c' and a.attnum = any (k.conkey))
        ) order by a.attnum) as columns
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join lateral (
        select k.confrelid::regclass::text as table_name, theirs.attname as column_name
        from pg_catalog.pg_constraint k
        cross join unnest(k.conkey, k.confkey) as pair (mine, their)
        join pg_catalog.pg_attribute theirs on theirs.attrelid = k.confrelid and theirs.attnum = pair.their
        join pg_catalog.pg_class f on f.oid = k.confrelid and f.relnamespace = c.relnamespace
        where k.conrelid = c.oid and k.contype = 'f' and pair.mine = a.attnum and k.conkey[1] <> a.attnum
        limit 1
    ) as target on true
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
    group by c.oid
    order by c.relname"""

_FUNCTIONS = """
    select
        p.proname as name,
        p.provolatile <> 'v' as is_read_only,
        coalesce(p.proargnames[1:p.pronargs], '{}') as names,
        array(select format_type(t, null) from unnest(p.proargtypes::oid[]) as t) as types,
        array(select n <= p.pronargs - p.pronargdefaults from generate_series(1, p.pronargs) as n) as required
    from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace"""

_FOREIGN_KEYS = """
    select c.relname as child, k.conname as name, p.relname as parent,
        a.attname as column, b.attname as parent_column, cardinality(k.conkey) as columns
    from pg_catalog.pg_constraint k
    join pg_catalog.pg_class c on c.oid = k.conrelid
    join pg_catalog.pg_class p on p.oid = k.confrelid
    join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[cardinality(k.conkey)]
    join pg_catalog.pg_attribute b
        on b.attrelid = k.confrelid and b.attnum = k.confkey[cardinality(k.confkey)]
    where k.contype = 'f' and k.conparentid = 0
        and c.relnamespace = 'public'::regnamespace and p.relnamespace = 'public'::regnamespace
    order by 1, 2"""
