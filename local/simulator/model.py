"""A language model as both of OpenAI's APIs see it: a question, an answer, and what it cost."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

from local.simulator import answers, openai_schema
from local.simulator.answers import Prompt
from local.simulator.script import FAILURES, Line

GONE = ("gpt-3.5-turbo", "gpt-4", "gpt-4-turbo", "gpt-4.1-nano", "o4-mini")
_CHARACTERS_PER_TOKEN = 4
_REASONING_TOKENS = {
    "none": 0,
    "minimal": 16,
    "low": 32,
    "medium": 128,
    "high": 512,
    "xhigh": 1024,
    "max": 2048,
}


class OpenAIError(Exception):
    """A request that OpenAI refuses."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @classmethod
    def of(cls, code: str) -> OpenAIError:
        status, kind, message = FAILURES[code]
        return cls(message, code=code, status=status, kind=kind)


@dataclass(frozen=True)
class Question:
    model: str
    prompt: Prompt
    limit: int | None  # output tokens
    effort: str
    schema: dict[str, Any] | None  # of a structured answer
    wants_json: bool
    body: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Said:
    """`status` is completed, incomplete or failed."""

    text: str
    refusal: str | None = None
    status: str = "completed"
    reasoning_tokens: int = 0

    @property
    def tokens(self) -> int:
        return tokens(self.refusal or self.text) + self.reasoning_tokens


def say(question: Question, line: Line, now: float) -> Said:
    if line.error:
        raise OpenAIError.of(line.error)
    if line.status == "failed":
        return Said("", status="failed")
    if line.refusal is not None:
        return Said("", refusal=line.refusal)
    text = line.text if line.text is not None else _own_words(question, now)
    said = Said(text, reasoning_tokens=_REASONING_TOKENS[question.effort])
    if line.status == "incomplete":
        return replace(said, text=text[: len(text) // 2], status="incomplete")
    return _within_limit(said, question.limit)


def tokens(text: str | int) -> int:
    return math.ceil((text if isinstance(text, int) else len(text)) / _CHARACTERS_PER_TOKEN)


def check_model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if model is None:
        raise OpenAIError(
            "Missing required parameter: 'model'.", param="model", code="missing_required_parameter"
        )
    if not isinstance(model, str) or not model:
        raise OpenAIError("Invalid type for 'model': expected a string.", param="model", code="invalid_type")
    if model in GONE:
        message = f"The model `{model}` has been shut down or you do not have access to it."
        raise OpenAIError(message, code="model_not_found", status=404)
    return model


def check_known(body: dict[str, Any], known: frozenset[str]) -> None:
    for name in body:
        if name not in known:
            raise OpenAIError(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def part(body: dict[str, Any], name: str, param: str) -> dict[str, Any]:
    """An object within the body; an empty one when it is not given."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise OpenAIError(
            f"Invalid type for '{param}': expected an object.", param=param, code="invalid_type"
        )
    return value or {}


def check_effort(value: Any, param: str) -> str:
    if value is None:
        return "medium"
    if value not in _REASONING_TOKENS:
        allowed = ", ".join(f"'{name}'" for name in _REASONING_TOKENS)
        message = f"Invalid value: '{value}'. Supported values are: {allowed}."
        raise OpenAIError(message, param=param, code="invalid_value")
    return str(value)


def check_limit(value: Any, param: str, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise OpenAIError(
            f"Invalid type for '{param}': expected an integer.", param=param, code="invalid_type"
        )
    if value < least:
        message = f"Invalid '{param}': integer below minimum value. Expected >= {least}, got {value} instead."
        raise OpenAIError(message, param=param, code="integer_below_min_value")
    return value


def check_temperature(value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
        message = "Invalid 'temperature': must be a number between 0 and 2."
        raise OpenAIError(message, param="temperature", code="invalid_value")


def check_schema(name: Any, strict: Any, schema: Any, param: str) -> dict[str, Any]:
    if not isinstance(name, str) or not name:
        raise OpenAIError(
            f"Missing required parameter: '{param}.name'.",
            param=f"{param}.name",
            code="missing_required_parameter",
        )
    wrong = openai_schema.complaint(schema) if strict else None
    if wrong or not isinstance(schema, dict):
        message = f"Invalid schema for response_format '{name}': {wrong or 'schema must be an object.'}"
        raise OpenAIError(message, param=f"{param}.schema", code="invalid_json_schema")
    return schema


def _own_words(question: Question, now: float) -> str:
    if question.schema is not None:
        return json.dumps(answers.fill(question.schema, question.prompt, now), ensure_ascii=False)
    text = answers.answer(question.prompt)
    return json.dumps({"text": text}, ensure_ascii=False) if question.wants_json else text


def _within_limit(said: Said, limit: int | None) -> Said:
    if limit is None or said.tokens <= limit:
        return said
    room = max(limit - said.reasoning_tokens, 0)
    kept = said.text[: room * _CHARACTERS_PER_TOKEN]
    return replace(said, text=kept, status="incomplete", reasoning_tokens=min(said.reasoning_tokens, limit))
