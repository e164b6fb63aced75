"""Puts the outside world together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from local.events import log
from local.simulator.config import Config
from local.simulator.control import Control
from local.simulator.graph import Graph
from local.simulator.graph_accounts import GraphAccounts
from local.simulator.graph_templates import GraphTemplates
from local.simulator.http import Json
from local.simulator.openai import OpenAI
from local.simulator.outside import Outside
from local.simulator.service import Service
from local.simulator.twilio import TwilioApi
from local.simulator.whapi import WhapiApi

_PAGE = Path(__file__).parent / "page"
_LOOK_AT_CLOCK_EVERY = 1.0
# customers write what they like: nothing but our own files may run
_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def application(config: Config) -> Starlette:
    out = Outside.open(config)
    graph, openai = Graph(out), OpenAI(out)
    # the first whose path fits answers: Graph itself refuses all it does not know, and is the last of its own
    services: dict[str, list[Service]] = {
        "/graph": [GraphAccounts(out), GraphTemplates(out), graph],
        "/whapi": [WhapiApi(out)],
        "/twilio": [TwilioApi(out)],
    }
    control = Control(out, openai, services)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with out.database.opened():
            workers = [asyncio.create_task(out.webhooks.run()), asyncio.create_task(_follow_clock(out))]
            yield
            for worker in workers:
                worker.cancel()
                with suppress(asyncio.CancelledError):
                    await worker
            await out.webhooks.close()
        out.store.close()

    routes = [
        Route("/health", _health),
        Route("/", _page),
        Mount("/page", StaticFiles(directory=_PAGE)),
        *control.routes(),
        *openai.routes(),
        *(Mount(prefix, routes=_routes(some)) for prefix, some in services.items()),
        *_routes(services["/graph"]),  # also where it once was; last, as its paths begin with any version
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={Exception: _broken})


def _routes(services: Sequence[Service]) -> list[BaseRoute]:
    return [route for service in services for route in service.routes()]


async def _follow_clock(out: Outside) -> None:
    while True:
        await out.database.follow(out.clock, out.store)
        await asyncio.sleep(_LOOK_AT_CLOCK_EVERY)


async def _health(_: Request) -> Response:
    return Json({"status": "ok"})


async def _page(_: Request) -> Response:
    return FileResponse(_PAGE / "index.html", headers={"content-security-policy": _POLICY})


async def _broken(request: Request, exc: Exception) -> Response:
    log("simulator failed", path=request.url.path, reason=repr(exc))
    return Json({"error": f"The simulator has a mistake of its own: {exc!r}"}, 500)
