"""Providers post here: whatever happens on WhatsApp is stored once, and acknowledged when it is."""

from __future__ import annotations

from functools import cached_property

from shared import cloud_api
from shared.channel_keys import KeyRing
from shared.db import Database
from shared.health import POSTGREST
from shared.inbox import Inbox
from shared.intake import Intake
from shared.options import Number, Option
from shared.providers import OF_THE_APP, PROVIDERS
from shared.runtime import Deps, Request, Response, Route, serve
from shared.settings import Setting, Settings
from shared.throttle import Throttle


class WebhookSettings(Settings):
    meta_app_secret = Setting("signs what Meta posts; two, separated by a comma, during a rotation")
    meta_verify_token = Setting("word that Meta repeats when the callback URL is registered")
    webhook_public_url = Option("address of this function as providers call it, which Twilio signs", "")
    functions_url = Option("where our functions are; this one is at /webhook of it", "")
    webhook_unsigned_burst = Number("unsigned requests that one address may make at once", 300)
    webhook_unsigned_per_second = Number("unsigned requests that one address may make in the long run", 5)

    @property
    def public_url(self) -> str:
        return (self.webhook_public_url or f"{self.functions_url}/webhook").rstrip("/")


class WebhookDeps(Deps):
    settings: WebhookSettings

    @cached_property
    def intake(self) -> Intake:
        settings, database = self.settings, Database(self.settings)
        return Intake(
            cloud_api.app_keys(settings.meta_app_secret),
            KeyRing(lambda number_id: database.channel_webhook_keys(number_id=number_id)),
            Inbox(lambda batch: database.webhook_receive(batch=batch)),
            Throttle(settings.webhook_unsigned_burst, settings.webhook_unsigned_per_second),
            settings.public_url,
        )


async def subscribe(request: Request, deps: WebhookDeps) -> Response:
    """Answer the handshake Meta sends when the callback URL is registered."""
    return Response(200, cloud_api.answer_handshake(request.query, deps.settings.meta_verify_token))


async def admit(request: Request, deps: WebhookDeps) -> None:
    await deps.intake.admit(request)


async def receive(request: Request, deps: WebhookDeps) -> Response:
    return await deps.intake.receive(request)


POST = Route(receive, gate=admit)

main = serve(
    {
        ("GET", f"/{OF_THE_APP}"): subscribe,
        ("POST", f"/{OF_THE_APP}"): POST,
        **{("POST", f"/{name}/{{number_id}}"): POST for name in PROVIDERS if name != OF_THE_APP},
    },
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
