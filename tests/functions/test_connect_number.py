"""The function connect_number: nobody gets a number that its provider does not say is theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import respx
from starlette.testclient import TestClient

from shared import logs
from shared.accounts import base, meta
from tests.functions.conftest import Lines, client, load

ENVIRON = {
    "SUPABASE_URL": "http://db.example",
    "SUPABASE_ANON_KEY": "sb_publishable_x",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
    "META_APP_ID": "777",
    "META_APP_SECRET": "app-secret-xyz, older",
    "WEBHOOK_PUBLIC_URL": "https://hooks.example/webhook/",
}
TOKEN, ACCOUNT = "EAAtoken-of-the-business", "AC" + "0" * 31 + "9"
GRAPH, WHAPI = "https://graph.facebook.com/v26.0", "https://gate.whapi.cloud"
TWILIO, SENDERS = "https://api.twilio.com", "https://messaging.twilio.com/v2/Channels/Senders"
META = {"provider": "cloud_api", "phone_number_id": "100", "waba_id": "200", "token": TOKEN}
CHANNEL = {"provider": "whapi", "token": TOKEN}
SENDER = {
    "provider": "twilio",
    "account_sid": ACCOUNT,
    "auth_token": TOKEN,
    "sender": "whatsapp:+573001112233",
}
DEBUG = {
    "app_id": "777",
    "is_valid": True,
    "issued_at": 1795000000,
    "expires_at": 1800184000,
    "scopes": ["whatsapp_business_management", "whatsapp_business_messaging"],
}
NUMBER = {
    "id": "100",
    "display_phone_number": "+57 300 111-2233",
    "verified_name": "Clínica",
    "quality_rating": "GREEN",
    "whatsapp_business_manager_messaging_limit": "TIER_2K",
    "is_on_biz_app": False,
}
HEALTH = {
    "channel_id": "MANTIS-1",
    "status": {"code": 4, "text": "AUTH"},
    "user": {"id": "573001112233", "name": "Tienda"},
}
ROLES = {"role": "admin", "id": "user-1"}


def ok(body: Any) -> httpx.Response:
    return httpx.Response(200, json=body)


class World:
    """A database and three providers that agree, until a test says otherwise."""

    def __init__(self, router: respx.Router) -> None:
        rpc = "http://db.example/rest/v1/rpc/"
        self.me = router.post(f"{rpc}me").mock(return_value=ok({"user": ROLES}))
        made = {"number_id": "n-1", "needs_sync": False, "webhook_secret": None}
        self.connect = router.post(f"{rpc}channel_connect").mock(return_value=ok(made))
        self.settle = router.post(f"{rpc}channel_setup_settle").mock(return_value=httpx.Response(204))
        self.debug = router.get(f"{GRAPH}/debug_token").mock(return_value=ok({"data": DEBUG}))
        self.code = router.get(f"{GRAPH}/oauth/access_token").mock(return_value=ok({"access_token": TOKEN}))
        self.number = router.get(f"{GRAPH}/100").mock(return_value=ok(NUMBER))
        self.of_waba = router.get(f"{GRAPH}/200/phone_numbers").mock(
            return_value=ok({"data": [{"id": "100"}]})
        )
        done = ok({"success": True})
        self.subscribe = router.post(f"{GRAPH}/200/subscribed_apps").mock(return_value=done)
        self.register = router.post(f"{GRAPH}/100/register").mock(return_value=done)
        self.sync = router.post(f"{GRAPH}/100/smb_app_data").mock(return_value=ok({"request_id": "r"}))
        self.health = router.get(f"{WHAPI}/health").mock(return_value=ok(HEALTH))
        self.settings = router.get(f"{WHAPI}/settings").mock(return_value=ok({"webhooks": []}))
        self.webhook = router.patch(f"{WHAPI}/settings").mock(return_value=ok({}))
        self.account = router.get(f"{TWILIO}/2010-04-01/Accounts/{ACCOUNT}.json").mock(
            return_value=ok({"status": "active"})
        )
        sender = {"sid": "XE" + "0" * 32, "status": "ONLINE", "sender_id": "whatsapp:+573001112233"}
        self.senders = router.get(SENDERS).mock(return_value=ok({"senders": [sender]}))
        self.callback = router.post(f"{SENDERS}/{sender['sid']}").mock(return_value=ok(sender))

    def stored(self) -> Any:
        return json.loads(self.connect.calls.last.request.content)

    def told(self) -> Any:
        return json.loads(self.settle.calls.last.request.content)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(base, "PAUSES", (0.0, 0.0))
    with respx.mock(assert_all_called=False) as router:
        yield World(router)


@pytest.fixture(scope="module")
def served() -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRON.items():
            patch.setenv(name, value)
        with client(load("connect_number").main) as made:
            yield made


@pytest.fixture
def function(served: TestClient, world: World) -> TestClient:
    logs.configure("connect-number")
    return served


def post(function: TestClient, wanted: Any, **headers: str) -> httpx.Response:
    return function.post("/", json=wanted, headers={"authorization": "Bearer the.users.jwt", **headers})


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_number_of_meta_is_proven_taken_and_set_up(function: TestClient, world: World) -> None:
    answer = post(function, META)

    assert answer.status_code == 200
    assert answer.json()["webhook_url"] == "https://hooks.example/webhook/cloud-api"
    assert answer.json()["problem"] is None
    stored = world.stored()
    assert (stored["p_admin_id"], stored["p_token"]) == ("user-1", TOKEN)
    assert stored["p_expires_at"] == "2027-01-17T11:06:40+00:00"
    assert stored["p_number"] == {
        "provider": "cloud_api",
        "provider_number_id": "100",
        "phone_number": "573001112233",
        "display_name": "Clínica",
        "quality_rating": "GREEN",
        "messaging_limit": 2000,
        "is_coexistence": False,
        "waba_id": "200",
    }
    assert world.subscribe.called
    assert not world.register.called
    assert world.told()["p_webhook_url"] == "https://hooks.example/webhook/cloud-api"


def test_the_caller_is_who_postgrest_says_in_their_own_name(function: TestClient, world: World) -> None:
    post(function, META)

    request = world.me.calls.last.request
    assert request.headers["authorization"] == "Bearer the.users.jwt"
    assert request.headers["apikey"] == "sb_publishable_x"


def test_the_code_of_a_sign_up_is_exchanged_with_the_current_secret(
    function: TestClient, world: World
) -> None:
    answer = post(function, {**META, "token": None, "code": "AQcode"})

    assert answer.status_code == 200
    query = world.code.calls.last.request.url.params
    assert (query["code"], query["client_id"], query["client_secret"]) == ("AQcode", "777", "app-secret-xyz")
    assert world.stored()["p_token"] == TOKEN


@pytest.mark.parametrize(("is_on_biz_app", "registered"), [(False, True), (True, False)])
def test_a_pin_registers_a_number_that_the_app_does_not_use(
    function: TestClient, world: World, is_on_biz_app: bool, registered: bool
) -> None:
    world.number.mock(return_value=ok({**NUMBER, "is_on_biz_app": is_on_biz_app}))

    post(function, {**META, "pin": "123456"})

    assert world.register.called is registered


def test_a_coexisting_number_is_asked_for_contacts_and_history_once(
    function: TestClient, world: World
) -> None:
    world.number.mock(return_value=ok({**NUMBER, "is_on_biz_app": True}))
    world.connect.mock(return_value=ok({"number_id": "n-1", "needs_sync": True, "webhook_secret": None}))

    post(function, META)

    asked = [json.loads(call.request.content)["sync_type"] for call in world.sync.calls]
    assert asked == ["smb_app_state_sync", "history"]
    assert world.told()["p_synced"] is True


def test_a_channel_of_whapi_delivers_to_us_beside_whoever_listened_before(
    function: TestClient, world: World
) -> None:
    url = "https://hooks.example/webhook/whapi/n-1"
    world.connect.mock(return_value=ok({"number_id": "n-1", "needs_sync": False, "webhook_secret": "s3"}))
    world.settings.mock(return_value=ok({"webhooks": [{"url": "https://else.example"}, {"url": url}]}))

    answer = post(function, CHANNEL)

    assert answer.json()["webhook_url"] == url
    hooks = json.loads(world.webhook.calls.last.request.content)["webhooks"]
    assert [hook["url"] for hook in hooks] == ["https://else.example", url]
    assert (hooks[1]["mode"], hooks[1]["headers"]) == ("body", {"X-Recado-Secret": "s3"})
    assert world.stored()["p_number"]["provider_number_id"] == "MANTIS-1"
    assert world.health.calls.last.request.url.params["wakeup"] == "false"


def test_a_sender_of_twilio_is_the_accounts_own_and_delivers_to_us(
    function: TestClient, world: World
) -> None:
    answer = post(function, SENDER)

    url = "https://hooks.example/webhook/twilio/n-1"
    assert (answer.json()["webhook_url"], answer.json()["next_step"]) == (url, None)
    assert json.loads(world.callback.calls.last.request.content)["webhook"]["callback_url"] == url
    number = world.stored()["p_number"]
    assert (number["provider_number_id"], number["account_id"]) == ("whatsapp:+573001112233", ACCOUNT)


def test_where_twilio_does_not_let_us_a_person_is_told_the_address(
    function: TestClient, world: World
) -> None:
    world.callback.mock(return_value=httpx.Response(403, json={"code": 20403, "message": "Forbidden"}))

    answer = post(function, SENDER).json()

    assert "https://hooks.example/webhook/twilio/n-1" in answer["next_step"]
    assert answer["problem"] is None


# who may


@pytest.mark.parametrize("authorization", ["", "Basic abc", "Bearer ", "Bearer a b"])
def test_nobody_is_no_admin(function: TestClient, world: World, authorization: str) -> None:
    assert refused(post(function, META, authorization=authorization)) == (401, "unauthorized")
    assert not world.me.called


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (ok({"user": {"role": "user", "id": "x"}}), 403),
        (ok({"user": {"role": "agent", "id": "x"}}), 403),
        (ok(None), 403),
        (httpx.Response(401, json={"code": "PGRST303", "message": "JWT expired"}), 401),
        (httpx.Response(503, json={"code": "PGRST001"}), 503),
    ],
)
def test_only_an_admin_gets_as_far_as_a_provider(
    function: TestClient, world: World, said: httpx.Response, status: int
) -> None:
    world.me.mock(return_value=said)

    assert post(function, META).status_code == status
    assert not world.debug.called


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("PT402", 402, "The plan basic allows 1 WhatsApp number, and this would be number 2."),
        ("PT409", 409, "This number is already connected."),
        ("PT403", 403, "Only an admin of the business may connect a number."),
    ],
)
def test_what_the_database_refuses_is_said_in_its_words_and_no_provider_is_touched(
    function: TestClient, world: World, code: str, status: int, message: str
) -> None:
    world.connect.mock(return_value=httpx.Response(status, json={"code": code, "message": message}))

    answer = post(function, CHANNEL)

    assert (answer.status_code, answer.json()["message"]) == (status, message)
    assert not world.webhook.called


# whose it is


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({**DEBUG, "is_valid": False}, (400, "token_refused")),
        ({**DEBUG, "app_id": "778"}, (403, "forbidden")),
        ({**DEBUG, "scopes": ["whatsapp_business_messaging"]}, (403, "forbidden")),
        ({}, (400, "token_refused")),
    ],
)
def test_a_token_that_is_not_ours_and_valid_proves_nothing(
    function: TestClient, world: World, data: Any, code: tuple[int, str]
) -> None:
    world.debug.mock(return_value=ok({"data": data}))

    assert refused(post(function, META)) == code
    assert not world.connect.called


def test_a_number_of_another_account_is_not_proven(function: TestClient, world: World) -> None:
    world.of_waba.mock(return_value=ok({"data": [{"id": "101"}]}))

    assert refused(post(function, META)) == (400, "bad_request")
    assert not world.connect.called


@pytest.mark.parametrize("state", ["QR", "INIT", "STOP", None])
def test_a_channel_that_is_not_linked_is_nobodys(
    function: TestClient, world: World, state: str | None
) -> None:
    world.health.mock(return_value=ok({**HEALTH, "status": {"text": state}}))

    assert refused(post(function, CHANNEL)) == (409, "conflict")


@pytest.mark.parametrize(
    "senders",
    [
        [],
        [{"sid": "XE1", "status": "ONLINE", "sender_id": "whatsapp:+573009999999"}],
        [{"sid": "XE1", "status": "OFFLINE", "sender_id": "whatsapp:+573001112233"}],
    ],
)
def test_a_sender_the_account_does_not_have_online_is_not_proven(
    function: TestClient, world: World, senders: list[Any]
) -> None:
    world.senders.mock(return_value=ok({"senders": senders}))

    assert refused(post(function, SENDER)) == (400, "bad_request")


@pytest.mark.parametrize(
    "wanted",
    [
        [],
        {},
        {"provider": "telegram"},
        {**META, "phone_number_id": "../me"},
        {**META, "waba_id": "200/../../me"},
        {**META, "phone_number_id": None},
        {**META, "token": "two words"},
        {**META, "token": "x" * 2001},
        {**META, "token": None},
        {**META, "code": "AQ"},
        {**META, "pin": "12345"},
        {**CHANNEL, "token": {"a": 1}},
        {**SENDER, "account_sid": "AC1/../x"},
        {**SENDER, "sender": "whatsapp:+14155238886"},
        {**SENDER, "sender": 573001112233},
    ],
)
def test_what_cannot_be_right_reaches_no_provider(function: TestClient, world: World, wanted: Any) -> None:
    answer = post(function, wanted)

    assert refused(answer) == (400, "bad_request")
    assert answer.json()["hint"]
    assert not world.debug.called


# what providers do


def graph_error(code: int, status: int = 400) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": f"#{code} {TOKEN} is bad"}})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (190, (400, "token_refused")),
        (10, (403, "forbidden")),
        (200, (403, "forbidden")),
        (100, (400, "bad_request")),
        (4, (503, "unavailable")),
        (1, (503, "unavailable")),
        (131031, (403, "forbidden")),
        (999999, (400, "bad_request")),
    ],
)
def test_metas_refusals_say_what_to_do_and_never_the_token(
    function: TestClient, world: World, code: int, said: tuple[int, str]
) -> None:
    world.number.mock(return_value=graph_error(code))

    answer = post(function, META)

    assert refused(answer) == said
    assert TOKEN not in answer.text


def test_every_error_of_the_facts_has_its_meaning() -> None:
    documented = {0, 1, 2, 3, 4, 10, 33, 100, 190, 200, 299, 368, 613, 80007, 131000, 131005, 131016, 131031}

    assert documented <= set(meta.ERRORS)


def test_an_app_that_meta_does_not_know_is_our_trouble(function: TestClient, world: World) -> None:
    world.debug.mock(return_value=graph_error(190))

    assert refused(post(function, META)) == (502, "upstream")


@pytest.mark.parametrize("code", [100, 190])
def test_a_code_that_was_used_asks_for_another_sign_up(function: TestClient, world: World, code: int) -> None:
    world.code.mock(return_value=graph_error(code))

    answer = post(function, {**META, "token": None, "code": "AQ"})

    assert answer.json()["message"] == "Meta does not accept this code."


@pytest.mark.parametrize(
    ("wanted", "status", "said"),
    [
        (CHANNEL, 401, (400, "token_refused")),
        (CHANNEL, 402, (403, "forbidden")),
        (CHANNEL, 404, (400, "token_refused")),
        (CHANNEL, 400, (400, "bad_request")),
        (SENDER, 401, (400, "token_refused")),
        (SENDER, 404, (400, "token_refused")),
        (SENDER, 403, (403, "forbidden")),
    ],
)
def test_refusals_of_the_others_say_what_to_do(
    function: TestClient, world: World, wanted: Any, status: int, said: tuple[int, str]
) -> None:
    no = httpx.Response(status, json={"error": {"message": TOKEN}, "message": TOKEN, "code": 20003})
    world.health.mock(return_value=no)
    world.account.mock(return_value=no)

    answer = post(function, wanted)

    assert refused(answer) == said
    assert TOKEN not in answer.text


TROUBLES: list[tuple[Any, int]] = [
    (httpx.Response(500), 503),
    (httpx.Response(503, text="<html>"), 503),
    (httpx.Response(429), 503),
    (httpx.Response(200, text="<html>"), 502),
    (httpx.ConnectError("x"), 503),
    (httpx.ConnectTimeout("x"), 503),
    (httpx.ReadTimeout("x"), 504),
    (httpx.ReadError("x"), 504),
    (httpx.RemoteProtocolError("x"), 504),
]
CALLS: list[tuple[Any, Callable[[World], respx.Route]]] = [
    (META, lambda world: world.debug),
    (META, lambda world: world.number),
    (META, lambda world: world.of_waba),
    (CHANNEL, lambda world: world.health),
    (SENDER, lambda world: world.account),
    (SENDER, lambda world: world.senders),
]


@pytest.mark.parametrize(("trouble", "status"), TROUBLES)
@pytest.mark.parametrize(("wanted", "call"), CALLS)
def test_a_provider_that_is_away_is_asked_three_times_and_connects_nothing(
    function: TestClient, world: World, wanted: Any, call: Any, trouble: Any, status: int
) -> None:
    route = call(world).mock(side_effect=[trouble] * 3)

    answer = post(function, wanted)

    assert answer.status_code == status
    assert route.call_count == (1 if status == 502 else 3)
    assert not world.connect.called


@pytest.mark.parametrize(("wanted", "call"), CALLS)
def test_a_hiccup_is_not_noticed(function: TestClient, world: World, wanted: Any, call: Any) -> None:
    route = call(world)
    route.mock(side_effect=[httpx.ReadTimeout("x"), httpx.Response(500), route.return_value])

    assert post(function, wanted).status_code == 200


@pytest.mark.parametrize("call", ["register", "sync", "code"])
def test_what_counts_is_not_asked_twice(function: TestClient, world: World, call: str) -> None:
    world.connect.mock(return_value=ok({"number_id": "n-1", "needs_sync": True, "webhook_secret": None}))
    route = getattr(world, call).mock(side_effect=httpx.ReadTimeout("x"))
    wanted = {**META, "pin": "123456"} if call != "code" else {**META, "token": None, "code": "AQ"}

    post(function, wanted)

    assert route.call_count == 1


@pytest.mark.parametrize(
    ("wanted", "call"), [(META, "subscribe"), (CHANNEL, "webhook"), (SENDER, "callback")]
)
def test_a_number_that_is_not_set_up_is_connected_with_a_problem(
    function: TestClient, world: World, wanted: Any, call: str
) -> None:
    getattr(world, call).mock(return_value=httpx.Response(503))

    answer = post(function, wanted)

    assert answer.status_code == 200
    assert answer.json()["problem"]["code"] == "unavailable"
    assert world.told()["p_webhook_url"] is None
    assert world.told()["p_problem"] == "The provider cannot answer now."


@pytest.mark.parametrize("wanted", [META, CHANNEL, SENDER, {**META, "token": None, "code": TOKEN}])
@pytest.mark.parametrize("trouble", [None, graph_error(190), graph_error(100), httpx.ReadTimeout(TOKEN)])
def test_no_secret_is_in_a_log_or_an_answer(
    function: TestClient, world: World, lines: Lines, wanted: Any, trouble: Any
) -> None:
    for route in (world.debug, world.code, world.health, world.account):
        if trouble is not None:
            route.mock(side_effect=[trouble] * 3)

    answer = post(function, wanted)

    said = answer.text + json.dumps(lines())
    assert not [
        secret for secret in (TOKEN, "app-secret-xyz", "the.users.jwt", "sb_secret_x") if secret in said
    ]


# browsers


def test_a_page_of_any_origin_may_ask(function: TestClient) -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    preflight = function.options("/", headers=asked)

    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "authorization" in preflight.headers["access-control-allow-headers"]


def test_a_page_reads_refusals_too(function: TestClient) -> None:
    assert function.post("/", content=b"{").headers["access-control-allow-origin"] == "*"


def test_an_answer_is_not_kept(function: TestClient) -> None:
    assert post(function, META).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("tier", "customers"),
    [
        ("TIER_50", 50),
        ("TIER_2K", 2000),
        ("TIER_100K", 100_000),
        ("TIER_UNLIMITED", None),
        (None, None),
        (0, None),
    ],
)
def test_a_tier_is_a_number_of_customers(tier: Any, customers: int | None) -> None:
    assert meta.limit(tier) == customers
