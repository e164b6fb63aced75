"""message_send and its kin: staff send what the rules allow, and are told plainly what they do not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Db
from tests.sql.given import CARLOS, Business, Inbox, event, open_business, says, status

TEMPLATE = [{"type": "BODY", "text": "Hola {{1}}, te esperamos."}]
JPEG = {"link": "https://cdn.example/a.jpg", "mime": "image/jpeg", "size": 1000}


def send(db: Any, person: Any, **arguments: Any) -> dict[str, Any]:
    """What message_send answers this person."""
    return call(db, person, "message_send", **arguments)


def call(db: Any, person: Any, function: str, **arguments: Any) -> dict[str, Any]:
    named = ", ".join(f"p_{name} => %s" for name in arguments)
    values = [_json(value) for value in arguments.values()]
    with db.signed_in(person):
        answer: dict[str, Any] = db.value(f"select public.{function}({named})", *values)
    return answer


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return Jsonb(value)
    return value.isoformat() if isinstance(value, datetime) else value


def refusal(
    db: Any, person: Any, function: str = "message_send", locale: str = "en", **arguments: Any
) -> dict[str, Any]:
    """How it is refused: code, message, hint and details; nothing is stored."""
    db.run("update public.users set locale = %s where auth_id = %s", locale, person)
    before = db.value("select count(*) from public.messages")
    with pytest.raises(psycopg.Error) as refused:
        call(db, person, function, **arguments)
    assert db.value("select count(*) from public.messages") == before
    said = refused.value.diag
    details = json.loads(said.message_detail or "{}")
    return {"code": said.sqlstate, "message": said.message_primary, "hint": said.message_hint, **details}


def close_window(db: Any, hours: int = 3) -> None:
    db.run("update public.chats set window_expires_at = now() - make_interval(hours => %s)", hours)


@pytest.fixture
def chat(db: Any, inbox: Inbox) -> Any:
    """María has just written: her window is open."""
    inbox.deliver(says("w1"))
    return db.value("select id from public.chats")


@pytest.fixture
def cita(db: Any, clinic: Business) -> Any:
    return add_template(db, clinic)


def add_template(db: Any, business: Business, **columns: Any) -> Any:
    row = {"status": "approved", "waba_id": "200", **columns}
    return db.value(
        "insert into public.message_templates (tenant_id, waba_id, provider_template_id, name, language,"
        " category, status, rejected_reason, components)"
        " values (%s, %s, gen_random_uuid(), 'cita', 'es', 'utility', %s, %s, %s) returning id",
        business.tenant_id,
        row["waba_id"],
        row["status"],
        row.get("rejected_reason"),
        Jsonb(TEMPLATE),
    )


def colleague(db: Any, clinic: Business, role: str) -> Any:
    with db.signed_in(clinic.owner):
        db.value("select public.staff_invite(%s, %s)", f"{role}@clinic.example", role)
    return db.sign_up(f"{role}@clinic.example")


# what goes out


@pytest.mark.parametrize("role", ["admin", "user", "agent"])
def test_all_staff_may_write(db: Any, clinic: Business, chat: Any, role: str) -> None:
    person = colleague(db, clinic, role)

    sent = send(db, person, chat_id=chat, content="Claro, ¿a qué hora?")

    assert (sent["status"], sent["source"], sent["role"], sent["type"]) == (
        "queued",
        "staff",
        "human",
        "text",
    )
    assert sent["author_id"] == str(db.value("select id from public.users where auth_id = %s", person))
    assert (sent["decision"]["verdict"], sent["decision"]["currency"]) == ("send", "USD")
    assert db.column("select purpose from public.outbox") == ["staff"]


def test_a_person_who_writes_silences_the_agent(db: Any, clinic: Business, chat: Any) -> None:
    db.run("update public.tenant_settings set human_takeover_minutes = 90")

    send(db, clinic.owner, chat_id=chat, content="Yo te ayudo")

    paused = db.value("select agent_paused_until - now() from public.chats")
    assert timedelta(minutes=89) < paused <= timedelta(minutes=90)


def test_a_message_belongs_to_a_session_even_when_none_was_open(db: Any, clinic: Business, chat: Any) -> None:
    db.run("update public.conversations set status = 'closed', closed_at = now()")

    sent = send(db, clinic.owner, chat_id=chat, content="Hola de nuevo")

    opened = db.row("select id, message_count from public.conversations where status = 'open'")
    assert sent["conversation_id"] == str(opened["id"])
    assert opened["message_count"] == 1


def test_a_template_goes_out_when_the_window_is_closed(
    db: Any, clinic: Business, chat: Any, cita: Any
) -> None:
    close_window(db)

    sent = send(
        db, clinic.owner, chat_id=chat, type="template", template_id=cita, parameters={"body": ["Ana"]}
    )

    assert sent["content"] == "Hola Ana, te esperamos."
    assert sent["template_id"] == str(cita)
    assert sent["data"]["category"] == "utility"
    assert sent["data"]["template"] | {"provider_template_id": None} == {
        "name": "cita",
        "language": "es",
        "category": "utility",
        "provider_template_id": None,
        "components": [{"type": "body", "parameters": [{"type": "text", "text": "Ana"}]}],
        "variables": {"1": "Ana"},
        "parameters": {"body": ["Ana"]},
    }
    assert float(sent["estimated_cost"]) == 0.0113


def test_a_lead_without_a_chat_gets_one(db: Any, clinic: Business, cita: Any) -> None:
    lead = db.value(
        "insert into public.customer_leads (tenant_id, phone) values (%s, '573004445566') returning id",
        clinic.tenant_id,
    )
    db.run(
        "insert into public.lead_identities (tenant_id, kind, scope, value, valid_from, lead_id)"
        " values (%s, 'phone', '', '573004445566', now(), %s)",
        clinic.tenant_id,
        lead,
    )
    to = {"lead_id": lead, "number_id": clinic.number_id}

    refused = refusal(db, clinic.owner, locale="es", content="Hola", **to)
    chats_after_refusal = db.value("select count(*) from public.chats")
    sent = send(db, clinic.owner, type="template", template_id=cita, parameters={"body": ["Ana"]}, **to)

    assert refused["message"] == (
        "El cliente aún no ha escrito a este número; hace falta una plantilla;"
        " costo estimado USD 0.0113 (tarifa sin verificar)."
    )
    assert chats_after_refusal == 0
    assert db.column("select id::text from public.chats") == [sent["chat_id"]]


def test_a_lead_with_a_chat_keeps_it(db: Any, clinic: Business, chat: Any) -> None:
    lead = db.value("select lead_id from public.chats")

    sent = send(db, clinic.owner, lead_id=lead, number_id=clinic.number_id, content="Hola")

    assert sent["chat_id"] == str(chat)


def test_a_file_is_named_by_its_link(db: Any, clinic: Business, chat: Any) -> None:
    sent = send(db, clinic.owner, chat_id=chat, type="image", media=JPEG, content="Nuestra sede")

    assert sent["content"] == "Nuestra sede"
    assert sent["data"] == {"media": {"link": "https://cdn.example/a.jpg"}, "mime": "image/jpeg"}


def test_a_file_a_customer_sent_can_be_sent_on(db: Any, clinic: Business, inbox: Inbox) -> None:
    file = {"id": "770", "mime": "application/pdf", "filename": "examen.pdf", "size": 9000}
    inbox.deliver(event("message", "w1", contact=CARLOS, type="document", media=file))
    chat, media = db.row(
        "select m.chat_id, f.id from public.media f join public.messages m on m.id = message_id"
    ).values()

    sent = send(db, clinic.owner, chat_id=chat, type="document", media={"media_id": str(media)})
    soon = datetime.now(UTC) + timedelta(days=8)
    then = refusal(
        db, clinic.owner, chat_id=chat, type="document", media={"media_id": str(media)}, send_at=soon
    )
    db.run("update public.messages set provider_at = now() - interval '8 days' where direction = 'inbound'")
    late = refusal(db, clinic.owner, chat_id=chat, type="document", media={"media_id": str(media)})

    assert sent["data"] == {"media": {"id": "770"}, "filename": "examen.pdf", "mime": "application/pdf"}
    assert then["reason"] == late["reason"] == "media_gone"


def test_a_message_may_quote_another_by_either_id(db: Any, clinic: Business, chat: Any) -> None:
    ours = db.value("select id from public.messages")

    quotes = [
        send(db, clinic.owner, chat_id=chat, content="Sí", reply_to=q)["reply_to"] for q in ("w1", str(ours))
    ]

    assert quotes == ["w1", "w1"]


def test_what_waits_is_taken_and_says_so(db: Any, clinic: Business, chat: Any) -> None:
    db.run(
        "insert into public.number_pacing (tenant_id, number_id, paused_until, pause_reason)"
        " values (%s, %s, now() + interval '1 hour', 'slow_number')",
        clinic.tenant_id,
        clinic.number_id,
    )

    sent = send(db, clinic.owner, chat_id=chat, content="Hola")

    assert (sent["status"], sent["decision"]["verdict"]) == ("queued", "wait")


def test_whapi_has_no_window(db: Any, clinic: Business, chat: Any) -> None:
    db.run("update public.whatsapp_numbers set provider = 'whapi', waba_id = null")
    close_window(db)

    assert send(db, clinic.owner, chat_id=chat, content="Hola")["status"] == "queued"
    assert refusal(db, clinic.owner, chat_id=chat, type="template")["reason"] == "templates_unsupported"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"content": "x" * 1601}, "too long: 1601 characters, at most 1600"),
        ({"type": "image", "media": {"id": "77"}}, "must have a link: Twilio takes nothing else"),
        (
            {"type": "video", "media": {"link": "https://cdn.example/a.mp4"}, "content": "Mira"},
            "The video cannot have a text with it on Twilio",
        ),
    ],
)
def test_twilio_takes_less(
    db: Any, clinic: Business, chat: Any, arguments: dict[str, Any], words: str
) -> None:
    db.run("update public.whatsapp_numbers set provider = 'twilio', account_id = 'AC1'")

    assert words in refusal(db, clinic.owner, chat_id=chat, **arguments)["message"]


# scheduled


def test_a_message_can_be_scheduled(db: Any, clinic: Business, chat: Any) -> None:
    at = datetime.now(UTC) + timedelta(hours=5)

    sent = send(db, clinic.owner, chat_id=chat, content="¿Vienes?", send_at=at)

    assert datetime.fromisoformat(sent["scheduled_at"]) == at
    with db.as_service():
        assert db.value("select public.outbox_claim()")["messages"] == []
    assert db.value("select agent_paused_until from public.chats") is None


def test_what_should_have_gone_out_already_goes_now(db: Any, clinic: Business, chat: Any) -> None:
    sent = send(db, clinic.owner, chat_id=chat, content="Hola", send_at=datetime(2026, 1, 1, tzinfo=UTC))

    assert sent["scheduled_at"] is None
    with db.as_service():
        assert len(db.value("select public.outbox_claim()")["messages"]) == 1


def test_nothing_is_scheduled_for_ever(db: Any, clinic: Business, chat: Any) -> None:
    refused = refusal(db, clinic.owner, chat_id=chat, content="Hola", send_at="2999-01-01T00:00:00Z")

    assert refused["reason"] == "send_at"


@pytest.mark.parametrize(
    "at", ["", "infinity", "mañana", "2026-13-01T10:00", "2026-11-21", "2026-01-01T25:00"]
)
def test_what_is_no_moment_is_refused_in_words(db: Any, clinic: Business, chat: Any, at: str) -> None:
    refused = refusal(db, clinic.owner, locale="pt", chat_id=chat, content="Hola", send_at=at)

    assert (refused["code"], refused["message"]) == ("PT400", "Isto não é uma data com hora.")


@pytest.mark.parametrize(
    ("written", "hour"), [("T10:30", 15), (" 10:30:00", 15), ("T10:30Z", 10), ("T10:30:00.5+02:00", 8)]
)
def test_a_moment_without_an_offset_is_by_the_writer_s_own_clock(
    db: Any, clinic: Business, written: str, hour: int
) -> None:
    db.run("update public.users set timezone = 'America/Bogota'")

    with db.signed_in(clinic.owner):
        read = db.value("select private.moment_read(%s)", f"2026-11-21{written}")

    assert (read.astimezone(UTC).hour, read.minute) == (hour, 30)


def test_a_text_cannot_be_scheduled_past_its_window(db: Any, clinic: Business, chat: Any, cita: Any) -> None:
    tomorrow = {"chat_id": chat, "send_at": datetime.now(UTC) + timedelta(hours=30)}

    refused = refusal(db, clinic.owner, content="¿Vienes?", **tomorrow)
    sent = send(db, clinic.owner, type="template", template_id=cita, parameters={"body": ["Ana"]}, **tomorrow)

    assert (refused["code"], refused["reason"]) == ("PT409", "window_will_be_closed")
    assert sent["status"] == "queued"


# the same request again


def test_the_same_key_sends_once(db: Any, clinic: Business, chat: Any) -> None:
    asked = {"chat_id": chat, "content": "Hola", "idempotency_key": "k1"}

    first = send(db, clinic.owner, **asked)
    close_window(db)  # a repetition is no new decision
    again = send(db, clinic.owner, **asked)

    assert again["id"] == first["id"]
    assert db.value("select count(*) from public.outbox") == 1


def test_the_same_key_for_something_else_is_a_conflict(db: Any, clinic: Business, chat: Any) -> None:
    first = send(db, clinic.owner, chat_id=chat, content="Hola", idempotency_key="k1")

    refused = refusal(db, clinic.owner, chat_id=chat, content="Adiós", idempotency_key="k1")

    assert (refused["code"], refused["reason"]) == ("PT409", "idempotency_conflict")
    assert refused["message_id"] == first["id"]


def test_keys_are_each_business_s_own(db: Any, clinic: Business, plaza: Business, inbox: Inbox) -> None:
    inbox.deliver(says("w1"))
    inbox.deliver(says("w1"), number=plaza.number)
    for business in (clinic, plaza):
        chat = db.value("select id from public.chats where tenant_id = %s", business.tenant_id)
        assert (
            send(db, business.owner, chat_id=chat, content="Hola", idempotency_key="k1")["status"] == "queued"
        )


def test_the_same_key_at_the_same_moment_sends_once(
    connect: Callable[[], psycopg.Connection[Any]],
) -> None:
    setup = connect()
    clinic = open_business(setup, "clinic", "100000000000001")
    Inbox(setup).deliver(says("w1"))
    (chat,) = [row["id"] for row in setup.execute("select id from public.chats")]
    ids: list[str] = []

    def ask(connection: psycopg.Connection[Any], gate: threading.Barrier) -> None:
        db = Db(connection)
        with connection.transaction():
            gate.wait()
            ids.append(send(db, clinic.owner, chat_id=chat, content="Hola", idempotency_key="k")["id"])

    gate = threading.Barrier(6)
    threads = [threading.Thread(target=ask, args=(connect(), gate)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 6
    assert len(set(ids)) == 1
    assert setup.execute("select count(*) as n from public.outbox").fetchall() == [{"n": 1}]


# what is refused


@pytest.mark.parametrize(
    ("locale", "begins"), [("en-US", "The window closed 3 h ago; "), ("pt-BR", "A janela fechou há 3 h; ")]
)
def test_a_refusal_is_in_the_reader_s_language(
    db: Any, clinic: Business, chat: Any, locale: str, begins: str
) -> None:
    close_window(db, 3)

    assert refusal(db, clinic.owner, locale=locale, chat_id=chat, content="Hola")["message"].startswith(
        begins
    )


def test_a_closed_window_is_told_with_what_is_possible(db: Any, clinic: Business, chat: Any) -> None:
    close_window(db, 3)

    refused = refusal(db, clinic.owner, locale="es", chat_id=chat, content="Hola")

    assert (refused["code"], refused["reason"], refused["verdict"]) == ("PT409", "window_closed", "template")
    assert refused["message"] == (
        "La ventana se cerró hace 3 h; hace falta una plantilla;"
        " costo estimado USD 0.0113 (tarifa sin verificar)."
    )
    assert refused["hint"] == "Elija una plantilla (p_type y p_template_id)."
    assert (refused["estimated_cost"], refused["currency"], refused["can_force"]) == (0.0113, "USD", False)


@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        ({}, "empty", "The message has no text."),
        ({"content": " \n"}, "empty", "The message has no text."),
        ({"content": "\u200b\u2060\ufeff\u3164\u00ad\ufe0f"}, "empty", "The message has no text."),
        ({"content": "x" * 4097}, "too_long", "The text is too long: 4097 characters, at most 4096."),
        ({"type": "fax"}, "type", 'There is no type "fax" of message.'),
        ({"content": "a", "media": JPEG}, "misfit", "A message of type text takes no p_media."),
        ({"type": "image", "media": JPEG, "content": "x" * 1025}, "media", "The image has too long a text"),
        (
            {"type": "audio", "media": {"id": "7"}, "content": "x"},
            "media",
            "The audio cannot have a text with it",
        ),
        ({"type": "image"}, "media", "The image must name a file"),
        ({"type": "image", "media": {}}, "media", 'The image must have "link" or "id", one of them.'),
        ({"type": "image", "media": {**JPEG, "id": "7"}}, "media", 'must have "link" or "id", one of them.'),
        ({"type": "image", "media": {"link": "http://a.example/a"}}, "media", "begins with https://"),
        ({"type": "image", "media": {"link": "https://user@a.example"}}, "media", "begins with https://"),
        (
            {"type": "image", "media": {**JPEG, "mime": "image/gif"}},
            "media",
            "it takes image/jpeg, image/png",
        ),
        ({"type": "image", "media": {**JPEG, "size": 5242881}}, "media", "too large: 5242881 bytes, at most"),
        ({"type": "image", "media": {**JPEG, "colour": "red"}}, "media", "has an unknown key: colour"),
        ({"type": "image", "media": {"id": {"a": 1}}}, "media", "filename or mime that is not a text"),
        ({"type": "image", "media": {**JPEG, "filename": "a.jpg"}}, "media", "which only documents have"),
        ({"type": "image", "media": {"media_id": "x"}}, "media_gone", "WhatsApp has this file no more"),
        ({"type": "template", "content": "x"}, "misfit", "A message of type template takes no p_content."),
        ({"type": "template"}, "no_template", "There is no such template."),
        ({"content": "a", "reply_to": "w9"}, "no_quoted_message", "is not in this chat."),
        ({"content": "a", "idempotency_key": ""}, "idempotency_key", "key is empty or too long."),
    ],
)
def test_what_cannot_be_sent_is_named(
    db: Any, clinic: Business, chat: Any, arguments: dict[str, Any], reason: str, words: str
) -> None:
    refused = refusal(db, clinic.owner, chat_id=chat, **arguments)

    assert refused["reason"] == reason
    assert words in refused["message"]
    assert refused["hint"]


def test_the_longest_text_and_a_full_caption_go_out(db: Any, clinic: Business, chat: Any) -> None:
    sent = [
        send(db, clinic.owner, chat_id=chat, content="ñ" * 4096),
        send(db, clinic.owner, chat_id=chat, type="image", media=JPEG, content="ñ" * 1024),
    ]

    assert [message["status"] for message in sent] == ["queued", "queued"]


@pytest.mark.parametrize(
    ("columns", "parameters", "reason"),
    [
        ({}, {}, "template_parameters"),
        ({"status": "rejected", "rejected_reason": "SCAM"}, {"body": ["Ana"]}, "template_rejected"),
        ({"waba_id": "201"}, {"body": ["Ana"]}, "template_of_other_account"),
    ],
)
def test_a_template_that_cannot_be_sent_is_refused(
    db: Any, clinic: Business, chat: Any, columns: dict[str, Any], parameters: dict[str, Any], reason: str
) -> None:
    broken = add_template(db, clinic, **columns)

    refused = refusal(
        db, clinic.owner, chat_id=chat, type="template", template_id=broken, parameters=parameters
    )

    assert refused["reason"] == reason
    assert columns.get("rejected_reason", "") in refused["message"]


def test_another_business_is_not_there(db: Any, clinic: Business, plaza: Business, chat: Any) -> None:
    lead = db.value("select lead_id from public.chats")
    foreign = add_template(db, clinic)
    message = send(db, clinic.owner, chat_id=chat, content="Hola")["id"]

    for to in ({"chat_id": chat}, {"lead_id": lead, "number_id": plaza.number_id}, {}):
        assert refusal(db, plaza.owner, content="Hola", **to)["reason"] == "no_chat"
    for function in ("message_cancel", "message_retry"):
        assert refusal(db, plaza.owner, function, message_id=message)["reason"] == "no_message"
    assert foreign is not None


def test_a_removed_colleague_writes_nothing(db: Any, clinic: Business, chat: Any) -> None:
    person = colleague(db, clinic, "agent")
    db.run("update public.users set is_active = false, auth_id = null where auth_id = %s", person)

    assert refusal(db, person, chat_id=chat, content="Hola")["code"] == "PT403"


# against the rules


@pytest.fixture
def late(db: Any, clinic: Business, chat: Any) -> dict[str, Any]:
    """For a time when the window will be closed: a person may hope that the customer writes again."""
    message = {"chat_id": chat, "content": "¿Vienes?", "send_at": datetime.now(UTC) + timedelta(hours=30)}
    refused = refusal(db, clinic.owner, **message)
    assert refused["can_force"] is True
    return {**message, "force": True, "shown": Decimal(str(refused["estimated_cost"]))}


def forced(db: Any, clinic: Business, late: dict[str, Any], **cost: Any) -> dict[str, Any]:
    arguments = {name: value for name, value in late.items() if name != "shown"}
    return refusal(db, clinic.owner, **arguments, **cost)


@pytest.mark.parametrize("cost", [{}, {"expected_cost": 0}])
def test_force_needs_the_cost_that_was_shown(
    db: Any, clinic: Business, late: dict[str, Any], cost: dict[str, Any]
) -> None:
    refused = forced(db, clinic, late, **cost)

    assert (refused["code"], refused["reason"]) == ("PT400", "cost_not_shown")
    assert f"USD {late['shown'].normalize():f}" in refused["message"]


@pytest.mark.parametrize(("more", "currency"), [("0.05", "USD"), ("0", "EUR")])
def test_force_with_another_cost_is_told_the_new_one(
    db: Any, clinic: Business, late: dict[str, Any], more: str, currency: str
) -> None:
    seen = late["shown"] + Decimal(more)

    refused = forced(db, clinic, late, expected_cost=seen, currency=currency)

    assert (refused["code"], refused["reason"]) == ("PT409", "cost_changed")
    assert f"is now USD {late['shown'].normalize():f}" in refused["message"]
    assert Decimal(str(refused["estimated_cost"])) == late["shown"]


def test_who_forced_a_message_and_what_they_agreed_to_is_kept(
    db: Any, clinic: Business, late: dict[str, Any]
) -> None:
    shown = late.pop("shown")

    sent = send(db, clinic.owner, **late, expected_cost=shown, currency="usd", reason="Lo pidió por teléfono")

    assert (sent["forced_by"], sent["forced_reason"]) == (str(clinic.tenant_id), "Lo pidió por teléfono")
    assert Decimal(str(sent["consented_cost"])) == shown


def test_force_that_was_not_needed_is_not_held_against_anybody(db: Any, clinic: Business, chat: Any) -> None:
    cost = Decimal(str(send(db, clinic.owner, chat_id=chat, content="Hola")["estimated_cost"]))

    sent = send(
        db, clinic.owner, chat_id=chat, content="Hola", force=True, expected_cost=cost, currency="USD"
    )

    assert (sent["forced_by"], sent["consented_cost"]) == (None, None)


# taken back, and once more


def test_a_scheduled_message_can_be_canceled(db: Any, clinic: Business, chat: Any) -> None:
    sent = send(
        db, clinic.owner, chat_id=chat, content="Hola", send_at=datetime.now(UTC) + timedelta(hours=1)
    )

    canceled = call(db, clinic.owner, "message_cancel", message_id=sent["id"])

    assert canceled["status"] == "canceled"
    assert db.value("select count(*) from public.outbox") == 0


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("sending", "it is being sent."),
        ("sent", "it is sent."),
        ("read", "it is read."),
        ("failed", "it failed."),
        ("canceled", "it is canceled already."),
    ],
)
def test_only_what_waits_can_be_canceled(
    db: Any, clinic: Business, chat: Any, state: str, words: str
) -> None:
    sent = send(db, clinic.owner, chat_id=chat, content="Hola")
    db.run("delete from public.outbox")
    db.run("update public.messages set status = %s where id = %s", state, sent["id"])

    refused = refusal(db, clinic.owner, "message_cancel", message_id=sent["id"])

    assert (refused["reason"], refused["status"]) == ("not_queued", state)
    assert refused["message"] == f"This message cannot be canceled: {words}"


def test_what_a_customer_wrote_is_not_ours_to_send(db: Any, clinic: Business, chat: Any) -> None:
    received = db.value("select id from public.messages")

    for function in ("message_cancel", "message_retry"):
        assert refusal(db, clinic.owner, function, message_id=received)["reason"] == "received"


def fail(db: Any, message_id: str, state: str) -> None:
    db.run("delete from public.outbox")
    db.run(
        "update public.messages set status = %s, failed_at = now(), error_code = 131026,"
        " wa_message_id = 'lost ' || id where id = %s",
        state,
        message_id,
    )


def test_a_scheduled_message_goes_now_when_sent_again(db: Any, clinic: Business, chat: Any) -> None:
    at = datetime.now(UTC) + timedelta(hours=2)
    sent = send(db, clinic.owner, chat_id=chat, content="Hola", send_at=at)
    call(db, clinic.owner, "message_cancel", message_id=sent["id"])

    again = call(db, clinic.owner, "message_retry", message_id=sent["id"])

    assert (again["status"], again["scheduled_at"]) == ("queued", None)


@pytest.mark.parametrize("state", ["failed", "skipped", "canceled"])
def test_what_did_not_go_out_can_be_sent_again(db: Any, clinic: Business, chat: Any, state: str) -> None:
    sent = send(db, clinic.owner, chat_id=chat, content="Hola")
    fail(db, sent["id"], state)

    again = call(db, clinic.owner, "message_retry", message_id=sent["id"])

    assert (again["id"], again["status"], again["decision"]["verdict"]) == (sent["id"], "queued", "send")
    assert (again["error_code"], again["wa_message_id"], again["failed_at"]) == (None, None, None)
    with db.as_service():
        (claimed,) = db.value("select public.outbox_claim()")["messages"]
    assert claimed["message_id"] == sent["id"]


def test_what_nobody_knows_is_sent_again_only_on_a_person_s_word(
    db: Any, clinic: Business, chat: Any
) -> None:
    sent = send(db, clinic.owner, chat_id=chat, content="Hola")
    db.run("update public.messages set status = 'unknown' where id = %s", sent["id"])
    db.run("update public.outbox set state = 'unknown', lease_until = now()")

    refused = refusal(db, clinic.owner, "message_retry", message_id=sent["id"])
    again = call(db, clinic.owner, "message_retry", message_id=sent["id"], force=True)

    assert refused["reason"] == "unknown"
    assert again["status"] == "queued"
    assert db.column("select state from public.outbox") == ["queued"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("queued", "it waits or is being sent"),
        ("sending", "it is being sent"),
        ("delivered", "it is delivered"),
    ],
)
def test_what_is_under_way_is_not_sent_twice(
    db: Any, clinic: Business, chat: Any, state: str, words: str
) -> None:
    sent = send(db, clinic.owner, chat_id=chat, content="Hola")
    db.run("update public.messages set status = %s where id = %s", state, sent["id"])

    refused = refusal(db, clinic.owner, "message_retry", message_id=sent["id"])

    assert (refused["reason"], refused["message"]) == (
        "not_failed",
        f"There is nothing to repeat: {words}.",
    )


def test_a_retry_is_held_to_the_rules_of_now(db: Any, clinic: Business, chat: Any, cita: Any) -> None:
    text = send(db, clinic.owner, chat_id=chat, content="Hola")
    reminder = send(
        db, clinic.owner, chat_id=chat, type="template", template_id=cita, parameters={"body": ["Ana"]}
    )
    for message in (text, reminder):
        fail(db, message["id"], "failed")
    close_window(db)
    db.run("update public.message_templates set status = 'paused'")

    reasons = [
        refusal(db, clinic.owner, "message_retry", message_id=m["id"])["reason"] for m in (text, reminder)
    ]

    assert reasons == ["window_closed", "template_paused"]


def test_a_failed_answer_of_an_agent_can_be_sent_by_a_person(db: Any, clinic: Business, inbox: Inbox) -> None:
    inbox.deliver(says("w1", contact=CARLOS))
    db.run(
        "select private.outbox_enqueue(array[private.outgoing("
        "tenant_id, id, 'reply', 'agent', 'assistant', 'Hola')]) from public.chats"
    )
    message_id = db.value("select message_id from public.outbox")
    fail(db, message_id, "failed")

    again = call(db, clinic.owner, "message_retry", message_id=message_id)

    assert (again["source"], again["status"]) == ("agent", "queued")


def test_statuses_of_the_second_attempt_count(db: Any, clinic: Business, inbox: Inbox, chat: Any) -> None:
    sent = send(db, clinic.owner, chat_id=chat, content="Hola")
    fail(db, sent["id"], "failed")
    call(db, clinic.owner, "message_retry", message_id=sent["id"])

    inbox.deliver(status("w8", "delivered", callback=sent["id"]))

    assert db.row("select status, wa_message_id from public.messages where id = %s", sent["id"]) == {
        "status": "delivered",
        "wa_message_id": "w8",
    }
