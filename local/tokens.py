"""Who is calling: API keys and JSON web tokens, read the way the hosted platform reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hmac import compare_digest
from typing import Any

import jwt

_ALGORITHM = "HS256"
_ROLES = frozenset({"anon", "authenticated", "service_role"})
_ROLE_TOKEN_SECONDS = 600  # how long a token made for an API key lives
_RENEW_SECONDS = 60  # it is replaced this long before its end
_REMEMBERED = 4096  # callers whose credentials need not be checked again


@dataclass(frozen=True)
class Keys:
    """What the platform recognises its callers by."""

    jwt_secret: str
    publishable: str
    secret: str

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Keys:
        return cls(env["JWT_SECRET"], env["PUBLISHABLE_KEY"], env["SECRET_KEY"])


class RefusedError(Exception):
    """The caller is not let in; the message says why, the hint what to do."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def sign(secret: str, claims: Mapping[str, Any]) -> str:
    return jwt.encode(dict(claims), secret, _ALGORITHM)


def read(secret: str, token: str) -> dict[str, Any]:
    """The claims of a token signed with our secret, not expired, for a role an API caller may have."""
    try:
        claims = jwt.decode(token, secret, [_ALGORITHM], options={"verify_aud": False})
    except jwt.ExpiredSignatureError as exc:
        raise RefusedError("PGRST303", "JWT expired", "Refresh the session, or sign in again.") from exc
    except jwt.PyJWTError as exc:
        raise RefusedError(
            "PGRST301", f"JWT not accepted: {exc}", "Sign in again to get a valid token."
        ) from exc
    if str(claims.get("role")) not in _ROLES:
        raise RefusedError(
            "PGRST301",
            "JWT not accepted: no role an API caller may have",
            f"Roles: {', '.join(sorted(_ROLES))}.",
        )
    return claims


def bearer(authorization: str) -> str:
    """The token of an Authorization header."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise RefusedError(
            "PGRST302", "Authorization is not a bearer token", "Send `Authorization: Bearer <token>`."
        )
    return token.strip()


class Gate:
    """Turns what a caller sends (API key, token) into the one token the services behind get."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._check = lru_cache(_REMEMBERED)(self._checked)
        self._role_tokens: dict[str, tuple[str, float]] = {}

    def admit(self, apikey: str | None, authorization: str | None, user_agent: str) -> str:
        """The Authorization header to pass on, everything verified. Raises RefusedError."""
        role = self._role(apikey, user_agent)
        if self._only_key(apikey, authorization):
            return self._as_role(role)
        token = bearer(authorization or "")
        if self._check(token) <= time.time():
            raise RefusedError("PGRST303", "JWT expired", "Refresh the session, or sign in again.")
        return f"Bearer {token}"

    def identify(self, apikey: str | None, authorization: str | None, user_agent: str) -> str:
        """The same for a service that verifies users' tokens itself, and has routes that take none."""
        role = self._role(apikey, user_agent)
        return self._as_role(role) if self._only_key(apikey, authorization) else authorization or ""

    def _role(self, apikey: str | None, user_agent: str) -> str:
        if not apikey:
            raise RefusedError("no_api_key", "No API key found in request", "Send the `apikey` header.")
        if compare_digest(apikey.encode(), self._keys.publishable.encode()):
            return "anon"
        if not compare_digest(apikey.encode(), self._keys.secret.encode()):
            raise RefusedError(
                "bad_api_key", "Invalid API key", "Use this platform's publishable or secret key."
            )
        if "Mozilla/" in user_agent:
            raise RefusedError(
                "secret_key_in_browser",
                "Forbidden use of secret API key in browser",
                "Use the publishable key there; a secret key that reached a browser should be replaced.",
            )
        return "service_role"

    @staticmethod
    def _only_key(apikey: str | None, authorization: str | None) -> bool:
        """Clients without a user's token repeat the key as bearer token, or send none."""
        return not authorization or (authorization[:7].lower() == "bearer " and authorization[7:] == apikey)

    def _as_role(self, role: str) -> str:
        header, expires = self._role_tokens.get(role, ("", 0.0))
        if expires - _RENEW_SECONDS > time.time():
            return header
        now = int(time.time())
        token = sign(self._keys.jwt_secret, {"role": role, "iat": now, "exp": now + _ROLE_TOKEN_SECONDS})
        self._role_tokens[role] = f"Bearer {token}", now + _ROLE_TOKEN_SECONDS
        return self._role_tokens[role][0]

    def _checked(self, token: str) -> float:
        """When the token ends."""
        return float(read(self._keys.jwt_secret, token).get("exp", "inf"))
