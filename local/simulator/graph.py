"""Meta's Graph API, as far as it sends WhatsApp messages: strict in what it takes, honest in what follows."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from local.simulator import graph_body, meta
from local.simulator.faults import Fault, plain_answer
from local.simulator.graph_errors import GraphError, bad_token, no_such_object
from local.simulator.http import Answer, Json, Truncated
from local.simulator.limits import Limits
from local.simulator.outside import Outside
from local.simulator.service import Do
from local.simulator.store import dump
from local.simulator.world import Contact, Number

_VERSION = re.compile(r"v\d{2}\.0")
_MARKETING = re.compile("promo|oferta|marketing|campaign|campana")


class Graph:
    def __init__(self, outside: Outside) -> None:
        self._out = outside
        self._limits = Limits()

    def controls(self) -> Mapping[str, Do]:
        return {}

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/{version}/{number}/messages", self.messages, methods=["POST"]),
            Route("/{version:str}/{path:path}", self.unknown, methods=["GET", "POST", "DELETE"]),
        ]

    async def unknown(self, request: Request) -> Answer:
        path = request.path_params["path"]
        return Json(GraphError(100, f"Unknown path components: /{path}").body(), 400)

    async def messages(self, request: Request) -> Answer:
        raw = await request.body()
        try:
            number = await self._authorised(request)
            body = _json(raw)
            return self._read(number, body) if graph_body.is_read(body) else await self._send(number, body)
        except GraphError as refusal:
            return Json(refusal.body(), refusal.status)

    # who calls

    async def _authorised(self, request: Request) -> Number:
        asked = request.path_params["number"]
        if not _VERSION.fullmatch(request.path_params["version"]):
            raise GraphError(100, f"Unknown path components: {request.url.path}")
        subject = self._out.tokens.subject(_token(request))
        if subject is None:
            raise bad_token("Invalid OAuth access token - Cannot parse access token")
        number = await self._number(asked)
        if number is None:
            raise no_such_object(asked)
        if subject != asked:
            raise bad_token("Error validating access token: The session is invalid for this phone number.")
        return number

    async def _number(self, asked: str) -> Number | None:
        """Known here, or connected meanwhile."""
        known = self._out.world.number(asked)
        if known is None and not self._out.database.away:
            await self._out.database.learn_numbers(self._out.world)
            known = self._out.world.number(asked)
        if known is None and self._out.database.away:
            raise GraphError(2, "Service temporarily unavailable.")  # nobody to ask whether it exists
        return known

    # read receipts

    def _read(self, number: Number, body: dict[str, Any]) -> Answer:
        fault = self._out.faults.take("graph.read", dump(body))
        if fault and not fault.after_accept:
            return _faulty(fault)
        graph_body.check_read(body)
        if not body["message_id"].startswith("wamid."):
            raise GraphError(131009, "message_id is not the id of a message of this number.")
        self._out.world.business_reads(number.number, body["message_id"], "typing_indicator" in body)
        return _faulty(fault) if fault else Json({"success": True})

    # messages

    async def _send(self, number: Number, body: dict[str, Any]) -> Answer:
        subject = f"{number.number} {json.dumps(body, ensure_ascii=False)}"
        fault = self._out.faults.take("graph.send", subject)
        if fault and not fault.after_accept:
            return _faulty(fault)
        graph_body.check_message(body)
        contact = await self._remembered(self._recipient(number, body))
        if self._out.store.tuning.rate_limits:
            self._limits.check(number.number, contact.bsuid)
        accepted = self._accept(contact, body, subject)
        return _faulty(fault, accepted) if fault else Json(accepted)

    def _recipient(self, number: Number, body: dict[str, Any]) -> Contact:
        """By phone when both are given, as Meta does."""
        if "to" not in body:
            return self._out.world.contact(number.number, body["recipient"])
        phone = graph_body.phone_of(body["to"])
        if phone == number.phone:
            raise GraphError(131021)
        return self._out.world.contact(number.number, phone)

    async def _remembered(self, contact: Contact) -> Contact:
        """What a test posted to the webhook past this world was, in the real one, written to us first."""
        if self.window_is_open(contact) or self._out.database.away:
            return contact
        wrote_at = await self._out.database.wrote_at(contact)
        return self._out.world.wrote(contact, wrote_at) if wrote_at else contact

    def _accept(self, contact: Contact, body: dict[str, Any], subject: str) -> dict[str, Any]:
        message = {"type": "text", **body}
        with self._out.store.transaction():
            wa_message_id, free = self._out.world.business_writes(
                contact, contact.address, message, "cloud_api"
            )
            self._tell_later(contact, wa_message_id, message, free, subject)
        who = {"input": body["to"], "wa_id": contact.phone} if "to" in body else {"input": body["recipient"]}
        if "to" not in body:
            who["user_id"] = contact.bsuid
        return {
            "messaging_product": "whatsapp",
            "contacts": [who],
            "messages": [{"id": wa_message_id, "message_status": "accepted"}],
        }

    def _tell_later(
        self, contact: Contact, wa_message_id: str, message: dict[str, Any], free: bool, subject: str
    ) -> None:
        """The statuses that follow, each with its time; what cannot be delivered fails here."""
        tuning, fault = self._out.store.tuning, self._out.faults.take("webhook.status", subject)
        is_open = self.window_is_open(contact)
        if fault and fault.kind == "drop_status":
            return
        failure = fault.code if fault else None
        if not is_open and message["type"] != "template":
            failure = 131047
        plan = {"sent": tuning.sent_ms, "delivered": tuning.delivered_ms}
        if is_open:  # somebody who is in the chat also looks at it
            plan["read"] = tuning.read_ms
        if failure:
            plan = {"failed": tuning.sent_ms}
        elif fault and fault.kind.startswith("only_"):
            plan = {status: ms for status, ms in plan.items() if status in ("sent", fault.kind[5:])}
        for status, ms in plan.items():
            item = self.status(contact, wa_message_id, status, ms / 1000, message, free, failure)
            for _ in range(2 if fault and fault.kind == "duplicate" else 1):
                self._out.webhooks.schedule(
                    contact.number, "statuses", item, _known_by(contact, status), time.time() + ms / 1000
                )

    def window_is_open(self, contact: Contact) -> bool:
        if self._out.world.is_stranger(contact):
            return self._out.store.tuning.strangers_window_open
        return contact.window_until > self._out.clock.now()

    def status(
        self,
        contact: Contact,
        wa_message_id: str,
        status: str,
        after: float,
        message: dict[str, Any],
        free: bool,
        code: int | None = None,
    ) -> dict[str, Any]:
        """One element of `statuses[]`."""
        item: dict[str, Any] = {
            "id": wa_message_id,
            "status": status,
            "timestamp": str(int(self._out.clock.now() + after)),
            **meta.recipient(contact),
        }
        if status == "failed":
            if "to" in message:
                item.pop("recipient_user_id", None)
            item["errors"] = [GraphError(code or 131026).as_status()]
        elif status in ("sent", "delivered"):
            item |= _pricing(message, free) | self._free_entry(contact, status, free)
        callback = message.get("biz_opaque_callback_data")
        return {**item, **({"biz_opaque_callback_data": callback} if callback is not None else {})}

    def _free_entry(self, contact: Contact, status: str, free: bool) -> dict[str, Any]:
        """Since v24 only a free entry point still has a conversation, and only `sent` tells when it ends."""
        if not free:
            return {}
        until = self._out.world.contact(contact.number, contact.address).free_until
        conversation: dict[str, Any] = {
            "id": meta.conversation_id(contact, until),
            "origin": {"type": "referral_conversion"},
        }
        if status == "sent":
            conversation["expiration_timestamp"] = str(int(until))
        return {"conversation": conversation}


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else request.query_params.get("access_token", "")
    if not token:
        raise bad_token("An access token is required to request this resource.")
    return token


def _json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as exc:
        raise GraphError(100, "The request body is not valid JSON.") from exc
    if not isinstance(body, dict):
        raise GraphError(100, "The request body must be a JSON object.")
    return body


def _known_by(contact: Contact, status: str) -> dict[str, Any] | None:
    """A failed status carries no contact."""
    return None if status == "failed" else meta.status_contact(contact, status)


def _pricing(message: dict[str, Any], free: bool) -> dict[str, Any]:
    category = "service"
    if message["type"] == "template":
        category = "marketing" if _MARKETING.search(message["template"]["name"]) else "utility"
    if free:
        return {
            "pricing": {
                "billable": False,
                "pricing_model": "PMP",
                "type": "free_entry_point",
                "category": "referral_conversion",
            }
        }
    return {"pricing": {"billable": True, "pricing_model": "PMP", "type": "regular", "category": category}}


def _faulty(fault: Fault, accepted: dict[str, Any] | None = None) -> Answer:
    if fault.code is not None:
        raise GraphError(fault.code)
    if fault.kind == "truncated" and accepted:
        return Truncated(json.dumps(accepted).encode())
    return plain_answer(fault, {500: GraphError(131000).body(), 429: GraphError(4).body()})
