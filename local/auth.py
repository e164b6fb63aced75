"""The auth server of the platform: the part of GoTrue's REST interface that password sign-in needs.

Every sign-up and every new address is confirmed at once: no mail is sent here. One answer differs from the
hosted server on purpose: a token that is not accepted gets 401 instead of 403, as everywhere else here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local import accounts, passwords, tokens
from local.accounts import Connection, Row, Session
from local.auth_database import REGISTERED, Database
from local.auth_messages import (
    AuthError,
    Body,
    error_response,
    invalid,
    page_links,
    positive,
    user_json,
    uuid_of,
)
from local.events import log

_TOKEN_SECONDS = 3600
_REFRESH_REFUSED = {
    "refresh_token_not_found": "Invalid Refresh Token: Refresh Token Not Found",
    "refresh_token_already_used": "Invalid Refresh Token: Already Used",
}


@dataclass(frozen=True)
class Caller:
    """A signed-in person, as the database has them now."""

    user: Row
    session_id: str | None

    @property
    def id(self) -> str:
        return str(self.user["id"])


class Auth:
    """The handlers, over one database."""

    def __init__(self, database: Database, jwt_secret: str, issuer: str) -> None:
        self._database = database
        self._secret = jwt_secret
        self._issuer = issuer

    def routes(self) -> list[Route]:
        return [
            Route("/signup", self.sign_up, methods=["POST"]),
            Route("/token", self.token, methods=["POST"]),
            Route("/user", self.get_user, methods=["GET"]),
            Route("/user", self.update_user, methods=["PUT"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Route("/settings", settings, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/.well-known/jwks.json", key_set, methods=["GET"]),
            Route("/admin/users", self.admin_list, methods=["GET"]),
            Route("/admin/users", self.admin_create, methods=["POST"]),
            Route("/admin/users/{id}", self.admin_get, methods=["GET"]),
            Route("/admin/users/{id}", self.admin_update, methods=["PUT"]),
            Route("/admin/users/{id}", self.admin_delete, methods=["DELETE"]),
        ]

    # anybody

    async def sign_up(self, request: Request) -> Response:
        body = await Body.of(request)
        email, data = body.email(), body.object("data")
        if not email:
            raise invalid("Sign up only available with email provider")
        password_hash = await body.new_password()
        if not password_hash:
            raise invalid("Signup requires a valid password")
        async with self._database.transaction(REGISTERED) as connection:
            user_id = await _register(connection, email, password_hash, data)
            session = await accounts.start_session(connection, user_id)
            user = await _existing(connection, user_id)
        return self._signed_in(user, session)

    async def token(self, request: Request) -> Response:
        grants = {"password": self._by_password, "refresh_token": self._by_refresh_token}
        grant = grants.get(request.query_params.get("grant_type", ""))
        if not grant:
            raise AuthError(400, "invalid_credentials", "unsupported_grant_type")
        return await grant(await Body.of(request))

    async def _by_password(self, body: Body) -> Response:
        email = body.text("email").strip().lower()
        if not email:
            raise invalid("missing email or phone")
        async with self._database.transaction() as connection:
            known = await accounts.by_email(connection, email)
        stored = known["encrypted_password"] if known else None
        if not await passwords.matches(body.text("password"), stored) or not known:
            raise AuthError(400, "invalid_credentials", "Invalid login credentials")
        _refuse_banned(known, 400)
        if not known["email_confirmed_at"]:
            raise AuthError(400, "email_not_confirmed", "Email not confirmed")
        async with self._database.transaction() as connection:
            session = await accounts.start_session(connection, str(known["id"]))
            user = await _existing(connection, str(known["id"]))
        return self._signed_in(user, session)

    async def _by_refresh_token(self, body: Body) -> Response:
        token = body.text("refresh_token")
        if not token:
            raise invalid("refresh_token required")
        async with self._database.transaction() as connection:
            session = await accounts.continue_session(connection, token)
            user = None if isinstance(session, str) else await _existing(connection, session.user_id)
        if isinstance(session, str) or not user:
            raise AuthError(400, str(session), _REFRESH_REFUSED[str(session)])
        _refuse_banned(user, 400)
        return self._signed_in(user, session)

    async def health(self, request: Request) -> Response:
        async with self._database.transaction() as connection:
            await connection.execute("select 1")
        return JSONResponse({"name": "GoTrue", "description": "Password sign-in of the local platform"})

    # people, about themselves

    async def get_user(self, request: Request) -> Response:
        async with self._database.transaction() as connection:
            caller = await self._caller(connection, request)
        return JSONResponse(user_json(caller.user))

    async def update_user(self, request: Request) -> Response:
        body = await Body.of(request)
        async with self._database.transaction() as connection:
            caller = await self._caller(connection, request)
        if body.object("app_metadata"):
            raise AuthError(403, "not_admin", "Updating app_metadata requires admin privileges")
        changes = await body.own_changes()
        if await passwords.matches(body.text("password"), caller.user["encrypted_password"]):
            message = "New password should be different from the old password."
            raise AuthError(422, "same_password", message)
        async with self._database.transaction() as connection:
            await accounts.change(connection, caller.id, changes, keep_session=caller.session_id)
            user = await _existing(connection, caller.id)
        return JSONResponse(user_json(user))

    async def log_out(self, request: Request) -> Response:
        scope = request.query_params.get("scope") or "global"
        if scope not in ("global", "local", "others"):
            raise invalid(f'Unsupported logout scope "{scope}"')
        async with self._database.transaction() as connection:
            caller = await self._caller(connection, request)
            if scope == "local" and caller.session_id:
                await accounts.end_session(connection, caller.session_id)
            else:
                await accounts.end_sessions(
                    connection, caller.id, caller.session_id if scope == "others" else None
                )
        return Response(status_code=204)

    # whoever holds the secret key

    async def admin_list(self, request: Request) -> Response:
        self._require_admin(request)
        number, size = positive(request, "page", 1), min(positive(request, "per_page", 50), 1000)
        async with self._database.transaction() as connection:
            rows, total = await accounts.page(connection, number, size)
        users = [user_json(row) for row in rows]
        headers = {"x-total-count": str(total), "link": page_links(number, size, total)}
        return JSONResponse({"users": users, "aud": "authenticated"}, headers=headers)

    async def admin_create(self, request: Request) -> Response:
        self._require_admin(request)
        body = await Body.of(request)
        changes = await body.admin_changes()
        columns = dict(changes.columns)
        email = columns.pop("email", None)
        if not email:
            raise invalid(
                "Cannot create a user without an email; phone accounts are not part of this platform"
            )
        password_hash = columns.pop("encrypted_password", None) or await passwords.hashed(
            passwords.unguessable()
        )
        chosen_id = uuid_of(body.text("id"), "ID") if body.text("id") else None
        async with self._database.transaction() as connection:
            user_id = await accounts.create(
                connection, email, password_hash, changes.user_metadata, chosen_id
            )
            await accounts.change(connection, user_id, replace(changes, columns=columns, user_metadata={}))
            user = await _existing(connection, user_id)
        return JSONResponse(user_json(user))

    async def admin_get(self, request: Request) -> Response:
        self._require_admin(request)
        async with self._database.transaction() as connection:
            user = await _named(connection, request)
        return JSONResponse(user_json(user))

    async def admin_update(self, request: Request) -> Response:
        self._require_admin(request)
        changes = await (await Body.of(request)).admin_changes()
        async with self._database.transaction() as connection:
            user_id = str((await _named(connection, request))["id"])
            await accounts.change(connection, user_id, changes)
            user = await _existing(connection, user_id)
        return JSONResponse(user_json(user))

    async def admin_delete(self, request: Request) -> Response:
        self._require_admin(request)
        if (await Body.of(request)).flag("should_soft_delete"):
            raise invalid("Soft deletion is not part of this platform: delete the user for good, or ban them")
        async with self._database.transaction() as connection:
            user = await _named(connection, request)
            await accounts.delete(connection, str(user["id"]))
        return JSONResponse({})

    # who calls

    def _claims(self, request: Request) -> dict[str, Any]:
        authorization = request.headers.get("authorization")
        if not authorization:
            raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
        try:
            return tokens.read(self._secret, tokens.bearer(authorization))
        except tokens.RefusedError as exc:
            raise AuthError(401, "bad_jwt", f"invalid JWT: {exc.message}") from exc

    async def _caller(self, connection: Connection, request: Request) -> Caller:
        claims = self._claims(request)
        if not claims.get("sub"):
            raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
        user = await accounts.by_id(connection, uuid_of(claims["sub"], "sub claim"))
        if not user:
            raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
        _refuse_banned(user, 403)
        session_id = claims.get("session_id")
        if session_id and not await accounts.has_session(connection, session_id):
            raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return Caller(user, session_id)

    def _require_admin(self, request: Request) -> None:
        if self._claims(request)["role"] != "service_role":
            raise AuthError(403, "not_admin", "User not allowed")

    def _signed_in(self, user: Row, session: Session) -> Response:
        now = int(time.time())
        shown = user_json(user)
        claims = {
            "iss": self._issuer,
            "sub": shown["id"],
            "iat": now,
            "exp": now + _TOKEN_SECONDS,
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": int(session.started)}],
            "session_id": session.id,
            **{name: shown[name] for name in ("aud", "role", "email", "phone", "is_anonymous")},
            **{name: shown[name] for name in ("app_metadata", "user_metadata")},
        }
        answer = {
            "access_token": tokens.sign(self._secret, claims),
            "token_type": "bearer",
            "expires_in": _TOKEN_SECONDS,
            "expires_at": now + _TOKEN_SECONDS,
            "refresh_token": session.refresh_token,
            "user": shown,
        }
        return JSONResponse(answer)


async def settings(request: Request) -> Response:
    return JSONResponse(
        {
            "external": {"email": True, "phone": False, "anonymous_users": False},
            "disable_signup": False,
            "mailer_autoconfirm": True,
            "phone_autoconfirm": False,
            "sms_provider": "",
            "saml_enabled": False,
        }
    )


async def key_set(request: Request) -> Response:
    """Empty: tokens are signed with a shared secret, which is not published."""
    return JSONResponse({"keys": []})


async def _register(connection: Connection, email: str, password_hash: str, data: Row) -> str:
    user_id = await accounts.create(connection, email, password_hash, data)
    about = {"sub": user_id, "email": email, "phone_verified": False}
    await accounts.change(connection, user_id, accounts.Changes({}, about, {}, confirm=True))
    return user_id


async def _existing(connection: Connection, user_id: str) -> Row:
    user = await accounts.by_id(connection, user_id)
    if not user:
        raise AuthError(403, "user_not_found", "The user was deleted meanwhile")
    return user


async def _named(connection: Connection, request: Request) -> Row:
    """The user whose id is in the path."""
    user = await accounts.by_id(connection, uuid_of(request.path_params["id"], "user_id"))
    if not user:
        raise AuthError(404, "user_not_found", "User not found")
    return user


def _refuse_banned(user: Row, status: int) -> None:
    if user["banned"]:
        raise AuthError(status, "user_banned", "User is banned")


async def _refused(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, AuthError):
        log("failed", severity="ERROR", path=request.url.path, reason=repr(exc))
        exc = AuthError(500, "unexpected_failure", "Unexpected failure, see the auth server's log")
    return error_response(request, exc)


async def _not_here(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 404
    message = f"{request.method} {request.url.path} is not part of this platform's sign-in"
    return error_response(request, AuthError(status, "not_found", message))


def application(dsn: str, jwt_secret: str, issuer: str) -> Starlette:
    database = Database(dsn)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with database:
            yield

    handlers = {AuthError: _refused, HTTPException: _not_here, Exception: _refused}
    routes = Auth(database, jwt_secret, issuer).routes()
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


def _leave(number: int, frame: FrameType | None) -> None:
    """uvicorn raises the signal that ended it once more, when everything is closed."""
    sys.exit(0)


def main() -> None:
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    issuer = os.environ.get("SUPABASE_URL", "") + "/auth/v1"
    app = application(os.environ["DATABASE_URL"], os.environ["JWT_SECRET"], issuer)
    log("auth started", port=int(os.environ["RECADO_PORT"]))
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["RECADO_PORT"]),
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
