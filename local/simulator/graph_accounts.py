"""Meta's Graph API about accounts: tokens from their issue to their end, and numbers as they are set up.

A token is good for one number and the WhatsApp account (WABA) around it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from local.simulator.faults import faulty_answer
from local.simulator.graph_errors import GraphError, bad_token, no_such_object
from local.simulator.http import Answer, Fields, Json
from local.simulator.outside import Outside
from local.simulator.service import Do
from local.simulator.store import dump
from local.simulator.world import Number

SCOPES = ["whatsapp_business_management", "whatsapp_business_messaging", "public_profile"]
LIFE = 60 * 24 * 3600
FAULT = "graph.accounts"
SYNCS = ("smb_app_state_sync", "history")
_SHOWN: dict[str, Any] = {
    "quality_rating": "GREEN",
    "whatsapp_business_manager_messaging_limit": "TIER_2K",
    "is_on_biz_app": False,
}

Endpoint = Callable[[Request], Awaitable[dict[str, Any]]]


class GraphAccounts:
    def __init__(self, outside: Outside) -> None:
        self._out = outside
        self._store = outside.store
        self._store.create("code", _CODE)
        self._store.create("issued", _ISSUED)
        self._store.create("phone", _PHONE)
        self._store.create("account", _ACCOUNT)

    def controls(self) -> Mapping[str, Do]:
        return {"codes": self.make_code, "phones": self.describe}

    def routes(self) -> list[BaseRoute]:
        table: list[tuple[str, str, Endpoint]] = [
            ("GET", "/oauth/access_token", self.issue),
            ("GET", "/oauth/revoke", self.revoke),
            ("GET", "/debug_token", self.debug),
            ("GET", "/{waba}/phone_numbers", self.numbers),
            ("GET", "/{waba}/subscribed_apps", self.subscriptions),
            ("POST", "/{waba}/subscribed_apps", self.subscribe),
            ("DELETE", "/{waba}/subscribed_apps", self.unsubscribe),
            ("POST", "/{number}/register", self.register),
            ("POST", "/{number}/smb_app_data", self.sync),
            ("GET", r"/{number:int}", self.number),
        ]
        return [Route("/{version}" + path, self._serve(do), methods=[method]) for method, path, do in table]

    def _serve(self, do: Endpoint) -> Callable[[Request], Awaitable[Answer]]:
        async def endpoint(request: Request) -> Answer:
            subject = f"{request.method} {request.url.path} {request.url.query} {await _text(request)}"
            fault = self._out.faults.take(FAULT, subject)
            try:
                answer = None if fault and not fault.after_accept else await do(request)
            except GraphError as refusal:
                return Json(refusal.body(), refusal.status)
            if fault is None:
                return Json(answer)
            return faulty_answer(fault, _refusal, broken=131000, busy=4, accepted=answer)

        return endpoint

    # tokens

    async def issue(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        self._check_app(query)
        kind = query.get("grant_type", "authorization_code")
        if kind == "client_credentials":
            return {"access_token": self._app_token, "token_type": "bearer"}
        if kind == "fb_exchange_token":
            return self._exchange(query)
        if kind != "authorization_code" or not query.get("code"):
            raise GraphError(100, "The parameter code is required.")
        return self._redeem(query["code"])

    def _exchange(self, query: Mapping[str, str]) -> dict[str, Any]:
        token = query.get("fb_exchange_token", "")
        number = self._out.tokens.subject(token)
        if number is None:
            raise bad_token("Error validating access token: Session has expired.")
        never = query.get("set_token_expires_in_60_days") != "true"
        return self._make_token(number, None if never else LIFE)

    def _redeem(self, code: str) -> dict[str, Any]:
        row = self._store.row("select * from code where code = ?", code)
        if row is None or row["used"] or row["expires_at"] <= self._out.clock.now():
            raise GraphError(100, "This authorization code has expired or has been used.", subcode=36007)
        self._store.run("update code set used = 1 where code = ?", code)
        return self._make_token(row["number"], row["token_seconds"])

    def _make_token(self, number: str, seconds: float | None) -> dict[str, Any]:
        now, token = self._out.clock.now(), "EAA" + secrets.token_hex(24)
        with self._store.transaction():
            self._store.run("insert into issued values (?, ?)", token, now)
            self._out.tokens.note(token, number, None if seconds is None else now + seconds)
        return {
            "access_token": token,
            "token_type": "bearer",
            **({} if seconds is None else {"expires_in": int(seconds)}),
        }

    async def debug(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        asking = query.get("access_token", "")
        if asking != self._app_token and self._out.tokens.subject(asking) is None:
            raise bad_token("Invalid OAuth access token - Cannot parse access token")
        token = query.get("input_token", "")
        expires_at = self._out.tokens.expires_at(token)
        data: dict[str, Any] = {
            "app_id": self._out.config.meta_app_id,
            "type": "SYSTEM_USER",
            "application": "Recado",
            "expires_at": int(expires_at or 0),
            "data_access_expires_at": 0,
            "is_valid": True,
            "scopes": SCOPES,
        }
        issued_at = self._store.value("select at from issued where token = ?", token)
        if issued_at is not None:
            data["issued_at"] = int(issued_at)
        if self._out.tokens.subject(token) is None:
            error = {"code": 190, "message": "Error validating access token: Session has expired."}
            data |= {"is_valid": False, "scopes": [], "error": error}
        return {"data": data}

    async def revoke(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        self._check_app(query)
        token = query.get("revoke_token", "")
        number = self._out.tokens.subject(token)
        if number is None:
            raise bad_token("Error validating access token: The session has been invalidated.")
        self._out.tokens.note(token, number, 0.0)
        return {"success": True}

    @property
    def _app_token(self) -> str:
        return f"{self._out.config.meta_app_id}|{self._out.config.meta_app_secret}"

    def _check_app(self, query: Mapping[str, str]) -> None:
        given = f"{query.get('client_id')}|{query.get('client_secret')}"
        if not secrets.compare_digest(given.encode(), self._app_token.encode()):
            raise GraphError(1, "Error validating client secret.")

    # numbers

    async def number(self, request: Request) -> dict[str, Any]:
        number = await self._opened(request)
        known = {
            "id": number.number,
            "display_phone_number": f"+{number.phone[:2]} {number.phone[2:]}",
            "verified_name": number.name,
            "platform_type": "CLOUD_API",
            **_SHOWN,
            **self._described(number),
        }
        asked = request.query_params.get("fields", "id,display_phone_number,verified_name").split(",")
        return {name: known[name] for name in ["id", *asked] if name in known}

    async def numbers(self, request: Request) -> dict[str, Any]:
        waba = await self._account(request)
        found = [
            one for one in self._out.world.numbers() if (one.provider, one.account) == ("cloud_api", waba)
        ]
        return {"data": [{"id": one.number, "display_phone_number": f"+{one.phone}"} for one in found]}

    async def subscribe(self, request: Request) -> dict[str, Any]:
        waba = await self._account(request)
        self._store.run("insert or ignore into account values (?)", waba)
        return {"success": True}

    async def unsubscribe(self, request: Request) -> dict[str, Any]:
        self._store.run("delete from account where waba = ?", await self._account(request))
        return {"success": True}

    async def subscriptions(self, request: Request) -> dict[str, Any]:
        waba = await self._account(request)
        app = {"whatsapp_business_api_data": {"id": self._out.config.meta_app_id, "name": "Recado"}}
        return {"data": [app] if self._store.row("select 1 from account where waba = ?", waba) else []}

    async def register(self, request: Request) -> dict[str, Any]:
        number, body = await self._opened(request), await _object(request)
        pin = body.get("pin")
        if body.get("messaging_product") != "whatsapp" or not str(pin).isdecimal() or len(str(pin)) != 6:
            raise GraphError(100, "The parameters messaging_product and pin (six digits) are required.")
        if self._described(number).get("pin", pin) != pin:
            raise GraphError(133005, "Two step verification PIN mismatch.")
        self._describe(number.number, {"pin": pin})
        return {"success": True}

    async def sync(self, request: Request) -> dict[str, Any]:
        """Each once, and only for a number that the Business app uses too."""
        number, body = await self._opened(request), await _object(request)
        known, kind = self._described(number), body.get("sync_type")
        if body.get("messaging_product") != "whatsapp" or kind not in SYNCS:
            raise GraphError(100, f"sync_type must be one of {{{', '.join(SYNCS)}}}.")
        if not known.get("is_on_biz_app") or kind in known.get("synced", []):
            raise GraphError(100, "This number's app cannot be asked for that (again).")
        self._describe(number.number, {"synced": [*known.get("synced", []), kind]})
        return {"messaging_product": "whatsapp", "request_id": secrets.token_hex(8)}

    async def _opened(self, request: Request) -> Number:
        """The number of the path, if the caller's token opens it."""
        number, asked = await self._caller(request), str(request.path_params["number"])
        if number.number != asked:
            raise no_such_object(asked)
        return number

    async def _account(self, request: Request) -> str:
        number, asked = await self._caller(request), str(request.path_params["waba"])
        if number.account != asked:
            raise no_such_object(asked)
        return asked

    async def _caller(self, request: Request) -> Number:
        """The number that the token is good for."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        subject = self._out.tokens.subject(token.strip()) if scheme.lower() == "bearer" else None
        if subject is None:
            raise bad_token(f"Malformed access token {token}")  # Meta does quote it
        number = await self._out.find("cloud_api", subject)
        if number is None:
            raise no_such_object(subject)
        return number

    # how tests move it

    async def make_code(self, data: dict[str, Any]) -> dict[str, Any]:
        """An embedded sign-up ended: {number, token_expires_in?} -> {code}, good for ten minutes."""
        given = Fields(data)
        number, code = given.text("number"), "AQ" + secrets.token_hex(16)
        seconds = given.number("token_expires_in", LIFE)
        given.end()
        self._store.run(
            "insert into code values (?, ?, ?, ?, 0)", code, number, seconds, self._out.clock.now() + 600
        )
        return {"code": code}

    async def describe(self, data: dict[str, Any]) -> dict[str, Any]:
        """What Meta says about a number, as far as it is not the usual."""
        given = Fields(data)
        number = given.text("number")
        told = {
            "quality_rating": given.optional_text("quality_rating"),
            "whatsapp_business_manager_messaging_limit": given.optional_text("messaging_limit"),
            "is_on_biz_app": given.flag("is_on_biz_app", False) or None,
            "pin": given.optional_text("pin"),
        }
        given.end()
        return self._describe(number, {name: value for name, value in told.items() if value is not None})

    def _described(self, number: Number) -> dict[str, Any]:
        found = self._store.value("select said from phone where number = ?", number.number)
        return {} if found is None else dict(json.loads(found))

    def _describe(self, number: str, more: dict[str, Any]) -> dict[str, Any]:
        found = self._store.value("select said from phone where number = ?", number)
        said = {**(json.loads(found) if found else {}), **more}
        self._store.run("insert or replace into phone values (?, ?)", number, dump(said))
        return said


def _refusal(code: int) -> tuple[int, object]:
    error = GraphError(code)
    return error.status, error.body()


async def _text(request: Request) -> str:
    return (await request.body()).decode(errors="replace")


async def _object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError as exc:
        raise GraphError(100, "The request body is not valid JSON.") from exc
    if not isinstance(body, dict):
        raise GraphError(100, "The request body must be a JSON object.")
    return body


_CODE = """create table if not exists code (
    code text primary key, number text not null, token_seconds real, expires_at real not null,
    used int not null)"""
_ISSUED = "create table if not exists issued (token text primary key, at real not null)"
_PHONE = "create table if not exists phone (number text primary key, said text not null)"
_ACCOUNT = "create table if not exists account (waba text primary key)"
