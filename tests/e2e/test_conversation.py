"""Whole conversations on a running platform: a customer writes, an agent answers, and bad days happen."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from tests.e2e.clinics import Business
from tests.e2e.platforms import Platform, eventually

GROUP = 25  # messages that share an intent: what a killed deliver may leave unknown


def test_fragments_get_one_answer_whose_statuses_come_back(business: Business) -> None:
    business.platform.query(
        "update public.ai_agents a set buffer_seconds = 3 from public.whatsapp_numbers n"
        " where n.tenant_id = a.tenant_id and n.provider_number_id = %s",
        business.number,
    )

    for text in ("Hola", "quiero una cita", "para mañana"):
        business.write("573111111111", text)

    assert eventually(lambda: business.statuses() == ["read"], 90)
    (answer,) = business.sent()
    assert answer["text"].startswith(f"¡Hola! Soy DrBot de Clínica{business.number}.")
    assert [row[0] for row in business.rows("t.purpose", "ai_usage")] == ["reply"]


def test_the_customer_sees_that_they_were_read(business: Business) -> None:
    business.write("573111111111", "quiero una cita")

    def ticks() -> str:
        query = {"number": business.number, "from": "573111111111"}
        (first, *_) = business.outside.get("/control/view", params=query).json()["messages"]
        return str(first["status"])

    assert eventually(lambda: ticks() == "read", 90)


def test_each_burst_gets_its_own_answer(business: Business) -> None:
    business.write("573111111111", "Hola")
    assert eventually(lambda: len(business.sent()) == 1, 90)
    business.write("573111111111", "quiero una cita")

    assert eventually(lambda: business.statuses() == ["read", "read"], 90)


@pytest.mark.parametrize("kind", ["http_500", "http_429", "reset", "truncated"])
def test_a_model_that_fails_is_asked_again(business: Business, kind: str) -> None:
    business.order("openai", kind, 1, match=kind)

    business.write("573111111111", f"quiero una cita {kind}")

    assert eventually(lambda: business.statuses() == ["read"], 90)
    assert business.alerts() == set()


@pytest.mark.parametrize(
    "answer", [{"raw": "<html>"}, {"text": " "}, {"status": "failed"}, {"error": "overloaded"}]
)
def test_rubbish_is_not_passed_on(business: Business, answer: dict[str, str]) -> None:
    business.script(business.number, answer)

    business.write("573111111111", f"cita {business.number}")

    assert eventually(lambda: business.statuses() == ["read"], 90)
    assert "cita" in business.sent()[0]["text"]


@pytest.mark.parametrize(
    "answer", [{"error": "insufficient_quota"}, {"refusal": "I cannot help."}, {"error": "invalid_api_key"}]
)
def test_a_hopeless_model_calls_a_person_and_says_nothing(business: Business, answer: dict[str, str]) -> None:
    business.script(business.number, answer)

    business.write("573111111111", f"cita {business.number}")

    assert eventually(business.needs_a_person, 90)
    assert business.alerts() == {"reply_failed"}
    assert business.statuses() == []


@pytest.mark.parametrize("kind", ["http_500", "code:131016", "code:131056"])
def test_what_meta_refuses_for_now_is_sent_later_and_once(business: Business, kind: str) -> None:
    business.order("graph.send", kind)

    business.write("573111111111", "cita")

    assert eventually(lambda: business.statuses() == ["read"], 90)
    assert len(business.sent()) == 1


@pytest.mark.parametrize("kind", ["reset", "truncated"])
def test_what_meta_took_without_telling_us_is_not_sent_again(business: Business, kind: str) -> None:
    business.order("graph.send", kind, after_accept=True)

    business.write("573111111111", "cita")

    assert eventually(lambda: business.statuses() == ["read"], 90)
    assert len(business.sent()) == 1


def test_a_lost_send_is_not_sent_again(business: Business) -> None:
    business.order("graph.send", "reset")

    business.write("573111111111", "cita")

    assert eventually(lambda: business.rows("1", "outbox", "t.state in ('sending', 'unknown')"), 90)
    assert not eventually(business.sent, 5)


def test_a_refused_token_stops_the_number_with_one_alert(business: Business) -> None:
    business.order("graph.send", "code:190", 5)

    business.write("573111111111", "cita")
    business.write("573222222222", "cita")

    assert eventually(lambda: business.alerts() == {"channel_stopped"}, 90)
    assert business.sent() == []
    assert eventually(lambda: business.statuses() == ["queued", "queued"], 90)


@pytest.mark.parametrize("code", [131047, 131026, 132001])
def test_what_can_never_be_sent_is_shown_to_a_person(business: Business, code: int) -> None:
    business.order("graph.send", f"code:{code}")

    business.write("573111111111", "cita")

    assert eventually(lambda: business.statuses() == ["failed"], 90)
    assert business.needs_a_person()


def test_a_person_who_took_over_is_not_interrupted(business: Business) -> None:
    business.write("573111111111", "Hola")
    assert eventually(lambda: business.statuses() == ["read"], 90)
    business.platform.query(
        "update public.chats c set agent_paused_until = private.clock() + interval '1 hour'"
        " from public.whatsapp_numbers n where n.tenant_id = c.tenant_id and n.provider_number_id = %s",
        business.number,
    )

    business.write("573111111111", "¿y mañana?")

    assert eventually(lambda: not business.rows("1", "pending_replies"), 90)
    assert len(business.sent()) == 1


def test_nothing_is_lost_or_said_twice_while_workers_are_killed(other_platform: Platform) -> None:
    """200 chats talk while reply and deliver die at random; the rest of the world goes on."""
    assert other_platform.up().returncode == 0
    with closing(Business(other_platform)) as business:
        business.open(buffer_seconds=1)
        _survive_kills(business)


def _survive_kills(business: Business) -> None:
    customers = [f"5731{index:08}" for index in range(200)]

    with ThreadPoolExecutor(4) as pool:
        talks = [pool.submit(_burst, business, customer) for customer in customers]
        kills = 0
        while not all(talk.done() for talk in talks) or kills < 10:
            _kill(business.platform, random.choice(["reply", "deliver"]))  # noqa: S311
            kills += 1
            time.sleep(random.uniform(0.5, 2))  # noqa: S311
    assert [talk.result() for talk in talks] == [None] * 200
    # 45 s until a killed worker's chats are free again, 60 s until its sends are unknown, 60 s to a sweep
    settled = eventually(lambda: _settled(business, len(customers)), 300)

    answers = Counter(row[0] for row in business.rows("t.chat_id", "messages", "t.direction = 'outbound'"))
    sent = Counter(message["to"] for message in business.sent())
    unknown = business.statuses().count("unknown")
    print(f"kills {kills}, answers {answers.total()}, sent {sent.total()}, unknown {unknown}")  # noqa: T201
    assert settled
    assert set(answers.values()) == {1}
    assert set(sent.values()) == {1}
    assert len(sent) + unknown >= len(customers)
    assert unknown <= kills * GROUP


def _burst(business: Business, customer: str) -> None:
    business.write(customer, "Hola")
    business.write(customer, "quiero una cita")


def _kill(platform: Platform, part: str) -> None:
    with suppress(ProcessLookupError):  # it is already dead, and not up again
        os.kill(platform.pid(part), signal.SIGKILL)


def _settled(business: Business, count: int) -> bool:
    statuses = Counter(business.statuses())
    return statuses["read"] + statuses["unknown"] == count and not business.rows("1", "pending_replies")
