"""What an agent is asked about a follow-up, and what its decisions become."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from functions.daily_actions.main import run
from local.simulator.openai_schema import complaint
from shared.daily import FollowUps, NoDecisionError, question_of, read
from shared.errors import BadRequestError, ConflictError
from shared.events import JsonObject
from shared.llm import Answer, NoAnswer, Question, Usage

NOW = "2026-11-20T15:00:00+00:00"


def job(**changes: Any) -> JsonObject:
    agent = {
        "id": "a", "name": "DrBot", "description": None, "personality_prompt": "Amable.",
        "business_prompt": "", "objectives_prompt": "", "model": "gpt-6-luna",
        "temperature": None, "max_tokens_per_message": 300,
        "business_rules": {},
    }  # fmt: skip
    return {
        "tenant_id": "t", "day": "2026-11-20", "lead_id": "l", "chat_id": "c", "claim": "k", "attempts": 1,
        "next_action": "Recordar la cita", "due_at": NOW, "agent": agent, "prompt": None,
        "number": {"timezone": "America/Bogota", "business_hours": None},
        "business": {"name": "Clínica", "now": NOW, "locale": "es", "timezone": "America/Bogota"},
        "thread": {"summary": "Pidió una limpieza."}, "lead": {"id": "l", "name": "Ana", "labels": []},
        "messages": [{"role": "user", "type": "text", "content": "Avísenme", "at": NOW}], **changes,
    }  # fmt: skip


def test_the_agent_is_told_who_it_is_and_what_is_planned() -> None:
    question = question_of(job())

    assert question.form is not None
    assert complaint(question.form.schema) is None
    assert "DrBot" in question.instructions
    assert "Recordar la cita" in question.instructions
    assert "Pidió una limpieza." in question.instructions
    assert question.turns[0].text == "Avísenme"


def test_a_chat_without_messages_can_be_followed_up() -> None:
    assert len(question_of(job(messages=None)).turns) == 1


@pytest.mark.parametrize(
    ("said", "decided"),
    [
        ({"decision": "send", "message": " Hola "}, {"decision": "send", "message": "Hola", "at": None}),
        (
            {"decision": "reschedule", "message": None, "reschedule_at": "2026-11-23T10:00"},
            {"decision": "reschedule", "message": None, "at": "2026-11-23T10:00:00-05:00"},
        ),
        ({"decision": "person", "message": None}, {"decision": "person", "message": None, "at": None}),
    ],
)
def test_each_decision_is_read(said: JsonObject, decided: JsonObject) -> None:
    assert read(json.dumps(said), job()) == decided


def test_an_offset_no_clock_on_earth_has_becomes_the_business_own() -> None:
    said = {"decision": "reschedule", "reschedule_at": "2026-11-23T10:00+20:00"}

    assert read(json.dumps(said), job())["at"] == "2026-11-22T09:00:00-05:00"


def test_prose_is_a_message() -> None:
    assert read("¡Hola Ana!", job()) == {"decision": "send", "message": "¡Hola Ana!", "at": None}


@pytest.mark.parametrize("said", ['{"decision": "send", "message": "Ho', "```json\n{}\n```", '[{"a": '])
def test_a_spoilt_form_is_sent_to_nobody(said: str) -> None:
    with pytest.raises(NoDecisionError):
        read(said, job())


def test_what_postgres_has_no_place_for_is_not_in_a_message() -> None:
    assert read('{"decision": "send", "message": "a\\u0000b"}', job())["message"] == "a\ufffdb"


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"decision": "dance", "message": "x"},
        {"decision": "send", "message": "  "},
        {"decision": "send", "message": None},
        {"decision": "reschedule"},
        {"decision": "reschedule", "reschedule_at": "mañana"},
        {"decision": "reschedule", "reschedule_at": "2026-11-20T09:00"},
        {"decision": "reschedule", "reschedule_at": "2036-11-20T09:00"},
    ],
    ids=json.dumps,
)
def test_what_says_nothing_to_do_is_refused(said: JsonObject) -> None:
    with pytest.raises(NoDecisionError):
        read(json.dumps(said), job())


class Fake:
    """A database and a model that say what they are told to."""

    def __init__(self, said: Answer | NoAnswer) -> None:
        self.said = said
        self.calls: list[tuple[str, JsonObject]] = []

    async def daily_claim(self, *, limit: int, lease_seconds: int) -> JsonObject:
        return {"jobs": [job()], "next_in_ms": 0}

    async def daily_settle(self, **call: Any) -> str:
        self.calls.append(("settle", call))
        return "sent"

    async def daily_fail(self, **call: Any) -> str:
        self.calls.append(("fail", call))
        return "retry"

    async def daily_release(self, **call: Any) -> int:
        self.calls.append(("release", call))
        return 1

    async def reply(self, question: Question) -> Answer | NoAnswer:
        return self.said

    async def warm(self) -> None: ...


async def work(fake: Fake) -> None:
    claimed = await FollowUps(fake, fake, at_once=2, patience=25).claim()  # type: ignore[arg-type]
    for task in claimed.tasks:
        await task()


@pytest.mark.parametrize(
    ("said", "call"),
    [
        (Answer('{"decision": "send", "message": "Hola"}', Usage(9, 0, 9, 0), "r", 1), "settle"),
        (Answer("{}", Usage(9, 0, 9, 0), "r", 1), "fail"),
        (NoAnswer("The model did not answer in time.", retry_after=7), "fail"),
    ],
)
def test_each_end_is_told_with_what_it_took(said: Answer | NoAnswer, call: str) -> None:
    fake = Fake(said)
    asyncio.run(work(fake))

    ((name, told),) = fake.calls
    assert name == call
    assert told["keys"] == {"tenant_id": "t", "day": "2026-11-20", "lead_id": "l", "claim": "k"}
    assert len(told["usage"]) == (1 if said.usage else 0)


def test_a_provider_that_bars_us_gets_the_whole_claim_back() -> None:
    fake = Fake(NoAnswer("The model's provider refused: HTTP 401.", is_final=True, is_barred=True))
    asyncio.run(work(fake))

    assert fake.calls == [("release", {"claim": "k", "reason": "The model's provider refused: HTTP 401."})]


def test_a_result_that_the_database_will_never_take_is_a_failure() -> None:
    class Unwilling(Fake):
        async def daily_settle(self, **call: Any) -> str:
            raise ConflictError("It is already so.")

    fake = Unwilling(Answer('{"decision": "send", "message": "Hola"}', Usage(9, 0, 9, 0), "r", 1))
    asyncio.run(work(fake))

    ((name, told),) = fake.calls
    assert (name, told["error"]) == ("fail", "The database did not take the result: It is already so.")
    assert [run["response_id"] for run in told["usage"]] == ["r"]


@pytest.mark.parametrize("asked", [{"tenant_id": "abc"}, {"tenant_id": 7}, {"force": "yes"}], ids=json.dumps)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_planned(asked: JsonObject) -> None:
    request, deps = SimpleNamespace(json=lambda: asked), SimpleNamespace(database=None)

    with pytest.raises(BadRequestError):
        asyncio.run(run(request, deps))  # type: ignore[arg-type]
