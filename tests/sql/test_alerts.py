"""alerts: one row per incident, in the language of the business, over when the trouble is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.sql.given import Business

ROOT = Path(__file__).parents[2]
# the first text of a call is its kind, unless it is a key
_RAISED = re.compile(
    r"perform private\.(?:alert_raise|flag_for_person|reply_hand_over)\("
    r"(?:[^;']|->> '\w+')*?(?<!->> )'([a-z_]+)'"
)


def raise_alert(db: Any, who: Business, severity: str = "warning", kind: str = "channel_stopped") -> None:
    with db.as_service():
        db.run(
            "select private.alert_raise(%s, %s, 'subject', %s, p_severity => %s)",
            who.tenant_id, kind, f"It is {severity}", severity,
        )  # fmt: skip


def test_the_same_trouble_is_counted_in_one_row(db: Any, clinic: Business) -> None:
    for _ in range(3):
        raise_alert(db, clinic)

    assert db.column("select occurrences from public.alerts") == [3]


def test_an_incident_gets_worse_but_not_better(db: Any, clinic: Business) -> None:
    found = []
    for severity in ("info", "critical", "warning"):
        raise_alert(db, clinic, severity)
        found.append(db.value("select severity from public.alerts"))

    assert found == ["info", "critical", "critical"]


def test_what_is_over_and_comes_back_is_another_incident(db: Any, clinic: Business) -> None:
    raise_alert(db, clinic)
    with db.as_service():
        db.run("select private.alert_end(%s, 'channel_stopped', 'subject')", clinic.tenant_id)
    raise_alert(db, clinic)

    assert db.column("select resolved_at is null from public.alerts order by created_at, id") == [False, True]


@pytest.mark.parametrize(
    ("locale", "begins"), [("es", "El proveedor"), ("es-CO", "El proveedor"), ("en", "It is")]
)
def test_staff_read_it_in_the_language_of_the_business(
    db: Any, clinic: Business, locale: str, begins: str
) -> None:
    db.run("update public.users set locale = %s where id = %s", locale, clinic.tenant_id)

    raise_alert(db, clinic)

    alert = db.row("select message, details from public.alerts")
    assert alert["message"].startswith(begins)
    assert alert["details"] == {"reason": "It is warning"}


def test_a_kind_nobody_translated_keeps_its_words(db: Any, clinic: Business) -> None:
    raise_alert(db, clinic, kind="something_new")

    assert db.value("select message from public.alerts") == "It is warning"


def test_staff_read_alerts_of_their_business_and_say_that_one_is_dealt_with(
    db: Any, clinic: Business, plaza: Business
) -> None:
    for who in (clinic, plaza):
        raise_alert(db, who)
    with db.signed_in(clinic.owner):
        (alert,) = db.column("select id from public.alerts")
        for _ in range(2):
            db.run("select public.alert_resolve(%s)", alert)

    assert db.column("select tenant_id from public.alerts where resolved_by is not null") == [
        clinic.tenant_id
    ]


def test_nobody_resolves_what_is_not_theirs(db: Any, clinic: Business, plaza: Business) -> None:
    raise_alert(db, clinic)
    alert = db.value("select id from public.alerts")

    with db.signed_in(plaza.owner), pytest.raises(psycopg.Error) as refused:
        db.run("select public.alert_resolve(%s)", alert)

    assert refused.value.sqlstate == "PT404"


def test_every_kind_that_is_raised_has_a_meaning_and_words(db: Any) -> None:
    raised = {
        kind for file in sorted((ROOT / "sql").glob("*.sql")) for kind in _RAISED.findall(file.read_text())
    }
    known = set(db.column("select kind from public.alert_kinds"))

    assert {"channel_stopped", "reply_failed", "not_sent"} <= raised
    assert raised - known == set(), "give them a line in alert_kinds (sql/75_delivery_health.sql)"


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        ("pt-BR", "Uma mensagem não pôde ser enviada."),
        ("es", "Un mensaje no se pudo enviar."),
        ("en", "HTTP 500"),
    ],
)
def test_an_alert_is_in_the_owner_s_language(db: Any, clinic: Business, locale: str, words: str) -> None:
    db.run("update public.users set locale = %s where id = %s", locale, clinic.tenant_id)

    raised = "select private.alert_raise(%s, 'send_failed', 'a chat', 'HTTP 500')"
    db.value(raised, clinic.tenant_id)

    assert db.value("select message from public.alerts") == words
