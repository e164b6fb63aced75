"""Meta's Graph API, as far as it sends WhatsApp messages: strict in what it takes, honest in what follows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from local.simulator import graph_body, meta
from local.simulator.afterwards import tell_later
from local.simulator.faults import Fault, faulty_answer
from local.simulator.graph_errors import GraphError, bad_token, no_such_object, refusal
from local.simulator.graph_templates import Templates
from local.simulator.http import Answer, Json
from local.simulator.limits import Limits
from local.simulator.outside import Outside
from local.simulator.service import Do
from local.simulator.store import dump
from local.simulator.world import Contact, Number

_VERSION = re.compile(r"v\d{2}\.0")
_LIMITS = {"number": 130429, "pair": 131056}


class Graph:
    def __init__(self, outside: Outside) -> None:
        self._out = outside
        self._limits = Limits()
        self._templates = Templates(outside.store)

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
        except GraphError as error:
            return Json(error.body(), error.status)

    # who calls

    async def _authorised(self, request: Request) -> Number:
        asked = request.path_params["number"]
        if not _VERSION.fullmatch(request.path_params["version"]):
            raise GraphError(100, f"Unknown path components: {request.url.path}")
        subject = self._out.tokens.subject(_token(request))
        if subject is None:
            raise bad_token("Invalid OAuth access token - Cannot parse access token")
        number = await self._number(asked)
        if subject != asked:
            raise bad_token("Error validating access token: The session is invalid for this phone number.")
        return number

    async def _number(self, asked: str) -> Number:
        number = await self._out.find("cloud_api", asked)
        if number is not None and number.number == asked:
            return number
        if self._out.database.away:
            raise GraphError(2, "Service temporarily unavailable.")  # nobody to ask whether it exists
        raise no_such_object(asked)

    # read receipts

    def _read(self, number: Number, body: dict[str, Any]) -> Answer:
        fault = self._out.faults.take("graph.read", f"{number.number} {dump(body)}")
        if fault and not fault.after_accept:
            return _faulty(fault)
        graph_body.check_read(body)
        if not body["message_id"].startswith("wamid."):
            raise GraphError(131009, "message_id is not the id of a message of this number.")
        self._out.messages.business_reads(number.number, body["message_id"], "typing_indicator" in body)
        return _faulty(fault) if fault else Json({"success": True})

    # messages

    async def _send(self, number: Number, body: dict[str, Any]) -> Answer:
        subject = f"{number.number} {json.dumps(body, ensure_ascii=False)}"
        fault = self._out.faults.take("graph.send", subject)
        if fault and not fault.after_accept:
            return _faulty(fault)
        graph_body.check_message(body)
        if body.get("type") == "template":
            self._templates.check_sent(number.account, body["template"])
        contact = await self._out.windows.remembered(self._recipient(number, body))
        limit = self._out.store.tuning.rate_limits and self._limits.reached(number.number, contact.bsuid)
        if limit:
            raise GraphError(_LIMITS[limit])
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

    def _accept(self, contact: Contact, body: dict[str, Any], subject: str) -> dict[str, Any]:
        message, new_id = {"type": "text", **body}, meta.new_id(contact.address)
        with self._out.store.transaction():
            sent, free = self._out.messages.send(contact, new_id, "cloud_api", meta.said(message), message)
            tell_later(self._out, contact, sent, subject, free=free)
        who = {"input": body["to"], "wa_id": contact.phone} if "to" in body else {"input": body["recipient"]}
        if "to" not in body:
            who["user_id"] = contact.bsuid
        return {
            "messaging_product": "whatsapp",
            "contacts": [who],
            "messages": [{"id": new_id, "message_status": "accepted"}],
        }


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


def _faulty(fault: Fault, accepted: dict[str, Any] | None = None) -> Answer:
    return faulty_answer(fault, refusal, broken=131000, busy=4, accepted=accepted)
