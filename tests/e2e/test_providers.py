"""Whapi and Twilio on a running platform: what is sent arrives once, and what became of it comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any

import httpx
import pytest

from tests.e2e.platforms import Platform, eventually

# Gimnasio Pulso of the demo data.
WHAPI, TWILIO = "PULSO-WHAPI", "whatsapp:+57305555555"
ACCOUNT = "AC00000000000000000000000000000005"
PROVIDERS = {"whapi": WHAPI, "twilio": TWILIO}
LINK = "https://files.example/plan.jpg"

_customers = count(573200000000)

both = pytest.mark.parametrize("provider", PROVIDERS)


@dataclass
class Chat:
    """A customer of their own with one number of the demo business."""

    platform: Platform
    provider: str
    customer: str = field(default_factory=lambda: str(next(_customers)))

    @cached_property
    def outside(self) -> httpx.Client:
        return httpx.Client(base_url=self.platform.env["SIMULATOR_URL"], timeout=60, trust_env=False)

    def close(self) -> None:
        self.outside.close()

    @property
    def number(self) -> str:
        return PROVIDERS[self.provider]

    def open(self) -> None:
        """The customer writes, and is answered; whoever writes next is a person."""
        told = {"number": self.number, "from": self.customer, "name": "Ana", "text": "Hola"}
        assert self.outside.post("/control/inbound", json=told).json()["status"] == 200
        assert eventually(lambda: self.statuses() == ["read"], 90), self.statuses()

    def send(self, kind: str, content: str | None, data: dict[str, Any] | None = None, **more: Any) -> None:
        self.platform.query(
            "select private.outbox_enqueue(array[private.outgoing(c.tenant_id, c.id, 'staff', 'staff',"
            " 'human', %s, %s, %s::jsonb, p_reply_to => %s)]) from public.chats c where c.id = %s",
            content,
            kind,
            None if data is None else json.dumps(data),
            more.get("reply_to"),
            self.id,
        )  # fmt: skip

    def order(self, target: str, kind: str, **more: Any) -> None:
        fault = {"target": f"{self.provider}.{target}", "kind": kind, "match": self.customer, **more}
        answer = self.outside.post("/control/faults", json=fault)
        assert answer.status_code == 200, answer.text

    def arrived(self) -> list[dict[str, Any]]:
        query = {"number": self.number, "to": self.customer}
        return list(self.outside.get("/control/sent", params=query).json())

    def view(self) -> list[dict[str, Any]]:
        query = {"number": self.number, "from": self.customer}
        return list(self.outside.get("/control/view", params=query).json()["messages"])

    @property
    def id(self) -> Any:
        found = self.platform.query(
            "select c.id from public.chats c"
            " join public.customer_leads l on l.tenant_id = c.tenant_id and l.id = c.lead_id"
            " join public.whatsapp_numbers n on n.tenant_id = c.tenant_id and n.id = c.number_id"
            " where l.phone = %s and n.provider = %s",
            self.customer,
            self.provider,
        )  # fmt: skip
        return found[0][0] if found else None

    def messages(self, columns: str) -> list[tuple[Any, ...]]:
        return self.platform.query(
            f"select {columns} from public.messages where chat_id = %s and direction = 'outbound'"
            " order by id",
            self.id,
        )

    def statuses(self) -> list[str]:
        return [row[0] for row in self.messages("status")]

    def ends(self, *statuses: str) -> bool:
        return bool(eventually(lambda: self.statuses()[1:] == list(statuses), 90))


@pytest.fixture
def chat(platform: Platform, provider: str) -> Iterator[Chat]:
    with closing(Chat(platform, provider)) as made:
        made.open()
        yield made


@both
def test_a_customer_is_answered_and_sees_that_they_were_read(chat: Chat) -> None:
    (answer,) = chat.arrived()

    assert answer["text"]
    assert eventually(lambda: chat.view()[0]["status"] == "read", 30), chat.view()


@both
def test_files_go_by_their_link_and_their_statuses_come_back(chat: Chat) -> None:
    chat.send("image", "El plan", {"media": {"link": LINK}, "mime": "image/jpeg"})
    chat.send("document", None, {"media": {"link": LINK.replace("jpg", "pdf")}, "filename": "plan.pdf"})

    assert chat.ends("read", "read"), chat.messages("status, error_message")
    assert [sent["type"] for sent in chat.arrived()[1:]] == ["image", "document"]


def test_a_template_goes_through_twilio(platform: Platform) -> None:
    with closing(Chat(platform, "twilio")) as chat:
        chat.open()
        content = {"account": ACCOUNT, "name": "bienvenida", "body": "Hola {{1}}, te esperamos."}
        sid = chat.outside.post("/control/contents", json=content).json()["sid"]
        template = {"name": "bienvenida", "language": "es", "provider_template_id": sid}

        data = {"template": {**template, "variables": {"1": "Ana"}}, "category": "utility"}
        chat.send("template", "Hola Ana, te esperamos.", data)

        assert chat.ends("read"), chat.messages("status, error_message")
        assert chat.arrived()[-1]["text"] == "Hola Ana, te esperamos."


def test_buttons_quotes_and_reactions_go_through_whapi(platform: Platform) -> None:
    with closing(Chat(platform, "whapi")) as chat:
        chat.open()
        theirs = chat.view()[0]["wa_message_id"]
        action = {"buttons": [{"type": "reply", "reply": {"id": "si", "title": "Sí"}}]}
        buttons = {"type": "button", "body": {"text": "¿Confirmas?"}, "action": action}

        chat.send("text", "Con gusto", reply_to=theirs)
        chat.send("interactive", "¿Confirmas?", {"interactive": buttons})
        chat.send("reaction", None, {"target": theirs, "emoji": "👍"})

        assert eventually(lambda: len(chat.arrived()) == 4, 90), chat.messages("type, status, error_message")
        assert eventually(lambda: "sending" not in chat.statuses() and "queued" not in chat.statuses())
        assert chat.statuses()[1:3] == ["read", "read"]
        assert chat.statuses()[3] == "sent"  # nobody tells more about a reaction


def test_what_a_provider_cannot_do_is_said_before_it_is_asked(platform: Platform) -> None:
    with closing(Chat(platform, "whapi")) as chat:
        chat.open()

        chat.send("template", "Hola", {"template": {"name": "bienvenida", "language": "es"}})

        assert chat.ends("skipped")
        assert chat.messages("send_reason")[-1] == ("templates_unsupported",)


@both
def test_a_provider_that_is_busy_gets_it_later(chat: Chat) -> None:
    chat.order("send", "http_429")

    chat.send("text", "Con gusto")

    assert chat.ends("read"), chat.messages("status, error_message")
    assert len(chat.arrived()) == 2


@pytest.mark.parametrize("provider", ["twilio"])
@pytest.mark.parametrize("kind", ["reset", "truncated", "garbage", "http_500"])
def test_an_unknown_send_is_told_by_its_status_and_never_repeated(chat: Chat, kind: str) -> None:
    chat.order("send", kind, after_accept=True)

    chat.send("text", "Con gusto")

    assert chat.ends("read"), chat.messages("status, error_message")
    assert len(chat.arrived()) == 2


@pytest.mark.parametrize("provider", ["whapi"])
def test_a_send_that_nobody_can_tell_stays_unknown(chat: Chat) -> None:
    """Whapi takes no id of ours along: that the message came back does not say which one it is."""
    chat.order("send", "reset", after_accept=True)

    chat.send("text", "Con gusto")

    assert chat.ends("unknown"), chat.messages("status, error_message")
    assert len(chat.arrived()) == 2
    assert {row[0] for row in chat.messages("source")} == {"agent", "staff"}


@pytest.mark.parametrize(
    ("provider", "code"), [("twilio", 21211), ("twilio", 63016), ("whapi", 403), ("whapi", 400)]
)
def test_an_error_of_the_provider_is_final_where_it_says_so(chat: Chat, code: int) -> None:
    chat.order("send", f"code:{code}")

    chat.send("text", "Con gusto")

    assert chat.ends("failed"), chat.messages("status, error_message")
    assert chat.messages("error_code")[-1] == (code,)
