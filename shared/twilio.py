"""Twilio as a provider: its two signatures, and its form posts as canonical events.

One message or status a request. An answer that is not empty TwiML might be sent to the customer.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from shared import jsontext, shapes
from shared.channel_keys import Keys
from shared.errors import UnauthorizedError
from shared.events import Contact, Context, Event, JsonObject, Media, Message, Other, Payload, Status
from shared.parts import PART
from shared.shapes import OddShapeError

if TYPE_CHECKING:
    from shared.runtime import Request

SIGNATURE = "x-twilio-signature"
ANSWER = ("<Response/>", "text/xml")

_SETTINGS = "x-twilio-webhooks-signature-settings"  # key=<id>,algorithm=<name>; absent: the first algorithm
_ALGORITHMS = {"": "sha1", "HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}
_FORM = "application/x-www-form-urlencoded"
_FIELDS = 10_000  # parameters; Twilio sends some twenty
_PORTS = {"https": 443, "http": 80}
_CHANNEL = "whatsapp:"
_INBOUND = frozenset({"receiving", "received"})
_STATUSES = {
    "sent": "sent",
    "delivered": "delivered",
    "read": "read",
    "failed": "failed",
    "undelivered": "failed",
}
_KINDS = frozenset({"image", "audio", "video"})  # the first half of a media type; else it is a document


# The signature


def verify(request: Request, keys: Keys) -> None:
    """Twilio signs the URL it called, which is `keys.address` and the query, with the parameters it sent.

    Its own tools disagree on whether a port belongs into the URL, so both ways count.
    """
    given = request.headers.get(SIGNATURE, "").encode()
    algorithm = _algorithm(request.headers.get(_SETTINGS, ""))
    said = _signed_part(request)
    urls = _spellings(keys.address + (f"?{request.query_string}" if request.query_string else ""))
    expected = [_sign(secret, url + said, algorithm) for secret in keys.secrets for url in urls]
    if not any([hmac.compare_digest(given, one) for one in expected]):  # noqa: C419
        raise UnauthorizedError(
            hint="Check WEBHOOK_PUBLIC_URL, and that the number has the account's auth token."
        )


def _algorithm(settings: str) -> str:
    said = dict(pair.strip().partition("=")[::2] for pair in settings.split(","))
    if found := _ALGORITHMS.get(said.get("algorithm", "")):
        return found
    raise UnauthorizedError(hint="The signature's algorithm is not one that Twilio documents.")


def _signed_part(request: Request) -> str:
    """What is signed after the URL: a form's parameters by name; of anything else the URL has the hash."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        digest = request.query.get("bodySHA256", "")
        if request.body and not hmac.compare_digest(
            digest.encode(), sha256(request.body).hexdigest().encode()
        ):
            raise UnauthorizedError(hint="The body is no form, and not the one that was signed.")
        return ""
    try:
        pairs = sorted(set(_parameters(request.body)))
    except ValueError as exc:
        raise UnauthorizedError(hint="Twilio sends no form like this.") from exc
    return "".join(name + value for name, value in pairs)


def _parameters(body: bytes) -> list[tuple[str, str]]:
    text = body.decode("utf-8", "replace")
    return parse_qsl(text, keep_blank_values=True, errors="replace", max_num_fields=_FIELDS)


def _spellings(url: str) -> list[str]:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    bare = host.rpartition(":")[0] if parts.port else host
    port = parts.port or _PORTS.get(parts.scheme, 443)
    return [
        parts._replace(netloc=netloc).geturl() for netloc in dict.fromkeys([host, bare, f"{bare}:{port}"])
    ]


def _sign(secret: str, said: str, algorithm: str) -> bytes:
    return b64encode(hmac.digest(secret.encode(), said.encode(), algorithm))


# Updates


def parse(
    body: bytes, *, received_at: datetime, keys: Keys, query: Mapping[str, str] | None = None
) -> Iterator[Payload]:
    """One payload. `message` in the query is our id of the message that a status is about."""
    callback = (query or {}).get("message")
    delivery_id = sha256(f"{keys.number_id} {callback} ".encode() + body).hexdigest()
    fields = _form(body)
    error = _strangeness(fields, keys)
    yield Payload(
        provider="twilio",
        delivery_id=delivery_id,
        received_at=received_at,
        account=fields.get("AccountSid"),
        number=keys.number,
        field="status" if _is_status(fields) else "message",
        payload=fields or None,
        raw=None if fields else body,
        error=error,
        events=() if error else tuple(events(fields, received_at, callback)),
    )


def _form(body: bytes) -> dict[str, str]:
    """Every parameter once; none if the body is no form."""
    try:
        return {jsontext.clean(name): jsontext.clean(value) for name, value in _parameters(body)}
    except ValueError:
        return {}


def _strangeness(fields: Mapping[str, str], keys: Keys) -> str | None:
    """Who may sign for a number must not write into another one's chats."""
    if not fields:
        return "The body is no form."
    if not fields.get("MessageSid"):
        return "There is no MessageSid in the form."
    if keys.account and fields.get("AccountSid") not in (None, keys.account):
        return "It is of another account than the number's."
    ours = _phone(fields.get("From" if _is_status(fields) else "To"))
    if ours and ours != (_phone(keys.number) or ours):
        return "It is about another number than the one whose address it came to."
    return None


def events(fields: Mapping[str, str], now: datetime, callback: str | None = None) -> list[Event]:
    """What one request says, or one entry of the list of messages in its words (see `from_record`)."""
    id_ = shapes.identifier(fields.get("MessageSid"))
    try:
        if _is_status(fields):
            return [_status(fields, id_, now, callback)]
        return list(_messages(fields, id_, now))
    except OddShapeError as exc:
        return [Other(id=id_, at=now, raw=dict(fields), error=str(exc))]


def parse_list(
    records: Sequence[JsonObject], files: Mapping[str, Sequence[JsonObject]], *, now: datetime, keys: Keys
) -> Iterator[Payload]:
    """Messages as Twilio's API lists them, and the files of some by their sid: as if they had been posted."""
    for start in range(0, len(records), PART):
        part = records[start : start + PART]
        digest = sha256(f"{keys.number_id} {json.dumps(part)}".encode()).hexdigest()
        yield Payload(
            provider="twilio",
            delivery_id=digest,
            received_at=now,
            account=keys.account,
            number=keys.number,
            field="backfill",
            payload={"messages": part},
            events=tuple(event for one in part for event in _listed(one, files, now)),
        )


def _listed(record: JsonObject, files: Mapping[str, Sequence[JsonObject]], now: datetime) -> list[Event]:
    """What was received has its time; what became of what we sent is told as of now, as in a post."""
    fields = {name: found for name, key in _RECORD.items() if (found := shapes.text(record.get(key)))}
    if record.get("direction") != "inbound":
        return events(fields | {"MessageStatus": shapes.text(record.get("status")) or ""}, now)
    for number, file in enumerate(files.get(fields.get("MessageSid", ""), ())):
        fields[f"MediaUrl{number}"] = _FILES + (shapes.text(file.get("uri")) or "").removesuffix(".json")
        fields[f"MediaContentType{number}"] = shapes.text(file.get("content_type")) or ""
    return events(fields, _moment(record.get("date_sent")) or now)


_FILES = "https://api.twilio.com"
_RECORD = {
    "MessageSid": "sid",
    "AccountSid": "account_sid",
    "From": "from",
    "To": "to",
    "Body": "body",
    "NumMedia": "num_media",
    "ErrorCode": "error_code",
    "ErrorMessage": "error_message",
}


def _moment(date: Any) -> datetime | None:
    """As in e-mails."""
    try:
        found = parsedate_to_datetime(shapes.text(date) or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _is_status(fields: Mapping[str, str]) -> bool:
    return fields.get("MessageStatus", "received") not in _INBOUND


def _status(fields: Mapping[str, str], id_: str | None, now: datetime, callback: str | None) -> Event:
    """Twilio gives no time: it is the time of arrival."""
    status = _STATUSES.get(fields.get("MessageStatus", "").lower())
    if status is None or id_ is None:
        return Other(id=id_, at=now, raw=dict(fields))
    code = shapes.count(fields.get("ErrorCode"), digits=9)
    details = fields.get("ErrorMessage") or fields.get("ChannelStatusMessage")
    error = {"code": code, "title": details, "details": None} if status == "failed" else None
    contact = _contact(fields, "To")
    return Status(id=id_, at=now, contact=contact, status=status, error=error, callback=callback)


def _messages(fields: Mapping[str, str], id_: str | None, now: datetime) -> Iterator[Event]:
    """A message; what comes with more than one file is one message for each."""
    contact = _contact(fields, "From")
    if id_ is None:
        raise OddShapeError("It has no usable id.")
    if contact is None:
        if fields.get("From", "").startswith(_CHANNEL):
            raise OddShapeError("It does not say who the customer is.")
        yield Other(id=id_, at=now, raw=dict(fields))  # a text message: the number is not only WhatsApp's
        return
    files = _files(fields)
    type_, data = _type(fields, files)
    yield Message(
        id=id_,
        at=now,
        contact=contact,
        type=type_,
        text=fields.get("Body") or fields.get("ButtonText") or fields.get("ListTitle") or None,
        media=files[0] if files else None,
        context=_context(fields),
        referral=_referral(fields),
        data=data,
        raw=dict(fields),
    )
    for index, file in enumerate(files[1:], start=1):
        type_ = _type_of_file(file)
        yield Message(id=f"{id_}/{index}", at=now, contact=contact, type=type_, media=file)


def _contact(fields: Mapping[str, str], side: str) -> Contact | None:
    """A customer is a phone, or where that is withheld a business-scoped user id, in either parameter."""
    given, external = fields.get(side, ""), fields.get("ExternalUserId", "").removeprefix(_CHANNEL)
    if not given.startswith(_CHANNEL):
        return None
    phone, address = _phone(given), given.removeprefix(_CHANNEL)
    wa_id = shapes.identifier(fields.get("WaId")) if side == "From" else None
    found = Contact(
        phone=phone or shapes.phone(wa_id),
        bsuid=shapes.identifier(external) or (None if phone else _user_id(address)),
        chat_id=None if wa_id == (phone or shapes.phone(wa_id)) else wa_id,
        profile_name=shapes.text(fields.get("ProfileName")) if side == "From" else None,
    )
    return found if found.is_known else None


def _phone(address: str | None) -> str | None:
    return shapes.phone((address or "").removeprefix(_CHANNEL))


def _user_id(address: str) -> str | None:
    """CC.id; what begins with + is a number that makes no sense."""
    return None if address.startswith("+") else shapes.identifier(address)


def _files(fields: Mapping[str, str]) -> list[Media]:
    numbers = range(min(shapes.count(fields.get("NumMedia"), digits=2) or 0, 10))
    urls = {number: fields.get(f"MediaUrl{number}") for number in numbers}
    return [_file(url, fields.get(f"MediaContentType{number}")) for number, url in urls.items() if url]


def _file(url: str, mime: str | None) -> Media:
    """The last part of the URL is its id. It stays until somebody deletes it."""
    id_ = shapes.identifier(url.rstrip("/").rpartition("/")[2])
    return Media(id=id_, mime=mime, url=url, voice=True if (mime or "").startswith("audio/ogg") else None)


def _type_of_file(file: Media) -> str:
    mime = file.mime or ""
    if mime == "image/webp":
        return "sticker"
    if mime in ("text/vcard", "text/x-vcard"):
        return "contacts"
    kind = mime.partition("/")[0]
    return kind if kind in _KINDS else "document"


def _type(fields: Mapping[str, str], files: list[Media]) -> tuple[str, Any]:
    """The type of a message, with what is more than words in the Cloud API's shape."""
    if files:
        return _type_of_file(files[0]), None
    if fields.get("Latitude") and fields.get("Longitude"):
        keys = {"latitude": "Latitude", "longitude": "Longitude", "name": "Label", "address": "Address"}
        return "location", {name: fields[key] for name, key in keys.items() if fields.get(key)}
    if fields.get("ListId"):
        keys = {"id": "ListId", "title": "ListTitle", "description": "ListDescription"}
        row = {name: fields[key] for name, key in keys.items() if fields.get(key)}
        return "interactive", {"type": "list_reply", "list_reply": row}
    if flow := fields.get("FlowData") or fields.get("InteractiveData"):
        return "interactive", {"type": "nfm_reply", "nfm_reply": {"response_json": flow}}
    if fields.get("ButtonPayload") or fields.get("ButtonText"):
        return "button", {"payload": fields.get("ButtonPayload"), "text": fields.get("ButtonText")}
    return "text", None


def _context(fields: Mapping[str, str]) -> Context | None:
    quoted = shapes.identifier(fields.get("OriginalRepliedMessageSid"))
    frequently = fields.get("FrequentlyForwarded") == "true"
    forwarded = frequently or fields.get("Forwarded") == "true"
    if not quoted and not forwarded:
        return None
    return Context(id=quoted, forwarded=forwarded, frequently_forwarded=frequently)


_REFERRAL = {
    "source_type": "ReferralSourceType",
    "source_id": "ReferralSourceId",
    "source_url": "ReferralSourceUrl",
    "headline": "ReferralHeadline",
    "body": "ReferralBody",
    "media_type": "ReferralMediaContentType",
    "image_url": "ReferralMediaUrl",
    "ctwa_clid": "ReferralCtwaClid",
}


def _referral(fields: Mapping[str, str]) -> JsonObject | None:
    """The ad the customer came from, under the names the Cloud API has for it."""
    return {name: fields[key] for name, key in _REFERRAL.items() if fields.get(key)} or None
