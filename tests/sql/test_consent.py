"""consent: refusals are understood, kept for ever, confirmed once, and read in the order of their time."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
from psycopg.errors import InsufficientPrivilege

from tests.sql.given import CARLOS, MARIA, NOW, Business, Inbox, echo, event, says, status

LEAD = "select opt_out_scope from public.customer_leads"
SENT_TO_MARIA = (
    "insert into public.messages (tenant_id, chat_id, lead_id, number_id, direction, role, source, type,"
    " content, data, status, sent_at, provider_at) select tenant_id, id, lead_id, number_id, 'outbound',"
    " 'assistant',"
    " %s, %s, 'Oferta', %s, 'sent', %s, %s from public.chats"
)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def send(db: Any, source: str, before: timedelta, type_: str = "text", category: str = "") -> None:
    at = NOW - before
    db.run(SENT_TO_MARIA, source, type_, {"category": category}, at, at)


def preference(name: str, value: str, at: Any = NOW) -> Any:
    return event("preference", name, at, contact=MARIA, category="marketing", value=value)


def confirmations(db: Any) -> list[Any]:
    return list(db.column("select content from public.messages where source = 'api' order by id"))


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("STOP", "marketing"),
        (" ¡Baja! ", "marketing"),
        ("Baja 🙏🏽", "marketing"),
        ("✋ stop", "marketing"),
        ("dar de BAJA", "marketing"),
        ("Unsubscribe.", "marketing"),
        ("não quero mais receber", "marketing"),
        ("No me escriban más", "all"),
        ("Stop all", "all"),
        ("Não me mande mais mensagens", "all"),
        ("don't message me", "all"),
        ("Cancelar", None),
        ("ALTO", None),
        ("quiero dar de baja mi línea", None),
        ("baja la música", None),
        ("Alta", None),
    ],
)
def test_a_whole_message_is_a_refusal_in_three_languages(
    db: Any, inbox: Inbox, text: str, scope: str | None
) -> None:
    inbox.deliver(says("w1", text))

    assert db.value(LEAD) == scope


@pytest.mark.parametrize(
    ("source", "type_", "category", "before", "scope"),
    [
        ("sequence", "text", "", 60, "marketing"),
        ("daily_action", "text", "", 60, "marketing"),
        ("staff", "template", "marketing", 60, "marketing"),
        ("staff", "template", "utility", 60, None),
        ("agent", "text", "", 60, None),
        ("sequence", "text", "", 25 * 60, None),
    ],
)
def test_a_word_of_many_meanings_counts_right_after_a_bulk_message(
    db: Any, inbox: Inbox, source: str, type_: str, category: str, before: int, scope: str | None
) -> None:
    inbox.deliver(says("w1", "Hola", at=NOW - timedelta(hours=30)))
    send(db, source, minutes(before), type_, category)

    inbox.deliver(says("w2", "Cancelar"))

    assert db.value(LEAD) == scope


@pytest.mark.parametrize("is_same_batch", [True, False])
def test_what_a_person_wrote_in_between_is_what_the_word_answers(
    db: Any, inbox: Inbox, is_same_batch: bool
) -> None:
    inbox.deliver(says("w1", "Hola", at=NOW - timedelta(hours=2)))
    send(db, "sequence", minutes(60))
    answers = [echo("e1", "¿Confirmo su cita?", at=NOW - minutes(5)), says("w2", "Cancelar")]

    for batch in [answers] if is_same_batch else [[a] for a in answers]:
        inbox.deliver(*batch)

    assert db.value(LEAD) is None


def test_a_business_adds_its_own_words(db: Any, inbox: Inbox) -> None:
    db.run(
        "update public.tenant_settings set opt_out_keywords = '{¡Basta de ofertas!}', opt_in_keywords ="
        " '{Vuelvo}'"
    )

    inbox.deliver(says("w1", "basta de OFERTAS", at=NOW - minutes(1)))
    assert db.value(LEAD) == "marketing"

    inbox.deliver(says("w2", "vuelvo"))
    assert db.value(LEAD) is None


STATEMENTS = [
    says("w1", "Baja", at=NOW - minutes(9)),
    says("w2", "No me escriban más", at=NOW - minutes(8)),
    preference("p1", "resume", NOW - minutes(7)),
    says("w3", "ALTA", at=NOW - minutes(6)),
    preference("p2", "stop", NOW - minutes(5)),
]


@pytest.mark.parametrize("count", range(1, len(STATEMENTS) + 1))
def test_the_order_of_arrival_does_not_matter(db: Any, inbox: Inbox, count: int) -> None:
    wanted = [(9, "marketing"), (9, "all"), (8, "all"), (None, None), (5, "marketing")][count - 1]
    ago = wanted[0] and NOW - minutes(wanted[0])
    for n, order in enumerate(itertools.islice(itertools.permutations(STATEMENTS[:count]), 0, None, 5)):
        contact = {"phone": f"5731200{n:05}"}
        for statement in order:
            inbox.deliver({**statement, "id": f"{statement['id']}.{n}", "contact": contact})

    states = db.rows("select distinct opted_out_at as at, opt_out_scope as scope from public.customer_leads")
    assert states == [{"at": ago, "scope": wanted[1]}]


def test_a_refusal_is_confirmed_once_and_not_discussed(db: Any, inbox: Inbox, clinic: Business) -> None:
    inbox.deliver(says("w1", "STOP", at=NOW - minutes(2)))
    inbox.deliver(says("w2", "STOP", at=NOW - minutes(1)), says("w3", "baja"))

    assert confirmations(db) == [
        "Listo, no recibirás más promociones nuestras. Puedes escribirnos cuando quieras."
    ]
    assert db.value("select count(*) from public.pending_replies") == 0
    assert db.column("select purpose from public.outbox") == ["staff"]


def test_the_confirmation_passes_the_decision_though_a_person_has_taken_over(db: Any, inbox: Inbox) -> None:
    inbox.deliver(echo("e1", "Soy yo", at=NOW - minutes(3)))
    inbox.deliver(says("w1", "STOP"))

    with db.as_service():
        claimed = db.value("select public.outbox_claim(10)")
    assert [m["content"][:5] for m in claimed["messages"]] == ["Listo"]


def test_a_new_refusal_after_an_opt_in_is_confirmed_again(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1", "STOP", at=NOW - minutes(3)))
    inbox.deliver(says("w2", "START", at=NOW - minutes(2)))
    inbox.deliver(says("w3", "STOP", at=NOW - minutes(1)))

    assert len(confirmations(db)) == 2


@pytest.mark.parametrize(
    "statement",
    [
        says("w1", "No me escriban más"),
        says("w1", "STOP", history=True),
        says("w1", "STOP", at=NOW - timedelta(hours=25)),
        preference("p1", "stop"),
    ],
)
def test_who_refuses_everything_or_said_it_elsewhere_or_long_ago_gets_no_confirmation(
    db: Any, inbox: Inbox, statement: Any
) -> None:
    inbox.deliver(statement)

    assert confirmations(db) == []


def test_no_confirmation_where_the_business_wants_none(db: Any, inbox: Inbox) -> None:
    db.run("update public.tenant_settings set opt_out_confirmation = null")
    inbox.deliver(says("w1", "STOP"))

    assert (confirmations(db), db.value(LEAD)) == ([], "marketing")


def test_a_send_that_fails_because_they_refuse_marketing_is_a_refusal(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))
    inbox.deliver(echo("w2", at=NOW - minutes(1)))
    failure = status("w2", "failed", error={"code": 131050, "title": "Stopped"})
    inbox.deliver(failure)
    inbox.deliver(failure)

    assert db.value(LEAD) == "marketing"
    assert db.rows("select source, evidence from public.consent_events") == [
        {"source": "provider", "evidence": "error 131050"}
    ]


def test_a_refusal_counts_though_another_failure_was_told_first(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))
    inbox.deliver(echo("w2", at=NOW - minutes(1)))
    inbox.deliver(status("w2", "failed", error={"code": 131000, "title": "No"}))
    inbox.deliver(status("w2", "failed", error={"code": 131050, "title": "Stopped"}))

    assert db.value(LEAD) == "marketing"


def test_staff_record_what_a_customer_told_them(db: Any, inbox: Inbox, clinic: Business) -> None:
    inbox.deliver(says("w1"))
    lead = db.value("select id from public.customer_leads")

    with db.signed_in(clinic.owner):
        state = db.value("select public.consent_record(%s, 'opt_out', 'all', 'Por teléfono, hoy')", lead)

    assert state["opt_out_scope"] == "all"
    assert db.column("select source from public.consent_events") == ["staff"]


@pytest.mark.parametrize(
    ("kind", "scope", "evidence", "code"),
    [("stop", "all", "x", "PT400"), ("opt_out", "sms", "x", "PT400"), ("opt_out", "all", " ", "PT400")],
)
def test_a_statement_without_sense_or_evidence_is_refused(
    db: Any, inbox: Inbox, clinic: Business, kind: str, scope: str, evidence: str, code: str
) -> None:
    inbox.deliver(says("w1"))
    lead = db.value("select id from public.customer_leads")

    with db.signed_in(clinic.owner), pytest.raises(Exception) as refused:  # noqa: PT011
        db.run("select public.consent_record(%s, %s, %s, %s)", lead, kind, scope, evidence)
    assert getattr(refused.value, "sqlstate", "") == code


def test_another_business_s_lead_is_not_there(db: Any, inbox: Inbox, plaza: Business) -> None:
    inbox.deliver(says("w1", contact=CARLOS))
    lead = db.value("select id from public.customer_leads")

    with db.signed_in(plaza.owner), pytest.raises(Exception) as refused:  # noqa: PT011
        db.run("select public.consent_record(%s, 'opt_out', 'all', 'x')", lead)
    assert getattr(refused.value, "sqlstate", "") == "PT404"


@pytest.mark.parametrize(
    "change", ["update public.consent_events set scope = 'all'", "delete from public.consent_events"]
)
def test_consent_events_are_only_ever_added_to(db: Any, inbox: Inbox, clinic: Business, change: str) -> None:
    inbox.deliver(says("w1", "STOP"))

    with db.as_service(), pytest.raises(InsufficientPrivilege, match="consent_events"):
        db.run(change)
    with db.signed_in(clinic.owner), pytest.raises(InsufficientPrivilege, match="consent_events"):
        db.run(change)
