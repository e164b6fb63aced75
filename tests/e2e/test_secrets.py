"""At the end of the session (conftest) all logs and refusals are searched: here is shown that it finds."""

from __future__ import annotations

import json

from tests.e2e.platforms import Platform
from tests.e2e.secrecy import Known, Watch
from tests.e2e.test_ingest import delivery, meta, says

PHONE, TEXT = "573155700001", "¿Me duele la muela, pueden verme mañana?"


def test_a_phone_a_text_or_a_secret_would_be_found(platform: Platform) -> None:
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


def test_it_names_file_and_line_and_not_what_it_found(platform: Platform) -> None:
    assert meta(platform, delivery("messages", {"messages": [says(TEXT, **{"from": PHONE})]})).is_success
    watch = Watch()
    watch.known.learn(platform)
    watch.refusals.add(("test_x", "POST /x", f'{{"message": "fine"}}\n{{"message": "{PHONE}"}}'))

    watch.look_at_refusals()

    assert watch.findings == {"test_x: POST /x:2 tells a phone"}
    assert PHONE not in repr(watch)
