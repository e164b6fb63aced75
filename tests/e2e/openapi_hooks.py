"""For `schemathesis run`: signs what it makes up, as our workers and providers do. See test_openapi.py."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests
import schemathesis

KNOWN = json.loads(os.environ["RECADO_OPENAPI"])  # {"secrets": …, "whapi": number_id, "twilio": number_id, …}


class Signed(requests.auth.AuthBase):
    """Signs the bytes that leave; half of what goes to a number goes to one that there is."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        parts = urlsplit(request.url or "").path.split("/functions/v1/", 1)[-1].split("/")
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        for number in ("whapi", "twilio"):
            if parts[:2] == ["webhook", number] and len(body) % 2 == 0:
                request.url = (request.url or "").replace(parts[-1], KNOWN[number], 1)
        headers = {
            "webhook": {
                "x-hub-signature-256": f"sha256={_hmac(KNOWN['meta_secret'], body)}",
                "x-recado-secret": KNOWN["whapi_secret"],
                "x-twilio-signature": _twilio(request, body),
            },
            "connect-number": {"authorization": f"Bearer {KNOWN['jwt']}"},
        }
        request.headers.update(headers.get(parts[0], _ours(body)))
        return request


def _ours(body: bytes) -> dict[str, str]:
    at = str(int(time.time()))
    signature = _hmac(KNOWN["functions_secret"], at.encode() + b"." + body)
    return {"x-recado-timestamp": at, "x-recado-signature": f"sha256={signature}"}


def _hmac(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _twilio(request: requests.PreparedRequest, body: bytes) -> str:
    """Of a form; what is no form is refused unless its hash is in the query."""
    path, _, query = (request.url or "").partition("/webhook/twilio/")[2].partition("?")
    url = f"{KNOWN['webhook_url']}/twilio/{path}" + (f"?{query}" if query else "")
    pairs = sorted(set(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, errors="replace")))
    said = "".join(name + value for name, value in pairs)
    return b64encode(hmac.digest(KNOWN["twilio_token"].encode(), (url + said).encode(), "sha1")).decode()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    kwargs["auth"] = Signed()
