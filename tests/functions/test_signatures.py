"""Who is not the one they say gets in nowhere: each way to spoil a valid proof, for each proof we take."""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
from starlette.datastructures import Headers

from shared import cloud_api, signature, twilio, whapi
from shared.channel_keys import Keys
from shared.errors import UnauthorizedError
from shared.runtime import Request

BODY, OTHER = '{"text": "¿Mañana? 😀"}'.encode(), '{"text": "¿Manana? 😀"}'.encode()
SECRET = "the-secret-of-the-battery-0123456789abcdef"
ADDRESS = "https://crm.example/webhook/twilio/0198-t"
# the same text for people, other bytes for a signature
RESHAPED = [BODY + b" ", BODY.replace(b": ", b":"), b"\xef\xbb\xbf" + BODY, BODY.decode().encode("utf-16")]


@dataclass(frozen=True)
class Proof:
    """`make(secret, body)`: the header's value; `check(secret, headers, body)` raises unless it is right."""

    header: str
    make: Callable[[str, bytes], str]
    check: Callable[[str, Mapping[str, str], bytes], None]
    signs_body: bool = True

    def accepts(self, value: str, body: bytes = BODY, secret: str = SECRET) -> bool:
        return self.accepts_headers([value], body, secret)

    def accepts_headers(self, values: list[str], body: bytes = BODY, secret: str = SECRET) -> bool:
        raw = [(self.header.encode(), value.encode("utf-8")) for value in values]
        try:
            self.check(secret, Headers(raw=[*raw, (b"content-type", b"application/json")]), body)
        except UnauthorizedError:
            return False
        return True


def _meta(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    cloud_api.verify(Request("POST", "/cloud-api", headers=headers, body=body), Keys(secrets=(secret,)))


def _whapi(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    whapi.verify(Request("POST", "/whapi/x", headers=headers, body=body), Keys(secrets=(secret,)))


def _twilio_address(body: bytes) -> str:
    return f"bodySHA256={hashlib.sha256(body).hexdigest()}"


def _sign_twilio(secret: str, body: bytes) -> str:
    url = f"{ADDRESS}?{_twilio_address(body)}"
    return b64encode(hmac.digest(secret.encode(), url.encode(), "sha1")).decode()


def _twilio(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    query = _twilio_address(body)
    request = Request(
        "POST", "/twilio/x", query=dict([query.split("=")]), headers=headers, body=body, query_string=query
    )
    twilio.verify(request, Keys(address=ADDRESS, secrets=(secret,)))


NOW = int(time.time())


def _ours(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    signature.check(secret, {**headers, signature.TIMESTAMP: str(NOW)}, body)


PROOFS = {
    "meta": Proof(
        cloud_api.SIGNATURE,
        lambda secret, body: "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex(),
        _meta,
    ),
    "whapi": Proof(whapi.SIGNATURE, lambda secret, body: secret, _whapi, signs_body=False),
    "twilio": Proof(twilio.SIGNATURE, _sign_twilio, _twilio),
    "ours": Proof(
        signature.SIGNATURE,
        lambda secret, body: signature.sign(secret, body, at=NOW)[signature.SIGNATURE],
        _ours,
    ),
}


def _flip(value: str, place: int) -> str:
    other = "1" if value[place] != "1" else "2"
    return value[:place] + other + value[place + 1 :]


SPOILT: dict[str, Callable[[str], str]] = {
    "empty": lambda value: "",
    "one character short": lambda value: value[:-1],
    "half of it": lambda value: value[: len(value) // 2],
    "only its beginning": lambda value: value[:10],
    "only its end": lambda value: value[-10:],
    "one character more": lambda value: value + "0",
    "twice": lambda value: value + value,
    "another last character": lambda value: _flip(value, -3),
    "another character after the tenth": lambda value: _flip(value, 12),
    "another first character": lambda value: _flip(value, 0),
    "in capitals": lambda value: value.upper(),
    "turned around": lambda value: value[::-1],
    "a look-alike letter": lambda value: value[:-1] + "а",  # noqa: RUF001
    "a space in it": lambda value: value[:8] + " " + value[8:],
    "another algorithm named": lambda value: value.replace("sha256=", "sha1=").replace("=", "==", 1) + "-",
    "a zero byte at its end": lambda value: value + "\0",
    "two in one header": lambda value: f"{value}, {value}",
}
each_proof = pytest.mark.parametrize("proof", PROOFS.values(), ids=PROOFS)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


@each_proof
def test_the_right_one_is_accepted_and_none_at_all_refused(proof: Proof) -> None:
    assert proof.accepts(proof.make(SECRET, BODY))
    assert not proof.accepts_headers([])


@each_proof
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_one_is_refused(proof: Proof, spoil: Callable[[str], str]) -> None:
    assert not proof.accepts(spoil(proof.make(SECRET, BODY)))


@each_proof
@pytest.mark.parametrize("secret", ["", SECRET[:-1], SECRET + "0", SECRET.upper(), "of another app"])
def test_one_made_with_another_secret_is_refused(proof: Proof, secret: str) -> None:
    assert not proof.accepts(proof.make(secret, BODY))


@pytest.mark.parametrize("name", [name for name, proof in PROOFS.items() if proof.signs_body])
@pytest.mark.parametrize("body", [OTHER, b"", BODY[:-1], *RESHAPED])
def test_one_of_another_body_is_refused(name: str, body: bytes) -> None:
    proof = PROOFS[name]

    assert not proof.accepts(proof.make(SECRET, body))
    assert not proof.accepts(proof.make(SECRET, BODY), body)


@each_proof
def test_a_forged_one_is_not_saved_by_a_right_one_behind_it(proof: Proof) -> None:
    right, forged = proof.make(SECRET, BODY), proof.make("of another app", BODY)

    assert not proof.accepts_headers([forged, right])


@pytest.mark.parametrize("age", [-301, 301, 86_400])
def test_a_recorded_call_of_ours_is_refused_five_minutes_later(age: int) -> None:
    recorded = signature.sign(SECRET, BODY, at=NOW - age)

    with pytest.raises(UnauthorizedError):
        signature.check(SECRET, recorded, BODY)
    with pytest.raises(UnauthorizedError):  # nor with a newer time beside it
        signature.check(SECRET, {**recorded, signature.TIMESTAMP: str(NOW)}, BODY)
