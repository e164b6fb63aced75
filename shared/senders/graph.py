"""Meta's Graph API, for numbers on the Cloud API.

Our id travels in `biz_opaque_callback_data` and comes back in every status: what became of an unknown send is
told by its first status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from shared.events import JsonObject
from shared.senders import content
from shared.senders.base import Capability, Credentials, Message, Result, UnsendableError
from shared.senders.gestures import Inbound
from shared.senders.http import Answer, Ask, Door, as_json, refused, secret, segment
from shared.senders.reactions import HOUR, MINUTE, Reaction, reaction_to
from shared.senders.settings import GraphSettings
from shared.shapes import count, listing, mapping, text

if TYPE_CHECKING:
    import httpx

_RETRY = Reaction("retry")
_INVALID = Reaction("invalid")
_STOP = Reaction("stop_channel")

# https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
ERRORS: Mapping[int, Reaction] = {
    **dict.fromkeys((1, 2, 131000, 131016, 135000), _RETRY),  # an outage, as they come
    131057: Reaction("retry", 90),  # maintenance, a minute or two
    132069: Reaction("retry", HOUR),  # a Flow, ten an hour
    130429: Reaction("slow_number"),
    **dict.fromkeys((4, 613, 80007), Reaction("slow_number", MINUTE)),
    **dict.fromkeys((131064, 133016), Reaction("slow_number", HOUR)),  # lifted by itself, later
    131056: Reaction("slow_pair"),
    131048: Reaction("pause_bulk"),
    131047: Reaction("needs_template"),
    131050: Reaction("opted_out"),
    131026: Reaction("unreachable"),
    # the token, its rights, the account or its payment: no message of this number will get through
    **dict.fromkeys((0, 3, 10, 190, 368, 131005, 131031, 131042, 131045, 133010), _STOP),
    **dict.fromkeys(range(200, 300), _STOP),
    # this message is wrong or not for this customer; the next one may go
    **dict.fromkeys(
        (33, 100, 131008, 131009, 131021, 131051, 131052, 131053, 131060, 131062, 137000), _INVALID
    ),
    **dict.fromkeys((130403, 130472, 130497, 131030, 131037, 131049, 131063), _INVALID),
    **dict.fromkeys((132000, 132001, 132005, 132007, 132008, 132012, 132015, 132016, 132068), _INVALID),
}
_NO_SUCH_NUMBER = 33  # as a subcode: the number is gone, or the token has no right to it


class Graph:
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            "window",
            "templates",
            "media_by_id",
            "interactive",
            "reactions",
            "quotes",
            "reference",
            "mark_read",
            "typing",
        }
    )

    def __init__(self, settings: GraphSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._version = settings.graph_version
        self._door = Door("Meta", settings.graph_url, settings.graph_seconds, transport)

    async def send(self, message: Message, credentials: Credentials) -> Result:
        return await self._door.send(
            lambda: self._ask(message.sender, body_of(message), credentials), partial(read, message)
        )

    async def mark_read(self, inbound: Inbound, credentials: Credentials) -> bool:
        return await self._door.gesture(lambda: self._ask(inbound.sender, _seen(inbound), credentials))

    async def typing(self, inbound: Inbound, credentials: Credentials) -> bool:
        body = _seen(inbound) | {"typing_indicator": {"type": "text"}}
        return await self._door.gesture(lambda: self._ask(inbound.sender, body, credentials))

    def _ask(self, sender: str, body: JsonObject, credentials: Credentials) -> Ask:
        return Ask(
            path=f"{self._version}/{segment(sender, 'id at Meta')}/messages",
            authorization=f"Bearer {secret(credentials.token)}",
            token=credentials.token,
            body=as_json(body),
        )


def body_of(message: Message) -> JsonObject:
    part = _PARTS.get(message.type)
    if part is None:
        raise UnsendableError(f"A {message.type} message cannot be sent.")
    is_quoting = message.reply_to and message.type != "reaction"
    return {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        **_address(message),
        "type": message.type,
        message.type: part(message),
        **({"context": {"message_id": message.reply_to}} if is_quoting else {}),
        "biz_opaque_callback_data": message.id,
    }


def _address(message: Message) -> JsonObject:
    """By phone when both are known: some messages cannot go to an id (131062)."""
    if message.phone:
        return {"to": message.phone}
    if message.bsuid:
        return {"recipient": message.bsuid}
    raise UnsendableError("The customer has neither a phone nor an id at Meta.")


def _text(message: Message) -> JsonObject:
    words = content.words(message)
    return {"body": words, "preview_url": "://" in words}


def _media(message: Message) -> JsonObject:
    media = content.media(message)
    return {
        **({"id": media.id} if media.id else {"link": media.link}),
        **({"caption": media.caption} if media.caption else {}),
        **({"filename": media.filename} if media.filename and message.type == "document" else {}),
    }


def _template(message: Message) -> JsonObject:
    template = content.template(message)
    return {
        "name": template.name,
        "language": {"code": template.language},
        **({"components": template.components} if template.components else {}),
    }


def _reaction(message: Message) -> JsonObject:
    target, emoji = content.reaction(message)
    return {"message_id": target, "emoji": emoji}


_PARTS: Mapping[str, Callable[[Message], Any]] = {
    "text": _text,
    "template": _template,
    "interactive": content.interactive,
    "reaction": _reaction,
    **dict.fromkeys(content.MEDIA, _media),
}


def _seen(inbound: Inbound) -> JsonObject:
    return {"messaging_product": "whatsapp", "status": "read", "message_id": inbound.id}


def read(message: Message, answer: Answer) -> Result | None:
    error = mapping(answer.body.get("error"))
    code = count(error.get("code"), 9)
    if code is not None:  # an error without one is not Meta's
        return _refused(message, answer, code, error)
    sent = text(mapping(next(iter(listing(answer.body.get("messages"))), None)).get("id"))
    return Result(outcome="sent", wa_message_id=sent) if sent and answer.is_success else None


def _refused(message: Message, answer: Answer, code: int, error: JsonObject) -> Result:
    is_gone = error.get("error_subcode") == _NO_SUCH_NUMBER
    reaction = _STOP if is_gone else reaction_to(ERRORS, code, answer.status, fault="retry")
    return refused(message, answer, code, _words(error), reaction)


def _words(error: Mapping[str, Any]) -> str:
    """The details say what the message only names."""
    title = text(error.get("message")) or "Meta refused the message."
    details = text(mapping(error.get("error_data")).get("details"))
    return f"{title}: {details}" if details and details not in title else title
