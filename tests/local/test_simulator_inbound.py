"""`/control/inbound` says whatever people write as Meta would; and what may befall it on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.local.outside import CHANNEL, CUSTOMER, NUMBER, PHONE, SENDER, eventually

if TYPE_CHECKING:
    from tests.local.outside import Outside

pytest_plugins = ("tests.local.outside_fixtures",)

FROM = {"number": NUMBER, "from": CUSTOMER}
PLACE = {"latitude": 4.6, "longitude": -74.1, "name": "Parque"}
LIKE = {"target": "wamid.1", "emoji": "👍"}
EDITED = {"original_message_id": "wamid.1", "message": {"type": "text", "text": {"body": "Hola"}}}
YES = {"id": "yes", "title": "Sí"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"location": PLACE}, {"type": "location", "location": PLACE}),
        ({"button": YES}, {"interactive": {"type": "button_reply", "button_reply": YES}}),
        ({"list": YES}, {"interactive": {"type": "list_reply", "list_reply": YES}}),
        (
            {"reaction": {"target": "wamid.1", "emoji": "👍"}},
            {"reaction": {"message_id": "wamid.1", "emoji": "👍"}},
        ),
        ({"reaction": {"target": "wamid.1"}}, {"reaction": {"message_id": "wamid.1"}}),
        ({"revoke": {"target": "wamid.1"}}, {"revoke": {"original_message_id": "wamid.1"}}),
        ({"text": "x", "id": "wamid.OWN"}, {"id": "wamid.OWN"}),
        ({"text": "x", "reply_to": "wamid.1"}, {"context": {"from": PHONE, "id": "wamid.1"}}),
        ({"text": "x", "forwarded": True}, {"context": {"forwarded": True}}),
        ({"text": "x", "at": 1700000000}, {"timestamp": "1700000000"}),
        ({"edit": {"target": "wamid.1", "text": "Hola"}}, {"type": "edit", "edit": EDITED}),
    ],
)
def test_every_kind_of_message_has_metas_shape(
    outside: Outside, given: dict[str, Any], told: dict[str, Any]
) -> None:
    outside.control("inbound", **FROM, **given)

    (message,) = outside.webhook.messages
    assert {**message, **told} == message


def test_media_has_what_meta_tells_of_it(outside: Outside) -> None:
    outside.control("inbound", **FROM, media={"kind": "document", "filename": "q.pdf", "caption": "Q"})

    (message,) = outside.webhook.messages
    assert message["document"] == {
        **message["document"],
        "mime_type": "application/pdf",
        "filename": "q.pdf",
        "caption": "Q",
    }
    assert {"id", "sha256"} <= set(message["document"])


def test_a_contact_is_a_list_of_cards(outside: Outside) -> None:
    outside.control("inbound", **FROM, contact={"name": "Luis", "phone": "57300000000"})

    (card,) = outside.webhook.messages[0]["contacts"]
    assert (card["name"]["formatted_name"], card["phones"][0]["wa_id"]) == ("Luis", "57300000000")


def test_what_is_written_on_the_phone_is_an_echo_that_opens_no_window(outside: Outside) -> None:
    answer = outside.control("inbound", **FROM, text="Ya te llamo", echo=True)

    (change,) = outside.webhook.bodies[0]["entry"][0]["changes"]
    (echo,) = change["value"]["message_echoes"]
    assert change["field"] == "smb_message_echoes"
    assert (echo["from"], echo["to"], echo["id"]) == (PHONE, CUSTOMER, answer["wa_message_id"])
    view = outside.told("view", **FROM)
    assert (view["contact"]["window_open"], view["messages"][0]["from"]) == (False, "business")
    assert outside.told("sent") == []


@pytest.mark.parametrize(
    ("given", "provider"),
    [
        ({"number": "Citas"}, "cloud_api"),
        ({"number": PHONE}, "cloud_api"),
        ({"number": "pulso"}, "whapi"),
        ({"number": CHANNEL, "provider": "whapi"}, "whapi"),
        ({"number": SENDER, "provider": "twilio"}, "twilio"),
    ],
)
def test_a_number_goes_by_id_phone_or_name(outside: Outside, given: dict[str, str], provider: str) -> None:
    outside.control("inbound", **given, **{"from": CUSTOMER}, text="Hola")

    paths = {"cloud_api": "/cloud-api", "whapi": "/whapi/", "twilio": "/twilio/"}
    assert paths[provider] in outside.webhook.requests[0].path


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({**FROM, "text": "x", "button": YES}, "one of them"),
        ({**FROM, "button": {"id": "yes"}}, "`button.title` is missing"),
        ({**FROM, "media": {"kind": "smell"}}, "`media.kind` is 'smell'; allowed: image"),
        ({**FROM, "location": {**PLACE, "height": 1}}, "Unknown field location.height"),
        ({**FROM, "text": "x", "provider": "whapi"}, "no number of whapi"),
    ],
)
def test_bad_input_is_named(outside: Outside, body: dict[str, Any], said: str) -> None:
    refused = outside.http.post("/control/inbound", json=body)

    assert (refused.status_code, said in refused.json()["error"]) == (400, True)


def test_an_update_can_be_dropped_doubled_delayed_or_overtaken(outside: Outside) -> None:
    orders: list[tuple[str, dict[str, float]]] = [
        ("drop", {}),
        ("duplicate", {}),
        ("delay", {"seconds": 2}),
        ("reorder", {}),
    ]
    for kind, more in orders:
        outside.control("faults", target="webhook", kind=kind, match=CUSTOMER, **more)

    texts = ("lost", "twice", "late", "overtaken", "plain")
    answers = [outside.customer_writes(text)["status"] for text in texts]

    arrived = eventually(lambda: len(found := outside.webhook.messages) == 5 and found)
    assert answers == [None, 200, None, None, 200]
    assert [message["text"]["body"] for message in arrived[-2:]] == ["overtaken", "late"]
    assert sorted(message["text"]["body"] for message in arrived[:3]) == ["plain", "twice", "twice"]


def test_statuses_can_arrive_backwards(outside: Outside) -> None:
    outside.customer_writes()
    outside.control("settings", delivered_ms=200, read_ms=400)
    outside.control("faults", target="webhook.status", kind="reorder")

    outside.send()

    statuses = eventually(lambda: len(found := outside.webhook.statuses) == 3 and found)
    assert [status["status"] for status in statuses] == ["read", "delivered", "sent"]


@pytest.mark.parametrize(("kind", "content"), [("garbage", b"<html>"), ("ok_with_error", b'"code":131000')])
def test_graph_may_answer_200_with_something_else(outside: Outside, kind: str, content: bytes) -> None:
    outside.control("faults", target="graph.send", kind=kind)

    broken = outside.send()

    assert (broken.status_code, content in broken.content) == (200, True)
    assert outside.told("sent") == []
