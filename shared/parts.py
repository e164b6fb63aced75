"""Large deliveries in parts: a payload of thousands of events would keep everybody else waiting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

from shared import shapes
from shared.events import JsonObject

PART = 50  # items of a payload

T = TypeVar("T")
_Old = tuple[
    JsonObject, Any, Any
]  # chunk of history, thread of it, message of that; None where there is none


def split(document: JsonObject, names: Iterable[str], history: str = "") -> Iterator[JsonObject]:
    """The document with at most PART of the items in its lists `names`: itself, if it has no more.

    `history` names a list of chunks of threads of messages, whose items are the messages.
    """
    flat = [(name, item) for name in names for item in shapes.listing(document.get(name))]
    old = list(_flattened(document.get(history)))
    if len(flat) + len(old) <= PART:
        yield document
        return
    rest = {name: held for name, held in document.items() if name not in {*names, history}}
    for some in _batches(flat):
        yield rest | {name: [item for _, item in group] for name, group in groupby(some, lambda one: one[0])}
    for few in _batches(old):
        yield rest | {history: [_chunk(list(group)) for _, group in groupby(few, lambda one: id(one[0]))]}


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + PART] for start in range(0, len(items), PART))


def _flattened(history: Any) -> Iterator[_Old]:
    for chunk in shapes.listing(history):
        threads = shapes.listing(shapes.mapping(chunk).get("threads"))
        for thread in threads or [None]:
            for message in shapes.listing(shapes.mapping(thread).get("messages")) or [None]:
                yield chunk, thread, message


def _chunk(items: list[_Old]) -> Any:
    chunk = items[0][0]
    threads = [list(group) for _, group in groupby(items, lambda one: id(one[1]))]
    if not shapes.mapping(chunk).get("threads"):
        return chunk
    return {**chunk, "threads": [_thread(group) for group in threads]}


def _thread(items: list[_Old]) -> Any:
    thread = items[0][1]
    if not shapes.mapping(thread).get("messages"):
        return thread
    return {**thread, "messages": [message for _, _, message in items]}
