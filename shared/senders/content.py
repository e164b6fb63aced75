"""The parts of a message as the database gave them, each held to what WhatsApp takes.

All of these raise UnsendableError, before anything is asked of a provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared.events import JsonObject
from shared.senders.base import Message, UnsendableError
from shared.shapes import listing, mapping, text

TEXT_CHARACTERS = 4096
CAPTION_CHARACTERS = 1024
MEDIA = ("image", "audio", "video", "document", "sticker")
WITH_CAPTION = frozenset(("image", "video", "document"))

# Most characters at each place of Graph's interactive object.
_INTERACTIVE_CHARACTERS: Mapping[str, int] = {
    "header.text": 60,
    "body.text": 1024,
    "footer.text": 60,
    "action.buttons[].reply.id": 256,
    "action.buttons[].reply.title": 20,
    "action.button": 20,
    "action.sections[].title": 24,
    "action.sections[].rows[].id": 200,
    "action.sections[].rows[].title": 24,
    "action.sections[].rows[].description": 72,
}
_INTERACTIVE_COUNTS: Mapping[str, int] = {"action.buttons[]": 3, "action.sections[].rows[]": 10}


@dataclass(frozen=True, kw_only=True)
class Media:
    """A file by the provider's id for it, or by a link the provider fetches it from; one of them."""

    id: str | None
    link: str | None
    caption: str | None
    filename: str | None
    mime: str | None


@dataclass(frozen=True, kw_only=True)
class Template:
    name: str
    language: str
    components: list[Any]  # Graph's, filled in
    provider_template_id: str | None
    variables: dict[str, str]  # Twilio's: {"1": "Ana"}


def words(message: Message, most: int = TEXT_CHARACTERS) -> str:
    """The text of a text message."""
    return _within(message.content or "", most, "text")


def media(message: Message, with_caption: frozenset[str] = WITH_CAPTION) -> Media:
    given = mapping(message.data.get("media"))
    link, by_id = text(given.get("link")), text(given.get("id"))
    if bool(link) == bool(by_id):
        raise UnsendableError(f"The {message.type} needs either the id of its file or a link to it.")
    if link and not link.startswith("https://"):
        raise UnsendableError(f"The link to the {message.type} must start with https://.")
    return Media(
        id=by_id,
        link=link,
        caption=_caption(message, with_caption),
        filename=text(message.data.get("filename")),
        mime=text(message.data.get("mime")),
    )


def _caption(message: Message, with_caption: frozenset[str]) -> str | None:
    if not message.content:
        return None
    if message.type not in with_caption:
        raise UnsendableError(
            f"This provider shows no text with a {message.type}: send it as its own message."
        )
    return _within(message.content, CAPTION_CHARACTERS, "caption")


def template(message: Message) -> Template:
    given = mapping(message.data.get("template"))
    name, language = text(given.get("name")), text(given.get("language"))
    if not name or not language:
        raise UnsendableError("The message does not say which template it uses, in which language.")
    return Template(
        name=name,
        language=language,
        components=listing(given.get("components")),
        provider_template_id=text(given.get("provider_template_id")),
        variables={name: text(value) or "" for name, value in mapping(given.get("variables")).items()},
    )


def reaction(message: Message) -> tuple[str, str]:
    """The message reacted to, and the emoji: empty takes the reaction back."""
    target = text(message.data.get("target"))
    if not target:
        raise UnsendableError("The reaction does not say to which message.")
    return target, text(message.data.get("emoji")) or ""


def interactive(message: Message) -> JsonObject:
    """Graph's object."""
    given = mapping(message.data.get("interactive"))
    if not text(given.get("type")) or not mapping(given.get("action")):
        raise UnsendableError("The interactive message has no type or no action.")
    for place, most in _INTERACTIVE_CHARACTERS.items():
        for found in _at(given, place):
            if isinstance(found, str) and len(found) > most:
                raise UnsendableError(_too_long(place, found, most))
    for place, most in _INTERACTIVE_COUNTS.items():
        found_here = len(list(_at(given, place)))
        if found_here > most:
            raise UnsendableError(f"{place[:-2]} has {found_here} entries; WhatsApp takes {most}.")
    return given


def _at(value: Any, place: str) -> Iterator[Any]:
    """Everything at a dotted place; [] is each element of a list."""
    name, _, rest = place.partition(".")
    found = mapping(value).get(name.removesuffix("[]"))
    for each in listing(found) if name.endswith("[]") else [found]:
        yield from _at(each, rest) if rest else [each]


def _within(found: str, most: int, what: str) -> str:
    if not found.strip():
        raise UnsendableError(f"The {what} is empty.")
    if len(found) > most:
        raise UnsendableError(_too_long(f"The {what}", found, most))
    return found


def _too_long(what: str, found: str, most: int) -> str:
    return f"{what} has {len(found)} characters; it may have {most}."
