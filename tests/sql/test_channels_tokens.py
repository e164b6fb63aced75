"""token checks: a token is replaced in steps, and whoever dies after any of them leaves one that works."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.given import NOW, Business
from tests.sql.test_channels_connect import connect, tokens

SOON, LATE = NOW + timedelta(days=2), NOW + timedelta(days=60)


@pytest.fixture
def number_id(db: Any, clinic: Business) -> Any:
    return connect(db, clinic)["number_id"]


def claim(db: Any, since: Any = NOW + timedelta(hours=1)) -> tuple[str, list[dict[str, Any]]]:
    with db.as_service():
        taken = db.value("select public.token_checks_claim(%s)", since)
    return taken["claim"], taken["numbers"]


def tell(db: Any, function: str, *arguments: Any) -> bool:
    with db.as_service():
        said: bool = db.value(f"select public.{function}({', '.join(['%s'] * len(arguments))})", *arguments)
    return said


def test_every_active_number_of_meta_is_taken_in_hand_once(db: Any, clinic: Business, number_id: Any) -> None:
    connect(db, clinic, provider="whapi", provider_number_id="MANTIS-1", phone_number="573009990002")

    _, numbers = claim(db)

    assert [(one["number_id"], one["token"], "next_token" in one) for one in numbers] == [
        (number_id, "tok-1", False)
    ]
    assert claim(db)[1] == []


def test_one_that_was_looked_at_is_left_alone_until_the_next_run(db: Any, number_id: Any) -> None:
    held, (number,) = claim(db)
    tell(db, "token_check_settle", held, number["tenant_id"], number_id, "good")

    assert claim(db, since=None)[1] == []
    assert len(claim(db)[1]) == 1


def test_a_new_token_waits_beside_the_old_one_until_it_is_proven(db: Any, number_id: Any) -> None:
    held, (number,) = claim(db)
    key = (held, number["tenant_id"], number_id)

    assert tell(db, "token_offer", *key, "tok-2", LATE) is True
    assert tokens(db, number_id) == {"access_token": "tok-1", "next_token": "tok-2"}
    assert tell(db, "token_adopt", *key, NOW, LATE) is True
    assert tokens(db, number_id) == {"access_token": "tok-2", "old_token": "tok-1"}


def test_who_dies_after_an_offer_leaves_it_to_the_next_run(db: Any, number_id: Any) -> None:
    held, (number,) = claim(db)
    tell(db, "token_offer", held, number["tenant_id"], number_id, "tok-2", LATE)
    db.run("update public.channel_secrets set lease_until = now() - interval '1 second'")

    _, (again,) = claim(db)

    assert (again["token"], again["next_token"]) == ("tok-1", "tok-2")


def test_the_old_token_is_revoked_only_when_no_worker_remembers_it(db: Any, number_id: Any) -> None:
    held, (number,) = claim(db)
    key = (held, number["tenant_id"], number_id)
    tell(db, "token_offer", *key, "tok-2", LATE)
    tell(db, "token_adopt", *key, NOW, LATE)
    tell(db, "token_check_settle", *key, "good", None, NOW, LATE)

    held, (early,) = claim(db)
    tell(db, "token_check_settle", held, *key[1:], "good", None, NOW, LATE)
    db.run("update public.channel_secrets set replaced_at = replaced_at - interval '10 minutes'")
    held, (due,) = claim(db)
    tell(db, "token_drop", held, *key[1:], "old_token")

    assert "old_token" not in early
    assert due["old_token"] == "tok-1"
    assert tokens(db, number_id) == {"access_token": "tok-2"}


@pytest.mark.parametrize(
    ("function", "more"),
    [
        ("token_offer", ("tok-x", LATE)),
        ("token_adopt", (NOW, LATE)),
        ("token_drop", ("next_token",)),
        ("token_check_settle", ("dead",)),
    ],
)
def test_a_number_that_was_connected_meanwhile_is_not_touched(
    db: Any, clinic: Business, number_id: Any, function: str, more: tuple[Any, ...]
) -> None:
    held, (number,) = claim(db)
    tell(db, "token_offer", held, number["tenant_id"], number_id, "tok-2", LATE)

    connect(db, clinic, token="tok-9")

    assert tell(db, function, held, number["tenant_id"], number_id, *more) is False
    assert tokens(db, number_id) == {"access_token": "tok-9"}


def test_a_run_whose_lease_is_over_changes_no_token(db: Any, number_id: Any) -> None:
    held, (number,) = claim(db)
    db.run("update public.channel_secrets set lease_until = now() - interval '1 second'")

    assert tell(db, "token_offer", held, number["tenant_id"], number_id, "tok-2", LATE) is False
    assert tokens(db, number_id) == {"access_token": "tok-1"}


def test_a_dead_token_stops_the_channel_with_one_alert_until_it_is_connected(
    db: Any, clinic: Business, number_id: Any
) -> None:
    for _ in range(2):
        held, (number,) = claim(db)
        tell(db, "token_check_settle", held, number["tenant_id"], number_id, "dead", "Expired.")
    alert = db.row("select kind, severity, occurrences, details from public.alerts")
    assert alert == {
        "kind": "channel_stopped",
        "severity": "critical",
        "occurrences": 2,
        "details": {"code": 190, "reason": "Expired."},
    }

    connect(db, clinic, token="tok-2")

    assert db.column("select kind from public.alerts where resolved_at is null") == []
    assert db.column("select paused_until from public.number_pacing") == [None]


@pytest.mark.parametrize(
    ("expires_at", "severity"), [(LATE, "warning"), (SOON, "critical"), (None, "warning")]
)
def test_a_check_that_failed_is_an_alert_that_grows_with_the_danger(
    db: Any, number_id: Any, expires_at: Any, severity: str
) -> None:
    db.run("update public.channel_secrets set expires_at = %s", expires_at)
    held, (number,) = claim(db)

    tell(db, "token_check_settle", held, number["tenant_id"], number_id, "failed", "Meta is away.")

    assert db.rows("select kind, severity from public.alerts") == [
        {"kind": "token_refresh_failed", "severity": severity}
    ]


def test_the_alert_about_a_check_ends_when_one_succeeds(db: Any, number_id: Any) -> None:
    for result in ("failed", "failed", "good"):
        held, (number,) = claim(db)
        tell(db, "token_check_settle", held, number["tenant_id"], number_id, result, "why", NOW, LATE)

    assert db.rows("select occurrences, resolved_at is null as open from public.alerts") == [
        {"occurrences": 2, "open": False}
    ]
    assert db.value("select expires_at from public.channel_secrets") == LATE


def test_the_token_in_use_is_never_dropped(db: Any, number_id: Any) -> None:
    held, (number,) = claim(db)

    with db.as_service(), pytest.raises(psycopg.Error) as refused:
        db.run("select public.token_drop(%s, %s, %s, 'access_token')", held, number["tenant_id"], number_id)

    assert refused.value.sqlstate == "PT400"
