"""inbox_accounts: what providers say about accounts, numbers and templates reaches the rows it is about."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.sql.given import NOW, Business, Event, Inbox, event

MINUTE = timedelta(minutes=1)
PHONE = "573000000001"  # the clinic's, as open_business makes it


def account(subject: str, at: datetime = NOW, **data: Any) -> Event:
    return event("account", "", at, subject=subject, data=data) | {"id": None}


def tell(inbox: Inbox, *events: Event, waba: str = "200") -> dict[str, Any]:
    return inbox.deliver(*events, number=None, account=waba, field="account_update")


def number(db: Any, clinic: Business, columns: str) -> dict[str, Any]:
    row: dict[str, Any] = db.row(
        f"select {columns} from public.whatsapp_numbers where id = %s", clinic.number_id
    )
    return row


def pacing(db: Any, clinic: Business) -> tuple[bool, bool]:
    """Is the number stopped, does its bulk rest?"""
    rows = db.rows(
        "select coalesce(paused_until > now(), false) as a, coalesce(bulk_paused_until > now(), false) as b"
        " from public.number_pacing where number_id = %s",
        clinic.number_id,
    )
    return (rows[0]["a"], rows[0]["b"]) if rows else (False, False)


def alerts(db: Any) -> list[str]:
    return list(db.column("select kind from public.alerts where resolved_at is null order by kind"))


def test_a_limit_reaches_the_number_and_an_older_one_does_not_undo_it(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    tell(inbox, account("number_quality", phone=PHONE, event="onboarding", limit=2000))
    tell(inbox, account("capability", NOW - MINUTE, limit=250))
    assert number(db, clinic, "messaging_limit") == {"messaging_limit": 2000}

    tell(inbox, account("capability", NOW + MINUTE, limit=None))
    assert number(db, clinic, "messaging_limit") == {"messaging_limit": None}


def test_a_drop_of_quality_pauses_bulk_and_its_recovery_lets_it_go_on(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    tell(inbox, account("number_quality", phone=PHONE, event="flagged"))
    assert (pacing(db, clinic), alerts(db)) == ((False, True), ["bulk_paused"])

    tell(inbox, account("number_quality", NOW + MINUTE, phone=PHONE, event="unflagged"))
    assert (pacing(db, clinic), alerts(db)) == ((False, False), [])


@pytest.mark.parametrize(
    ("event_", "reason", "expected"),
    [
        ("partner_removed", None, ((True, False), ["channel_stopped"])),
        ("account_offboarded", None, ((True, False), ["channel_stopped"])),
        ("disabled_update", "DISABLE", ((True, False), ["channel_stopped"])),
        ("disabled_update", "SCHEDULE_FOR_DISABLE", ((False, False), ["account_warning"])),
        ("account_restriction", "RESTRICTED_BIZ_INITIATED_MESSAGING", ((False, True), ["bulk_paused"])),
        ("account_violation", "SCAM", ((False, False), ["account_warning"])),
        ("volume_based_pricing_tier_update", None, ((False, False), [])),
    ],
)
def test_what_happens_to_the_account_stops_pauses_or_warns(
    db: Any, inbox: Inbox, clinic: Business, event_: str, reason: str | None, expected: Any
) -> None:
    tell(inbox, account("account", event=event_, reason=reason, details={}))

    assert (pacing(db, clinic), alerts(db)) == expected


def test_an_account_that_comes_back_goes_on_and_the_older_news_changes_nothing(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    tell(inbox, account("account", event="partner_removed", details={}))
    tell(inbox, account("account", NOW + MINUTE, event="account_reconnected", details={}))
    assert (pacing(db, clinic), alerts(db)) == ((False, False), [])

    tell(inbox, account("account", event="account_offboarded", details={}))
    assert (pacing(db, clinic), alerts(db)) == ((False, False), [])


def test_coming_back_does_not_mend_what_was_stopped_for_another_reason(
    db: Any, inbox: Inbox, clinic: Business
) -> None:
    db.run("select private.channel_stop(%s, %s, 'code 190')", clinic.tenant_id, clinic.number_id)
    tell(inbox, account("account", event="account_reconnected", details={}))

    assert (pacing(db, clinic), alerts(db)) == ((True, False), ["channel_stopped"])


def test_a_restriction_rests_as_long_as_it_says(db: Any, inbox: Inbox, clinic: Business) -> None:
    until = int((NOW + timedelta(days=3)).timestamp())
    details = {
        "restriction_info": [{"restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING", "expiration": until}]
    }
    tell(inbox, account("account", event="account_restriction", reason="RESTRICTED_BIZ_INITIATED_MESSAGING",
                        details=details))  # fmt: skip

    ends = db.value(
        "select bulk_paused_until from public.number_pacing where number_id = %s", clinic.number_id
    )
    assert ends == NOW.replace(microsecond=0) + timedelta(days=3)


def test_names_follow_the_provider_s_decision(db: Any, inbox: Inbox, clinic: Business) -> None:
    tell(inbox, account("number_name", phone=PHONE, name="Clínica Sol", decision="rejected", reason="NO"))
    assert (number(db, clinic, "display_name"), alerts(db)) == (
        {"display_name": "clinic"},
        ["number_name_refused"],
    )

    tell(inbox, account("number_name", NOW + MINUTE, phone=PHONE, name="Clínica Sol", decision="approved"))
    tell(inbox, account("number_username", phone=PHONE, username="clinica.sol", status="approved"))
    assert number(db, clinic, "display_name, username") == {
        "display_name": "Clínica Sol", "username": "clinica.sol",
    }  # fmt: skip
    assert alerts(db) == []


def test_templates_are_told_to_every_business_of_the_account_and_to_no_other(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business
) -> None:
    db.run("update public.whatsapp_numbers set waba_id = '300' where id = %s", plaza.number_id)
    status = {
        "template_id": "t1",
        "name": "cita",
        "language": "es",
        "category": "utility",
        "status": "approved",
    }
    tell(inbox, account("template_status", **status))

    assert db.rows("select tenant_id, name, status from public.message_templates") == [
        {"tenant_id": clinic.tenant_id, "name": "cita", "status": "approved"}
    ]


def test_two_businesses_of_one_account_both_hear_of_it(
    db: Any, inbox: Inbox, clinic: Business, plaza: Business
) -> None:
    tell(inbox, account("account", event="account_violation", details={}))

    assert db.value("select count(distinct tenant_id) from public.alerts") == 2


def test_news_of_an_account_nobody_has_is_kept_and_not_tried_again(db: Any, inbox: Inbox) -> None:
    assert tell(inbox, account("review", decision="approved"), waba="404")["status"] == "applied"

    log = db.row("select status, tenant_id, payload, next_attempt_at from public.webhook_logs")
    assert log == {"status": "applied", "tenant_id": None, "payload": {"n": 1}, "next_attempt_at": None}


def test_a_message_without_a_number_is_not_taken_for_news_of_an_account(db: Any, inbox: Inbox) -> None:
    answer = tell(inbox, event("message", "w1", type="text", text="Hola", contact={"phone": "57311111111"}))

    assert (answer["status"], answer["error"]) == ("failed", "No active number (none) of cloud_api.")


def test_the_same_news_again_changes_nothing(db: Any, inbox: Inbox) -> None:
    told = account("alert", type="messaging_limit", severity="critical", message="No")
    tell(inbox, told)
    tell(inbox, told)

    assert db.rows("select kind, severity, occurrences from public.alerts") == [
        {"kind": "account_warning", "severity": "critical", "occurrences": 1}
    ]


def test_a_reported_problem_is_an_alert_once(db: Any, inbox: Inbox, clinic: Business) -> None:
    problem = event("problem", "", code=130429, message="Too many") | {"id": None}
    inbox.deliver(problem)
    inbox.deliver(problem)

    assert db.rows("select kind, number_id, occurrences from public.alerts") == [
        {"kind": "provider_problem", "number_id": clinic.number_id, "occurrences": 1}
    ]


def test_what_is_not_modelled_is_kept_and_flagged(db: Any, inbox: Inbox) -> None:
    inbox.deliver(event("other", "o1", raw={"x": 1}))
    inbox.deliver(
        event("call", "c1", contact={"phone": "57311111111"}, direction="inbound", status="connect")
    )

    assert db.column("select is_unmodelled from public.webhook_logs order by delivery_id") == [True, False]
