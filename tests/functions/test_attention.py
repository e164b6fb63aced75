"""attention: a customer whose chat is taken sees it; nothing waits for that, and nothing fails with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from shared import attention
from shared.attention import Attention
from shared.errors import DatabaseError
from shared.senders.base import Credentials
from shared.senders.gestures import Inbound, ShowsTyping
from shared.tokens import Tokens

TOKEN = "the token"
SEEN = {
    "message_id": "wamid.9",
    "tenant_id": "tenant",
    "number_id": "number",
    "provider": "cloud_api",
    "provider_number_id": "100",
    "account_id": None,
    "to": {"phone": "573001112233"},
}


class Vault:
    def __init__(self, token: str | None = TOKEN, trouble: Exception | None = None) -> None:
        self.token = token
        self.trouble = trouble
        self.asked = 0

    async def channel_tokens(self, *, numbers: Sequence[Any]) -> list[Any]:
        self.asked += 1
        if self.trouble:
            raise self.trouble
        return [{**number, "token": self.token} for number in numbers if self.token]


class Phone:
    """What the customer sees."""

    def __init__(self, is_shown: bool = True, slow: bool = False) -> None:
        self.is_shown = is_shown
        self.slow = slow
        self.shown: list[tuple[Inbound, str]] = []

    async def typing(self, inbound: Inbound, credentials: Credentials) -> bool:
        if self.slow:
            await asyncio.Event().wait()
        self.shown.append((inbound, credentials.token))
        return self.is_shown


def show(vault: Vault, phone: ShowsTyping, times: int = 1, **changes: Any) -> None:
    def senders() -> Mapping[str, ShowsTyping]:
        return {"cloud_api": phone}

    async def within() -> None:
        paying = Attention(Tokens(vault), senders)
        for _ in range(times):
            paying.show({**SEEN, **changes})
            await asyncio.gather(*paying._running)

    asyncio.run(within())


def test_the_customer_sees_it_on_the_message_they_wrote_last() -> None:
    phone = Phone()

    show(Vault(), phone)

    assert phone.shown == [(Inbound(id="wamid.9", sender="100", phone="573001112233"), TOKEN)]


def test_a_token_is_kept_until_it_is_of_no_use() -> None:
    good, bad = Vault(), Vault()

    show(good, Phone(), times=2)
    show(bad, Phone(is_shown=False), times=2)

    assert (good.asked, bad.asked) == (1, 2)


@pytest.mark.parametrize(
    ("vault", "changes"),
    [
        (Vault(token=None), {}),
        (Vault(trouble=DatabaseError()), {}),
        (Vault(), {"provider": "telegraph"}),
        (Vault(), {"to": "nobody"}),
    ],
)
def test_whatever_is_wrong_stays_here(vault: Vault, changes: dict[str, Any]) -> None:
    phone = Phone()

    show(vault, phone, **changes)

    assert phone.shown == []


def test_a_provider_that_does_not_answer_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LATE_SECONDS", 0.01)

    show(Vault(), Phone(slow=True))
