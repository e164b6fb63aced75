"""Who calls: the tokens every provider of this world takes, until they end."""

from __future__ import annotations

from local.simulator.clock import Clock
from local.simulator.http import Fields
from local.simulator.store import Store

DEMO = "demo-token-"  # followed by what it is good for; public by design


class Tokens:
    """A `demo-token-<number, channel or account>` is good from the start, any other once it was issued."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        store.create("token", _TOKEN)

    def note(self, token: str, subject: str, expires_at: float | None = None) -> None:
        """Good for `subject` until then; an earlier note of the same token is forgotten."""
        self._store.run("insert or replace into token values (?, ?, ?)", token, subject, expires_at)

    def subject(self, token: str) -> str | None:
        """What a token is good for; None when it never was, or has ended."""
        row = self._store.row("select * from token where token = ?", token)
        if row is None:
            return token.removeprefix(DEMO) if token.startswith(DEMO) else None
        ended = row["expires_at"] is not None and row["expires_at"] <= self._clock.now()
        return None if ended else str(row["subject"])

    def latest(self, subject: str) -> str:
        """The one that was made last: what an account signs with."""
        found = self._store.value(
            """select token from token where subject = ? and (expires_at is null or expires_at > ?)
            order by rowid desc limit 1""",
            subject,
            self._clock.now(),
        )
        return str(found or DEMO + subject)

    def expires_at(self, token: str) -> float | None:
        found = self._store.value("select expires_at from token where token = ?", token)
        return None if found is None else float(found)


def parse(given: Fields) -> tuple[str, str, float | None]:
    """Token, subject and seconds to live; without `expires_in` it never ends, with 0 it has ended."""
    token = given.text("token")
    subject = given.text("subject", token.removeprefix(DEMO))
    seconds = given.number("expires_in") if given.raw("expires_in") is not None else None
    given.end()
    return token, subject, seconds


_TOKEN = "create table if not exists token (token text primary key, subject text not null, expires_at real)"  # noqa: S105
