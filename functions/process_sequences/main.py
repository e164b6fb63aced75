"""The schedule wakes it: steps of sequences that are due are sent, given to a person, or put off."""

from __future__ import annotations

from functools import cached_property

from shared.db import Database
from shared.drain import DrainSettings
from shared.errors import BadRequestError
from shared.health import POSTGREST
from shared.runtime import Deps, Request, Response, Route, serve
from shared.sequences import Sequences


class SequencesDeps(Deps):
    settings: DrainSettings

    @cached_property
    def sequences(self) -> Sequences:
        return Sequences(Database(self.settings), budget=self.settings.drain_budget_seconds)


async def run(request: Request, deps: SequencesDeps) -> Response:
    """Run what is due, `?limit=` enrollments at most; what came of it is also in job_runs."""
    return Response.json(200, await deps.sequences.run(read_limit(request.query.get("limit"))))


def read_limit(given: str | None) -> int | None:
    """How many at most; None: all."""
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and 1 <= int(given) <= 1_000_000):
        raise BadRequestError(hint="limit is a number from 1 to 1000000.")
    return int(given)


main = serve(
    {("POST", "/"): Route(run, internal=True)},
    needs=[DrainSettings.supabase_url, DrainSettings.supabase_service_role_key],
    dependencies=[POSTGREST],
    deps=lambda: SequencesDeps(DrainSettings()),
)
