"""What becomes of a message once a provider took it: its statuses, each in its time."""

from __future__ import annotations

import time

from local.simulator.faults import Fault
from local.simulator.letters import Fate
from local.simulator.messages import Sent
from local.simulator.outside import Outside
from local.simulator.world import Contact


def tell_later(out: Outside, contact: Contact, sent: Sent, subject: str, *, free: bool = False) -> None:
    """Queue the statuses; what cannot be delivered fails here."""
    fault = out.faults.take("webhook.status", subject)
    if fault and fault.kind == "drop_status":
        return
    _, voice = out.webhooks.speaker(contact.number)
    for fate in _fates(out, contact, sent, fault, free):
        for _ in range(2 if fault and fault.kind == "duplicate" else 1):
            out.webhooks.schedule(contact.number, voice.status(contact, sent, fate), time.time() + fate.after)


def _fates(out: Outside, contact: Contact, sent: Sent, fault: Fault | None, free: bool) -> list[Fate]:
    tuning, is_open = out.store.tuning, out.windows.is_open(contact)
    _, voice = out.webhooks.speaker(contact.number)
    if not is_open and sent.said.type != "template":
        return [Fate(voice.failed[0], tuning.sent_ms / 1000, voice.closed)]
    if fault and fault.code:
        return [Fate(voice.failed[-1], tuning.sent_ms / 1000, fault.code)]
    plan = {"sent": tuning.sent_ms, "delivered": tuning.delivered_ms}
    if is_open:  # somebody who is in the chat also looks at it
        plan["read"] = tuning.read_ms
    if fault and fault.kind.startswith("only_"):
        plan = {status: ms for status, ms in plan.items() if status in ("sent", fault.kind[5:])}
    times = sorted(plan.values(), reverse=fault is not None and fault.kind == "reorder")
    return [Fate(status, ms / 1000, free=free) for status, ms in zip(plan, times, strict=True)]
