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
from shared.senders.settings import SenderSettings


class ReplySettings(LlmSettings, SenderSettings, DrainSettings):
    reply_concurrency = Number("how many chats are answered at once", 20)


class ReplyDeps(Deps):
    settings: ReplySettings

    @cached_property
    def drain(self) -> Drain:
        from shared.attention import Attention
        from shared.enrichment import Enrichment
        from shared.senders.registry import senders
        from shared.senders.whapi import Whapi
        from shared.tokens import Tokens

        database = Database(self.settings)
        tokens = Tokens(database)
        replies = Replies(
            database,
            Llm(self.settings),
            at_once=int(self.settings.reply_concurrency),
            patience=self.settings.llm_seconds,
            attention=Attention(tokens, lambda: senders(self.settings)),
            enrichment=Enrichment(database, tokens, lambda: {"whapi": Whapi(self.settings)}),
        )
        return Drain(replies, database, self.settings)


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
