"""JSON from outside: whatever comes, what is returned can be stored as jsonb."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import jsontext
from tests.conftest import Server

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.fixture
def postgres(server: Server) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        yield connection


def nested(depth: int) -> str:
    return '{"a":[' * (depth // 2) + '"bottom"' + "]}" * (depth // 2)


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (rb'"a\u0000b"', "a\ufffdb"),
        (b'"a\0b"', "a\ufffdb"),
        (rb'{"a\u0000": 1}', {"a\ufffd": 1}),
        (rb'"\ud800"', "\ufffd"),
        (rb'"\uDE00 and \ud83d\ud83d\ude00"', "\ufffd and \ufffd😀"),
        (rb'"\\ud800 \\\ud800 \\u0000"', "\\ud800 \\\ufffd \\u0000"),
        (rb'"\ud83d\ude00"', "😀"),
        (b'"\xff"', "\ufffd"),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        (b'"two\nlines"', "two\nlines"),
        (b"[NaN, Infinity, -Infinity]", ["NaN", "Infinity", "-Infinity"]),
        (b"[1e400, -1e400, 1e-400, 1.5]", ["1e400", "-1e400", 0.0, 1.5]),
        (b"[12345678901234567890, -7]", [12345678901234567890, -7]),
    ],
)
def test_what_jsonb_refuses_is_replaced(body: bytes, read: Any) -> None:
    assert jsontext.decode(body) == read


def test_a_number_of_any_length_is_kept() -> None:
    digits = "9" * 5000

    assert jsontext.decode(f"[{digits}, 1]".encode()) == [digits, 1]


def test_a_deep_part_is_cut_and_its_neighbours_stay() -> None:
    found = jsontext.decode(f'["[{{", {nested(100_000)}, "after"]'.encode())

    assert (found[0], found[2]) == ("[{", "after")
    assert "nested too deeply" in json.dumps(found[1])


def test_what_is_just_deep_enough_is_not_touched() -> None:
    assert jsontext.decode(nested(jsontext.DEEPEST).encode()) == json.loads(nested(jsontext.DEEPEST))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a"',
        b"[1,]",
        b"hello",
        b"[" * 3_000_000,
        b'{"a":' * 600_000,
        b'"' + b"[" * 200,
        rb'"\ud8"',
    ],
)
def test_what_is_not_json_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its reason is for people
        jsontext.decode(body)


@given(anything, st.booleans())
def test_what_jsonb_takes_is_read_as_it_is(document: Any, ensure_ascii: bool) -> None:
    body = json.dumps(document, ensure_ascii=ensure_ascii)
    kept = body.replace("\\u0000", "\\ufffd")
    if document == json.loads(kept):
        assert jsontext.decode(body.encode()) == document


characters = st.sampled_from(
    ["\\u0000", "\\ud83d", "\\uDE00", "\\\\", "\\n", "\n", "\0", "\ufffd", "é", "u0000", "😀"]
)
strings = st.lists(characters).map(lambda parts: f'"{"".join(parts)}"')
numbers = st.sampled_from(["NaN", "-Infinity", "1e999999", "-1e-999999", "0", "1.0", "9" * 9999])


@given(st.lists(strings | numbers))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_read_postgres_can_store(postgres: psycopg.Connection[Any], values: list[str]) -> None:
    found = jsontext.decode(f"[{','.join(values)}]".encode())

    written = json.dumps(found, ensure_ascii=False, allow_nan=False)

    stored = postgres.execute("select jsonb_array_length(%s::jsonb)", [written]).fetchone()
    assert stored == (len(values),)
