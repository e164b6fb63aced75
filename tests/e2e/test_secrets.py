"""Runs last: what the platforms of all other tests wrote into their logs, and answered when they refused."""

from __future__ import annotations

import json

import pytest

from tests.e2e.platforms import Platform
from tests.e2e.secrecy import Known, Watch
from tests.e2e.test_ingest import delivery, meta, says

PHONE, TEXT = "573155700001", "¿Me duele la muela, pueden verme mañana?"


def test_a_phone_a_text_or_a_secret_would_be_found(platform: Platform) -> None:
    """So that the next test means something: it would see what this one plants."""
    assert meta(platform, delivery("messages", {"messages": [says(TEXT, **{"from": PHONE})]})).is_success
    known = Known()
    known.learn(platform)
    secret = platform.env["SUPABASE_SERVICE_ROLE_KEY"]

    planted = {
        f'{{"message":"to whatsapp:+{PHONE}"}}': "a phone",
        f"to +{PHONE[:2]} {PHONE[2:5]} {PHONE[5:8]}-{PHONE[8:]}.": "a phone",
        f"Key (content)=({TEXT}) exists": "a text",
        json.dumps({"error": TEXT}): "a text",
        f"Authorization: Bearer {secret}": "a secret",
    }
    assert [known.found_in(line) for line in planted] == [{kind} for kind in planted.values()]
    assert known.found_in("2026-11-21 02:24:53.123 deliver started") == set()


def test_no_log_and_no_refusal_tells_a_phone_a_text_or_a_secret(platform: Platform, watch: Watch) -> None:
    watch.look(platform)
    watch.look_at_refusals()

    print(f"{watch.lines} lines, {len(watch.refusals)} refusals, {len(watch.known.phones)} phones")  # noqa: T201
    assert watch.lines > 10
    if watch.findings:  # no assert: it would show what it compares
        pytest.fail("\n".join(sorted(watch.findings)))
