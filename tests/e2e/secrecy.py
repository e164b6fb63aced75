"""What a platform knows of people and must tell nobody: looked for in all that it wrote and answered.

What is looked for comes from the platform's own rows and vault, so that a test need not say what it planted.
Findings name file and line, and never what was found there.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest

from tests.e2e.platforms import Platform

SHORTEST = 12  # characters of a text or token: shorter ones are words that anybody may use
NOT_OURS = {"simulator"}  # it plays the providers, who know these messages in any case
ENVIRONMENT = ("SECRET", "SERVICE_ROLE_KEY", "OPENAI_API_KEY", "VERIFY_TOKEN")
_DIGITS = re.compile(r"\d{8,15}|\+?\d(?:[\s().-]{0,2}\d){7,14}")
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})", re.IGNORECASE)


@dataclass
class Known:
    """Phones in digits; texts and tokens by how they begin."""

    phones: set[str] = field(default_factory=set, repr=False)
    words: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set), repr=False)

    def learn(self, platform: Platform) -> None:
        """All that a running platform holds."""
        query = platform.query
        self.phones |= {row[0] for row in query("select phone from public.customer_leads where phone <> ''")}
        self.phones |= {
            row[0]
            for row in query("select phone_number from public.whatsapp_numbers where phone_number <> ''")
        }
        self._note("a text", query("select distinct content from public.messages where content <> ''"))
        self._note(
            "a secret",
            query(
                "select decrypted_secret from vault.decrypted_secrets where name <> 'functions_url'"
                " or name is null"
            ),
        )
        self._note(
            "a secret", ((value,) for name, value in platform.env.items() if name.endswith(ENVIRONMENT))
        )

    def found_in(self, line: str) -> set[str]:
        """What a line tells: "a phone", "a text", "a secret"."""
        line = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), line)
        runs = {re.sub(r"\D", "", run) for run in _DIGITS.findall(line)} | set(re.findall(r"\d{8,15}", line))
        return ({"a phone"} if runs & self.phones else set()) | {
            kind
            for at in range(len(line) - SHORTEST + 1)
            for kind, whole in self.words.get(line[at : at + SHORTEST], ())
            if line.startswith(whole, at)
        }

    def _note(self, kind: str, rows: Iterable[tuple[Any, ...]]) -> None:
        for (said,) in rows:
            first = str(said).splitlines()[0].strip() if str(said).strip() else ""
            if len(first) >= SHORTEST:
                self.words[first[:SHORTEST]].add((kind, first))


@dataclass
class Watch:
    """Of a whole test session: the logs of all its platforms, and every refusal that anybody got."""

    known: Known = field(default_factory=Known)
    refusals: set[tuple[str, str, str]] = field(default_factory=set, repr=False)  # test, request, body
    findings: set[str] = field(default_factory=set)
    lines: int = 0

    def look(self, platform: Platform) -> None:
        """Before a platform goes; one that a test left broken is read with what is known of the others."""
        with suppress(psycopg.Error, OSError):
            self.known.learn(platform)
        for log in sorted((platform.data / "logs").glob("*.log*")):
            if log.name.partition(".")[0] not in NOT_OURS:
                text = log.read_text(errors="replace")
                self._read(str(log.name), enumerate(text.splitlines(), start=1))

    def look_at_refusals(self) -> None:
        for test, request, body in self.refusals:
            self._read(f"{test}: {request}", enumerate(body.splitlines(), start=1))

    def _read(self, name: str, lines: Iterable[tuple[int, str]]) -> None:
        for number, line in lines:
            self.lines += 1
            for kind in self.known.found_in(line):
                self.findings.add(f"{name}:{number} tells {kind}")


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Note the body of every refusal that a test's clients get from us, and not from the simulator."""
    send = httpx.Client.send

    def noting(self: httpx.Client, request: httpx.Request, **more: Any) -> httpx.Response:
        answer = send(self, request, **more)
        if answer.is_error and not more.get("stream") and not request.url.path.startswith("/control/"):
            watch.refusals.add((_test(), f"{request.method} {request.url.path}", answer.text))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx.Client, "send", noting)
        yield


def _test() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "?").rpartition("::")[2].partition(" ")[0]
