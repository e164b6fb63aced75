"""The database calls it every day: Meta's tokens are checked, and replaced long before they end."""

from __future__ import annotations

from functools import cached_property

from shared.accounts.meta import Meta, MetaSettings
from shared.db import Database
from shared.health import POSTGREST
from shared.runtime import Deps, Request, Response, Route, serve
from shared.token_checks import TokenChecks


class RefreshDeps(Deps):
    settings: MetaSettings

    @cached_property
    def checks(self) -> TokenChecks:
        return TokenChecks(Database(self.settings), Meta(self.settings))


async def run(request: Request, deps: RefreshDeps) -> Response:
    """Look at each number once; what came of it is also in job_runs."""
    return Response.json(200, await deps.checks.run())


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[
        MetaSettings.supabase_url,
        MetaSettings.supabase_service_role_key,
        MetaSettings.meta_app_id,
        MetaSettings.meta_app_secret,
    ],
    dependencies=[POSTGREST],
    deps=lambda: RefreshDeps(MetaSettings()),
)
