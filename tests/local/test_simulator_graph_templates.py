"""The simulator's templates: listed in pages, changed with a webhook, and strict about what fills them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.local.outside import CUSTOMER, NUMBER

if TYPE_CHECKING:
    from tests.local.outside import Outside

pytest_plugins = ("tests.local.outside_fixtures",)

ACCOUNT = "200000000000001"
WHOLE = [
    {"type": "HEADER", "format": "IMAGE"},
    {"type": "BODY", "text": "Hola {{1}}, a las {{2}}"},
    {
        "type": "BUTTONS",
        "buttons": [{"type": "URL", "url": "https://c.example/{{1}}"}, {"type": "QUICK_REPLY", "text": "Sí"}],
    },
]
IMAGE = {
    "type": "header",
    "parameters": [{"type": "image", "image": {"link": "https://cdn.example/a.jpg"}}],
}
BUTTON = {"type": "button", "sub_type": "url", "index": "0", "parameters": [{"type": "text", "text": "42"}]}


def body(*texts: str, **more: str) -> dict[str, Any]:
    return {"type": "body", "parameters": [{"type": "text", "text": text, **more} for text in texts]}


def ask(
    outside: Outside, method: str = "GET", token: str = f"demo-token-{NUMBER}", **more: Any
) -> httpx.Response:
    return outside.http.request(
        method,
        f"/graph/v26.0/{ACCOUNT}/message_templates",
        headers={"authorization": f"Bearer {token}"},
        **more,
    )


def change(outside: Outside, **fields: Any) -> Any:
    return outside.control("templates", account=ACCOUNT, **{"name": "cita", **fields})


def send(outside: Outside, *components: dict[str, Any], name: str = "cita") -> httpx.Response:
    template = {"name": name, "language": {"code": "es"}, "components": list(components)}
    return outside.http.post(
        f"/graph/v26.0/{NUMBER}/messages",
        json={"messaging_product": "whatsapp", "to": CUSTOMER, "type": "template", "template": template},
        headers={"authorization": f"Bearer demo-token-{NUMBER}"},
    )


def code_of(response: httpx.Response) -> int:
    return int(response.json()["error"]["code"])


def test_templates_are_listed_page_by_page(outside: Outside) -> None:
    for number in range(3):
        change(outside, name=f"promo_{number}", webhook=False)

    first = ask(outside, params={"limit": 3, "fields": "name,status"}).json()
    second = ask(outside, params={"limit": 3, "after": first["paging"]["cursors"]["after"]}).json()

    assert [one["name"] for one in first["data"]] == [
        "hello_world",
        "recordatorio_cita",
        first["data"][2]["name"],
    ]
    assert set(first["data"][0]) == {"id", "name", "status"}
    assert "next" in first["paging"]
    assert len(second["data"]) == 2
    assert "next" not in second["paging"]


def test_the_list_is_for_who_has_a_token_of_the_account(outside: Outside) -> None:
    strangers = [ask(outside, token=token) for token in ("x", "EAAG-x", "demo-token-300000000000009")]

    assert [code_of(answer) for answer in strangers] == [190, 190, 200]
    assert ask(outside, token=f"demo-token-{ACCOUNT}").status_code == 200


def test_a_template_is_made_pending_and_once(outside: Outside) -> None:
    made = {
        "name": "nueva",
        "language": "es",
        "category": "UTILITY",
        "components": [{"type": "BODY", "text": "Hola {{1}}", "example": {"body_text": [["Ana"]]}}],
    }

    answers = [ask(outside, "POST", json=made) for _ in range(2)]
    gone = ask(outside, "DELETE", params={"name": "nueva"})

    assert answers[0].json()["status"] == "PENDING"
    assert code_of(answers[1]) == 100
    assert gone.json() == {"success": True}
    assert "nueva" not in [one["name"] for one in ask(outside).json()["data"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Nueva"},
        {"language": "español"},
        {"category": "PROMO"},
        {"components": []},
        {"components": [{"type": "BODY", "text": "Hola {{1}}"}]},
    ],
)
def test_a_template_meta_would_not_take_is_refused(outside: Outside, changes: dict[str, Any]) -> None:
    good = {
        "name": "nueva",
        "language": "es",
        "category": "UTILITY",
        "components": [{"type": "BODY", "text": "Hola"}],
    }

    assert code_of(ask(outside, "POST", json={**good, **changes})) == 100


def test_what_becomes_of_a_template_is_told_by_webhook(outside: Outside) -> None:
    change(outside)
    told = change(outside, status="PAUSED", reason="FIRST_PAUSE", quality="RED", category="MARKETING")

    fields = [item["field"] for posted in outside.webhook.bodies for item in posted["entry"][0]["changes"]]
    assert told["webhooks"] == [200, 200, 200]
    assert fields == [
        "message_template_status_update",
        "message_template_status_update",
        "message_template_quality_update",
        "template_category_update",
    ]
    paused = outside.webhook.bodies[1]["entry"][0]["changes"][0]["value"]
    assert (paused["event"], paused["reason"], paused["message_template_name"]) == (
        "PAUSED",
        "FIRST_PAUSE",
        "cita",
    )


def test_a_template_that_is_filled_in_well_is_accepted(outside: Outside) -> None:
    change(outside, components=WHOLE, webhook=False)

    assert send(outside, IMAGE, body("Ana", "10:00"), BUTTON).status_code == 200


@pytest.mark.parametrize(
    ("components", "code"),
    [
        ([IMAGE, body("Ana"), BUTTON], 132000),
        ([IMAGE, body("Ana", "10", "x"), BUTTON], 132000),
        ([body("Ana", "10"), BUTTON], 132012),
        (
            [{**IMAGE, "parameters": [{"type": "video", "video": {"id": "1"}}]}, body("a", "b"), BUTTON],
            132012,
        ),
        ([IMAGE, body("Ana", "10")], 131008),
        ([IMAGE, body("Ana", "10"), BUTTON, {**BUTTON, "index": "7"}], 132012),
        ([IMAGE, body("Ana", "10"), BUTTON, {**BUTTON, "index": "1"}], 132012),
        ([IMAGE, body("Ana", "a\nb"), BUTTON], 132007),
        ([IMAGE, body("Ana", "x" * 1024), BUTTON], 132005),
        ([IMAGE, body("Ana", ""), BUTTON], 131008),
    ],
)
def test_a_template_that_is_filled_in_badly_is_refused(
    outside: Outside, components: list[dict[str, Any]], code: int
) -> None:
    change(outside, components=WHOLE, webhook=False)

    assert code_of(send(outside, *components)) == code


def test_named_blanks_need_their_names(outside: Outside) -> None:
    change(
        outside,
        components=[{"type": "BODY", "text": "Hola {{name}}"}],
        parameter_format="NAMED",
        webhook=False,
    )

    assert send(outside, body("Ana", parameter_name="name")).status_code == 200
    assert code_of(send(outside, body("Ana"))) == 132012


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("PENDING", 132001),
        ("REJECTED", 132001),
        ("DELETED", 132001),
        ("PAUSED", 132015),
        ("DISABLED", 132016),
    ],
)
def test_a_template_that_is_not_approved_is_refused(outside: Outside, status: str, code: int) -> None:
    change(outside, status=status, webhook=False)

    assert code_of(send(outside)) == code
    assert code_of(send(outside, name="nobody_knows_it")) == 132001


@pytest.mark.parametrize(("kind", "status"), [("http_500", 500), ("code:80007", 400)])
def test_the_list_has_bad_days_too(outside: Outside, kind: str, status: int) -> None:
    outside.control("faults", target="graph.read", kind=kind, match="message_templates")

    assert ask(outside).status_code == status
    assert ask(outside).status_code == 200
