"""What the model is told to say: next, or always, and to whom."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from local.simulator.http import BadInputError, Fields
from local.simulator.store import Row, Store, dump

# code: (HTTP status, type, message), as OpenAI answers
FAILURES: dict[str, tuple[int, str, str]] = {
    "server_error": (
        500,
        "server_error",
        "The server had an error while processing your request. Sorry about that!",
    ),
    "rate_limit_exceeded": (429, "requests", "Rate limit reached for requests. Please try again in 1s."),
    "insufficient_quota": (
        429,
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "invalid_api_key": (401, "invalid_request_error", "Incorrect API key provided."),
    "context_length_exceeded": (
        400,
        "invalid_request_error",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
    ),
    "overloaded": (503, "server_error", "The engine is currently overloaded, please try again later."),
}
_STATUSES = ("incomplete", "failed")


@dataclass(frozen=True)
class Line:
    """One answer. Nothing given means what the model would have said by itself."""

    text: str | None = None
    refusal: str | None = None
    status: str | None = None
    error: str | None = None  # a key of FAILURES
    raw: str | None = None  # the body of a 200, whatever it is
    delay_ms: float | None = None


class Script:
    def __init__(self, store: Store) -> None:
        self._store = store
        store.create("script", _SCRIPT)

    def say(self, line: Line, match: str, *, always: bool) -> None:
        if always:
            self._store.run("delete from script where always and match = ?", dump(match))
        entry = dump({key: value for key, value in vars(line).items() if value is not None})
        self._store.run(
            "insert into script (match, always, line) values (?, ?, ?)", dump(match), always, entry
        )

    def stop(self) -> None:
        self._store.run("delete from script")

    def next(self, last_words: str) -> Line:
        """A queued line is used up; one that is said always stays. The more particular goes first."""
        rows = self._store.rows("select * from script order by always, match = '\"\"', id")
        row = next((row for row in rows if json.loads(row["match"]) in last_words), None)
        if row is None:
            return Line()
        if not row["always"]:
            self._store.run("delete from script where id = ?", row["id"])
        return Line(**json.loads(row["line"]))

    def lines(self) -> list[dict[str, Any]]:
        return [_shown(row) for row in self._store.rows("select * from script order by id")]


def parse(data: Any) -> Line:
    """A text, or an object with one of text, refusal, status, error, raw, and perhaps delay_ms."""
    if isinstance(data, str):
        return Line(text=data)
    if not isinstance(data, dict):
        raise BadInputError("An answer must be a text or an object with text, refusal, status, error or raw.")
    fields = Fields(data)
    line = Line(
        text=fields.optional_text("text"),
        refusal=fields.optional_text("refusal"),
        status=fields.choice("status", _STATUSES) if fields.raw("status") is not None else None,
        error=_error(data["error"]) if fields.raw("error") is not None else None,
        raw=fields.text("raw", "") if fields.raw("raw") is not None else None,
        delay_ms=fields.number("delay_ms") if fields.raw("delay_ms") is not None else None,
    )
    fields.end()
    given = [
        name for name in ("text", "refusal", "status", "error", "raw") if getattr(line, name) is not None
    ]
    if len(given) > 1 and given != ["text", "status"]:
        raise BadInputError(f"Only one of {', '.join(given)} can be answered.")
    return line


def _error(value: Any) -> str:
    code = value.get("code") if isinstance(value, dict) else value
    if code not in FAILURES:
        raise BadInputError(f"`error` is {code!r}; allowed: {', '.join(FAILURES)}.")
    return str(code)


def _shown(row: Row) -> dict[str, Any]:
    return {
        **json.loads(row["line"]),
        "match": json.loads(row["match"]),
        "always": bool(row["always"]),
    }


_SCRIPT = """create table if not exists script (
    id integer primary key, match text not null, always int not null, line text not null)"""
