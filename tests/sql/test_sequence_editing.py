"""Writing sequences: documents that are good, and what is said about those that are not."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.sql.given import Business, Inbox, says
from tests.sql.sequences import Document, Drip, delivered, later, process, save, text_step

WHOLE: Document = {
    "name": "Bienvenida",
    "description": "Para quien llega por un anuncio",
    "priority": 4,
    "goal": {"description": "Que reserve", "tags": ["cliente"], "statuses": ["Booked"], "outcomes": ["sold"]},
    "stop": {"tags": ["queja"], "statuses": [], "outcomes": []},
    "on_reply": {"resume": "silence", "hours": 24},
    "triggers": [{"on": "keyword", "value": "precio"}, {"on": "new_lead"}],
    "steps": [
        {"key": "hola", "after": {}, "text": "Hola {{name|amigo}}", "on_window_closed": "skip_to_manual"},
        {
            "key": "foto", "after": {"hours": 30, "minutes": 5}, "at": "09:00", "text": "Mira",
            "media": {"type": "image", "link": "https://files.example/a.jpg"}, "on_window_closed": "wait",
        },
        {
            "key": "ultimo", "after": {}, "before_window_closes": {"minutes": 30}, "text": "¿Seguimos?",
            "on_window_closed": "stop",
        },
    ],
}  # fmt: skip


def document(db: Any, business: Business, saved: Any) -> Any:
    return db.value("select private.sequence_document(%s, %s)", business.tenant_id, saved["id"])


def test_what_is_saved_comes_back_as_it_was_written(db: Any, clinic: Business) -> None:
    saved = save(db, clinic, WHOLE)

    assert saved["version"] == 1
    assert document(db, clinic, saved) == WHOLE
    again = save(db, clinic, document(db, clinic, saved), saved["id"])
    assert again == {"id": saved["id"], "version": 1, "changed": False}


def test_new_steps_are_a_new_version_and_a_new_name_is_not(db: Any, clinic: Business) -> None:
    saved = save(db, clinic, WHOLE)
    renamed = save(db, clinic, WHOLE | {"name": "Otra"}, saved["id"])
    longer = save(db, clinic, WHOLE | {"steps": [*WHOLE["steps"], text_step("Fin", 9)]}, saved["id"])

    assert (renamed["version"], renamed["changed"]) == (1, True)
    assert longer["version"] == 2
    assert db.column("select count(*) from sequence_steps group by version order by version") == [3, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name is empty."),
        ({"name": None}, "name is missing."),
        ({"nombre": "x"}, "document has an unknown key: nombre;"),
        ({"priority": 9}, "priority is 9; it must be from 1 to 5."),
        ({"goal": {"tags": "cliente"}}, "goal.tags must be a list."),
        ({"on_reply": {"resume": "silence"}}, "on_reply.hours is missing."),
        ({"on_reply": {"resume": "later"}}, "on_reply.resume is later; it must be one of never, silence"),
        ({"triggers": [{"on": "keyword"}]}, "triggers[0].value is missing."),
        ({"triggers": [{"on": "full_moon"}]}, "triggers[0].on is full_moon; it must be one of new_lead"),
        ({"steps": []}, "steps has 0 items; it must have from 1 to 100."),
        ({"steps": [{"text": None}]}, "steps[0] has nothing to send: text, media or template."),
        ({"steps": [{"media": None}]}, "steps[0] has nothing to send: text, media or template."),
        ({"steps": [{"text": " \n"}]}, "steps[0].text is empty."),
        ({"steps": [{"text": "Hola"}, {}]}, "steps[1] has nothing to send: text, media or template."),
        ({"steps": ["Hola"]}, "steps[0] must be an object."),
        ({"steps": [{"text": "Hola {{nombre}}"}]}, "steps[0].text has an unknown placeholder: {{nombre}}."),
        ({"steps": [{"text": "Hola {{name"}]}, "steps[0].text has a placeholder that is not closed"),
        ({"steps": [{"text": "Hola", "at": "25:00"}]}, "steps[0].at must be a time of day: HH:MM."),
        ({"steps": [{"text": "Hola", "after": {"weeks": 1}}]}, "steps[0].after must be {\"days\", \"hours\""),
        ({"steps": [{"text": "Hola", "after": {"days": 400}}]}, "steps[0].after is 576000 minutes;"),
        ({"steps": [{"text": "Hola", "at": "09:00", "before_window_closes": {"hours": 1}}]},
         "steps[0] has both at and before_window_closes."),
        ({"steps": [{"text": "a", "key": "k"}, {"text": "b", "key": "k"}]},
         "steps[0].key is the key of another step too."),
        ({"steps": [{"media": {"type": "image", "link": "http://x.example/a.jpg"}}]},
         "steps[0].media must have a link that begins with https://."),
        ({"steps": [{"text": "a", "on_window_closed": "use_template"}]}, "steps[0].template is missing."),
        ({"steps": [{"template": {"name": "nothing"}}]},
         "steps[0].template is not one of the business's templates: nothing."),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place(db: Any, clinic: Business, change: Any, message: str) -> None:
    db.run("update users set locale = 'en'")
    with pytest.raises(psycopg.DatabaseError) as refused, db.signed_in(clinic.owner):
        db.value("select sequence_save(%s::jsonb)", WHOLE | change)

    assert refused.value.sqlstate == "PT400"
    assert refused.value.diag.message_primary is not None
    assert refused.value.diag.message_primary.startswith(message)
    assert refused.value.diag.message_detail is not None
    assert message.startswith(json.loads(refused.value.diag.message_detail)["path"])


def test_placeholders_that_exist_are_named_to_who_used_another(db: Any, clinic: Business) -> None:
    with pytest.raises(psycopg.DatabaseError) as refused:
        save(db, clinic, WHOLE | {"steps": [{"text": "{{apodo}}"}]})

    assert "{{first_name}}" in str(refused.value.diag.message_hint)


def test_a_template_is_checked_with_its_parameters(db: Any, clinic: Business) -> None:
    db.run(
        "insert into message_templates (tenant_id, waba_id, provider_template_id, name, language, category,"
        " status, components) values (%s, '200', 't1', 'cita', 'es', 'utility', 'approved', %s::jsonb)",
        clinic.tenant_id, [{"type": "BODY", "text": "Hola {{1}}, a las {{2}}"}],
    )  # fmt: skip
    step = {"key": "t", "template": {"name": "cita", "parameters": {"body": ["{{name|cliente}}"]}}}
    missing = r"steps\[0\].template .* 2 "
    with pytest.raises(psycopg.DatabaseError, match=missing), db.connection.transaction():
        save(db, clinic, WHOLE | {"steps": [step]})

    step["template"]["parameters"]["body"].append("10:00")  # type: ignore[index]
    saved = save(db, clinic, WHOLE | {"steps": [step]})
    written = document(db, clinic, saved)
    assert written["steps"][0]["template"]["language"] == "es"
    assert save(db, clinic, written, saved["id"])["changed"] is False


def test_two_sequences_cannot_have_one_name_until_one_is_deleted(db: Any, clinic: Business) -> None:
    saved = save(db, clinic, WHOLE)
    taken = "name: ya hay otra secuencia que se llama «BIENVENIDA»"
    with pytest.raises(psycopg.DatabaseError, match=taken), db.connection.transaction():
        save(db, clinic, WHOLE | {"name": "BIENVENIDA"})
    with db.signed_in(clinic.owner):
        db.run("select sequence_delete(%s)", saved["id"])

    assert save(db, clinic, WHOLE)["id"] != saved["id"]


def test_only_admins_write_sequences(db: Any, clinic: Business) -> None:
    with db.signed_in(clinic.owner):
        saved = db.value("select sequence_save(%s::jsonb)", WHOLE)
        colleague = db.value("select staff_invite('ana@clinic.example', 'user')")
    db.sign_up("ana@clinic.example")
    ana = db.value("select auth_id from users where id = %s", colleague)

    with pytest.raises(psycopg.DatabaseError, match="Solo un administrador"), db.signed_in(ana):
        db.run("select sequence_save(%s::jsonb, %s)", WHOLE, saved["id"])


@pytest.mark.parametrize(
    ("text", "lead", "shown"),
    [
        ("Hola {{name}}", {"name": "Ana Ruiz"}, "Hola Ana Ruiz"),
        ("Hola {{ first_name | amiga }}", {"name": "Ana Ruiz"}, "Hola Ana"),
        ("Hola {{first_name|amiga}}", {}, "Hola amiga"),
        ("{{metadata.plan|Básico}} / {{business}}", {"metadata": {"plan": 'Oro "24"'}}, 'Oro "24" / clinic'),
        ("{{company}}{{label1}}.", {"label1": "\\1 $& {{name}}"}, "\\1 $& {{name}}."),
        ("Nada", {}, "Nada"),
    ],
)
def test_placeholders_become_what_is_known(db: Any, text: str, lead: Any, shown: str) -> None:
    filled = db.value(
        "select private.placeholders_fill(%s, private.placeholder_values(jsonb_populate_record("
        "null::public.customer_leads, %s::jsonb), null, 'clinic'))", text, lead,
    )  # fmt: skip

    assert filled == shown


def test_a_live_sequence_that_is_edited_goes_on_as_it_was_for_who_is_in_it(
    db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None
) -> None:
    inbox.deliver(says("w1"))
    drip = Drip.of_texts(db, clinic, "Uno", "Dos")
    drip.enroll()
    process(db)
    delivered(db)
    drip.save(text_step("Nuevo"), text_step("Dos, mejor", 1))
    later(db, days=1)
    db.run("update chats set window_expires_at = private.clock() + interval '1 day'")
    process(db)

    assert drip.texts("sent") == ["Uno"]
    assert drip.texts() == ["Dos"]


@pytest.fixture
def halfway(db: Any, clinic: Business, inbox: Inbox, time_of_the_tests: None) -> Drip:
    """María has had the first of three steps."""
    inbox.deliver(says("w1"))
    drip = Drip.of(db, clinic, *map(step, "abc"))
    drip.enroll()
    process(db)
    delivered(db)
    return drip


def step(key: str, text: str | None = None) -> Document:
    return {"key": key, "after": {"hours": 0 if key == "a" else 24}, "text": text or key.upper()}


@pytest.mark.parametrize(
    ("keys", "goes_on_with", "then_gets"),
    [
        ("abc", "b", "BC"),  # other words alone
        ("axbc", "x", "XBC"),  # a new one comes after what she has had
        ("xabc", "b", "BC"),  # a new one that comes before is past
        ("ac", "c", "C"),  # her next one is gone
        ("cab", "c", "CB"),  # another order: the first has been sent, and is not again
        ("a", None, ""),
    ],
)
def test_who_is_moved_to_a_new_version_gets_each_step_once(
    db: Any, clinic: Business, halfway: Drip, keys: str, goes_on_with: str | None, then_gets: str
) -> None:
    halfway.save(*(step(key, f"{key.upper()} 2") for key in keys))
    with db.signed_in(clinic.owner):
        foretold = db.value("select sequence_move(%s, true)", halfway.id)
        assert halfway.enrollments("version") == [(1,)]
        told = db.value("select sequence_move(%s)", halfway.id)

    assert told == foretold
    assert told["steps"] == [{"version": 1, "from": "b", "to": goes_on_with, "enrollments": 1}]
    for _ in range(6):
        later(db, days=1, minutes=1)
        db.run("update chats set window_expires_at = private.clock() + interval '1 hour'")
        process(db)
        delivered(db)
    assert halfway.texts("sent") == ["A", *(f"{key} 2" for key in then_gets)]
    assert halfway.enrollments("version, status, reason") == [(2, "completed", "done")]


def test_what_is_null_is_not_said(db: Any, clinic: Business) -> None:
    step = {"text": "Hola", "media": None, "template": None, "at": None}
    saved = save(db, clinic, {"name": "Nada", "steps": [step], "on_reply": None})

    row = db.row("select type, media, template_id from sequence_steps where sequence_id = %s", saved["id"])
    assert tuple(row.values()) == ("text", None, None)


def test_a_missing_word_of_a_trigger_is_told_in_the_language_of_who_saves(db: Any, clinic: Business) -> None:
    with pytest.raises(psycopg.DatabaseError, match=r"triggers\[0\]\.value falta\."):
        save(db, clinic, {"name": "x", "steps": [{"text": "a"}], "triggers": [{"on": "tag"}]})
