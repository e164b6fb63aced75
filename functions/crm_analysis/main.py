"""The schedule wakes it every quarter of an hour: idle conversations are read, and their leads updated."""

from __future__ import annotations

from functools import cached_property

from shared.crm import Analyses
from shared.db import Database
from shared.drain import Drain, DrainSettings
from shared.health import POSTGREST
from shared.llm import Llm, LlmSettings
from shared.options import Number
from shared.runtime import Deps, Request, Response, Route, serve


class AnalysisSettings(LlmSettings, DrainSettings):
    analysis_concurrency = Number("how many conversations are read at once", 20)


class AnalysisDeps(Deps):
    settings: AnalysisSettings

    @cached_property
    def drain(self) -> Drain:
        database, llm = Database(self.settings), Llm(self.settings)
        at_once, patience = int(self.settings.analysis_concurrency), self.settings.llm_seconds
        return Drain(Analyses(database, llm, at_once=at_once, patience=patience), database, self.settings)


async def run(request: Request, deps: AnalysisDeps) -> Response:
    """Analyse until nothing is due any more; what was done is also in job_runs."""
    return Response.json(200, await deps.drain.join())


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[
        AnalysisSettings.supabase_url,
        AnalysisSettings.supabase_service_role_key,
        AnalysisSettings.openai_api_key,
    ],
    dependencies=[POSTGREST],
    deps=lambda: AnalysisDeps(AnalysisSettings()),
)
