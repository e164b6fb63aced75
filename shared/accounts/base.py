"""Asking a provider about an account: a request, its answer as JSON, and what all providers agree on.

Tokens are in what is sent here. Nothing of a request is logged, and no provider's words reach our errors
before `without` took every token out of them: Meta quotes a token that it cannot read.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from shared.errors import (
    BadRequestError,
    UnavailableError,
    UnreachableError,
    UpstreamError,
    http_errors,
)
from shared.events import JsonObject
from shared.options import Number
from shared.outward import client
from shared.settings import Settings
from shared.shapes import mapping

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
PAUSES = (0.3, 1.0)  # before another attempt
LONGEST_TOKEN = 2000

_TOKEN = re.compile(rf"[!-~]{{1,{LONGEST_TOKEN}}}")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: JsonObject

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


Judge = Callable[[Answer, Sequence[str]], JsonObject]


class Api:
    """A provider's HTTP API at one fixed address; what people enter is in a path only if `ident` took it.

    `judge` is the provider's reading of an answer, given the secrets it must not repeat: what was asked for,
    or an error of ours.
    """

    def __init__(
        self, base_url: str, seconds: float, judge: Judge, transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._base_url = base_url.rstrip("/") + "/"
        self._seconds = seconds
        self._judge = judge
        self._transport = transport

    async def call(
        self, method: str, path: str, *, hide: Sequence[str], once: bool = False, **request: Any
    ) -> JsonObject:
        """What was asked for. UnavailableError: not now, and two more attempts were in vain.

        What may have been done although the answer was lost is asked again, unless it counts: then `once`.
        """
        for pause in PAUSES:
            try:
                return await self._attempt(method, path, hide, request)
            except UnavailableError as exc:
                if once and not isinstance(exc, UnreachableError):
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
        return await self._attempt(method, path, hide, request)

    async def _attempt(
        self, method: str, path: str, hide: Sequence[str], request: Mapping[str, Any]
    ) -> JsonObject:
        with http_errors():
            response = await self._http.request(method, path, **request)
        body = _object(response)
        if response.status_code == 429 or response.status_code >= 500:
            raise UnavailableError("The provider cannot answer now.", hint="Try again in a minute.")
        if body is None:
            raise UpstreamError("The provider answered something that is not JSON.", hint="Try again later.")
        return self._judge(Answer(response.status_code, body), hide)

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        import httpx

        return client(
            self._base_url,
            timeout=httpx.Timeout(self._seconds, connect=CONNECT_SECONDS),
            transport=self._transport,
            trust_env=False,
        )


def _object(response: httpx.Response) -> JsonObject | None:
    """Nothing at all is an empty object."""
    if not response.content:
        return {}
    try:
        return mapping(json.loads(response.content))
    except ValueError:
        return None


class AccountSettings(Settings):
    accounts_seconds = Number("how long a provider may take to answer about an account", 15)


# What a number is connected with, and what comes of it


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A number whose owner holds the token; `number` is what channel_connect takes."""

    number: JsonObject
    token: str = field(repr=False)
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    extra: str | None = field(repr=False, default=None)  # what set_up must know besides


@dataclass(frozen=True, kw_only=True)
class Made:
    """The number as our database has it now, and what its provider is to be told."""

    number_id: str
    webhook_url: str
    webhook_secret: str | None = field(repr=False, default=None)
    needs_sync: bool = False


@dataclass(frozen=True, kw_only=True)
class Setup:
    """`next_step`: what a person must still do at the provider, in one sentence."""

    next_step: str | None = None
    is_synced: bool = False


class Provider(Protocol):
    """`wanted` is the request of a person: any JSON object."""

    async def prove(self, wanted: JsonObject) -> Proof:
        """Whose is it? Raises unless the provider itself says that the number is the token's."""

    def webhook_path(self, number_id: str) -> str: ...

    async def set_up(self, proof: Proof, made: Made) -> Setup:
        """Tell the provider where to deliver. May be repeated."""


# Reading what people enter


def ident(wanted: JsonObject, name: str, pattern: str, example: str) -> str:
    """An id, safe to be part of a path."""
    value = wanted.get(name)
    found = str(value).strip() if isinstance(value, str | int) else ""
    if not re.fullmatch(pattern, found, re.ASCII):
        raise BadRequestError(f"{name} is missing or wrong.", hint=f"It looks like {example}.")
    return found


def secret(wanted: JsonObject, name: str) -> str:
    """A token as it was pasted."""
    value = wanted.get(name)
    found = value.strip() if isinstance(value, str) else ""
    if not _TOKEN.fullmatch(found):
        raise BadRequestError(f"{name} is missing or wrong.", hint="Paste it without spaces or line breaks.")
    return found


def without(words: str, secrets: Sequence[str]) -> str:
    """A provider's words without the tokens it may have quoted, and not too many of them."""
    for one in secrets:
        words = words.replace(one, "…") if one else words
    return words[:300]
