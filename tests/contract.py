"""What functions ask of the database, and whether a database offers it.

Functions of a release and the schema of
the next one run together while it is rolled out, and again if the functions are rolled back.

    python -m tests.contract     write tests/data/contract.json anew, when a release is made: what it asks for
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).parents[1]
SNAPSHOT = Path(__file__).parent / "data" / "contract.json"
# the keys of these answers are part of it; each is asked of a database without businesses
ANSWERS = {
    "analysis_claim": "1, 60",
    "backfill_claim": "1, 60",
    "daily_claim": "1, 60",
    "outbox_claim": "1, 60",
    "reply_claim": "1, 60",
    "template_accounts": "null",
    "token_checks_claim": "null, 1, 60",
}
OFFERED = """
    select p.proname, p.pronargs - p.pronargdefaults, p.proargnames[1:p.pronargs],
        array(select format_type(t, null) from unnest(p.proargtypes) t), pg_get_function_result(p.oid)
    from pg_proc p
    where p.pronamespace = 'public'::regnamespace
        and (has_function_privilege('service_role', p.oid, 'execute') or p.proname = 'me')
    order by 1
"""

Contract = dict[str, dict[str, Any]]


def offered(connection: psycopg.Connection[Any]) -> Contract:
    """{rpc: {"arguments": {name: type}, "optional": [names], "returns", "answer": its keys}}."""
    rows = connection.execute(OFFERED).fetchall()
    return {
        name: {
            "arguments": dict(zip(names or [], types, strict=True)),
            "optional": (names or [])[required:],
            "returns": returns,
            **({"answer": _keys(connection, name)} if name in ANSWERS else {}),
        }
        for name, required, names, types, returns in rows
    }


def _keys(connection: psycopg.Connection[Any], name: str) -> list[str]:
    with connection.transaction(force_rollback=True):
        row = connection.execute(f"select public.{name}({ANSWERS[name]})").fetchone()
    assert row
    return sorted(row[0])


def calls(source: str) -> dict[str, tuple[set[str], bool]]:
    """{rpc: (arguments it is called with, whether that is all of them)}, of the text of a shared/db.py."""
    return {name: (given, is_all) for name, given, is_all in _calls(ast.parse(source))}


def _calls(tree: ast.AST) -> Iterator[tuple[str, set[str], bool]]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        first = node.args[0]
        if node.func.attr not in ("_rpc", "_object", "_call") or not isinstance(first, ast.Constant):
            continue
        written = re.findall(r'"(p_\w+)"', ast.unparse(node)) if node.func.attr == "_call" else []
        given = {keyword.arg for keyword in node.keywords if keyword.arg}
        yield str(first.value), given | set(written), all(keyword.arg for keyword in node.keywords)


def unanswered(source: str, offer: Contract) -> list[str]:
    """What of the calls of a shared/db.py this database would refuse."""
    found = []
    for name, (given, is_all) in calls(source).items():
        if name not in offer:
            found.append(f"{name} is called, and is not there")
            continue
        arguments, optional = offer[name]["arguments"], set(offer[name]["optional"])
        found += [f"{name} is given {one}, and does not take it" for one in sorted(given - set(arguments))]
        if is_all:
            missing = sorted(set(arguments) - optional - given)
            found += [f"{name} wants {one}, and is not given it" for one in missing]
    return found


def broken(before: Mapping[str, Any], offer: Contract) -> list[str]:
    """How an offer falls short of a snapshot. RPCs only grow, by parameters with defaults and by new keys."""
    found = []
    for name, was in before.items():
        now = offer.get(name)
        if now is None:
            found.append(f"{name} is gone")
            continue
        for argument, kind in was["arguments"].items():
            if now["arguments"].get(argument) != kind:
                found.append(f"{name}({argument} {kind}) is {now['arguments'].get(argument, 'gone')} now")
            if argument in was["optional"] and argument in set(now["arguments"]) - set(now["optional"]):
                found.append(f"{name}({argument}) lost its default")
        added = set(now["arguments"]) - set(was["arguments"]) - set(now["optional"])
        found += [f"{name}({argument}) is new and has no default" for argument in sorted(added)]
        if now["returns"] != was["returns"]:
            found.append(f"{name} returned {was['returns']}, now {now['returns']}")
        lost = set(was.get("answer", ())) - set(now.get("answer", ()))
        found += [f"{name} does not answer with {key} any more" for key in sorted(lost)]
    return found


def snapshot(offer: Contract) -> str:
    """Of what our functions call."""
    called = calls((ROOT / "shared" / "db.py").read_text())
    return json.dumps({name: offer[name] for name in sorted(called)}, indent=1) + "\n"


def main() -> None:
    from local import database, postgres, schema

    with postgres.temporary() as port:
        database.bootstrap(port)
        database.apply(port, "postgres", schema.sql_files())
        with psycopg.connect(postgres.dsn(port)) as connection:
            SNAPSHOT.write_text(snapshot(offered(connection)))


if __name__ == "__main__":
    main()
