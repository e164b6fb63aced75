"""Whether a customer may be written to freely: one rule for every provider that has a window."""

from __future__ import annotations

from local.simulator.clock import Clock
from local.simulator.database import Database
from local.simulator.store import Store
from local.simulator.webhooks import Webhooks
from local.simulator.world import Contact, World


class Windows:
    def __init__(
        self, store: Store, clock: Clock, world: World, database: Database, webhooks: Webhooks
    ) -> None:
        self._store = store
        self._clock = clock
        self._world = world
        self._database = database
        self._webhooks = webhooks

    def has_one(self, contact: Contact) -> bool:
        return self._webhooks.speaker(contact.number)[1].closed is not None

    def is_open(self, contact: Contact) -> bool:
        """Always, where there is none."""
        if not self.has_one(contact):
            return True
        if self._world.is_stranger(contact):
            return self._store.tuning.strangers_window_open
        return contact.window_until > self._clock.now()

    async def remembered(self, contact: Contact) -> Contact:
        """What a test posted to the webhook past this world was, in the real one, written to us first."""
        if self.is_open(contact) or self._database.away:
            return contact
        wrote_at = await self._database.wrote_at(contact)
        return self._world.wrote(contact, wrote_at) if wrote_at else contact
