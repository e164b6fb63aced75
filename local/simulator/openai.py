"""OpenAI's API: the two ways to ask a model, strict in what they take, scriptable in what they answer."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local.simulator import model, openai_chat, openai_responses
from local.simulator.faults import Fault, faulty_answer
from local.simulator.http import Answer, Json
from local.simulator.model import OpenAIError, Question, Said
from local.simulator.outside import Outside
from local.simulator.store import dump

Parse = Callable[[dict[str, Any]], Question]
Render = Callable[[Question, Said, float], dict[str, Any]]


class OpenAI:
    def __init__(self, outside: Outside) -> None:
        self._out = outside
        outside.store.create("asked", _ASKED)

    def routes(self) -> list[Route]:
        return [
            Route("/v1/responses", self.responses, methods=["POST"]),
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
            Route("/v1/{path:path}", self.unknown, methods=["GET", "POST", "DELETE"]),
        ]

    async def responses(self, request: Request) -> Answer:
        return await self._serve(request, openai_responses.parse, openai_responses.answer)

    async def chat_completions(self, request: Request) -> Answer:
        return await self._serve(request, openai_chat.parse, openai_chat.answer)

    async def unknown(self, request: Request) -> Answer:
        return _refused(OpenAIError(f"Invalid URL ({request.method} {request.url.path})", status=404))

    def asked(self) -> list[dict[str, Any]]:
        """The last hundred requests that were understood, oldest first."""
        rows = self._out.store.rows("select * from asked order by id desc limit 100")
        return [
            {**json.loads(row["request"]), "at": self._out.clock.iso(row["at"])} for row in reversed(rows)
        ]

    def count(self) -> int:
        return int(self._out.store.value("select count(*) from asked"))

    async def _serve(self, request: Request, parse: Parse, render: Render) -> Answer:
        try:
            self._authorise(request)
            question = parse(_json(await request.body()))
            return await self._answer(request.url.path, question, render)
        except OpenAIError as refusal:
            return _refused(refusal)

    async def _answer(self, path: str, question: Question, render: Render) -> Answer:
        words = question.prompt.last_words
        self._remember(path, question)
        fault = self._out.faults.take("openai", words)
        if fault and not fault.after_accept:
            return _faulty(fault)
        line = self._out.script.next(words)
        delay = self._out.store.tuning.model_ms if line.delay_ms is None else line.delay_ms
        await asyncio.sleep(delay / 1000)
        if line.raw is not None:
            return Response(line.raw, media_type="application/json")
        said = render(question, model.say(question, line, self._out.clock.now()), self._out.clock.now())
        if fault:
            return _faulty(fault, said)
        return Json(said, headers={"x-request-id": "req_" + secrets.token_hex(16)})

    def _authorise(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            message = (
                "You didn't provide an API key. Provide it in an Authorization header using Bearer auth."
            )
            raise OpenAIError(message, status=401)
        if not hmac.compare_digest(key.strip().encode(), self._out.config.openai_api_key.encode()):
            raise OpenAIError("Incorrect API key provided.", code="invalid_api_key", status=401)

    def _remember(self, path: str, question: Question) -> None:
        request = {
            "path": path,
            "model": question.model,
            "instructions": question.prompt.instructions,
            "last_words": question.prompt.last_words,
            "body": question.body,
        }
        self._out.store.run(
            "insert into asked (at, request) values (?, ?)", self._out.clock.now(), dump(request)
        )


def _json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as exc:
        message = "We could not parse the JSON body of your request."
        raise OpenAIError(message) from exc
    if not isinstance(body, dict):
        raise OpenAIError("The JSON body of your request must be an object.")
    return body


def _refused(refusal: OpenAIError) -> Json:
    headers = {"retry-after": "1"} if refusal.status in (429, 503) else {}
    return Json(refusal.body, refusal.status, {**headers, "x-request-id": "req_" + secrets.token_hex(16)})


def _faulty(fault: Fault, said: dict[str, Any] | None = None) -> Answer:
    def refusal(status: int) -> tuple[int, object]:
        return status, OpenAIError.of("rate_limit_exceeded" if status == 429 else "server_error").body

    return faulty_answer(fault, refusal, broken=500, busy=429, accepted=said)


_ASKED = "create table if not exists asked (id integer primary key, at real not null, request text not null)"
