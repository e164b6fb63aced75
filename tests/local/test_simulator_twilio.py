"""The simulator of Twilio refuses what Twilio refuses, signs as it signs, and tells what it tells."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.local.outside import ACCOUNT, CUSTOMER, SENDER, SENDER_ID, TWILIO_TOKEN, eventually

if TYPE_CHECKING:
    from tests.local.outside import Outside

pytest_plugins = ("tests.local.outside_fixtures",)

NUMBER = f"whatsapp:+{SENDER}"
FROM = {"number": NUMBER, "from": CUSTOMER}
ENDS = {"To": f"whatsapp:+{CUSTOMER}", "From": NUMBER}


def send(outside: Outside, **form: Any) -> httpx.Response:
    whole = {**ENDS, **(form or {"Body": "Hola"})}
    return outside.twilio("POST", "Messages.json", {key: value for key, value in whole.items() if value})


def send_and_be_told(outside: Outside, message: str = "7f3a", **form: Any) -> httpx.Response:
    callback = f"http://127.0.0.1:{outside.webhook_port}/webhook/twilio/{SENDER_ID}?message={message}"
    return send(outside, StatusCallback=callback, **(form or {"Body": "Hola"}))


def told(outside: Outside, count: int) -> list[dict[str, str]]:
    return list(eventually(lambda: len(found := outside.webhook.forms("MessageStatus")) == count and found))


def error_of(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json()["code"]


def test_a_message_is_answered_as_twilio_does(outside: Outside) -> None:
    answer = send_and_be_told(outside)

    resource = answer.json()
    assert answer.status_code == 201
    assert (resource["status"], resource["direction"]) == ("queued", "outbound-api")
    assert (resource["from"], resource["to"]) == (NUMBER, f"whatsapp:+{CUSTOMER}")
    assert resource["sid"].startswith("SM")
    assert (resource["error_code"], resource["price"], resource["num_media"]) == (None, None, "0")
    (sent,) = outside.told("sent", number=NUMBER, to=CUSTOMER)
    assert (sent["provider"], sent["text"], sent["callback"]) == ("twilio", "Hola", "7f3a")


@pytest.mark.parametrize(
    "auth",
    [(ACCOUNT, "wrong"), ("AC" + "9" * 32, TWILIO_TOKEN), ("SK" + "9" * 32, TWILIO_TOKEN), ("me", "x")],
)
def test_whoever_is_not_the_account_is_refused(outside: Outside, auth: tuple[str, str]) -> None:
    refused = outside.twilio("POST", "Messages.json", {**ENDS, "Body": "x"}, auth=auth)

    assert error_of(refused) == (401, 20003)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"To": "", "Body": "x"}, 21604),
        ({"From": "", "Body": "x"}, 21603),
        ({"To": "whatsapp:me", "Body": "x"}, 21211),
        ({"To": f"+{CUSTOMER}", "Body": "x"}, 21910),
        ({"From": "whatsapp:+57300000000", "Body": "x"}, 63007),
        ({"Body": ""}, 21619),
        ({"Body": "x" * 1601}, 21617),
        ({"Body": "x", "StatusCallback": "somewhere"}, 21609),
        ({"MediaUrl": "ftp://a.example/b.jpg"}, 21620),
        ({"MediaUrl": ["https://a.example/b.jpg", "https://a.example/c.jpg"]}, 63030),
        ({"ContentSid": "HX" + "0" * 32}, 21655),
    ],
)
def test_a_form_twilio_would_refuse_is_refused(outside: Outside, form: dict[str, Any], code: int) -> None:
    refused = send(outside, **form)

    assert error_of(refused) == (400, code)
    assert refused.json()["more_info"].endswith(f"/{code}")
    assert outside.told("sent") == []


def test_json_is_no_form(outside: Outside) -> None:
    refused = outside.twilio("POST", "Messages.json", json={**ENDS, "Body": "x"})

    assert error_of(refused) == (400, 21604)


def test_only_pictures_keep_their_text(outside: Outside) -> None:
    for name in ("a.jpg", "a.ogg", "a.pdf"):
        assert send(outside, MediaUrl=f"https://a.example/{name}", Body="mira").status_code == 201

    sent = [(message["type"], message["text"]) for message in outside.told("sent")]
    assert sent == [("image", "mira"), ("audio", ""), ("document", "")]


def test_statuses_go_to_the_callback_signed_with_its_query(outside: Outside) -> None:
    outside.control("inbound", **FROM, text="Hola")

    sid = send_and_be_told(outside).json()["sid"]

    forms = told(outside, 3)
    assert [form["MessageStatus"] for form in forms] == ["sent", "delivered", "read"]
    assert {form["MessageSid"] for form in forms} == {sid}
    assert forms[-1]["EventType"] == "READ"
    assert outside.webhook.requests[-1].path == f"/webhook/twilio/{SENDER_ID}?message=7f3a"
    eventually(lambda: outside.twilio("GET", f"Messages/{sid}.json").json()["status"] == "read")


def test_without_a_callback_nobody_is_told_but_the_list_knows(outside: Outside) -> None:
    outside.control("inbound", **FROM, text="Hola")

    sid = send(outside).json()["sid"]

    eventually(lambda: outside.twilio("GET", f"Messages/{sid}.json").json()["status"] == "read")
    assert outside.webhook.forms("MessageStatus") == []


def test_free_text_outside_the_window_fails_only_later(outside: Outside) -> None:
    sid = send_and_be_told(outside).json()["sid"]

    (failed,) = told(outside, 1)
    assert (failed["MessageStatus"], failed["ErrorCode"]) == ("failed", "63016")
    eventually(lambda: outside.twilio("GET", f"Messages/{sid}.json").json()["error_code"] == 63016)


def test_a_template_needs_no_window_but_all_its_variables(outside: Outside) -> None:
    (content,) = outside.twilio("GET", "/v1/Content").json()["contents"]
    variables = json.dumps({"1": "Ana", "2": "10:00"})

    answer = send_and_be_told(outside, ContentSid=content["sid"], ContentVariables=variables)

    assert answer.status_code == 201
    assert [form["MessageStatus"] for form in told(outside, 2)] == ["sent", "delivered"]
    assert outside.told("sent")[0]["text"] == "Hola Ana, te recordamos tu cita a las 10:00."
    for wrong in ('{"1": "Ana"}', '{"1": "Ana", "2": ""}', "[]", "{"):
        refused = send(outside, ContentSid=content["sid"], ContentVariables=wrong)
        assert error_of(refused) == (400, 21656)


def test_whatsapp_judges_a_template(outside: Outside) -> None:
    made = outside.control(
        "contents",
        account=ACCOUNT,
        name="promo",
        body="Hola",
        category="MARKETING",
        status="rejected",
        reason="x",
    )

    listed = outside.twilio("GET", "/v1/ContentAndApprovals?PageSize=1&Page=1").json()

    assert [one["approval_requests"]["status"] for one in listed["contents"]] == ["rejected"]
    assert listed["meta"]["next_page_url"] is None
    approval = outside.twilio("GET", f"/v1/Content/{made['sid']}/ApprovalRequests").json()
    assert approval["whatsapp"]["rejection_reason"] == "x"
    assert error_of(send(outside, ContentSid=made["sid"])) == (400, 63016)


def test_who_wrote_stop_is_left_alone_until_start(outside: Outside) -> None:
    outside.control("inbound", **FROM, text=" stop ")
    assert error_of(send(outside)) == (400, 21610)

    outside.control("inbound", **FROM, text="START")

    assert send(outside).status_code == 201


def test_a_customers_message_is_a_signed_form(outside: Outside) -> None:
    answer = outside.control("inbound", **FROM, text="¿Qué tal? 😀 & más", name="Ana P.", bsuid="CO.77")

    (form,) = outside.webhook.forms("Body")
    assert answer["status"] == 200
    assert outside.webhook.requests[0].path == f"/webhook/twilio/{SENDER_ID}"
    assert form["MessageSid"] == form["SmsSid"] == answer["wa_message_id"]
    assert (form["From"], form["To"], form["AccountSid"]) == (f"whatsapp:+{CUSTOMER}", NUMBER, ACCOUNT)
    assert (form["Body"], form["ProfileName"], form["WaId"]) == ("¿Qué tal? 😀 & más", "Ana P.", CUSTOMER)
    assert (form["ExternalUserId"], form["NumMedia"], form["SmsStatus"]) == ("CO.77", "0", "received")


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"media": {"kind": "audio"}}, {"NumMedia": "1", "MediaContentType0": "audio/ogg", "Body": ""}),
        ({"media": {"kind": "image", "caption": "x"}}, {"MediaContentType0": "image/jpeg", "Body": "x"}),
        ({"contact": {"name": "Luis", "phone": "57300000000"}}, {"MediaContentType0": "text/vcard"}),
        ({"location": {"latitude": 4.6, "longitude": -74.1}}, {"Latitude": "4.6", "Longitude": "-74.1"}),
        (
            {"button": {"id": "yes", "title": "Sí"}},
            {"ButtonPayload": "yes", "Body": "Sí"},
        ),
        ({"list": {"id": "a", "title": "A"}}, {"ListId": "a", "ListTitle": "A"}),
        ({"text": "x", "reply_to": "SM1"}, {"OriginalRepliedMessageSid": "SM1"}),
        ({"text": "x", "forwarded": True}, {"Forwarded": "true"}),
        (
            {"text": "x", "referral": {"source_type": "ad", "ctwa_clid": "c"}},
            {"ReferralSourceType": "ad", "ReferralCtwaClid": "c"},
        ),
        ({"message": {"Body": "x", "Brand": "new"}}, {"Brand": "new"}),
    ],
)
def test_every_kind_of_message_has_twilios_shape(
    outside: Outside, given: dict[str, Any], form: dict[str, str]
) -> None:
    outside.control("inbound", **FROM, **given)

    (request,) = outside.webhook.requests
    assert {**request.form, **form} == request.form


def test_a_customer_without_a_phone_is_an_id(outside: Outside) -> None:
    outside.control("inbound", number=NUMBER, **{"from": "CO.12345"}, text="Hola")

    (form,) = outside.webhook.forms("Body")
    assert form["From"] == form["ExternalUserId"] == "whatsapp:CO.12345"
    assert "WaId" not in form
    send_and_be_told(outside, To="whatsapp:CO.12345", Body="Hola")
    assert [status["MessageStatus"] for status in told(outside, 3)] == ["sent", "delivered", "read"]


@pytest.mark.parametrize(
    "what", [{"text": "x", "echo": True}, {"revoke": {"target": "SM1"}}, {"reaction": {"target": "SM1"}}]
)
def test_what_twilio_never_tells_cannot_be_told(outside: Outside, what: dict[str, Any]) -> None:
    refused = outside.http.post("/control/inbound", json={**FROM, **what})

    assert (refused.status_code, "Twilio tells nothing" in refused.text) == (400, True)


def test_both_algorithms_sign(outside: Outside) -> None:
    outside.control("settings", twilio_sha256=True)

    assert outside.control("inbound", **FROM, text="Hola")["status"] == 200

    settings = outside.webhook.requests[0].headers["x-twilio-webhooks-signature-settings"]
    assert settings == "key=demo,algorithm=HMAC_SHA256"


def test_a_json_body_is_signed_by_its_hash(outside: Outside) -> None:
    assert outside.control("webhook", number=NUMBER, payload=[{"a": 1}])["status"] == 200
    assert "?bodySHA256=" in outside.webhook.requests[0].path


@pytest.mark.parametrize(("signature", "status"), [("valid", 200), ("wrong", 401), ("missing", 401)])
def test_any_form_can_be_posted_with_any_signature(outside: Outside, signature: str, status: int) -> None:
    form = {"MessageSid": "SM1", "Empty": ""}

    answer = outside.control("webhook", number=NUMBER, payload=form, signature=signature)

    assert answer["status"] == status


def test_a_new_auth_token_signs_from_then_on(outside: Outside) -> None:
    outside.control("tokens", token="fresh", subject=ACCOUNT)

    assert outside.control("inbound", **FROM, text="Hola")["status"] == 401
    assert outside.twilio("GET", "Messages.json", auth=(ACCOUNT, "fresh")).status_code == 200


def test_a_refused_message_is_lost_and_only_the_list_has_it(outside: Outside) -> None:
    outside.webhook.status = 503
    outside.control("inbound", **FROM, text="Hola")
    outside.webhook.status = 200

    assert outside.told("state")["webhooks"]["lost"] == 1
    (message,) = outside.twilio("GET", "Messages.json").json()["messages"]
    assert (message["direction"], message["body"], message["status"]) == ("inbound", "Hola", "received")
    assert outside.webhook.attempts == 1


def test_the_list_goes_back_in_pages_newest_first(outside: Outside) -> None:
    for index in range(3):
        outside.control("inbound", **FROM, text=str(index))
    send(outside)

    first = outside.twilio("GET", f"Messages.json?To={NUMBER.replace('+', '%2B')}&PageSize=2").json()
    second = outside.twilio("GET", first["next_page_uri"]).json()

    assert [one["body"] for one in (*first["messages"], *second["messages"])] == ["2", "1", "0"]
    assert second["next_page_uri"] is None
    assert parsedate_to_datetime(first["messages"][0]["date_sent"])
    assert outside.twilio("GET", "Messages.json?DateSent>=2099-01-01").json()["messages"] == []
    assert len(outside.twilio("GET", "Messages.json?DateSent>=2020-01-01T00:00:00Z").json()["messages"]) == 4
    assert error_of(outside.twilio("GET", "Messages.json?PageSize=1001")) == (400, 20001)
    assert error_of(outside.twilio("GET", "Messages.json?DateSent>=soon")) == (400, 20001)


def test_the_media_of_a_message_is_listed(outside: Outside) -> None:
    media = {"kind": "image"}
    sid = outside.control("inbound", **FROM, media=media)["wa_message_id"]

    (listed,) = outside.twilio("GET", f"Messages/{sid}/Media.json").json()["media_list"]

    url = outside.webhook.requests[0].form["MediaUrl0"]
    assert (listed["content_type"], listed["sid"]) == ("image/jpeg", url.rpartition("/")[2])


def test_senders_prove_whose_they_are_and_where_they_tell(outside: Outside) -> None:
    (sender,) = outside.twilio("GET", "/v2/Channels/Senders?Channel=whatsapp").json()["senders"]
    url = f"http://127.0.0.1:{outside.webhook_port}/webhook/twilio/elsewhere"

    changed = outside.twilio(
        "POST",
        f"/v2/Channels/Senders/{sender['sid']}",
        json={"webhook": {"callback_url": url, "status_callback_url": url}},
    )
    outside.control("inbound", **FROM, text="Hola")
    send(outside)

    assert (sender["sender_id"], sender["status"]) == (NUMBER, "ONLINE")
    assert changed.json()["webhook"]["callback_url"] == url
    told(outside, 3)
    assert {request.path for request in outside.webhook.requests} == {"/webhook/twilio/elsewhere"}


def test_an_account_sees_no_senders_but_its_own(outside: Outside) -> None:
    other = "AC" + "8" * 32

    listed = outside.twilio(
        "GET", "/v2/Channels/Senders?Channel=whatsapp", auth=(other, f"demo-token-{other}")
    )

    assert listed.json()["senders"] == []


def test_typing_marks_the_message_as_read(outside: Outside) -> None:
    sid = outside.control("inbound", **FROM, text="Hola")["wa_message_id"]
    typing = "/v2/Indicators/Typing.json"

    assert outside.twilio("POST", typing, {"messageId": sid, "channel": "whatsapp"}).json() == {
        "success": True
    }
    view = outside.told("view", **FROM)
    assert (view["typing"], view["messages"][0]["status"]) == (True, "read")
    assert error_of(outside.twilio("POST", typing, {"messageId": "SM1", "channel": "whatsapp"})) == (
        400,
        20001,
    )


@pytest.mark.parametrize(
    ("kind", "status", "content"),
    [
        ("http_429", 429, b'"code":20429'),
        ("http_503", 503, b'"code":20500'),
        ("code:63018", 429, b'"code":63018'),
        ("code:20003", 401, b'"code":20003'),
        ("ok_with_error", 200, b'"code":20500'),
        ("garbage", 200, b"<html>"),
    ],
)
def test_a_send_can_go_wrong(outside: Outside, kind: str, status: int, content: bytes) -> None:
    outside.control("faults", target="twilio.send", kind=kind, match=ACCOUNT)

    broken = send(outside)

    assert (broken.status_code, content in broken.content) == (status, True)
    assert send(outside).status_code == 201


def test_a_status_can_fail_with_any_of_twilios_errors(outside: Outside) -> None:
    outside.control("inbound", **FROM, text="Hola")
    outside.control("faults", target="webhook.status", kind="code:63024", match=CUSTOMER)

    send_and_be_told(outside)

    (failed,) = told(outside, 1)
    assert (failed["MessageStatus"], failed["ErrorCode"]) == ("undelivered", "63024")


def test_a_sender_takes_eighty_messages_a_second_and_a_customer_forty_five_at_once(outside: Outside) -> None:
    outside.control("settings", rate_limits=True)

    codes = [send(outside).status_code for _ in range(46)]

    assert codes == [201] * 45 + [429]
