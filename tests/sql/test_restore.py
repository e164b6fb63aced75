"""The way back: restore points before every change of a sequence, and each day's whole configuration."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.given import MARIA, Business, Inbox, says
from tests.sql.sequences import Drip, later, process, text_step
from tests.sql.test_rights import colleague
from tests.sql.test_sequence_files import export, import_file

pytestmark = pytest.mark.usefixtures("time_of_the_tests")


@pytest.fixture
def drip(db: Any, clinic: Business, inbox: Inbox) -> Drip:
    inbox.deliver(says("w1"))
    made = Drip.of_texts(db, clinic, "Hola", "¿Sigues ahí?")
    next_call(db)
    return made


def next_call(db: Any) -> None:
    """What comes now is another request: a test is one transaction, requests have their own."""
    db.value("select set_config('recado.restore_point', '', true)")


def points(db: Any) -> list[dict[str, Any]]:
    return list(db.rows("select id, reason, taken_by, document from restore_points order by id"))


def newest(db: Any) -> dict[str, Any]:
    return points(db)[-1]


def restore(db: Any, business: Business, point: Any, *parts: str) -> Any:
    next_call(db)
    with db.signed_in(business.owner):
        return db.value("select restore_point_restore(%s, %s)", point, list(parts) or None)


def backup(db: Any) -> int:
    return int(db.value("select private.configuration_backup()"))


def by_owner(db: Any, business: Business, statement: str, *values: Any) -> Any:
    next_call(db)
    with db.signed_in(business.owner):
        return db.value(statement, *values)


def test_every_change_of_a_sequence_has_a_way_back(db: Any, clinic: Business, drip: Drip) -> None:
    document = by_owner(db, clinic, "select sequences_export()")["sequences"][0]
    del document["active"]
    document["triggers"] = [{"on": "tag", "value": "vip"}]
    by_owner(db, clinic, "select sequence_save(%s::jsonb, %s)", document, drip.id)
    by_owner(db, clinic, "select sequence_set_active(%s, false)", drip.id)
    by_owner(db, clinic, "select sequence_set_active(%s, true)", drip.id)
    by_owner(db, clinic, "select sequence_delete(%s)", drip.id)

    reasons = [point["reason"] for point in points(db)]
    assert reasons == ["create", "save", "deactivate", "activate", "delete"]
    assert {point["taken_by"] for point in points(db)[1:]} == {clinic.tenant_id}


def test_a_change_is_undone_and_so_is_that(db: Any, clinic: Business, drip: Drip) -> None:
    before = export(db, clinic)
    changed = export(db, clinic)
    changed["sequences"][0]["steps"][0]["text"] = "Otra cosa"
    changed["sequences"][0]["name"] = "Bienvenida"
    next_call(db)
    import_file(db, clinic, changed)
    assert newest(db)["reason"] == "import"

    undo = restore(db, clinic, newest(db)["id"])["undo"]
    assert export(db, clinic) == before

    restore(db, clinic, undo)
    assert export(db, clinic) == changed


def test_what_was_deleted_comes_back_and_what_was_new_goes(db: Any, clinic: Business, drip: Drip) -> None:
    before = export(db, clinic)
    other = {**before["sequences"][0], "name": "Otra"}
    next_call(db)
    import_file(db, clinic, {**before, "sequences": [other]}, "replace")
    assert [s["name"] for s in export(db, clinic)["sequences"]] == ["Otra"]

    restore(db, clinic, newest(db)["id"])

    assert export(db, clinic) == before
    assert db.value("select id from sequences where deleted_at is null") == drip.id


def test_an_import_that_is_refused_leaves_no_restore_point(db: Any, clinic: Business, drip: Drip) -> None:
    file = export(db, clinic)
    file["sequences"].append({"name": "Mala", "steps": []})
    before = points(db)

    with pytest.raises(psycopg.Error):
        import_file(db, clinic, file)
    assert points(db) == before


def test_restoring_sends_nobody_anything_again(db: Any, clinic: Business, drip: Drip) -> None:
    drip.enroll(MARIA)
    process(db)
    drip.save(text_step("Hola de nuevo"), text_step("¿Sigues ahí?", 1))
    point = newest(db)["id"]
    restore(db, clinic, point)

    process(db)
    assert drip.texts() == ["Hola"]
    assert drip.enrollments("version, status, position") == [(1, "active", 2)]


def test_each_day_has_one_backup_of_each_business(db: Any, clinic: Business, plaza: Business) -> None:
    assert (backup(db), backup(db)) == (2, 0)
    later(db, hours=24)
    assert backup(db) == 2

    days = db.column("select day from restore_points where tenant_id = %s order by day", clinic.tenant_id)
    assert (days[1] - days[0]).days == 1


def test_a_backup_brings_back_agents_prompts_settings_numbers_and_sequences(
    db: Any, clinic: Business, plaza: Business, drip: Drip
) -> None:
    configure(db, clinic)
    backup(db)
    saved = newest_of(db, clinic)
    was = db.value("select private.configuration(%s)", clinic.tenant_id)
    other = db.value("select private.configuration(%s)", plaza.tenant_id)
    spoil(db, clinic)
    spoilt = db.value("select private.configuration(%s)", clinic.tenant_id)

    answer = restore(db, clinic, saved)
    assert db.value("select private.configuration(%s)", clinic.tenant_id) == was
    assert answer["restored"] == {"agents": 1, "settings": 1, "numbers": 1, "sequences": 1}

    restore(db, clinic, answer["undo"])
    assert db.value("select private.configuration(%s)", clinic.tenant_id) == spoilt
    assert db.value("select private.configuration(%s)", plaza.tenant_id) == other


def configure(db: Any, business: Business) -> None:
    db.run(
        "insert into agent_prompts (tenant_id, agent_id, system_prompt) values (%s, %s, 'Sé amable')",
        business.tenant_id, business.agent_id,
    )  # fmt: skip
    db.run("update ai_agents set trigger_keywords = '{cita,hora}', is_default = true where tenant_id = %s",
           business.tenant_id)  # fmt: skip
    db.run("update tenant_settings set opt_out_keywords = '{\"no más\"}', followup_agent_id = %s"
           " where tenant_id = %s", business.agent_id, business.tenant_id)  # fmt: skip


def spoil(db: Any, business: Business) -> None:
    next_call(db)
    for statement in (
        "update agent_prompts set system_prompt = 'Sé grosero' where tenant_id = %s",
        "update ai_agents set name = 'X', trigger_keywords = '{}', is_default = false where tenant_id = %s",
        "update tenant_settings set opt_out_keywords = '{}', followup_agent_id = null where tenant_id = %s",
        "update whatsapp_numbers set timezone = 'UTC', default_agent_id = null where tenant_id = %s",
        "update sequences set name = 'X', is_active = false where tenant_id = %s",
    ):
        db.run(statement, business.tenant_id)
    next_call(db)


def newest_of(db: Any, business: Business) -> Any:
    return db.value(
        "select id from restore_points where tenant_id = %s order by id desc limit 1", business.tenant_id
    )


def test_one_part_is_brought_back_and_the_others_stay(db: Any, clinic: Business, drip: Drip) -> None:
    backup(db)
    saved = newest_of(db, clinic)
    spoil(db, clinic)

    assert restore(db, clinic, saved, "numbers")["restored"] == {"numbers": 1}

    assert db.value("select timezone from whatsapp_numbers") == "America/Bogota"
    assert db.value("select name from sequences") == "X"
    with pytest.raises(psycopg.Error, match="no contiene leads"):
        restore(db, clinic, saved, "leads")


def test_a_backup_has_no_secrets(db: Any, clinic: Business) -> None:
    db.run(
        "insert into channel_secrets (tenant_id, number_id, kind, secret_id) values (%s, %s, 'access_token',"
        " vault.create_secret('EAAG-very-secret'))", clinic.tenant_id, clinic.number_id,
    )  # fmt: skip
    backup(db)

    document = db.value("select string_agg(document::text, ' ') from restore_points")
    secret = db.value("select secret_id::text from channel_secrets")
    assert "EAAG" not in document
    assert secret not in document


def test_they_are_kept_for_as_long_as_each_business_says(db: Any, clinic: Business, plaza: Business) -> None:
    db.run("update tenant_settings set restore_days = 7 where tenant_id = %s", clinic.tenant_id)
    backup(db)
    later(db, days=8)
    db.run("select private.restore_points_purge()")

    assert db.column("select tenant_id from restore_points") == [plaza.tenant_id]


@pytest.mark.parametrize("role", ["user", "agent"])
def test_only_admins_see_and_use_them(db: Any, clinic: Business, drip: Drip, role: str) -> None:
    point = newest(db)["id"]
    person = colleague(db, clinic, role)
    with db.signed_in(person):
        assert db.rows("select * from restore_points") == []
    with db.signed_in(person), pytest.raises(psycopg.Error) as refusal:
        db.run("select restore_point_restore(%s)", point)
    assert refusal.value.sqlstate == "PT403"


def test_nobody_restores_another_business(db: Any, clinic: Business, plaza: Business, drip: Drip) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        restore(db, plaza, newest(db)["id"])
    assert refusal.value.sqlstate == "PT404"


def test_names_that_have_changed_places_since_are_where_they_were(
    db: Any, clinic: Business, drip: Drip
) -> None:
    document = export(db, clinic)["sequences"][0]
    del document["active"]
    other = by_owner(db, clinic, "select sequence_save(%s::jsonb)", {**document, "name": "Otra"})["id"]
    before = export(db, clinic)
    backup(db)
    for sequence, name in ((drip.id, "Ninguna"), (other, "Bienvenida"), (drip.id, "Otra")):
        by_owner(db, clinic, "select sequence_save(%s::jsonb, %s)", {**document, "name": name}, sequence)

    restore(db, clinic, daily(db, clinic), "sequences")

    assert export(db, clinic) == before
    assert db.value("select name from sequences where id = %s", drip.id) == "Bienvenida"


def test_what_was_deleted_does_not_come_back_while_another_has_its_name(
    db: Any, clinic: Business, drip: Drip
) -> None:
    document = export(db, clinic)["sequences"][0]
    del document["active"]
    by_owner(db, clinic, "select sequence_delete(%s)", drip.id)
    point = newest(db)["id"]
    by_owner(db, clinic, "select sequence_save(%s::jsonb)", document)

    with pytest.raises(psycopg.Error) as refusal:
        restore(db, clinic, point)
    assert refusal.value.sqlstate == "PT409"
    assert "Bienvenida" in str(refusal.value)


def test_agents_that_have_changed_names_have_their_own_again(db: Any, clinic: Business, drip: Drip) -> None:
    db.run("insert into ai_agents (tenant_id, name) values (%s, 'Otra')", clinic.tenant_id)
    before = agent_names(db, clinic)
    backup(db)
    for was, name in ((before[0], "Ninguna"), (before[1], before[0]), ("Ninguna", before[1])):
        db.run(
            "update ai_agents set name = %s where tenant_id = %s and name = %s", name, clinic.tenant_id, was
        )

    restore(db, clinic, daily(db, clinic), "agents")

    assert agent_names(db, clinic) == before


def test_an_agent_does_not_come_back_while_a_new_one_has_its_name(
    db: Any, clinic: Business, drip: Drip
) -> None:
    name = agent_names(db, clinic)[0]
    backup(db)
    db.run("update ai_agents set name = 'X' where tenant_id = %s", clinic.tenant_id)
    db.run("insert into ai_agents (tenant_id, name) values (%s, %s)", clinic.tenant_id, name)

    with pytest.raises(psycopg.Error) as refusal:
        restore(db, clinic, daily(db, clinic), "agents")
    assert refusal.value.sqlstate == "PT409"


def agent_names(db: Any, business: Business) -> list[str]:
    return list(db.column("select name from ai_agents where tenant_id = %s order by id", business.tenant_id))


def daily(db: Any, business: Business) -> Any:
    return db.value(
        "select id from restore_points where tenant_id = %s and day is not null", business.tenant_id
    )
