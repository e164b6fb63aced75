"""Meta's message templates: their list, how they are made and what becomes of them.

Every account has `hello_world` (as Meta gives it) and `recordatorio_cita` from the start.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from local.simulator.faults import faulty_answer
from local.simulator.graph_errors import GraphError, bad_token, refusal
from local.simulator.http import Answer, Fields, Json
from local.simulator.letters import Letter
from local.simulator.outside import Outside
from local.simulator.service import Do
from local.simulator.store import Store, dump
from local.simulator.template_check import check
from local.simulator.world import stranger

_CATEGORIES = ("MARKETING", "UTILITY", "AUTHENTICATION")
_STATUSES = ("PENDING", "APPROVED", "REJECTED", "PAUSED", "DISABLED", "FLAGGED", "IN_APPEAL", "DELETED")
_NAME = re.compile(r"[a-z0-9_]{1,512}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Z]{2})?")
_BLANK = re.compile(r"\{\{\s*\w+\s*\}\}")

Endpoint = Callable[[Request, str], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Template:
    account: str
    id: str
    name: str
    language: str
    category: str
    status: str
    components: list[dict[str, Any]]
    parameter_format: str = "POSITIONAL"
    reason: str = "NONE"
    quality: str = "UNKNOWN"
    correct_category: str = ""

    def shown(self) -> dict[str, Any]:
        """As Graph lists it."""
        about = {key: value for key, value in asdict(self).items() if key not in _NOT_SHOWN and value}
        return {**about, "rejected_reason": self.reason, "quality_score": {"score": self.quality, "date": 0}}


_NOT_SHOWN = ("account", "reason", "quality")


class Templates:
    """What is kept of them, each by its id."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.create("template", _TABLE)

    def of(self, account: str) -> list[Template]:
        rows = self._store.rows("select body from template where account = ? order by id", account)
        kept = {
            one.id: one for one in (*_first(account), *(Template(**json.loads(row["body"])) for row in rows))
        }
        return [one for one in kept.values() if one.status != "DELETED"]

    def find(self, account: str, name: str, language: str) -> Template | None:
        return next((one for one in self.of(account) if (one.name, one.language) == (name, language)), None)

    def keep(self, template: Template) -> None:
        self._store.run(
            "insert or replace into template values (?, ?, ?)",
            template.account,
            template.id,
            dump(asdict(template)),
        )

    def check_sent(self, account: str, given: dict[str, Any]) -> None:
        """Refuse what Meta refuses about the template of a message."""
        name, language = given["name"], given["language"]["code"]
        template = self.find(account, name, language)
        if template is None or template.status not in ("APPROVED", "FLAGGED", "PAUSED", "DISABLED"):
            raise GraphError(132001, f"template name ({name}) does not exist in {language}")
        if template.status == "PAUSED":
            raise GraphError(132015)
        if template.status == "DISABLED":
            raise GraphError(132016)
        check(template.components, template.parameter_format, given.get("components", []))


class GraphTemplates:
    def __init__(self, outside: Outside) -> None:
        self._out = outside
        self._templates = Templates(outside.store)

    def controls(self) -> Mapping[str, Do]:
        return {"templates": self.change}

    def routes(self) -> list[BaseRoute]:
        path = "/{version}/{account}/message_templates"
        table = (("GET", self.listed), ("POST", self.create), ("DELETE", self.delete))
        return [Route(path, self._serve(do), methods=[method]) for method, do in table]

    def _serve(self, do: Endpoint) -> Callable[[Request], Awaitable[Answer]]:
        async def endpoint(request: Request) -> Answer:
            account = request.path_params["account"]
            fault = self._out.faults.take("graph.read", f"{request.url.path} {request.url.query}")
            if fault:
                return faulty_answer(fault, refusal, broken=131000, busy=4)
            try:
                await self._authorise(request, account)
                return Json(await do(request, account))
            except GraphError as error:
                return Json(error.body(), error.status)

        return endpoint

    async def _authorise(self, request: Request, account: str) -> None:
        """A token of the account, or of a number in it."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        subject = self._out.tokens.subject(token) if token else None
        if subject is None:
            raise bad_token("Invalid OAuth access token - Cannot parse access token")
        if not self._out.database.away:
            await self._out.database.learn_numbers(self._out.world)
        number = self._out.world.number(subject)
        if account not in (subject, number.account if number else None):
            raise GraphError(200, "The token has no right to this WhatsApp account.")

    # what Graph answers

    async def listed(self, request: Request, account: str) -> dict[str, Any]:
        """A page; `after` is where the one before ended."""
        query = request.query_params
        limit, start = int(query.get("limit", 25)), _position(query.get("after"))
        wanted = [
            one.shown()
            for one in self._templates.of(account)
            if query.get("name", one.name) == one.name and query.get("status", one.status) == one.status
        ]
        page = wanted[start : start + limit]
        fields = set(query.get("fields", "id,name,language,category,status,components").split(",")) | {"id"}
        paging: dict[str, Any] = {"cursors": {"before": _cursor(start), "after": _cursor(start + len(page))}}
        if start + limit < len(wanted):
            paging["next"] = str(request.url.include_query_params(after=_cursor(start + limit)))
        data = [{key: value for key, value in one.items() if key in fields} for one in page]
        return {"data": data, "paging": paging}

    async def create(self, request: Request, account: str) -> dict[str, Any]:
        template = _read(await _body(request), account)
        if self._templates.find(account, template.name, template.language):
            raise GraphError(100, "There is already content in this language for this template.")
        self._templates.keep(template)
        return {"id": template.id, "status": template.status, "category": template.category}

    async def delete(self, request: Request, account: str) -> dict[str, Any]:
        """All languages of a name."""
        name = request.query_params.get("name")
        found = [one for one in self._templates.of(account) if one.name == name]
        if not found:
            raise GraphError(100, f"The message template {name} does not exist.")
        for one in found:
            self._templates.keep(replace(one, status="DELETED"))
        return {"success": True}

    # how tests move it

    async def change(self, data: dict[str, Any]) -> dict[str, Any]:
        """Make a template, or change one; Meta's webhook tells, unless `webhook` is false."""
        given = Fields(data)
        account, name, language = given.text("account"), given.text("name"), given.text("language", "es")
        before = self._templates.find(account, name, language)
        after = _changed(given, before or _new(account, name, language))
        tells = given.flag("webhook", True)
        given.end()
        self._templates.keep(after)
        news = _news(before, after, self._out.clock.now()) if tells else ()
        statuses = [(await self._out.webhooks.post(self._letter(payload))).status for payload in news]
        return {"template": after.shown(), "webhooks": statuses}

    def _letter(self, payload: dict[str, Any]) -> Letter:
        """Of the account, and of no number of it."""
        return self._out.webhooks.voices["cloud_api"].anything(stranger(""), payload, None)


def _changed(given: Fields, template: Template) -> Template:
    components = given.raw("components")
    return replace(
        template,
        category=given.choice("category", _CATEGORIES, template.category),
        status=given.choice("status", _STATUSES, template.status),
        parameter_format=given.choice("parameter_format", ("POSITIONAL", "NAMED"), template.parameter_format),
        reason=given.text("reason", "NONE"),
        quality=given.choice("quality", ("GREEN", "YELLOW", "RED", "UNKNOWN"), template.quality),
        correct_category=given.text("correct_category", template.correct_category),
        components=template.components if components is None else list(components),
    )


def _news(before: Template | None, after: Template, now: float) -> Iterator[dict[str, Any]]:
    """What Meta posts when a template becomes another."""
    about = {
        "message_template_id": int(after.id),
        "message_template_name": after.name,
        "message_template_language": after.language,
    }
    if before is None or (before.status, before.reason) != (after.status, after.reason):
        status = {"event": after.status, "message_template_category": after.category, "reason": after.reason}
        yield _payload(after, now, "message_template_status_update", {**status, **about})
    if before and before.quality != after.quality:
        scores = {"previous_quality_score": before.quality, "new_quality_score": after.quality}
        yield _payload(after, now, "message_template_quality_update", {**scores, **about})
    if before and before.category != after.category:
        categories = {"previous_category": before.category, "new_category": after.category}
        yield _payload(after, now, "template_category_update", {**categories, **about})
    if before and before.correct_category != after.correct_category:
        categories = {"previous_category": before.category, "correct_category": after.correct_category}
        yield _payload(after, now, "template_category_update", {**categories, **about})


def _payload(template: Template, now: float, name: str, value: dict[str, Any]) -> dict[str, Any]:
    change = {"field": name, "value": value}
    entry = {"id": template.account, "time": int(now), "changes": [change]}
    return {"object": "whatsapp_business_account", "entry": [entry]}


def _read(body: dict[str, Any], account: str) -> Template:
    """A new template, as strict as Meta about its parts."""
    name, language, components = body.get("name"), body.get("language"), body.get("components")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise GraphError(100, "Param name must be lower-case letters, digits and _.")
    if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
        raise GraphError(100, "Param language is not one of WhatsApp's.")
    if body.get("category") not in _CATEGORIES:
        raise GraphError(100, f"Param category must be one of {{{', '.join(_CATEGORIES)}}}.")
    if not isinstance(components, list) or not any(_type(one) == "BODY" for one in components):
        raise GraphError(100, "Param components must hold a BODY.")
    for one in components:
        if _type(one) == "BODY" and _BLANK.search(str(one.get("text"))) and not one.get("example"):
            raise GraphError(100, "Message template components with variables need an example.")
    return replace(
        _new(account, name, language),
        category=body["category"],
        status="PENDING",
        components=components,
        parameter_format=str(body.get("parameter_format", "POSITIONAL")).upper(),
    )


def _new(account: str, name: str, language: str) -> Template:
    return Template(
        account,
        _id(account, name, language),
        name,
        language,
        "UTILITY",
        "APPROVED",
        [{"type": "BODY", "text": "Hola"}],
    )


def _first(account: str) -> tuple[Template, ...]:
    reminder = {
        "type": "BODY",
        "text": "Hola {{1}}, te recordamos tu cita a las {{2}}.",
        "example": {"body_text": [["Ana", "10:00"]]},
    }
    hello = {"type": "BODY", "text": "Welcome and congratulations!!"}
    return (
        replace(_new(account, "hello_world", "en_US"), components=[hello]),
        replace(_new(account, "recordatorio_cita", "es"), components=[reminder]),
    )


def _type(component: Any) -> str:
    return str(component.get("type")).upper() if isinstance(component, dict) else ""


def _id(account: str, name: str, language: str) -> str:
    digest = hashlib.sha256(f"{account}:{name}:{language}".encode()).hexdigest()
    return str(10**15 + int(digest, 16) % 10**15)


def _cursor(position: int) -> str:
    return base64.urlsafe_b64encode(str(position).encode()).decode()


def _position(cursor: str | None) -> int:
    try:
        return int(base64.urlsafe_b64decode(cursor or "")) if cursor else 0
    except ValueError as exc:
        raise GraphError(100, "Param after is no cursor.") from exc


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError as exc:
        raise GraphError(100, "The request body is not valid JSON.") from exc
    if not isinstance(body, dict):
        raise GraphError(100, "The request body must be a JSON object.")
    return body


_TABLE = """create table if not exists template (
    account text not null, id text not null, body text not null, primary key (account, id))"""
