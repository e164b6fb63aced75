"""The database wakes it when customers wait: agents of their businesses answer them, into the outbox."""

from __future__ import annotations

from functools import cached_property

from shared.db import Database
from shared.drain import Drain, DrainSettings
from shared.health import POSTGREST
from shared.llm import Llm, LlmSettings
from shared.options import Number
from shared.replies import Replies
from shared.runtime import Deps, Request, Response, Route, serve


class ReplySettings(LlmSettings, DrainSettings):
    reply_concurrency = Number("how many chats are answered at once", 20)


class ReplyDeps(Deps):
    settings: ReplySettings

    @cached_property
    def drain(self) -> Drain:
        database, llm = Database(self.settings), Llm(self.settings)
        at_once, patience = int(self.settings.reply_concurrency), self.settings.llm_seconds
        return Drain(Replies(database, llm, at_once=at_once, patience=patience), database, self.settings)


async def run(request: Request, deps: ReplyDeps) -> Response:
    """Answer until nobody waits any more; what was done is also in job_runs."""
    return Response.json(200, await deps.drain.join())


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[
        ReplySettings.supabase_url,
        ReplySettings.supabase_service_role_key,
        ReplySettings.openai_api_key,
    ],
    dependencies=[POSTGREST],
    deps=lambda: ReplyDeps(ReplySettings()),
)
