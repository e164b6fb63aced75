"""What somebody writes on a phone, in no provider's words: the one input of `/control/inbound`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from local.simulator.http import BadInputError, Fields

_MEDIA = {
    "image": "image/jpeg",
    "audio": "audio/ogg",
    "video": "video/mp4",
    "document": "application/pdf",
    "sticker": "image/webp",
}


@dataclass(frozen=True)
class Writing:
    kind: str  # text, one of the five media, button, list, location, contact, reaction, edit, revoke; or raw
    content: dict[str, Any]
    at: float
    id: str | None = None
    reply_to: str | None = None
    referral: dict[str, Any] = field(default_factory=dict)  # of an ad, as Meta words it
    context: dict[str, Any] = field(default_factory=dict)  # in the provider's own words
    forwarded: bool = False
    is_echo: bool = False  # written by the business, on its phone


def read(given: Fields, now: float) -> Writing:
    content = {name: take(given) for name, take in _CONTENTS.items() if given.raw(name) is not None}
    if len(content) != 1:
        raise BadInputError(
            f"Give `text` or `message` (a raw message object), or one of {', '.join(list(_CONTENTS)[2:])}; "
            "one of them."
        )
    ((name, value),) = content.items()
    return Writing(
        kind={"message": "raw", "media": value.get("kind", "")}.get(name, name),
        content=value,
        at=given.number("at", now),
        id=given.optional_text("id"),
        reply_to=given.optional_text("reply_to"),
        referral=given.object("referral"),
        context=given.object("context"),
        forwarded=given.flag("forwarded", False),
        is_echo=given.flag("echo", False),
    )


def _inside(name: str, take: Callable[[Fields], dict[str, Any]]) -> Callable[[Fields], dict[str, Any]]:
    def taken(given: Fields) -> dict[str, Any]:
        inner = Fields(given.object(name), f"{name}.")
        found = take(inner)
        inner.end()
        return {key: value for key, value in found.items() if value is not None}

    return taken


def _texts(*needed: str, optional: tuple[str, ...] = ()) -> Callable[[Fields], dict[str, Any]]:
    def take(given: Fields) -> dict[str, Any]:
        return {
            **{name: given.text(name) for name in needed},
            **{name: given.optional_text(name) for name in optional},
        }

    return take


def _media(given: Fields) -> dict[str, Any]:
    kind = given.choice("kind", tuple(_MEDIA))
    return {
        "kind": kind,
        "mime": given.text("mime", _MEDIA[kind]),
        "size": int(given.number("size", 1024)),
        "voice": given.flag("voice", False),
        **_texts(optional=("id", "sha256", "caption", "filename", "link"))(given),
    }


def _location(given: Fields) -> dict[str, Any]:
    return {
        "latitude": given.number("latitude", minimum=-90),
        "longitude": given.number("longitude", minimum=-180),
        **_texts(optional=("name", "address"))(given),
    }


def _reaction(given: Fields) -> dict[str, Any]:
    return {"target": given.text("target"), "emoji": given.text("emoji", "")}


_CONTENTS: dict[str, Callable[[Fields], dict[str, Any]]] = {
    "text": lambda given: {"body": given.text("text", "")},
    "message": lambda given: given.object("message"),
    "media": _inside("media", _media),
    "button": _inside("button", _texts("id", "title")),
    "list": _inside("list", _texts("id", "title", optional=("description",))),
    "location": _inside("location", _location),
    "contact": _inside("contact", _texts("name", "phone")),
    "reaction": _inside("reaction", _reaction),
    "edit": _inside("edit", _texts("target", "text")),
    "revoke": _inside("revoke", _texts("target")),
}
