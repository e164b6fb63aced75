"""Twilio's API, as far as WhatsApp goes: sending, what was sent, senders and content templates."""

from __future__ import annotations

import base64
import binascii
import json
import mimetypes
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from local.simulator import twilio_contents
from local.simulator.afterwards import tell_later
from local.simulator.faults import Fault, faulty_answer
from local.simulator.http import Answer, Fields, Json
from local.simulator.letters import Said
from local.simulator.limits import Limits
from local.simulator.outside import Outside
from local.simulator.service import Do
from local.simulator.twilio_contents import Contents
from local.simulator.twilio_errors import TwilioError, refusal
from local.simulator.twilio_history import History, page_index, page_size
from local.simulator.twilio_senders import sender_sid
from local.simulator.twilio_voice import media_kind, new_sid
from local.simulator.world import BSUID, PHONE, Contact, Number

_STOP = ("STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT")
_START = ("START", "YES", "UNSTOP")
_TEXT = 1600


@dataclass(frozen=True)
class Call:
    """An authorised request."""

    account: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    form: dict[str, str]
    raw: bytes


Endpoint = Callable[[Call], Awaitable[dict[str, Any]]]


class TwilioApi:
    def __init__(self, outside: Outside) -> None:
        self._out = outside
        self._history = History(outside)
        self._contents = Contents(outside.store, outside.clock)
        self._limits = Limits()

    def controls(self) -> Mapping[str, Do]:
        return {"contents": self.put_content}

    def routes(self) -> list[BaseRoute]:
        account = "/2010-04-01/Accounts/{account}"
        read: list[tuple[str, str, Endpoint]] = [
            ("GET", account + ".json", self.account),
            ("GET", account + "/Messages.json", self.messages),
            ("GET", account + "/Messages/{sid}.json", self.message),
            ("GET", account + "/Messages/{sid}/Media.json", self.media),
            ("GET", "/v2/Channels/Senders", self.senders),
            ("GET", "/v2/Channels/Senders/{sid}", self.sender),
            ("POST", "/v2/Channels/Senders/{sid}", self.change_sender),
            ("GET", "/v1/Content", self.contents),
            ("GET", "/v1/ContentAndApprovals", self.approvals),
            ("GET", "/v1/Content/{sid}/ApprovalRequests", self.approval),
            ("POST", "/v2/Indicators/Typing.json", self.typing),
        ]
        return [
            Route(account + "/Messages.json", self._serve("twilio.send", self.send, 201), methods=["POST"]),
            *(Route(path, self._serve("twilio.read", do), methods=[method]) for method, path, do in read),
            Route("/{path:path}", _unknown, methods=["GET", "POST", "DELETE"]),
        ]

    # who calls

    def _serve(self, target: str, do: Endpoint, status: int = 200) -> Callable[[Request], Awaitable[Answer]]:
        async def endpoint(request: Request) -> Answer:
            try:
                call = await self._call(request)
                fault = self._out.faults.take(target, _subject(call))
                if fault and not fault.after_accept:
                    return _faulty(fault)
                answer = await do(call)
                return _faulty(fault, answer) if fault else Json(answer, status)
            except TwilioError as error:
                return Json(error.body(), error.status)

        return endpoint

    async def _call(self, request: Request) -> Call:
        raw = await request.body()
        user, password = _basic(request)
        account = request.path_params.get("account", user)
        # an API key signs in for its account; an account for itself alone
        if self._out.tokens.subject(password) != account or user not in (account, "SK" + account[2:]):
            raise TwilioError(20003)
        is_form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        form = dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True)) if is_form else {}
        return Call(account, request.path_params, dict(request.query_params), form, raw)

    # sending

    async def send(self, call: Call) -> dict[str, Any]:
        number, contact = await self._ends(call)
        said = self._said(call)
        if self._is_unsubscribed(contact):
            raise TwilioError(21610)
        contact = await self._out.windows.remembered(contact)
        if self._out.store.tuning.rate_limits and self._limits.reached(number.number, contact.bsuid):
            raise TwilioError(63018)
        with self._out.store.transaction():
            sent, _ = self._out.messages.send(contact, new_sid("SM"), "twilio", said, call.form)
            tell_later(self._out, contact, sent, _subject(call))
        resource = self._history.describe(number, sent)
        return {**resource, "status": "queued", "error_code": None, "error_message": None, "date_sent": None}

    async def _ends(self, call: Call) -> tuple[Number, Contact]:
        to, sender = call.form.get("To", ""), call.form.get("From", "")
        if not to:
            raise TwilioError(21604)
        if not sender:
            raise TwilioError(21603)
        if not to.startswith("whatsapp:") and sender.startswith("whatsapp:"):
            raise TwilioError(21910)
        address = to.removeprefix("whatsapp:")
        if not PHONE.fullmatch(address.removeprefix("+")) and not BSUID.fullmatch(address):
            raise TwilioError(21211, f"Invalid 'To' Phone Number: {to}")
        number = await self._out.find("twilio", sender.removeprefix("whatsapp:+"))
        if number is None or number.account != call.account or sender != f"whatsapp:+{number.phone}":
            raise TwilioError(63007)
        return number, self._out.world.contact(number.number, address.removeprefix("+"))

    def _said(self, call: Call) -> Said:
        form = call.form
        body, media, content = form.get("Body", ""), form.get("MediaUrl", ""), form.get("ContentSid", "")
        if not (body or media or content):
            raise TwilioError(21619)
        if len(body) > _TEXT:
            raise TwilioError(21617)
        callback = _callback(form.get("StatusCallback", ""))
        if content:
            return Said("template", self._template(call.account, content, form), callback)
        if not media:
            return Said("text", body, callback)
        if len(parse_qs(call.raw.decode("latin-1"))["MediaUrl"]) > 1:
            raise TwilioError(63030, "Only one MediaUrl is supported for WhatsApp")
        if not _is_link(media):
            raise TwilioError(21620)
        kind = media_kind(mimetypes.guess_type(urlsplit(media).path)[0] or "")
        return Said(kind, body if kind == "image" else "", callback)  # other media lose their text

    def _template(self, account: str, sid: str, form: Mapping[str, str]) -> str:
        found = self._contents.find(account, sid)
        if found is None:
            raise TwilioError(21655)
        if found.status != "approved":
            raise TwilioError(63016, f"The template is {found.status}")
        return found.filled(form.get("ContentVariables", ""))

    def _is_unsubscribed(self, contact: Contact) -> bool:
        return self._out.messages.last_word(contact, (*_STOP, *_START)) in _STOP

    async def typing(self, call: Call) -> dict[str, Any]:
        """Also marks the message as read."""
        sid = call.form.get("messageId", "")
        read = call.form.get("channel") == "whatsapp" and any(
            self._out.messages.business_reads(number.number, sid, typing=True)
            for number in self._history.numbers(call.account)
        )
        if not read:
            raise TwilioError(20001, "messageId is no message of this account, or channel is not whatsapp")
        return {"success": True}

    # what was sent

    async def messages(self, call: Call) -> dict[str, Any]:
        return self._history.messages(call.account, call.query)

    async def message(self, call: Call) -> dict[str, Any]:
        return self._history.message(call.account, call.path["sid"])

    async def media(self, call: Call) -> dict[str, Any]:
        return self._history.media(call.account, call.path["sid"])

    # the account, its senders and templates

    async def account(self, call: Call) -> dict[str, Any]:
        uri = f"/2010-04-01/Accounts/{call.account}.json"
        return {"sid": call.account, "friendly_name": "Demo", "status": "active", "type": "Full", "uri": uri}

    async def senders(self, call: Call) -> dict[str, Any]:
        if not self._out.database.away:
            await self._out.database.learn_numbers(self._out.world)
        if call.query.get("Channel") != "whatsapp":
            raise TwilioError(20001, "Channel must be whatsapp")
        found = [self._out.senders.describe(number) for number in self._history.numbers(call.account)]
        return _page(call, "/v2/Channels/Senders", "senders", found)

    async def sender(self, call: Call) -> dict[str, Any]:
        return self._out.senders.describe(self._sender(call))

    async def change_sender(self, call: Call) -> dict[str, Any]:
        """JSON, as all of this newer API."""
        number, body = self._sender(call), _object(call.raw)
        webhook = body.get("webhook", {})
        urls = [webhook.get("callback_url") or "", webhook.get("status_callback_url") or ""]
        if not all(url == "" or _is_link(url) for url in urls):
            raise TwilioError(20001, "A callback URL is not valid")
        self._out.senders.change(number, *urls)
        return self._out.senders.describe(number)

    def _sender(self, call: Call) -> Number:
        for number in self._history.numbers(call.account):
            if sender_sid(number) == call.path["sid"]:
                return number
        raise TwilioError(20404)

    async def contents(self, call: Call) -> dict[str, Any]:
        found = [self._contents.describe(content) for content in self._contents.of(call.account)]
        return _page(call, "/v1/Content", "contents", found)

    async def approvals(self, call: Call) -> dict[str, Any]:
        found = [
            self._contents.describe(content, approvals=True) for content in self._contents.of(call.account)
        ]
        return _page(call, "/v1/ContentAndApprovals", "contents", found)

    async def approval(self, call: Call) -> dict[str, Any]:
        found = self._contents.find(call.account, call.path["sid"])
        if found is None:
            raise TwilioError(20404)
        return {
            "sid": found.sid,
            "account_sid": found.account,
            "whatsapp": {"type": "whatsapp", **twilio_contents.approval(found)},
        }

    async def put_content(self, data: dict[str, Any]) -> dict[str, Any]:
        """`POST /control/contents`: somebody writes a template in Twilio's console, or WhatsApp judges it."""
        given = Fields(data)
        content = twilio_contents.read(given, given.text("account"))
        given.end()
        self._contents.put(content)
        return self._contents.describe(content, approvals=True)


def _subject(call: Call) -> str:
    return f"{call.account} {json.dumps(call.form, ensure_ascii=False)}"


def _basic(request: Request) -> tuple[str, str]:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    try:
        text = base64.b64decode(given, validate=True).decode() if scheme.lower() == "basic" else ""
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise TwilioError(20003) from exc
    user, _, password = text.partition(":")
    if not re.fullmatch(r"(AC|SK)[0-9a-f]{32}", user):
        raise TwilioError(20003)
    return user, password


def _callback(url: str) -> str | None:
    """What of ours travels in the query of a status callback."""
    if not url:
        return None
    if not _is_link(url):
        raise TwilioError(21609, f"The StatusCallback URL {url} is not a valid URL")
    return parse_qs(urlsplit(url).query).get("message", [None])[0]


def _is_link(url: object) -> bool:
    return isinstance(url, str) and bool(re.fullmatch(r"https?://[^\s/]+\S*", url))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as exc:
        raise TwilioError(20001, "The body is not JSON") from exc
    if not isinstance(body, dict) or not isinstance(body.get("webhook", {}), dict):
        raise TwilioError(20001, "The body must be an object, and `webhook` too")
    return body


def _page(call: Call, path: str, name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A page of the newer APIs; their links name the real host: only the query of them is of use here."""
    size, index = page_size(call.query), page_index(call.query)
    host = "content" if path.startswith("/v1/Content") else "messaging"
    query = urlencode({**call.query, "PageSize": size, "Page": index + 1})
    more = f"https://{host}.twilio.com{path}?{query}" if len(found) > (index + 1) * size else None
    meta = {"key": name, "page": index, "page_size": size, "next_page_url": more}
    return {name: found[index * size : (index + 1) * size], "meta": meta}


def _faulty(fault: Fault, accepted: dict[str, Any] | None = None) -> Answer:
    return faulty_answer(fault, refusal, broken=20500, busy=20429, accepted=accepted)


async def _unknown(request: Request) -> Answer:
    error = TwilioError(20404, f"The requested resource {request.url.path} was not found")
    return Json(error.body(), error.status)
