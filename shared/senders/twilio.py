"""Twilio's Programmable Messaging, for WhatsApp senders of a Twilio account.

It has no idempotency key. Our id travels in the query of the status callback, which Twilio signs and calls
for every status: what became of an unknown send is told by its first callback. That needs
WEBHOOK_PUBLIC_URL or FUNCTIONS_URL.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode

from shared.senders import content
from shared.senders.base import Capability, Credentials, Message, Result, UnsendableError
from shared.senders.gestures import Inbound
from shared.senders.http import GESTURE_SECONDS, Answer, Ask, Door, refused, secret, segment
from shared.senders.reactions import DAY, HOUR, Reaction, reaction_to
from shared.senders.settings import TwilioSettings
from shared.shapes import count, text

if TYPE_CHECKING:
    import httpx

TEXT_CHARACTERS = 1600
_WITH_CAPTION = frozenset(("image",))
_FORM = "application/x-www-form-urlencoded"

_SLOW = Reaction("slow_number")
_INVALID = Reaction("invalid")
_STOP = Reaction("stop_channel")
_UNREACHABLE = Reaction("unreachable")

# https://www.twilio.com/docs/api/errors
ERRORS: Mapping[int, Reaction] = {
    63016: Reaction("needs_template"),
    21610: Reaction("opted_out"),
    **dict.fromkeys((63018, 20429, 14107), _SLOW),
    63038: Reaction("slow_number", DAY),  # what the account may send in a day
    **dict.fromkeys((63001, 20003, 63007, 63051, 63059), _STOP),
    **dict.fromkeys((63003, 63024, 21211, 21614), _UNREACHABLE),
    **dict.fromkeys((63005, 63021, 63030, 21617, 21620), _INVALID),
    **dict.fromkeys((63032, 63049, 30007), _INVALID),  # not for this customer, or not now
    63019: Reaction("retry", tries=2),  # it could not fetch the media
    30008: Reaction("retry", HOUR, tries=2),
    11200: Reaction("unknown"),  # our callback failed: it says nothing about the message
}


class Twilio:
    capabilities: ClassVar[frozenset[Capability]] = frozenset(("window", "templates", "reference", "typing"))

    def __init__(self, settings: TwilioSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        url = settings.twilio_url
        self._door = Door("Twilio", url, settings.twilio_seconds, transport)
        self._callback = settings.status_url
        # the typing indicator has a host of its own, in every region
        self._typing = Door("Twilio", url.replace("://api.", "://messaging.", 1), GESTURE_SECONDS, transport)

    async def send(self, message: Message, credentials: Credentials) -> Result:
        return await self._door.send(lambda: self._ask(message, credentials), partial(read, message))

    async def typing(self, inbound: Inbound, credentials: Credentials) -> bool:
        form = {"messageId": inbound.id, "channel": "whatsapp"}
        return await self._typing.gesture(
            lambda: _post("v2/Indicators/Typing.json", form, inbound.account_id, credentials)
        )

    def _ask(self, message: Message, credentials: Credentials) -> Ask:
        path = f"2010-04-01/Accounts/{segment(message.account_id, 'Twilio account')}/Messages.json"
        form = form_of(message) | self._status_callback(message)
        return _post(path, form, message.account_id, credentials)

    def _status_callback(self, message: Message) -> dict[str, str]:
        if not self._callback:
            return {}
        url = f"{self._callback}/twilio/{message.number_id}?{urlencode({'message': message.id})}"
        return {"StatusCallback": url}


def _post(path: str, form: Mapping[str, str], account: str | None, credentials: Credentials) -> Ask:
    user = segment(account, "Twilio account")
    basic = b64encode(f"{user}:{secret(credentials.token)}".encode()).decode()
    return Ask(
        path=path,
        authorization=f"Basic {basic}",
        token=credentials.token,
        body=urlencode(form).encode(),
        media_type=_FORM,
    )


def form_of(message: Message) -> dict[str, str]:
    part = _PARTS.get(message.type)
    if part is None:
        raise UnsendableError(f"Twilio cannot send a {message.type} message.")
    return {"To": _address(message), "From": f"whatsapp:+{message.phone_number}", **part(message)}


def _address(message: Message) -> str:
    if message.phone:
        return f"whatsapp:+{message.phone}"
    if message.bsuid:
        return f"whatsapp:{message.bsuid}"
    raise UnsendableError("The customer has neither a phone nor an id at Meta.")


def _text(message: Message) -> Mapping[str, str]:
    return {"Body": content.words(message, TEXT_CHARACTERS)}


def _media(message: Message) -> Mapping[str, str]:
    media = content.media(message, _WITH_CAPTION)
    if not media.link:
        raise UnsendableError(f"Twilio takes the {message.type} by link only.")
    return {"MediaUrl": media.link, **({"Body": media.caption} if media.caption else {})}


def _template(message: Message) -> Mapping[str, str]:
    template = content.template(message)
    if not template.provider_template_id:
        raise UnsendableError(
            f"Twilio does not know the template {template.name}: it has no content id there."
        )
    return {
        "ContentSid": template.provider_template_id,
        **({"ContentVariables": json.dumps(template.variables)} if template.variables else {}),
    }


_PARTS: Mapping[str, Callable[[Message], Mapping[str, str]]] = {
    "text": _text,
    "template": _template,
    **dict.fromkeys(content.MEDIA, _media),
}


def read(message: Message, answer: Answer) -> Result | None:
    """A message it took may have failed at once: then it has an error code beside its id.

    An error says its HTTP status itself; whatever stands between us may have told another.
    """
    sent = text(answer.body.get("sid"))
    code = count(answer.body.get("error_code" if sent else "code"), 9)
    if code:
        words = text(answer.body.get("error_message" if sent else "message")) or "Twilio refused the message."
        status = answer.status if sent else count(answer.body.get("status"), 3) or answer.status
        return refused(message, answer, code, words, reaction_to(ERRORS, code, status))
    return Result(outcome="sent", wa_message_id=sent) if sent and answer.is_success else None
