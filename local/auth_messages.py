"""What the auth server reads and writes: request bodies checked, users and errors in the hosted shapes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from local import passwords
from local.accounts import Changes, Row

_MAX_BODY = 1024 * 1024
_CODE_IS_TEXT_SINCE = "2024-01-01"  # older API versions carry the HTTP status in `code`
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_UNITS = {
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_USER_TIMES = (
    "invited_at",
    "email_confirmed_at",
    "phone_confirmed_at",
    "confirmed_at",
    "last_sign_in_at",
    "banned_until",
)


class AuthError(Exception):
    """A refusal, as the client gets it."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.more = more


def invalid(message: str) -> AuthError:
    return AuthError(400, "validation_failed", message)


class Body:
    """The JSON object of a request; a field of the wrong type is refused when it is read."""

    def __init__(self, fields: Row) -> None:
        self._fields = fields

    @classmethod
    async def of(cls, request: Request) -> Body:
        raw = await _limited(request)
        try:
            fields = json.loads(raw or b"{}")
        except ValueError as exc:
            raise AuthError(400, "bad_json", f"Could not parse request body as JSON: {exc}") from exc
        if not isinstance(fields, dict):
            raise AuthError(400, "bad_json", "The request body is not a JSON object")
        return cls(fields)

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or "\0" in value or not _encodable(value):
            raise invalid(f"{name} must be a text")
        return value

    def object(self, name: str) -> Row:
        value = self._fields.get(name)
        if value is not None and not isinstance(value, dict):
            raise invalid(f"{name} must be an object")
        return value or {}

    def flag(self, name: str) -> bool:
        return self._fields.get(name) is True

    def email(self) -> str:
        """In lower case; empty when there is none."""
        email = self.text("email").strip().lower()
        if email and (len(email) > 255 or not _EMAIL.fullmatch(email)):
            raise invalid("Unable to validate email address: invalid format")
        return email

    async def new_password(self) -> str:
        """The hash to store, of a password that is good enough; empty when there is none."""
        password = self.text("password")
        if not password:
            return ""
        if len(password.encode()) > passwords.MAX_BYTES:
            raise invalid(f"Password cannot be longer than {passwords.MAX_BYTES} characters")
        if len(password) < passwords.MIN_LENGTH:
            message = f"Password should be at least {passwords.MIN_LENGTH} characters."
            raise AuthError(422, "weak_password", message, weak_password={"reasons": ["length"]})
        return await passwords.hashed(password)

    async def own_changes(self) -> Changes:
        """What people may change about themselves."""
        columns = {"email": self.email(), "encrypted_password": await self.new_password()}
        return Changes({name: value for name, value in columns.items() if value}, self.object("data"), {})

    async def admin_changes(self) -> Changes:
        columns: Row = {
            "email": self.email(),
            "encrypted_password": await self.new_password() or self._password_hash(),
            "role": self.text("role"),
        }
        columns = {name: value for name, value in columns.items() if value}
        if ban := self.text("ban_duration"):
            columns["banned_until"] = _banned_until(ban)
        return Changes(
            columns, self.object("user_metadata"), self.object("app_metadata"), self.flag("email_confirm")
        )

    def _password_hash(self) -> str:
        given = self.text("password_hash")
        if given and not passwords.is_hash(given):
            raise invalid("password_hash must be a bcrypt hash")
        return given


async def _limited(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise AuthError(413, "request_too_large", f"The request body is over {_MAX_BODY} bytes")
    return body


def uuid_of(text: str, what: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as exc:
        raise invalid(f"{what} must be an UUID") from exc


def positive(request: Request, name: str, default: int) -> int:
    value = request.query_params.get(name) or str(default)
    if not value.isdecimal() or not 0 < int(value) < 2**31:
        raise invalid(f"Bad Pagination Parameters: {name} must be a positive number")
    return int(value)


def user_json(user: Row) -> Row:
    times = {name: _time(user[name]) for name in _USER_TIMES if user[name]}
    return {
        "id": str(user["id"]),
        "aud": user["aud"] or "authenticated",
        "role": user["role"] or "authenticated",
        "email": user["email"] or "",
        "phone": user["phone"] or "",
        **times,
        "app_metadata": user["raw_app_meta_data"] or {},
        "user_metadata": user["raw_user_meta_data"] or {},
        "identities": [_identity_json(identity) for identity in user["identities"]],
        "created_at": _time(user["created_at"]),
        "updated_at": _time(user["updated_at"]),
        "is_anonymous": user["is_anonymous"],
    }


def error_response(request: Request, error: AuthError) -> Response:
    version = request.headers.get("x-supabase-api-version", "")
    headers = {"x-sb-error-code": error.code}
    if error.status == 503:
        headers["retry-after"] = "1"
    if version >= _CODE_IS_TEXT_SINCE:
        body = {"code": error.code, "message": error.message, **error.more}
        headers["x-supabase-api-version"] = _CODE_IS_TEXT_SINCE
    else:
        body = {"code": error.status, "error_code": error.code, "msg": error.message, **error.more}
    return JSONResponse(body, error.status, headers)


def page_links(number: int, size: int, total: int) -> str:
    last = max(1, -(-total // size))
    pages = {"next": number + 1} if number < last else {}
    return ", ".join(
        f'</admin/users?page={page}&per_page={size}>; rel="{rel}"'
        for rel, page in {**pages, "last": last}.items()
    )


def _identity_json(identity: Row) -> Row:
    return {
        "identity_id": identity["id"],
        "id": identity["provider_id"],
        "user_id": identity["user_id"],
        "identity_data": identity["identity_data"],
        "provider": identity["provider"],
        "email": identity["email"],
        "last_sign_in_at": identity["last_sign_in_at"],
        "created_at": identity["created_at"],
        "updated_at": identity["updated_at"],
    }


def _banned_until(duration: str) -> datetime | None:
    if duration == "none":
        return None
    parts = _DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise invalid("invalid format for ban duration: write it like 24h or 1h30m, or none")
    try:
        return datetime.now(UTC) + sum((float(number) * _UNITS[unit] for number, unit in parts), timedelta())
    except OverflowError as exc:
        raise invalid("the ban duration is too long") from exc


def _time(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None


def _encodable(text: str) -> bool:
    """No lone surrogates, which JSON may carry and nothing behind it takes."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
