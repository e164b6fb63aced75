"""What Meta says about accounts, templates and numbers, rather than about messages: `Account` events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from shared import shapes
from shared.events import Account, JsonObject
from shared.shapes import OddShapeError

_BUTTON = "message_template_button_"
_NO_LIMIT = "TIER_UNLIMITED"


def read(field: str, value: JsonObject, at: datetime) -> Account | None:
    """None: the field is about something else. OddShapeError: it lacks what it is about."""
    if field not in _READERS:
        return None
    subject, reader = _READERS[field]
    data = {name: held for name, held in reader(value).items() if held is not None or name == "limit"}
    return Account(id=None, at=at, subject=subject, data=data)


def _template(value: JsonObject) -> JsonObject:
    """Which one: by its id, or by name and language."""
    found = {
        "template_id": shapes.identifier(value.get("message_template_id")),
        "name": shapes.text(value.get("message_template_name")),
        "language": shapes.text(value.get("message_template_language")),
    }
    if not found["template_id"] and not (found["name"] and found["language"]):
        raise OddShapeError("It does not say which template it is about.")
    return found


def _template_status(value: JsonObject) -> JsonObject:
    rejection = shapes.mapping(value.get("rejection_info"))
    other = shapes.mapping(value.get("other_info"))
    told = shapes.text(rejection.get("reason")) or shapes.text(value.get("reason"))
    reasons = (
        None if told == "NONE" else told,
        shapes.text(other.get("title")),
        shapes.text(other.get("description")),
    )
    return _template(value) | {
        "category": shapes.lower(value.get("message_template_category")),
        "status": _required(value, "event").lower(),
        "reason": ": ".join(filter(None, reasons)) or None,
    }


def _template_quality(value: JsonObject) -> JsonObject:
    return _template(value) | {"quality": _required(value, "new_quality_score").upper()}


def _template_category(value: JsonObject) -> JsonObject:
    keys = {"category": "new_category", "previous": "previous_category", "correct": "correct_category"}
    return _template(value) | {name: shapes.lower(value.get(key)) for name, key in keys.items()}


def _template_components(value: JsonObject) -> JsonObject:
    title, text, footer = (shapes.text(value.get(f"message_template_{part}")) for part in _TEXTS)
    buttons = shapes.listing(value.get("message_template_buttons"))
    components: list[JsonObject] = []
    if title:
        components.append({"type": "HEADER", "format": "TEXT", "text": title})
    if text:
        components.append({"type": "BODY", "text": text})
    if footer:
        components.append({"type": "FOOTER", "text": footer})
    if buttons:
        components.append({"type": "BUTTONS", "buttons": [_button(shapes.mapping(one)) for one in buttons]})
    return _template(value) | {"components": components}


_TEXTS = ("title", "element", "footer")


def _button(button: JsonObject) -> JsonObject:
    return {name.removeprefix(_BUTTON): held for name, held in button.items() if held is not None}


def _number_quality(value: JsonObject) -> JsonObject:
    return _phone(value) | {"event": shapes.lower(value.get("event"))} | _limit(value)


def _number_name(value: JsonObject) -> JsonObject:
    reason = shapes.text(value.get("rejection_reason"))
    return _phone(value) | {
        "name": shapes.text(value.get("requested_verified_name")),
        "decision": _required(value, "decision").lower(),
        "reason": None if reason == "NONE" else reason,
    }


def _number_username(value: JsonObject) -> JsonObject:
    username, status = shapes.identifier(value.get("username")), _required(value, "status").lower()
    return _phone(value) | {"username": username, "status": status}


def _capability(value: JsonObject) -> JsonObject:
    max_numbers = shapes.count(value.get("max_phone_numbers_per_business"), digits=9)
    return _limit(value) | {"max_numbers": max_numbers}


def _account(value: JsonObject) -> JsonObject:
    """Each event keeps its particulars under a key of its own; the one people ask for is the reason."""
    disconnection = shapes.mapping(value.get("disconnection_info"))
    violation = shapes.mapping(value.get("violation_info"))
    ban = shapes.mapping(value.get("ban_info"))
    reasons = (disconnection.get("reason"), violation.get("violation_type"), ban.get("waba_ban_state"))
    restrictions = [
        shapes.mapping(one).get("restriction_type") for one in shapes.listing(value.get("restriction_info"))
    ]
    return {
        "event": _required(value, "event").lower(),
        "phone": shapes.digits(value.get("phone_number")),
        "reason": ", ".join(filter(None, map(shapes.text, [*reasons, *restrictions]))) or None,
        "details": value,
    }


def _alert(value: JsonObject) -> JsonObject:
    """The particulars are nested in newer versions."""
    info = value | shapes.mapping(value.get("alert_info"))
    return {
        "severity": shapes.lower(info.get("alert_severity")),
        "status": shapes.lower(info.get("alert_status")),
        "type": _required(info, "alert_type").lower(),
        "message": shapes.text(info.get("alert_description")),
    }


def _review(value: JsonObject) -> JsonObject:
    return {"decision": _required(value, "decision").lower()}


def _security(value: JsonObject) -> JsonObject:
    requester = shapes.text(value.get("requester"))
    return _phone(value) | {"event": _required(value, "event").lower(), "requester": requester}


def _phone(value: JsonObject) -> JsonObject:
    phone = shapes.digits(value.get("display_phone_number"))
    if phone is None:
        raise OddShapeError("It does not say which number it is about.")
    return {"phone": phone}


def _limit(value: JsonObject) -> JsonObject:
    """TIER_2K is 2,000 customers a day; it has had several keys, and came as a number before."""
    keys = ("max_daily_conversations_per_business", "max_daily_conversation_per_phone", "current_limit")
    told = next((told for key in keys if (told := shapes.identifier(value.get(key)))), "").upper()
    if told == _NO_LIMIT or told == "-1":
        return {"limit": None}
    number = told.removeprefix("TIER_")
    limit = shapes.count(number.removesuffix("K"), digits=6)
    return {} if limit is None else {"limit": limit * 1000 if number.endswith("K") else limit}


def _required(value: JsonObject, key: str) -> str:
    if found := shapes.identifier(value.get(key)):
        return found
    raise OddShapeError(f"It has no {key}.")


_Reader = Callable[[JsonObject], Mapping[str, Any]]

_READERS: Mapping[str, tuple[str, _Reader]] = {
    "message_template_status_update": ("template_status", _template_status),
    "message_template_quality_update": ("template_quality", _template_quality),
    "template_category_update": ("template_category", _template_category),
    "message_template_components_update": ("template_components", _template_components),
    "phone_number_quality_update": ("number_quality", _number_quality),
    "phone_number_name_update": ("number_name", _number_name),
    "business_username_updates": ("number_username", _number_username),
    "business_capability_update": ("capability", _capability),
    "account_update": ("account", _account),
    "account_alerts": ("alert", _alert),
    "account_review_update": ("review", _review),
    "security": ("security", _security),
}
