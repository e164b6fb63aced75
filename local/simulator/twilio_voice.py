"""How Twilio speaks: one message a request, form-encoded, signed over the URL and every parameter."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl, urldefrag, urlencode

from local.simulator.http import BadInputError
from local.simulator.letters import Fate, Item, Letter, Receipt, Said
from local.simulator.messages import Sent
from local.simulator.store import Store
from local.simulator.tokens import Tokens
from local.simulator.twilio_errors import ERRORS
from local.simulator.twilio_senders import Senders, sender_sid
from local.simulator.world import Contact, Number, World
from local.simulator.writing import Writing

NOWHERE = "http://127.0.0.1:9/"
_AGAIN_IN = 0.3
_NEVER = ("reaction", "edit", "revoke")
_REFERRAL = {
    "Body": "body",
    "Headline": "headline",
    "SourceId": "source_id",
    "SourceType": "source_type",
    "SourceUrl": "source_url",
    "MediaUrl": "image_url",
    "CtwaClid": "ctwa_clid",
}


class Twilio:
    statuses: tuple[str, ...] = (
        *("accepted", "scheduled", "queued", "sending", "sent", "delivered", "read"),
        *("failed", "undelivered", "canceled"),
    )
    failed: tuple[str, ...] = ("failed", "undelivered")
    errors: Collection[int] = ERRORS
    proof = "x-twilio-signature"
    closed: int | None = 63016

    def __init__(self, store: Store, world: World, tokens: Tokens, senders: Senders, url: str) -> None:
        self._store = store
        self._world = world
        self._tokens = tokens
        self._senders = senders
        self._url = url  # of Twilio itself, for the media it keeps

    def written(self, contact: Contact, writing: Writing) -> Item:
        if writing.is_echo or writing.kind in _NEVER:
            what = "messages written on the phone" if writing.is_echo else f"a {writing.kind}"
            raise BadInputError(f"Twilio tells nothing of {what}.")
        number = self._number(contact.number)
        sid = writing.id or new_sid("SM")
        form = {
            **dict.fromkeys(("MessageSid", "SmsSid", "SmsMessageSid"), sid),
            **self._frame(contact, number),
            "Body": "",
            "NumMedia": "0",
            "NumSegments": "1",
            "SmsStatus": "received",
            **_content(writing, f"{self._url}/2010-04-01/Accounts/{number.account}/Messages/{sid}/Media/"),
            **_context(writing, number),
        }
        return Item("messages", form["MessageSid"], form, writing.at)

    def said(self, item: Item) -> Said:
        return received_said(item.body)

    def status(self, contact: Contact, sent: Sent, fate: Fate) -> Item:
        number = self._number(contact.number)
        form = {
            **dict.fromkeys(("MessageSid", "SmsSid"), sent.wa_message_id),
            **dict.fromkeys(("MessageStatus", "SmsStatus"), fate.status),
            "AccountSid": number.account,
            "ApiVersion": "2010-04-01",
            "From": whatsapp(number.phone),
            "To": address_of(contact),
            "ChannelPrefix": "whatsapp",
            "ChannelInstallSid": sender_sid(number),
        }
        if fate.status in self.failed:
            code = fate.code or 30008
            form |= {"ErrorCode": str(code), "ErrorMessage": ERRORS[code][1]}
        if fate.status == "read":
            form["EventType"] = "READ"
        url = sent.message.get("StatusCallback") or self._senders.status_url(number)
        if sent.said.callback and "StatusCallback" not in sent.message:  # made up, so as it would have been
            url = f"{self._senders.url(number)}?{urlencode({'message': sent.said.callback})}"
        return Item("statuses", sent.wa_message_id, form, 0.0, {"url": url}, fate.status)

    def letter(self, number: Number, items: list[Item]) -> Letter | None:
        (item,) = items
        url = item.about["url"] if item.about else self._senders.url(number)
        return self._signed(number, url, item.body) if url else None

    def anything(self, number: Number, payload: object, raw: bytes | None) -> Letter:
        """An object goes as a form; a list as JSON, which is signed by its hash in the URL."""
        url = self._senders.url(number) or NOWHERE
        if raw is not None:
            form = dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True))
            return Letter(url, self._headers(number, url, form), raw)
        if isinstance(payload, dict):
            return self._signed(number, url, {str(name): str(value) for name, value in payload.items()})
        body = json.dumps(payload).encode()
        url = f"{url}?bodySHA256={hashlib.sha256(body).hexdigest()}"
        return Letter(url, {**self._headers(number, url, {}), "content-type": "application/json"}, body)

    def batch(self, kind: str) -> int:
        return 1

    def wait(self, attempts: int, receipt: Receipt) -> float | None:
        """Once more when nobody could be reached; an answer, whatever it says, is the end of it."""
        return _AGAIN_IN if receipt.status is None and attempts == 0 else None

    def _number(self, number: str) -> Number:
        return self._world.number(number) or Number(number, "", "", provider="twilio")

    def _frame(self, contact: Contact, number: Number) -> dict[str, str]:
        known = {"WaId": contact.phone, "ExternalUserId": contact.bsuid} if contact.phone else {}
        return {
            "AccountSid": number.account,
            "ApiVersion": "2010-04-01",
            "From": address_of(contact),
            "To": whatsapp(number.phone),
            "ExternalUserId": address_of(contact),
            **known,
            **({"ProfileName": contact.name} if contact.name else {}),
        }

    def _signed(self, number: Number, url: str, form: Mapping[str, str]) -> Letter:
        url = urldefrag(url)[0]  # what overrides Twilio's timeouts is not sent
        body = urlencode(form, errors="replace").encode()
        sent = dict(parse_qsl(body.decode(), keep_blank_values=True))
        return Letter(url, self._headers(number, url, sent), body)

    def _headers(self, number: Number, url: str, form: Mapping[str, str]) -> dict[str, str]:
        token = self._tokens.latest(number.account)
        headers = {
            "content-type": "application/x-www-form-urlencoded; charset=UTF-8",
            "user-agent": "TwilioProxy/1.1",
        }
        if self._store.tuning.twilio_sha256:
            headers["x-twilio-webhooks-signature-settings"] = "key=demo,algorithm=HMAC_SHA256"
            return {**headers, self.proof: signature(token, url, form, hashlib.sha256)}
        return {**headers, self.proof: signature(token, url, form)}


def signature(token: str, url: str, form: Mapping[str, str], algorithm: Any = hashlib.sha1) -> str:
    signed = url + "".join(name + form[name] for name in sorted(form))
    return base64.b64encode(hmac.new(token.encode(), signed.encode(), algorithm).digest()).decode()


def new_sid(prefix: str) -> str:
    return prefix + secrets.token_hex(16)


def whatsapp(phone: str) -> str:
    return f"whatsapp:+{phone}"


def address_of(contact: Contact) -> str:
    return whatsapp(contact.phone) if contact.phone else f"whatsapp:{contact.bsuid}"


def received_said(form: Mapping[str, str]) -> Said:
    if form.get("NumMedia", "0") != "0":
        return Said(media_kind(form.get("MediaContentType0", "")), form.get("Body", ""))
    if "Latitude" in form:
        return Said("location", form.get("Label", ""))
    return Said("button" if "ButtonPayload" in form else "text", form.get("Body", ""))


def media_kind(mime: str) -> str:
    if mime == "image/webp":
        return "sticker"
    kind = mime.partition("/")[0]
    return kind if kind in ("image", "audio", "video") else "contact" if mime == "text/vcard" else "document"


def _content(writing: Writing, media_url: str) -> dict[str, str]:
    given = writing.content
    match writing.kind:
        case "raw":
            return {str(name): str(value) for name, value in given.items()}
        case "text":
            return {"Body": given["body"], "MessageType": "text"}
        case "button":
            reply = {"ButtonText": given["title"], "ButtonPayload": given["id"], "ButtonType": "REPLY"}
            return {"Body": given["title"], "MessageType": "button", **reply}
        case "list":
            names = {"ListId": "id", "ListTitle": "title", "ListDescription": "description"}
            picked = {name: given[key] for name, key in names.items() if key in given}
            return {"Body": given["title"], "MessageType": "interactive", **picked}
        case "location":
            names = {"Latitude": "latitude", "Longitude": "longitude", "Address": "address", "Label": "name"}
            told = {name: str(given[key]) for name, key in names.items() if key in given}
            return {"MessageType": "location", **told}
        case "contact":
            return {"MessageType": "contacts", **_media("text/vcard", media_url)}
        case _:
            caption = {"Body": given["caption"]} if "caption" in given else {}
            return {"MessageType": writing.kind, **caption, **_media(given["mime"], media_url)}


def _media(mime: str, url: str) -> dict[str, str]:
    return {"NumMedia": "1", "MediaContentType0": mime, "MediaUrl0": url + new_sid("ME")}


def _context(writing: Writing, number: Number) -> dict[str, str]:
    found = {f"Referral{name}": writing.referral.get(key) for name, key in _REFERRAL.items()}
    referral = {name: str(value) for name, value in found.items() if value is not None}
    quoted = {
        "OriginalRepliedMessageSid": writing.reply_to or "",
        "OriginalRepliedMessageSender": whatsapp(number.phone),
    }
    return {
        **({"Forwarded": "true"} if writing.forwarded else {}),
        **(quoted if writing.reply_to else {}),
        **({**referral, "ReferralNumMedia": "0"} if referral else {}),
        **{str(name): str(value) for name, value in writing.context.items()},
    }
