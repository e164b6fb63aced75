"""The one door to Postgres: a method for each RPC that machines call, named like it.

PostgREST is spoken to with plain httpx. The `postgrest` client would import for 90 ms more, half a function's
start, and would encode every batch anew where ours is made of JSON that is ready.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shared.errors import (
    AnswerLostError,
    DatabaseError,
    DatabaseUnavailableError,
    ForbiddenError,
    NotFoundError,
    RecadoError,
    UnauthorizedError,
    UnreachableError,
    database_error,
    http_errors,
)
from shared.events import JsonObject, Receipt
from shared.outward import client
from shared.settings import Settings

if TYPE_CHECKING:
    import httpx

SECONDS = 8.0  # for an answer; PostgREST itself gives up waiting for a connection after 10
_CONNECT_SECONDS = 2.0
_IDLE_SECONDS = 60.0  # below what gateways keep open
_SQLSTATE = re.compile("[0-9A-Z]{5}")
_REFUSED = {401: ForbiddenError, 403: ForbiddenError, 404: NotFoundError}


class Database:
    """Acts with the secret key, beyond row level security. Connections are made at first use."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._transport = transport

    async def webhook_receive(self, *, batch: Sequence[bytes]) -> list[Receipt]:
        """Store payloads, each given as JSON; one transaction, and the same again changes nothing."""
        answer = await self._call("webhook_receive", b'{"p_batch":[%b]}' % b",".join(batch))
        if not isinstance(answer, list) or len(answer) != len(batch):
            raise DatabaseError(f"webhook_receive did not answer for each of {len(batch)} payloads.")
        return [
            Receipt(
                status=one["status"],
                stored=one["stored"],
                repeated=one["repeated"],
                error=one.get("error"),
                product_events=one.get("product_events", ()),
            )
            for one in answer
        ]

    async def channel_webhook_keys(self, *, number_id: str) -> JsonObject | None:
        """What a delivery to this number is checked with, for memory only; None: no active number is it."""
        answer = await self._rpc("channel_webhook_keys", p_number_id=number_id)
        return answer if isinstance(answer, dict) else None

    async def backfill_claim(self, *, limit: int, lease_seconds: int) -> JsonObject:
        """{"claim", "now", "numbers"}: whose lists of messages are due, with all that reading them needs."""
        return await self._object("backfill_claim", p_limit=limit, p_lease_seconds=lease_seconds)

    async def backfill_settle(
        self, *, claim: str, tenant_id: str, number_id: str, read_until: datetime, is_done: bool
    ) -> bool:
        """False: somebody else has the number in hand by now."""
        answer = await self._rpc(
            "backfill_settle",
            p_claim=claim,
            p_tenant_id=tenant_id,
            p_number_id=number_id,
            p_read_until=read_until.isoformat(),
            p_is_done=is_done,
        )
        return bool(answer)

    async def backfill_fail(
        self,
        *,
        claim: str,
        tenant_id: str,
        number_id: str,
        problem: str,
        is_temporary: bool,
        retry_after_seconds: int | None,
    ) -> bool:
        answer = await self._rpc(
            "backfill_fail",
            p_claim=claim,
            p_tenant_id=tenant_id,
            p_number_id=number_id,
            p_problem=problem,
            p_is_temporary=is_temporary,
            p_retry_after_seconds=retry_after_seconds,
        )
        return bool(answer)

    async def reply_claim(self, *, limit: int, lease_seconds: int) -> JsonObject:
        """{"jobs", "next_in_ms"}: chats whose burst is over, each with all that answering it needs."""
        return await self._object("reply_claim", p_limit=limit, p_lease_seconds=lease_seconds)

    async def reply_settle(
        self,
        *,
        tenant_id: str,
        chat_id: str,
        claim: str,
        agent_id: str,
        content: str,
        usage: Sequence[JsonObject],
        summary: str | None,
        closes: bool,
    ) -> str:
        """Hand an answer in: answered, redo, silenced or lost."""
        answer = await self._object(
            "reply_settle",
            p_tenant_id=tenant_id,
            p_chat_id=chat_id,
            p_claim=claim,
            p_agent_id=agent_id,
            p_content=content,
            p_usage=usage,
            p_summary=summary,
            p_closes=closes,
        )
        return str(answer["status"])

    async def reply_fail(
        self,
        *,
        tenant_id: str,
        chat_id: str,
        claim: str,
        error: str,
        is_final: bool,
        retry_after_seconds: int | None,
        agent_id: str | None,
        usage: Sequence[JsonObject],
    ) -> str:
        """Give a chat back without an answer: retry, handed_over or lost."""
        answer = await self._rpc(
            "reply_fail",
            p_tenant_id=tenant_id,
            p_chat_id=chat_id,
            p_claim=claim,
            p_error=error,
            p_is_final=is_final,
            p_retry_after_seconds=retry_after_seconds,
            p_agent_id=agent_id,
            p_usage=usage,
        )
        return str(answer)

    async def lead_enrich(
        self, *, tenant_id: str, chat_id: str, name: str | None, labels: Sequence[str]
    ) -> bool:
        """What the provider knows of a customer; written where it is news. Is anything written?"""
        answer = await self._rpc(
            "lead_enrich", p_tenant_id=tenant_id, p_chat_id=chat_id, p_name=name, p_labels=list(labels)
        )
        return bool(answer)

    async def analysis_claim(self, *, limit: int, lease_seconds: int) -> JsonObject:
        """{"jobs", "next_in_ms"}: idle chats with news, each with all that reading it needs."""
        return await self._object("analysis_claim", p_limit=limit, p_lease_seconds=lease_seconds)

    async def analysis_settle(
        self, *, tenant_id: str, chat_id: str, claim: str, result: JsonObject, usage: Sequence[JsonObject]
    ) -> str:
        """Hand an analysis in: applied, unchanged or lost."""
        answer = await self._rpc(
            "analysis_settle",
            p_tenant_id=tenant_id,
            p_chat_id=chat_id,
            p_claim=claim,
            p_result=result,
            p_usage=usage,
        )
        return str(answer)

    async def analysis_fail(
        self,
        *,
        tenant_id: str,
        chat_id: str,
        claim: str,
        error: str,
        retry_after_seconds: int | None,
        usage: Sequence[JsonObject],
        is_passing: bool,
    ) -> str:
        """Give a chat back without one: retry, failed or lost."""
        answer = await self._rpc(
            "analysis_fail",
            p_tenant_id=tenant_id,
            p_chat_id=chat_id,
            p_claim=claim,
            p_error=error,
            p_retry_after_seconds=retry_after_seconds,
            p_usage=usage,
            p_is_passing=is_passing,
        )
        return str(answer)

    async def analysis_release(self, *, claim: str, reason: str) -> int:
        """Give back what was claimed, as if it had not been; the model bars us."""
        return int(await self._rpc("analysis_release", p_claim=claim, p_reason=reason))

    async def sequences_process(self, *, limit: int) -> JsonObject:
        """Run so many enrollments that are due at most: {"claimed", how many by outcome, "closed"}."""
        return await self._object("sequences_process", p_limit=limit)

    async def daily_plan(self, *, tenant_id: str | None, force: bool) -> int:
        """Plan the day of the businesses whose hour has come; how many follow-ups that made."""
        return int(await self._rpc("daily_plan", p_tenant_id=tenant_id, p_force=force))

    async def daily_claim(self, *, limit: int, lease_seconds: int) -> JsonObject:
        """{"jobs", "next_in_ms"}: planned follow-ups, each with all that writing it needs."""
        return await self._object("daily_claim", p_limit=limit, p_lease_seconds=lease_seconds)

    async def daily_settle(
        self,
        *,
        keys: JsonObject,
        agent_id: str,
        decision: str,
        message: str | None,
        at: str | None,
        usage: Sequence[JsonObject],
    ) -> str:
        """Hand a follow-up in: sent, rescheduled, manual, skipped or lost. `keys` name it and its claim."""
        answer = await self._rpc(
            "daily_settle",
            **{f"p_{name}": value for name, value in keys.items()},
            p_agent_id=agent_id,
            p_decision=decision,
            p_text=message,
            p_at=at,
            p_usage=usage,
        )
        return str(answer)

    async def daily_fail(
        self,
        *,
        keys: JsonObject,
        error: str,
        is_final: bool,
        retry_after_seconds: int | None,
        usage: Sequence[JsonObject],
        is_passing: bool,
    ) -> str:
        """Give a follow-up back: retry, manual or lost."""
        answer = await self._rpc(
            "daily_fail",
            **{f"p_{name}": value for name, value in keys.items()},
            p_error=error,
            p_is_final=is_final,
            p_retry_after_seconds=retry_after_seconds,
            p_usage=usage,
            p_is_passing=is_passing,
        )
        return str(answer)

    async def daily_release(self, *, claim: str, reason: str) -> int:
        """Give back what was claimed, as if it had not been; the model bars us."""
        return int(await self._rpc("daily_release", p_claim=claim, p_reason=reason))

    async def outbox_claim(self, *, limit: int, lease_seconds: int, worker: str, lead_ms: int) -> JsonObject:
        """{"claim", "now", "messages", "next_in_ms", "unknown", "closed"}: what may be sent within a second.

        `worker` keeps the numbers it is busy with; `lead_ms`: what it needs until it can send.
        """
        return await self._object(
            "outbox_claim", p_limit=limit, p_lease_seconds=lease_seconds, p_worker=worker, p_lead_ms=lead_ms
        )

    async def outbox_intent(
        self, *, claim: str, items: Sequence[JsonObject], lease_seconds: int
    ) -> list[str]:
        """The ids that may be sent now. Not to be repeated: what it said yes to once, it does not again."""
        answer = await self._rpc("outbox_intent", p_claim=claim, p_items=items, p_lease_seconds=lease_seconds)
        return [str(one) for one in answer]

    async def outbox_settle(self, *, claim: str, results: Sequence[JsonObject]) -> int:
        return int(await self._rpc("outbox_settle", p_claim=claim, p_results=results))

    async def channel_tokens(self, *, numbers: Sequence[JsonObject]) -> list[JsonObject]:
        """Access tokens, for memory only."""
        answer = await self._rpc("channel_tokens", p_numbers=numbers)
        return list(answer)

    async def me(self, *, jwt: str) -> JsonObject | None:
        """Who the token's holder is; None without a seat. UnauthorizedError when it is not a valid token."""
        key = self._settings.supabase_anon_key
        answer = await self._call("me", b"{}", {"apikey": key, "authorization": f"Bearer {jwt}"})
        return answer if isinstance(answer, dict) else None

    async def channel_connect(
        self,
        *,
        admin_id: str,
        number: JsonObject,
        token: str,
        issued_at: datetime | None,
        expires_at: datetime | None,
    ) -> JsonObject:
        """{"number_id", "needs_sync", "webhook_secret"}: the number is active, its token in Vault."""
        return await self._object(
            "channel_connect",
            p_admin_id=admin_id,
            p_number=number,
            p_token=token,
            p_issued_at=_iso(issued_at),
            p_expires_at=_iso(expires_at),
        )

    async def channel_setup_settle(
        self, *, admin_id: str, number_id: str, webhook_url: str | None, problem: str | None, is_synced: bool
    ) -> None:
        await self._rpc(
            "channel_setup_settle",
            p_admin_id=admin_id,
            p_number_id=number_id,
            p_webhook_url=webhook_url,
            p_problem=problem,
            p_synced=is_synced,
        )

    async def token_checks_claim(self, *, since: str | None, limit: int, lease_seconds: int) -> JsonObject:
        """{"claim", "now", "numbers"}: with their tokens, for memory only."""
        return await self._object(
            "token_checks_claim", p_since=since, p_limit=limit, p_lease_seconds=lease_seconds
        )

    async def token_offer(
        self, *, claim: str, tenant_id: str, number_id: str, token: str, expires_at: datetime | None
    ) -> bool:
        """Keep a new token beside the one in use. False, here and below: the number is not ours any more."""
        answer = await self._rpc(
            "token_offer",
            p_claim=claim,
            p_tenant_id=tenant_id,
            p_number_id=number_id,
            p_token=token,
            p_expires_at=_iso(expires_at),
        )
        return answer is True

    async def token_adopt(
        self,
        *,
        claim: str,
        tenant_id: str,
        number_id: str,
        issued_at: datetime | None,
        expires_at: datetime | None,
    ) -> bool:
        """The offered token is the one in use from now on."""
        answer = await self._rpc(
            "token_adopt",
            p_claim=claim,
            p_tenant_id=tenant_id,
            p_number_id=number_id,
            p_issued_at=_iso(issued_at),
            p_expires_at=_iso(expires_at),
        )
        return answer is True

    async def token_drop(self, *, claim: str, tenant_id: str, number_id: str, kind: str) -> bool:
        answer = await self._rpc(
            "token_drop", p_claim=claim, p_tenant_id=tenant_id, p_number_id=number_id, p_kind=kind
        )
        return answer is True

    async def token_check_settle(
        self,
        *,
        claim: str,
        tenant_id: str,
        number_id: str,
        result: str,
        problem: str | None,
        issued_at: datetime | None,
        expires_at: datetime | None,
    ) -> bool:
        """good, failed or dead."""
        answer = await self._rpc(
            "token_check_settle",
            p_claim=claim,
            p_tenant_id=tenant_id,
            p_number_id=number_id,
            p_result=result,
            p_problem=problem,
            p_issued_at=_iso(issued_at),
            p_expires_at=_iso(expires_at),
        )
        return answer is True

    async def template_accounts(self, *, tenant_id: str | None) -> JsonObject:
        """{"now", "accounts"}: those of active numbers, each with the numbers whose tokens open it."""
        return await self._object("template_accounts", p_tenant_id=tenant_id)

    async def templates_apply(
        self,
        *,
        tenant_id: str,
        provider: str,
        waba_id: str,
        listed_at: datetime,
        templates: Sequence[JsonObject],
        is_complete: bool,
    ) -> Mapping[str, int]:
        """{"added", "changed", "deleted"}: the same listing again changes nothing."""
        return await self._object(
            "templates_apply",
            p_tenant_id=tenant_id,
            p_provider=provider,
            p_waba_id=waba_id,
            p_listed_at=listed_at.isoformat(),
            p_templates=templates,
            p_is_complete=is_complete,
        )

    async def templates_fail(self, *, tenant_id: str, waba_id: str, problem: str) -> None:
        await self._rpc("templates_fail", p_tenant_id=tenant_id, p_waba_id=waba_id, p_problem=problem)

    async def worker_beat(self, *, worker: str, loop_id: str, seconds: int) -> None:
        await self._rpc("worker_beat", p_worker=worker, p_loop_id=loop_id, p_seconds=seconds)

    async def worker_leave(self, *, worker: str, loop_id: str) -> None:
        await self._rpc("worker_leave", p_worker=worker, p_loop_id=loop_id)

    async def blocks_detect(self) -> JsonObject:
        """{"marked", "spared", "outages", "healed"}; each mark with its ids, level and cause."""
        return await self._object("blocks_detect")

    async def job_run_record(
        self, *, job: str, started_at: datetime, counts: Mapping[str, int], error: str | None
    ) -> None:
        started = started_at.isoformat()
        await self._rpc("job_run_record", p_job=job, p_started_at=started, p_counts=counts, p_error=error)

    async def close(self) -> None:
        await self._http.aclose()

    async def _object(self, function: str, **arguments: Any) -> JsonObject:
        answer = await self._rpc(function, **arguments)
        if not isinstance(answer, dict):
            raise DatabaseError(f"{function} did not answer with an object.")
        return answer

    async def _rpc(self, function: str, **arguments: Any) -> Any:
        return await self._call(function, json.dumps(arguments).encode())

    async def _call(self, function: str, arguments: bytes, headers: Mapping[str, str] | None = None) -> Any:
        """What the RPC returns. DatabaseUnavailableError also when only the answer was lost."""
        try:
            with http_errors():
                response = await self._http.post(f"rpc/{function}", content=arguments, headers=headers)
        except (UnreachableError, AnswerLostError) as exc:
            raise DatabaseUnavailableError from exc
        if headers and response.status_code == 401:
            raise UnauthorizedError("The session is over, or is not one of ours.", hint="Sign in again.")
        if not response.is_success:
            raise _refusal(response)
        return json.loads(response.content) if response.content else None

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        import httpx  # 60 ms that nobody should pay before it is needed

        key = self._settings.supabase_service_role_key
        return client(
            f"{self._settings.supabase_url.rstrip('/')}/rest/v1/",
            headers={"apikey": key, "authorization": f"Bearer {key}", "content-type": "application/json"},
            timeout=httpx.Timeout(SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=16, keepalive_expiry=_IDLE_SECONDS),
            transport=self._transport,
            trust_env=False,
        )


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _refusal(response: httpx.Response) -> RecadoError:
    """Our SQL's refusals (PT…) keep message and hint; what else the database says is for the log only."""
    try:
        said = json.loads(response.content)
        code = str(said.get("code") or "")
    except (ValueError, AttributeError):
        return database_error(str(response.status_code))(f"Something else answered {response.status_code}.")
    if code.startswith("PT"):
        return database_error(code)(said.get("message") or "", hint=said.get("hint"))
    error = _REFUSED.get(response.status_code) or database_error(code)
    if _is_away(response.status_code, code):
        error = DatabaseUnavailableError
    return error(f"The database answered {response.status_code}, code {code or 'empty'}.")


def _is_away(status: int, code: str) -> bool:
    """Whoever says so, PostgREST or a gateway with codes of its own, does not judge what was asked."""
    return status == 429 or status > 500 or (status == 500 and not _SQLSTATE.fullmatch(code))
