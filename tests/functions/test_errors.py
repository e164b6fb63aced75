"""The error tree: complete, told to the caller with its status, and the only one that leaves shared/."""

from __future__ import annotations

import inspect

import httpx
import pytest

from shared import errors
from shared.errors import (
    STATUS,
    AnswerLostError,
    BadRequestError,
    BodyTooLargeError,
    ConflictError,
    DatabaseError,
    DatabaseUnavailableError,
    ForbiddenError,
    PlanLimitError,
    RecadoError,
    UnavailableError,
    UnreachableError,
    UpstreamError,
    database_error,
    http_errors,
)

TREE = {
    thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, RecadoError)
}
REQUEST = httpx.Request("GET", "https://graph.example/")

# Raised for what we wrote, not for what the network did: these must be seen as the mistakes they are.
OUR_MISTAKES = {
    httpx.CookieConflict,
    httpx.InvalidURL,
    httpx.LocalProtocolError,
    httpx.RequestNotRead,
    httpx.ResponseNotRead,
    httpx.StreamClosed,
    httpx.StreamConsumed,
    httpx.StreamError,
    httpx.UnsupportedProtocol,
}
# Only their subclasses are raised.
FAMILIES = {httpx.HTTPError, httpx.RequestError, httpx.TransportError, httpx.ProtocolError}


def test_every_error_has_a_status_a_message_and_a_place_in_the_drawing() -> None:
    drawn = inspect.getdoc(errors) or ""

    assert set(STATUS) == TREE
    assert all(error.__doc__ for error in TREE)
    assert all(error.__name__ in drawn for error in TREE)


def test_the_docstring_is_the_message_and_the_name_is_the_code() -> None:
    assert str(PlanLimitError()) == "The plan does not include this."
    assert (BodyTooLargeError().code, BodyTooLargeError().status) == ("body_too_large", 413)


def test_every_exception_of_httpx_is_translated_or_known_as_ours() -> None:
    raised = {
        thing for thing in vars(httpx).values() if isinstance(thing, type) and issubclass(thing, Exception)
    }
    untranslated = {theirs for theirs in raised - {httpx.HTTPStatusError} if not _is_translated(theirs)}

    assert untranslated == OUR_MISTAKES | FAMILIES


def _is_translated(theirs: type[Exception]) -> bool:
    return any(issubclass(theirs, mapped) for mapped, _ours in errors._http_mapping())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (httpx.ConnectError, UnreachableError),
        (httpx.ConnectTimeout, UnreachableError),
        (httpx.PoolTimeout, UnreachableError),
        (httpx.ReadTimeout, AnswerLostError),
        (httpx.WriteError, AnswerLostError),
        (httpx.RemoteProtocolError, AnswerLostError),
        (httpx.DecodingError, UpstreamError),
    ],
)
def test_what_was_never_sent_is_told_from_what_may_have_been_done(
    theirs: type[httpx.RequestError], ours: type[RecadoError]
) -> None:
    with pytest.raises(RecadoError) as caught, http_errors():
        raise theirs("no", request=REQUEST)

    assert type(caught.value) is ours
    assert isinstance(caught.value.__cause__, theirs)


def test_a_mistake_of_ours_is_not_dressed_up() -> None:
    with pytest.raises(httpx.UnsupportedProtocol), http_errors():
        raise httpx.UnsupportedProtocol("no", request=REQUEST)


@pytest.mark.parametrize(
    ("status", "retry_after", "error", "wait"),
    [
        (429, "30", UnavailableError, 30),
        (503, "", UnavailableError, 5),
        (503, "Fri, 20 Nov 2026 10:00:00 GMT", UnavailableError, 5),
        (400, "", UpstreamError, None),
    ],
)
def test_a_refusal_of_another_service_keeps_how_long_to_wait(
    status: int, retry_after: str, error: type[RecadoError], wait: int | None
) -> None:
    response = httpx.Response(status, request=REQUEST, headers={"retry-after": retry_after})

    with pytest.raises(error) as caught, http_errors():
        response.raise_for_status()

    assert caught.value.retry_after == wait


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        ("PT400", BadRequestError),
        ("PT402", PlanLimitError),
        ("PT403", ForbiddenError),
        ("PT409", ConflictError),
        ("23505", ConflictError),
        ("42501", ForbiddenError),
        ("40P01", DatabaseUnavailableError),
        ("53100", DatabaseUnavailableError),
        ("57P01", DatabaseUnavailableError),
        ("58030", DatabaseUnavailableError),
        ("08006", DatabaseUnavailableError),
        ("PGRST001", DatabaseUnavailableError),
        ("", DatabaseUnavailableError),
        (None, DatabaseUnavailableError),
        ("502", DatabaseUnavailableError),
        ("429", DatabaseUnavailableError),
        ("404", DatabaseError),
        ("PGRST202", DatabaseError),
        ("22P02", DatabaseError),
    ],
)
def test_the_database_is_understood_by_its_code(code: str | None, ours: type[RecadoError]) -> None:
    assert database_error(code) is ours
