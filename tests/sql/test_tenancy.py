"""tenancy: who signs up gets a business or the seat that waits for them, and sees that business alone."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.errors import CheckViolation, InsufficientPrivilege

OWNER, ADMIN, USER, AGENT = (
    "ana@acme.example",
    "adam@acme.example",
    "ursula@acme.example",
    "abel@acme.example",
)
STRANGER = "gus@globex.example"

SIGN_UP = """insert into auth.users (id, email, email_confirmed_at)
    values (gen_random_uuid(), %s, now())"""


@contextmanager
def refused(sqlstate: str, words: str) -> Iterator[pytest.ExceptionInfo[psycopg.Error]]:
    """The statement is refused with this SQLSTATE, by what these words name."""
    with pytest.raises(psycopg.Error, match=words) as caught:
        yield caught
    assert caught.value.sqlstate == sqlstate


class Cast:
    """Two businesses: acme with one person of each role, and globex."""

    def __init__(self, db: Any) -> None:
        self.db = db
        self.auth: dict[str, uuid.UUID] = {
            OWNER: db.sign_up(OWNER, name="Ana", business_name="Acme"),
            STRANGER: db.sign_up(STRANGER, business_name="Globex"),
        }
        for email, role in ((ADMIN, "admin"), (USER, "user"), (AGENT, "agent")):
            self.hire(email, role)

    def hire(self, email: str, role: str) -> None:
        self.invite(email, role)
        self.auth[email] = self.db.sign_up(email)

    def invite(
        self, email: str | None, role: str | None = "agent", name: str | None = None, by: str = OWNER
    ) -> uuid.UUID:
        with self.db.signed_in(self.auth[by]):
            seat: uuid.UUID = self.db.value("select staff_invite(%s, %s, %s)", email, role, name)
            return seat

    def seat(self, email: str) -> dict[str, Any]:
        """The seat of whoever has this e-mail, whatever its state."""
        seat: dict[str, Any] = self.db.row("select * from users where email = %s", email)
        return seat

    def id(self, email: str) -> Any:
        return self.seat(email)["id"]

    def does(self, who: str, statement: str, *values: Any) -> list[Any]:
        """The first column of what a person gets from a statement."""
        with self.db.signed_in(self.auth[who]):
            return list(self.db.column(statement, *values))


@pytest.fixture
def cast(db: Any) -> Cast:
    return Cast(db)


# Sign-up


def test_a_sign_up_opens_a_business_on_the_free_plan(db: Any) -> None:
    auth_id = db.sign_up("Eva@New.example", name="Eva", business_name="Eva's")

    owner = db.row("select * from users where auth_id = %s", auth_id)

    assert owner["id"] == owner["tenant_id"]
    assert (owner["email"], owner["name"], owner["role"]) == ("eva@new.example", "Eva", "admin")
    assert (owner["crm_plan"], owner["max_whatsapp_numbers"], owner["max_agents"]) == ("free", 0, 1)
    assert db.column("select business_name from tenant_settings where tenant_id = %s", owner["id"]) == [
        "Eva's"
    ]


@pytest.mark.parametrize(
    "meta", [{}, {"name": "  ", "business_name": ""}, {"name": None, "business_name": []}]
)
def test_a_business_always_has_a_name(db: Any, meta: dict[str, Any]) -> None:
    auth_id = db.sign_up("eva@new.example", **meta)

    assert db.value(
        "select business_name from tenant_settings s join users u on u.id = s.tenant_id where auth_id = %s",
        auth_id,
    )


def test_an_unproven_address_opens_nothing_and_takes_no_seat(cast: Cast, db: Any) -> None:
    seat = cast.invite("ines@acme.example")

    auth_id = db.value(
        "insert into auth.users (id, email) values (gen_random_uuid(), 'ines@acme.example') returning id"
    )
    assert db.value("select auth_id from users where id = %s", seat) is None
    assert db.value("select count(*) from users where email = 'ines@acme.example'") == 1

    db.run("update auth.users set email_confirmed_at = now() where id = %s", auth_id)
    assert db.value("select auth_id from users where id = %s", seat) == auth_id


def test_an_invited_person_takes_their_seat_however_they_write_their_address(cast: Cast, db: Any) -> None:
    seat = cast.invite("  Ines@ACME.example ", "user", "Inés")

    auth_id = db.sign_up("INES@acme.example", name="I.", business_name="Mine")

    ines = db.row("select * from users where auth_id = %s", auth_id)
    assert (ines["id"], ines["tenant_id"], ines["role"]) == (seat, cast.id(OWNER), "user")
    assert ines["name"] == "Inés"


def test_confirming_twice_changes_nothing(cast: Cast, db: Any) -> None:
    before = db.rows("select * from users order by id")

    db.run("update auth.users set email_confirmed_at = now(), email = email")

    assert db.rows("select * from users order by id") == before


def test_a_fault_at_sign_up_leaves_nothing(db: Any) -> None:
    db.run("alter table tenant_settings add constraint a_fault check (business_name <> 'Broken')")

    with pytest.raises(CheckViolation, match="a_fault"), db.connection.transaction():
        db.sign_up("eva@new.example", business_name="Broken")

    assert db.value("select count(*) from users where email = 'eva@new.example'") == 0
    assert db.value("select count(*) from auth.users where email = 'eva@new.example'") == 0


def test_a_deleted_account_leaves_the_business_to_who_proves_the_address_again(cast: Cast, db: Any) -> None:
    db.run("delete from auth.users where id = %s", cast.auth[OWNER])
    assert cast.seat(OWNER)["auth_id"] is None

    again = db.sign_up(OWNER, business_name="Another")

    assert cast.seat(OWNER)["auth_id"] == again
    assert cast.does(AGENT, "select business_name from tenant_settings") == ["Acme"]


def test_a_new_address_of_a_person_is_followed(cast: Cast, db: Any) -> None:
    invitation = cast.invite("abel@home.example", by=STRANGER)

    db.run("update auth.users set email = 'Abel@home.example' where id = %s", cast.auth[AGENT])

    assert db.value("select email from users where auth_id = %s", cast.auth[AGENT]) == "abel@home.example"
    assert db.value("select is_active from users where id = %s", invitation) is False


# Reading


@pytest.mark.parametrize("who", [OWNER, ADMIN, USER, AGENT])
def test_a_member_sees_their_whole_business_and_no_other(cast: Cast, who: str) -> None:
    assert cast.does(who, "select email from users order by email") == sorted([OWNER, ADMIN, USER, AGENT])
    assert cast.does(who, "select business_name from tenant_settings") == ["Acme"]
    assert cast.does(who, "select count(*) from plans") == [4]


@pytest.mark.parametrize("table", ["users", "tenant_settings", "plans"])
def test_anonymous_may_read_nothing(db: Any, table: str) -> None:
    with db.as_anon(), pytest.raises(InsufficientPrivilege, match=f"permission denied for table {table}"):
        db.rows(f"select from {table}")


@pytest.mark.parametrize(
    "call",
    ["me()", "staff_invite('x@x.example', 'agent')", "staff_remove(null)", "staff_change_role(null, 'user')",
     "ownership_transfer(null)", "plan_set(null, 'pro')"],
)  # fmt: skip
def test_anonymous_may_call_nothing(db: Any, call: str) -> None:
    name = call.split("(")[0]
    with db.as_anon(), pytest.raises(InsufficientPrivilege, match=f"permission denied for function {name}"):
        db.rows(f"select {call}")


def test_a_person_is_told_who_they_are(cast: Cast) -> None:
    (me,) = cast.does(AGENT, "select me()")

    assert me["user"] | {"id": None} == {
        "id": None, "email": AGENT, "name": None, "role": "agent", "locale": "es",
        "timezone": "America/Bogota", "is_owner": False,
    }  # fmt: skip
    assert (me["tenant"]["business_name"], me["plan"]) == ("Acme", "free")
    assert me["limits"] == {"max_whatsapp_numbers": 0, "max_agents": 1, "max_messages_per_month": None}


def test_a_token_without_a_seat_sees_nothing(cast: Cast, db: Any) -> None:
    with db.signed_in(uuid.uuid4()):
        assert db.value("select me()") is None
        assert db.rows("select from users") == []
        assert db.rows("select from tenant_settings") == []


def test_the_caller_is_found_in_the_index_alone(cast: Cast, db: Any) -> None:
    db.run("set local enable_seqscan = off")
    db.run("drop index users_email_key")  # as good as any while an analyze found the table empty

    plan = db.column(
        "explain select tenant_id, id, role from users where auth_id = %s and is_active", uuid.uuid4()
    )

    assert re.search("Index Only Scan using users_auth_id_key", "\n".join(plan))


# Editing


def test_a_person_edits_their_own_name_language_and_zone(cast: Cast) -> None:
    edit = "update users set name = 'Abel', locale = 'pt-BR', timezone = 'Europe/Madrid' returning email"

    assert cast.does(AGENT, edit) == [AGENT]


@pytest.mark.parametrize(
    "column", ["tenant_id", "role", "email", "auth_id", "is_active", "crm_plan", "max_agents",
               "max_whatsapp_numbers", "crm_enabled"],
)  # fmt: skip
@pytest.mark.parametrize("who", [OWNER, AGENT])
def test_nobody_edits_what_decides_about_them(cast: Cast, column: str, who: str) -> None:
    with refused("42501", "permission denied for table users"):
        cast.does(who, f"update users set {column} = {column} where id = private.my_user_id() returning id")


@pytest.mark.parametrize(
    "statement", ["insert into users (email) values ('x@x.example')", "delete from users",
                  "delete from tenant_settings", "update plans set max_agents = 99"],
)  # fmt: skip
def test_an_owner_neither_makes_nor_deletes_rows_of_tenancy(cast: Cast, statement: str) -> None:
    with refused("42501", "permission denied for table (users|tenant_settings|plans)"):
        cast.does(OWNER, statement)


def test_an_unknown_time_zone_is_refused(cast: Cast) -> None:
    with refused("23514", "users_timezone_check"):
        cast.does(
            OWNER, "update users set timezone = 'Mars/Olympus' where id = private.my_user_id() returning id"
        )


@pytest.mark.parametrize(("who", "changed"), [(OWNER, ["Acme"]), (ADMIN, ["Acme"]), (USER, []), (AGENT, [])])
def test_settings_are_edited_by_admins_of_that_business(cast: Cast, who: str, changed: list[str]) -> None:
    assert (
        cast.does(who, "update tenant_settings set block_after_hours = 96 returning business_name") == changed
    )


def test_settings_stay_with_their_tenant(cast: Cast) -> None:
    with refused("42501", "permission denied for table tenant_settings"):
        cast.does(OWNER, "update tenant_settings set tenant_id = tenant_id returning tenant_id")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("business_name", "'  '"),
        ("currency", "'dollars'"),
        ("conversation_idle_hours", "0"),
        ("activity_delay_seconds", "-1"),
        ("crm_statuses", "'[]'"),
        ("crm_statuses", """'["Lead", ""]'"""),
        ("crm_statuses", "'{}'"),
        ("quiet_hours", """'{"from": "21:00"}'"""),
        ("quiet_hours", """'{"from": "21:00", "to": "24:00"}'"""),
        ("ai_daily_cost_budget", "-0.01"),
        ("webhook_log_retention_days", "0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(cast: Cast, column: str, value: str) -> None:
    with refused("23514", f"tenant_settings_{column}_check"):
        cast.does(OWNER, f"update tenant_settings set {column} = {value} returning 1")


def test_settings_that_make_sense_are_kept(cast: Cast) -> None:
    edit = """update tenant_settings set quiet_hours = '{"from": "21:00", "to": "08:00"}',
        ai_daily_cost_budget = 0, crm_statuses = '["Nuevo"]', opt_out_confirmation = null,
        daily_actions_at = '08:30' returning 1"""

    assert cast.does(ADMIN, edit) == [1]


# Inviting


@pytest.mark.parametrize("who", [OWNER, ADMIN])
def test_an_admin_invites(cast: Cast, db: Any, who: str) -> None:
    seat = cast.invite("ines@acme.example", "user", "Inés", by=who)

    ines = cast.seat("ines@acme.example")
    assert (ines["id"], ines["tenant_id"], ines["role"], ines["name"]) == (
        seat,
        cast.id(OWNER),
        "user",
        "Inés",
    )
    assert (ines["auth_id"], ines["crm_plan"]) == (None, None)


@pytest.mark.parametrize("who", [USER, AGENT])
@pytest.mark.parametrize(
    "call", ["staff_invite('x@x.example', 'agent')", "staff_remove(private.my_user_id())",
             "staff_change_role(private.my_user_id(), 'admin')"],
)  # fmt: skip
def test_who_is_no_admin_manages_nobody(cast: Cast, who: str, call: str) -> None:
    with refused("PT403", "not_admin"):
        cast.does(who, f"select {call}")


@pytest.mark.parametrize("role", ["owner", "", None])
def test_an_unknown_role_is_refused(cast: Cast, role: str | None) -> None:
    with refused("PT400", '"role"'):
        cast.invite("ines@acme.example", role)
    with refused("PT400", '"role"'):
        cast.does(OWNER, "select staff_change_role(%s, %s)", cast.id(AGENT), role)


@pytest.mark.parametrize("email", ["", None, "ines", "ines@acme", "in es@acme.example"])
def test_what_is_no_address_is_refused(cast: Cast, email: str | None) -> None:
    with refused("PT400", '"email"'):
        cast.invite(email)


def test_a_colleague_is_not_invited_again(cast: Cast) -> None:
    cast.invite("ines@acme.example")

    for email in (AGENT, OWNER, "INES@acme.example"):
        with refused("PT409", "is_colleague"):
            cast.invite(email)


def test_a_person_of_another_business_is_refused_without_saying_whose(cast: Cast) -> None:
    cast.invite("waiting@globex.example", by=STRANGER)

    for email in (STRANGER, "waiting@globex.example"):
        with refused("PT409", "is_elsewhere") as caught:
            cast.invite(email)
        assert "globex" not in str(caught.value).lower()


def test_a_sign_up_during_an_invitation_waits_and_takes_the_seat(server: Any, database: str) -> None:
    name = database.rsplit("/", 1)[1]
    with psycopg.connect(database) as acme, psycopg.connect(server.dsn(name, "supabase_auth_admin")) as auth:
        acme.execute(SIGN_UP, [OWNER])
        acme.commit()
        acme.execute("select set_config('request.jwt.claims', json_build_object('sub', auth_id)::text, true)"
                     " from users")  # fmt: skip
        acme.execute("select staff_invite(%s, 'agent')", [AGENT])
        with ThreadPoolExecutor() as pool:
            sign_up = pool.submit(auth.execute, SIGN_UP, [AGENT])
            wait_until_blocked(acme, auth)
            acme.commit()
            sign_up.result(timeout=10)
        auth.commit()

        assert acme.execute("select count(*), count(auth_id), count(crm_plan) from users").fetchone() == (
            2,
            2,
            1,
        )


def wait_until_blocked(watcher: psycopg.Connection[Any], waiting: psycopg.Connection[Any]) -> None:
    blocked = "select %s = any (select pid from pg_locks where not granted)"
    for _ in range(1000):
        if watcher.execute(blocked, [waiting.info.backend_pid]).fetchone() == (True,):
            return
        time.sleep(0.01)
    pytest.fail("nobody waited")


# Leaving


def test_a_removed_person_sees_nothing_at_once(cast: Cast, db: Any) -> None:
    cast.does(ADMIN, "select staff_remove(%s)", cast.id(AGENT))

    for statement in ("select id from users", "select tenant_id from tenant_settings"):
        assert cast.does(AGENT, statement) == []
    assert cast.does(AGENT, "select me()") == [None]
    with refused("PT403", "not_admin"):
        cast.invite("x@x.example", by=AGENT)


def test_an_account_switched_off_by_the_operator_sees_nothing(cast: Cast, db: Any) -> None:
    db.run("update users set is_active = false where email = %s", OWNER)

    assert cast.does(OWNER, "select id from users") == []
    with refused("PT403", "not_admin"):
        cast.invite("x@x.example")


def test_a_removed_person_comes_back_to_their_old_seat(cast: Cast) -> None:
    seat = cast.id(AGENT)
    cast.does(OWNER, "select staff_remove(%s)", seat)

    assert cast.invite(AGENT, "user") == seat
    assert cast.does(AGENT, "select role from users where id = private.my_user_id()") == ["user"]


def test_a_removed_person_may_join_another_business(cast: Cast) -> None:
    cast.does(OWNER, "select staff_remove(%s)", cast.id(AGENT))

    cast.invite(AGENT, by=STRANGER)

    assert cast.does(AGENT, "select business_name from tenant_settings") == ["Globex"]
    with refused("PT409", "is_elsewhere"):
        cast.invite(AGENT)


def test_a_removed_person_does_not_open_a_business_by_changing_their_address(cast: Cast, db: Any) -> None:
    cast.does(OWNER, "select staff_remove(%s)", cast.id(AGENT))

    db.run("update auth.users set email = 'abel@home.example' where id = %s", cast.auth[AGENT])

    assert cast.does(AGENT, "select me()") == [None]


def test_an_invitation_is_withdrawn_by_removing_the_seat(cast: Cast, db: Any) -> None:
    seat = cast.invite("ines@acme.example")
    cast.does(OWNER, "select staff_remove(%s)", seat)

    auth_id = db.sign_up("ines@acme.example", business_name="Inés's")

    assert db.value("select id = tenant_id from users where auth_id = %s", auth_id) is True


@pytest.mark.parametrize("call", ["staff_remove(%s)", "staff_change_role(%s, 'agent')"])
def test_the_owner_stays(cast: Cast, call: str) -> None:
    for who in (OWNER, ADMIN):
        with refused("PT403", '"owner"'):
            cast.does(who, f"select {call}", cast.id(OWNER))


def test_nobody_removes_themselves(cast: Cast) -> None:
    with refused("PT403", "yourself"):
        cast.does(ADMIN, "select staff_remove(%s)", cast.id(ADMIN))


@pytest.mark.parametrize(
    "call", ["staff_remove(%s)", "staff_change_role(%s, 'agent')", "ownership_transfer(%s)"]
)
def test_people_of_another_business_are_not_found(cast: Cast, call: str) -> None:
    for stranger in (cast.id(STRANGER), uuid.uuid4(), None):
        with refused("PT404", "no_colleague"):
            cast.does(OWNER, f"select {call}", stranger)


def test_a_new_role_counts_at_once(cast: Cast) -> None:
    cast.does(OWNER, "select staff_change_role(%s, 'admin')", cast.id(AGENT))

    assert cast.does(AGENT, "update tenant_settings set block_after_hours = 96 returning 1") == [1]


# Handing over


def test_a_handed_over_business_keeps_its_id_plan_and_clock(cast: Cast, db: Any) -> None:
    tenant = cast.id(OWNER)
    db.run("update users set timezone = 'Europe/Madrid', locale = 'en' where id = %s", tenant)

    cast.does(OWNER, "select ownership_transfer(%s)", cast.id(AGENT))

    new, old = cast.seat(AGENT), cast.seat(OWNER)
    assert (new["id"], new["auth_id"], new["role"]) == (tenant, cast.auth[AGENT], "admin")
    assert (new["crm_plan"], new["timezone"], new["locale"]) == ("free", "Europe/Madrid", "es")
    assert (old["tenant_id"], old["auth_id"], old["role"]) == (tenant, cast.auth[OWNER], "admin")
    assert (old["name"], old["locale"], old["is_active"]) == ("Ana", "en", True)


def test_what_was_assigned_to_a_person_stays_theirs_after_a_handover(cast: Cast, db: Any) -> None:
    db.run("""create table public.probe (tenant_id uuid, label text, assigned_to uuid,
        foreign key (tenant_id, assigned_to) references public.users (tenant_id, id))""")
    for email in (OWNER, AGENT, USER):
        db.run("insert into probe values (%s, %s, %s)", cast.id(OWNER), email, cast.id(email))

    cast.does(OWNER, "select ownership_transfer(%s)", cast.id(AGENT))

    assert db.column("select label = email from probe p join users u on u.id = p.assigned_to") == [True] * 3


@pytest.mark.parametrize("who", [ADMIN, USER, AGENT])
def test_only_the_owner_hands_over(cast: Cast, who: str) -> None:
    with refused("PT403", "not_owner"):
        cast.does(who, "select ownership_transfer(%s)", cast.id(who))


def test_a_business_is_not_handed_to_an_invitation_or_to_its_owner(cast: Cast) -> None:
    with refused("PT409", "not_signed_up"):
        cast.does(OWNER, "select ownership_transfer(%s)", cast.invite("ines@acme.example"))
    with refused("PT409", "is_owner"):
        cast.does(OWNER, "select ownership_transfer(%s)", cast.id(OWNER))


# Plans


@pytest.mark.parametrize(
    ("plan", "numbers", "agents"), [("free", 0, 1), ("basic", 1, 1), ("pro", 2, 3), ("enterprise", 5, None)]
)
def test_a_plan_brings_its_limits(cast: Cast, db: Any, plan: str, numbers: int, agents: int | None) -> None:
    with db.as_service():
        db.run("select plan_set(%s, %s)", cast.id(OWNER), plan)

    (me,) = cast.does(AGENT, "select me()")
    assert (me["plan"], me["limits"]) == (
        plan,
        {"max_whatsapp_numbers": numbers, "max_agents": agents, "max_messages_per_month": None},
    )
    assert (cast.seat(OWNER)["max_whatsapp_numbers"], cast.seat(OWNER)["max_agents"]) == (numbers, agents)


def test_an_owner_does_not_sell_themselves_a_plan(cast: Cast) -> None:
    with refused("42501", "permission denied for function plan_set"):
        cast.does(OWNER, "select plan_set(private.my_tenant_id(), 'enterprise')")


def test_a_plan_is_sold_to_a_business_and_must_exist(cast: Cast, db: Any) -> None:
    with refused("PT400", "There is no plan 'gold'"), db.as_service():
        db.run("select plan_set(%s, 'gold')", cast.id(OWNER))
    with refused("PT404", "no such business"), db.as_service():
        db.run("select plan_set(%s, 'pro')", cast.id(AGENT))
