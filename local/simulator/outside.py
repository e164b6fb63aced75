"""What every simulated service stands on."""

from __future__ import annotations

from dataclasses import dataclass

from local.simulator.clock import Clock
from local.simulator.config import Config
from local.simulator.database import Database
from local.simulator.faults import Faults
from local.simulator.letters import Voice
from local.simulator.messages import Messages
from local.simulator.meta import Meta
from local.simulator.script import Script
from local.simulator.store import Store
from local.simulator.tokens import Tokens
from local.simulator.twilio_senders import Senders
from local.simulator.twilio_voice import Twilio
from local.simulator.webhooks import Webhooks
from local.simulator.whapi_channels import Channels
from local.simulator.whapi_voice import Whapi
from local.simulator.windows import Windows
from local.simulator.world import Number, World


@dataclass(frozen=True)
class Outside:
    config: Config
    store: Store
    clock: Clock
    world: World
    messages: Messages
    database: Database
    webhooks: Webhooks
    windows: Windows
    faults: Faults
    script: Script
    tokens: Tokens
    channels: Channels
    whapi: Whapi
    senders: Senders

    @classmethod
    def open(cls, config: Config) -> Outside:
        """With everything the simulator knew when it ended, however it ended."""
        store = Store(config.file)
        clock = Clock(store.noted("ahead", 0.0))
        world, database, faults = World(store), Database(config.database_url), Faults(store)
        messages = Messages(store, clock, world)
        channels = Channels(store, config.functions_url)
        whapi = Whapi(clock, world, messages, channels)
        tokens, senders = Tokens(store, clock), Senders(store, config.functions_url)
        voices: dict[str, Voice] = {
            "cloud_api": Meta(config, clock, world),
            "whapi": whapi,
            "twilio": Twilio(store, world, tokens, senders, f"http://127.0.0.1:{config.port}/twilio"),
        }
        webhooks = Webhooks(config, store, world, messages, faults, voices)
        return cls(
            config=config,
            store=store,
            clock=clock,
            world=world,
            messages=messages,
            database=database,
            webhooks=webhooks,
            windows=Windows(store, clock, world, database, webhooks),
            faults=faults,
            script=Script(store),
            tokens=tokens,
            channels=channels,
            whapi=whapi,
            senders=senders,
        )

    def voice(self, provider: str) -> Voice:
        return self.webhooks.voices[provider]

    async def find(self, provider: str, wanted: str) -> Number | None:
        """A number by its id, phone or name: known here, or connected meanwhile."""
        known = self.world.find(provider, wanted)
        if known is None and not self.database.away:
            await self.database.learn_numbers(self.world)
            known = self.world.find(provider, wanted)
        return known
