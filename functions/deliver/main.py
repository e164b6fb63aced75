"""The database wakes it when messages wait: they go out at their numbers' pace, and each end is noted."""

from __future__ import annotations

from functools import cached_property

from shared.db import Database
from shared.drain import Drain, DrainSettings
from shared.health import POSTGREST
from shared.options import Number
from shared.outbox import Outbox
from shared.runtime import Deps, Request, Response, Route, serve
from shared.senders.settings import SenderSettings


class DeliverSettings(SenderSettings, DrainSettings):
    deliver_concurrency = Number("how many messages are in hand at once", 200)


class DeliverDeps(Deps):
    settings: DeliverSettings

    @cached_property
    def drain(self) -> Drain:
        from shared.senders.registry import senders

        database, at_once = Database(self.settings), int(self.settings.deliver_concurrency)
        outbox = Outbox(database, senders(self.settings), at_once=at_once)
        return Drain(outbox, database, self.settings)


async def run(request: Request, deps: DeliverDeps) -> Response:
    """Send until nothing waits any more; what was done is also in job_runs."""
    return Response.json(200, await deps.drain.join())


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[DeliverSettings.supabase_url, DeliverSettings.supabase_service_role_key],
    dependencies=[POSTGREST],
    deps=lambda: DeliverDeps(DeliverSettings()),
)
