"""Where the providers are."""

from __future__ import annotations

from shared.options import Number, Option, Url
from shared.settings import Settings


class GraphSettings(Settings):
    graph_url = Url("where Meta's Graph API is", "https://graph.facebook.com")
    graph_version = Option("version of Meta's Graph API", "v26.0")
    graph_seconds = Number("how long Meta may take to accept a message", 20)


class WhapiSettings(Settings):
    whapi_url = Url("where Whapi is", "https://gate.whapi.cloud")
    whapi_seconds = Number("how long Whapi may take to accept a message", 30)


class TwilioSettings(Settings):
    twilio_url = Url("where Twilio's API is", "https://api.twilio.com")
    twilio_seconds = Number("how long Twilio may take to accept a message", 20)
    webhook_public_url = Option("address of the function webhook as Twilio calls it for each status", "")
    functions_url = Option("where our functions are; webhook is at /webhook of it", "")

    @property
    def status_url(self) -> str:
        """Empty when nobody said where: then no status comes back."""
        inside = f"{self.functions_url.rstrip('/')}/webhook" if self.functions_url else ""
        return (self.webhook_public_url or inside).rstrip("/")


class SenderSettings(GraphSettings, WhapiSettings, TwilioSettings):
    """All of them."""
