"""What workers that ask a model share: jobs claimed, done side by side, counted by how they ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from shared.drain import Claim, insist, seconds
from shared.errors import RecadoError, UnavailableError
from shared.events import JsonObject
from shared.llm import Llm

LEASE_MARGIN = 20  # seconds to settle in, beyond what the model may take


class ModelWorker(ABC):
    """A `drain.Worker`. `patience`: seconds the model may take."""

    name: str

    def __init__(self, llm: Llm, *, at_once: int, patience: float) -> None:
        self._llm = llm
        self._at_once = at_once
        self._busy = 0
        self._lease_seconds = round(patience) + LEASE_MARGIN

    @property
    def room(self) -> int:
        return self._at_once - self._busy

    async def warm(self) -> None:
        await self._llm.warm()

    async def claim(self) -> Claim:
        claimed = await self._take(self.room, self._lease_seconds)
        self._busy += len(claimed["jobs"])
        return Claim([partial(self._run, job) for job in claimed["jobs"]], seconds(claimed["next_in_ms"]))

    async def _run(self, job: JsonObject) -> Mapping[str, int]:
        try:
            return {await self._do(job): 1}
        finally:
            self._busy -= 1

    @abstractmethod
    async def _take(self, limit: int, lease_seconds: int) -> JsonObject:
        """{"jobs", "next_in_ms"}: as much as there is room for."""

    @abstractmethod
    async def _do(self, job: JsonObject) -> str:
        """In a word, how it ended."""


async def hand_in(result: Callable[[], Awaitable[str]], refused: Callable[[str], Awaitable[str]]) -> str:
    """Tell the database a result. One that it will never take counts as a failure."""
    try:
        return await insist(result)
    except UnavailableError:
        raise
    except RecadoError as exc:
        return await refused(f"The database did not take the result: {exc.message}")
