"""The real clients, unmodified, against the platform: supabase-py here, supabase-js in its own test file."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from postgrest import APIResponse, CountMethod
from postgrest.exceptions import APIError
from supabase import Client, ClientOptions, create_client
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError

from tests.local.conftest import PUBLISHABLE, SECRET, Stack

PASSWORD = "recado-demo"
ROOT = Path(__file__).parents[2]


@dataclass
class Clients:
    """Makes clients that share one HTTP client, closed at the end."""

    url: str
    http: httpx.Client

    def with_key(self, key: str) -> Client:
        options = ClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=self.http)
        return create_client(self.url, key, options)

    def signed_up(self) -> tuple[Client, str]:
        client, email = self.with_key(PUBLISHABLE), f"py-{uuid.uuid4()}@people.example"
        client.auth.sign_up({"email": email, "password": PASSWORD, "options": {"data": {"name": "Ana"}}})
        return client, email


def only_row(response: APIResponse) -> dict[str, Any]:
    (row,) = response.data
    return cast(dict[str, Any], row)


@pytest.fixture
def clients(stack: Stack) -> Iterator[Clients]:
    with httpx.Client(timeout=20) as http:
        yield Clients(stack.url, http)


def test_a_person_signs_up_in_and_out(clients: Clients) -> None:
    client, email = clients.signed_up()
    client.auth.sign_out()

    signed_in = client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
    assert signed_in.session
    client.auth.sign_out()

    with pytest.raises(AuthApiError) as refused:
        client.auth.get_user(signed_in.session.access_token)
    assert refused.value.code == "session_not_found"


def test_a_session_is_refreshed_and_its_person_changed(clients: Clients) -> None:
    client, email = clients.signed_up()

    refreshed = client.auth.refresh_session()
    changed = client.auth.update_user({"data": {"language": "es"}})

    assert refreshed.user is not None
    assert refreshed.user.email == changed.user.email == email
    assert changed.user.user_metadata["language"] == "es"
    assert client.auth.get_claims()


def test_rows_are_the_persons_own(clients: Clients) -> None:
    (ana, _), (eva, _) = clients.signed_up(), clients.signed_up()

    note = only_row(ana.table("notes").insert({"body": "mine"}).execute())
    ana.table("notes").update({"body": "still mine"}).eq("id", note["id"]).execute()

    assert ana.table("notes").select("*", count=CountMethod.exact).execute().count == 1
    assert eva.table("notes").select("*").execute().data == []
    with pytest.raises(APIError) as refused:
        eva.table("notes").insert({"body": "x", "owner": note["owner"]}).execute()
    assert refused.value.code == "42501"
    assert only_row(ana.table("notes").delete().eq("id", note["id"]).execute())["body"] == "still mine"


def test_the_secret_key_sees_everything_and_administers_people(clients: Clients) -> None:
    ana, _ = clients.signed_up()
    ana.table("notes").insert({"body": "hers"}).execute()
    service, email = clients.with_key(SECRET), f"py-{uuid.uuid4()}@people.example"

    made = service.auth.admin.create_user({"email": email, "password": PASSWORD, "email_confirm": True}).user

    assert service.table("notes").select("*").eq("body", "hers").execute().data
    assert service.auth.admin.list_users(page=1, per_page=1)[0].id == made.id
    assert service.auth.admin.get_user_by_id(made.id).user.email == email
    service.auth.admin.delete_user(made.id)
    with pytest.raises(AuthApiError, match="Invalid login credentials"):
        clients.with_key(PUBLISHABLE).auth.sign_in_with_password({"email": email, "password": PASSWORD})


def test_refusals_arrive_as_the_errors_the_client_documents(clients: Clients) -> None:
    _, email = clients.signed_up()
    anon = clients.with_key(PUBLISHABLE)

    with pytest.raises(AuthApiError) as again:
        anon.auth.sign_up({"email": email, "password": PASSWORD})
    with pytest.raises(AuthWeakPasswordError) as weak:
        anon.auth.sign_up({"email": f"py-{uuid.uuid4()}@people.example", "password": "1"})
    with pytest.raises(AuthApiError) as no_admin:
        anon.auth.admin.list_users()
    with pytest.raises(APIError) as no_key:
        clients.with_key("sb_publishable_of_another_project").table("notes").select("*").execute()

    assert (again.value.code, no_admin.value.code) == ("user_already_exists", "not_admin")
    assert weak.value.reasons == ["length"]
    assert no_key.value.message == "Invalid API key"


@pytest.mark.skipif(
    not shutil.which("node") or not (ROOT / "supabase/node_modules/@supabase/supabase-js").exists(),
    reason="needs node and the npm packages: make setup",
)
def test_supabase_js(stack: Stack) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "SUPABASE_URL": stack.url,
        "SUPABASE_ANON_KEY": PUBLISHABLE,
        "SUPABASE_SERVICE_ROLE_KEY": SECRET,
    }

    ran = subprocess.run(
        ["node", "--test", "--test-reporter=spec", str(Path(__file__).with_name("supabase_js.test.mjs"))],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
