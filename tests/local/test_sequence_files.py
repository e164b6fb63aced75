"""What the client of sequence files makes of a refusal."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from local.sequence_files import Library, Refused


def refusal(**body: Any) -> Refused:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json=body)

    client = httpx.Client(base_url="http://project.example", transport=httpx.MockTransport(answer))
    with pytest.raises(Refused) as refused:
        Library(client).take({})
    return refused.value


def test_faults_are_told_with_their_paths() -> None:
    faults = [{"path": "version", "fault": "is 2"}]
    told = refusal(message="version is 2.", hint="Correct it.", details=json.dumps({"faults": faults}))

    assert (told.message, told.hint, told.faults) == ("version is 2.", "Correct it.", [("version", "is 2")])


def test_details_in_words_of_postgres_are_the_hint() -> None:
    told = refusal(message="unsupported escape", hint=None, details="\\u0000 cannot be converted to text.")

    assert (told.message, told.hint) == ("unsupported escape", "\\u0000 cannot be converted to text.")
