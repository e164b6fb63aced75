"""How tests, the demo and the page move this world: write as a customer, order bad days, turn the clock."""

from __future__ import annotations

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
from local.simulator import meta, script, tokens, writing
from local.simulator.config import Tuning
from local.simulator.http import BadInputError, Fields, Json, json_body
from local.simulator.letters import Fate, Item, Receipt, Said, Voice
from local.simulator.messages import Received, Sent
from local.simulator.openai import OpenAI
from local.simulator.outside import Outside
from local.simulator.service import Do, Service
from local.simulator.world import BSUID, PHONE, PROVIDERS, Contact, Number, stranger

# how Whapi names a chat that is no phone's: a hidden identity, a group, a channel
_CHAT = re.compile(r"[\w.-]{1,64}@(lid|g\.us|newsletter|broadcast)")


class Control:
    def __init__(self, outside: Outside, openai: OpenAI, services: Mapping[str, Sequence[Service]]) -> None:
        self._out = outside
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

    # writing as a customer, or as a provider

    async def inbound(self, data: dict[str, Any]) -> dict[str, Any]:
        given = Fields(data)
        number, voice = await self._number(given)
        contact = self._customer(number, given.text("from"), given)
        written = writing.read(given, self._out.clock.now())
        given.end()
        item = voice.written(contact, written)
        self._out.messages.receive(contact, item, voice.said(item), item.at, is_echo=written.is_echo)
        began = time.perf_counter()
        receipt = await self._out.webhooks.deliver_now(number.number, item)
        took = round((time.perf_counter() - began) * 1000, 1)
        return {**_told(receipt), "wa_message_id": item.id, "took_ms": took}

    async def webhook(self, data: dict[str, Any]) -> dict[str, Any]:
        """Anything, once: `payload` is written as the number's provider writes, or `raw` goes as it is."""
        given = Fields(data)
        raw, proof = given.raw("raw"), given.text("signature", "valid")
        payload = given.raw("payload")
        number, voice = await self._number(given, "")
        given.end()
        if (raw is None) == (payload is None):
            raise BadInputError("Give `payload` (any JSON) or `raw` (a text), one of them.")
        letter = voice.anything(number, payload, None if raw is None else _bytes(raw))
        if proof != "valid":
            wrong = {"wrong": "sha256=" + secrets.token_hex(32), "missing": None}
            letter = letter.proven_by(voice.proof, wrong.get(proof, proof))
        receipt = await self._out.webhooks.post(letter)
        if receipt.accepted:
            self._overhear(payload)
        return _told(receipt)

    async def verify(self, data: dict[str, Any]) -> dict[str, Any]:
        given = Fields(data)
        token, challenge = given.optional_text("token"), given.text("challenge", secrets.token_hex(8))
        given.end()
        return {**_told(await self._out.webhooks.verify(token, challenge)), "challenge": challenge}

    async def status(self, data: dict[str, Any]) -> dict[str, Any]:
        given = Fields(data)
        wa_message_id, status = given.text("wa_message_id"), given.text("status")
        given_code, callback, to = given.raw("error"), given.optional_text("callback"), given.raw("to")
        sent = self._out.messages.sent_message(wa_message_id)
        number, voice = await self._number(given, sent.number if sent else "")
        code = _error_code(given_code, voice)
        if status not in voice.statuses:
            raise BadInputError(f"`status` is {status!r}; allowed: {', '.join(voice.statuses)}.")
        if code and status not in voice.failed:
            raise BadInputError(f"`error` belongs to the status {' or '.join(voice.failed)} only.")
        sent = sent or self._made_up(wa_message_id, number, to and _address(given.text("to")))
        given.end()
        if callback is not None:
            sent = replace(sent, said=replace(sent.said, callback=callback))
        contact = self._out.world.contact(sent.number, sent.bsuid)
        fate = Fate(status, 0, code, free=contact.free_until >= self._out.clock.now())
        return _told(await self._out.webhooks.deliver_now(sent.number, voice.status(contact, sent, fate)))

    # what happened

    async def sent(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        given = Fields(query)
        number, to = given.optional_text("number"), given.optional_text("to")
        given.end()
        return [self._shown(message) for message in self._out.messages.sent(number, to and to.lstrip("+ "))]

    async def asked(self, _: Mapping[str, str]) -> list[dict[str, Any]]:
        return self._openai.asked()

    async def state(self, _: Mapping[str, str]) -> dict[str, Any]:
        return {
            "clock": self._out.clock.iso(),
            "ahead_seconds": self._out.clock.ahead,
            "counts": {**self._out.messages.counts(), "asked": self._openai.count()},
            "webhooks": {**self._out.webhooks.counts(), "failing_now": self._out.webhooks.failing()},
            "faults": [asdict(fault) for fault in self._out.faults.ordered()],
            "openai": self._out.script.lines(),
            "settings": asdict(self._out.store.tuning),
            "last_sent": [self._shown(message) for message in self._out.messages.latest_sent(10)],
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
            "numbers": [one.shown() for one in self._out.world.numbers()],
            "chats": self._chats(),
        }
        if not number or not address:
            return shown
        contact = self._out.world.contact(number, _address(address))
        return {
            **shown,
            "contact": {
                **asdict(contact),
                "window_open": self._out.windows.is_open(contact),
                "has_window": self._out.windows.has_one(contact),
            },
            "messages": [self._with_side(message) for message in self._out.messages.conversation(contact)],
            "typing": self._out.messages.is_typing(contact),
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
        """A number its provider knows although no business connected it yet."""
        given = Fields(data)
        made = Number(
            number=given.text("number"),
            phone=given.text("phone"),
            account=given.text("account", ""),
            name=given.text("name", ""),
            provider=given.choice("provider", PROVIDERS, "cloud_api"),
            id=given.text("id", ""),
            secret=given.text("secret", ""),
        )
        given.end()
        self._out.world.learn(made)
        return made.shown()

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

    async def _number(self, given: Fields, default: str | None = None) -> tuple[Number, Voice]:
        """By id, phone or name. One that nobody knows is taken for Meta's: all of those have a single URL."""
        provider, wanted = given.choice("provider", ("", *PROVIDERS), ""), given.text("number", default)
        found = await self._out.find(provider, wanted) if wanted else None
        if found is None and provider not in ("", "cloud_api"):
            raise BadInputError(f"`number` is {wanted!r}, which no number of {provider} is called.")
        found = found or stranger(wanted)
        return found, self._out.voice(found.provider)

    def _customer(self, number: Number, address: str, given: Fields) -> Contact:
        known = self._out.world.contact(number.number, _address(address))
        bsuid = given.optional_text("bsuid")
        if bsuid and not BSUID.fullmatch(bsuid):
            raise BadInputError("`bsuid` must look like CO.123456: a country and an id.")
        if bsuid and bsuid != known.bsuid:  # this id's own history, with the phone that came now
            known = replace(self._out.world.contact(number.number, bsuid), phone=known.phone, name=known.name)
        username = given.optional_text("username")
        return replace(known, name=given.text("name", known.name), username=username or known.username)

    def _overhear(self, payload: object) -> None:
        """A customer's message in a hand-made payload of Meta's opens the window like any other."""
        for number, message, known in meta.inbound_messages(payload):
            address = str(message.get("from") or message.get("from_user_id"))
            if not PHONE.fullmatch(address) and not BSUID.fullmatch(address):
                continue
            contact = self._out.world.contact(number, address)
            profile = known.get("profile")
            name = profile.get("name") if isinstance(profile, dict) else None
            contact = replace(contact, name=name if isinstance(name, str) else contact.name)
            at = meta.unix(message.get("timestamp")) or self._out.clock.now()
            item = Item("messages", message["id"], message, at)
            self._out.messages.receive(contact, item, meta.said(message), at)
            self._out.messages.webhook_answered(number, item.id, 200)

    def _made_up(self, wa_message_id: str, number: Number, to: str | None) -> Sent:
        """A message that was never sent here, for a status of it."""
        if not number.number or not to:
            raise BadInputError(
                f"`wa_message_id` {wa_message_id} was never sent; to make up a status give `number` and `to`."
            )
        return Sent(
            wa_message_id=wa_message_id,
            provider=number.provider,
            number=number.number,
            bsuid=to,
            recipient=to,
            at=self._out.clock.now(),
            said=Said("text", ""),
            message={"type": "text", "to": to},
        )

    def _shown(self, message: Sent) -> dict[str, Any]:
        ticks = self._out.webhooks.ticks(message.wa_message_id)
        return {**message.shown(self._out.clock), "status": ticks}

    def _with_side(self, message: Received | Sent) -> dict[str, Any]:
        if isinstance(message, Received):
            return message.shown(self._out.clock)
        return {"from": "business", **self._shown(message)}

    def _chats(self) -> list[dict[str, Any]]:
        """The latest first."""
        chats = []
        for contact in self._out.messages.latest_contacts():
            last = self._out.messages.conversation(contact, 1)[-1].shown(self._out.clock)
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
    """A phone in digits, a business-scoped id, or the name of a chat."""
    if BSUID.fullmatch(text) or _CHAT.fullmatch(text):
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


def _error_code(given: Any, voice: Voice) -> int | None:
    code = given.get("code") if isinstance(given, dict) else given
    if code is not None and code not in voice.errors:
        raise BadInputError(f"`error` is {code!r}; allowed: {', '.join(map(str, voice.errors))}.")
    return code
