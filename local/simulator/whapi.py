"""Whapi's gateway: one token is one channel; strict in what it takes, and without any window."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from local.simulator import whapi_body
from local.simulator.afterwards import tell_later
from local.simulator.faults import Fault, faulty_answer
from local.simulator.http import Answer, BadInputError, Fields, Json
from local.simulator.letters import Item
from local.simulator.outside import Outside
from local.simulator.service import Do
from local.simulator.whapi_errors import WhapiError, refusal
from local.simulator.whapi_history import Call, History
from local.simulator.whapi_voice import new_id, said
from local.simulator.world import PHONE, Contact, Number

_TRIAL_MESSAGES, _TRIAL_CHATS, _DAY = 150, 5, 86400
_MONTH = 30 * _DAY


Endpoint = Callable[[Call], Awaitable[dict[str, Any]]]


class WhapiApi:
    def __init__(self, outside: Outside) -> None:
        self._out = outside
        self._channels = outside.channels
        self._voice = outside.whapi
        self._history = History(outside)

    def controls(self) -> Mapping[str, Do]:
        return {"chats": self.set_chat, "channels": self.set_channel}

    def routes(self) -> list[BaseRoute]:
        read: list[tuple[str, str, Endpoint]] = [
            ("GET", "/health", self.health),
            ("GET", "/users/profile", self.profile),
            ("GET", "/settings", self.settings),
            ("PATCH", "/settings", self.change_settings),
            ("GET", "/chats", self._history.chats),
            ("GET", "/chats/{chat}", self._history.chat),
            ("GET", "/messages/list", self._history.messages),
            ("GET", "/messages/list/{chat}", self._history.messages),
            ("GET", "/messages/{id}", self._history.message),
            ("PUT", "/messages/{id}", self.read),
            ("PUT", "/presences/{chat}", self.presence),
        ]
        send: list[tuple[str, str, Endpoint]] = [
            ("POST", "/messages/{kind}", self.send),
            ("PUT", "/messages/{id}/reaction", self.react),
            ("DELETE", "/messages/{id}/reaction", self.unreact),
        ]
        return [
            *(Route(path, self._serve("whapi.read", do), methods=[method]) for method, path, do in read),
            *(Route(path, self._serve("whapi.send", do), methods=[method]) for method, path, do in send),
            Route("/{path:path}", _unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ]

    # who calls

    def _serve(self, target: str, do: Endpoint) -> Callable[[Request], Awaitable[Answer]]:
        async def endpoint(request: Request) -> Answer:
            try:
                call = await self._call(request)
                fault = self._out.faults.take(target, call.subject)
                if fault and not fault.after_accept:
                    return _faulty(fault)
                answer = await do(call)
                return _faulty(fault, answer) if fault else Json(answer)
            except WhapiError as error:
                return Json(error.body(), error.code)

        return endpoint

    async def _call(self, request: Request) -> Call:
        raw = await request.body()
        number = await self._authorised(request)
        return Call(number, request.path_params, dict(request.query_params), _object(raw or b"{}"))

    async def _authorised(self, request: Request) -> Number:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else request.query_params.get("token", "")
        subject = self._out.tokens.subject(given)
        number = await self._out.find("whapi", subject) if subject else None
        if number is None or number.number != subject:
            raise WhapiError(401, "the token is not that of a channel")
        if not self._channels.is_linked(number) and request.url.path.rpartition("/")[2] not in _UNLINKED:
            raise WhapiError(401, "the phone is not linked to the channel")
        return number

    # the channel

    async def health(self, call: Call) -> dict[str, Any]:
        linked = self._channels.is_linked(call.number)
        user = {"user": {"id": call.number.phone, "name": call.number.name}} if linked else {}
        now = int(self._out.clock.now())
        return {
            "channel_id": call.number.number,
            "start_at": now - 3600,
            "uptime": 3600,
            "version": "1.8.7",
            "status": {"code": 4, "text": "AUTH"} if linked else {"code": 3, "text": "QR"},
            **user,
        }

    async def profile(self, call: Call) -> dict[str, Any]:
        return {"name": call.number.name, "push_name": call.number.name, "about": ""}

    async def settings(self, call: Call) -> dict[str, Any]:
        return self._channels.settings(call.number)

    async def change_settings(self, call: Call) -> dict[str, Any]:
        whapi_body.check_settings(call.body)
        return self._channels.change(call.number, call.body)

    # messages

    async def send(self, call: Call) -> dict[str, Any]:
        kind = call.path["kind"]
        rule = whapi_body.SENDS.get(kind)
        if rule is None:
            raise WhapiError(404, f"there is no /messages/{kind}")
        whapi_body.check(rule, call.body)
        contact = self._recipient(call.number, call.body["to"])
        if self._out.store.tuning.whapi_trial:
            self._check_trial(call.number, contact)
        return {"sent": True, "message": self._accept(call, contact, kind)}

    def _accept(self, call: Call, contact: Contact, kind: str) -> dict[str, Any]:
        content, tuning = {**call.body, "type": kind}, self._out.store.tuning
        with self._out.store.transaction():
            shown = said({"type": kind, kind: content})
            sent, _ = self._out.messages.send(contact, new_id(), "whapi", shown, content)
            message = self._voice.sent(contact, sent, "pending")
            # what is sent by the API comes back like what is written on the phone
            own = Item("messages", sent.wa_message_id, message, sent.at)
            self._out.webhooks.schedule(call.number.number, own, time.time() + tuning.sent_ms / 1000)
            tell_later(self._out, contact, sent, call.subject)
        return message

    def _recipient(self, number: Number, to: str) -> Contact:
        """By bare digits or by the id of the chat."""
        bare = to.removesuffix("@s.whatsapp.net")
        if PHONE.fullmatch(bare):
            return self._out.world.contact(number.number, bare)
        if re.fullmatch(r"\d+@lid", to):
            return self._out.world.contact(number.number, to)
        if re.fullmatch(r"[\d-]+@(g\.us|newsletter)", to):
            raise WhapiError(403, f"this channel is not a participant of {to}")
        raise WhapiError(400, "body['to'] must be the digits of a phone or the id of a chat")

    def _check_trial(self, number: Number, contact: Contact) -> None:
        now = self._out.clock.now()
        month = [sent for sent in self._out.messages.sent(number.number) if sent.at > now - _MONTH]
        chats = {sent.bsuid for sent in month} | {contact.bsuid}
        if len(chats) > _TRIAL_CHATS or len([s for s in month if s.at > now - _DAY]) >= _TRIAL_MESSAGES:
            raise WhapiError(402, "the trial allows 5 chats a month and 150 messages a day")

    async def read(self, call: Call) -> dict[str, Any]:
        if not self._out.messages.business_reads(call.number.number, call.path["id"], typing=False):
            raise WhapiError(404, "there is no such message")
        return {"success": True}

    async def react(self, call: Call) -> dict[str, Any]:
        whapi_body.check(whapi_body.REACTION, call.body)
        return self._react(call, call.body["emoji"])

    async def unreact(self, call: Call) -> dict[str, Any]:
        return self._react(call, "")

    def _react(self, call: Call, emoji: str) -> dict[str, Any]:
        target = self._history.find(call)
        contact = self._out.world.contact(call.number.number, target.bsuid)
        content = {
            "type": "action",
            "action": {"type": "reaction", "target": call.path["id"], "emoji": emoji},
        }
        self._out.messages.send(contact, new_id(), "whapi", said(content), content)
        return {"success": True}

    async def presence(self, call: Call) -> dict[str, Any]:
        whapi_body.check(whapi_body.PRESENCE, call.body)
        contact = self._recipient(call.number, call.path["chat"])
        self._out.messages.business_types(contact, call.body["presence"] != "pause")
        return {"success": True}

    # how tests move it

    async def set_chat(self, data: dict[str, Any]) -> dict[str, Any]:
        """What somebody did on the phone: the name of a chat, and its labels."""
        given = Fields(data)
        number, chat = await self._named(given), given.text("chat")
        chat = f"{chat}@s.whatsapp.net" if PHONE.fullmatch(chat) else chat
        contact, labels = self._history.contact(number, chat), given.raw("labels")
        name = given.text("name", contact.name)
        given.end()
        if labels is not None and not (
            isinstance(labels, list) and all(isinstance(one, str) for one in labels)
        ):
            raise BadInputError("`labels` must be a list of texts.")
        before = self._history.describe(number, chat, None)
        self._out.world.keep(Contact(**{**vars(contact), "name": name}))
        if labels is not None:
            self._channels.put_labels(number, chat, labels)
        after = self._history.describe(number, chat, None)
        body = {"before_update": before, "after_update": after, "changes": ["labels", "name"]}
        receipt = await self._out.webhooks.deliver_now(
            number.number, Item("chats_updates", chat, body, self._out.clock.now())
        )
        return {"status": receipt.status, "said": receipt.said, "chat": after}

    async def set_channel(self, data: dict[str, Any]) -> dict[str, Any]:
        """Somebody unlinks the phone, or links it again."""
        given = Fields(data)
        number, linked = await self._named(given), given.flag("linked", True)
        given.end()
        self._channels.link(number, linked)
        if not linked:
            user = {"id": number.phone, "name": number.name}
            await self._out.webhooks.deliver_now(
                number.number, Item("user", number.number, user, self._out.clock.now())
            )
        return {"number": number.number, "linked": linked}

    async def _named(self, given: Fields) -> Number:
        wanted = given.text("number")
        number = await self._out.find("whapi", wanted)
        if number is None:
            raise BadInputError(f"`number` is {wanted!r}, which no channel of Whapi is called.")
        return number


_UNLINKED = ("health", "settings")  # what a channel without a phone still answers


def _texts(given: Any) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise BadInputError("`labels` must be a list of texts.")
    return given


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as exc:
        raise WhapiError(400, "the body is not JSON") from exc
    if not isinstance(body, dict):
        raise WhapiError(400, "the body must be a JSON object")
    return body


def _faulty(fault: Fault, accepted: dict[str, Any] | None = None) -> Answer:
    return faulty_answer(fault, refusal, broken=500, busy=429, accepted=accepted)


async def _unknown(request: Request) -> Answer:
    return Json(WhapiError(404, f"there is no {request.method} {request.url.path}").body(), 404)
