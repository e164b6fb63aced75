"""One JSON object per line on stdout, as Cloud Logging reads it.

Write `log.info("fixed message", extra={"action": …, "lead_id": …})`. Phone numbers, texts and
tokens are never logged; what slips through is redacted here, which is a net and not a licence.

What happens to messages is told by `product_event`, in the same words everywhere: metrics are made of it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TextIO, TypedDict, Unpack

REDACTED = "[redacted]"
_WORD = 40  # up to here a value is remembered once it was looked through
LONGEST = 16_000  # characters of one value; Cloud Logging takes 256 KB an entry

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime"}
_PRIVATE_KEYS = re.compile(
    r"phone|token|secret|password|authorization|api_?key|signature|email|^(text|body|content|payload|raw|wa_id|to|from)$",
    re.IGNORECASE,
)
_COUNTS = re.compile(r"(^|_)tokens?_(count|used)$|_tokens$|^tokens$")
_KEPT_OR_PRIVATE = re.compile(
    r"""
    (?P<kept> \b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b        # our ids
            | \b\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)? )   # times
    | \b(bearer|basic)\s+[^\s"',]+
    | \b(sb_(secret|publishable)_|sk-|EAA|sha256=)[\w.+/=-]{8,}
    | \bwamid\.[\w+/=-]+                                            # carries the phone, in base64
    | \beyJ[\w-]{1,200}\.[\w-]+(\.[\w-]*)?
    | [\w.+-]{1,64}@[\w-]{1,63}(\.[\w-]{1,63}){1,8}
    | \+?\(?\d(?:[\s().-]{0,2}\d){7,}
    """,
    re.IGNORECASE | re.VERBOSE,
)


log = logging.getLogger(__name__)

ProductEvent = Literal[
    "whatsapp.message.received",  # customers wrote: one line for each request and number, with their count
    "whatsapp.message.sent",  # a provider took a message
    "whatsapp.window.closed",  # a message may not go as it is: 24 hours have passed
    "whatsapp.send.failed",  # a provider did not take a message, or told later that it could not deliver it
    "whatsapp.block.detected",  # a customer has probably, or surely, blocked the number
]
_LEVELS: Mapping[ProductEvent, int] = {
    "whatsapp.send.failed": logging.WARNING,
    "whatsapp.block.detected": logging.WARNING,
}
LISTED = 20  # ids in one line, at most; `count` says how many there were


class Facts(TypedDict, total=False):
    """All that a product event may say: ids of ours, words of ours and counts.

    `outcome` is what follows of a failure, as senders say it. Our ids tie the lines of a chat together; those
    of providers carry the phone number and are left out.
    """

    number_id: str | None
    provider: str | None
    chat_id: str
    chat_ids: Sequence[str]
    message_id: str
    message_ids: Sequence[str]
    count: int
    attempts: int
    outcome: str
    reason: str | None
    error_code: int | None
    level: str


@dataclass(frozen=True, slots=True)
class Trace:
    """What ties the lines of one request together."""

    request_id: str
    trace_id: str = ""
    span_id: str = ""


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def begin(headers: Mapping[str, str]) -> Trace:
    """Every line of this task carries the caller's request id from now on, or a new one."""
    trace_id, span_id = _google_trace(headers) or _w3c_trace(headers) or ("", "")
    given = headers.get("x-request-id", "")
    request_id = given if re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII) else trace_id or uuid.uuid4().hex
    trace = Trace(request_id, trace_id, span_id)
    _current.set(trace)
    return trace


def _google_trace(headers: Mapping[str, str]) -> tuple[str, str] | None:
    found = re.match(r"([0-9a-f]{32})(?:/(\d{1,20}))?", headers.get("x-cloud-trace-context", ""), re.ASCII)
    return (found[1], f"{int(found[2] or 0):016x}" if found[2] else "") if found else None


def _w3c_trace(headers: Mapping[str, str]) -> tuple[str, str] | None:
    found = re.match(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-", headers.get("traceparent", ""))
    return (found[1], found[2]) if found else None


def configure(function: str) -> None:
    """Our own loggers speak from INFO on, libraries from WARNING on (httpx would log every URL it calls)."""
    reset()
    root = logging.getLogger()
    handler = _Stdout()
    handler.setFormatter(_JsonFormatter(function))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for ours in ("shared", "main"):
        logging.getLogger(ours).setLevel(logging.INFO)


def reset() -> None:
    """Stop speaking as a function: one process may load several, one after the other, in tests."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Stdout)]:
        root.removeHandler(handler)


def product_event(name: ProductEvent, *, tenant_id: str, **facts: Unpack[Facts]) -> None:
    """Say once what happened to a message of a business."""
    listed = {key: fact[:LISTED] if isinstance(fact, list) else fact for key, fact in facts.items()}
    log.log(_LEVELS.get(name, logging.INFO), name, extra={"event": name, "tenant_id": tenant_id, **listed})


def redact(value: Any) -> Any:
    """`value` without what looks like a phone number, an address, a token or a text."""
    if isinstance(value, str):
        return _redact_word(value) if len(value) <= _WORD else _redact_text(value)
    if isinstance(value, Mapping):
        return {str(key): _redact_field(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item) for item in value]
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if abs(value) < 10_000_000 else REDACTED
    return redact(str(value))


def _redact_text(text: str) -> str:
    return _KEPT_OR_PRIVATE.sub(lambda found: found["kept"] or REDACTED, text[:LONGEST])


# the same few routes, methods and messages in every line
_redact_word = lru_cache(512)(_redact_text)


def _redact_field(key: str, value: Any) -> Any:
    return REDACTED if _is_private(key) else redact(value)


@lru_cache(512)
def _is_private(key: str) -> bool:
    return bool(_PRIVATE_KEYS.search(key)) and not _COUNTS.search(key)


class _Stdout(logging.StreamHandler[TextIO]):
    """Looks stdout up for every line: it may be replaced after the handler was made."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


class _JsonFormatter(logging.Formatter):
    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function
        self.project = os.environ.get("GOOGLE_CLOUD_PROJECT", "")

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line = redact(fields) | {
            "severity": record.levelname,
            "message": redact(record.getMessage()),
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "function": self.function,
            **self._trace(),
        }
        if record.exc_info:
            line["stack_trace"] = redact(self.formatException(record.exc_info)[-LONGEST:])
        return json.dumps(line)

    def _trace(self) -> dict[str, str]:
        trace = _current.get()
        if trace is None:
            return {}
        fields = {"request_id": trace.request_id}
        if self.project and trace.trace_id:
            fields["logging.googleapis.com/trace"] = f"projects/{self.project}/traces/{trace.trace_id}"
            if trace.span_id:
                fields["logging.googleapis.com/spanId"] = trace.span_id
        return fields
