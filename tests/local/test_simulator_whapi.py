"""The simulator of Whapi refuses what Whapi refuses, and tells what Whapi tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.local.outside import CHANNEL, CHANNEL_ID, CUSTOMER, NUMBER, eventually

if TYPE_CHECKING:
    from tests.local.outside import Outside

pytest_plugins = ("tests.local.outside_fixtures",)

PLACE = {"latitude": 4.6, "longitude": -74}
CHAT = f"{CUSTOMER}@s.whatsapp.net"
FROM = {"number": CHANNEL, "from": CUSTOMER}


def send(outside: Outside, kind: str = "text", **body: Any) -> httpx.Response:
    content = body or {"body": "Hola"}
    return outside.whapi("POST", f"messages/{kind}", {"to": CUSTOMER, **content})


def error_of(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json()["error"]["code"]


def test_a_message_is_answered_as_whapi_does(outside: Outside) -> None:
    answer = send(outside, body="Hola", quoted="AAAAAAAAAA-wBBBB").json()

    message = answer["message"]
    assert answer["sent"] is True
    assert (message["from_me"], message["chat_id"], message["status"]) == (True, CHAT, "pending")
    assert (message["type"], message["text"]) == ("text", {"body": "Hola"})
    assert message["context"] == {"quoted_id": "AAAAAAAAAA-wBBBB"}
    assert isinstance(message["timestamp"], int)
    assert outside.told("sent", number=CHANNEL)[0]["provider"] == "whapi"


@pytest.mark.parametrize("token", ["", "other", NUMBER])
def test_a_token_that_is_no_channels_is_refused(outside: Outside, token: str) -> None:
    assert error_of(outside.whapi("GET", "health", token=token)) == (401, 401)


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("text", {"body": ""}, 400),
        ("text", {"body": 7}, 400),
        ("text", {"body": "x", "colour": "red"}, 400),
        ("text", {"body": "x", "to": "+57311111111"}, 400),
        ("text", {"body": "x", "to": "57311111111@c.us"}, 400),
        ("text", {"body": "x", "to": "1203630@g.us"}, 403),
        ("text", {"body": "x", "typing_time": 61}, 400),
        ("image", {"caption": "x"}, 400),
        ("image", {"media": "ftp://a.example/b.jpg"}, 400),
        ("image", {"media": "https://a.example/b.jpg", "filename": "b.jpg"}, 400),
        ("fax", {"body": "x"}, 404),
        ("interactive", {"type": "button", "body": {"text": "?"}, "action": {"buttons": []}}, 400),
    ],
)
def test_a_body_whapi_would_refuse_is_refused(
    outside: Outside, kind: str, body: dict[str, Any], code: int
) -> None:
    assert error_of(send(outside, kind, **body)) == (code, code)
    assert outside.told("sent") == []


def test_media_goes_by_link_data_or_id(outside: Outside) -> None:
    for media in ("https://a.example/q.pdf", "data:application/pdf;base64,aGk=", "document-0123456789"):
        assert send(outside, "document", media=media, filename="q.pdf", caption="Q").status_code == 200

    first = outside.told("sent")[0]
    assert (first["type"], first["text"]) == ("document", "Q")


def test_what_the_api_sent_comes_back_and_then_its_statuses(outside: Outside) -> None:
    message = send(outside).json()["message"]

    statuses = eventually(lambda: len(found := outside.webhook.told("statuses")) == 3 and found)
    (echo,) = outside.webhook.told("messages")
    assert (echo["id"], echo["from_me"], echo["source"]) == (message["id"], True, "api")
    assert [status["status"] for status in statuses] == ["sent", "delivered", "read"]
    assert {status["id"] for status in statuses} == {message["id"]}
    assert all(isinstance(status["timestamp"], str) for status in statuses)


def test_free_text_needs_no_window(outside: Outside) -> None:
    send(outside, to="57399999999", body="Hola")

    eventually(lambda: len(outside.webhook.told("statuses")) == 3)
    assert "errors" not in outside.webhook.told("statuses")[-1]


def test_a_customers_message_arrives_with_the_secret_header(outside: Outside) -> None:
    answer = outside.control("inbound", **FROM, text="¿Qué tal? 😀", name="Ana")

    (request,) = outside.webhook.requests
    (message,) = outside.webhook.told("messages")
    assert answer["status"] == 200
    assert request.path == f"/webhook/whapi/{CHANNEL_ID}"
    assert b'"event": {"type": "messages", "event": "post"}' in request.body
    assert (message["chat_id"], message["from"], message["from_name"]) == (CHAT, CUSTOMER, "Ana")
    assert (message["from_me"], message["text"]) == (False, {"body": "¿Qué tal? 😀"})
    assert isinstance(message["timestamp"], int)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"media": {"kind": "audio", "voice": True}}, {"type": "voice"}),
        ({"media": {"kind": "image", "id": "image-1", "caption": "x"}}, {"type": "image"}),
        (
            {"location": {"latitude": 4.6, "longitude": -74}},
            {"location": {"latitude": 4.6, "longitude": -74}},
        ),
        ({"reaction": {"target": "A-w1", "emoji": "👍"}}, {"type": "action"}),
        ({"contact": {"name": "Luis", "phone": "57300000000"}}, {"type": "contact"}),
        ({"message": {"type": "poll", "poll": {"title": "?"}}}, {"poll": {"title": "?"}}),
        ({"text": "x", "reply_to": "A-w1"}, {"context": {"quoted_id": "A-w1"}}),
        ({"text": "x", "echo": True}, {"from_me": True, "from": "57304444444", "source": "mobile"}),
        (
            {"button": {"id": "yes", "title": "Sí"}},
            {"reply": {"type": "buttons_reply", "buttons_reply": {"id": "ButtonsV3:yes", "title": "Sí"}}},
        ),
    ],
)
def test_every_kind_of_message_has_whapis_shape(
    outside: Outside, given: dict[str, Any], told: dict[str, Any]
) -> None:
    outside.control("inbound", **FROM, **given)

    (message,) = outside.webhook.told("messages")
    assert {**message, **told} == message


def test_an_edit_tells_how_it_was_and_is_and_a_deletion_the_id(outside: Outside) -> None:
    target = outside.control("inbound", **FROM, text="Hloa")["wa_message_id"]

    outside.control("inbound", **FROM, edit={"target": target, "text": "Hola"})
    outside.control("inbound", **FROM, revoke={"target": target})

    (update,) = outside.webhook.told("messages_updates")
    assert (update["id"], update["trigger"]["action"]["type"]) == (target, "edit")
    assert (update["before_update"]["text"], update["after_update"]["text"]) == (
        {"body": "Hloa"},
        {"body": "Hola"},
    )
    assert outside.webhook.told("messages_removed") == [target]


@pytest.mark.parametrize("who", ["111222333@lid", "120363041@g.us", "120363042@newsletter"])
def test_a_chat_may_be_no_phones(outside: Outside, who: str) -> None:
    outside.control("inbound", number=CHANNEL, **{"from": who}, text="Hola")

    assert outside.webhook.told("messages")[0]["chat_id"] == who


def test_messages_that_wait_together_arrive_together(outside: Outside) -> None:
    outside.webhook.status = 503
    for index in range(5):
        outside.control("inbound", **FROM, text=str(index))

    outside.webhook.status = 200

    eventually(lambda: len(outside.webhook.told("messages")) == 5)
    assert len(outside.webhook.requests) < 5


def test_settings_say_who_is_told_what_with_which_header(outside: Outside) -> None:
    url = f"http://127.0.0.1:{outside.webhook_port}/webhook/whapi/other"
    hook = {"url": url, "mode": "body", "headers": {"X-Recado-Secret": "header-secret"}}
    events = [{"type": "messages", "method": "post"}]

    changed = outside.whapi("PATCH", "settings", {"webhooks": [{**hook, "events": events}]})
    send(outside)
    outside.control("inbound", **FROM, text="Hola")

    assert changed.status_code == 200
    assert outside.whapi("GET", "settings").json()["webhooks"][0]["url"] == url
    eventually(lambda: len(outside.webhook.told("messages")) == 2)
    eventually(lambda: outside.told("state")["webhooks"]["pending"] == 0)
    assert {request.path for request in outside.webhook.requests} == {"/webhook/whapi/other"}
    assert outside.webhook.told("statuses") == []


@pytest.mark.parametrize(
    "settings",
    [
        {"webhooks": [{"url": "nowhere"}]},
        {"webhooks": [{"url": "https://a.example", "headers": dict.fromkeys("abcdef", "x")}]},
        {"webhooks": [{"url": "https://a.example", "mode": "smoke"}]},
        {"callback_backoff_delay_ms": 1},
        {"colour": "red"},
    ],
)
def test_settings_whapi_would_refuse_are_refused(outside: Outside, settings: dict[str, Any]) -> None:
    assert error_of(outside.whapi("PATCH", "settings", settings)) == (400, 400)


def test_an_unlinked_phone_stops_the_channel_and_is_told(outside: Outside) -> None:
    outside.control("channels", number=CHANNEL, linked=False)

    assert error_of(send(outside)) == (401, 401)
    assert outside.whapi("GET", "health").json()["status"]["text"] == "QR"
    assert b'"event": "delete"' in outside.webhook.requests[-1].body
    outside.control("channels", number=CHANNEL, linked=True)
    assert outside.whapi("GET", "health").json()["user"]["id"] == "57304444444"
    assert send(outside).status_code == 200


def test_the_lists_go_back_in_pages(outside: Outside) -> None:
    for index in range(3):
        outside.control("inbound", **FROM, text=str(index))
    send(outside)
    outside.control("inbound", number=CHANNEL, **{"from": "57399999999"}, text="otra")

    first = outside.whapi("GET", f"messages/list/{CHAT}?count=2&sort=asc").json()
    rest = outside.whapi("GET", f"messages/list/{CHAT}?count=2&offset=2&sort=asc").json()

    assert (first["total"], rest["total"]) == (4, 4)
    shown = [*first["messages"], *rest["messages"]]
    assert [message["text"]["body"] for message in shown] == ["0", "1", "2", "Hola"]
    assert len(outside.whapi("GET", "messages/list").json()["messages"]) == 5
    assert outside.whapi("GET", f"messages/list/{CHAT}?from_me=true").json()["total"] == 1
    assert outside.whapi("GET", "messages/list?time_from=99999999999").json()["messages"] == []
    assert error_of(outside.whapi("GET", "messages/list?count=501")) == (400, 400)


def test_a_chat_has_the_labels_somebody_put_on_it(outside: Outside) -> None:
    assert error_of(outside.whapi("GET", f"chats/{CHAT}")) == (404, 404)
    outside.control("inbound", **FROM, text="Hola")

    outside.control("chats", number=CHANNEL, chat=CUSTOMER, name="Ana P.", labels=["VIP", "Mora"])

    chat = outside.whapi("GET", f"chats/{CHAT}").json()
    assert (chat["id"], chat["name"], chat["last_message"]["text"]) == (CHAT, "Ana P.", {"body": "Hola"})
    assert [label["name"] for label in chat["labels"]] == ["VIP", "Mora"]
    assert outside.webhook.told("chats_updates")[0]["after_update"]["labels"] == chat["labels"]
    assert [one["id"] for one in outside.whapi("GET", "chats").json()["chats"]] == [CHAT]


def test_reading_typing_and_reacting_are_noticed(outside: Outside) -> None:
    message = outside.control("inbound", **FROM, text="Hola")["wa_message_id"]

    assert outside.whapi("PUT", f"presences/{CUSTOMER}", {"presence": "typing", "delay": 10}).is_success
    assert outside.told("view", **FROM)["typing"] is True
    assert outside.whapi("PUT", f"messages/{message}").json() == {"success": True}
    assert outside.told("view", **FROM)["messages"][0]["status"] == "read"
    assert outside.whapi("PUT", f"messages/{message}/reaction", {"emoji": "👍"}).is_success
    assert outside.told("sent")[0]["text"] == "👍"
    assert error_of(outside.whapi("PUT", "messages/NOBODY-w1")) == (404, 404)


def test_a_trial_allows_five_chats(outside: Outside) -> None:
    outside.control("settings", whapi_trial=True)

    codes = [send(outside, to=f"5731111111{index}", body="x").status_code for index in range(6)]

    assert codes == [200] * 5 + [402]


@pytest.mark.parametrize(
    ("kind", "status", "content"),
    [
        ("http_500", 500, b'"code":500'),
        ("code:401", 401, b'"code":401'),
        ("ok_with_error", 200, b'"error"'),
        ("garbage", 200, b"<html>"),
    ],
)
def test_a_send_can_go_wrong(outside: Outside, kind: str, status: int, content: bytes) -> None:
    outside.control("faults", target="whapi.send", kind=kind, match=CUSTOMER)

    broken = send(outside)

    assert (broken.status_code, content in broken.content) == (status, True)
    assert send(outside).status_code == 200


def test_a_busy_gateway_says_when_to_come_back_if_told_to(outside: Outside) -> None:
    outside.control("faults", target="whapi.send", kind="http_429", retry_after=7)
    outside.control("faults", target="whapi.send", kind="http_429", retry_after=0)

    assert send(outside).headers["retry-after"] == "7"
    assert "retry-after" not in send(outside).headers


def test_an_accepted_message_may_lose_its_answer(outside: Outside) -> None:
    outside.control("faults", target="whapi.send", kind="reset", after_accept=True)

    with pytest.raises(httpx.ReadError):
        send(outside)

    assert len(outside.told("sent", number=CHANNEL)) == 1


def test_anything_can_be_posted_with_or_without_the_secret(outside: Outside) -> None:
    batch = {"messages": [{"id": str(index)} for index in range(1000)], "channel_id": CHANNEL}

    assert outside.control("webhook", number=CHANNEL, payload=batch)["status"] == 200
    assert outside.control("webhook", number=CHANNEL, payload=batch, signature="wrong")["status"] == 401
    assert outside.control("webhook", number=CHANNEL, payload=batch, signature="missing")["status"] == 401
    assert len(outside.webhook.told("messages")) == 1000


def test_a_status_can_be_told_by_hand_in_any_order(outside: Outside) -> None:
    for status in ("read", "sent", "deleted"):
        outside.control("status", wa_message_id="X-w1", status=status, number=CHANNEL, to=CUSTOMER)

    assert [status["status"] for status in outside.webhook.told("statuses")] == ["read", "sent", "deleted"]
    failed = {"wa_message_id": "X-w1", "number": CHANNEL, "to": CUSTOMER, "status": "undelivered"}
    assert outside.http.post("/control/status", json=failed).status_code == 400
