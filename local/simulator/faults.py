"""Bad days on order: what goes wrong, how often, and for whom."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import Response

from local.simulator.http import Answer, BadInputError, Fields, Hang, Json, Reset, Truncated
from local.simulator.store import Row, Store

_CUT = ("timeout", "reset", "truncated")
_RESPONSES = ("http_500", "http_503", "http_429", *_CUT)
_PROVIDERS = (*_RESPONSES, "garbage", "ok_with_error", "code:<n>")
# what may happen to which part of the outside world
TARGETS = {
    **{
        f"{provider}.{what}": _PROVIDERS
        for provider in ("graph", "whapi", "twilio")
        for what in ("send", "read")  # a message; anything else that is asked
    },
    "graph.accounts": _PROVIDERS,
    "openai": _RESPONSES,
    "webhook": ("drop", "duplicate", "delay", "reorder"),
    "webhook.status": ("drop_status", "only_sent", "only_delivered", "duplicate", "reorder", "code:<n>"),
}
# HTTP status and body of a provider's own error
Refusal = Callable[[int], tuple[int, object]]


@dataclass(frozen=True)
class Fault:
    target: str
    kind: str
    times: int = 1
    after_accept: bool = False  # it happens to the answer: the request has been carried out
    match: str = ""  # only what contains this text
    seconds: float = 120  # how long a timeout holds the connection, or a delay what it delays
    retry_after: float = 1  # what a 429 or 503 asks for; 0: it does not say

    @property
    def code(self) -> int | None:
        """The provider's own error code, if the fault is one."""
        return int(self.kind.removeprefix("code:")) if self.kind.startswith("code:") else None


class Faults:
    def __init__(self, store: Store) -> None:
        self._store = store
        store.create("fault", _FAULT)

    def order(self, fault: Fault) -> None:
        self._store.run(
            """insert into fault (target, kind, times, after_accept, match, seconds, retry_after)
            values (?, ?, ?, ?, ?, ?, ?)""",
            *vars(fault).values(),
        )

    def take(self, target: str, subject: str) -> Fault | None:
        """The oldest fault that applies, used up by one."""
        row = self._store.row(
            "select * from fault where target = ? and times > 0 and instr(?, match) order by id limit 1",
            target,
            subject.encode(errors="replace").decode(),
        )
        if row is None:
            return None
        self._store.run("update fault set times = times - 1 where id = ?", row["id"])
        self._store.run("delete from fault where times = 0")
        return _fault(row)

    def ordered(self) -> list[Fault]:
        return [_fault(row) for row in self._store.rows("select * from fault order by id")]

    def cancel(self, target: str) -> int:
        return self._store.run("delete from fault where target = ?", target)


def parse(fields: Fields) -> Fault:
    target = fields.choice("target", tuple(TARGETS))
    kind = fields.text("kind")
    if re.sub(r"^code:\d{1,7}$", "code:<n>", kind) not in TARGETS[target]:
        raise BadInputError(f"`kind` is {kind!r}; allowed for {target}: {', '.join(TARGETS[target])}.")
    fault = Fault(
        target=target,
        kind=kind,
        times=int(fields.number("times", 1, minimum=1)),
        after_accept=fields.flag("after_accept", False),
        match=fields.text("match", ""),
        seconds=fields.number("seconds", 120),
        retry_after=fields.number("retry_after", 1),
    )
    fields.end()
    return fault


def faulty_answer(
    fault: Fault, refusal: Refusal, *, broken: int, busy: int, accepted: object | None = None
) -> Answer:
    """In place of the right answer; `broken` and `busy` are the provider's codes for a 500 and a 429."""
    if fault.kind in _CUT:
        return _cut(fault, refusal(broken)[1] if accepted is None else accepted)
    if fault.kind == "garbage":
        return Response("<html><body>Bad gateway</body></html>", 200, media_type="text/html")
    if fault.kind == "ok_with_error":
        return Json(refusal(broken)[1])
    if fault.code is not None:
        status, body = refusal(fault.code)
        return Json(body, status, _patience(fault) if status == 429 else None)
    status = int(fault.kind.removeprefix("http_"))
    return Json(refusal(busy if status == 429 else broken)[1], status, _patience(fault))


def _cut(fault: Fault, whole: object) -> Answer:
    if fault.kind == "timeout":
        return Hang(fault.seconds)
    return Reset() if fault.kind == "reset" else Truncated(json.dumps(whole).encode())


def _patience(fault: Fault) -> dict[str, str] | None:
    asks = fault.retry_after and fault.kind != "http_500"
    return {"retry-after": f"{fault.retry_after:g}"} if asks else None


def _fault(row: Row) -> Fault:
    fields = {key: row[key] for key in row.keys() if key != "id"}  # noqa: SIM118  # a Row iterates its values
    return Fault(**{**fields, "after_accept": bool(row["after_accept"])})


_FAULT = """create table if not exists fault (
    id integer primary key, target text not null, kind text not null, times int not null,
    after_accept int not null, match text not null, seconds real not null, retry_after real not null)"""
