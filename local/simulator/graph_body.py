"""What POST /{phone_number_id}/messages accepts, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

from local.simulator.graph_errors import GraphError
from local.simulator.rules import (
    BrokenRuleError,
    Rule,
    anything,
    array,
    boolean,
    either,
    matching,
    number,
    one_of,
    record,
    text,
)
from local.simulator.world import BSUID, PHONE

_ID = text(1, 512)
_LINK = matching(r"https?://\S{1,2000}", "a valid URL")


def _media(**extra: Rule) -> Rule:
    """By the id of an upload or by a link, and by one of them only."""
    return either(record({"id": _ID}, extra), record({"link": _LINK}, extra))


_REPLY_BUTTON = record({"type": one_of("reply"), "reply": record({"id": text(1, 256), "title": text(1, 20)})})
_ROW = record({"id": text(1, 200), "title": text(1, 24)}, {"description": text(0, 72)})
_SECTION = record({"rows": array(_ROW, 1, 10)}, {"title": text(0, 24)})
_ACTIONS: dict[str, Rule] = {
    "button": record({"buttons": array(_REPLY_BUTTON, 1, 3)}),
    "list": record({"button": text(1, 20), "sections": array(_SECTION, 1, 10)}),
}
_OTHER_ACTIONS = (
    "address_message",
    "call_permission_request",
    "carousel",
    "catalog_message",
    "cta_url",
    "flow",
    "location_request_message",
    "product",
    "product_list",
    "request_contact_info",
    "voice_call",
)
_INTERACTIVE = record(
    {"type": one_of(*_ACTIONS, *_OTHER_ACTIONS), "action": anything},
    {"body": record({"text": text(1, 1024)}), "footer": record({"text": text(1, 60)}), "header": anything},
)
_TEMPLATE = record(
    {
        "name": matching(r"[a-z0-9_]{1,512}", "a template name (lower-case letters, digits, _)"),
        "language": record(
            {"code": matching(r"[a-z]{2,3}(_[A-Z]{2})?", "a language code")}, {"policy": anything}
        ),
    },
    {
        "components": array(
            record({"type": anything}, {"parameters": anything, "sub_type": anything, "index": anything}),
            0,
            50,
        ),
        "namespace": anything,
    },
)
_CONTACT = record(
    {
        "name": record(
            {"formatted_name": text(1, 512)},
            dict.fromkeys(("first_name", "last_name", "middle_name", "prefix", "suffix"), anything),
        )
    },
    dict.fromkeys(("addresses", "birthday", "emails", "org", "phones", "urls"), anything),
)

TYPES: dict[str, Rule] = {
    "text": record({"body": text(1, 4096)}, {"preview_url": boolean}),
    "image": _media(caption=text(0, 1024)),
    "video": _media(caption=text(0, 1024)),
    "audio": _media(voice=boolean),
    "document": _media(caption=text(0, 1024), filename=text(1, 240)),
    "sticker": _media(),
    "location": record({"latitude": number, "longitude": number}, {"name": anything, "address": anything}),
    "contacts": array(_CONTACT, 1, 257),
    "interactive": _INTERACTIVE,
    "reaction": record({"message_id": _ID, "emoji": text(0, 16)}),
    "template": _TEMPLATE,
}

_COMMON: dict[str, Rule] = {
    "messaging_product": one_of("whatsapp"),
    "recipient_type": one_of("individual"),
    "to": text(1, 32),
    "recipient": matching(BSUID.pattern, "a business-scoped user id"),
    "type": one_of(*TYPES),
    "context": record({"message_id": _ID}),
    "biz_opaque_callback_data": text(0, 512),
    "recipient_identity_key_hash": text(1, 256),
    "messaging_account_id": _ID,
}
_READ = record(
    {"messaging_product": one_of("whatsapp"), "status": one_of("read"), "message_id": _ID},
    {"typing_indicator": record({"type": one_of("text")})},
)


def is_read(body: dict[str, Any]) -> bool:
    """Not a message: the business has read one, or starts to type."""
    return "status" in body


def check_read(body: dict[str, Any]) -> None:
    _check(_READ, body)


def check_message(body: dict[str, Any]) -> None:
    _require(body, "messaging_product")
    if not body.get("to") and not body.get("recipient"):
        raise GraphError(100, "The parameter to is required.")
    kind = body.get("type", "text")  # Meta's own default
    if kind in TYPES and kind not in body:
        raise GraphError(131008, f"Required parameter is missing: {kind}")
    _check(record({}, {**_COMMON, **({kind: TYPES[kind]} if kind in TYPES else {})}), body)
    if kind == "interactive" and (rule := _ACTIONS.get(body["interactive"]["type"])):
        _check(rule, body["interactive"]["action"], "interactive['action']")


def phone_of(to: str) -> str:
    """Digits only; Meta forgives a plus, spaces, dashes and brackets."""
    digits = re.sub(r"[\s()+-]", "", to)
    if not PHONE.fullmatch(digits):
        raise GraphError(100, "Param to must be a phone number with its country code.")
    return digits


def _require(body: dict[str, Any], name: str) -> None:
    if name not in body:
        raise GraphError(100, f"The parameter {name} is required.")


def _check(rule: Rule, value: Any, path: str = "") -> None:
    try:
        rule(value, path)
    except BrokenRuleError as broken:
        code = 131008 if broken.missing else 100
        where = re.sub(r"^\['(\w+)'\]", r"\1", broken.path) or "body"
        raise GraphError(code, f"Param {where} {broken.reason}.") from broken
