"""connecting: a proven number becomes a business's own, its token goes to Vault, and it can be given up."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from tests.sql.given import Business, open_business

NUMBER = {
    "provider": "cloud_api",
    "phone_number": "573009990001",
    "provider_number_id": "900000000000001",
    "waba_id": "300",
    "display_name": "Clínica Norte",
    "quality_rating": "GREEN",
    "messaging_limit": 2000,
    "is_coexistence": False,
}
FIRST = "tok-1"
TOKENS = """
    select s.kind, v.decrypted_secret as secret
    from public.channel_secrets s join vault.decrypted_secrets v on v.id = s.secret_id
    where s.number_id = %s order by s.kind"""


def connect(db: Any, who: Business, *, token: Any = FIRST, **changes: Any) -> dict[str, Any]:
    user = db.value("select id from public.users where auth_id = %s", who.owner)
    with db.as_service():
        answer: dict[str, Any] = db.value(
            "select public.channel_connect(%s, %s::jsonb, %s)", user, {**NUMBER, **changes}, token
        )
    return answer


def tokens(db: Any, number_id: Any) -> dict[str, str]:
    return {row["kind"]: row["secret"] for row in db.rows(TOKENS, number_id)}


def vault(db: Any) -> list[str]:
    return sorted(db.column("select decrypted_secret from vault.decrypted_secrets"))


def refusal(db: Any, who: Business, **changes: Any) -> psycopg.errors.Diagnostic:
    with pytest.raises(psycopg.Error) as refused:
        connect(db, who, **changes)
    return refused.value.diag


def test_a_proven_number_is_active_and_its_token_in_vault_alone(db: Any, clinic: Business) -> None:
    made = connect(db, clinic)

    number = db.row("select * from public.whatsapp_numbers where id = %s", made["number_id"])
    assert (number["is_active"], number["messaging_limit"], number["display_name"]) == (
        True,
        2000,
        "Clínica Norte",
    )
    assert tokens(db, made["number_id"]) == {"access_token": FIRST}
    rows = db.value("select string_agg(t::text, '') from public.channel_secrets t")
    assert FIRST not in f"{rows}{number}"


def test_connecting_again_replaces_the_token_and_nothing_else(db: Any, clinic: Business) -> None:
    first = connect(db, clinic)
    before = db.row("select * from public.whatsapp_numbers where id = %s", first["number_id"])

    again = connect(db, clinic, token="tok-2", display_name="Otro")

    assert again == first
    assert db.row("select * from public.whatsapp_numbers where id = %s", first["number_id"]) == before
    assert vault(db) == ["tok-2"]


def test_connecting_again_mends_a_stopped_channel(db: Any, clinic: Business) -> None:
    made = connect(db, clinic)
    with db.as_service():
        db.run(
            "select private.channel_stop(%s, %s, 'Error validating access token')",
            clinic.tenant_id, made["number_id"],
        )  # fmt: skip
    assert db.value("select paused_until::text from public.number_pacing") == "infinity"

    connect(db, clinic, token="tok-2")

    assert db.column("select paused_until from public.number_pacing") == [None]
    assert db.column("select kind from public.alerts where resolved_at is null") == []


def test_what_is_active_elsewhere_is_refused_without_saying_whose(
    db: Any, clinic: Business, plaza: Business
) -> None:
    connect(db, clinic)

    said = refusal(db, plaza, token="tok-9")

    assert said.sqlstate == "PT409"
    assert "clinic" not in f"{said.message_primary}{said.message_hint}{said.message_detail}".lower()
    assert vault(db) == [FIRST]


@pytest.mark.parametrize(
    "changes",
    [{"provider": "whapi", "provider_number_id": "MANTIS-1"}, {"provider_number_id": "900000000000009"}],
)
def test_one_phone_is_active_through_one_provider(db: Any, clinic: Business, changes: dict[str, str]) -> None:
    connect(db, clinic)

    assert refusal(db, clinic, **changes).sqlstate == "PT409"


def test_over_the_plan_is_said_as_a_sentence_and_stores_nothing(db: Any) -> None:
    basic = open_business(db.connection, "basic", "100000000000009", plan="basic")

    said = refusal(db, basic)

    assert (said.sqlstate, said.message_primary) == (
        "PT402",
        "Números de WhatsApp en el plan basic: 1 como mucho, y este sería el 2.",
    )
    assert vault(db) == []


def test_a_smaller_plan_does_not_keep_a_number_from_being_mended(db: Any, clinic: Business) -> None:
    made = connect(db, clinic)
    db.run("select public.plan_set(%s, 'free')", clinic.tenant_id)

    assert connect(db, clinic, token="tok-2") == made


@pytest.mark.parametrize("change", ["role = 'user'", "is_active = false, auth_id = null", "role = 'agent'"])
def test_only_an_admin_of_today_connects(db: Any, clinic: Business, change: str) -> None:
    colleague = db.value(
        "insert into public.users (tenant_id, role, email) values (%s, 'admin', 'ana@x.example')"
        " returning id", clinic.tenant_id,
    )  # fmt: skip
    db.run(f"update public.users set {change} where id = %s", colleague)

    with db.as_service(), pytest.raises(psycopg.Error) as refused:
        db.run("select public.channel_connect(%s, %s::jsonb, 'tok')", colleague, NUMBER)

    assert refused.value.sqlstate == "PT403"


def test_a_number_of_whapi_gets_a_secret_that_stays(db: Any, clinic: Business) -> None:
    made = connect(db, clinic, provider="whapi", provider_number_id="MANTIS-1")

    assert len(made["webhook_secret"]) == 64
    assert connect(db, clinic, provider="whapi", provider_number_id="MANTIS-1") == made
    with db.as_service():
        keys = db.value("select public.channel_webhook_keys(%s)", made["number_id"])
    assert keys["secrets"] == [made["webhook_secret"]]


def test_a_coexisting_number_is_held_to_its_rate_and_synced_once(db: Any, clinic: Business) -> None:
    made = connect(db, clinic, is_coexistence=True)
    user = db.value("select id from public.users where auth_id = %s", clinic.owner)
    with db.as_service():
        db.run(
            "select public.channel_setup_settle(%s, %s, 'https://x/webhook/cloud-api', p_synced => true)",
            user, made["number_id"],
        )  # fmt: skip

    assert made["needs_sync"] is True
    assert connect(db, clinic, is_coexistence=True)["needs_sync"] is False


def test_a_provider_that_was_not_told_where_to_deliver_is_an_alert_until_it_is(
    db: Any, clinic: Business
) -> None:
    made = connect(db, clinic)
    user = db.value("select id from public.users where auth_id = %s", clinic.owner)

    def settle(arguments: str) -> list[Any]:
        with db.as_service():
            db.run(f"select public.channel_setup_settle(%s, %s, {arguments})", user, made["number_id"])
        return db.rows("select kind, occurrences from public.alerts where resolved_at is null")

    assert settle("p_problem => 'Meta is away'") == [{"kind": "channel_setup", "occurrences": 1}]
    assert settle("p_problem => 'Meta is away'") == [{"kind": "channel_setup", "occurrences": 2}]
    assert settle("'https://x/webhook/cloud-api'") == []


def test_disconnecting_forgets_the_tokens_and_frees_the_number(
    db: Any, clinic: Business, plaza: Business
) -> None:
    made = connect(db, clinic)
    with db.signed_in(clinic.owner):
        db.run("select public.number_disconnect(%s)", made["number_id"])

    assert vault(db) == []
    assert connect(db, plaza, token="tok-2")["number_id"] != made["number_id"]


def test_who_gave_a_number_up_cannot_just_switch_it_on(db: Any, clinic: Business) -> None:
    made = connect(db, clinic)
    with db.signed_in(clinic.owner):
        db.run("select public.number_disconnect(%s)", made["number_id"])
        with pytest.raises(psycopg.Error, match="number_disconnected") as refused:
            db.run("update public.whatsapp_numbers set is_active = true where id = %s", made["number_id"])

    assert refused.value.sqlstate == "PT409"
    assert connect(db, clinic)["number_id"] == made["number_id"]


def test_a_number_that_was_only_switched_off_is_switched_on_again(db: Any, clinic: Business) -> None:
    made = connect(db, clinic)
    with db.signed_in(clinic.owner):
        for is_active in (False, True):
            db.run(
                "update public.whatsapp_numbers set is_active = %s where id = %s",
                is_active,
                made["number_id"],
            )

    assert db.value("select is_active from public.whatsapp_numbers where id = %s", made["number_id"])


def test_an_admin_lets_a_mended_number_go_on(db: Any, clinic: Business) -> None:
    made = connect(db, clinic)
    with db.as_service():
        db.run("select private.channel_stop(%s, %s, 'Payment')", clinic.tenant_id, made["number_id"])
    with db.signed_in(clinic.owner):
        db.run("select public.number_resume(%s)", made["number_id"])

    assert db.column("select paused_until from public.number_pacing") == [None]
    assert db.column("select kind from public.alerts where resolved_at is null") == []


@pytest.mark.parametrize("function", ["number_disconnect", "number_resume"])
def test_nobody_touches_the_number_of_another_business(
    db: Any, clinic: Business, plaza: Business, function: str
) -> None:
    with db.signed_in(plaza.owner), pytest.raises(psycopg.Error) as refused:
        db.run(f"select public.{function}(%s)", clinic.number_id)

    assert refused.value.sqlstate == "PT404"


@pytest.mark.parametrize(
    "call",
    [
        "public.channel_connect(gen_random_uuid(), '{}', 'tok')",
        "public.channel_setup_settle(gen_random_uuid(), gen_random_uuid())",
        "public.channel_tokens('[]')",
        "public.token_checks_claim()",
        "public.token_offer(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'tok', now())",
        "public.token_adopt(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(), now())",
        "public.token_drop(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'old_token')",
        "public.token_check_settle(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'good')",
    ],
)
def test_people_reach_no_token(db: Any, clinic: Business, call: str) -> None:
    with db.signed_in(clinic.owner), pytest.raises(InsufficientPrivilege, match="permission denied for func"):
        db.run(f"select {call}")


def test_of_two_businesses_at_once_one_gets_the_number(connect: Any) -> None:
    owners = [open_business(connect(), name, f"10000000000000{n}") for n, name in enumerate(("one", "two"))]
    outcomes = []

    def claim(owner: Business) -> None:
        try:
            with connect() as connection:
                connection.execute(
                    "select public.channel_connect(id, %s::jsonb, 'tok')"
                    " from public.users where auth_id = %s",
                    [psycopg.types.json.Json(NUMBER), owner.owner],
                )
            outcomes.append("connected")
        except psycopg.Error as error:
            outcomes.append(str(error.sqlstate))

    threads = [threading.Thread(target=claim, args=(owner,)) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["PT409", "connected"]
