"""Meta posts here: whatever happens on WhatsApp is stored once, and acknowledged when it is."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property

from shared import cloud_api
from shared.db import Database
from shared.health import POSTGREST
from shared.inbox import Inbox
from shared.runtime import Deps, Request, Response, serve
from shared.settings import Setting, Settings


class WebhookSettings(Settings):
    meta_app_secret = Setting("signs what Meta posts; two, separated by a comma, during a rotation")
    meta_verify_token = Setting("word that Meta repeats when the callback URL is registered")


class WebhookDeps(Deps):
    settings: WebhookSettings

    @cached_property
    def inbox(self) -> Inbox:
        database = Database(self.settings)
        return Inbox(lambda batch: database.webhook_receive(batch=batch))


async def subscribe(request: Request, deps: WebhookDeps) -> Response:
    """Answer the handshake Meta sends when the callback URL is registered."""
    return Response(200, cloud_api.answer_handshake(request.query, deps.settings.meta_verify_token))


async def receive(request: Request, deps: WebhookDeps) -> Response:
    """Store a signed delivery. What cannot be applied is kept too: only what was not stored comes again."""
    cloud_api.check_signature(request.headers, request.body, deps.settings.meta_app_secret)
    payloads = cloud_api.parse(request.body, received_at=datetime.now(UTC))
    receipts = await deps.inbox.receive(payloads)
    return Response.json(200, {"stored": sum(one.stored for one in receipts), "payloads": len(receipts)})


main = serve(
    {("GET", "/cloud-api"): subscribe, ("POST", "/cloud-api"): receive},
    needs=[
        Settings.supabase_url,
        Settings.supabase_service_role_key,
        WebhookSettings.meta_app_secret,
        WebhookSettings.meta_verify_token,
    ],
    dependencies=[POSTGREST],
    max_body=3 * 1024 * 1024,
    deps=lambda: WebhookDeps(WebhookSettings()),
)
