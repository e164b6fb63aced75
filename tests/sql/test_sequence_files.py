"""Sequence files: what is exported is what is imported, whole or not at all."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import psycopg
import pytest

from tests.conftest import ROOT
from tests.sql.given import MARIA, Business, Inbox, says
from tests.sql.sequences import Drip, machine, process
from tests.sql.test_rights import colleague

pytestmark = pytest.mark.usefixtures("time_of_the_tests")

File = dict[str, Any]
TEMPLATE = {"name": "volver", "language": "es", "parameters": {"body": ["{{first_name|amigo}}"]}}


@pytest.fixture
def file(db: Any, clinic: Business, plaza: Business, templates: None) -> File:
    """One sequence that says everything, in the words of an export, and a simple one."""
    db.run("update users set locale = 'en' where id = tenant_id")
    return {
        "format": "recado.sequences",
        "version": 1,
        "sequences": [
            {
                "name": "Bienvenida", "active": True, "description": "Nuevos", "priority": 4,
                "goal": {
                    "description": "Reserva", "tags": ["vip"], "statuses": ["Booked"], "outcomes": ["*"]
                },
                "stop": {"tags": [], "statuses": ["Lost"], "outcomes": []},
                "on_reply": {"resume": "silence", "hours": 24},
                "triggers": [{"on": "ad"}, {"on": "keyword", "value": "precio"}],
                "steps": [
                    {"key": "hola", "after": {}, "text": "Hola {{first_name|amigo}} 😊",
                     "on_window_closed": "skip_to_manual"},
                    {"key": "plan", "after": {"hours": 36, "minutes": 30}, "at": "09:00", "text": "Tu plan",
                     "media": {"type": "image", "link": "https://clinic.example/plan.png"},
                     "on_window_closed": "wait"},
                    {"key": "ultimo", "after": {"hours": 2}, "before_window_closes": {"minutes": 30},
                     "text": "¿Seguimos?", "template": TEMPLATE, "on_window_closed": "use_template"},
                ],
            },
            {
                "name": "Simple", "active": False, "priority": 2,
                "goal": {"tags": [], "statuses": [], "outcomes": []},
                "stop": {"tags": [], "statuses": [], "outcomes": []},
                "on_reply": {"resume": "manual"}, "triggers": [],
                "steps": [{"key": "a", "after": {}, "text": "Hola", "on_window_closed": "stop"}],
            },
        ],
    }  # fmt: skip


@pytest.fixture
def templates(db: Any, clinic: Business, plaza: Business) -> None:
    """Each business has an approved template of the same name."""
    for business in (clinic, plaza):
        db.run(
            "insert into message_templates (tenant_id, waba_id, provider_template_id, name, language,"
            " category, status, components)"
            " values (%s, '200', '1', 'volver', 'es', 'marketing', 'approved', %s::jsonb)",
            business.tenant_id, json.dumps([{"type": "BODY", "text": "Hola {{1}}"}]),
        )  # fmt: skip


def import_file(db: Any, business: Business, file: Any, mode: str = "update") -> dict[str, Any]:
    """What sequences_import answers the owner."""
    with db.signed_in(business.owner):
        return dict(db.value("select sequences_import(%s::jsonb, %s)", json.dumps(file), mode))


def export(db: Any, business: Business, *names: str) -> Any:
    with db.signed_in(business.owner):
        return db.value("select sequences_export(%s)", list(names) or None)


def refused(db: Any, business: Business, file: Any, mode: str = "update") -> list[tuple[str, str]]:
    """Everything that is wrong with a file; nothing of it was imported."""
    with pytest.raises(psycopg.Error) as refusal:
        import_file(db, business, file, mode)
    assert refusal.value.sqlstate == "PT400"
    told = json.loads(refusal.value.diag.message_detail or "")
    assert str(refusal.value).startswith(f"{told['path']} ")
    assert export(db, business)["sequences"] == []
    return [(fault["path"], fault["fault"]) for fault in told["faults"]]


def outcomes(answer: dict[str, Any]) -> list[str]:
    return [sequence["outcome"] for sequence in answer["sequences"]]


def test_what_was_imported_is_exported_as_it_was(
    db: Any, clinic: Business, plaza: Business, file: File
) -> None:
    assert outcomes(import_file(db, clinic, file)) == ["created", "created"]
    assert export(db, clinic) == file

    import_file(db, plaza, export(db, clinic))
    assert export(db, plaza) == file


def test_importing_an_export_changes_nothing(db: Any, clinic: Business, file: File) -> None:
    import_file(db, clinic, file)
    rows = "select jsonb_agg(to_jsonb(s)) from (select * from sequences order by id) s"
    before, points = db.value(rows), db.value("select count(*) from restore_points")

    assert outcomes(import_file(db, clinic, export(db, clinic))) == ["unchanged", "unchanged"]
    assert (db.value(rows), db.value("select count(*) from restore_points")) == (before, points)
    assert db.value("select count(*) from sequence_versions") == 2


def test_a_file_of_some_sequences_leaves_the_others_alone(db: Any, clinic: Business, file: File) -> None:
    import_file(db, clinic, file)
    some = export(db, clinic, "simple")
    some["sequences"][0]["steps"][0]["text"] = "Adiós"

    assert outcomes(import_file(db, clinic, some)) == ["updated"]
    assert [s["name"] for s in export(db, clinic)["sequences"]] == ["Bienvenida", "Simple"]
    assert db.column("select version from sequences order by name") == [1, 2]


def test_customers_on_their_way_stay_on_their_version(
    db: Any, clinic: Business, inbox: Inbox, file: File
) -> None:
    inbox.deliver(says("w1"))
    import_file(db, clinic, file)
    drip = Drip(db, clinic, db.value("select id from sequences where name = 'Bienvenida'"))
    drip.enroll(MARIA)
    process(db)
    changed = copy.deepcopy(file)
    changed["sequences"][0]["steps"][0]["text"] = "Otra cosa"
    import_file(db, clinic, changed)

    process(db)
    assert drip.texts() == ["Hola María 😊"]
    assert drip.enrollments("status, version, position") == [("active", 1, 2)]


def test_modes_say_what_a_file_may_do(db: Any, clinic: Business, file: File) -> None:
    import_file(db, clinic, file)
    one = {**file, "sequences": file["sequences"][:1]}

    with pytest.raises(psycopg.Error, match=r"^sequences\[0\].name is the name of a sequence that you have"):
        import_file(db, clinic, one, "create")
    assert import_file(db, clinic, one, "replace")["deleted"] == ["Simple"]
    assert export(db, clinic) == one
    with pytest.raises(psycopg.Error, match='no mode "merge"'):
        import_file(db, clinic, one, "merge")


def test_a_check_tells_what_would_be_and_does_nothing(db: Any, clinic: Business, file: File) -> None:
    assert outcomes(import_file(db, clinic, file, "check")) == ["created", "created"]

    assert export(db, clinic)["sequences"] == []
    assert db.value("select count(*) from restore_points") == 0


@pytest.mark.parametrize(
    ("place", "value", "path", "fault"),
    [
        ("", [], "file", "must be an object"),
        ("", "x", "file", "must be an object"),
        ("format", "recado.other", "format", 'must be "recado.sequences"'),
        ("version", 2, "version", "is 2, and only version 1 can be read here"),
        ("version", "1", "version", 'is "1", and only version 1 can be read here'),
        ("version", None, "version", "is ?"),
        ("author", "x", "file", "has an unknown key: author"),
        ("sequences", {}, "sequences", "must be a list"),
        ("sequences", None, "sequences", "is missing"),
        ("sequences.0", 7, "sequences[0]", "must be an object"),
        ("sequences.0.name", "", "sequences[0].name", "is empty"),
        ("sequences.1.name", "BIENVENIDA", "sequences[1].name", "is the name of another sequence"),
        ("sequences.0.active", "yes", "sequences[0].active", "must be true or false"),
        ("sequences.0.goals", [], "sequences[0]", "has an unknown key: goals"),
        ("sequences.0.steps", [], "sequences[0].steps", "has 0 items"),
        ("sequences.0.steps.2.delay", 5, "sequences[0].steps[2]", "has an unknown key: delay"),
        ("sequences.0.steps.2.after", 5, "sequences[0].steps[2].after", "must be an object"),
        ("sequences.0.steps.2.after", {"hours": -1}, "sequences[0].steps[2].after", "must be {"),
        ("sequences.0.steps.1.at", "25:00", "sequences[0].steps[1].at", "must be a time of day"),
        ("sequences.0.steps.0.text", "Hola {{nombre}}", "sequences[0].steps[0].text", "has an unknown"),
        ("sequences.0.steps.1.media.link", "ftp://x", "sequences[0].steps[1].media", ""),
        ("sequences.0.steps.2.template.name", "nunca", "sequences[0].steps[2].template", "is not one of the"),
        ("sequences.0.steps.2.key", "hola", "sequences[0].steps[0].key", "is the key of another step too"),
        ("sequences.0.on_reply", {"resume": "silence"}, "sequences[0].on_reply.hours", "is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_path(
    db: Any, clinic: Business, file: File, place: str, value: Any, path: str, fault: str
) -> None:
    faults = refused(db, clinic, changed(file, place, value))

    assert (path, True) in [(p, f.startswith(fault)) for p, f in faults]


@pytest.mark.parametrize("place", ["sequences", "sequences.0.steps.0.text"])
def test_what_is_null_is_missing(db: Any, clinic: Business, file: File, place: str) -> None:
    told = null_at(file, place)

    assert refused(db, clinic, told) == refused(db, clinic, changed(file, place, None))


def test_a_step_may_say_null_for_what_it_has_not(db: Any, clinic: Business, file: File) -> None:
    for place in ("media", "template", "at", "after"):
        file = null_at(file, f"sequences.0.steps.0.{place}")

    import_file(db, clinic, file)
    assert export(db, clinic)["sequences"][0]["steps"][0]["text"] == "Hola {{first_name|amigo}} 😊"


def test_a_trigger_without_its_value_is_refused_in_the_language_of_who_imports(
    db: Any, clinic: Business, file: File
) -> None:
    db.run("update users set locale = 'es' where id = tenant_id")

    assert refused(db, clinic, changed(file, "sequences.0.triggers.1", {"on": "keyword"})) == [
        ("sequences[0].triggers[1].value", "falta")
    ]


def test_the_schema_for_editors_says_what_the_database_says(db: Any, clinic: Business, file: File) -> None:
    schema = json.loads((ROOT / "docs/sequences.schema.json").read_text())
    assert fits(schema, file, schema)

    parts = {name: set(part["properties"]) for name, part in schema["$defs"].items() if "properties" in part}
    assert "file has an unknown key: x" in first_fault(db, clinic, {**file, "x": 1})
    assert keys_told(first_fault(db, clinic, {**file, "x": 1})) == set(schema["properties"])
    told = first_fault(db, clinic, changed(file, "sequences.0.x", 1))
    assert keys_told(told) | {"active"} == parts["sequence"] | {"format"}
    told = first_fault(db, clinic, changed(file, "sequences.0.steps.0.x", 1))
    assert keys_told(told) == parts["step"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("version", 2),
        ("sequences.0.goals", []),
        ("sequences.0.steps", []),
        ("sequences.0.steps.2.delay", 5),
        ("sequences.0.steps.2.after", {"weeks": 1}),
        ("sequences.0.steps.1.at", "25:00"),
        ("sequences.0.steps.1.media.link", "http://x"),
        ("sequences.0.on_reply", {"resume": "silence"}),
        ("sequences.0.triggers.1", {"on": "keyword"}),
    ],
)
def test_what_the_database_refuses_does_not_fit_the_schema(
    db: Any, clinic: Business, file: File, place: str, value: Any
) -> None:
    schema = json.loads((ROOT / "docs/sequences.schema.json").read_text())

    assert not fits(schema, changed(file, place, value), schema)
    assert refused(db, clinic, changed(file, place, value))


def first_fault(db: Any, business: Business, file: File) -> str:
    path, fault = refused(db, business, file)[0]
    return f"{path} {fault}"


def keys_told(fault: str) -> set[str]:
    """Those that the database says an object may have."""
    return set(fault.rsplit("it may have ", 1)[1].split(", "))


def fits(schema: Any, value: Any, root: Any) -> bool:
    """Does a value fit a JSON Schema? What ours uses of the language, and nothing else."""
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    checks = {
        "$ref": lambda ref: fits(root["$defs"][ref.rsplit("/", 1)[1]], value, root),
        "type": lambda name: (
            isinstance(value, types[name]) and (name == "boolean") == isinstance(value, bool)
        ),
        "const": lambda wanted: value == wanted,
        "enum": lambda wanted: value in wanted,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "minLength": lambda least: len(value) >= least,
        "maxLength": lambda most: len(value) <= most,
        "minItems": lambda least: len(value) >= least,
        "maxItems": lambda most: len(value) <= most,
        "minimum": lambda least: value >= least,
        "maximum": lambda most: value <= most,
        "required": lambda names: set(names) <= set(value),
        "additionalProperties": lambda _: set(value) <= set(schema["properties"]),
        "properties": lambda parts: all(fits(parts[k], value[k], root) for k in parts if k in value),
        "items": lambda part: all(fits(part, item, root) for item in value),
        "anyOf": lambda parts: any(fits(part, value, root) for part in parts),
        "oneOf": lambda parts: sum(fits(part, value, root) for part in parts) == 1,
        "not": lambda part: not fits(part, value, root),
        "if": lambda part: not fits(part, value, root) or fits(schema["then"], value, root),
    }
    prose = {"$schema", "$defs", "title", "description", "default", "then"}
    return all(checks[word](said) for word, said in schema.items() if word not in prose)


def changed(file: File, place: str, value: Any) -> Any:
    """The file with another value at a place; None: with none."""
    if not place:
        return value
    file = copy.deepcopy(file)
    *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    here: Any = file
    for step in way:
        here = here[step]
    if value is None:
        del here[last]
    else:
        here[last] = value
    return file


def null_at(file: File, place: str) -> Any:
    """The file with null at a place."""
    return json.loads(json.dumps(changed(file, place, "NULL")).replace('"NULL"', "null"))


def test_everything_that_is_wrong_is_told_at_once(db: Any, clinic: Business, file: File) -> None:
    file["sequences"][0]["priority"] = 9
    file["sequences"][0]["steps"][0]["text"] = ""
    file["sequences"][1]["steps"][0]["text"] = "{{x}}"

    assert [path for path, _ in refused(db, clinic, file)] == [
        "sequences[0].priority", "sequences[0].steps[0].text", "sequences[1].steps[0].text",
    ]  # fmt: skip


def test_one_bad_sequence_keeps_the_good_ones_out(db: Any, clinic: Business, file: File) -> None:
    file["sequences"][1]["steps"][0]["template"] = {"name": "nunca", "language": "es"}
    file["sequences"][1]["steps"][0]["on_window_closed"] = "use_template"

    assert [path for path, _ in refused(db, clinic, file)] == ["sequences[1].steps[0].template"]


def test_a_sequence_that_is_not_there_cannot_be_exported(
    db: Any, clinic: Business, plaza: Business, file: File
) -> None:
    import_file(db, plaza, file)
    with pytest.raises(psycopg.Error, match="There is no sequence 'Simple'"):
        export(db, clinic, "Simple")


@pytest.mark.parametrize("role", ["user", "agent"])
def test_only_admins_import_and_all_staff_export(db: Any, clinic: Business, file: File, role: str) -> None:
    import_file(db, clinic, file)
    person = colleague(db, clinic, role)
    with db.signed_in(person):
        assert db.value("select sequences_export()") == file
    with db.signed_in(person), pytest.raises(psycopg.Error) as refusal:
        db.run("select sequences_import(%s::jsonb)", json.dumps(file))
    assert refusal.value.sqlstate == "PT403"


def test_a_machine_imports_and_exports_for_the_business_it_names(
    db: Any, clinic: Business, plaza: Business, file: File
) -> None:
    answer = machine(db, "select tenant_sequences_import(%s, %s::jsonb)", plaza.tenant_id, json.dumps(file))

    assert outcomes(answer) == ["created", "created"]
    assert machine(db, "select tenant_sequences_export(%s)", plaza.tenant_id) == file
    assert machine(db, "select tenant_sequences_export(%s)", clinic.tenant_id)["sequences"] == []
