"""The auth server, asked over HTTP through the gateway: who gets a session, and how long it lasts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bcrypt
import httpx
import jwt
import psycopg
import pytest

from local import passwords
from tests.local.conftest import JWT_SECRET, PUBLISHABLE, SECRET, Stack

Json = dict[str, Any]
PASSWORD = "recado-demo"


class Person:
    """Somebody with an e-mail address of their own, talking to the auth server."""

    def __init__(self, stack: Stack) -> None:
        self.email = f"{uuid.uuid4().hex[:12]}@people.example"
        self.http = httpx.Client(base_url=f"{stack.url}/auth/v1", headers={"apikey": PUBLISHABLE}, timeout=20)
        self.session: Json = {}

    def call(
        self, method: str, path: str, body: Json | None = None, token: str | None = None
    ) -> httpx.Response:
        token = token or self.session.get("access_token")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.http.request(method, path, json=body, headers=headers)

    def sign_up(self, **data: Any) -> httpx.Response:
        answer = self.call("POST", "/signup", {"email": self.email, "password": PASSWORD, "data": data})
        self.session = answer.json()
        return answer

    def sign_in(self, password: str = PASSWORD) -> httpx.Response:
        return self.call("POST", "/token?grant_type=password", {"email": self.email, "password": password})

    def refresh(self, token: str) -> httpx.Response:
        return self.call("POST", "/token?grant_type=refresh_token", {"refresh_token": token})


@pytest.fixture
def person(stack: Stack) -> Iterator[Person]:
    """Signed up and in."""
    somebody = Person(stack)
    assert somebody.sign_up(name="Ana").status_code == 200
    yield somebody
    somebody.http.close()


@pytest.fixture
def nobody(stack: Stack) -> Iterator[Person]:
    """Not signed up yet."""
    somebody = Person(stack)
    yield somebody
    somebody.http.close()


@pytest.fixture
def admin(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"{stack.url}/auth/v1/admin", headers={"apikey": SECRET}, timeout=20
    ) as client:
        yield client


def error(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal in the older shape, which clients get that name no API version."""
    body = answer.json()
    assert body["code"] == answer.status_code
    assert body["msg"]
    assert answer.headers["x-sb-error-code"] == body["error_code"]
    return answer.status_code, body["error_code"]


# signing up


def test_a_sign_up_is_confirmed_and_signed_in_at_once(nobody: Person) -> None:
    session = nobody.sign_up(name="Ana", business_name="Café").json()

    assert (session["token_type"], session["expires_in"]) == ("bearer", 3600)
    assert session["user"]["email_confirmed_at"]
    assert session["user"]["app_metadata"] == {"provider": "email", "providers": ["email"]}
    assert session["user"]["user_metadata"] == {
        "sub": session["user"]["id"],
        "email": nobody.email,
        "email_verified": True,
        "phone_verified": False,
        "name": "Ana",
        "business_name": "Café",
    }
    assert session["user"]["identities"][0]["identity_data"]["email"] == nobody.email


def test_an_access_token_carries_the_hosted_claims(stack: Stack, person: Person) -> None:
    token = person.session["access_token"]
    claims = jwt.decode(token, JWT_SECRET, ["HS256"], audience="authenticated", issuer=f"{stack.url}/auth/v1")

    assert claims["exp"] - claims["iat"] == 3600
    assert claims["sub"] == person.session["user"]["id"]
    assert (claims["role"], claims["aal"], claims["email"], claims["phone"]) == (
        "authenticated",
        "aal1",
        person.email,
        "",
    )
    assert claims["is_anonymous"] is False
    assert claims["amr"][0]["method"] == "password"
    assert claims.keys() >= {"session_id", "app_metadata", "user_metadata"}


def test_an_address_signs_up_once_whatever_its_case(person: Person) -> None:
    again = {"email": f" {person.email.upper()}", "password": PASSWORD}

    assert error(person.call("POST", "/signup", again)) == (422, "user_already_exists")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"email": "x@y.example", "password": "12345"}, 422, "weak_password"),
        ({"email": "x@y.example", "password": "x" * 73}, 400, "validation_failed"),
        ({"email": "x@y.example", "password": ""}, 400, "validation_failed"),
        ({"email": "x@y.example", "password": 123456}, 400, "validation_failed"),
        ({"email": "x@y.example", "password": PASSWORD, "data": []}, 400, "validation_failed"),
        ({"email": "x@y.example", "password": PASSWORD, "data": {"a": "\0"}}, 400, "validation_failed"),
        ({"email": "no address", "password": PASSWORD}, 400, "validation_failed"),
        ({"password": PASSWORD}, 400, "validation_failed"),
        ({"phone": "573001234567", "password": PASSWORD}, 400, "validation_failed"),
    ],
)
def test_a_sign_up_that_cannot_be_is_refused(nobody: Person, body: Json, status: int, code: str) -> None:
    assert error(nobody.call("POST", "/signup", body)) == (status, code)


def test_half_a_character_is_refused(nobody: Person) -> None:
    content = rb'{"email": "x@y.example", "password": "secret\ud800"}'

    assert error(nobody.http.post("/signup", content=content)) == (400, "validation_failed")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(nobody: Person, content: bytes) -> None:
    assert error(nobody.http.post("/signup", content=content)) == (400, "bad_json")


def test_a_body_over_a_megabyte_is_refused(nobody: Person) -> None:
    assert error(nobody.http.post("/signup", content=b"x" * 1_100_000)) == (413, "request_too_large")


def test_a_trigger_that_refuses_a_sign_up_is_heard(stack: Stack, nobody: Person) -> None:
    with psycopg.connect(stack.dsn, user="postgres", autocommit=True) as connection:
        connection.execute(REFUSING_TRIGGER)
        try:
            refused = nobody.call("POST", "/signup", {"email": "refuse@x.example", "password": PASSWORD})
            failed = nobody.call("POST", "/signup", {"email": "fail@x.example", "password": PASSWORD})
        finally:
            connection.execute("drop function public.refuse() cascade")

    assert (refused.status_code, refused.json()["msg"]) == (409, "Not you")
    assert (failed.status_code, failed.json()["error_code"]) == (500, "unexpected_failure")
    assert "division by zero" in failed.json()["msg"]


REFUSING_TRIGGER = """
    create function public.refuse() returns trigger language plpgsql as $$
    begin
        if new.email like 'refuse@%' then
            raise exception using errcode = 'PT409', message = 'Not you';
        elsif new.email like 'fail@%' then
            perform 1 / (length(new.email) - length(new.email));
        end if;
        return new;
    end $$;
    create trigger refuse before insert on auth.users for each row execute function public.refuse();
"""


def test_the_newer_api_version_gets_the_newer_error(nobody: Person) -> None:
    nobody.http.headers["X-Supabase-Api-Version"] = "2024-01-01"

    answer = nobody.call("POST", "/signup", {"email": nobody.email, "password": "12345"})

    assert answer.headers["x-supabase-api-version"] == "2024-01-01"
    assert answer.json() == {
        "code": "weak_password",
        "message": "Password should be at least 6 characters.",
        "weak_password": {"reasons": ["length"]},
    }


# signing in


def test_a_password_signs_in(person: Person) -> None:
    session = person.sign_in().json()

    assert session["user"]["id"] == person.session["user"]["id"]
    assert person.call("GET", "/user", token=session["access_token"]).json()["email"] == person.email


def test_a_wrong_password_and_an_unknown_address_look_the_same(person: Person, nobody: Person) -> None:
    wrong, unknown = person.sign_in("wrong-password"), nobody.sign_in()

    assert error(wrong) == error(unknown) == (400, "invalid_credentials")
    assert wrong.content == unknown.content


@pytest.mark.parametrize("stored", [None, "", "no hash"])
def test_where_there_is_no_password_the_work_of_checking_one_is_done(
    monkeypatch: pytest.MonkeyPatch, stored: str | None
) -> None:
    compared: list[bytes] = []

    def compare(_: bytes, hashed: bytes) -> bool:
        compared.append(hashed)
        return True

    monkeypatch.setattr(bcrypt, "checkpw", compare)

    assert asyncio.run(passwords.matches(PASSWORD, stored)) is False
    assert [hashed[:7] for hashed in compared] == [b"$2a$10$"]


def test_sign_ins_at_once_all_succeed(person: Person) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: person.sign_in(), range(20)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 20


def test_sign_ups_of_one_address_at_once_make_one_account(nobody: Person) -> None:
    with ThreadPoolExecutor(8) as pool:
        body = {"email": nobody.email, "password": PASSWORD}
        answers = list(pool.map(lambda _: nobody.call("POST", "/signup", body), range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] + [422] * 7


def test_other_grants_are_refused(nobody: Person) -> None:
    assert error(nobody.call("POST", "/token?grant_type=pkce", {})) == (400, "invalid_credentials")


# refreshing


def test_a_refresh_token_brings_a_new_pair(person: Person) -> None:
    renewed = person.refresh(person.session["refresh_token"]).json()
    again = person.refresh(renewed["refresh_token"]).json()

    assert len({person.session["refresh_token"], renewed["refresh_token"], again["refresh_token"]}) == 3
    assert person.call("GET", "/user", token=again["access_token"]).status_code == 200


def test_a_refresh_that_comes_twice_at_once_gets_one_successor(person: Person) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(person.refresh, [person.session["refresh_token"]] * 8))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1


def test_a_refresh_token_used_again_later_ends_its_family(stack: Stack, person: Person) -> None:
    first = person.session["refresh_token"]
    second = person.refresh(first).json()["refresh_token"]
    third = person.refresh(second).json()["refresh_token"]
    with psycopg.connect(stack.dsn, user="postgres") as connection:
        connection.execute(
            "update auth.refresh_tokens set updated_at = now() - interval '11 s' where revoked"
        )

    assert error(person.refresh(first)) == (400, "refresh_token_already_used")
    assert error(person.refresh(third)) == (400, "refresh_token_already_used")


def test_the_answer_that_was_lost_can_be_had_again(stack: Stack, person: Person) -> None:
    lost = person.refresh(person.session["refresh_token"]).json()
    with psycopg.connect(stack.dsn, user="postgres") as connection:
        connection.execute(
            "update auth.refresh_tokens set updated_at = now() - interval '1 hour' where revoked"
        )

    assert person.refresh(person.session["refresh_token"]).json()["refresh_token"] == lost["refresh_token"]


@pytest.mark.parametrize(
    ("token", "code"), [("unknown", "refresh_token_not_found"), ("", "validation_failed")]
)
def test_a_refresh_token_that_is_not_ours_is_refused(nobody: Person, token: str, code: str) -> None:
    assert error(nobody.refresh(token)) == (400, code)


# the person's own account


def test_people_change_their_metadata_key_by_key(person: Person) -> None:
    person.call("PUT", "/user", {"data": {"language": "es", "name": "Ana María"}})
    changed = person.call("PUT", "/user", {"data": {"name": None}}).json()["user_metadata"]

    assert "name" not in changed
    assert changed["language"] == "es"


def test_a_new_password_ends_the_other_sessions(person: Person) -> None:
    other = person.sign_in().json()

    assert person.call("PUT", "/user", {"password": "another-one"}).status_code == 200
    assert person.call("GET", "/user").status_code == 200
    assert error(person.call("GET", "/user", token=other["access_token"])) == (403, "session_not_found")
    assert error(person.sign_in()) == (400, "invalid_credentials")
    assert person.sign_in("another-one").status_code == 200


def test_a_new_address_is_the_one_to_sign_in_with(person: Person) -> None:
    person.email = f"new-{person.email}"

    assert person.call("PUT", "/user", {"email": person.email}).json()["email"] == person.email
    assert person.sign_in().json()["user"]["identities"][0]["email"] == person.email


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"password": PASSWORD}, 422, "same_password"),
        ({"password": "12345"}, 422, "weak_password"),
        ({"email": "nonsense"}, 400, "validation_failed"),
        ({"app_metadata": {"role": "admin"}}, 403, "not_admin"),
    ],
)
def test_a_change_that_cannot_be_is_refused(person: Person, body: Json, status: int, code: str) -> None:
    assert error(person.call("PUT", "/user", body)) == (status, code)


def test_nobody_takes_anothers_address(person: Person, nobody: Person) -> None:
    nobody.sign_up()

    assert error(nobody.call("PUT", "/user", {"email": person.email})) == (422, "email_exists")


@pytest.mark.parametrize(
    ("scope", "this", "other"), [("global", 403, 403), ("local", 403, 200), ("others", 200, 403)]
)
def test_signing_out_ends_the_sessions_it_says(person: Person, scope: str, this: int, other: int) -> None:
    others = person.sign_in().json()

    assert person.call("POST", f"/logout?scope={scope}").status_code == 204
    assert person.call("GET", "/user").status_code == this
    assert person.call("GET", "/user", token=others["access_token"]).status_code == other
    assert person.refresh(others["refresh_token"]).status_code == (200 if other == 200 else 400)


def test_an_api_key_is_no_person(nobody: Person, admin: httpx.Client) -> None:
    assert error(nobody.call("GET", "/user")) == (403, "bad_jwt")
    assert error(nobody.call("POST", "/logout")) == (403, "bad_jwt")


# administration


def test_only_the_secret_key_administers(person: Person, nobody: Person) -> None:
    assert error(nobody.call("GET", "/admin/users")) == (403, "not_admin")
    assert error(person.call("GET", "/admin/users")) == (403, "not_admin")


def test_an_admin_makes_an_account_that_can_sign_in(admin: httpx.Client, nobody: Person) -> None:
    body = {
        "email": nobody.email,
        "password": PASSWORD,
        "email_confirm": True,
        "app_metadata": {"plan": "pro"},
    }

    made = admin.post(
        "/users", json=body | {"id": (chosen := str(uuid.uuid4())), "user_metadata": {"a": 1}}
    ).json()

    assert made["id"] == chosen
    assert made["app_metadata"] == {"plan": "pro", "provider": "email", "providers": ["email"]}
    assert made["user_metadata"] == {"a": 1, "email_verified": True}
    assert nobody.sign_in().json()["user"]["id"] == chosen
    assert error(admin.post("/users", json=body)) == (422, "email_exists")


def test_an_account_needs_a_confirmed_address_to_sign_in(admin: httpx.Client, nobody: Person) -> None:
    made = admin.post("/users", json={"email": nobody.email, "password": PASSWORD}).json()
    assert error(nobody.sign_in()) == (400, "email_not_confirmed")

    admin.put(f"/users/{made['id']}", json={"email_confirm": True})

    assert nobody.sign_in().status_code == 200


@pytest.mark.parametrize("prefix", ["2a", "2b", "2y"])
def test_an_account_may_bring_its_bcrypt_hash(admin: httpx.Client, nobody: Person, prefix: str) -> None:
    hashed = f"${prefix}$04$4nUl9Pd4Z4NUwRXmlyZXtuWVpBTOqvbRiJAezUVl1RTQI41cNv0Yi"
    made = admin.post("/users", json={"email": nobody.email, "password_hash": hashed, "email_confirm": True})

    assert made.status_code == 200
    assert error(nobody.sign_in("not it")) == (400, "invalid_credentials")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "x@y.example", "password_hash": "plain"},
        {"email": "x@y.example", "id": "7"},
        {"email": "x@y.example", "ban_duration": "long"},
        {"email": "x@y.example", "ban_duration": "9" * 20 + "h"},
        {"email": "x@y.example", "app_metadata": "pro"},
    ],
)
def test_an_account_that_cannot_be_is_refused(admin: httpx.Client, body: Json) -> None:
    assert error(admin.post("/users", json=body)) == (400, "validation_failed")


def test_accounts_are_listed_newest_first_by_page(admin: httpx.Client) -> None:
    newest = [f"{uuid.uuid4().hex}@people.example" for _ in range(3)]
    for email in newest:
        admin.post("/users", json={"email": email}).raise_for_status()

    pages = [admin.get("/users", params={"page": page, "per_page": 2}) for page in (1, 2)]

    listed = [user["email"] for page in pages for user in page.json()["users"]]
    assert listed[:3] == newest[::-1]
    assert int(pages[0].headers["x-total-count"]) >= 3
    assert 'page=2&per_page=2>; rel="next"' in pages[0].headers["link"]
    assert error(admin.get("/users?page=0")) == (400, "validation_failed")


def test_a_banned_person_is_out_at_once(admin: httpx.Client, person: Person) -> None:
    path = f"/users/{person.session['user']['id']}"
    banned = admin.put(path, json={"ban_duration": "1h30m"}).json()

    assert banned["banned_until"]
    assert error(person.sign_in()) == (400, "user_banned")
    assert error(person.refresh(person.session["refresh_token"])) == (400, "user_banned")
    assert error(person.call("GET", "/user")) == (403, "user_banned")
    admin.put(path, json={"ban_duration": "none"})
    assert person.call("GET", "/user").status_code == 200


def test_a_deleted_person_is_out_at_once(admin: httpx.Client, person: Person) -> None:
    path = f"/users/{person.session['user']['id']}"

    assert admin.get(path).json()["email"] == person.email
    assert admin.request("DELETE", path, json={"should_soft_delete": False}).json() == {}

    assert error(person.call("GET", "/user")) == (403, "user_not_found")
    assert error(person.refresh(person.session["refresh_token"])) == (400, "refresh_token_not_found")
    assert error(admin.get(path)) == error(admin.delete(path)) == (404, "user_not_found")


def test_a_soft_deletion_is_refused_rather_than_made_hard(admin: httpx.Client, person: Person) -> None:
    path = f"/users/{person.session['user']['id']}"

    assert error(admin.request("DELETE", path, json={"should_soft_delete": True})) == (
        400,
        "validation_failed",
    )
    assert admin.get(path).status_code == 200


# the server


def test_what_is_not_part_of_the_platform_says_so(nobody: Person) -> None:
    assert error(nobody.call("POST", "/otp", {})) == (404, "not_found")
    assert error(nobody.call("DELETE", "/user")) == (405, "not_found")


def test_settings_and_keys_are_published(nobody: Person) -> None:
    assert nobody.call("GET", "/settings").json()["mailer_autoconfirm"] is True
    assert nobody.call("GET", "/.well-known/jwks.json").json() == {"keys": []}
