"""What every simulated service stands on."""

from __future__ import annotations

from dataclasses import dataclass

from local.simulator.clock import Clock
from local.simulator.config import Config
from local.simulator.database import Database
from local.simulator.faults import Faults
from local.simulator.script import Script
from local.simulator.store import Store
from local.simulator.tokens import Tokens
from local.simulator.webhooks import Webhooks
from local.simulator.world import World


@dataclass(frozen=True)
class Outside:
    config: Config
    store: Store
    clock: Clock
    world: World
    database: Database
    webhooks: Webhooks
    faults: Faults
    script: Script
    tokens: Tokens

    @classmethod
    def open(cls, config: Config) -> Outside:
        """With everything the simulator knew when it ended, however it ended."""
        store = Store(config.file)
        clock = Clock(store.noted("ahead", 0.0))
        world = World(store, clock)
        webhooks = Webhooks(config, store, world)
        return cls(
            config=config,
            store=store,
            clock=clock,
            world=world,
            database=Database(config.database_url),
            webhooks=webhooks,
            faults=Faults(store),
            script=Script(store),
            tokens=Tokens(store, clock),
        )
