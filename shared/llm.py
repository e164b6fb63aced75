"""The one door to language models: a question in our own words, and an answer or why there is none.

The openai library carries the request and names what went wrong; what comes back is read here, because other
servers answer in shapes its types do not expect. Importing it takes half a second: that is done at first use,
or ahead of it by `warm`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from shared import jsontext
from shared.events import JsonObject
from shared.options import Number, Option
from shared.settings import Setting, Settings
from shared.shapes import count, listing, mapping, text

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

CONNECT_SECONDS = 5.0
LONGEST_PAUSE = 120  # seconds; a provider may ask for hours, by then a person should have looked

_NEVER_BETTER = {400, 401, 403, 404, 405, 413, 422}
_UNKNOWN_TO_THEM = {401, 403}
_OUT_OF_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_PASSING = {"server_error", "rate_limit_exceeded"}
_LAST_SENTENCE = re.compile(r".*(?:[.!?…](?=\s|$)|\n)", re.DOTALL)


class LlmSettings(Settings):
    openai_api_key = Setting("pays for the model's answers; any word for a server that wants none")
    openai_base_url = Option("where the model is asked", "https://api.openai.com/v1")
    llm_api = Option("responses, or chat for servers that only know Chat Completions", "responses")
    llm_effort = Option("how long the model thinks: none, low, …; default leaves it to the model", "none")
    llm_seconds = Number("how long an answer may take", 25)


@dataclass(frozen=True, slots=True)
class Turn:
    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Question:
    model: str
    instructions: str
    turns: Sequence[Turn]
    max_tokens: int
    temperature: float | None = None
    prompt_key: str  # the same for questions that begin alike
    asker: str  # for whom: an id of ours, never a phone
    form: Form | None = None  # None: the answer is prose


@dataclass(frozen=True, slots=True)
class Form:
    """The shape an answer must have; `schema` keeps to the subset that strict outputs accept."""

    name: str
    schema: JsonObject


@dataclass(frozen=True, slots=True)
class Usage:
    """`output_tokens` contain the reasoning."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    usage: Usage | None
    response_id: str | None
    latency_ms: int


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """`is_final`: asking again would not help. What it took is known even then.

    `is_barred`: the provider wants money first or does not know our key, and would say so to every question.
    `is_passing`: nothing was said at all, and may be later.
    """

    reason: str
    is_final: bool = False
    retry_after: int | None = None
    usage: Usage | None = None
    is_barred: bool = False
    is_passing: bool = False
    response_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Said:
    """What any API tells about an answer."""

    text: str
    is_refusal: bool
    cut_by: str | None  # length, filter, or an error code
    usage: Usage | None
    id: str | None


@dataclass(frozen=True, slots=True)
class _Api:
    path: str
    ask: Callable[[Question, str], JsonObject]
    read: Callable[[JsonObject], _Said]


class Llm:
    """One for each process; its client belongs to the event loop that asks first."""

    def __init__(self, settings: LlmSettings, http_client: Any = None) -> None:
        self._settings = settings
        self._http_client = http_client

    async def warm(self) -> None:
        """Import what asking needs while there is still time."""
        await asyncio.to_thread(__import__, "openai")

    async def reply(self, question: Question) -> Answer | NoAnswer:
        """Never raises for anything that a provider or a network does."""
        import openai

        api = _APIS.get(self._settings.llm_api, _APIS["responses"])
        body = api.ask(question, self._settings.llm_effort)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.llm_seconds):
                content = await self._post(api.path, body)
            said = api.read(mapping(jsontext.decode(content)))
        except TimeoutError:
            return NoAnswer("The model did not answer in time.", is_passing=True)
        except openai.APIError as exc:
            return _failure(exc)
        except ValueError:
            return NoAnswer("The model's answer made no sense.")
        return _judge(said, round((time.perf_counter() - started) * 1000), is_prose=question.form is None)

    async def _post(self, path: str, body: JsonObject) -> bytes:
        import httpx2

        response = await self._client.post(path, cast_to=httpx2.Response, body=body)
        return response.content

    @cached_property
    def _client(self) -> AsyncOpenAI:
        import httpx2
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=self._settings.openai_api_key,
            base_url=self._settings.openai_base_url,
            timeout=httpx2.Timeout(self._settings.llm_seconds, connect=CONNECT_SECONDS),
            max_retries=0,  # the queue tries again, knows Retry-After, and does not sleep in between
            http_client=self._http_client,
        )


def alias(*ids: str) -> str:
    """A stable name for things of ours that says nothing about them."""
    return hashlib.sha256(":".join(ids).encode()).hexdigest()[:40]


def run_of(question: Question, purpose: str, answer: Answer | NoAnswer) -> JsonObject | None:
    """What asking took, as the database keeps it, once for each `response_id`; None when nobody said."""
    if answer.usage is None:
        return None
    tokens = {name: getattr(answer.usage, name) for name in Usage.__slots__}
    known_by = {"response_id": answer.response_id or f"run-{uuid.uuid4()}"}  # some servers give none
    run = {"purpose": purpose, "model": question.model, **tokens, **known_by}
    return run | ({"latency_ms": answer.latency_ms} if isinstance(answer, Answer) else {})


def _ask_responses(question: Question, effort: str) -> JsonObject:
    return {
        "model": question.model,
        "instructions": question.instructions,
        "input": [{"role": turn.role, "content": turn.text} for turn in question.turns],
        "max_output_tokens": question.max_tokens,
        "store": False,
        "prompt_cache_key": question.prompt_key,
        "safety_identifier": question.asker,
        **({} if question.temperature is None else {"temperature": question.temperature}),
        **({} if effort == "default" else {"reasoning": {"effort": effort}}),
        **({"text": {"format": {"type": "json_schema", **_form(question.form)}}} if question.form else {}),
    }


def _form(form: Form) -> JsonObject:
    return {"name": form.name, "strict": True, "schema": form.schema}


def _read_responses(body: JsonObject) -> _Said:
    if not isinstance(body.get("output"), list):
        raise ValueError("no output")
    messages = [item for item in map(mapping, body["output"]) if item.get("type") == "message"]
    parts = [mapping(part) for message in messages for part in listing(message.get("content"))]
    usage = mapping(body.get("usage"))
    return _Said(
        text="".join(text(part.get("text")) or "" for part in parts if part.get("type") == "output_text"),
        is_refusal=any(part.get("type") == "refusal" for part in parts),
        cut_by=_cut_by(body),
        usage=_usage(usage, "input", "output"),
        id=text(body.get("id")),
    )


def _cut_by(body: JsonObject) -> str | None:
    match body.get("status"):
        case "failed":
            return text(mapping(body.get("error")).get("code")) or "server_error"
        case "incomplete":
            reason = mapping(body.get("incomplete_details")).get("reason")
            return "filter" if reason == "content_filter" else "length"
    return None


def _ask_chat(question: Question, effort: str) -> JsonObject:
    """Only what every server understands: some refuse a request for a key they do not know."""
    turns = [{"role": turn.role, "content": turn.text} for turn in question.turns]
    return {
        "model": question.model,
        "messages": [{"role": "system", "content": question.instructions}, *turns],
        "max_tokens": question.max_tokens,
        **({} if question.temperature is None else {"temperature": question.temperature}),
        **(
            {"response_format": {"type": "json_schema", "json_schema": _form(question.form)}}
            if question.form
            else {}
        ),
    }


def _read_chat(body: JsonObject) -> _Said:
    choices = listing(body.get("choices"))
    if not choices:
        raise ValueError("no choices")
    choice = mapping(choices[0])
    message = mapping(choice.get("message"))
    ends = {"length": "length", "content_filter": "filter"}
    return _Said(
        text=text(message.get("content")) or "",
        is_refusal=bool(message.get("refusal")),
        cut_by=ends.get(str(choice.get("finish_reason"))),
        usage=_usage(mapping(body.get("usage")), "prompt", "completion"),
        id=text(body.get("id")),
    )


_APIS: Mapping[str, _Api] = {
    "responses": _Api("/responses", _ask_responses, _read_responses),
    "chat": _Api("/chat/completions", _ask_chat, _read_chat),
}


def _usage(given: JsonObject, asked: str, answered: str) -> Usage | None:
    """Other servers leave it out, or parts of it."""
    input_tokens = count(given.get(f"{asked}_tokens"), 9)
    output_tokens = count(given.get(f"{answered}_tokens"), 9)
    if input_tokens is None or output_tokens is None:
        return None
    cached = mapping(given.get(f"{asked}_tokens_details")).get("cached_tokens")
    reasoning = mapping(given.get(f"{answered}_tokens_details")).get("reasoning_tokens")
    return Usage(input_tokens, count(cached, 9) or 0, output_tokens, count(reasoning, 9) or 0)


def _judge(said: _Said, latency_ms: int, *, is_prose: bool) -> Answer | NoAnswer:
    """Is it something to go on with? Of prose that was cut off, whole sentences are; of a form, nothing."""
    words = said.text.strip()
    nothing = partial(NoAnswer, usage=said.usage, response_id=said.id)
    if said.is_refusal:
        return nothing("The model refused to answer.", is_final=True)
    if said.cut_by == "filter":
        return nothing("The model's content filter held the answer back.", is_final=True)
    if said.cut_by == "length" and not is_prose:
        return nothing("The model's answer was cut off.")
    if said.cut_by == "length":
        found = _LAST_SENTENCE.match(words)
        words = found.group().strip() if found else ""
    elif said.cut_by:
        is_final = said.cut_by not in _PASSING
        return nothing(f"The model gave up: {said.cut_by}.", is_final=is_final)
    if not words:
        return nothing("The model had nothing to say.")
    return Answer(words, said.usage, said.id, latency_ms)


def _failure(error: APIError) -> NoAnswer:
    """The one place that knows which of openai's errors may pass."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return NoAnswer("The model did not answer in time.", is_passing=True)
    if isinstance(error, openai.APIStatusError):
        is_final = error.code in _OUT_OF_MONEY or error.status_code in _NEVER_BETTER
        why = error.code or f"HTTP {error.status_code}"
        return NoAnswer(
            f"The model's provider refused: {why}.",
            is_final,
            _retry_after(error),
            is_barred=error.code in _OUT_OF_MONEY or error.status_code in _UNKNOWN_TO_THEM,
            is_passing=not is_final,
        )
    if isinstance(error, openai.APIConnectionError):
        return NoAnswer("The model could not be reached.", is_passing=True)
    return NoAnswer("The model's answer made no sense.")


def _retry_after(error: Any) -> int | None:
    seconds = count(error.response.headers.get("retry-after"), 9)
    return None if seconds is None else min(max(seconds, 1), LONGEST_PAUSE)
