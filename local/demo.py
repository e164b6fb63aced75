"""The main job, told as it happens: customers write, the right agent answers, each business sees its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from supabase import Client, create_client

from local.keys import Keys
from local.layout import Layout
from local.parts import environment

BOGOTA = ZoneInfo("America/Bogota")
CITAS, PLAZA = "100000000000001", "100000000000003"
PULSO = {"Whapi": "PULSO-WHAPI", "Twilio": "whatsapp:+57305555555"}
MARIA, CARLOS, LUCIA, DIEGO = "57311111111", "57322222222", "57333333333", "57344444444"
PASSWORD = "recado-demo"  # noqa: S105  # public by design
_PATIENCE = 45.0


@dataclass
class Story:
    """What is printed, and whether all of it came out as expected."""

    say: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    failed: int = 0

    def chapter(self, title: str) -> None:
        self.say(f"\n{title}")

    def line(self, who: str, text: str) -> None:
        self.say(f"  {time.monotonic() - self.began:6.1f} s  {who:<22} {text}")

    def expect(self, what: str, came: bool, instead: object = "") -> None:
        self.failed += not came
        self.say(f"  {'✓' if came else '✗'} {what}" + (f" (instead: {instead})" if not came else ""))


@dataclass
class World:
    """The outside, through the simulator, and the inside, through the clients a front end has."""

    simulator: httpx.Client
    owners: dict[str, Client]
    service: Client

    def write(self, number: str, customer: str, name: str, text: str) -> str:
        said = self.post("inbound", {"number": number, "from": customer, "name": name, "text": text})
        return str(said["wa_message_id"])

    def sent(self, number: str, customer: str) -> list[dict[str, Any]]:
        answer = self.simulator.get("/control/sent", params={"number": number, "to": customer})
        return list(answer.raise_for_status().json())

    def post(self, control: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self.simulator.post(f"/control/{control}", json=body).raise_for_status().json())

    def lead(self, phone: str) -> dict[str, Any]:
        (lead,) = _rows(self.service.table("customer_leads").select("*").eq("phone", phone))
        return lead

    def messages(self, phone: str, direction: str) -> list[dict[str, Any]]:
        query = self.service.table("messages").select("*, ai_agents(name)")
        query = query.eq("lead_id", self.lead(phone)["id"]).eq("direction", direction)
        return _rows(query.order("provider_at"))


def tell(layout: Layout, secrets: Keys, say: Callable[[str], None]) -> bool:
    """Run the story on a fresh platform; True when everything came out as expected."""
    story = Story(say)
    with _world(layout, secrets) as world:
        _open_at_ten(world, story)
        _maria_writes_in_fragments(world, story)
        _carlos_writes_to_the_restaurant(world, story)
        _diego_writes_to_the_gym(world, story)
        _each_sees_their_own(world, story)
        _activity_is_written_once(world, story)
        _the_model_fails(world, story)
    minutes = (time.monotonic() - story.began) / 60
    outcome = f"{story.failed} expectations failed" if story.failed else "Everything came out as expected"
    say(f"\n{outcome}, in {minutes:.1f} minutes.")
    return not story.failed


def _open_at_ten(world: World, story: Story) -> None:
    """Forwards only: ten o'clock in Bogotá may be tomorrow's."""
    now = datetime.fromisoformat(world.simulator.get("/control/state").json()["clock"]).astimezone(BOGOTA)
    ten = now.replace(hour=10, minute=0, second=0, microsecond=0)
    ahead = (ten - now if ten > now else ten + timedelta(days=1) - now).total_seconds()
    world.post("clock", {"advance_seconds": ahead})
    story.chapter("Ten o'clock in Bogotá. Open are Clínica Dental, Restaurante La Plaza and Gimnasio Pulso.")


def _maria_writes_in_fragments(world: World, story: Story) -> None:
    story.chapter("María González writes to Citas, the way people write: in pieces.")
    for text in ("Hola", "quisiera una cita", "para una limpieza el viernes"):
        world.write(CITAS, MARIA, "María González", text)
        story.line("María", text)
        time.sleep(0.6)
    answers = _answer(world, story, CITAS, MARIA)
    time.sleep(2)  # a second answer would come about now
    answers = world.sent(CITAS, MARIA)
    outbound = world.messages(MARIA, "outbound")
    agents = [message["ai_agents"] and message["ai_agents"]["name"] for message in outbound]
    story.expect("three fragments are stored", len(world.messages(MARIA, "inbound")) == 3)
    story.expect("one answer goes out for the three of them", len(answers) == 1, answers)
    story.expect("DrBot wrote it", agents == ["DrBot"], agents)
    read = eventually(lambda: [m["status"] for m in world.messages(MARIA, "outbound")] == ["read"])
    story.expect("it is delivered and read", read, [m["status"] for m in outbound])


def _carlos_writes_to_the_restaurant(world: World, story: Story) -> None:
    story.chapter("Carlos López writes to La Plaza.")
    text = "Buenas, ¿tienen mesa para cuatro hoy a las ocho? Quiero una reserva"
    world.write(PLAZA, CARLOS, "Carlos López", text)
    story.line("Carlos", text)
    answers = _answer(world, story, PLAZA, CARLOS)
    agents = [message["ai_agents"]["name"] for message in world.messages(CARLOS, "outbound")]
    story.expect("one answer goes out", len(answers) == 1, answers)
    story.expect("ChefBot wrote it", agents == ["ChefBot"], agents)


def _diego_writes_to_the_gym(world: World, story: Story) -> None:
    story.chapter("Diego Peña writes to both numbers of Gimnasio Pulso, one at Whapi, one at Twilio.")
    text = "Hola, ¿qué horario tiene la clase de prueba?"
    for provider, number in PULSO.items():
        world.write(number, DIEGO, "Diego Peña", text)
        story.line(f"Diego, by {provider}", text)
    asked = time.monotonic()
    for provider, number in PULSO.items():
        answers = _answer(world, story, number, DIEGO, asked)
        story.expect(f"one answer goes out by {provider}", len(answers) == 1, answers)
    leads = _rows(world.service.table("customer_leads").select("id").eq("phone", DIEGO))
    story.expect("he is one customer, whichever way he comes", len(leads) == 1, leads)
    told = eventually(lambda: [m["status"] for m in world.messages(DIEGO, "outbound")] == ["read", "read"])
    story.expect("both answers are delivered and read", told, world.messages(DIEGO, "outbound"))


def _each_sees_their_own(world: World, story: Story) -> None:
    story.chapter("The owners sign in and look at their customers.")
    expected = {
        "dr.perez@clinica.example": ["María González"],
        "admin@laplaza.example": ["Carlos López"],
        "admin@pulso.example": ["Diego Peña"],
    }
    for email, client in world.owners.items():
        names = [row["name"] for row in _rows(client.table("client_view").select("name"))]
        story.line(email, ", ".join(names))
        story.expect("their own customers, and nobody else's", names == expected[email], names)
        inbox = {chat["lead_name"] for chat in _rows(client.rpc("inbox_list"))}
        story.expect("and nobody else's chats", inbox == set(names), inbox)


def _activity_is_written_once(world: World, story: Story) -> None:
    story.chapter("Eleven minutes pass without a message.")
    before = [world.lead(phone) for phone in (MARIA, CARLOS)]
    story.expect(
        "last_activity waits while people write", all(lead["last_activity"] is None for lead in before)
    )
    world.post("clock", {"advance_seconds": 11 * 60})
    written = eventually(lambda: all(world.lead(phone)["last_activity"] for phone in (MARIA, CARLOS)))
    story.expect("last_activity is written for both", written)
    for name, phone in (("María", MARIA), ("Carlos", CARLOS)):
        lead = world.lead(phone)
        usage = (
            world.service.table("ai_usage").select("*, chats!inner(lead_id)").eq("chats.lead_id", lead["id"])
        )
        tokens = sum(row["input_tokens"] + row["output_tokens"] for row in _rows(usage))
        story.line(
            name, f"{lead['thread_token_count']} tokens, last activity {_clock(lead['last_activity'])}"
        )
        story.expect("with the tokens of all answers", lead["thread_token_count"] == tokens > 0, tokens)
    flushed = {phone: world.lead(phone)["updated_at"] for phone in (MARIA, CARLOS)}
    world.post("clock", {"advance_seconds": 2 * 60})
    time.sleep(2)
    story.expect(
        "once: the next flush writes nothing",
        all(world.lead(p)["updated_at"] == at for p, at in flushed.items()),
    )


def _the_model_fails(world: World, story: Story) -> None:
    story.chapter("Lucía Rojas writes, and the model is out of order.")
    world.post("faults", {"target": "openai", "kind": "http_500", "times": 100})
    world.write(CITAS, LUCIA, "Lucía Rojas", "Hola, me duele una muela")
    story.line("Lucía", "Hola, me duele una muela")
    owner = world.owners["dr.perez@clinica.example"]

    def waiting() -> bool:
        inbox = _rows(owner.rpc("inbox_list", {"p_attention": True}))
        return [chat["lead_name"] for chat in inbox] == ["Lucía Rojas"]

    story.expect("her chat is flagged for a person", eventually(waiting, 90))
    alerts = [row["kind"] for row in _rows(owner.table("alerts").select("kind"))]
    story.line("alerts", ", ".join(alerts))
    story.expect("with an alert", bool(alerts))
    story.expect("and she is not sent an error", world.sent(CITAS, LUCIA) == [])
    world.post("faults", {"target": "openai", "kind": "http_500", "times": 0})


def _answer(
    world: World, story: Story, number: str, customer: str, asked: float | None = None
) -> list[dict[str, Any]]:
    asked = asked or time.monotonic()
    eventually(lambda: world.sent(number, customer))
    answers = world.sent(number, customer)
    for answer in answers:
        story.line(
            "the business", f"{answer['text']} [{time.monotonic() - asked:.1f} s after the last fragment]"
        )
    return answers


def eventually(check: Callable[[], Any], seconds: float = _PATIENCE) -> bool:
    """True as soon as the check is; False when time is up."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextmanager
def _world(layout: Layout, secrets: Keys) -> Iterator[World]:
    env = environment(layout, secrets)
    owners = {}
    for email in ("dr.perez@clinica.example", "admin@laplaza.example", "admin@pulso.example"):
        owners[email] = create_client(env["SUPABASE_URL"], env["SUPABASE_ANON_KEY"])
        owners[email].auth.sign_in_with_password({"email": email, "password": PASSWORD})
    service = create_client(env["SUPABASE_URL"], env["SUPABASE_SERVICE_ROLE_KEY"])
    with httpx.Client(base_url=env["SIMULATOR_URL"], timeout=30) as simulator:
        yield World(simulator, owners, service)


def _rows(query: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in query.execute().data]


def _clock(at: str) -> str:
    return datetime.fromisoformat(at).replace(tzinfo=UTC).astimezone(BOGOTA).strftime("%H:%M")
