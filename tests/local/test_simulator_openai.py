"""The model simulator takes what OpenAI takes, and says what it is told to say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.local.outside import Outside

pytest_plugins = ("tests.local.outside_fixtures",)

INSTRUCTIONS = "Eres DrBot, asistente amable.\nTrabajas en la Clínica Dental Sonrisa."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": ["Lead", "Booked"]},
        "priority": {"type": "integer", "minimum": 1, "maximum": 5},
        "next_action_at": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "evidence": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["status", "priority", "next_action_at", "evidence"],
    "additionalProperties": False,
}


def question(words: str = "Quiero una cita", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-6-luna", "instructions": INSTRUCTIONS, "input": words, "store": False, **more}


def structured(schema: dict[str, Any]) -> dict[str, Any]:
    return {"format": {"type": "json_schema", "name": "crm", "strict": True, "schema": schema}}


def output_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    (message,) = [item for item in response.json()["output"] if item["type"] == "message"]
    return str(message["content"][0]["text"])


def answer(outside: Outside, text: str = "Quiero una cita") -> str:
    return output_of(outside.ask("responses", question(text)))


def test_the_agent_answers_in_its_role(outside: Outside) -> None:
    said = answer(outside)

    assert "DrBot" in said
    assert "Clínica Dental Sonrisa" in said
    assert "cita" in said


def test_a_second_answer_greets_no_more(outside: Outside) -> None:
    turns = [
        {"role": "user", "content": "Hola"},
        {"role": "assistant", "content": "¡Hola! Soy DrBot."},
        {"role": "user", "content": [{"type": "input_text", "text": "gracias"}]},
    ]

    assert "DrBot" not in output_of(outside.ask("responses", question() | {"input": turns}))


def test_usage_counts_four_characters_a_token(outside: Outside) -> None:
    body = question("x" * 40, instructions="y" * 40, reasoning={"effort": "none"})

    response = outside.ask("responses", body).json()

    assert response["usage"]["input_tokens"] in (20, 21)
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 0
    assert response["usage"]["total_tokens"] == (
        response["usage"]["input_tokens"] + response["usage"]["output_tokens"]
    )
    assert [item["type"] for item in response["output"]] == ["message"]


def test_a_model_that_reasons_says_so_before_its_message(outside: Outside) -> None:
    response = outside.ask("responses", question(reasoning={"effort": "low"})).json()

    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


def test_chat_completions_answer_alike(outside: Outside) -> None:
    messages = [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": "¿Cuánto cuesta?"},
    ]

    response = outside.ask("chat/completions", {"model": "llama", "messages": messages}).json()

    (choice,) = response["choices"]
    assert "DrBot" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert response["usage"]["prompt_tokens"] > 20


@pytest.mark.parametrize("key", ["", "sk-wrong"])
def test_a_wrong_key_is_refused(outside: Outside, key: str) -> None:
    assert outside.ask("responses", question(), key=key).status_code == 401


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": None}, 400, "missing_required_parameter"),
        ({"model": "gpt-4"}, 404, "model_not_found"),
        ({"input": None}, 400, "missing_required_parameter"),
        ({"input": []}, 400, "missing_required_parameter"),
        ({"input": [{"role": "customer", "content": "Hola"}]}, 400, "invalid_value"),
        ({"input": [{"role": "user", "content": 7}]}, 400, "invalid_type"),
        ({"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, 400, "invalid_value"),
        ({"colour": "red"}, 400, "unknown_parameter"),
        ({"max_output_tokens": 15}, 400, "integer_below_min_value"),
        ({"temperature": 3}, 400, "invalid_value"),
        ({"reasoning": {"effort": "huge"}}, 400, "invalid_value"),
        ({"reasoning": "low"}, 400, "invalid_type"),
        ({"text": "json"}, 400, "invalid_type"),
        ({"previous_response_id": "resp_1"}, 400, "previous_response_not_found"),
        ({"text": {"format": {"type": "xml"}}}, 400, "invalid_value"),
        ({"text": structured({"type": "array", "items": {"type": "string"}})}, 400, "invalid_json_schema"),
        ({"text": structured({**SCHEMA, "required": []})}, 400, "invalid_json_schema"),
        ({"text": structured({**SCHEMA, "additionalProperties": True})}, 400, "invalid_json_schema"),
        (
            {"text": structured({**SCHEMA, "properties": {"status": {"type": "string", "minLength": 1}}})},
            400,
            "invalid_json_schema",
        ),
    ],
)
def test_a_request_openai_would_refuse_is_refused(
    outside: Outside, change: dict[str, Any], status: int, code: str
) -> None:
    body = {key: value for key, value in {**question(), **change}.items() if value is not None}

    refused = outside.ask("responses", body)

    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


def test_a_strict_schema_is_answered_with_a_fitting_object(outside: Outside) -> None:
    words = "Quiero una limpieza"

    found = json.loads(output_of(outside.ask("responses", question(words, text=structured(SCHEMA)))))

    assert set(found) == set(SCHEMA["required"])
    assert found["status"] in ("Lead", "Booked")
    assert found["priority"] in range(1, 6)
    assert found["next_action_at"].count("-") == 2
    assert found["evidence"] == [words]


def test_an_answer_longer_than_allowed_is_incomplete(outside: Outside) -> None:
    response = outside.ask("responses", question(max_output_tokens=16, reasoning={"effort": "none"})).json()

    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 16


def test_a_queue_is_said_once_and_a_text_always(outside: Outside) -> None:
    outside.control("openai", text="siempre", queue=["uno", {"text": "dos"}])

    assert [answer(outside) for _ in range(4)] == ["uno", "dos", "siempre", "siempre"]
    outside.control("openai")
    assert "DrBot" in answer(outside)


def test_a_line_may_be_for_one_customer_only(outside: Outside) -> None:
    outside.control("openai", text="factura no", match="factura")
    outside.control("openai", text="general")

    assert answer(outside, "mi factura") == "factura no"
    assert answer(outside, "hola") == "general"


def test_a_burst_counts_as_the_last_words(outside: Outside) -> None:
    outside.control("openai", text="encontrado", match="factura")
    burst = [{"role": "user", "content": "la factura"}, {"role": "user", "content": "por favor"}]

    assert output_of(outside.ask("responses", question() | {"input": burst})) == "encontrado"


@pytest.mark.parametrize(
    ("line", "status", "part"),
    [
        ({"error": "insufficient_quota"}, 429, "insufficient_quota"),
        ({"error": {"code": "server_error"}}, 500, "server_error"),
        ({"status": "failed"}, 200, '"status":"failed"'),
        ({"status": "incomplete"}, 200, '"status":"incomplete"'),
        ({"refusal": "No puedo."}, 200, '"refusal":"No puedo."'),
        ({"raw": "<html>"}, 200, "<html>"),
    ],
)
def test_a_model_can_fail_in_every_way(
    outside: Outside, line: dict[str, Any], status: int, part: str
) -> None:
    outside.control("openai", queue=[line])

    response = outside.ask("responses", question())

    assert response.status_code == status
    assert part in response.text
    assert "DrBot" in answer(outside)


def test_faults_hit_the_model_too(outside: Outside) -> None:
    outside.control("faults", target="openai", kind="http_429")
    outside.control("faults", target="openai", kind="reset")

    limited = outside.ask("responses", question())
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "1")
    with pytest.raises(httpx.ReadError):
        outside.ask("responses", question())


def test_what_was_asked_can_be_looked_up(outside: Outside) -> None:
    answer(outside, "Hola")

    (asked,) = outside.told("openai")
    assert asked["last_words"] == "Hola"
    assert asked["instructions"].strip() == INSTRUCTIONS
    assert asked["body"]["store"] is False
