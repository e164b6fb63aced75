"""Chat Completions' words for a question and an answer."""

from __future__ import annotations

import secrets
from typing import Any

from local.simulator.answers import Prompt
from local.simulator.model import (
    OpenAIError,
    Question,
    Said,
    check_effort,
    check_known,
    check_limit,
    check_model,
    check_schema,
    check_temperature,
    part,
    tokens,
)

_KNOWN = frozenset(
    [
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    ]
)
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def parse(body: dict[str, Any]) -> Question:
    check_known(body, _KNOWN)
    model = check_model(body)
    check_temperature(body.get("temperature"))
    if body.get("stream"):
        raise OpenAIError(
            "The simulator does not support 'stream'.", param="stream", code="unsupported_parameter"
        )
    schema, wants_json = _format(part(body, "response_format", "response_format"))
    newer, older = body.get("max_completion_tokens"), body.get("max_tokens")
    return Question(
        model=model,
        prompt=_prompt(body.get("messages")),
        limit=check_limit(newer, "max_completion_tokens", 1) or check_limit(older, "max_tokens", 1),
        effort=check_effort(body.get("reasoning_effort"), "reasoning_effort"),
        schema=schema,
        wants_json=wants_json,
        body=body,
    )


def answer(question: Question, said: Said, at: float) -> dict[str, Any]:
    if said.status == "failed":  # this API has no such status: it fails as a whole
        raise OpenAIError.of("server_error")
    asked = tokens(question.prompt.length)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if said.refusal else said.text,
        "refusal": said.refusal,
        "annotations": [],
    }
    reason = "length" if said.status == "incomplete" else "stop"
    return {
        "id": "chatcmpl-" + secrets.token_urlsafe(22),
        "object": "chat.completion",
        "created": int(at),
        "model": question.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": said.tokens,
            "total_tokens": asked + said.tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": said.reasoning_tokens, "audio_tokens": 0},
        },
        "service_tier": "default",
    }


def _prompt(messages: Any) -> Prompt:
    if not isinstance(messages, list) or not messages:
        raise OpenAIError(
            "Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter"
        )
    turns = [_turn(message, f"messages[{index}]") for index, message in enumerate(messages)]
    told = [text for role, text in turns if role in ("system", "developer")]
    return Prompt("\n".join(told), [turn for turn in turns if turn[0] in ("user", "assistant")])


def _turn(message: Any, param: str) -> tuple[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLES:
        allowed = ", ".join(f"'{name}'" for name in _ROLES)
        text = f"Invalid value: '{role}'. Supported values are: {allowed}."
        raise OpenAIError(text, param=f"{param}.role", code="invalid_value")
    return role, _text(message.get("content"), f"{param}.content")


def _text(content: Any, param: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(piece, dict) and "type" in piece for piece in content):
        return "\n".join(str(piece.get("text", "")) for piece in content if piece["type"] == "text")
    raise OpenAIError(
        f"Invalid type for '{param}': expected a string or a list of content parts.",
        param=param,
        code="invalid_type",
    )


def _format(chosen: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    match chosen.get("type", "text"):
        case "text":
            return None, False
        case "json_object":
            return None, True
        case "json_schema":
            param = "response_format.json_schema"
            given = part(chosen, "json_schema", param)
            return check_schema(given.get("name"), given.get("strict"), given.get("schema"), param), False
    message = "Invalid value for 'response_format.type'. Supported: 'text', 'json_object', 'json_schema'."
    raise OpenAIError(message, param="response_format.type", code="invalid_value")
