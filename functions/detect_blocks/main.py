"""The database calls it every six hours: customers whom nothing reaches any more count as blocking us."""

from __future__ import annotations

from functools import cached_property

from shared.blocks import Detection
from shared.db import Database
from shared.health import POSTGREST
from shared.runtime import Deps, Request, Response, Route, serve
from shared.settings import Settings


class DetectDeps(Deps):
    @cached_property
    def detection(self) -> Detection:
        return Detection(Database(self.settings))


async def run(request: Request, deps: DetectDeps) -> Response:
    """Look at every business once; what was found is in delivery_issues, what came of it also in job_runs."""
    return Response.json(200, await deps.detection.run())


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[Settings.supabase_url, Settings.supabase_service_role_key],
    dependencies=[POSTGREST],
    deps=lambda: DetectDeps(Settings()),
)
