"""docs/openapi.yaml says what the functions are: their routes, who may call them, and every refusal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from local import build
from shared import errors, runtime
from tests.functions.conftest import load

ROOT = Path(__file__).parents[2]
DESCRIPTION: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())
SCHEMAS = DESCRIPTION["components"]["schemas"]
METHODS = {"get", "post", "put", "patch", "delete"}
HEALTH = "/{function}/health"


def routes(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, runtime.Route[Any]]:
    """Every route of every function, as `POST /deliver`."""
    found: dict[str, runtime.Route[Any]] = {}
    for name in build.functions():

        def note(table: Any, name: str = name, **_: Any) -> None:
            for (method, path), route in table.items():
                place = f"{method} /{build.deployed_name(name)}{path.removesuffix('/')}"
                found[place] = route if isinstance(route, runtime.Route) else runtime.Route(route)

        monkeypatch.setattr(runtime, "serve", note)
        load(name)
    return found


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in DESCRIPTION["paths"].items():
        if path != HEALTH:
            for method, operation in item.items():
                if method in METHODS:
                    yield f"{method.upper()} {path}", operation


def test_every_route_is_described_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {place for place, _ in operations()} == set(routes(monkeypatch))


def test_every_function_is_asked_for_its_health() -> None:
    (parameter,) = DESCRIPTION["paths"][HEALTH]["get"]["parameters"]

    assert parameter["schema"]["enum"] == [build.deployed_name(name) for name in build.functions()]


def test_who_may_call_is_told_of_every_route(monkeypatch: pytest.MonkeyPatch) -> None:
    internal = {place for place, route in routes(monkeypatch).items() if route.internal}

    described = {place for place, said in operations() if said.get("security") == [{"internal": []}]}

    assert described == internal


def test_refusals_have_the_codes_and_statuses_of_the_code() -> None:
    by_status: dict[int, set[str]] = {}
    for error, status in errors.STATUS.items():
        if error is not errors.RecadoError:
            by_status.setdefault(status, set()).add(code_of(error))
    described = {
        int(status): codes_of(response)
        for _, operation in operations()
        for status, response in operation["responses"].items()
        if status != "200"
    } | {405: codes_of({"$ref": "#/components/responses/method_not_allowed"})}

    assert described == by_status


def code_of(error: type[errors.RecadoError]) -> str:
    return error("GET").code if error is errors.MethodNotAllowedError else error().code


def codes_of(response: dict[str, Any]) -> set[str]:
    named = DESCRIPTION["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema = named["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return set(SCHEMAS[schema]["properties"]["code"]["enum"])


def test_what_a_refusal_says_is_what_is_described() -> None:
    assert set(SCHEMAS["Refusal"]["properties"]) == set(errors.BadRequestError().report)


def test_every_reference_leads_somewhere() -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from references(inner)

    for reference in references(DESCRIPTION):
        found: Any = DESCRIPTION
        for step in reference.removeprefix("#/").split("/"):
            assert step in found, reference
            found = found[step]
