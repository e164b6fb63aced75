"""Where a platform keeps its things: one data directory, one base port."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEFAULT_PORT = 24321  # below 32768: from there on the kernel lends ports to outgoing connections
FIRST_FUNCTION_PORT = 10  # above the base port; functions follow in alphabetical order


@dataclass(frozen=True)
class Layout:
    """Paths and ports of one platform. Two platforms differ in both, and know nothing of each other."""

    data: Path
    port: int
    env_file: Path

    @property
    def keys(self) -> Path:
        return self.data / "keys.json"

    @property
    def pgdata(self) -> Path:
        return self.data / "postgres"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def run(self) -> Path:
        return self.data / "run"

    @property
    def build(self) -> Path:
        return self.data / "build"

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    @property
    def gateway(self) -> int:
        return self.port

    @property
    def postgres(self) -> int:
        return self.port + 1

    @property
    def postgrest(self) -> int:
        return self.port + 2

    @property
    def postgrest_admin(self) -> int:
        return self.port + 3

    @property
    def auth(self) -> int:
        return self.port + 4

    @property
    def simulator(self) -> int:
        return self.port + 5

    def function(self, index: int) -> int:
        return self.port + FIRST_FUNCTION_PORT + index
