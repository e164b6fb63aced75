"""What the simulator delivers is signed over its bytes, and delivered until it is accepted, come what may."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from local.simulator import meta
from tests.local.outside import CUSTOMER, NUMBER, eventually

if TYPE_CHECKING:
    from tests.local.outside import Outside

pytest_plugins = ("tests.local.outside_fixtures",)


def test_a_body_is_escaped_as_meta_escapes_it() -> None:
    assert meta.to_bytes({"text": "ñ😀 a/b \ud800"}) == rb'{"text":"\u00f1\ud83d\ude00 a\/b \ud800"}'


def test_a_customers_message_arrives_as_meta_sends_it(outside: Outside) -> None:
    answer = outside.customer_writes("¿Qué tal? 😀", name="María")

    (body,) = outside.webhook.bodies
    (value,) = outside.webhook.values
    (message,) = value["messages"]
    assert answer["status"] == 200
    assert message["id"] == answer["wa_message_id"]
    assert message["text"] == {"body": "¿Qué tal? 😀"}
    assert message["from"] == CUSTOMER
    assert value["contacts"][0]["wa_id"] == CUSTOMER
    assert value["contacts"][0]["profile"] == {"name": "María"}
    assert value["contacts"][0]["user_id"] == message["from_user_id"]
    assert value["metadata"] == {"display_phone_number": "57301111111", "phone_number_id": NUMBER}
    assert body["entry"][0]["id"] == "200000000000001"


def test_a_customers_text_may_be_anything(outside: Outside) -> None:
    body = rb'{"number":"%s","from":"%s","text":"\ud800 \u0000 <b>"}' % (NUMBER.encode(), CUSTOMER.encode())

    answer = outside.http.post("/control/inbound", content=body)

    assert answer.json()["status"] == 200
    assert outside.webhook.messages[0]["text"]["body"] == "\ud800 \0 <b>"
    view = outside.told("view", number=NUMBER, **{"from": CUSTOMER})
    assert view["messages"][0]["text"] == "\ud800 \0 <b>"


def test_a_raw_message_keeps_its_own_fields(outside: Outside) -> None:
    image = {"id": "wamid.OWN", "type": "image", "image": {"id": "77", "mime_type": "image/jpeg"}}

    answer = outside.control(
        "inbound", number=NUMBER, **{"from": CUSTOMER}, message=image, context={"id": "wamid.OUT"}
    )

    (message,) = outside.webhook.messages
    assert answer["wa_message_id"] == "wamid.OWN"
    assert message["image"]["id"] == "77"
    assert message["context"] == {"id": "wamid.OUT"}
    assert message["timestamp"].isdecimal()


def test_a_number_change_carries_no_contacts(outside: Outside) -> None:
    change = {"type": "system", "system": {"type": "user_changed_number", "wa_id": "57300000000"}}

    outside.control("inbound", number=NUMBER, **{"from": CUSTOMER}, message=change)

    assert "contacts" not in outside.webhook.values[0]


def test_a_refused_message_is_delivered_again_until_it_is_accepted(outside: Outside) -> None:
    outside.webhook.status = 503
    assert outside.customer_writes()["status"] == 503
    eventually(lambda: outside.webhook.attempts >= 3)

    outside.webhook.status = 200

    eventually(lambda: outside.webhook.messages)
    eventually(lambda: outside.told("state")["webhooks"]["pending"] == 0)
    assert len(outside.webhook.messages) == 1


def test_statuses_that_wait_together_arrive_together(outside: Outside) -> None:
    outside.customer_writes()
    outside.webhook.status = 503
    for _ in range(5):
        outside.send()
    eventually(lambda: outside.told("state")["webhooks"]["failing"] == 15)
    before = len(outside.webhook.bodies)

    outside.webhook.status = 200

    eventually(lambda: len(outside.webhook.statuses) == 15)
    assert len(outside.webhook.bodies) - before < 10


def test_nothing_is_lost_when_the_simulator_is_killed(outside: Outside) -> None:
    outside.customer_writes()
    outside.webhook.status = 503
    wa_message_id = outside.send().json()["messages"][0]["id"]
    outside.control("faults", target="graph.send", kind="http_500")

    outside.kill()
    outside.webhook.status = 200
    outside.start()

    eventually(lambda: len(outside.webhook.statuses) == 3)
    assert [message["wa_message_id"] for message in outside.told("sent")] == [wa_message_id]
    assert outside.send().status_code == 500, "the fault is still ordered"
    outside.send()
    eventually(lambda: outside.webhook.statuses[-1]["status"] == "read")  # the window is still open


def test_the_simulator_ends_when_asked_to(outside: Outside) -> None:
    assert outside.stop() == 0
    outside.start()


@pytest.mark.parametrize(
    ("signature", "status"),
    [("valid", 200), ("wrong", 401), ("missing", 401), ("sha256=beef", 401)],
)
def test_anything_can_be_posted_with_any_signature(outside: Outside, signature: str, status: int) -> None:
    answer = outside.control("webhook", payload={"object": "ñ"}, signature=signature)

    assert answer["status"] == status


def test_raw_bytes_are_posted_as_they_are(outside: Outside) -> None:
    assert outside.control("webhook", raw='{"entry": [{"changes": []}]}')["status"] == 200
    assert outside.webhook.bodies == [{"entry": [{"changes": []}]}]


def test_a_hand_made_payload_opens_the_window_of_its_sender(outside: Outside) -> None:
    outside.control("webhook", payload=_payload({"id": "wamid.1", "from": CUSTOMER, "type": "text"}))

    outside.send()

    eventually(lambda: outside.webhook.statuses and outside.webhook.statuses[-1]["status"] == "read")


@pytest.mark.parametrize(
    "message", [{}, {"id": 7}, {"id": "wamid.1", "from": {"a": 1}, "referral": 3}, {"from": "x"}]
)
def test_a_hand_made_payload_may_be_rubbish(outside: Outside, message: dict[str, Any]) -> None:
    assert outside.control("webhook", payload=_payload(message))["status"] == 200


def test_the_handshake_is_metas(outside: Outside) -> None:
    answer = outside.control("verify", challenge="31415")

    assert (answer["status"], answer["said"]) == (200, "31415")
    assert outside.control("verify", token="wrong")["status"] == 403


def test_a_status_can_be_sent_by_hand(outside: Outside) -> None:
    outside.customer_writes()
    wa_message_id = outside.send().json()["messages"][0]["id"]

    answer = outside.control("status", wa_message_id=wa_message_id, status="failed", error=131049)

    assert answer["status"] == 200
    eventually(lambda: len(outside.webhook.statuses) == 4)
    (failed,) = [status for status in outside.webhook.statuses if status["status"] == "failed"]
    assert failed["errors"][0]["code"] == 131049


def test_a_status_for_a_message_never_sent_can_be_made_up(outside: Outside) -> None:
    refused = outside.http.post("/control/status", json={"wa_message_id": "wamid.NONE", "status": "read"})
    assert refused.status_code == 400
    assert "give `number` and `to`" in refused.json()["error"]

    outside.control("status", wa_message_id="wamid.NONE", status="read", number=NUMBER, to=CUSTOMER)

    assert [status["id"] for status in outside.webhook.statuses] == ["wamid.NONE"]


def _payload(message: dict[str, Any]) -> dict[str, Any]:
    value = {"metadata": {"phone_number_id": NUMBER}, "messages": [message]}
    return {
        "object": "whatsapp_business_account",
        "entry": [{"changes": [{"field": "messages", "value": value}]}],
    }
