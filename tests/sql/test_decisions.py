"""send_decisions: what may be sent, now, to that customer, and what it would cost."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.given import NOW, Business, Inbox, says, status
from tests.sql.test_outbox import claim, enqueue, intent, settle
from tests.sql.test_prices import set_clock


@pytest.fixture
def chat(db: Any, inbox: Inbox) -> Any:
    """María has just written: her window is open."""
    inbox.deliver(says("w1"))
    return db.value("select id from public.chats")


CLOSED = "update public.chats set window_expires_at = null"
OPTED_OUT = "update public.customer_leads set opted_out_at = now(), opt_out_scope = "
TAKEN_OVER = "update public.chats set agent_paused_until = now() + interval '1 hour'"


@pytest.mark.parametrize(
    ("rule", "purpose", "verdict", "reason"),
    [
        ("select 1", "reply", "send", "window_open"),
        ("update public.chats set window_expires_at = now()", "reply", "manual", "window_closed"),
        (CLOSED, "staff", "template", "window_closed"),
        (CLOSED, "sequence", "manual", "window_closed"),
        (CLOSED, "daily_action", "template", "window_closed"),
        (OPTED_OUT + "'all'", "staff", "never", "opted_out"),
        (OPTED_OUT + "'marketing'", "sequence", "never", "opted_out_of_marketing"),
        (OPTED_OUT + "'marketing'", "reply", "send", "window_open"),
        ("update public.chats set block_state = 'confirmed'", "sequence", "never", "blocked"),
        ("update public.chats set block_state = 'confirmed'", "reply", "send", "window_open"),
        ("update public.chats set block_state = 'probable'", "daily_action", "wait", "probably_blocked"),
        ("update public.chats set reach_state = 'unreachable'", "sequence", "never", "unreachable"),
        ("update public.chats set reach_state = 'unreachable'", "staff", "send", "unreachable"),
        ("update public.chats set reach_state = 'unreachable'", "reply", "send", "window_open"),
        (TAKEN_OVER, "reply", "never", "human_takeover"),
        (TAKEN_OVER, "staff", "send", "window_open"),
        ("update public.whatsapp_numbers set is_active = false", "reply", "never", "number_inactive"),
    ],
)  # fmt: skip
def test_what_may_be_sent(db: Any, chat: Any, rule: str, purpose: str, verdict: str, reason: str) -> None:
    db.run(rule)

    decision = db.row(
        "select verdict, reason from public.chats c, private.send_decisions(array[("
        "c.id, c.tenant_id, c.id, %s, false, null, null, false)::private.send_candidate])", purpose,
    )  # fmt: skip
    assert decision == {"verdict": verdict, "reason": reason}


@pytest.mark.parametrize(
    ("rule", "price_class", "cost"),
    [
        ("select 1", "service", 0),
        ("update public.chats set free_entry_until = now() + interval '1 h'", "free_entry_point", 0),
        ("update public.whatsapp_numbers set provider = 'whapi'", "none", 0),
    ],
)
def test_what_it_would_cost(db: Any, chat: Any, rule: str, price_class: str, cost: float) -> None:
    db.run(rule)

    price = db.row(
        "select price_class, estimated_cost::float8 from public.chats c, private.send_decisions(array[("
        "c.id, c.tenant_id, c.id, 'reply', false, null, null, false)::private.send_candidate])"
    )
    assert price == {"price_class": price_class, "estimated_cost": cost}


@pytest.mark.parametrize(
    ("zone", "quiet", "now", "opens"),
    [
        # the clock skips 02:00 to 03:00: the first moment that is not before 02:30 is 03:00
        ("America/New_York", ("22:00", "02:30"), "2026-03-08T06:10Z", "2026-03-08T07:00Z"),
        # 01:30 comes twice: quiet ends, begins again with the repeated hour, and ends for good
        ("America/New_York", ("22:00", "01:30"), "2026-11-01T05:10Z", "2026-11-01T05:30Z"),
        ("America/New_York", ("22:00", "01:30"), "2026-11-01T06:10Z", "2026-11-01T06:30Z"),
        ("Europe/Madrid", ("21:00", "08:00"), "2026-03-28T21:00Z", "2026-03-29T06:00Z"),
        ("Europe/Madrid", ("21:00", "02:30"), "2026-10-25T00:10Z", "2026-10-25T00:30Z"),
        ("America/Santiago", ("21:00", "00:30"), "2026-09-06T03:30Z", "2026-09-06T04:00Z"),
        ("America/Santiago", ("21:00", "08:00"), "2026-04-05T02:00Z", "2026-04-05T12:00Z"),
        ("America/Sao_Paulo", ("21:00", "08:00"), "2026-11-01T02:00Z", "2026-11-01T11:00Z"),
        ("America/Bogota", ("08:00", "08:00"), "2026-11-01T02:00Z", "2026-11-01T02:00Z"),
    ],
)
def test_quiet_hours_end_by_a_clock_that_skips_and_repeats(
    db: Any, zone: str, quiet: tuple[str, str], now: str, opens: str
) -> None:
    hours = {"from": quiet[0], "to": quiet[1]}

    found = db.value("select private.first_open(%s::jsonb, %s, null, 'UTC', %s)", hours, zone, now)

    assert found == datetime.fromisoformat(opens)


def test_hours_that_never_meet_have_no_first_moment(db: Any) -> None:
    quiet, open_ = {"from": "08:00", "to": "20:00"}, {"from": "09:00", "to": "18:00"}

    assert (
        db.value("select private.first_open(%s::jsonb, 'UTC', %s::jsonb, 'UTC', now())", quiet, open_) is None
    )


def decide(db: Any, purpose: str = "sequence") -> dict[str, Any]:
    return dict(
        db.row(
            "select d.* from public.chats c, private.send_decisions(array[(c.id, c.tenant_id, c.id, %s,"
            " false, null,"
            " null, false)::private.send_candidate]) d",
            purpose,
        )
    )


@pytest.mark.parametrize(
    ("lead", "opens"),
    [
        ("timezone = 'Europe/Madrid'", "07:00"),  # what the business knows
        ("phone = '56911111111'", "11:00"),  # the country of the number: Santiago, summer
        ("phone = '99911111111'", "13:00"),  # no country: as the number's own
    ],
)
def test_the_customer_s_clock_is_their_own_else_their_country_s_else_the_number_s(
    db: Any, chat: Any, lead: str, opens: str
) -> None:
    set_clock(db, "2026-11-21T03:00:00Z")
    db.run('update public.tenant_settings set quiet_hours = \'{"from": "20:00", "to": "08:00"}\'')
    db.run("update public.chats set window_expires_at = private.clock() + interval '20 hours'")
    db.run(f"update public.customer_leads set {lead}")

    decision = decide(db)

    assert (decision["verdict"], decision["reason"]) == ("wait", "quiet_hours")
    assert f"{decision['not_before'].astimezone(NOW.tzinfo):%H:%M}" == opens


def from_ad(name: str = "w9", before: float = 60, **referral: Any) -> Any:
    return says(
        name, at=NOW - timedelta(minutes=before), referral={"source_type": "ad", "source_id": "1"} | referral
    )


def send_answer(db: Any, wa_message_id: str = "w2") -> Any:
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    settle(db, claimed, "sent", wa_message_id=wa_message_id)
    return message_id


FREE = """
    select free_entry_until, private.free_entry_reply_by(c) as reply_by, is_free_entry_confirmed
    from public.chats c"""


def test_an_ad_says_until_when_to_answer_and_the_answer_opens_three_free_days(db: Any, inbox: Inbox) -> None:
    inbox.deliver(from_ad())
    assert db.row(FREE)["reply_by"] == NOW + timedelta(hours=23)
    assert decide(db, "reply")["price_class"] == "free_entry_point"

    send_answer(db)

    after = db.row(FREE)
    assert after["free_entry_until"] == db.value("select private.clock() + interval '72 hours'")
    assert after["reply_by"] is None


def test_a_second_answer_does_not_prolong_it_and_a_new_ad_does(db: Any, inbox: Inbox) -> None:
    inbox.deliver(from_ad())
    send_answer(db)
    db.run("update public.chats set free_entry_until = free_entry_until - interval '10 minutes'")
    first = db.row(FREE)["free_entry_until"]
    db.run("update public.number_pacing set next_slot_at = now()")
    send_answer(db, "w3")
    assert db.row(FREE)["free_entry_until"] == first

    inbox.deliver(from_ad("w10", before=-2))
    assert db.row(FREE)["reply_by"] == NOW + timedelta(hours=24, minutes=2)


@pytest.mark.parametrize(
    "message",
    [
        from_ad(source_type="post"),
        from_ad() | {"history": True},
        says("w9"),
    ],
)
def test_posts_history_and_plain_messages_offer_no_free_entry(db: Any, inbox: Inbox, message: Any) -> None:
    inbox.deliver(message)

    assert db.row(FREE)["reply_by"] is None


def test_an_answer_after_a_day_opens_nothing_and_free_entry_opens_no_window(db: Any, inbox: Inbox) -> None:
    inbox.deliver(from_ad(before=25 * 60))
    inbox.deliver(says("w10"))
    send_answer(db)
    assert db.row(FREE)["free_entry_until"] is None

    db.run("update public.chats set free_entry_until = now() + interval '9 h', window_expires_at = now()")
    assert decide(db, "staff")["reason"] == "window_closed"


def test_what_was_sent_counts_once_against_the_plan(db: Any, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))
    for name in ("w2", "w3", "w4"):
        message_id = enqueue(db)
        db.run("update private.chat_pacing set free_at = now()")
        claimed = claim(db)
        intent(db, claimed)
        settle(db, claimed, "sent", wa_message_id=name)
        inbox.deliver(status(name, "delivered", callback=str(message_id)))

    assert db.value("select sum(sent) from public.monthly_sends") == 3


@pytest.mark.parametrize("is_before_settle", [True, False])
def test_the_provider_s_word_about_free_entry_counts(db: Any, inbox: Inbox, is_before_settle: bool) -> None:
    inbox.deliver(from_ad())
    until = NOW + timedelta(hours=71, minutes=58)
    told = {"origin": "referral_conversion", "expires_at": until.isoformat()}
    message_id = enqueue(db)
    claimed = claim(db)
    intent(db, claimed)
    if is_before_settle:
        inbox.deliver(status("w2", "sent", 0, callback=str(message_id), conversation=told))
    settle(db, claimed, "sent", wa_message_id="w2")
    if not is_before_settle:
        inbox.deliver(status("w2", "sent", 0, conversation=told))

    assert db.row(FREE) == {"free_entry_until": until, "reply_by": None, "is_free_entry_confirmed": True}
    assert db.value("select sum(sent) from public.monthly_sends") == 1


def test_the_inbox_shows_until_when_to_answer(db: Any, inbox: Inbox, clinic: Business) -> None:
    inbox.deliver(from_ad())

    with db.signed_in(clinic.owner):
        shown = db.column("select free_entry_reply_by from public.inbox_list()")
        card = db.value("select public.lead_card(id) from public.customer_leads")
    assert shown == [NOW + timedelta(hours=23)]
    assert datetime.fromisoformat(card["chats"][0]["free_entry_reply_by"]) == shown[0]


def preview(db: Any, clinic: Business, chat: Any, **arguments: Any) -> dict[str, Any]:
    named = "".join(f", {name} => %s" for name in arguments)
    with db.signed_in(clinic.owner):
        return dict(db.value(f"select public.send_preview(%s{named})", chat, *arguments.values()))


IN_SPANISH = (
    "La ventana se cerró hace 3 h; hace falta una plantilla; costo estimado USD 0.0113 (tarifa sin verificar)"
)
IN_ENGLISH = "The window closed 3 h ago; a template is needed; estimated cost USD 0.0113 (unverified rate)"
IN_PORTUGUESE = (
    "A janela fechou há 3 h; é preciso um modelo; custo estimado USD 0.0113 (tarifa não verificada)"
)


@pytest.mark.parametrize(
    ("locale", "sentence"),
    [("es", IN_SPANISH), ("en-GB", IN_ENGLISH), ("pt", IN_PORTUGUESE), ("fr", IN_SPANISH)],
)
def test_staff_are_told_in_their_language(
    db: Any, clinic: Business, chat: Any, locale: str, sentence: str
) -> None:
    db.run("update public.chats set window_expires_at = private.clock() - interval '3 hours 10 minutes'")
    db.run("update public.users set locale = %s", locale)

    told = preview(db, clinic, chat)

    assert (told["verdict"], told["sentence"]) == ("template", sentence)
    assert (told["window"]["is_open"], told["can_force"]) == (False, False)


def test_a_preview_warns_says_what_can_be_forced_and_what_is_free(
    db: Any, clinic: Business, chat: Any
) -> None:
    db.run("update public.customer_leads set opted_out_at = now(), opt_out_scope = 'marketing'")

    warned = preview(db, clinic, chat)
    bulk = preview(db, clinic, chat, p_purpose="sequence")

    assert (warned["is_warning"], warned["sentence"][:9]) == (True, "Atención:")
    assert (bulk["verdict"], bulk["can_force"]) == ("never", True)
    assert bulk["sentence"] == "El cliente no quiere recibir promociones; costo estimado USD 0"
    assert preview(db, clinic, chat, p_purpose="sequence", p_force=True)["verdict"] == "send"
    assert warned["price"] == {
        "class": "service",
        "estimated_cost": 0,
        "currency": "USD",
        "is_verified": True,
    }


@pytest.mark.parametrize(("minutes", "verdict"), [(-1, "send"), (1, "manual")])
def test_a_pause_of_a_template_that_is_over_holds_nothing_back(
    db: Any, clinic: Business, chat: Any, minutes: int, verdict: str
) -> None:
    template = db.value(
        "insert into public.message_templates (tenant_id, waba_id, provider_template_id, name, language,"
        " category, status, paused_until) select tenant_id, waba_id, '7', 'cita', 'es', 'utility', 'paused',"
        " now() + make_interval(mins => %s) from public.whatsapp_numbers where tenant_id = %s returning id",
        minutes,
        clinic.tenant_id,
    )

    told = preview(db, clinic, chat, p_type="template", p_template_id=template)

    assert told["verdict"] == verdict


def test_a_stopped_number_is_not_said_to_go_on_by_itself(db: Any, clinic: Business, chat: Any) -> None:
    db.run(
        "insert into public.number_pacing (tenant_id, number_id, paused_until)"
        " select tenant_id, id, 'infinity' from public.whatsapp_numbers where tenant_id = %s",
        clinic.tenant_id,
    )

    told = preview(db, clinic, chat)

    assert (told["verdict"], told["reason"]) == ("wait", "number_paused")
    assert told["sentence"].startswith("El número está detenido y el mensaje espera: un administrador")


def test_a_preview_of_another_business_s_chat_is_refused(db: Any, plaza: Business, chat: Any) -> None:
    with pytest.raises(psycopg.Error) as refused:
        preview(db, plaza, chat)
    assert refused.value.sqlstate == "PT404"


def test_every_reason_has_a_sentence_in_every_language(db: Any) -> None:
    source = db.value("select prosrc from pg_proc where proname = 'send_decisions'")
    rules = source[source.index("ruled as") : source.index("as noted")]
    reasons = set(re.findall(r"(?:then|else) '(\w+)'\n", rules)) | {"plan_quota", "messaging_limit"}
    reasons |= {"template_missing", "template_rejected", "template_paused"}
    reasons |= set(re.findall(r"'(quiet_hours|outside_business_hours|hours_never_open)'", source))
    phrases = db.rows("select * from private.phrases")

    assert len(reasons) == 26
    assert reasons <= {p["reason"] for p in phrases if p["kind"] == "reason"}
    assert all(p["es"] and p["en"] and p["pt"] for p in phrases)
    assert len({(p["kind"], p["reason"]) for p in phrases}) == len(phrases)
