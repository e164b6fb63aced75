"""The database calls it daily, and when a number was connected: the providers' templates become ours."""

from __future__ import annotations

import uuid
from functools import cached_property

from shared.db import Database
from shared.errors import BadRequestError
from shared.health import POSTGREST
from shared.runtime import Deps, Request, Response, Route, serve
from shared.shapes import mapping
from shared.template_sync import TemplateSync
from shared.templates import Catalogue, GraphTemplates, TemplateSettings, TwilioContents


class SyncDeps(Deps):
    settings: TemplateSettings

    @cached_property
    def sync(self) -> TemplateSync:
        catalogues: dict[str, Catalogue] = {
            "cloud_api": GraphTemplates(self.settings),
            "twilio": TwilioContents(self.settings),
        }
        return TemplateSync(Database(self.settings), catalogues)


async def run(request: Request, deps: SyncDeps) -> Response:
    """List every account, or those of {"tenant_id"}; what came of it is also in job_runs."""
    return Response.json(200, await deps.sync.run(_tenant(request)))


def _tenant(request: Request) -> str | None:
    asked = mapping(request.json()).get("tenant_id")
    try:
        return None if asked is None else str(uuid.UUID(asked))
    except (ValueError, TypeError, AttributeError) as exc:
        raise BadRequestError("tenant_id is not an id.", hint="Leave it out to list all.") from exc


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[TemplateSettings.supabase_url, TemplateSettings.supabase_service_role_key],
    dependencies=[POSTGREST],
    deps=lambda: SyncDeps(TemplateSettings()),
)
