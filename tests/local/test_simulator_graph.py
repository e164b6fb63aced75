"""The Graph simulator refuses what Meta refuses, and tells later what Meta tells later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.local.outside import CUSTOMER, NUMBER, PHONE, eventually, text_message

if TYPE_CHECKING:
    from tests.local.outside import Outside

pytest_plugins = ("tests.local.outside_fixtures",)

TEMPLATE = {
    "type": "template",
    "template": {"name": "hello_world", "language": {"code": "en_US"}, "components": []},
    "text": None,
}


def error_of(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json()["error"]["code"]


def bare(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**text_message(), **changes}.items() if value is not None}


def post(outside: Outside, body: Any, path: str = f"/graph/v26.0/{NUMBER}/messages") -> httpx.Response:
    return outside.http.post(path, json=body, headers={"authorization": f"Bearer demo-token-{NUMBER}"})


def told(outside: Outside, count: int) -> list[str]:
    """The statuses our webhook got, once there are so many."""
    return [
        status["status"]
        for status in eventually(lambda: len(outside.webhook.statuses) >= count and outside.webhook.statuses)
    ]


def test_an_accepted_message_is_answered_as_meta_does(outside: Outside) -> None:
    answer = outside.send({"to": f"+{CUSTOMER}"}).json()

    message = answer["messages"][0]
    assert answer["messaging_product"] == "whatsapp"
    assert answer["contacts"] == [{"input": f"+{CUSTOMER}", "wa_id": CUSTOMER}]
    assert message["id"].startswith("wamid.")
    assert message["message_status"] == "accepted"


@pytest.mark.parametrize("token", ["", "EAAG-other", "demo-token-100000000000009"])
def test_a_wrong_token_is_an_oauth_error(outside: Outside, token: str) -> None:
    refused = outside.send(token=token)

    assert error_of(refused) == (401, 190)
    assert refused.json()["error"]["type"] == "OAuthException"
    assert refused.json()["error"]["fbtrace_id"]


def test_a_token_that_has_ended_is_refused_and_one_that_was_issued_is_taken(outside: Outside) -> None:
    outside.control("tokens", token=f"demo-token-{NUMBER}", expires_in=0)
    outside.control("tokens", token="EAAG-new", subject=NUMBER, expires_in=60)

    assert error_of(outside.send()) == (401, 190)
    assert outside.send(token="EAAG-new").status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (bare(messaging_product=None), 100),
        (bare(messaging_product="sms"), 100),
        (bare(to=None), 100),
        (bare(to="123"), 100),
        (bare(to=PHONE), 131021),
        (bare(type="fax"), 100),
        (bare(text=None), 131008),
        (bare(text={}), 131008),
        (bare(text={"body": ""}), 100),
        (bare(text={"body": "x" * 4097}), 100),
        (bare(text={"body": 7}), 100),
        (bare(text={"body": "x", "colour": "red"}), 100),
        (bare(colour="red"), 100),
        (bare(image={"id": "1"}), 100),
        (bare(recipient_type="group"), 100),
        (bare(biz_opaque_callback_data="x" * 513), 100),
        (bare(context={}), 131008),
        (bare(type="image", text=None, image={"id": "1", "link": "https://a.example/b"}), 100),
        (bare(type="image", text=None, image={"link": "ftp://a.example/b"}), 100),
        (bare(type="template", text=None, template={"name": "a"}), 131008),
        (bare(to=None, recipient="somebody"), 100),
        ([], 100),
    ],
)
def test_a_body_meta_would_refuse_is_refused(outside: Outside, body: Any, code: int) -> None:
    refused = post(outside, body)

    assert error_of(refused) == (400, code)
    assert refused.json()["error"]["error_data"]["details"]
    assert outside.told("sent") == []


def test_more_than_three_buttons_are_refused(outside: Outside) -> None:
    buttons = [{"type": "reply", "reply": {"id": str(n), "title": f"Opción {n}"}} for n in range(4)]
    body = bare(
        type="interactive",
        text=None,
        interactive={"type": "button", "body": {"text": "?"}, "action": {"buttons": buttons}},
    )

    assert error_of(post(outside, body)) == (400, 100)
    body["interactive"]["action"]["buttons"] = buttons[:3]
    assert post(outside, body).status_code == 200


@pytest.mark.parametrize(
    "path", ["/graph/v1.0/1/messages", "/graph/latest/1/messages", f"/graph/v26.0/{NUMBER}/faxes"]
)
def test_a_path_that_graph_does_not_have_is_refused(outside: Outside, path: str) -> None:
    assert error_of(post(outside, text_message(), path)) == (400, 100)


def test_a_customer_who_wrote_gets_sent_delivered_and_read(outside: Outside) -> None:
    outside.customer_writes()

    wa_message_id = outside.send({"biz_opaque_callback_data": "mine"}).json()["messages"][0]["id"]

    assert told(outside, 3) == ["sent", "delivered", "read"]
    sent, delivered, read = outside.webhook.statuses
    assert {status["id"] for status in (sent, delivered, read)} == {wa_message_id}
    assert {status["biz_opaque_callback_data"] for status in (sent, delivered, read)} == {"mine"}
    assert sent["pricing"] == {
        "billable": True,
        "pricing_model": "PMP",
        "type": "regular",
        "category": "service",
    }
    assert "pricing" in delivered
    assert "pricing" not in read
    assert "conversation" not in sent
    assert sent["recipient_user_id"].startswith("CO.")


def test_free_text_outside_the_window_fails_only_later(outside: Outside) -> None:
    accepted = outside.send()

    assert accepted.status_code == 200
    assert told(outside, 1) == ["failed"]
    (failed,) = outside.webhook.statuses
    assert failed["errors"][0]["code"] == 131047
    assert "recipient_user_id" not in failed
    assert "contacts" not in outside.webhook.values[-1]


def test_a_window_is_of_one_number_and_one_customer(outside: Outside) -> None:
    outside.customer_writes()

    outside.send({"to": "57399999999"})

    assert told(outside, 1) == ["failed"]


def test_a_window_closes_24_hours_after_the_customers_own_time(outside: Outside) -> None:
    long_ago = {"type": "text", "text": {"body": "Hola"}, "timestamp": "1700000000"}
    outside.control("inbound", number=NUMBER, **{"from": CUSTOMER}, message=long_ago)

    outside.send()

    assert told(outside, 1) == ["failed"]


def test_a_reaction_opens_no_window(outside: Outside) -> None:
    reaction = {"type": "reaction", "reaction": {"message_id": "wamid.X", "emoji": "👍"}}
    outside.control("inbound", number=NUMBER, **{"from": CUSTOMER}, message=reaction)

    outside.send()

    assert told(outside, 1) == ["failed"]


def test_a_template_needs_no_window_and_is_delivered_but_not_read(outside: Outside) -> None:
    assert post(outside, bare(**TEMPLATE)).status_code == 200

    assert told(outside, 2) == ["sent", "delivered"]
    assert outside.webhook.statuses[0]["pricing"]["category"] == "utility"


def test_strangers_may_be_given_an_open_window(outside: Outside) -> None:
    outside.control("settings", strangers_window_open=True)

    outside.send()

    assert told(outside, 3) == ["sent", "delivered", "read"]


def test_the_first_answer_to_an_ad_is_free_for_72_hours(outside: Outside) -> None:
    outside.customer_writes(referral={"source_type": "ad", "source_id": "1", "ctwa_clid": "c"})

    outside.send()

    told(outside, 2)
    sent, delivered = outside.webhook.statuses[:2]
    until = int(sent["conversation"]["expiration_timestamp"])
    assert sent["pricing"]["type"] == "free_entry_point"
    assert sent["conversation"]["origin"] == {"type": "referral_conversion"}
    assert 72 * 3600 - 60 < until - int(sent["timestamp"]) <= 72 * 3600
    assert "expiration_timestamp" not in delivered["conversation"]


def test_a_customer_without_a_phone_is_written_to_by_user_id(outside: Outside) -> None:
    outside.control("inbound", number=NUMBER, **{"from": "CO.12345"}, username="ana.p", text="Hola")
    (message,) = outside.webhook.messages
    assert "from" not in message

    answer = post(outside, bare(to=None, recipient="CO.12345")).json()

    assert answer["contacts"] == [{"input": "CO.12345", "user_id": "CO.12345"}]
    assert told(outside, 3) == ["sent", "delivered", "read"]
    assert "recipient_id" not in outside.webhook.statuses[0]


def test_reading_and_typing_are_noticed(outside: Outside) -> None:
    wa_message_id = outside.customer_writes()["wa_message_id"]
    read = {"messaging_product": "whatsapp", "status": "read", "message_id": wa_message_id}

    answer = post(outside, {**read, "typing_indicator": {"type": "text"}})

    view = outside.told("view", number=NUMBER, **{"from": CUSTOMER})
    assert answer.json() == {"success": True}
    assert view["messages"][0]["status"] == "read"
    assert view["typing"] is True
    outside.send()
    assert outside.told("view", number=NUMBER, **{"from": CUSTOMER})["typing"] is False


@pytest.mark.parametrize(
    "change", [{"message_id": "42"}, {"message_id": None}, {"status": "seen"}, {"to": CUSTOMER}]
)
def test_a_receipt_meta_would_refuse_is_refused(outside: Outside, change: dict[str, Any]) -> None:
    read = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.X", **change}

    refused = post(outside, {key: value for key, value in read.items() if value is not None})

    assert refused.status_code == 400


def test_limits_are_off_until_they_are_switched_on(outside: Outside) -> None:
    outside.control("settings", rate_limits=True)

    codes = [outside.send().json().get("error", {}).get("code") for _ in range(47)]

    assert codes[:45] == [None] * 45
    assert codes[45:] == [131056, 131056]


def test_a_fault_is_used_up(outside: Outside) -> None:
    outside.control("faults", target="graph.send", kind="code:130429", times=2)

    assert [outside.send().status_code for _ in range(3)] == [400, 400, 200]
    assert len(outside.told("sent")) == 1


def test_a_fault_may_hit_one_customer_only(outside: Outside) -> None:
    outside.control("faults", target="graph.send", kind="http_500", match="57399999999")

    assert outside.send().status_code == 200
    assert outside.send({"to": "57399999999"}).status_code == 500


@pytest.mark.parametrize(
    ("kind", "seen"),
    [("reset", httpx.ReadError), ("truncated", httpx.RemoteProtocolError), ("timeout", httpx.ReadError)],
)
def test_an_accepted_message_may_lose_its_answer(outside: Outside, kind: str, seen: type[Exception]) -> None:
    outside.customer_writes()
    outside.control("faults", target="graph.send", kind=kind, after_accept=True, seconds=0.2)

    with pytest.raises(seen):
        outside.send({"biz_opaque_callback_data": "lost"})

    assert told(outside, 3) == ["sent", "delivered", "read"]
    assert [message["callback"] for message in outside.told("sent")] == ["lost"]


def test_a_connection_cut_before_the_message_was_taken_sends_nothing(outside: Outside) -> None:
    outside.control("faults", target="graph.send", kind="reset")

    with pytest.raises(httpx.ReadError):
        outside.send()

    assert outside.told("sent") == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("only_sent", ["sent"]),
        ("only_delivered", ["sent", "delivered"]),
        ("code:131026", ["failed"]),
        ("duplicate", ["sent", "sent", "delivered", "delivered", "read", "read"]),
    ],
)
def test_statuses_can_go_wrong(outside: Outside, kind: str, expected: list[str]) -> None:
    outside.customer_writes()
    outside.control("faults", target="webhook.status", kind=kind)

    outside.send()

    assert told(outside, len(expected)) == expected


def test_statuses_can_be_dropped(outside: Outside) -> None:
    outside.customer_writes()
    outside.control("faults", target="webhook.status", kind="drop_status")

    outside.send({"biz_opaque_callback_data": "dropped"})
    outside.send({"biz_opaque_callback_data": "told"})

    told(outside, 3)
    assert {status["biz_opaque_callback_data"] for status in outside.webhook.statuses} == {"told"}
