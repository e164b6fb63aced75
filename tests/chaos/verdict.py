"""What must hold after a storm, each promise compared with what arrived. Everything found names its ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.chaos.world import STAFF, URGENCIAS, Desk, Told, World

SHOWN = 5
_STORED = """
    select m.content, n.provider_number_id, l.phone from public.messages m
    join public.whatsapp_numbers n on n.tenant_id = m.tenant_id and n.id = m.number_id
    join public.customer_leads l on l.tenant_id = m.tenant_id and l.id = m.lead_id
    where m.direction = 'inbound'
"""
_OUTBOUND = """
    select m.content, m.status, n.provider_number_id, l.phone from public.messages m
    join public.whatsapp_numbers n on n.tenant_id = m.tenant_id and n.id = m.number_id
    join public.customer_leads l on l.tenant_id = m.tenant_id and l.id = m.lead_id
    where m.direction = 'outbound'
"""
_CALLED_FOR = """
    select n.provider_number_id, l.phone from public.conversations c
    join public.chats h on h.tenant_id = c.tenant_id and h.id = c.chat_id
    join public.whatsapp_numbers n on n.tenant_id = h.tenant_id and n.id = h.number_id
    join public.customer_leads l on l.tenant_id = h.tenant_id and l.id = h.lead_id
    where c.requires_attention
"""
QUEUES = {
    "answers": "select chat_id::text from public.pending_replies",
    "sends": "select message_id::text from public.outbox where state <> 'unknown'",
    "deliveries": "select concat_ws(' ', number, status, error) from public.webhook_logs"
    " where status <> 'applied' and events::text like '%quiero una cita%'",
}


@dataclass(frozen=True)
class Verdict:
    """Asked once everything is at rest."""

    world: World
    most_unknown: int

    def broken(self) -> list[str]:
        """A sentence for each promise that was not kept."""
        found = (
            self._lost_updates(), self._doubled_updates(), self._misplaced(), self._lost_sends(),
            self._doubled_sends(), self._unanswered(), self._answered_twice(), self._too_many_unknown(),
            self._crossed(), self._waiting(), self._refused(),
        )  # fmt: skip
        return [sentence for sentences in found for sentence in sentences]

    @cached_property
    def unknown(self) -> set[str]:
        return {content for content, status, *_ in self._outbound if status == "unknown"}

    @cached_property
    def stored(self) -> list[tuple[str, str, str]]:
        return self.world.platform.query(_STORED)

    @cached_property
    def arrived(self) -> list[dict[str, Any]]:
        """What the providers got of us."""
        return list(self.world.outside.get("/control/sent").json())

    @cached_property
    def _outbound(self) -> list[tuple[Any, ...]]:
        return self.world.platform.query(_OUTBOUND)

    @cached_property
    def _ours(self) -> dict[str, Told]:
        ledger = self.world.ledger
        return {told.text: told for told in (*ledger.accepted, *ledger.unheard)}

    def _lost_updates(self) -> Iterator[str]:
        stored = {content for content, *_ in self.stored}
        ledger = self.world.ledger
        yield from _named(
            "every acknowledged update is stored",
            (t.text for t in ledger.acknowledged if t.text not in stored),
        )
        yield from _named(
            "what was refused once is stored when it comes again",
            (t.text for t in ledger.owed if t.text not in stored),
        )

    def _doubled_updates(self) -> Iterator[str]:
        counts = Counter(content for content, *_ in self.stored)
        yield from _named("an update is stored once", (text for text, n in counts.items() if n > 1))

    def _misplaced(self) -> Iterator[str]:
        yield from _named(
            "an update is its own number's and customer's",
            (text for text, *owner in self.stored if "/" in text and Told.owner(text) != tuple(owner)),
        )
        yield from _named(
            "a message reaches the customer it was meant for, from the number it was meant for",
            (
                one["text"]
                for one in self.arrived
                if one["text"] in self._ours and Told.owner(one["text"]) != (one["number"], _phone(one["to"]))
            ),
        )

    def _lost_sends(self) -> Iterator[str]:
        known = {one["text"] for one in self.arrived} | self.unknown
        became = {content: status for content, status, *_ in self._outbound}
        yield from _named(
            "no accepted send is lost",
            (
                f"{told.text} ({became.get(told.text, 'not stored')})"
                for told in self.world.ledger.accepted
                if told.text not in known
            ),
        )

    def _doubled_sends(self) -> Iterator[str]:
        counts = Counter(one["text"] for one in self.arrived if one["text"] in self._ours)
        yield from _named("no send arrives twice", (text for text, n in counts.items() if n > 1))

    @cached_property
    def _answers(self) -> Counter[tuple[str, str]]:
        return Counter(
            (one["number"], _phone(one["to"])) for one in self.arrived if one["text"] not in self._ours
        )

    def _unanswered(self) -> Iterator[str]:
        excused = {(number, phone) for _, status, number, phone in self._outbound if status == "unknown"}
        excused |= set(self.world.platform.query(_CALLED_FOR))
        excused |= {(told.number, told.customer) for told in self._ours.values()}
        yield from _named(
            "every customer is answered, or a person is called",
            (
                told.text
                for told in self.world.ledger.acknowledged
                if told.number != URGENCIAS
                and not self._answers[told.number, told.customer]
                and (told.number, told.customer) not in excused
            ),
        )

    def _answered_twice(self) -> Iterator[str]:
        yield from _named(
            "nobody is answered twice",
            (f"{number}/{phone}" for (number, phone), n in self._answers.items() if n > 1),
        )

    def _too_many_unknown(self) -> Iterator[str]:
        if len(self.unknown) > self.most_unknown:
            yield (
                f"Broken: only sends that were in flight may end unknown: {len(self.unknown)} did,"
                f" {self.most_unknown} were in flight: {', '.join(sorted(self.unknown)[:SHOWN])}"
            )

    def _crossed(self) -> Iterator[str]:
        """Through the door that front ends use: each business's people see their own numbers' texts only."""
        own = self.world.platform.query(
            "select u.email, n.provider_number_id from public.users u"
            " join public.whatsapp_numbers n using (tenant_id) where u.email = any(%s)",
            list(STAFF.values()),
        )
        for email in STAFF.values():
            numbers = {number for owner, number in own if owner == email}
            with closing(Desk(self.world.platform, email)) as desk:
                seen = desk.reads()
            marked = [text for text in seen if text.count("/") >= 2]
            yield from _named(
                f"{email} sees nothing of another business",
                (t for t in marked if Told.owner(t)[0] not in numbers),
            )

    def _waiting(self) -> Iterator[str]:
        for queue, statement in QUEUES.items():
            rows = self.world.platform.query(statement)
            yield from _named(f"the queue of {queue} drains", (row[0] for row in rows))

    def _refused(self) -> Iterator[str]:
        yield from _named("a colleague's message in an open window is not refused", self.world.ledger.refused)


def _phone(to: str) -> str:
    return to.removeprefix("whatsapp:").removeprefix("+").partition("@")[0]


def _named(promise: str, ids: Iterable[str]) -> Iterator[str]:
    given = sorted(ids)
    if given:
        more = f" and {len(given) - SHOWN} more" if len(given) > SHOWN else ""
        yield f"Broken: {promise}: {', '.join(given[:SHOWN])}{more}"
