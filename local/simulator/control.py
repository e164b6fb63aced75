"""How tests, the demo and the page move this world: write as a customer, order bad days, turn the clock."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import psycopg
from starlette.requests import Request
from starlette.routing import Route

from local.simulator import faults as faults_module
from local.simulator import meta, script, tokens
from local.simulator.config import Tuning
from local.simulator.graph import Graph
from local.simulator.graph_errors import ERRORS
from local.simulator.http import BadInputError, Fields, Json, json_body
from local.simulator.openai import OpenAI
from local.simulator.outside import Outside
from local.simulator.service import Do, Service
from local.simulator.webhooks import Receipt
from local.simulator.world import BSUID, PHONE, Contact, Number, new_id

_STATUSES = ("sent", "delivered", "read", "played", "failed")


class Control:
    def __init__(
        self, outside: Outside, graph: Graph, openai: OpenAI, services: Mapping[str, Sequence[Service]]
    ) -> None:
        self._out = outside
        self._graph = graph
        self._openai = openai
        self._theirs = [service.controls() for some in services.values() for service in some]

    def routes(self) -> list[Route]:
        post: Mapping[str, Do] = {
            **{name: do for theirs in self._theirs for name, do in theirs.items()},
            "inbound": self.inbound,
            "webhook": self.webhook,
            "verify": self.verify,
            "status": self.status,
            "faults": self.faults,
            "openai": self.openai,
            "clock": self.clock,
            "settings": self.settings,
            "numbers": self.number,
            "tokens": self.token,
            "reset": self.reset,
        }
        get: Mapping[str, Callable[[Mapping[str, str]], Awaitable[object]]] = {
            "sent": self.sent,
            "openai": self.asked,
            "state": self.state,
            "view": self.view,
        }
        return [
            *(Route(f"/control/{name}", _posted(do), methods=["POST"]) for name, do in post.items()),
            *(Route(f"/control/{name}", _got(do), methods=["GET"]) for name, do in get.items()),
            Route("/control/{path:path}", _unknown, methods=["GET", "POST"]),
        ]

    # writing as a customer, or as Meta

    async def inbound(self, data: dict[str, Any]) -> dict[str, Any]:
        given = Fields(data)
        number, address = given.text("number"), given.text("from")
        contact = self._customer(number, address, given)
        message = self._message(given)
        given.end()
        item = {**meta.sender(contact), **message}
        self._out.world.customer_writes(contact, item, _timestamp(item))
        began = time.perf_counter()
        known = None if item["type"] == "system" else meta.profile(contact)
        receipt = await self._out.webhooks.deliver_now(number, "messages", item, known)
        took = round((time.perf_counter() - began) * 1000, 1)
        return {**_told(receipt), "wa_message_id": item["id"], "took_ms": took}

    async def webhook(self, data: dict[str, Any]) -> dict[str, Any]:
        """Anything, once: `payload` is serialised and signed, or `raw` goes as it is."""
        given = Fields(data)
        raw, signature = given.raw("raw"), given.text("signature", "valid")
        payload = given.raw("payload")
        given.end()
        if (raw is None) == (payload is None):
            raise BadInputError("Give `payload` (any JSON) or `raw` (a text), one of them.")
        body = meta.to_bytes(payload) if raw is None else _bytes(raw)
        receipt = await self._out.webhooks.post(body, self._signature(signature, body))
        if receipt.status == 200:
            self._overhear(payload)
        return _told(receipt)

    async def verify(self, data: dict[str, Any]) -> dict[str, Any]:
        given = Fields(data)
        token, challenge = given.optional_text("token"), given.text("challenge", secrets.token_hex(8))
        given.end()
        return {**_told(await self._out.webhooks.verify(token, challenge)), "challenge": challenge}

    async def status(self, data: dict[str, Any]) -> dict[str, Any]:
        given = Fields(data)
        wa_message_id = given.text("wa_message_id")
        status = given.choice("status", _STATUSES)
        code = _error_code(given.raw("error"))
        number, to = given.optional_text("number"), given.optional_text("to")
        given.end()
        if code and status != "failed":
            raise BadInputError("`error` belongs to the status failed only.")
        contact, message = self._addressee(wa_message_id, number, to)
        free = contact.free_until >= self._out.clock.now()
        item = self._graph.status(contact, wa_message_id, status, 0, message, free, code)
        known = None if status == "failed" else meta.status_contact(contact, status)
        return _told(await self._out.webhooks.deliver_now(contact.number, "statuses", item, known))

    # what happened

    async def sent(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        given = Fields(query)
        number, to = given.optional_text("number"), given.optional_text("to")
        given.end()
        return [self._with_ticks(message) for message in self._out.world.sent(number, to and to.lstrip("+ "))]

    async def asked(self, _: Mapping[str, str]) -> list[dict[str, Any]]:
        return self._openai.asked()

    async def state(self, _: Mapping[str, str]) -> dict[str, Any]:
        return {
            "clock": self._out.clock.iso(),
            "ahead_seconds": self._out.clock.ahead,
            "counts": {**self._out.world.counts(), "asked": self._openai.count()},
            "webhooks": {**self._out.webhooks.counts(), "failing_now": self._out.webhooks.failing()},
            "faults": [asdict(fault) for fault in self._out.faults.ordered()],
            "openai": self._out.script.lines(),
            "settings": asdict(self._out.store.tuning),
            "last_sent": [self._with_ticks(message) for message in self._out.world.latest_sent(10)],
        }

    async def view(self, query: Mapping[str, str]) -> dict[str, Any]:
        """All the page shows: every chat in short, and one of them with both its sides."""
        given = Fields(query)
        number, address = given.optional_text("number"), given.optional_text("from")
        given.end()
        if not self._out.database.away:
            await self._out.database.learn_numbers(self._out.world)
        shown = {
            "database_away": self._out.database.away,
            "clock": self._out.clock.iso(),
            "ahead_seconds": self._out.clock.ahead,
            "numbers": [asdict(one) for one in self._out.world.numbers()],
            "chats": self._chats(),
        }
        if not number or not address:
            return shown
        contact = self._out.world.contact(number, _address(address))
        return {
            **shown,
            "contact": {**asdict(contact), "window_open": self._graph.window_is_open(contact)},
            "messages": [self._with_ticks(message) for message in self._out.world.conversation(contact)],
            "typing": self._out.world.typing(contact),
            "business": None if self._out.database.away else await self._out.database.business_side(contact),
        }

    # how the world behaves

    async def faults(self, data: dict[str, Any]) -> dict[str, Any]:
        """Order one, or cancel those of a target with {target, times: 0}."""
        if data.get("times") == 0:
            given = Fields(data)
            target = given.choice("target", tuple(faults_module.TARGETS))
            return {"canceled": self._out.faults.cancel(target)}
        self._out.faults.order(faults_module.parse(Fields(data)))
        return {"faults": [asdict(fault) for fault in self._out.faults.ordered()]}

    async def openai(self, data: dict[str, Any]) -> dict[str, Any]:
        """Say `text` always, or each of `queue` once; {} makes the model speak for itself again."""
        given = Fields(data)
        always, queue, match = given.raw("text"), given.raw("queue"), given.text("match", "")
        given.end()
        if queue is not None and not isinstance(queue, list):
            raise BadInputError("`queue` must be a list of answers.")
        lines = [script.parse(entry) for entry in queue or []]
        if not data:
            self._out.script.stop()
        if always is not None:
            self._out.script.say(script.parse(always), match, always=True)
        for line in lines:
            self._out.script.say(line, match, always=False)
        return {"openai": self._out.script.lines()}

    async def clock(self, data: dict[str, Any]) -> dict[str, Any]:
        given = Fields(data)
        seconds = given.number("advance_seconds")
        given.end()
        try:
            await self._out.database.advance(seconds)
        except psycopg.Error as exc:
            raise UnavailableError(f"The database did not move its clock: {exc}") from exc
        await self._out.database.follow(self._out.clock, self._out.store)
        return {"clock": self._out.clock.iso(), "ahead_seconds": self._out.clock.ahead}

    async def settings(self, data: dict[str, Any]) -> dict[str, Any]:
        given = Fields(data)
        chosen: dict[str, Any] = {}
        for name, before in asdict(self._out.store.tuning).items():
            read = given.flag if isinstance(before, bool) else given.number
            chosen[name] = type(before)(read(name, before))
        given.end()
        self._out.store.tuning = Tuning(**chosen)
        return {"settings": chosen}

    async def number(self, data: dict[str, Any]) -> dict[str, Any]:
        """A number Meta knows although no business connected it yet."""
        given = Fields(data)
        made = Number(
            given.text("number"), given.text("phone"), given.text("account"), given.text("name", "")
        )
        given.end()
        self._out.world.learn(made)
        return asdict(made)

    async def token(self, data: dict[str, Any]) -> dict[str, Any]:
        token, subject, seconds = tokens.parse(Fields(data))
        until = None if seconds is None else self._out.clock.now() + seconds
        self._out.tokens.note(token, subject, until)
        return {"subject": subject, "expires_at": until and self._out.clock.iso(until)}

    async def reset(self, data: dict[str, Any]) -> dict[str, Any]:
        """Forget everything but the time."""
        Fields(data).end()
        self._out.store.forget_everything()
        self._out.store.note("ahead", self._out.clock.ahead)
        return {"reset": True}

    # parts

    def _customer(self, number: str, address: str, given: Fields) -> Contact:
        known = self._out.world.contact(number, _address(address))
        bsuid = given.optional_text("bsuid")
        if bsuid and not BSUID.fullmatch(bsuid):
            raise BadInputError("`bsuid` must look like CO.123456: a country and an id.")
        if bsuid and bsuid != known.bsuid:  # this id's own history, with the phone that came now
            known = replace(self._out.world.contact(number, bsuid), phone=known.phone, name=known.name)
        username = given.optional_text("username")
        return replace(known, name=given.text("name", known.name), username=username or known.username)

    def _message(self, given: Fields) -> dict[str, Any]:
        text, own = given.optional_text("text"), given.object("message")
        extra = {key: value for key in ("referral", "context") if (value := given.object(key))}
        if (text is None) == (not own):
            raise BadInputError("Give `text` or `message` (a raw message object), one of them.")
        content = {"type": "text", "text": {"body": text}} if text is not None else own
        message = {
            "id": new_id(secrets.token_hex(5)),
            "timestamp": str(int(self._out.clock.now())),
            **content,
            **extra,
        }
        if (
            not isinstance(message.get("type"), str)
            or not isinstance(message["id"], str)
            or not message["id"]
        ):
            raise BadInputError("`message.type` is missing, or `message.id` is not a text.")
        return message

    def _signature(self, chosen: str, body: bytes) -> str | None:
        if chosen == "valid":
            return self._out.webhooks.sign(body)
        if chosen == "wrong":
            return meta.signature(secrets.token_hex(8), body)
        return None if chosen == "missing" else chosen

    def _overhear(self, payload: object) -> None:
        """A customer's message in a hand-made payload opens the window like any other."""
        for number, message, known in meta.inbound_messages(payload):
            address = str(message.get("from") or message.get("from_user_id"))
            if not PHONE.fullmatch(address) and not BSUID.fullmatch(address):
                continue
            contact = self._out.world.contact(number, address)
            profile = known.get("profile")
            name = profile.get("name") if isinstance(profile, dict) else None
            at = _timestamp(message, self._out.clock.now())
            self._out.world.customer_writes(
                replace(contact, name=name if isinstance(name, str) else contact.name), message, at
            )
            self._out.world.webhook_answered(number, message["id"], 200)

    def _addressee(
        self, wa_message_id: str, number: str | None, to: str | None
    ) -> tuple[Contact, dict[str, Any]]:
        """Whose message it is; one that was never sent here needs the number and the customer."""
        row = self._out.world.sent_message(wa_message_id)
        if row:
            return self._out.world.contact(row["number"], row["bsuid"]), json.loads(row["message"])
        if not number or not to:
            raise BadInputError(
                f"`wa_message_id` {wa_message_id} was never sent; to make up a status give `number` and `to`."
            )
        return self._out.world.contact(number, _address(to)), {"type": "text", "to": to}

    def _with_ticks(self, message: dict[str, Any]) -> dict[str, Any]:
        if message.get("from") == "customer":
            return message
        return {**message, "status": self._out.webhooks.ticks(message["wa_message_id"])}

    def _chats(self) -> list[dict[str, Any]]:
        """The latest first."""
        chats = []
        for contact in self._out.world.latest_contacts():
            last = self._out.world.last_message(contact)
            if last:
                about = {"number": contact.number, "from": contact.address, "name": contact.name}
                chats.append({**about, "text": last["text"], "type": last["type"], "at": last["at"]})
        return chats


class UnavailableError(Exception):
    """Something the simulator needs is away; the message says what."""


def _posted(do: Do) -> Callable[[Request], Awaitable[Json]]:
    async def endpoint(request: Request) -> Json:
        return await _answered(do, await json_body(request) if await request.body() else {})

    return _guarded(endpoint)


def _got(do: Callable[[Mapping[str, str]], Awaitable[object]]) -> Callable[[Request], Awaitable[Json]]:
    async def endpoint(request: Request) -> Json:
        return await _answered(do, dict(request.query_params))

    return _guarded(endpoint)


async def _answered(do: Callable[[Any], Awaitable[object]], data: Any) -> Json:
    return Json(await do(data))


def _guarded(endpoint: Callable[[Request], Awaitable[Json]]) -> Callable[[Request], Awaitable[Json]]:
    async def safe(request: Request) -> Json:
        try:
            return await endpoint(request)
        except BadInputError as exc:
            return Json({"error": str(exc)}, 400)
        except UnavailableError as exc:
            return Json({"error": str(exc)}, 503)

    return safe


async def _unknown(request: Request) -> Json:
    return Json(
        {"error": f"There is no {request.method} {request.url.path}; see local/simulator/control.py."}, 404
    )


def _told(receipt: Receipt) -> dict[str, Any]:
    return {"status": receipt.status, "said": receipt.said}


def _address(text: str) -> str:
    """A phone in digits, or a business-scoped id."""
    if BSUID.fullmatch(text):
        return text
    digits = re.sub(r"[\s()+-]", "", text)
    if not PHONE.fullmatch(digits):
        raise BadInputError(
            f"`from` and `to` must be a phone of 8 to 15 digits or an id like CO.123, not {text!r}."
        )
    return digits


def _bytes(raw: object) -> bytes:
    if not isinstance(raw, str):
        raise BadInputError("`raw` must be a text: the body as it is to be posted.")
    return raw.encode("utf-8", "surrogatepass")


def _timestamp(message: dict[str, Any], default: float | None = None) -> float:
    given = str(message.get("timestamp"))
    if given.isascii() and given.isdecimal() and len(given) < 12:
        return float(given)
    if default is None:
        raise BadInputError("`message.timestamp` must be seconds since 1970, as a text.")
    return default


def _error_code(given: Any) -> int | None:
    code = given.get("code") if isinstance(given, dict) else given
    if code is not None and code not in ERRORS:
        raise BadInputError(f"`error` is {code!r}; allowed: {', '.join(map(str, ERRORS))}.")
    return code
