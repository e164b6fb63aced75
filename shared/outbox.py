"""Delivering: what pacing lets out goes to its provider at its moment, and the database hears how that ended.

Messages whose moments are close go together: one commit says that they are about to be sent, a few how that
ended. A process that dies in between leaves them unknown; before, they go back to the queue by themselves.
When exactly they go is pacing.py's to say.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

from shared import logs
from shared.drain import Claim, Task, insist, seconds
from shared.errors import DatabaseUnavailableError
from shared.events import JsonObject
from shared.pacing import Pace
from shared.senders.base import Credentials, Message, Result, Sender, UnsendableError
from shared.senders.links import Guard
from shared.tokens import Number, Tokens

GROUP_SECONDS = 0.1  # moments this close share an intent
GROUP_MESSAGES = 25
CLAIM_MESSAGES = 100
CLAIM_SECONDS = 15  # until what was not begun is queued again
SEND_SECONDS = 60  # until what was begun and not settled is unknown; more than a send may take
SETTLE_SECONDS = 0.2  # the fast do not wait for the slow longer than this

log = logging.getLogger(__name__)


class Database(Protocol):
    async def outbox_claim(
        self, *, limit: int, lease_seconds: int, worker: str, lead_ms: int
    ) -> JsonObject: ...
    async def outbox_intent(
        self, *, claim: str, items: Sequence[JsonObject], lease_seconds: int
    ) -> list[str]: ...
    async def outbox_settle(self, *, claim: str, results: Sequence[JsonObject]) -> int: ...
    async def channel_tokens(self, *, numbers: Sequence[JsonObject]) -> list[JsonObject]: ...


@dataclass(frozen=True, kw_only=True)
class Errand:
    """A claimed message, its number, the slot it may go at, and how far from it the next one is."""

    tenant_id: str
    number_id: str
    chat_id: str
    provider: str
    message: Message
    send_at: float
    spacing: float

    @classmethod
    def read(cls, given: JsonObject) -> Errand:
        address = given["to"] or {}
        message = Message(
            id=given["message_id"],
            sender=given["provider_number_id"],
            number_id=given["number_id"],
            account_id=given.get("account_id"),
            phone_number=given.get("phone_number"),
            phone=address.get("phone"),
            bsuid=address.get("bsuid"),
            chat_id=address.get("chat_id"),
            type=given["type"],
            content=given["content"],
            data=given.get("data") or {},
            reply_to=given["reply_to"],
            attempts=given.get("attempts", 1),
        )
        return cls(
            tenant_id=given["tenant_id"],
            number_id=given["number_id"],
            chat_id=given["chat_id"],
            provider=given["provider"],
            message=message,
            send_at=datetime.fromisoformat(given["send_at"]).timestamp(),
            spacing=given["spacing"],
        )

    @property
    def key(self) -> JsonObject:
        return {"tenant_id": self.tenant_id, "message_id": self.message.id}

    @property
    def number(self) -> Number:
        return self.tenant_id, self.number_id


class Outbox:
    name = "deliver"

    def __init__(self, database: Database, senders: Mapping[str, Sender], *, at_once: int) -> None:
        self._database = database
        self._senders = senders
        self._at_once = at_once
        self._busy = 0
        self._id = str(uuid.uuid4())
        self._pace = Pace()
        self._tokens = Tokens(database)
        self._links = Guard()

    @property
    def room(self) -> int:
        return self._at_once - self._busy

    async def warm(self) -> None:
        """Nothing here is slow to load."""

    async def claim(self) -> Claim:
        claimed = await self._database.outbox_claim(
            limit=min(self.room, CLAIM_MESSAGES),
            lease_seconds=CLAIM_SECONDS,
            worker=self._id,
            lead_ms=round(self._pace.lead * 1000),
        )
        self._pace.hear(claimed["now"])
        errands = [Errand.read(given) for given in claimed["messages"]]
        for errand in errands:
            self._pace.expect(errand.number, errand.send_at, errand.spacing)
        self._busy += len(errands)
        tasks: list[Task] = [partial(self._run, claimed["claim"], group) for group in groups(errands)]
        for closed in claimed.get("closed", ()):
            logs.product_event("whatsapp.window.closed", **closed)
        if claimed["unknown"]:
            tasks.append(partial(_lost, claimed["unknown"]))
        return Claim(tasks, seconds(claimed["next_in_ms"]))

    async def _run(self, claim: str, group: Sequence[Errand]) -> Mapping[str, int]:
        counts: Counter[str] = Counter()
        begun: Sequence[Errand] = []
        try:
            tokens = await self._tokens.of(errand.number for errand in group)
            await self._pace.until(group[0].send_at - self._pace.lead)
            began = self._pace.now
            begun = await self._begin(claim, group)
            self._pace.took(self._pace.now - began)
        finally:
            self._busy -= len(group) - len(begun)
        sends = {asyncio.create_task(self._send(errand, tokens.get(errand.number))) for errand in begun}
        while sends:
            done, sends = await asyncio.wait(sends, timeout=SETTLE_SECONDS)
            ended = [task.result() for task in done]
            counts.update(str(result["outcome"]) for result in ended)
            await self._settle(claim, ended)
        return counts

    async def _begin(self, claim: str, group: Sequence[Errand]) -> Sequence[Errand]:
        """Those that are still ours. When the database does not say, they go back: nothing was sent."""
        keys = [errand.key for errand in group]
        try:
            ids = await self._database.outbox_intent(claim=claim, items=keys, lease_seconds=SEND_SECONDS)
        except DatabaseUnavailableError:
            await self._settle(claim, [{**key, "outcome": "late"} for key in keys])
            return []
        return [errand for errand in group if errand.message.id in ids]

    async def _send(self, errand: Errand, token: str | None) -> JsonObject:
        try:
            if not await self._pace.turn(errand.number, errand.send_at, errand.spacing):
                return {**errand.key, "outcome": "late"}
            result = await self._result(errand, token)
        finally:
            self._busy -= 1
        _tell(errand, result)
        return {**errand.key, **asdict(result)}

    async def _result(self, errand: Errand, token: str | None) -> Result:
        sender = self._senders.get(errand.provider)
        if sender is None:
            return Result(outcome="invalid", error_message=f"Nothing can be sent through {errand.provider}.")
        if token is None:
            why = "The number has no access token: connect it again."
            return Result(outcome="stop_channel", error_message=why)
        try:
            await self._links.check(errand.message.data)
        except UnsendableError as refusal:
            return Result(outcome=refusal.outcome, error_message=str(refusal))
        result = await self._ask(sender, errand, token)
        # a token may have been replaced since we read it; what is refused for it was not sent
        if result.outcome == "stop_channel" and (other := await self._tokens.newer(errand.number, token)):
            return await self._ask(sender, errand, other)
        return result

    async def _ask(self, sender: Sender, errand: Errand, token: str) -> Result:
        try:
            return await sender.send(errand.message, Credentials(token))
        except Exception:  # it may have been sent: nobody must send it again
            log.exception("send broken", extra={"action": "deliver", **errand.key})
            return Result(outcome="unknown", error_message="Something of ours is broken; see the log.")

    async def _settle(self, claim: str, results: Sequence[JsonObject]) -> None:
        if results:
            await insist(lambda: self._database.outbox_settle(claim=claim, results=results))


def _tell(errand: Errand, result: Result) -> None:
    """Each try is told; `outcome` says whether there will be another."""
    facts: logs.Facts = {
        "number_id": errand.number_id,
        "provider": errand.provider,
        "chat_id": errand.chat_id,
        "message_id": errand.message.id,
        "attempts": errand.message.attempts,
    }
    if result.outcome == "sent":
        logs.product_event("whatsapp.message.sent", tenant_id=errand.tenant_id, **facts)
        return
    facts |= {"outcome": result.outcome, "error_code": result.error_code}
    logs.product_event("whatsapp.send.failed", tenant_id=errand.tenant_id, **facts)
    if result.outcome == "needs_template":
        logs.product_event("whatsapp.window.closed", tenant_id=errand.tenant_id, **facts)


def groups(errands: Iterable[Errand]) -> list[list[Errand]]:
    """In the order of their moments."""
    found: list[list[Errand]] = []
    for errand in sorted(errands, key=lambda errand: errand.send_at):
        last = found[-1] if found else []
        if last and len(last) < GROUP_MESSAGES and errand.send_at - last[0].send_at <= GROUP_SECONDS:
            last.append(errand)
        else:
            found.append([errand])
    return found


async def _lost(count: int) -> Mapping[str, int]:
    """Workers died while they sent these, and nobody can tell whether they did."""
    log.warning("sends unknown", extra={"action": "deliver", "unknown": count})
    return {"unknown": count}
