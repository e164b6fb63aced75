"""The schedule wakes it: businesses whose hour has come have their leads followed up, each once a day."""

from __future__ import annotations

from functools import cached_property
from uuid import UUID

from shared.daily import FollowUps
from shared.db import Database
from shared.drain import Drain, DrainSettings
from shared.errors import BadRequestError
from shared.health import POSTGREST
from shared.llm import Llm, LlmSettings
from shared.options import Number
from shared.runtime import Deps, Request, Response, Route, serve
from shared.shapes import mapping


class DailySettings(LlmSettings, DrainSettings):
    daily_concurrency = Number("how many follow-ups are written at once", 10)


class DailyDeps(Deps):
    settings: DailySettings

    @cached_property
    def database(self) -> Database:
        return Database(self.settings)

    @cached_property
    def drain(self) -> Drain:
        at_once, patience = int(self.settings.daily_concurrency), self.settings.llm_seconds
        worker = FollowUps(self.database, Llm(self.settings), at_once=at_once, patience=patience)
        return Drain(worker, self.database, self.settings)


async def run(request: Request, deps: DailyDeps) -> Response:
    """Plan what is due, for all businesses or {"tenant_id", "force": whatever the hour}, and do it."""
    asked = mapping(request.json())
    tenant_id, force = asked.get("tenant_id"), asked.get("force", False)
    if not (tenant_id is None or _is_uuid(tenant_id)) or not isinstance(force, bool):
        raise BadRequestError(hint='Send {} or {"tenant_id": "…", "force": true}.')
    planned = await deps.database.daily_plan(tenant_id=tenant_id, force=force)
    return Response.json(200, {"planned": planned, **await deps.drain.join()})


def _is_uuid(value: object) -> bool:
    try:
        return bool(UUID(value if isinstance(value, str) else ""))
    except ValueError:
        return False


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[
        DailySettings.supabase_url,
        DailySettings.supabase_service_role_key,
        DailySettings.openai_api_key,
    ],
    dependencies=[POSTGREST],
    deps=lambda: DailyDeps(DailySettings()),
)
