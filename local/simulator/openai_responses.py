"""The Responses API's words for a question and an answer."""

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
        "background",
        "context_management",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "moderation",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    ]
)
_ROLES = ("user", "assistant", "system", "developer")
_PARTS = {
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "input_image": "",
    "input_file": "",
}


def parse(body: dict[str, Any]) -> Question:
    check_known(body, _KNOWN)
    model = check_model(body)
    check_temperature(body.get("temperature"))
    _refuse_state(body)
    schema, wants_json = _format(part(body, "text", "text"))
    return Question(
        model=model,
        prompt=_prompt(body),
        limit=check_limit(body.get("max_output_tokens"), "max_output_tokens", 16),
        effort=check_effort(part(body, "reasoning", "reasoning").get("effort"), "reasoning.effort"),
        schema=schema,
        wants_json=wants_json,
        body=body,
    )


def answer(question: Question, said: Said, at: float) -> dict[str, Any]:
    reason = "max_output_tokens" if said.status == "incomplete" else None
    failed = said.status == "failed"
    return {
        "id": "resp_" + secrets.token_hex(24),
        "object": "response",
        "created_at": int(at),
        "status": said.status,
        "background": False,
        "error": {"code": "server_error", "message": "The model failed to generate a response."}
        if failed
        else None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": question.body.get("instructions"),
        "max_output_tokens": question.limit,
        "model": question.model,
        "output": [] if failed else _output(said),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": question.effort, "summary": None},
        "service_tier": "default",
        "store": question.body.get("store", True),
        "temperature": question.body.get("temperature", 1.0),
        "text": question.body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": question.body.get("tools", []),
        "top_p": question.body.get("top_p", 1.0),
        "truncation": question.body.get("truncation", "disabled"),
        "usage": None if failed else _usage(question, said),
        "metadata": question.body.get("metadata") or {},
    }


def _output(said: Said) -> list[dict[str, Any]]:
    """A model that reasons says so first: the message is not always output[0]."""
    content = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
    if said.refusal is not None:
        content = {"type": "refusal", "refusal": said.refusal}
    message = {
        "type": "message",
        "id": "msg_" + secrets.token_hex(24),
        "status": said.status,
        "role": "assistant",
        "content": [content],
    }
    reasoning = {"type": "reasoning", "id": "rs_" + secrets.token_hex(24), "summary": []}
    return [reasoning, message] if said.reasoning_tokens else [message]


def _usage(question: Question, said: Said) -> dict[str, Any]:
    asked = tokens(question.prompt.length)
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": said.tokens,
        "output_tokens_details": {"reasoning_tokens": said.reasoning_tokens},
        "total_tokens": asked + said.tokens,
    }


def _refuse_state(body: dict[str, Any]) -> None:
    """Nothing is kept here between calls, so nothing can be continued."""
    earlier = body.get("previous_response_id")
    if earlier is not None:
        message = f"Previous response with id '{earlier}' not found."
        raise OpenAIError(message, param="previous_response_id", code="previous_response_not_found")
    for name in ("conversation", "prompt", "background", "stream"):
        if body.get(name):
            raise OpenAIError(
                f"The simulator does not support '{name}'.", param=name, code="unsupported_parameter"
            )


def _prompt(body: dict[str, Any]) -> Prompt:
    instructions = body.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        message = "Invalid type for 'instructions': expected a string."
        raise OpenAIError(message, param="instructions", code="invalid_type")
    given = body.get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise OpenAIError(
            "Missing required parameter: 'input'.", param="input", code="missing_required_parameter"
        )
    turns = [_turn(item, f"input[{index}]") for index, item in enumerate(given)]
    told = [text for role, text in turns if role in ("system", "developer")]
    return Prompt(
        "\n".join([instructions or "", *told]), [turn for turn in turns if turn[0] in ("user", "assistant")]
    )


def _turn(item: Any, param: str) -> tuple[str, str]:
    if isinstance(item, dict) and item.get("type") in ("reasoning", "compaction"):
        return "nobody", ""
    role = item.get("role") if isinstance(item, dict) else None
    if role not in _ROLES:
        allowed = ", ".join(f"'{name}'" for name in _ROLES)
        message = f"Invalid value: '{role}'. Supported values are: {allowed}."
        raise OpenAIError(message, param=f"{param}.role", code="invalid_value")
    return role, _text(item.get("content"), role, f"{param}.content")


def _text(content: Any, role: str, param: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise OpenAIError(
            f"Invalid type for '{param}': expected a string or a list of content parts.",
            param=param,
            code="invalid_type",
        )
    return "\n".join(_piece(piece, role, f"{param}[{index}]") for index, piece in enumerate(content))


def _piece(piece: Any, role: str, param: str) -> str:
    kind = piece.get("type") if isinstance(piece, dict) else None
    fits = kind in ("output_text", "refusal") if role == "assistant" else str(kind).startswith("input_")
    if kind not in _PARTS or not fits:
        allowed = ", ".join(
            f"'{name}'" for name in _PARTS if name.startswith("input_") is not (role == "assistant")
        )
        message = f"Invalid value: '{kind}'. Supported values are: {allowed}."
        raise OpenAIError(message, param=f"{param}.type", code="invalid_value")
    return str(piece.get(_PARTS[kind], "")) if _PARTS[kind] else ""


def _format(text: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """(schema, whether any JSON will do)."""
    chosen = part(text, "format", "text.format")
    match chosen.get("type", "text"):
        case "text":
            return None, False
        case "json_object":
            return None, True
        case "json_schema":
            return check_schema(
                chosen.get("name"), chosen.get("strict"), chosen.get("schema"), "text.format"
            ), False
    message = (
        f"Invalid value: '{chosen.get('type')}'. Supported values are: 'text', 'json_object', 'json_schema'."
    )
    raise OpenAIError(message, param="text.format.type", code="invalid_value")
