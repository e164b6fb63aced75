"""What can go wrong, as one tree. A docstring is the default message; STATUS gives the HTTP answer.

RecadoError
├── BadRequestError               the caller must change the request
│   ├── BodyTooLargeError
│   └── TokenRefusedError         a provider's, which somebody entered
├── UnauthorizedError
├── ForbiddenError
├── PlanLimitError
├── NotFoundError
├── MethodNotAllowedError
├── ConflictError
├── TooManyRequestsError
├── UnavailableError              the same request may succeed later
│   ├── MissingSettingError
│   ├── DatabaseUnavailableError
│   ├── UnreachableError          nothing was sent: safe to repeat
│   └── AnswerLostError           it may have been done: repeat only what is idempotent
├── UpstreamError                 another service refused us or made no sense
├── DatabaseError                 a statement of ours failed
└── InternalError

Exceptions of httpx are translated here, once, by `http_errors`; PostgREST's answers by `database_error`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from inspect import getdoc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from httpx import Response


class RecadoError(Exception):
    """Something went wrong."""

    retry_after: int | None = None

    def __init__(self, message: str = "", *, hint: str | None = None, retry_after: int | None = None) -> None:
        self.message = message or getdoc(type(self)) or ""
        self.hint = hint
        self.retry_after = retry_after or self.retry_after
        super().__init__(self.message)

    @property
    def status(self) -> int:
        return STATUS[type(self)]

    @property
    def code(self) -> str:
        """`BodyTooLargeError` is `body_too_large`."""
        name = type(self).__name__.removesuffix("Error")
        return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")

    @property
    def report(self) -> dict[str, str | None]:
        """How a caller is told."""
        return {"code": self.code, "message": self.message, "hint": self.hint}

    @property
    def headers(self) -> Mapping[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class BadRequestError(RecadoError):
    """The request cannot be understood."""


class BodyTooLargeError(BadRequestError):
    """The body is larger than this function accepts."""

    @property
    def headers(self) -> Mapping[str, str]:
        return {"connection": "close"}  # the rest of the body stays unread


class TokenRefusedError(BadRequestError):
    """The provider does not accept this token."""


class UnauthorizedError(RecadoError):
    """The request is not signed by anyone we trust."""


class ForbiddenError(RecadoError):
    """This is not allowed."""


class PlanLimitError(RecadoError):
    """The plan does not include this."""


class NotFoundError(RecadoError):
    """There is nothing here."""


class MethodNotAllowedError(RecadoError):
    """This path does not answer that method."""

    def __init__(self, allowed: str) -> None:
        super().__init__(hint=f"Use {allowed}.")
        self.allowed = allowed

    @property
    def headers(self) -> Mapping[str, str]:
        return {"allow": self.allowed}


class ConflictError(RecadoError):
    """It is already so, or somebody else changed it first."""


class TooManyRequestsError(RecadoError):
    """Too many requests that nobody we trust has signed came from there; slow down."""

    retry_after = 30


class UnavailableError(RecadoError):
    """Something this function needs is away; try again later."""

    retry_after = 5


class MissingSettingError(UnavailableError):
    """This function is not configured."""

    retry_after = 60


class DatabaseUnavailableError(UnavailableError):
    """The database does not answer; try again later."""

    retry_after = 1


class UnreachableError(UnavailableError):
    """Another service could not be reached; nothing was sent to it."""


class AnswerLostError(UnavailableError):
    """Another service did not answer in time; it may have done what was asked."""


class UpstreamError(RecadoError):
    """Another service refused the request or answered something unreadable."""


class DatabaseError(RecadoError):
    """The database refused a statement."""


class InternalError(RecadoError):
    """Something unexpected happened."""


STATUS: Mapping[type[RecadoError], int] = {
    RecadoError: 500,
    BadRequestError: 400,
    BodyTooLargeError: 413,
    TokenRefusedError: 400,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    PlanLimitError: 402,
    NotFoundError: 404,
    MethodNotAllowedError: 405,
    ConflictError: 409,
    TooManyRequestsError: 429,
    UnavailableError: 503,
    MissingSettingError: 503,
    DatabaseUnavailableError: 503,
    UnreachableError: 503,
    AnswerLostError: 504,
    UpstreamError: 502,
    DatabaseError: 500,
    InternalError: 500,
}


# Codes of PostgREST (PGRST…), refusals of our SQL (PT…) and SQLSTATEs; below them, SQLSTATE classes.
DATABASE_CODES: Mapping[str, type[RecadoError]] = {
    "": DatabaseUnavailableError,  # how PostgREST says that it lost its connection half way
    "PGRST000": DatabaseUnavailableError,
    "PGRST001": DatabaseUnavailableError,
    "PGRST002": DatabaseUnavailableError,
    "PGRST003": DatabaseUnavailableError,
    "PT400": BadRequestError,
    "PT402": PlanLimitError,
    "PT403": ForbiddenError,
    "PT404": NotFoundError,
    "PT409": ConflictError,
    "23505": ConflictError,
    "40P01": DatabaseUnavailableError,  # deadlock: the other transaction went through
    "42501": ForbiddenError,
    "55P03": DatabaseUnavailableError,
    "57014": DatabaseUnavailableError,
}
DATABASE_CLASSES: Mapping[str, type[RecadoError]] = {
    "08": DatabaseUnavailableError,
    "53": DatabaseUnavailableError,
    "57": DatabaseUnavailableError,
    "58": DatabaseUnavailableError,  # its disk, mostly
}


def database_error(code: str | None) -> type[RecadoError]:
    """The error for PostgREST's `code`, which is the HTTP status when a proxy answered in its place."""
    code = code or ""
    if code.isdecimal() and len(code) == 3:
        return DatabaseUnavailableError if code >= "500" or code == "429" else DatabaseError
    return DATABASE_CODES.get(code) or DATABASE_CLASSES.get(code[:2]) or DatabaseError


@cache
def _http_mapping() -> tuple[tuple[type[Exception], type[RecadoError]], ...]:
    """First match wins; what is not here (a bad URL, a stream read twice) is a mistake of ours."""
    import httpx

    return (
        (httpx.ConnectError, UnreachableError),
        (httpx.ConnectTimeout, UnreachableError),
        (httpx.PoolTimeout, UnreachableError),
        (httpx.ProxyError, UnreachableError),
        (httpx.TimeoutException, AnswerLostError),
        (httpx.NetworkError, AnswerLostError),
        (httpx.RemoteProtocolError, AnswerLostError),
        (httpx.DecodingError, UpstreamError),
        (httpx.TooManyRedirects, UpstreamError),
    )


@contextmanager
def http_errors() -> Iterator[None]:
    """Translate what httpx raises; 429 and 5xx from `raise_for_status` may be tried again."""
    import httpx

    try:
        yield
    except httpx.HTTPStatusError as exc:
        raise _status_error(exc.response) from exc
    except httpx.HTTPError as exc:
        error = next((ours for theirs, ours in _http_mapping() if isinstance(exc, theirs)), None)
        if error is None:
            raise
        raise error from exc


def _status_error(response: Response) -> RecadoError:
    if response.status_code == 429 or response.status_code >= 500:
        wait = response.headers.get("retry-after", "")
        return UnavailableError(retry_after=int(wait) if wait.isdecimal() else None)
    return UpstreamError()
