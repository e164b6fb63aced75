"""Asking a model: what is sent, what is read, and what every way to fail means."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from shared.llm import Answer, Llm, LlmSettings, NoAnswer, Question, Turn, Usage, alias

QUESTION = Question(
    model="gpt-6-luna",
    instructions="You are DrBot.",
    turns=[Turn("user", "Hola"), Turn("assistant", "¿Sí?"), Turn("user", "una cita")],
    max_tokens=200,
    prompt_key="key",
    asker="asker",
)
USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 64},
    "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 10},
}
CHAT_USAGE = {"prompt_tokens": 100, "completion_tokens": 30}

Reply = Callable[[httpx2.Request], httpx2.Response]


def ask(reply: Reply, **environ: str) -> Answer | NoAnswer:
    async def within() -> Answer | NoAnswer:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(reply)) as client:
            settings = LlmSettings(
                {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": "https://ai.example/v1", **environ}
            )
            return await Llm(settings, client).reply(QUESTION)

    return asyncio.run(within())


def saying(body: Any, status: int = 200, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **headers}
    return lambda _: httpx2.Response(status, content=content, headers=headers)


def response(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """As the Responses API answers; reasoning comes first."""
    output = [{"type": "reasoning", "summary": []}, {"type": "message", "content": list(parts)}]
    return {"id": "resp_1", "status": "completed", "output": output, "usage": USAGE, **more}


def said(text: str, **more: Any) -> dict[str, Any]:
    return response({"type": "output_text", "text": text}, **more)


def refused(code: str | None, kind: str = "error") -> dict[str, Any]:
    return {"error": {"message": "No.", "type": kind, "code": code}}


def test_an_answer_comes_with_what_it_took() -> None:
    answer = ask(saying(said(" ¡Hola! ")))

    assert isinstance(answer, Answer)
    assert (answer.text, answer.response_id) == ("¡Hola!", "resp_1")
    assert answer.usage == Usage(input_tokens=100, cached_tokens=64, output_tokens=30, reasoning_tokens=10)


def sent(**environ: str) -> tuple[str, dict[str, Any]]:
    asked: list[httpx2.Request] = []

    def reply(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(500)

    ask(reply, **environ)
    (request,) = asked  # and it was asked once: the queue tries again, not the library
    return request.url.path, json.loads(request.content)


def test_the_provider_keeps_nothing_and_learns_nobodys_phone() -> None:
    path, body = sent()

    assert path == "/v1/responses"
    assert body == {
        "model": "gpt-6-luna",
        "instructions": "You are DrBot.",
        "input": [
            {"role": "user", "content": "Hola"},
            {"role": "assistant", "content": "¿Sí?"},
            {"role": "user", "content": "una cita"},
        ],
        "max_output_tokens": 200,
        "store": False,
        "prompt_cache_key": "key",
        "safety_identifier": "asker",
        "reasoning": {"effort": "none"},
    }


def test_effort_can_be_left_to_the_model() -> None:
    assert "reasoning" not in sent(LLM_EFFORT="default")[1]


def test_other_servers_are_asked_in_the_words_all_of_them_know() -> None:
    path, body = sent(LLM_API="chat")

    assert path == "/v1/chat/completions"
    assert set(body) == {"model", "messages", "max_tokens"}
    assert body["messages"][0] == {"role": "system", "content": "You are DrBot."}


def test_their_answer_is_read_too() -> None:
    body = {"id": "c1", "choices": [{"message": {"content": "Hola"}}], "usage": CHAT_USAGE}

    answer = ask(saying(body), LLM_API="chat")

    assert isinstance(answer, Answer)
    assert (answer.text, answer.usage) == ("Hola", Usage(100, 0, 30, 0))


@pytest.mark.parametrize(
    "usage", [None, {}, {"input_tokens": 3}, {"input_tokens": "many", "output_tokens": 1}]
)
def test_a_server_may_not_count_tokens(usage: Any) -> None:
    answer = ask(saying(said("Hola", usage=usage)))

    assert isinstance(answer, Answer)
    assert answer.usage is None


@pytest.mark.parametrize(
    ("status", "code", "is_final"),
    [
        (500, "server_error", False),
        (503, None, False),
        (429, "rate_limit_exceeded", False),
        (408, None, False),
        (409, None, False),
        (429, "insufficient_quota", True),
        (401, "invalid_api_key", True),
        (403, None, True),
        (404, "model_not_found", True),
        (400, "context_length_exceeded", True),
    ],
)
def test_a_refusal_may_pass_or_not(status: int, code: str | None, is_final: bool) -> None:
    answer = ask(saying(refused(code), status))

    assert isinstance(answer, NoAnswer)
    assert answer.is_final is is_final
    assert answer.is_barred is (status in (401, 403) or code == "insufficient_quota")


@pytest.mark.parametrize(("given", "pause"), [("7", 7), ("0", 1), ("86400", 120), ("tomorrow", None)])
def test_the_provider_says_when_to_come_back(given: str, pause: int | None) -> None:
    answer = ask(saying(refused(None), 429, **{"retry-after": given}))

    assert isinstance(answer, NoAnswer)
    assert answer.retry_after == pause


@pytest.mark.parametrize("trouble", [httpx2.ConnectError, httpx2.ReadTimeout, httpx2.ReadError])
def test_a_network_that_fails_may_recover(trouble: type[Exception]) -> None:
    def reply(request: httpx2.Request) -> httpx2.Response:
        raise trouble("gone")

    answer = ask(reply)

    assert isinstance(answer, NoAnswer)
    assert not answer.is_final


def test_a_model_that_only_drips_is_too_late() -> None:
    async def drip() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    def reply(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=drip())

    assert ask(reply, LLM_SECONDS="0.1") == NoAnswer("The model did not answer in time.", is_passing=True)


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"<html>", b'{"output": [', b"null", b"[]", b'"text"', {}, {"output": "text"}, {"output": [7]}],
)
def test_rubbish_is_no_answer(rubbish: Any) -> None:
    answer = ask(saying(rubbish))

    assert isinstance(answer, NoAnswer)
    assert not answer.is_final


@pytest.mark.parametrize(
    ("body", "is_final"),
    [
        (response({"type": "refusal", "refusal": "I cannot"}), True),
        (said("", status="incomplete", incomplete_details={"reason": "content_filter"}), True),
        (said("half a sent", status="incomplete", incomplete_details={"reason": "max_output_tokens"}), False),
        (said("  \n "), False),
        (said("", status="failed", error={"code": "server_error"}), False),
        (said("", status="failed", error={"code": "invalid_prompt"}), True),
    ],
)
def test_a_200_can_be_no_answer_and_still_cost(body: Any, is_final: bool) -> None:
    answer = ask(saying(body))

    assert isinstance(answer, NoAnswer)
    assert answer.is_final is is_final
    assert answer.usage is not None


def test_an_answer_that_was_cut_ends_with_its_last_whole_sentence() -> None:
    text = "Abrimos a las 8.50 hoy. ¿Te sirve? Tambi"
    body = said(text, status="incomplete", incomplete_details={"reason": "max_output_tokens"})

    answer = ask(saying(body))

    assert isinstance(answer, Answer)
    assert answer.text == "Abrimos a las 8.50 hoy. ¿Te sirve?"


def test_what_postgres_cannot_store_is_not_in_an_answer() -> None:
    answer = ask(
        saying(
            b'{"status":"completed","output":[{"type":"message","content":['
            b'{"type":"output_text","text":"Hola\\u0000 \\ud83d"}]}]}'
        )
    )

    assert isinstance(answer, Answer)
    assert answer.text == "Hola\ufffd \ufffd"


def test_an_alias_is_stable_and_tells_nothing() -> None:
    assert alias("tenant", "lead") == alias("tenant", "lead") != alias("tenant", "other")
    assert "lead" not in alias("tenant", "lead")


def test_openai_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, shared.llm, shared.replies; sys.exit('openai' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
