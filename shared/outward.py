"""The only way out: an HTTP client that speaks with the one service it was made for.

What comes from data (a path, a link to the next page, a redirect) can never take a request, and the secrets
in it, to another host. So nothing that a customer, a provider or a member of staff writes is ever fetched by
us; links that are handed to a provider are looked at by `senders.links`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.errors import InternalError

if TYPE_CHECKING:
    import httpx


def client(base_url: str, **settings: Any) -> httpx.AsyncClient:
    """`base_url` is of the configuration; `settings` are httpx's own."""
    import httpx

    home = httpx.URL(base_url.rstrip("/") + "/")

    async def stay(request: httpx.Request) -> None:
        if _origin(request.url) != _origin(home) or not request.url.path.startswith(home.path):
            raise InternalError("A request was about to leave for another address than the configured one.")

    return httpx.AsyncClient(
        base_url=home, follow_redirects=False, event_hooks={"request": [stay]}, **settings
    )


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
