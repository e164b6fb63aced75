"""agents: who answers a burst, with what, and what becomes of the answer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.given import CARLOS, Business, Inbox, echo, says

USAGE = [{"model": "gpt-5-mini", "input_tokens": 90, "output_tokens": 10}]
NIGHT, NOON = "2026-11-20 23:00-05", "2026-11-20 12:00-05"


def over(db: Any) -> None:
    """The burst is over: nobody has to wait in a test."""
    db.run("update public.pending_replies set due_at = now()")


def claim(db: Any, limit: int = 10) -> list[dict[str, Any]]:
    with db.as_service():
        return list(db.value("select public.reply_claim(%s)", limit)["jobs"])


def settle(db: Any, job: dict[str, Any], text: str = "Claro", agent: str | None = None) -> dict[str, Any]:
    with db.as_service():
        answer: dict[str, Any] = db.value(
            "select public.reply_settle(%s, %s, %s, %s, %s, %s::jsonb)",
            job["tenant_id"], job["chat_id"], job["claim"], agent or job["agent"]["id"], text, USAGE,
        )  # fmt: skip
    return answer


def fail(db: Any, job: dict[str, Any], **final: bool) -> str:
    with db.as_service():
        return str(
            db.value(
                "select public.reply_fail(%s, %s, %s, 'No model', %s)",
                job["tenant_id"],
                job["chat_id"],
                job["claim"],
                final.get("final", False),
            )
        )


def add_agent(db: Any, business: Business, name: str, keywords: list[str], hours: str | None = None) -> Any:
    return db.value(
        "insert into public.ai_agents (tenant_id, name, trigger_keywords, active_hours)"
        " values (%s, %s, %s, %s) returning id", business.tenant_id, name, keywords, hours,
    )  # fmt: skip


def chosen(db: Any, business: Business, text: str, at: str = NOON) -> str:
    return str(
        db.value(
            "select name from public.ai_agents where id = private.agent_choose(%s, %s, %s, %s::timestamptz)",
            business.tenant_id,
            business.number_id,
            text,
            at,
        )
    )


@pytest.mark.parametrize(
    ("text", "at", "agent"),
    [
        ("Quiero una cita", NOON, "Citas"),
        ("tengo DOLOR", NOON, "Citas"),
        ("tengo un dolor fuerté!", NIGHT, "Urgencias"),  # the longest keyword, accents aside
        ("tengo un dolor fuerte", NOON, "Citas"),  # Urgencias is off duty
        ("una citación", NOON, "DrBot"),  # whole words
        ("buenas", NIGHT, "DrBot"),
        ("", NOON, "DrBot"),
    ],
)
def test_the_longest_keyword_of_an_agent_on_duty_decides(
    db: Any, clinic: Business, text: str, at: str, agent: str
) -> None:
    add_agent(db, clinic, "Citas", ["cita", "dolor"])
    add_agent(db, clinic, "Urgencias", ["urgencia", "dolor fuerte"], '{"from": "18:00", "to": "08:00"}')

    assert chosen(db, clinic, text, at) == agent


def test_the_number_s_own_agent_answers_whatever_its_hours(db: Any, clinic: Business) -> None:
    db.run('update public.ai_agents set active_hours = \'{"from": "08:00", "to": "09:00"}\'')

    assert chosen(db, clinic, "hola", NIGHT) == "DrBot"


def test_a_burst_is_one_job_with_all_that_is_needed(db: Any, inbox: Inbox, clinic: Business) -> None:
    inbox.deliver(says("1", "Hola"), says("2", "quiero"))
    inbox.deliver(says("3", "una cita"))
    assert claim(db) == []
    over(db)

    (job,) = claim(db)

    assert job["burst"] == "Hola\nquiero\nuna cita"
    assert [m["content"] for m in job["messages"]] == ["Hola", "quiero", "una cita"]
    assert (job["agent"]["name"], job["lead"]["name"], job["thread"]["summary"]) == (
        "DrBot",
        "María González",
        None,
    )
    assert claim(db) == []


def test_a_job_says_what_to_show_the_customer_as_read(db: Any, inbox: Inbox, clinic: Business) -> None:
    inbox.deliver(says("1", "Hola"), says("2", "una cita"))
    over(db)

    (job,) = claim(db)

    seen, last = job["seen"], db.value("select wa_message_id from public.messages where content = 'una cita'")
    assert (seen["message_id"], seen["provider"], seen["provider_number_id"]) == (
        last,
        "cloud_api",
        clinic.number,
    )
    assert seen["to"]["phone"] == job["lead"]["phone"]


def test_a_business_may_keep_to_itself_when_it_reads(db: Any, inbox: Inbox) -> None:
    db.run("update public.tenant_settings set shows_typing = false")
    inbox.deliver(says("1"))
    over(db)

    (job,) = claim(db)

    assert job["seen"] is None


def test_a_burst_waits_for_its_last_fragment_but_not_for_ever(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    waits = "select extract(epoch from due_at - now())::float8 from public.pending_replies"
    assert db.value(waits) == 4
    db.run("update public.pending_replies set due_by = due_by - interval '13 seconds'")

    inbox.deliver(says("2"))

    assert db.value(waits) == 2


def test_an_answer_goes_to_the_outbox_and_its_tokens_are_recorded(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    over(db)
    (job,) = claim(db)

    answer = settle(db, job, "¡Claro!")

    assert answer["status"] == "answered"
    sent = db.row("select content, source, status from public.messages where id = %s", answer["message_id"])
    assert sent == {"content": "¡Claro!", "source": "agent", "status": "queued"}
    assert db.value("select total_tokens from public.ai_usage") == 100
    assert db.value("select token_count from public.pending_activity") == 100
    assert db.row("select run_count, token_count, last_input_tokens from public.ai_threads") == {
        "run_count": 1, "token_count": 100, "last_input_tokens": 90,
    }  # fmt: skip
    assert db.value("select count(*) from public.pending_replies") == 0


def test_a_fragment_that_comes_meanwhile_makes_the_turn_again_twice_and_no_more(
    db: Any, inbox: Inbox
) -> None:
    statuses = []
    inbox.deliver(says("0"))
    for n in range(1, 4):
        over(db)
        (job,) = claim(db)
        inbox.deliver(says(str(n), f"y {n}"))
        statuses.append(settle(db, job)["status"])

    assert statuses == ["redo", "redo", "answered"]
    assert db.value("select fragments from public.pending_replies") == 1  # the last one is a burst of its own
    assert db.value("select count(*) from public.messages where direction = 'outbound'") == 1


def test_an_answer_is_thrown_away_when_a_person_took_over(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    over(db)
    (job,) = claim(db)
    inbox.deliver(echo("2"))

    assert settle(db, job) == {"status": "silenced"}
    assert db.value("select count(*) from public.outbox") == 0


def test_an_answer_whose_lease_ran_out_is_lost_and_the_chat_answered_once(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    over(db)
    (first,) = claim(db)
    db.run("update public.pending_replies set lease_until = now() - interval '1 second'")
    (second,) = claim(db)

    assert [settle(db, first)["status"], settle(db, second)["status"]] == ["lost", "answered"]
    assert db.value("select count(*) from public.outbox") == 1


@pytest.mark.parametrize(
    "rule",
    [
        "update public.chats set agent_paused_until = now() + interval '1 hour'",
        "update public.whatsapp_numbers set auto_reply = false",
        "update public.customer_leads set opted_out_at = now(), opt_out_scope = 'all'",
    ],
)
def test_chats_that_are_not_for_the_agent_wait_no_longer(db: Any, inbox: Inbox, rule: str) -> None:
    inbox.deliver(says("1"))
    over(db)
    db.run(rule)

    assert claim(db) == []
    assert db.value("select count(*) from public.pending_replies") == 0


def test_outside_business_hours_the_customer_is_told_so_once(db: Any, inbox: Inbox) -> None:
    db.run("update public.tenant_settings set closed_hours_message = 'Cerrado'")
    db.run(
        "update public.whatsapp_numbers set business_hours = jsonb_build_object('from', '00:00',"
        " 'to', '24:00', 'days', jsonb_build_array(extract(isodow from now() + interval '3 days')))"
    )
    for n in range(2):
        inbox.deliver(says(str(n)))
        over(db)
        assert claim(db) == []

    assert db.column("select content from public.messages where direction = 'outbound'") == ["Cerrado"]


def test_a_business_without_an_agent_gets_a_person_s_attention(db: Any, inbox: Inbox) -> None:
    db.run("update public.ai_agents set is_active = false")
    inbox.deliver(says("1"))
    over(db)

    assert claim(db) == []
    assert db.column("select kind from public.alerts") == ["no_agent"]
    assert db.value("select requires_attention from public.conversations") is True


def test_a_failure_is_tried_again_later_and_the_fifth_is_a_person_s(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    outcomes = []
    for _ in range(5):
        over(db)
        (job,) = claim(db)
        outcomes.append(fail(db, job))

    assert outcomes == ["retry"] * 4 + ["handed_over"]
    assert db.column("select kind from public.alerts where resolved_at is null") == ["reply_failed"]
    assert db.value("select requires_attention from public.conversations") is True


def test_a_hopeless_failure_is_a_person_s_at_once(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    over(db)
    (job,) = claim(db)

    assert fail(db, job, final=True) == "handed_over"


@pytest.mark.parametrize(
    ("worn", "reason"),
    [("created_at = now() - interval '8 days'", "age"), ("last_input_tokens = 20001", "tokens")],
)
def test_a_thread_is_reused_until_it_is_too_old_or_too_long(
    db: Any, inbox: Inbox, worn: str, reason: str
) -> None:
    for n in range(3):
        inbox.deliver(says(str(n)))
        over(db)
        settle(db, claim(db)[0])
        if n == 1:
            db.run(f"update public.ai_threads set summary = 'Quiere una cita', {worn}")

    threads = db.rows("select closed_reason, summary from public.ai_threads order by closed_at nulls last")
    assert threads == [
        {"closed_reason": reason, "summary": "Quiere una cita"},
        {"closed_reason": None, "summary": "Quiere una cita"},
    ]


def test_every_number_gets_its_share(db: Any, inbox: Inbox, plaza: Business) -> None:
    flood = (inbox.payload(says(f"f{n}", contact={"phone": f"5731{n:08d}"})) for n in range(30))
    inbox.receive(*flood, inbox.payload(says("1", contact=CARLOS), number=plaza.number))
    over(db)

    jobs = claim(db, limit=4)

    assert len(jobs) == 3  # two of the flood, and the other business's only one
    assert {job["tenant_id"] for job in jobs} >= {str(plaza.tenant_id)}


def test_an_admin_configures_agents_and_other_staff_only_read_them(db: Any, clinic: Business) -> None:
    with db.signed_in(clinic.owner):
        db.run("update public.ai_agents set trigger_keywords = '{hola}'")
        colleague = db.value("select public.staff_invite('ana@clinic.example', 'user', 'Ana')")
    assert colleague
    ana = db.sign_up("ana@clinic.example")
    with db.signed_in(ana):
        db.run("update public.ai_agents set trigger_keywords = '{adios}'")
        assert db.column("select trigger_keywords from public.ai_agents") == [["hola"]]


def test_what_a_failure_took_is_recorded_once(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    over(db)
    (job,) = claim(db)
    usage = [{**USAGE[0], "response_id": "resp_1"}]

    with db.as_service():
        for _ in range(2):  # as a worker does that did not hear our answer
            db.value(
                "select public.reply_fail(%s, %s, %s, 'Refused', false, null, %s, %s::jsonb)",
                *(job["tenant_id"], job["chat_id"], job["claim"], job["agent"]["id"], usage),
            )

    assert db.column("select total_tokens from public.ai_usage") == [100]


def test_with_no_chat_to_answer_there_is_nothing_to_wait_for(db: Any) -> None:
    with db.as_service():
        assert db.value("select public.reply_claim()") == {
            "jobs": [], "enrich": [], "next_in_ms": None,
        }  # fmt: skip


def test_an_answer_handed_in_twice_is_counted_once(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1"))
    over(db)
    (job,) = claim(db)
    usage = [{**USAGE[0], "response_id": "resp_1"}]

    with db.as_service():
        told = [
            db.value(
                "select public.reply_settle(%s, %s, %s, %s, 'Claro', %s::jsonb)",
                *(job["tenant_id"], job["chat_id"], job["claim"], job["agent"]["id"], usage),
            )["status"]
            for _ in range(2)
        ]

    assert told == ["answered", "lost"]
    assert db.column("select token_count from public.pending_activity") == [100]


def test_an_agent_may_end_the_conversation_with_its_answer(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("1", "¡Gracias, hasta luego!"))
    over(db)
    (job,) = claim(db)

    with db.as_service():
        db.value(
            "select public.reply_settle(%s, %s, %s, %s, '¡Hasta pronto!', '[]', null, true)",
            *(job["tenant_id"], job["chat_id"], job["claim"], job["agent"]["id"]),
        )

    assert db.column("select status from public.conversations") == ["closed"]
    assert db.column("select content from public.messages where direction = 'outbound'") == ["¡Hasta pronto!"]
