"""The Graph simulator about accounts: tokens begin and end, and open what is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.local.outside import APP_ID, APP_SECRET, NUMBER, PHONE

if TYPE_CHECKING:
    from tests.local.outside import Outside

pytest_plugins = ("tests.local.outside_fixtures",)

DEMO = f"demo-token-{NUMBER}"
APP = {"client_id": APP_ID, "client_secret": APP_SECRET}
V = "/graph/v26.0"


@pytest.fixture(autouse=True)
def number(outside: Outside) -> None:
    told = {"number": NUMBER, "phone": PHONE, "account": "200", "name": "Clínica"}
    assert outside.http.post("/control/numbers", json=told).status_code == 200


def get(outside: Outside, path: str, token: str = "", **query: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return outside.http.get(f"{V}/{path}", params=query, headers=headers)


def post(outside: Outside, path: str, body: Any, token: str = DEMO) -> httpx.Response:
    return outside.http.post(f"{V}/{path}", json=body, headers={"authorization": f"Bearer {token}"})


def issue(outside: Outside, **more: Any) -> str:
    code = outside.http.post("/control/codes", json={"number": NUMBER, **more}).json()["code"]
    return str(get(outside, "oauth/access_token", **APP, code=code).json()["access_token"])


def state(outside: Outside, token: str) -> Any:
    return get(outside, "debug_token", input_token=token, access_token=f"{APP_ID}|{APP_SECRET}").json()[
        "data"
    ]


def test_a_code_is_exchanged_once_for_a_token_of_sixty_days(outside: Outside) -> None:
    code = outside.http.post("/control/codes", json={"number": NUMBER}).json()["code"]

    first, second = (get(outside, "oauth/access_token", **APP, code=code) for _ in range(2))

    assert first.json()["expires_in"] == 60 * 86400
    assert (second.status_code, second.json()["error"]["error_subcode"]) == (400, 36007)


def test_a_wrong_app_gets_nothing(outside: Outside) -> None:
    wrong = {**APP, "client_secret": "other"}

    assert get(outside, "oauth/access_token", **wrong, grant_type="client_credentials").status_code == 400
    assert get(outside, "debug_token", input_token=DEMO, access_token="x").json()["error"]["code"] == 190


def test_a_token_ends_with_its_time_and_an_endless_one_does_not(outside: Outside) -> None:
    short = issue(outside, token_expires_in=0)

    assert (state(outside, short)["is_valid"], get(outside, NUMBER, short).status_code) == (False, 401)
    assert (state(outside, DEMO)["is_valid"], state(outside, DEMO)["expires_at"]) == (True, 0)


def test_a_refreshed_token_works_beside_the_old_one_until_that_is_revoked(outside: Outside) -> None:
    old = issue(outside)
    query = {"grant_type": "fb_exchange_token", "set_token_expires_in_60_days": "true"}

    new = get(outside, "oauth/access_token", **APP, **query, fb_exchange_token=old).json()["access_token"]
    before = [state(outside, token)["is_valid"] for token in (old, new)]
    assert get(outside, "oauth/revoke", **APP, revoke_token=old, access_token=new).json() == {"success": True}

    assert before == [True, True]
    assert [state(outside, token)["is_valid"] for token in (old, new)] == [False, True]


def test_an_ended_token_cannot_be_refreshed(outside: Outside) -> None:
    query = {"grant_type": "fb_exchange_token", "fb_exchange_token": issue(outside, token_expires_in=0)}

    assert get(outside, "oauth/access_token", **APP, **query).json()["error"]["code"] == 190


def test_a_token_opens_its_number_and_account_alone(outside: Outside) -> None:
    token = issue(outside)

    shown = get(outside, NUMBER, token, fields="display_phone_number,quality_rating").json()
    assert shown.keys() == {"id", "display_phone_number", "quality_rating"}
    assert [one["id"] for one in get(outside, "200/phone_numbers", token).json()["data"]] == [NUMBER]
    assert get(outside, "100000000000009", token).json()["error"]["error_subcode"] == 33
    assert get(outside, "201/phone_numbers", token).status_code == 400


def test_an_app_is_subscribed_until_it_is_not(outside: Outside) -> None:
    post(outside, "200/subscribed_apps", {})
    (app,) = get(outside, "200/subscribed_apps", DEMO).json()["data"]
    outside.http.delete(f"{V}/200/subscribed_apps", headers={"authorization": f"Bearer {DEMO}"})

    assert app["whatsapp_business_api_data"]["id"] == APP_ID
    assert get(outside, "200/subscribed_apps", DEMO).json()["data"] == []


def test_another_pin_is_refused(outside: Outside) -> None:
    def register(pin: str) -> httpx.Response:
        return post(outside, f"{NUMBER}/register", {"messaging_product": "whatsapp", "pin": pin})

    assert register("123456").json() == {"success": True}
    assert register("654321").json()["error"]["code"] == 133005
    assert register("12").json()["error"]["code"] == 100


def test_the_business_app_is_asked_for_each_thing_once(outside: Outside) -> None:
    def sync() -> httpx.Response:
        return post(
            outside, f"{NUMBER}/smb_app_data", {"messaging_product": "whatsapp", "sync_type": "history"}
        )

    before = sync().status_code
    outside.http.post("/control/phones", json={"number": NUMBER, "is_on_biz_app": True})

    assert [before, sync().status_code, sync().status_code] == [400, 200, 400]


@pytest.mark.parametrize(("kind", "status"), [("code:190", 401), ("http_500", 500)])
def test_a_bad_day_can_be_ordered(outside: Outside, kind: str, status: int) -> None:
    outside.http.post("/control/faults", json={"target": "graph.accounts", "kind": kind})

    assert [get(outside, NUMBER, DEMO).status_code for _ in range(2)] == [status, 200]
