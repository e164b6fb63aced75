"""Message templates as providers list them: every page of an account, each entry in our own words.

What is asked for is never written here: a template is made, and approved, at its provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

from shared.accounts.base import AccountSettings, Api
from shared.accounts.meta import judge as judge_meta
from shared.accounts.twilio import judge as judge_twilio
from shared.errors import UpstreamError
from shared.events import JsonObject
from shared.senders.settings import GraphSettings, TwilioSettings
from shared.shapes import listing, lower, mapping, text

if TYPE_CHECKING:
    import httpx

PAGE = 100
MOST_PAGES = 100  # a WABA may have 6,000 templates
CATEGORIES = ("marketing", "utility", "authentication")

_FIELDS = (
    "id,name,language,category,correct_category,status,rejected_reason,quality_score,"
    "parameter_format,components"
)


class TemplateSettings(GraphSettings, TwilioSettings, AccountSettings):
    """What is needed to ask."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Templates as the RPC templates_apply takes them; only a complete list says what is gone."""

    templates: list[JsonObject]
    is_complete: bool


class Catalogue(Protocol):
    async def of(self, account: str, token: str) -> Listed:
        """All templates of an account. Raises a RecadoError when they cannot be had now."""


class GraphTemplates:
    def __init__(self, settings: TemplateSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        url = f"{settings.graph_url.rstrip('/')}/{settings.graph_version}"
        self._api = Api(url, settings.accounts_seconds, judge_meta, transport)

    async def of(self, account: str, token: str) -> Listed:
        query, found = {"fields": _FIELDS, "limit": str(PAGE)}, list[Any]()
        for _ in range(MOST_PAGES):
            answer = await self._api.call(
                "GET",
                f"{quote(account, safe='')}/message_templates",
                hide=(token,),
                params=query,
                headers={"authorization": f"Bearer {token}"},
            )
            found += _page(answer, "data")
            paging = mapping(answer.get("paging"))
            after = text(mapping(paging.get("cursors")).get("after"))
            if not paging.get("next") or after is None:
                return _listed(found, graph_template)
            query["after"] = after
        return Listed(_listed(found, graph_template).templates, is_complete=False)


class TwilioContents:
    """Twilio calls them contents; those that WhatsApp was never asked to approve are listed too."""

    def __init__(self, settings: TemplateSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        # contents have a host of their own, in every region
        url = settings.twilio_url.replace("://api.", "://content.", 1)
        self._api = Api(url, settings.accounts_seconds, judge_twilio, transport)

    async def of(self, account: str, token: str) -> Listed:
        query, found = {"PageSize": str(PAGE)}, list[Any]()
        for _ in range(MOST_PAGES):
            answer = await self._api.call(
                "GET", "v1/ContentAndApprovals", hide=(token,), params=query, auth=(account, token)
            )
            found += _page(answer, "contents")
            following = text(mapping(answer.get("meta")).get("next_page_url"))
            if following is None:
                return _listed(found, twilio_template)
            query = dict(parse_qsl(urlsplit(following).query))  # never its host: the token goes to ours
        return Listed(_listed(found, twilio_template).templates, is_complete=False)


def _page(answer: JsonObject, name: str) -> list[Any]:
    """An answer without its list must not be taken for an account without templates."""
    found = answer.get(name)
    if not isinstance(found, list):
        raise UpstreamError("The provider's list of templates cannot be read.", hint="Try again later.")
    return found


def _listed(found: Iterable[Any], read: Callable[[JsonObject], JsonObject | None]) -> Listed:
    templates = [read(mapping(one)) for one in found]
    known = [one for one in templates if one is not None]
    return Listed(known, is_complete=len(known) == len(templates))


def graph_template(given: JsonObject) -> JsonObject | None:
    """None: it does not say what it is."""
    told = given.get("quality_score")
    reason = text(given.get("rejected_reason"))
    return _template(
        provider_template_id=text(given.get("id")),
        name=text(given.get("name")),
        language=text(given.get("language")),
        category=given.get("category"),
        correct_category=lower(given.get("correct_category")),
        status=lower(given.get("status")),
        rejected_reason=None if reason == "NONE" else reason,
        quality=text(mapping(told).get("score")) or text(told),
        parameter_format="named" if lower(given.get("parameter_format")) == "named" else "positional",
        components=[part for part in listing(given.get("components")) if isinstance(part, dict)],
    )


def twilio_template(given: JsonObject) -> JsonObject | None:
    approval = mapping(given.get("approval_requests"))
    types = mapping(given.get("types"))
    kind = text(approval.get("content_type")) or next(iter(types), "")
    return _template(
        provider_template_id=text(given.get("sid")),
        name=text(approval.get("name")) or text(given.get("friendly_name")),
        language=text(given.get("language")),
        category=approval.get("category"),
        status=lower(approval.get("status")) or "unsubmitted",
        rejected_reason=text(approval.get("rejection_reason")),
        parameter_format="positional",
        components=_components(mapping(types.get(kind))),
    )


def _template(*, category: Any, **fields: Any) -> JsonObject | None:
    """A category nobody knows is taken for the dearest."""
    if not all(fields[name] for name in ("provider_template_id", "name", "language", "status")):
        return None
    known = lower(category)
    return {**fields, "category": known if known in CATEGORIES else "marketing"}


def _components(content: JsonObject) -> list[JsonObject]:
    """A content's parts under Graph's names; its blanks {{1}} are numbered through all of them."""
    media = [one for one in listing(content.get("media")) if isinstance(one, str)]
    texts = {
        "HEADER": content.get("header_text"),
        "BODY": content.get("body") or content.get("title"),
        "FOOTER": content.get("footer") or content.get("subtitle"),
    }
    parts: list[JsonObject] = [
        {"type": part, "text": words} for part, words in texts.items() if isinstance(words, str) and words
    ]
    if media:
        parts.insert(0, {"type": "HEADER", "format": "MEDIA", "media": media})
    buttons = [_button(mapping(one)) for one in listing(content.get("actions"))]
    return [*parts, {"type": "BUTTONS", "buttons": buttons}] if buttons else parts


def _button(action: JsonObject) -> JsonObject:
    kept = {"text": action.get("title"), "url": action.get("url"), "phone_number": action.get("phone")}
    kind = text(action.get("type")) or "QUICK_REPLY"
    return {"type": kind.upper(), **{name: value for name, value in kept.items() if value is not None}}
