"""Threads as people see and end them, and what is asked of a provider while a customer writes."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.given import NOW, Business, Inbox, open_business, says

WHAPI = {"number": "PULSO", "provider": "whapi", "account": None}


def wrote(inbox: Inbox, name: str = "w1", text: str = "Hola", **more: Any) -> None:
    inbox.deliver(says(name, text, at=NOW + timedelta(seconds=int(name[1:]))), **more)


def claim(db: Any) -> dict[str, Any]:
    db.run("update pending_replies set due_at = now() - interval '1 second', lease_until = null")
    db.run("set role service_role")
    claimed = db.value("select reply_claim(10, 60)")
    db.run("reset role")
    return dict(claimed)


def settle(db: Any, job: dict[str, Any], tokens: int = 100) -> None:
    spent = {"model": "gpt-6-luna", "input_tokens": tokens, "output_tokens": 10, "response_id": job["claim"]}
    db.value(
        "select reply_settle(%s, %s, %s, %s, 'Claro', %s)", job["tenant_id"], job["chat_id"], job["claim"],
        job["agent"]["id"], json.dumps([spent]),
    )  # fmt: skip


def answered(db: Any, inbox: Inbox, name: str = "w1", tokens: int = 100) -> dict[str, Any]:
    wrote(inbox, name)
    (job,) = claim(db)["jobs"]
    settle(db, job, tokens)
    return dict(job)


def test_what_an_agent_forgets_is_told_to_no_model(db: Any, clinic: Business, inbox: Inbox) -> None:
    first = answered(db, inbox)
    with db.signed_in(clinic.owner):
        thread = db.value("select thread_clear(%s)", first["chat_id"])
    inbox.deliver(says("w5", "¿Sigues ahí?", at=datetime.now(UTC) + timedelta(seconds=1)))

    (job,) = claim(db)["jobs"]
    assert [one["content"] for one in job["messages"]] == ["¿Sigues ahí?"]
    assert job["thread"] == {"id": str(thread), "summary": None, "summarize": job["thread"]["summarize"]}


def test_the_chat_of_another_business_cannot_be_cleared(
    db: Any, clinic: Business, plaza: Business, inbox: Inbox
) -> None:
    chat = answered(db, inbox)["chat_id"]

    with db.signed_in(plaza.owner), pytest.raises(psycopg.Error) as refused:
        db.value("select thread_clear(%s)", chat)

    assert refused.value.sqlstate == "PT404"
    assert db.column("select closed_at from ai_threads") == [None]


def test_clearing_counts_no_token_away(db: Any, clinic: Business, inbox: Inbox) -> None:
    chat = answered(db, inbox)["chat_id"]
    with db.signed_in(clinic.owner):
        db.value("select thread_clear(%s)", chat)
    answered(db, inbox, "w9")
    db.run("select activity_flush(true)")

    assert db.value("select thread_token_count from customer_leads") == 220
    assert db.column("select token_count from ai_threads order by created_at, id") == [110, 110]


def test_the_threads_of_a_chat_are_listed_with_why_they_ended(
    db: Any, clinic: Business, inbox: Inbox
) -> None:
    chat = answered(db, inbox, tokens=20_001)["chat_id"]
    answered(db, inbox, "w9")
    with db.signed_in(clinic.owner):
        threads = db.rows("select is_current, closed_reason, run_count from thread_list(%s)", chat)

    assert threads == [
        {"is_current": True, "closed_reason": None, "run_count": 1},
        {"is_current": False, "closed_reason": "tokens", "run_count": 1},
    ]


def test_a_thread_shows_what_was_said_in_it_and_what_it_took(db: Any, clinic: Business, inbox: Inbox) -> None:
    thread = answered(db, inbox)["thread"]["id"]
    with db.signed_in(clinic.owner):
        history = db.value("select thread_history(%s)", thread)

    assert [one["content"] for one in history["messages"]] == ["Hola", "Claro"]
    assert [run["input_tokens"] for run in history["usage"]] == [100]


@pytest.mark.parametrize("break_it", [
    "update ai_threads set closed_at = now(), closed_reason = 'age'",
    "update chats set thread_id = null",
])  # fmt: skip
def test_a_thread_that_is_not_fit_for_use_is_replaced(db: Any, inbox: Inbox, break_it: str) -> None:
    first = answered(db, inbox)["thread"]["id"]
    db.run(break_it)

    assert answered(db, inbox, "w9")["thread"]["id"] != first


def test_two_replies_at_once_never_fork_a_thread(connect: Any) -> None:
    setup = connect()
    open_business(setup, "clinic", "100000000000001")
    Inbox(setup).deliver(says("w1"))
    both_are_there = threading.Barrier(8)

    def renew() -> None:
        connection = connect()
        both_are_there.wait()
        with connection.transaction():
            connection.execute("select from public.chats for no key update")
            connection.execute(
                "select private.threads_renew(array_agg((tenant_id, id)::private.chat_ref)) from public.chats"
            )

    renewing = [threading.Thread(target=renew) for _ in range(8)]
    for one in renewing:
        one.start()
    for one in renewing:
        one.join()

    made = setup.execute("select id from public.ai_threads").fetchall()
    assert made == setup.execute("select thread_id as id from public.chats").fetchall()
    assert len(made) == 1


def test_a_second_open_thread_of_a_chat_cannot_even_be_written(db: Any, inbox: Inbox) -> None:
    answered(db, inbox)

    with pytest.raises(psycopg.errors.UniqueViolation):
        db.run(
            "insert into ai_threads (tenant_id, chat_id, created_at) select tenant_id, id, now() from chats"
        )


def test_a_thread_of_another_chat_is_never_used(db: Any, clinic: Business, inbox: Inbox) -> None:
    first = answered(db, inbox)
    inbox.deliver(says("x1", contact={"phone": "573330000001"}))
    db.run("update chats set thread_id = %s where id <> %s", first["thread"]["id"], first["chat_id"])

    (job,) = claim(db)["jobs"]
    assert job["thread"]["id"] != first["thread"]["id"]


@pytest.fixture
def whapi(db: Any, clinic: Business) -> Any:
    return db.value(
        "update whatsapp_numbers set provider = 'whapi', provider_number_id = 'PULSO' returning id"
    )


def test_of_a_whapi_customer_the_provider_is_asked_once_in_a_while(db: Any, inbox: Inbox, whapi: Any) -> None:
    wrote(inbox, **WHAPI)
    (asked,) = claim(db)["enrich"]
    assert (asked["number_id"], asked["address"]) == (str(whapi), "57311111111")
    assert claim(db)["enrich"] == []

    db.run("update chats set enriched_at = enriched_at - interval '25 hours'")
    assert len(claim(db)["enrich"]) == 1


def test_of_other_providers_customers_nothing_is_asked(db: Any, inbox: Inbox) -> None:
    wrote(inbox)

    assert claim(db)["enrich"] == []


def enrich(db: Any, name: str | None, *labels: str) -> bool:
    db.run("set role service_role")
    answer = db.value("select lead_enrich(tenant_id, id, %s, %s) from chats", name, list(labels))
    db.run("reset role")
    return bool(answer)


def lead(db: Any) -> dict[str, Any]:
    return dict(db.row("select name, label1, label2, label3, xmin::text from customer_leads"))


def test_a_name_fills_only_an_empty_one_or_the_phone(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    assert not enrich(db, "Otra")

    db.run("update customer_leads set name = phone")
    assert enrich(db, "Ana de la agenda")
    assert lead(db)["name"] == "Ana de la agenda"


def test_three_labels_at_most_and_only_where_they_differ(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    assert enrich(db, None, "VIP", " ", "Moroso", "VIP", "Nuevo", "Cuarta")
    before = lead(db)
    assert (before["label1"], before["label2"], before["label3"]) == ("VIP", "Moroso", "Nuevo")

    assert not enrich(db, None, "VIP", "Moroso", "Nuevo")
    assert not enrich(db, None)
    assert lead(db) == before
    assert enrich(db, None, "Solo")
    assert (lead(db)["label1"], lead(db)["label2"]) == ("Solo", None)


def test_labels_reach_the_agent(db: Any, inbox: Inbox) -> None:
    wrote(inbox)
    enrich(db, None, "VIP")

    assert claim(db)["jobs"][0]["lead"]["labels"] == ["VIP"]
