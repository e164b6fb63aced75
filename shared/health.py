"""GET /health: what this function is, and whether what it depends on answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared.errors import RecadoError, UnavailableError
from shared.settings import Settings

TIMEOUT = 1.5  # seconds a dependency has to answer
FRESH = (
    1.0  # seconds an answer is believed: /health is public, and must not become a way to load the database
)


@dataclass(frozen=True)
class Dependency:
    """`probe` raises when it is away. Without one that is `needed` the function does not work at all."""

    name: str
    probe: Callable[[Settings], Awaitable[None]]
    needed: bool = True


class Health:
    """Asks every dependency at once, at most once a second however many ask for it."""

    def __init__(self, dependencies: Sequence[Dependency]) -> None:
        self._dependencies = dependencies
        self._states: dict[str, str] = {}
        self._fresh_until = 0.0
        self._asking = asyncio.Lock()

    async def states(self, settings: Settings) -> dict[str, str]:
        """`up`, or `down: why`, by the name of the dependency."""
        async with self._asking:
            if time.monotonic() >= self._fresh_until:
                answers = await asyncio.gather(*(_state(one, settings) for one in self._dependencies))
                self._states = {
                    one.name: answer for one, answer in zip(self._dependencies, answers, strict=True)
                }
                self._fresh_until = time.monotonic() + FRESH
        return self._states

    def is_fit(self, states: dict[str, str]) -> bool:
        return all(states[one.name] == "up" for one in self._dependencies if one.needed)


async def _state(dependency: Dependency, settings: Settings) -> str:
    try:
        async with asyncio.timeout(TIMEOUT):
            await dependency.probe(settings)
    except TimeoutError:
        return f"down: no answer within {TIMEOUT} seconds"
    except RecadoError as exc:
        return f"down: {exc.message}"
    except Exception as exc:  # a probe talks to the network: whatever it meets, the state is down
        return f"down: {type(exc).__name__}"
    return "up"


async def _ask_postgrest(settings: Settings) -> None:
    """Read nothing from a small table: the gateway, PostgREST and Postgres must all be there to do it.

    Written on the bare socket because importing an HTTP client costs more than the whole start of a function.
    """
    url = urlsplit(settings.supabase_url)
    tls = url.scheme == "https"
    reader, writer = await asyncio.open_connection(
        url.hostname, url.port or (443 if tls else 80), ssl=tls or None
    )
    try:
        key = settings.supabase_service_role_key
        head = f"HEAD {url.path.rstrip('/')}/rest/v1/plans?select=name&limit=0 HTTP/1.1"
        host = f"host: {url.netloc}\r\nconnection: close\r\napikey: {key}\r\nauthorization: Bearer {key}"
        writer.write(f"{head}\r\n{host}\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
    finally:
        writer.close()
    if status >= 400:
        raise UnavailableError(f"answered {status}")


POSTGREST = Dependency("postgrest", _ask_postgrest)
