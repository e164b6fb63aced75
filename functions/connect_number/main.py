"""An admin posts here from a browser: a WhatsApp number that is theirs becomes the business's own."""

from __future__ import annotations

from functools import cached_property

from shared.accounts.base import Provider
from shared.accounts.meta import Meta, MetaSettings
from shared.accounts.meta_numbers import MetaNumbers
from shared.accounts.twilio import SenderAccountSettings, TwilioSenders
from shared.accounts.whapi import ChannelSettings, WhapiChannels
from shared.channels import Channels
from shared.db import Database
from shared.errors import BadRequestError
from shared.health import POSTGREST
from shared.runtime import Deps, Request, Response, serve
from shared.settings import Setting


class ConnectSettings(MetaSettings, ChannelSettings, SenderAccountSettings):
    webhook_public_url = Setting("public address of the function webhook")


class ConnectDeps(Deps):
    settings: ConnectSettings

    @cached_property
    def channels(self) -> Channels:
        providers: dict[str, Provider] = {
            "cloud_api": MetaNumbers(Meta(self.settings)),
            "whapi": WhapiChannels(self.settings),
            "twilio": TwilioSenders(self.settings),
        }
        return Channels(Database(self.settings), providers, self.settings.webhook_public_url)


async def connect(request: Request, deps: ConnectDeps) -> Response:
    """Connect a number, or mend one that is connected."""
    wanted = request.json()
    if not isinstance(wanted, dict):
        raise BadRequestError("The body is not an object.", hint='Send {"provider": …} with its fields.')
    answer = await deps.channels.connect(request.headers.get("authorization", ""), wanted)
    return Response.json(200, answer, {"cache-control": "no-store"})


main = serve(
    {("POST", "/"): connect},
    needs=[
        ConnectSettings.supabase_url,
        ConnectSettings.supabase_anon_key,
        ConnectSettings.supabase_service_role_key,
        ConnectSettings.webhook_public_url,
    ],
    dependencies=[POSTGREST],
    max_body=16_384,
    for_browsers=True,
    deps=lambda: ConnectDeps(ConnectSettings()),
)
