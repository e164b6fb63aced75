"""People and pg_cron call it to see that a function answers; it changes nothing."""

from __future__ import annotations

from dataclasses import replace

from shared.health import POSTGREST
from shared.runtime import Deps, Request, Response, Route, serve


async def greet(request: Request, deps: Deps) -> Response:
    return Response(200, f"Hello, {request.query.get('name', 'world')}!\n")


async def echo(request: Request, deps: Deps) -> Response:
    """Give a signed body back: proof that secret and clock agree on both sides."""
    return Response.json(200, {"echo": request.json()})


main = serve(
    {("GET", "/"): Route(greet), ("POST", "/echo"): Route(echo, internal=True)},
    # it shows whether the database answers, and works without
    dependencies=[replace(POSTGREST, needed=False)],
)
