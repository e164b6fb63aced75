"""Whapi, for numbers linked like WhatsApp Web: no window, no templates, no price.

It takes no id of ours and has no idempotency key. After an unknown send only the chat itself tells: the
message comes back by webhook as one of our own (`from_me`), or it does not; a person compares before sending
it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from shared.events import JsonObject
from shared.senders import content
from shared.senders.base import Capability, Credentials, Message, Result, UnsendableError
from shared.senders.gestures import ChatFacts, Inbound
from shared.senders.http import Answer, Ask, Door, as_json, refused, secret, segment
from shared.senders.reactions import Reaction, reaction_to
from shared.senders.settings import WhapiSettings
from shared.shapes import count, listing, mapping, text

if TYPE_CHECKING:
    import httpx

# Its codes are HTTP's. 500 says nothing about whether the message left before it.
ERRORS: Mapping[int, Reaction] = {
    400: Reaction("invalid"),
    401: Reaction("stop_channel"),  # the token, or the phone unlinked it
    402: Reaction("stop_channel"),  # the trial is used up
    403: Reaction("unreachable"),
    404: Reaction("invalid"),
    409: Reaction("invalid"),  # of labels; no send conflicts with anything
    413: Reaction("invalid"),
    415: Reaction("invalid"),
    429: Reaction("slow_number"),
    500: Reaction("unknown"),
}

TYPING_SECONDS = 10


class Whapi:
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        ("media_by_id", "interactive", "reactions", "quotes", "mark_read", "typing")
    )

    def __init__(self, settings: WhapiSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._door = Door("Whapi", settings.whapi_url, settings.whapi_seconds, transport)

    async def send(self, message: Message, credentials: Credentials) -> Result:
        return await self._door.send(lambda: _request(message, credentials), partial(read, message))

    async def mark_read(self, inbound: Inbound, credentials: Credentials) -> bool:
        return await self._door.gesture(
            lambda: _ask("PUT", f"messages/{segment(inbound.id, 'message')}", {}, credentials)
        )

    async def typing(self, inbound: Inbound, credentials: Credentials) -> bool:
        """In this order, as a person would."""
        body = {"presence": "typing", "delay": TYPING_SECONDS}
        is_read = await self.mark_read(inbound, credentials)
        return is_read and await self._door.gesture(
            lambda: _ask("PUT", f"presences/{segment(_chat(inbound), 'chat')}", body, credentials)
        )

    async def chat(self, chat_id: str, credentials: Credentials) -> ChatFacts | None:
        found = await self._door.look(
            lambda: _ask("GET", f"chats/{segment(chat_id, 'chat')}", {}, credentials)
        )
        if found is None:
            return None
        labels = [text(mapping(label).get("name")) for label in listing(found.get("labels"))]
        return ChatFacts(text(found.get("name")), tuple(label for label in labels if label))


def _ask(method: str, path: str, body: JsonObject, credentials: Credentials) -> Ask:
    return Ask(
        method=method,
        path=path,
        authorization=f"Bearer {secret(credentials.token)}",
        token=credentials.token,
        body=as_json(body) if body else b"",
    )


def _request(message: Message, credentials: Credentials) -> Ask:
    if message.type == "reaction":
        target, emoji = content.reaction(message)
        path = f"messages/{segment(target, 'message')}/reaction"
        return _ask("PUT" if emoji else "DELETE", path, {"emoji": emoji} if emoji else {}, credentials)
    return _ask("POST", f"messages/{message.type}", body_of(message), credentials)


def body_of(message: Message) -> JsonObject:
    part = _PARTS.get(message.type)
    if part is None:
        raise UnsendableError(f"Whapi cannot send a {message.type} message.")
    to = _chat(message)
    if not to:
        raise UnsendableError("The customer has neither a chat nor a phone.")
    return {"to": to, **part(message), **({"quoted": message.reply_to} if message.reply_to else {})}


def _chat(whose: Message | Inbound) -> str | None:
    return whose.chat_id or whose.phone


def _text(message: Message) -> JsonObject:
    return {"body": content.words(message)}


def _media(message: Message) -> JsonObject:
    media = content.media(message)
    return {
        "media": media.id or media.link,
        **({"mime_type": media.mime} if media.mime else {}),
        **({"caption": media.caption} if media.caption else {}),
        **({"filename": media.filename} if media.filename and message.type == "document" else {}),
    }


def _interactive(message: Message) -> JsonObject:
    """Graph's object in Whapi's words; beside buttons and lists there is none."""
    given = content.interactive(message)
    action = _ACTIONS.get(given["type"])
    if action is None:
        raise UnsendableError(f"Whapi can send buttons and lists, not {given['type']}.")
    if mapping(given.get("header")).get("type", "text") != "text":
        raise UnsendableError("Whapi shows text above an interactive message, and nothing else.")
    texts = {name: text(mapping(given.get(name)).get("text")) for name in ("header", "body", "footer")}
    return {
        "type": given["type"],
        **{name: {"text": found} for name, found in texts.items() if found},
        "action": action(given["action"]),
    }


def _buttons(action: JsonObject) -> JsonObject:
    replies = [mapping(mapping(button).get("reply")) for button in listing(action.get("buttons"))]
    buttons = [{"type": "quick_reply", "id": each.get("id"), "title": each.get("title")} for each in replies]
    return {"buttons": buttons}


def _list(action: JsonObject) -> JsonObject:
    return {"list": {"label": action.get("button"), "sections": listing(action.get("sections"))}}


_ACTIONS: Mapping[str, Callable[[JsonObject], JsonObject]] = {"button": _buttons, "list": _list}

_PARTS: Mapping[str, Callable[[Message], JsonObject]] = {
    "text": _text,
    "interactive": _interactive,
    **dict.fromkeys(content.MEDIA, _media),
}


def read(message: Message, answer: Answer) -> Result | None:
    if isinstance(answer.body.get("error"), dict):
        return _refused(message, answer, answer.body["error"])
    if not answer.is_success:
        return None
    if answer.body.get("sent") is False or answer.body.get("success") is False:
        return Result(outcome="retry", error_message="Whapi did not send it.")
    if answer.body.get("sent") is True:  # its id is likely, not promised
        return Result(outcome="sent", wa_message_id=text(mapping(answer.body.get("message")).get("id")))
    is_done = message.type == "reaction" and answer.body.get("success") is True
    return Result(outcome="sent") if is_done else None


def _refused(message: Message, answer: Answer, error: JsonObject) -> Result:
    code = count(error.get("code"), 9) or answer.status
    status = code if 400 <= code < 600 else answer.status  # an error may come with a 200
    title, details = text(error.get("message")) or "Whapi refused the message.", text(error.get("details"))
    words = f"{title}: {details}" if details else title
    return refused(message, answer, code, words, reaction_to(ERRORS, code, status))
