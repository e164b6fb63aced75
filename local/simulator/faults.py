"""Bad days on order: what goes wrong, how often, and for whom."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from local.simulator.http import Answer, BadInputError, Fields, Hang, Json, Reset, Truncated
from local.simulator.store import Row, Store

_RESPONSES = ("http_500", "http_503", "http_429", "timeout", "reset", "truncated")
# what may happen to which part of the outside world
TARGETS = {
    "graph.send": (*_RESPONSES, "code:<n>"),
    "graph.read": (*_RESPONSES, "code:<n>"),
    "openai": _RESPONSES,
    "webhook.status": ("drop_status", "only_sent", "only_delivered", "duplicate", "code:<n>"),
}


@dataclass(frozen=True)
class Fault:
    target: str
    kind: str
    times: int = 1
    after_accept: bool = False  # it happens to the answer: the request has been carried out
    match: str = ""  # only what contains this text
    seconds: float = 120  # how long a timeout holds the connection

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
            "insert into fault (target, kind, times, after_accept, match, seconds) values (?, ?, ?, ?, ?, ?)",
            fault.target,
            fault.kind,
            fault.times,
            fault.after_accept,
            fault.match,
            fault.seconds,
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
    )
    fields.end()
    return fault


def plain_answer(fault: Fault, bodies: dict[int, object]) -> Answer:
    """The answer for a fault of the transport or the server; `bodies` are the provider's for 500 and 429."""
    if fault.kind == "timeout":
        return Hang(fault.seconds)
    if fault.kind == "reset":
        return Reset()
    if fault.kind == "truncated":
        return Truncated(json.dumps(bodies[500]).encode())
    status = int(fault.kind.removeprefix("http_"))
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return Json(bodies[429 if status == 429 else 500], status, headers)


def _fault(row: Row) -> Fault:
    return Fault(
        row["target"], row["kind"], row["times"], bool(row["after_accept"]), row["match"], row["seconds"]
    )


_FAULT = """create table if not exists fault (
    id integer primary key, target text not null, kind text not null, times int not null,
    after_accept int not null, match text not null, seconds real not null)"""
