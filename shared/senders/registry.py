"""Who sends for each provider. A new one: a module beside graph.py, its settings, and a line here.

Import it when something is to be sent: functions that may send start without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.senders.graph import Graph
from shared.senders.settings import SenderSettings
from shared.senders.twilio import Twilio
from shared.senders.whapi import Whapi

SENDERS: Mapping[str, type[Graph | Whapi | Twilio]] = {
    "cloud_api": Graph,
    "whapi": Whapi,
    "twilio": Twilio,
}


def senders(settings: SenderSettings) -> Mapping[str, Graph | Whapi | Twilio]:
    """One of each for this process."""
    return {provider: make(settings) for provider, make in SENDERS.items()}
