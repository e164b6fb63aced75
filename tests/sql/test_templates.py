"""message_templates: what the provider said last holds, and nothing is sent that it would refuse."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.sql.given import Business

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BODY = {"type": "BODY", "text": "Hola {{1}}, te esperamos a las {{2}}."}
IMAGE = {"type": "HEADER", "format": "IMAGE", "example": {"header_handle": ["https://cdn.example/a.jpg"]}}
WHOLE = [
    {"type": "HEADER", "format": "TEXT", "text": "Cita de {{1}}"},
    BODY,
    {"type": "FOOTER", "text": "Clínica"},
    {
        "type": "BUTTONS",
        "buttons": [
            {"type": "QUICK_REPLY", "text": "Confirmo"},
            {"type": "URL", "text": "Ver", "url": "https://clinica.example/c/{{1}}"},
            {"type": "PHONE_NUMBER", "text": "Llamar", "phone_number": "+12025550100"},
            {"type": "COPY_CODE", "example": "X"},
        ],
    },
]


def listed(number: str = "1200", **changes: Any) -> dict[str, Any]:
    template = {
        "provider_template_id": number,
        "name": "recordatorio",
        "language": "es",
        "category": "utility",
        "status": "approved",
        "quality": "GREEN",
        "parameter_format": "positional",
        "components": [BODY],
    }
    return {**template, **changes}


def apply(db: Any, business: Business, *templates: Any, at: datetime = NOON, **more: Any) -> dict[str, int]:
    with db.as_service():
        counts: dict[str, int] = db.value(
            "select public.templates_apply(%s, 'cloud_api', '200', %s, %s::jsonb, %s)",
            business.tenant_id,
            at,
            list(templates) or "[]",
            more.get("is_complete", True),
        )
    return counts


def hear(db: Any, business: Business, subject: str, minutes: float = 1, **data: Any) -> None:
    told = {"template_id": "1200", "name": "recordatorio", "language": "es", **data}
    with db.as_service():
        db.run(
            "select private.template_event(%s, '200', %s, %s, %s::jsonb)",
            business.tenant_id,
            NOON + timedelta(minutes=minutes),
            subject,
            told,
        )


def only(db: Any, columns: str = "*") -> dict[str, Any]:
    return dict(db.row(f"select {columns} from public.message_templates"))


def fill(db: Any, parameters: Any, components: Any = None, **changes: Any) -> dict[str, Any]:
    """private.template_message of a template like the listed one, to somebody who reads English."""
    reader = db.sign_up(f"{uuid.uuid4()}@reader.example")
    db.run("update public.users set locale = 'en' where auth_id = %s", reader)
    db.value("select set_config('request.jwt.claims', %s, true)", json.dumps({"sub": str(reader)}))
    row = {**listed(), "components": components or [BODY], "provider": "cloud_api", **changes}
    filled: dict[str, Any] = db.value(
        "select private.template_message("
        "jsonb_populate_record(null::public.message_templates, %s::jsonb), %s::jsonb)",
        row,
        None if parameters is None else Jsonb(parameters),
    )
    db.value("select set_config('request.jwt.claims', '', true)")
    return filled


# what the provider tells


def test_a_listing_is_written_where_it_differs(db: Any, clinic: Business) -> None:
    first = apply(db, clinic, listed(), listed("1300", name="promo"))
    before = db.column("select xmin::text from public.message_templates order by name")

    again = apply(db, clinic, listed(), listed("1300", name="promo"), at=NOON + timedelta(days=1))

    assert first == {"added": 2, "changed": 0, "deleted": 0}
    assert again == {"added": 0, "changed": 0, "deleted": 0}
    assert db.column("select xmin::text from public.message_templates order by name") == before


def test_what_a_complete_listing_no_longer_has_is_deleted(db: Any, clinic: Business) -> None:
    apply(db, clinic, listed(), listed("1300", name="promo"))

    incomplete = apply(db, clinic, listed(), at=NOON + timedelta(hours=1), is_complete=False)
    complete = apply(db, clinic, listed(), at=NOON + timedelta(hours=2))

    assert (incomplete["deleted"], complete["deleted"]) == (0, 1)
    assert db.column("select name from public.message_templates where status = 'deleted'") == ["promo"]


def test_a_name_may_come_back_as_another_template(db: Any, clinic: Business) -> None:
    apply(db, clinic, listed())

    counts = apply(db, clinic, listed("1900"), at=NOON + timedelta(days=40))

    assert counts == {"added": 1, "changed": 0, "deleted": 1}


def test_businesses_share_no_template(db: Any, clinic: Business, plaza: Business) -> None:
    apply(db, clinic, listed())
    apply(db, plaza, listed(status="rejected", rejected_reason="INVALID_FORMAT"))
    apply(db, plaza, at=NOON + timedelta(hours=1))

    with db.signed_in(clinic.owner):
        assert db.column("select status from public.message_templates") == ["approved"]


def test_news_change_a_template(db: Any, clinic: Business) -> None:
    apply(db, clinic, listed())

    hear(db, clinic, "template_status", status="paused", reason="FIRST_PAUSE: Low quality")
    hear(db, clinic, "template_quality", quality="RED")
    hear(db, clinic, "template_category", category="marketing", previous="utility")
    hear(db, clinic, "template_components", components=[{"type": "BODY", "text": "Hola"}])

    template = only(db)
    assert (template["status"], template["rejected_reason"]) == ("paused", "FIRST_PAUSE: Low quality")
    assert template["paused_until"] == NOON + timedelta(hours=3, minutes=1)
    assert (template["quality"], template["category"]) == ("RED", "marketing")
    assert template["components"] == [{"type": "BODY", "text": "Hola"}]


def test_a_category_may_be_announced(db: Any, clinic: Business) -> None:
    apply(db, clinic, listed())

    hear(db, clinic, "template_category", previous="utility", correct="marketing")

    assert only(db, "category, correct_category") == {"category": "utility", "correct_category": "marketing"}


def test_new_texts_leave_a_header_s_file(db: Any, clinic: Business) -> None:
    apply(db, clinic, listed(components=[IMAGE, BODY]))

    hear(db, clinic, "template_components", components=[{"type": "BODY", "text": "Hola"}])

    assert [part["type"] for part in only(db)["components"]] == ["BODY", "HEADER"]


@pytest.mark.parametrize(
    ("subject", "newer", "older"),
    [
        ("template_status", {"status": "approved"}, {"status": "paused"}),
        ("template_quality", {"quality": "GREEN"}, {"quality": "RED"}),
        ("template_category", {"category": "utility"}, {"category": "marketing"}),
        ("template_components", {"components": [BODY]}, {"components": []}),
    ],
)
def test_older_news_never_undo_newer(
    db: Any, clinic: Business, subject: str, newer: dict[str, Any], older: dict[str, Any]
) -> None:
    apply(db, clinic, listed())
    hear(db, clinic, subject, 10, **newer)

    hear(db, clinic, subject, 5, **older)

    template = only(db)
    assert (template["status"], template["quality"], template["category"]) == ("approved", "GREEN", "utility")
    assert template["components"] == [BODY]


def test_news_from_before_the_listing_change_nothing(db: Any, clinic: Business) -> None:
    apply(db, clinic, listed())

    hear(db, clinic, "template_status", -1, status="disabled")

    assert only(db)["status"] == "approved"


def test_a_listing_does_not_undo_what_came_while_it_was_made(db: Any, clinic: Business) -> None:
    apply(db, clinic, listed())
    hear(db, clinic, "template_status", 20, status="disabled", reason="Bad quality")
    hear(db, clinic, "template_status", 20, template_id="1300", name="new", status="approved")

    apply(db, clinic, listed(), at=NOON + timedelta(minutes=19))

    rows = db.rows("select name, status, rejected_reason from public.message_templates order by name")
    assert [tuple(row.values()) for row in rows] == [
        ("new", "approved", None),
        ("recordatorio", "disabled", "Bad quality"),
    ]


def test_a_listing_ends_a_pause_and_keeps_a_reason_it_does_not_tell(db: Any, clinic: Business) -> None:
    apply(db, clinic, listed())
    hear(db, clinic, "template_status", status="paused", reason="FIRST_PAUSE")

    apply(db, clinic, listed(status="paused"), at=NOON + timedelta(hours=1))
    kept = only(db, "rejected_reason, paused_until is not null as is_timed")
    apply(db, clinic, listed(), at=NOON + timedelta(hours=4))

    assert kept == {"rejected_reason": "FIRST_PAUSE", "is_timed": True}
    assert only(db, "status, rejected_reason, paused_until") == {
        "status": "approved",
        "rejected_reason": None,
        "paused_until": None,
    }


def test_news_of_an_unknown_template_make_it_known(db: Any, clinic: Business) -> None:
    hear(db, clinic, "template_status", status="reinstated", category="utility")

    assert only(db, "name, status, category") == {
        "name": "recordatorio",
        "status": "approved",
        "category": "utility",
    }
    assert "todavía no se conoce su texto" in db.value(
        "select private.template_message(t, null) ->> 'message' from public.message_templates t"
    )


def test_news_without_an_id_find_the_template_by_its_name(db: Any, clinic: Business) -> None:
    apply(db, clinic, listed())

    hear(db, clinic, "template_quality", template_id=None, quality="YELLOW")

    assert only(db)["quality"] == "YELLOW"


def test_a_listing_is_asked_for_when_it_is_needed(db: Any, clinic: Business) -> None:
    db.value("select vault.create_secret('http://functions.example/{function}', 'functions_url')")
    db.value("select vault.create_secret('a secret', 'functions_secret')")

    db.run("update public.whatsapp_numbers set display_name = 'Other'")
    db.run("update public.whatsapp_numbers set waba_id = '201'")
    hear(db, clinic, "template_quality", quality="RED")

    asked = db.rows("select url, convert_from(body, 'utf8')::jsonb as body from net.http_request_queue")
    assert (
        asked
        == [{"url": "http://functions.example/sync-templates", "body": {"tenant_id": str(clinic.tenant_id)}}]
        * 2
    )


def test_a_listing_that_fails_is_one_alert_until_it_is_over(db: Any, clinic: Business) -> None:
    with db.as_service():
        for _ in range(2):
            db.run("select public.templates_fail(%s, '200', 'Meta is away.')", clinic.tenant_id)
    raised = db.rows("select kind, subject, occurrences from public.alerts where resolved_at is null")

    apply(db, clinic, listed())

    assert raised == [{"kind": "templates_not_listed", "subject": "200", "occurrences": 2}]
    assert db.value("select count(*) from public.alerts where resolved_at is null") == 0


def test_every_account_of_an_active_number_is_listed_once(db: Any, clinic: Business, plaza: Business) -> None:
    twin = (
        "insert into public.whatsapp_numbers (tenant_id, provider, phone_number, provider_number_id, waba_id,"
    )
    db.run(
        f"{twin} display_name) values (%s, 'cloud_api', '573001119999', '9', '200', 'x')", clinic.tenant_id
    )
    db.run(
        "update public.whatsapp_numbers set provider = 'twilio', account_id = 'AC1' where tenant_id = %s",
        plaza.tenant_id,
    )

    with db.as_service():
        told = db.value("select public.template_accounts()")["accounts"]
        of_clinic = db.value("select public.template_accounts(%s)", clinic.tenant_id)["accounts"]

    assert {(one["provider"], one["waba_id"], len(one["numbers"])) for one in told} == {
        ("cloud_api", "200", 2),
        ("twilio", "AC1", 1),
    }
    assert [one["tenant_id"] for one in of_clinic] == [str(clinic.tenant_id)]


# what is filled in


def test_every_part_is_filled_in_as_graph_wants_it(db: Any) -> None:
    filled = fill(
        db,
        {"header": ["Ana"], "body": ["Ana", 10], "buttons": {"0": "yes", "1": "42", "3": "VERANO"}},
        WHOLE,
    )

    assert filled["text"] == "Cita de Ana\n\nHola Ana, te esperamos a las 10.\n\nClínica"
    assert filled["components"] == [
        {"type": "header", "parameters": [{"type": "text", "text": "Ana"}]},
        {
            "type": "body",
            "parameters": [{"type": "text", "text": "Ana"}, {"type": "text", "text": "10"}],
        },
        {
            "type": "button",
            "index": "0",
            "sub_type": "quick_reply",
            "parameters": [{"type": "payload", "payload": "yes"}],
        },
        {
            "type": "button",
            "index": "1",
            "sub_type": "url",
            "parameters": [{"type": "text", "text": "42"}],
        },
        {
            "type": "button",
            "index": "3",
            "sub_type": "copy_code",
            "parameters": [{"type": "coupon_code", "coupon_code": "VERANO"}],
        },
    ]


def test_blanks_may_have_names(db: Any) -> None:
    body = {"type": "BODY", "text": "Hola {{name}}, a las {{ time }}"}

    filled = fill(db, {"body": {"time": "10:00", "name": "Ana"}}, [body], parameter_format="named")

    assert filled["text"] == "Hola Ana, a las 10:00"
    assert {p["parameter_name"]: p["text"] for p in filled["components"][0]["parameters"]} == {
        "name": "Ana",
        "time": "10:00",
    }


def test_ten_blanks_keep_their_order_and_values_are_not_filled_in_again(db: Any) -> None:
    text = " ".join(f"{{{{{n}}}}}" for n in range(1, 12))

    filled = fill(db, {"body": ["{{2}}", *"bcdefghijk"]}, [{"type": "BODY", "text": text}])

    assert filled["text"] == "{{2}} b c d e f g h i j k"
    assert [p["text"] for p in filled["components"][0]["parameters"]] == ["{{2}}", *"bcdefghijk"]


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("IMAGE", {"link": "https://cdn.example/a.jpg"}),
        ("VIDEO", {"id": "77"}),
        ("DOCUMENT", {"link": "https://cdn.example/a.pdf", "filename": "a.pdf"}),
        ("LOCATION", {"latitude": 4.6, "longitude": -74.1, "name": "Clínica", "address": "Calle 1"}),
    ],
)
def test_a_header_may_be_a_file_or_a_place(db: Any, shown: str, value: dict[str, Any]) -> None:
    kind = shown.lower()

    filled = fill(db, {"header": value, "body": ["Ana", "10"]}, [{"type": "HEADER", "format": shown}, BODY])

    assert filled["components"][0] == {"type": "header", "parameters": [{"type": kind, kind: value}]}


def test_twilio_s_variables_are_numbered_through_all_parts(db: Any) -> None:
    buttons = {"type": "BUTTONS", "buttons": [{"type": "URL", "url": "https://c.example/{{3}}"}]}

    filled = fill(db, {"body": {"1": "Ana", "2": "10:00", "3": "x"}}, [BODY, buttons], provider="twilio")

    assert filled["variables"] == {"1": "Ana", "2": "10:00", "3": "x"}
    assert filled["text"] == "Hola Ana, te esperamos a las 10:00."


@pytest.mark.parametrize(
    ("parameters", "components", "faults"),
    [
        (None, [BODY], "body parameter 1 is missing; body parameter 2 is missing"),
        ({"body": ["Ana"]}, [BODY], "body parameter 2 is missing"),
        ({"body": ["Ana", None]}, [BODY], "body parameter 2 is missing"),
        ({"body": ["Ana", "10", "x"]}, [BODY], "body parameter 3 is not in it"),
        ({"body": {"name": "Ana", "1": "a", "2": "b"}}, [BODY], "body parameter name is not in it"),
        ({"body": ["Ana", "10"], "header": ["x"]}, [BODY], "header parameter 1 is not in it"),
        ({"body": ["Ana", "10"], "buttons": {"0": "x"}}, [BODY], "button 0 is not in it"),
        ({"body": ["Ana", "10"], "foot": "x"}, [BODY], "foot is not in it"),
        ({"body": ["Ana", " "]}, [BODY], "body parameter 2 is empty"),
        ({"body": ["Ana", {"a": 1}]}, [BODY], "body parameter 2 must be a text"),
        (
            {"body": ["Ana", "a\nb"]},
            [BODY],
            "body parameter 2 has a line break, a tab or five spaces in a row, which WhatsApp refuses",
        ),
        (
            {"body": ["Ana", "x" * 1025]},
            [BODY],
            "body parameter 2 is too long: 1025 characters, at most 1024",
        ),
        (
            {"body": ["x" * 600, "x" * 600]},
            [BODY],
            "the body becomes too long: 1227 characters, at most 1024",
        ),
        ("Ana", [BODY], "its parameters must be an object"),
        (
            {"body": "Ana"},
            [{"type": "BODY", "text": "Hola {{1}}"}],
            "body is not in it; body parameter 1 is missing",
        ),
        ({"body": ["Ana", "10"]}, [IMAGE, BODY], "header is missing"),
        (
            {"body": ["Ana", "10"], "header": {"link": "http://cdn.example/a.jpg"}},
            [IMAGE, BODY],
            "header must have a link that begins with https://",
        ),
        (
            {"body": ["Ana", "10"], "header": ["x"]},
            [IMAGE, BODY],
            'header must name a file: {"link": "https://…"} or {"id": …}',
        ),
        (
            {"header": ["Ana"], "body": ["Ana", "10"], "buttons": {"3": "X" * 16}},
            WHOLE,
            "button 1 is missing; button 3 is too long: 16 characters, at most 15",
        ),
    ],
)
def test_what_is_wrong_is_named(db: Any, parameters: Any, components: Any, faults: str) -> None:
    refused = fill(db, parameters, components)

    assert refused["reason"] == "template_parameters"
    assert refused["message"] == f"The template recordatorio (es) cannot be sent: {faults}."


@pytest.mark.parametrize(
    ("component", "part"),
    [
        ({"type": "CAROUSEL", "cards": []}, "a carousel"),
        ({"type": "LIMITED_TIME_OFFER", "limited_time_offer": {"text": "Hoy"}}, "a limited-time offer"),
        ({"type": "HEADER", "format": "PRODUCT"}, "a product as its header"),
        ({"type": "BUTTONS", "buttons": [{"type": "MPM", "text": "Ver"}]}, "a button of several products"),
    ],
)
def test_a_kind_of_template_that_cannot_be_sent_is_refused_as_such(
    db: Any, component: Any, part: str
) -> None:
    refused = fill(db, {"body": ["Ana", "10"]}, [BODY, component])

    assert (refused["reason"], refused["message"]) == (
        "template_unsupported",
        f"Recado cannot send the template recordatorio (es): it contains {part}.",
    )


def test_a_refusal_says_what_is_needed(db: Any) -> None:
    assert fill(db, {}, [IMAGE, *WHOLE[1:]])["hint"] == (
        "It needs header (image), body parameter 1, body parameter 2, button 1 (url), button 3 (code)."
    )


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        ("pending", None, "The template recordatorio (es) is not approved yet by WhatsApp."),
        (
            "rejected",
            "INVALID_FORMAT",
            "The template recordatorio (es) is rejected by WhatsApp: INVALID_FORMAT.",
        ),
        ("paused", "Low quality", "The template recordatorio (es) is paused by WhatsApp: Low quality."),
        ("disabled", None, "The template recordatorio (es) is disabled by WhatsApp."),
        ("deleted", None, "The template recordatorio (es) is deleted by WhatsApp."),
    ],
)
def test_what_is_not_approved_is_refused_with_the_reason(
    db: Any, status: str, reason: str | None, words: str
) -> None:
    refused = fill(db, {"body": ["Ana", "10"]}, status=status, rejected_reason=reason)

    assert (refused["reason"], refused["message"]) == (f"template_{status}", words)


def test_a_pause_says_until_when_and_ends(db: Any) -> None:
    given = {"body": ["Ana", "10"]}

    paused = fill(db, given, status="paused", paused_until="2999-01-01T10:00:00Z")
    over = fill(db, given, status="paused", paused_until="2026-01-01T00:00:00Z")

    assert paused["message"] == "The template recordatorio (es) is paused by WhatsApp until 1 Jan 05:00."
    assert "components" in over
