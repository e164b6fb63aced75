"""Weeks of sequences on a running platform, and a function that is killed, counted at the simulator."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.e2e.delivery import Business, tune, waiting
from tests.e2e.platforms import Platform, eventually, temporary_platform

HOUR, DAY = 3600, 86400


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    """A platform whose clock may be moved."""
    with temporary_platform() as platform:
        assert platform.up().returncode == 0
        tune(platform, strangers_window_open=True)
        yield platform


def begin(business: Business, *steps: dict[str, Any]) -> None:
    """A sequence of these steps, with every customer in it, who have all just written."""
    document = json.dumps({"name": "Seguimiento", "steps": steps, "on_reply": {"resume": "never"}})
    given = {"email": business.email, "document": document}
    business.platform.execute(
        "select private.sequence_save(id, null, %(document)s::jsonb, null) from public.users"
        " where email = %(email)s",
        given,
    )
    business.platform.execute(
        "update public.sequences s set is_active = true from public.users u"
        " where u.id = s.tenant_id and u.email = %(email)s returning s.id", given,
    )  # fmt: skip
    business.platform.execute(
        "update public.chats c set window_expires_at = private.clock() + interval '20 hours'"
        " from public.users u where u.id = c.tenant_id and u.email = %(email)s returning c.id", given,
    )  # fmt: skip
    business.platform.execute(
        "select private.enrollments_add(array_agg((c.tenant_id, s.id, c.lead_id, c.id, 'staff', null, false)"
        "::private.enrollment_ask)) from public.sequences s join public.users u on u.id = s.tenant_id"
        " join public.chats c on c.tenant_id = s.tenant_id where u.email = %(email)s", given,
    )  # fmt: skip


def pass_time(platform: Platform, seconds: float) -> None:
    control(platform, "clock", advance_seconds=seconds)
    run(platform)


def control(platform: Platform, path: str, **body: Any) -> None:
    answer = httpx.post(f"{platform.env['SIMULATOR_URL']}/control/{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


def run(platform: Platform) -> None:
    """Until nothing is due, and whatever was sent has arrived."""
    platform.query("select private.wake('process-sequences')")
    assert eventually(lambda: not due(platform) and not waiting(platform), 60)


def due(platform: Platform) -> bool:
    return bool(platform.query("select private.sequences_waiting()")[0][0])


def got(business: Business) -> Counter[tuple[str, str]]:
    """(customer's last digit, text): how often it arrived."""
    return Counter((one["to"][-1], one["text"]) for one in business.sent())


def statuses(business: Business) -> list[str]:
    rows = business.platform.execute(
        "select e.status from public.sequence_enrollments e join public.users u on u.id = e.tenant_id"
        " join public.chats c on c.id = e.chat_id join public.customer_leads l on l.id = c.lead_id"
        " where u.email = %(email)s order by l.phone", {"email": business.email},
    )  # fmt: skip
    return [row[0] for row in rows]


def manual(business: Business) -> list[str]:
    rows = business.platform.execute(
        "select p.text from public.pending_manual p join public.users u on u.id = p.tenant_id"
        " where u.email = %(email)s order by p.id", {"email": business.email},
    )  # fmt: skip
    return [row[0] for row in rows]


def test_weeks_of_two_businesses(running: Platform) -> None:
    clinic, plaza = (Business.open(running, numbers=1, customers=3, rate=80) for _ in range(2))
    steps = (
        {"text": "Hola"}, {"after": {"hours": 2}, "text": "¿Pudo verlo?"},
        {"after": {"days": 3}, "text": "¿Hablamos?"}, {"after": {"days": 7}, "text": "Adiós"},
    )  # fmt: skip
    begin(clinic, *steps)
    begin(plaza, *steps[:2])
    run(running)
    assert got(clinic) == got(plaza) == Counter((n, "Hola") for n in "123")

    pass_time(running, HOUR)
    assert len(clinic.sent()) == 3
    for customer, text in (("1", "Ya, gracias"), ("2", "STOP")):
        phone = f"{clinic.numbers[0]}0000{customer}"
        control(running, "inbound", number=clinic.numbers[0], **{"from": phone, "text": text})
    assert eventually(lambda: statuses(clinic) == ["replied", "opted_out", "active"])

    pass_time(running, HOUR + 60)
    assert got(plaza) == Counter((n, text) for n in "123" for text in ("Hola", "¿Pudo verlo?"))
    assert got(clinic)["3", "¿Pudo verlo?"] == 1
    assert statuses(plaza) == ["completed"] * 3

    pass_time(running, 3 * DAY)
    assert manual(clinic) == ["¿Hablamos?"]
    pass_time(running, 21 * DAY)
    assert manual(clinic) == ["¿Hablamos?", "Adiós"]
    assert statuses(clinic) == ["replied", "opted_out", "completed"]
    assert not [sent for sent in (got(clinic) + got(plaza)).values() if sent > 2]
    assert sum(n for (who, text), n in got(clinic).items() if text in ("¿Hablamos?", "Adiós")) == 0


def test_a_function_that_is_killed_again_and_again_loses_no_step_and_repeats_none(running: Platform) -> None:
    business = Business.open(running, numbers=4, customers=100, rate=80)
    begin(business, {"text": "Hola"})
    for _ in range(5):
        running.query("select private.wake('process-sequences')")
        time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.kill(running.pid("process_sequences"), signal.SIGKILL)

    def all_sent() -> bool:
        running.query("select private.wake('process-sequences') where private.sequences_waiting()")
        return not due(running) and not waiting(running)

    assert eventually(all_sent, 120)
    assert sorted(Counter(one["to"] for one in business.sent()).values()) == [1] * 400
