"""Exactness: what the tables say is a function of the set of updates, not of how they were delivered.

For generated histories the state after one delivery in order is compared with that after deliveries in any
order, in any grouping, some of them repeated. CI runs the same examples every time; RECADO_EXAMPLES=2000
looks for new ones.

Compared are customers, addresses, chats, conversations, messages, files, consent and numbers, and what waits
for an answer; without ids, arrival times, logs and the texts of alerts. Outside of it, by decision:
- `customer_leads.phone` and `chat_id` are set once, by whatever came first; the addresses are compared.
- After an identity change that came too late two leads are candidates for a merge: compared once merged.
- What is older than a day when it arrives answers nobody, and a time that lies ahead is cut to five minutes
  from then: histories here begin less than a day ago, and end now.
- Nobody closes a conversation or reads a chat meanwhile: what people do has its time when they do it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sql.given import NOW, Business, Event, Inbox, event

EXAMPLES = int(os.environ.get("RECADO_EXAMPLES", "0"))
START = NOW - timedelta(hours=23)
NUMBERS = {"cloud_api": "100000000000001", "whapi": "WHAPI-1", "twilio": "57300000009"}
ACCOUNT = "account"  # told about the account of the first, and of no number
PHONE = "573000000001"

SEARCH = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)

Delivery = tuple[str, Event]  # the provider, and the update
PEOPLE = range(3)


def at(minutes: int) -> datetime:
    return START + timedelta(minutes=minutes)


def contact(provider: str, person: int, form: int, profile: str | None) -> dict[str, Any]:
    """What a provider gives away of one person: always enough to know them again, not always everything."""
    phone, bsuid = f"5731000000{person}0", f"CO.{person}"
    shown = {"profile_name": profile} if profile else {}
    if provider == "cloud_api":
        return [{"phone": phone, "bsuid": bsuid}, {"phone": phone, "bsuid": bsuid, "username": f"u{person}"}][
            form % 2
        ] | shown
    if provider == "whapi":
        return {"phone": phone, "chat_id": f"{phone}@s.whatsapp.net"} | shown
    return {"phone": phone} | shown


minutes = st.integers(0, 23 * 60)
words = st.sampled_from(["Hola", "¿Hay cita?", "gracias", "STOP", "No"])
profiles = st.sampled_from([None, "Ana", "Ana P.", "Bea"])


@st.composite
def messages(draw: Callable[..., Any], name: str) -> list[Delivery]:
    """A message of either side, and what is said about it later."""
    provider = draw(st.sampled_from(list(NUMBERS)))
    who = contact(provider, draw(st.sampled_from(PEOPLE)), draw(st.integers(0, 1)), draw(profiles))
    kind, when = draw(st.sampled_from(["message", "message", "echo"])), draw(minutes)
    body: Event = {"contact": who, "type": "text", "text": draw(words)}
    if draw(st.integers(0, 5)) == 0:
        body["referral"] = {"source_type": "ad", "source_id": draw(st.sampled_from("ab"))}
    if draw(st.integers(0, 5)) == 0:
        body |= {"type": "image", "media": {"id": f"m{name}", "mime": "image/png"}}
    told = [event(kind, name, at(when), **body)]
    told += draw(st.lists(changes(name, when, is_ours=kind == "echo"), max_size=4))
    return [(provider, one) for one in told]


@st.composite
def changes(draw: Callable[..., Any], target: str, when: int, *, is_ours: bool) -> Event:
    later = at(min(when + draw(st.integers(0, 3)), 23 * 60))
    serial = draw(st.uuids())
    kinds = ["edit", "revoke", "reaction"] + (["status"] * 5 if is_ours else [])
    match draw(st.sampled_from(kinds)):
        case "edit":
            return event("edit", f"e{serial}", later, target=target, text=draw(words))
        case "revoke":
            return event("revoke", f"v{serial}", later, target=target)
        case "reaction":
            by, emoji = draw(st.sampled_from(["customer", "business"])), draw(st.sampled_from(["👍", None]))
            return event("reaction", f"r{serial}", later, target=target, by=by, emoji=emoji)
    status = draw(st.sampled_from(["sent", "delivered", "read", "played", "failed"]))
    error = (
        {"code": draw(st.sampled_from([131000, 131026, 131050])), "title": "No"}
        if status == "failed"
        else None
    )
    category = draw(st.sampled_from([None, "service", "utility"]))
    pricing = category and {"type": "regular", "category": category, "billable": True}
    return event("status", target, later, status=status, error=error, pricing=pricing)


@st.composite
def asides(draw: Callable[..., Any], name: str) -> list[Delivery]:
    """What customers do besides writing, and statuses of messages that we never had."""
    provider = draw(st.sampled_from(list(NUMBERS)))
    who, when = contact(provider, draw(st.sampled_from(PEOPLE)), 0, None), at(draw(minutes))
    match draw(st.sampled_from(["call", "preference", "contact_sync", "status"])):
        case "call":
            direction = draw(st.sampled_from(["inbound", "outbound"]))
            told = event("call", name, when, contact=who, direction=direction, status="connect")
        case "preference":
            value = draw(st.sampled_from(["stop", "resume"]))
            told = event("preference", name, when, contact=who, category="marketing", value=value)
        case "contact_sync":
            action = draw(st.sampled_from(["add", "add", "remove"]))
            book = draw(st.sampled_from(["Ana del trabajo", "Bea vecina"]))
            told = event("contact_sync", name, when, contact=who, action=action) | {"id": None, "name": book}
        case _:
            told = event("status", f"lost{name}", when, status="read")
    return [(provider, told)]


@st.composite
def account_news(draw: Callable[..., Any], name: str) -> list[Delivery]:
    """Of each subject several, that contradict each other."""
    subject, data = draw(
        st.sampled_from(
            [("number_quality", {"phone": PHONE, "event": one}) for one in ("flagged", "unflagged")]
            + [("capability", {"limit": limit}) for limit in (250, 2000, None)]
            + [("number_name", {"phone": PHONE, "name": name, "decision": "approved"})]
            + [("number_name", {"phone": PHONE, "name": name, "decision": "rejected"})]
            + [("account", {"event": one}) for one in ("partner_removed", "account_reconnected")]
            + [("alert", {"type": "limit", "status": status}) for status in ("active", "resolved")]
        )
    )
    told = event("account", name, at(draw(minutes)), subject=subject, data=data)
    return [(ACCOUNT, told | {"id": None})]


@st.composite
def histories(draw: Callable[..., Any]) -> list[Delivery]:
    """Updates of one business, in the order of their times."""
    count = draw(st.integers(1, 8))
    told = [one for n in range(count) for one in draw(messages(f"w{n}"))]
    told += [one for n in range(draw(st.integers(0, 4))) for one in draw(asides(f"a{n}"))]
    told += [one for n in range(draw(st.integers(0, 3))) for one in draw(account_news(f"n{n}"))]
    return sorted(told, key=lambda one: (one[1]["at"], ORDER.index(one[1]["kind"])))


# of the same second: what is spoken of comes before what speaks of it
ORDER = [
    "contact_sync", "identity", "message", "echo", "call", "preference", "account", "edit", "revoke",
    "reaction", "status",
]  # fmt: skip


@st.composite
def deliveries(draw: Callable[..., Any], told: list[Delivery]) -> list[list[list[Delivery]]]:
    """The same updates, some of them again, in any order: batches of payloads of updates."""
    again = draw(st.lists(st.sampled_from(told), max_size=len(told)))
    shuffled = draw(st.permutations(told + again))
    batches: list[list[list[Delivery]]] = [[]]
    for one in shuffled:
        if batches[-1] and draw(st.integers(0, 3)) == 0:
            batches.append([])
        batch = batches[-1]
        if batch and batch[-1][0][0] == one[0] and draw(st.booleans()):
            batch[-1].append(one)
        else:
            batch.append([one])
    return batches


def deliver(inbox: Inbox, batches: Iterable[list[list[Delivery]]]) -> None:
    for batch in batches:
        answers = inbox.receive(*(payload(inbox, told[0][0], [one for _, one in told]) for told in batch))
        assert not [answer for answer in answers if answer["error"]]


def payload(inbox: Inbox, channel: str, told: list[Event]) -> Event:
    if channel == ACCOUNT:
        return inbox.payload(*told, number=None)
    return inbox.payload(*told, provider=channel, number=NUMBERS[channel])


# Each: what the rows of a table say, without ids and times of ours.
STATE = {
    "leads": """
        select l.name, l.user_name, l.opted_out_at, l.opt_out_scope,
            (select array_agg((i.kind, i.scope, i.value, i.valid_from, i.valid_to)::text
                              order by i.kind, i.value, i.valid_to)
             from public.lead_identities i where i.lead_id = l.id) as addresses,
            (select array_agg((c.kind, c.scope, c.source, c.happened_at)::text
                              order by c.happened_at, c.source, c.kind)
             from public.consent_events c where c.lead_id = l.id) as consent,
            (select p.last_activity_at from public.pending_activity p where p.lead_id = l.id) as active_at
        from public.customer_leads l where l.is_active""",
    "chats": """
        select n.provider, c.last_inbound_at, c.last_outbound_at, c.last_interaction_at, c.window_expires_at,
            c.free_entry_until, c.free_entry_reply_by, c.news_since is not null as has_news, c.referral,
            c.agent_paused_until, c.unread_count,
            (select array_agg(m.wa_message_id order by m.wa_message_id)
             from public.messages m where m.chat_id = c.id) as messages,
            exists (select from public.pending_replies r where r.chat_id = c.id) as is_waiting
        from public.chats c join public.whatsapp_numbers n on n.id = c.number_id""",
    "conversations": """
        select v.status, v.opened_at, v.last_at, v.message_count, v.first_response_time, v.avg_response_time,
            (select array_agg(m.wa_message_id order by m.wa_message_id)
             from public.messages m where m.conversation_id = v.id) as messages
        from public.conversations v""",
    "messages": """
        select n.provider, m.wa_message_id, m.direction, m.source, m.type, m.content, m.status, m.sent_at,
            m.delivered_at, m.read_at, m.played_at, m.failed_at, m.error_code, m.error_message, m.pricing,
            m.price_class, m.actual_cost, m.edited_at, m.revoked_at, m.previous, m.reactions, m.referral,
            m.provider_at, m.is_named,
            (select array_agg(f.provider_media_id) from public.media f where f.message_id = m.id) as files
        from public.messages m join public.whatsapp_numbers n on n.id = m.number_id""",
    "early": "select number_id, target, kind, detail, body from public.early_events",
    "book": "select kind, value, name, changed_at from public.address_book",
    "numbers": """
        select n.provider, n.quality_rating, n.messaging_limit, n.display_name,
            p.paused_until > now() as is_stopped, p.bulk_paused_until > now() as is_resting
        from public.whatsapp_numbers n left join public.number_pacing p on p.number_id = n.id""",
    "alerts": "select kind, subject from public.alerts where resolved_at is null",
}


def state(db: Any) -> dict[str, list[str]]:
    return {
        name: db.column(f"select to_jsonb(s)::text from ({query}) as s order by 1")
        for name, query in STATE.items()
    }


def differences(one: dict[str, list[str]], other: dict[str, list[str]]) -> list[str]:
    """Rows that only one of two states has."""
    return [
        f"{sign} {name} {row}"
        for name in STATE
        for sign, here, there in (("-", one, other), ("+", other, one))
        for row in here[name]
        if here[name].count(row) != there[name].count(row)
    ]


@pytest.fixture
def business(db: Any, clinic: Business) -> Business:
    """With a number of every provider, impatient, and saying nothing by itself."""
    db.run("update public.tenant_settings set conversation_idle_hours = 2, opt_out_confirmation = null")
    for provider in ("whapi", "twilio"):
        db.run(
            "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id,"
            " display_name) values (%s, %s, %s, %s, %s)",
            clinic.tenant_id, provider, f"5730000000{len(provider)}", NUMBERS[provider], provider,
        )  # fmt: skip
    return clinic


def after(db: Any, inbox: Inbox, batches: Iterable[list[list[Delivery]]]) -> dict[str, list[str]]:
    """The state after these deliveries, which are then undone."""
    db.run("savepoint before")
    try:
        deliver(inbox, batches)
        merge_candidates(db)
        return state(db)
    finally:
        db.run("rollback to savepoint before")


@SEARCH
@given(data=st.data())
def test_however_updates_are_delivered_the_state_is_that_of_once_and_in_order(
    db: Any, inbox: Inbox, business: Business, data: st.DataObject
) -> None:
    told = data.draw(histories())
    shuffled = data.draw(deliveries(told))

    in_order, otherwise = after(db, inbox, [[[one]] for one in told]), after(db, inbox, shuffled)

    assert differences(in_order, otherwise) == []


# Somebody moves to another phone, once or twice; somebody else does not.
HOMES = [
    {"phone": "573200000001", "bsuid": "CO.A1"},
    {"phone": "573200000002", "bsuid": "CO.A2"},
    {"phone": "573200000003", "bsuid": "CO.A3"},
]
NEIGHBOUR = {"phone": "573200000009", "bsuid": "CO.B"}


@st.composite
def moves(draw: Callable[..., Any]) -> list[Delivery]:
    """Messages under the address of their time, and the changes of address between them."""
    days = sorted(draw(st.lists(minutes, min_size=1, max_size=2, unique=True)))
    told = [
        event("identity", f"i{n}", at(when), **{"from": HOMES[n], "to": HOMES[n + 1]})
        for n, when in enumerate(days)
    ]
    for n in range(draw(st.integers(1, 6))):
        when = draw(minutes.filter(lambda when: when not in days))
        home = HOMES[sum(when > day for day in days)]
        who = draw(st.sampled_from([home, {"bsuid": home["bsuid"]}, NEIGHBOUR]))
        kind, name = draw(st.sampled_from(["message", "message", "echo"])), draw(profiles)
        shown = {"profile_name": name} if name else {}
        told.append(event(kind, f"w{n}", at(when), contact=who | shown, type="text", text=f"{n}"))
        told += draw(st.lists(changes(f"w{n}", when, is_ours=kind == "echo"), max_size=2))
    return [("cloud_api", one) for one in sorted(told, key=lambda one: (one["at"], ORDER.index(one["kind"])))]


def merge_candidates(db: Any) -> None:
    """Staff say yes to every pair that may be one person."""
    while pairs := db.rows("select * from public.lead_merge_candidates where status = 'open' limit 1"):
        pair = pairs[0]
        db.run(
            "select private.leads_join(l[1], l[2], null, null)"
            " from (select private.leads_locked(%s, %s, %s) as l) as locked",
            pair["tenant_id"], pair["lead_id"], pair["other_lead_id"],
        )  # fmt: skip


@SEARCH
@given(data=st.data())
def test_changes_of_address_converge_once_their_candidates_are_merged(
    db: Any, inbox: Inbox, business: Business, data: st.DataObject
) -> None:
    told = data.draw(moves())
    shuffled = data.draw(deliveries(told))

    in_order, otherwise = after(db, inbox, [[[one]] for one in told]), after(db, inbox, shuffled)

    assert differences(in_order, otherwise) == []
