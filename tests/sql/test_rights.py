"""The audit log: who changed what a business decides."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.given import Business


def colleague(db: Any, business: Business, role: str) -> Any:
    """Somebody with that role who has signed up; their sign-in."""
    with db.signed_in(business.owner):
        db.run("select staff_invite(%s, %s)", f"{role}@clinic.example", role)
    return db.sign_up(f"{role}@clinic.example", name=role)


def log(db: Any, table: str) -> list[dict[str, Any]]:
    return list(
        db.rows(
            "select action, row_name, before, after, user_id from audit_log where table_name = %s"
            " order by ctid",
            table,
        )
    )


def test_a_change_is_noted_with_who_made_it_and_what_it_was(db: Any, clinic: Business) -> None:
    with db.signed_in(clinic.owner):
        db.run("update ai_agents set personality_prompt = 'Amable', temperature = 0.5")
        (change,) = log(db, "ai_agents")[1:]

    assert change == {
        "action": "update", "row_name": "DrBot", "user_id": clinic.tenant_id,
        "before": {"personality_prompt": "", "temperature": None},
        "after": {"personality_prompt": "Amable", "temperature": 0.5},
    }  # fmt: skip


def test_what_changes_nothing_is_not_noted(db: Any, clinic: Business) -> None:
    before = db.value("select count(*) from audit_log")
    db.run("update tenant_settings set currency = currency")
    db.run("update whatsapp_numbers set quality_rating = 'GREEN', display_name = display_name")

    assert db.value("select count(*) from audit_log") == before


def test_new_colleagues_and_settings_are_noted(db: Any, clinic: Business) -> None:
    sofia = colleague(db, clinic, "user")
    with db.signed_in(clinic.owner):
        db.run(
            "select staff_change_role((select id from users where email = 'user@clinic.example'), 'agent')"
        )
        db.run('update tenant_settings set quiet_hours = \'{"from": "21:00", "to": "08:00"}\'')

        changed = [(e["before"], e["after"]) for e in log(db, "users") if e["action"] == "update"]
        assert ({"role": "user"}, {"role": "agent"}) in changed
        (settings,) = [e for e in log(db, "tenant_settings") if e["action"] == "update"]
    assert settings["after"] == {"quiet_hours": {"from": "21:00", "to": "08:00"}}
    assert str(sofia) not in str(changed)  # sign-ins are nobody's business


def test_what_enrolls_customers_by_itself_is_noted(db: Any, clinic: Business) -> None:
    sequence = db.value(
        "insert into sequences (tenant_id, name) values (%s, 'Hola') returning id", clinic.tenant_id
    )
    db.run("insert into sequence_triggers values (%s, %s, 'tag', 'vip')", clinic.tenant_id, sequence)
    db.run("delete from sequence_triggers")

    rows = db.rows(
        "select row_id, action from audit_log where table_name = 'sequence_triggers' order by ctid"
    )
    assert [(row["row_id"], row["action"]) for row in rows] == [(sequence, "insert"), (sequence, "delete")]


def test_what_a_job_or_the_secret_key_changes_has_no_person(db: Any, clinic: Business) -> None:
    with db.as_service():
        db.run("update ai_agents set description = 'x'")

    assert log(db, "ai_agents")[-1]["user_id"] is None


@pytest.mark.parametrize("role", ["user", "agent"])
def test_only_admins_read_it(db: Any, clinic: Business, role: str) -> None:
    person = colleague(db, clinic, role)
    with db.signed_in(person):
        assert db.value("select count(*) from audit_log") == 0
    with db.signed_in(clinic.owner):
        assert db.value("select count(*) from audit_log") > 0


def test_nobody_sees_the_log_of_another_business(db: Any, clinic: Business, plaza: Business) -> None:
    db.run("update ai_agents set description = 'secret' where tenant_id = %s", clinic.tenant_id)

    with db.signed_in(plaza.owner):
        assert db.column("select distinct tenant_id from audit_log") == [plaza.tenant_id]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into audit_log select * from audit_log",
        "update audit_log set user_id = null",
        "delete from audit_log",
        "truncate audit_log",
    ],
)
def test_nobody_writes_it_not_even_the_secret_key(db: Any, clinic: Business, statement: str) -> None:
    with db.as_service(), pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit_log"):
        db.run(statement)
    with db.signed_in(clinic.owner), pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit_log"):
        db.run(statement)


def test_it_is_kept_for_as_long_as_each_business_says(db: Any, clinic: Business, plaza: Business) -> None:
    db.run("update tenant_settings set audit_retention_days = 90 where tenant_id = %s", clinic.tenant_id)
    db.run("update local.clock set ahead = interval '91 days'")
    db.run("update tenant_settings set currency = 'COP'")

    db.run("select private.audit_purge()")

    rows = db.rows("select tenant_id, count(*) as n from audit_log group by 1")
    kept = {row["tenant_id"]: row["n"] for row in rows}
    assert kept[clinic.tenant_id] == 1
    assert kept[plaza.tenant_id] > 1
