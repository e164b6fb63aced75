"""The database wakes it when messages wait: they go out at their numbers' pace, and each end is noted."""

from __future__ import annotations

from functools import cached_property

from shared.db import Database
from shared.drain import Drain, DrainSettings
from shared.graph import Graph, GraphSettings
from shared.health import POSTGREST
from shared.options import Number
from shared.outbox import Outbox
from shared.runtime import Deps, Request, Response, Route, serve


class DeliverSettings(GraphSettings, DrainSettings):
    deliver_concurrency = Number("how many messages are in hand at once", 200)


class DeliverDeps(Deps):
    settings: DeliverSettings

    @cached_property
    def drain(self) -> Drain:
        database, senders = Database(self.settings), {"cloud_api": Graph(self.settings)}
        at_once = int(self.settings.deliver_concurrency)
        return Drain(Outbox(database, senders, at_once=at_once), database, self.settings)


async def run(request: Request, deps: DeliverDeps) -> Response:
    """Send until nothing waits any more; what was done is also in job_runs."""
    return Response.json(200, await deps.drain.join())


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[DeliverSettings.supabase_url, DeliverSettings.supabase_service_role_key],
    dependencies=[POSTGREST],
    deps=lambda: DeliverDeps(DeliverSettings()),
)
