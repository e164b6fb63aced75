"""People who can sign in, their sessions and refresh tokens: the SQL of the auth server.

Every function runs inside its caller's transaction.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

Row = dict[str, Any]
Connection = AsyncConnection[Row]

_NOBODYS_INSTANCE = "00000000-0000-0000-0000-000000000000"
_REUSE = timedelta(seconds=10)  # a refresh token may come twice within it: two tabs, an answer that got lost
_SELECT = """
    select u.*, coalesce(u.banned_until > now(), false) as banned,
        coalesce((
            select jsonb_agg(to_jsonb(i) order by i.created_at) from auth.identities i where i.user_id = u.id
        ), '[]') as identities
    from auth.users u"""


@dataclass(frozen=True)
class Session:
    """A sign-in, and the one refresh token that continues it."""

    id: str
    user_id: str
    refresh_token: str
    started: float


async def by_id(connection: Connection, user_id: str) -> Row | None:
    found = await connection.execute(f"{_SELECT} where u.id = %s and u.deleted_at is null", [user_id])
    return await found.fetchone()


async def by_email(connection: Connection, email: str) -> Row | None:
    found = await connection.execute(f"{_SELECT} where u.email = %s and not u.is_sso_user", [email])
    return await found.fetchone()


async def page(connection: Connection, number: int, size: int) -> tuple[list[Row], int]:
    """The newest first, and how many there are."""
    rows = await connection.execute(
        f"{_SELECT} order by u.created_at desc, u.id limit %s offset %s", [size, (number - 1) * size]
    )
    total = await connection.execute("select count(*) as total from auth.users")
    return await rows.fetchall(), (await total.fetchone() or {"total": 0})["total"]


async def create(
    connection: Connection, email: str, password_hash: str, user_metadata: Row, user_id: str | None = None
) -> str:
    """An account nobody has confirmed yet, with its e-mail identity; returns its id."""
    new_id = user_id or str(uuid.uuid4())
    app_metadata = {"provider": "email", "providers": ["email"]}
    await connection.execute(
        "insert into auth.users (instance_id, id, aud, role, email, encrypted_password, raw_app_meta_data,"
        " raw_user_meta_data, created_at, updated_at)"
        " values (%s, %s, 'authenticated', 'authenticated', %s, %s, %s, %s, now(), now())",
        [_NOBODYS_INSTANCE, new_id, email, password_hash, Jsonb(app_metadata), Jsonb(user_metadata)],
    )
    await _identify(connection, new_id, email)
    return new_id


async def confirm(connection: Connection, user_id: str) -> None:
    """A step of its own, as on the hosted platform: triggers see an update of email_confirmed_at."""
    await connection.execute(
        "update auth.users set email_confirmed_at = coalesce(email_confirmed_at, now()), updated_at = now(),"
        " raw_user_meta_data = coalesce(raw_user_meta_data, '{}') || %s where id = %s",
        [Jsonb({"email_verified": True}), user_id],
    )


@dataclass(frozen=True)
class Changes:
    """What is asked to become different about an account."""

    columns: Row  # of auth.users
    user_metadata: Row
    app_metadata: Row
    confirm: bool = False


async def change(
    connection: Connection, user_id: str, changes: Changes, keep_session: str | None = None
) -> None:
    """A new password ends every session but the one to keep."""
    if changes.columns:
        await _set(connection, user_id, changes.columns)
    if "email" in changes.columns:
        await _identify(connection, user_id, changes.columns["email"])
    if "encrypted_password" in changes.columns:
        await end_sessions(connection, user_id, keep_session)
    if changes.confirm:
        await confirm(connection, user_id)
    await _merge(connection, user_id, "raw_user_meta_data", changes.user_metadata)
    await _merge(connection, user_id, "raw_app_meta_data", changes.app_metadata)


async def delete(connection: Connection, user_id: str) -> bool:
    return (await connection.execute("delete from auth.users where id = %s", [user_id])).rowcount == 1


async def start_session(connection: Connection, user_id: str) -> Session:
    session_id, token = str(uuid.uuid4()), secrets.token_urlsafe(16)
    await connection.execute("update auth.users set last_sign_in_at = now() where id = %s", [user_id])
    started = await connection.execute(
        "insert into auth.sessions (id, user_id, aal, created_at, updated_at)"
        " values (%s, %s, 'aal1', now(), now()) returning extract(epoch from now())::float8 as at",
        [session_id, user_id],
    )
    await _add_token(connection, user_id, session_id, token, parent=None)
    return Session(session_id, user_id, token, (await started.fetchone() or {"at": 0.0})["at"])


async def continue_session(connection: Connection, token: str) -> Session | str:
    """The session with its next refresh token, or the error code why not. Commit either way: a token that is
    used again later than a lost answer explains may have been stolen, and ends the whole family."""
    found = await connection.execute(
        "select t.user_id, t.revoked, t.updated_at < now() - %s as old, s.id::text as session_id,"
        " extract(epoch from s.created_at)::float8 as started"
        " from auth.refresh_tokens t join auth.sessions s on s.id = t.session_id"
        " where t.token = %s for update of t",
        [_REUSE, token],
    )
    used = await found.fetchone()
    if not used:
        return "refresh_token_not_found"
    current = await _current_token(connection, used["session_id"])
    if not current or (used["revoked"] and used["old"] and current["parent"] != token):
        await _revoke(connection, used["session_id"])
        return "refresh_token_already_used"
    if current["parent"] == token:  # its answer was lost: here it is again
        next_token = str(current["token"])
    else:
        next_token = secrets.token_urlsafe(16)
        await _revoke(connection, used["session_id"])
        await _add_token(connection, used["user_id"], used["session_id"], next_token, parent=token)
    await connection.execute(
        "update auth.sessions set refreshed_at = now() at time zone 'utc', updated_at = now() where id = %s",
        [used["session_id"]],
    )
    return Session(used["session_id"], used["user_id"], next_token, used["started"])


async def has_session(connection: Connection, session_id: str) -> bool:
    found = await connection.execute("select from auth.sessions where id::text = %s", [session_id])
    return await found.fetchone() is not None


async def end_session(connection: Connection, session_id: str) -> None:
    await connection.execute("delete from auth.sessions where id::text = %s", [session_id])


async def end_sessions(connection: Connection, user_id: str, but: str | None = None) -> None:
    await connection.execute(
        "delete from auth.sessions where user_id = %s and id::text is distinct from %s", [user_id, but]
    )


async def _set(connection: Connection, user_id: str, columns: Row) -> None:
    assignments = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in columns]
    statement = sql.SQL("update auth.users set {}, updated_at = now() where id = {}")
    await connection.execute(
        statement.format(sql.SQL(", ").join(assignments), sql.Placeholder()), [*columns.values(), user_id]
    )


async def _merge(connection: Connection, user_id: str, column: str, changes: Row) -> None:
    """Set the given keys of a metadata column; a null removes its key."""
    if not changes:
        return
    statement = sql.SQL(
        "update auth.users set updated_at = now(), {column} = ("
        "select coalesce(jsonb_object_agg(key, value), '{{}}')"
        " from jsonb_each(coalesce({column}, '{{}}') || %s) where value <> 'null') where id = %s"
    )
    await connection.execute(statement.format(column=sql.Identifier(column)), [Jsonb(changes), user_id])


async def _identify(connection: Connection, user_id: str, email: str) -> None:
    data = {"sub": user_id, "email": email, "email_verified": False, "phone_verified": False}
    await connection.execute(
        "insert into auth.identities"
        " (provider_id, user_id, identity_data, provider, last_sign_in_at, created_at, updated_at)"
        " values (%s, %s, %s, 'email', now(), now(), now())"
        " on conflict (provider_id, provider) do update"
        " set identity_data = auth.identities.identity_data || excluded.identity_data, updated_at = now()",
        [user_id, user_id, Jsonb(data)],
    )


async def _current_token(connection: Connection, session_id: str) -> Row | None:
    found = await connection.execute(
        "select token, parent from auth.refresh_tokens where session_id = %s and not revoked"
        " order by id desc limit 1",
        [session_id],
    )
    return await found.fetchone()


async def _revoke(connection: Connection, session_id: str) -> None:
    await connection.execute(
        "update auth.refresh_tokens set revoked = true, updated_at = now()"
        " where session_id = %s and not revoked",
        [session_id],
    )


async def _add_token(
    connection: Connection, user_id: str, session_id: str, token: str, parent: str | None
) -> None:
    await connection.execute(
        "insert into auth.refresh_tokens"
        " (instance_id, token, user_id, revoked, parent, session_id, created_at, updated_at)"
        " values (%s, %s, %s, false, %s, %s, now(), now())",
        [_NOBODYS_INSTANCE, token, user_id, parent, session_id],
    )
