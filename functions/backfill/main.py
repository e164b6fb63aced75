"""The database calls it every ten minutes: what Whapi and Twilio did not deliver is read from their lists."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from shared.backfill import Backfill
from shared.db import Database
from shared.health import POSTGREST
from shared.histories import History, TwilioHistory, WhapiHistory
from shared.inbox import Inbox
from shared.runtime import Deps, Request, Response, Route, serve
from shared.senders.settings import TwilioSettings, WhapiSettings


class BackfillSettings(TwilioSettings, WhapiSettings):
    pass


class BackfillDeps(Deps):
    settings: BackfillSettings

    @cached_property
    def backfill(self) -> Backfill:
        database = Database(self.settings)
        histories: Mapping[str, History] = {
            "twilio": TwilioHistory(self.settings.twilio_url),
            "whapi": WhapiHistory(self.settings.whapi_url),
        }
        return Backfill(database, Inbox(lambda batch: database.webhook_receive(batch=batch)), histories)


async def run(request: Request, deps: BackfillDeps) -> Response:
    """Read every list that is due; what was found is also in job_runs."""
    return Response.json(200, await deps.backfill.run())


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[BackfillSettings.supabase_url, BackfillSettings.supabase_service_role_key],
    dependencies=[POSTGREST],
    deps=lambda: BackfillDeps(BackfillSettings()),
)
