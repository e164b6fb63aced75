"""What Whapi accepts in a body, and what it refuses."""

from __future__ import annotations

from typing import Any

from local.simulator.rules import (
    BrokenRuleError,
    Rule,
    anything,
    array,
    boolean,
    either,
    matching,
    one_of,
    record,
    text,
    within,
)
from local.simulator.whapi_errors import WhapiError

_ID = text(1, 128)
_MEDIA = either(
    matching(r"https?://\S{1,2000}", "a URL"),
    matching(r"data:[\w.+-]+/[\w.+-]+(;[\w=.-]+)*;base64,[A-Za-z0-9+/=]+", "a data URI"),
    matching(r"[\w-]{8,100}", "a URL, a data URI or the id of an upload"),
)
_COMMON: dict[str, Rule] = {"quoted": _ID, "edit": _ID, "typing_time": within(0, 60), "view_once": boolean}
_WORDS = record({"text": text(1, 4096)})
_BUTTON = record(
    {"type": one_of("quick_reply", "call", "url", "copy")},
    {
        "id": text(1, 256),
        "title": text(1, 25),
        **dict.fromkeys(("phone_number", "url", "copy_code"), anything),
    },
)
_ROW = record({"id": text(1, 200), "title": text(1, 24)}, {"description": text(0, 72)})
_SECTION = record({"rows": array(_ROW, 1, 10)}, {"title": text(0, 24)})
_ACTION = either(
    record({"buttons": array(_BUTTON, 1, 3)}),
    record({"list": record({"label": text(1, 20), "sections": array(_SECTION, 1, 10)})}),
)


def _media(**extra: Rule) -> Rule:
    told = {"mime_type": text(1, 255), "no_encode": boolean, "no_cache": boolean, "caption": text(0, 4096)}
    return record({"to": _ID, "media": _MEDIA}, {**_COMMON, **told, **extra})


SENDS: dict[str, Rule] = {
    "text": record({"to": _ID, "body": text(1, 65536)}, {**_COMMON, "no_link_preview": boolean}),
    **dict.fromkeys(("image", "gif", "short", "audio", "voice", "sticker"), _media()),
    "video": _media(),
    "document": _media(filename=text(1, 255)),
    "location": record(
        {"to": _ID, "latitude": within(-90, 90), "longitude": within(-180, 180)},
        {**_COMMON, "name": text(0, 1000), "address": text(0, 1000)},
    ),
    "contact": record({"to": _ID, "name": text(1, 512), "vcard": text(1, 65536)}, _COMMON),
    "interactive": record(
        {"to": _ID, "type": one_of("button", "list", "product"), "body": _WORDS, "action": _ACTION},
        {**_COMMON, "header": anything, "footer": _WORDS},
    ),
}
REACTION = record({"emoji": text(1, 16)})
PRESENCE = record({"presence": one_of("typing", "recording", "pause")}, {"delay": within(0, 60)})
_HOOK = record(
    {"url": matching(r"https?://\S{1,2000}", "a URL")},
    {
        "mode": one_of("body", "path", "method"),
        "events": array(
            record({"type": text(1, 32), "method": one_of("post", "put", "patch", "delete")}), 0, 100
        ),
        "headers": anything,
    },
)
SETTINGS = record(
    {},
    {
        "webhooks": array(_HOOK, 0, 10),
        "callback_persist": boolean,
        "callback_backoff_delay_ms": within(3_000, 15_000),
        "max_callback_backoff_delay_ms": within(600_000, 3_600_000),
        "media": record({"auto_download": array(text(1, 32), 0, 20)}),
        "offline_mode": boolean,
        "full_history": boolean,
        "proxy": anything,
    },
)


def check(rule: Rule, body: Any) -> None:
    try:
        rule(body, "body")
    except BrokenRuleError as broken:
        raise WhapiError(400, f"{broken.path} {broken.reason}") from broken


def check_settings(body: dict[str, Any]) -> None:
    check(SETTINGS, body)
    for hook in body.get("webhooks", []):
        headers = hook.get("headers", {})
        if not isinstance(headers, dict) or len(headers) > 5:
            raise WhapiError(400, "body['webhooks'] may have up to 5 headers each")
