"""The errors of Meta's Graph API, as it words them."""

from __future__ import annotations

import secrets
from typing import Any

# code: (HTTP status when it is the answer to a request, title)
ERRORS: dict[int, tuple[int, str]] = {
    0: (401, "AuthException"),
    1: (400, "API Unknown"),
    2: (503, "API Service"),
    3: (500, "API Method"),
    4: (400, "API Too Many Calls"),
    10: (403, "Permission Denied"),
    33: (400, "Parameter value is not valid"),
    100: (400, "Invalid parameter"),
    190: (401, "Access token has expired"),
    200: (403, "API Permission"),
    368: (403, "Temporarily blocked for policies violations"),
    613: (400, "Calls to this api have exceeded the rate limit"),
    80007: (400, "Rate limit issues"),
    130403: (400, "User is blocked by the business"),
    130429: (400, "Rate limit hit"),
    130472: (400, "User's number is part of an experiment"),
    130497: (403, "Business account is restricted from messaging users in this country"),
    131000: (500, "Something went wrong"),
    131005: (403, "Access denied"),
    131008: (400, "Required parameter is missing"),
    131009: (400, "Parameter value is not valid"),
    131016: (500, "Service unavailable"),
    131021: (400, "Recipient cannot be sender"),
    131026: (400, "Message undeliverable"),
    131030: (400, "Recipient phone number not in allowed list"),
    131031: (403, "Account has been locked"),
    131037: (400, "Phone number display name not approved"),
    131042: (400, "Business eligibility payment issue"),
    131045: (500, "Incorrect certificate"),
    131047: (400, "Re-engagement message"),
    131048: (400, "Spam rate limit hit"),
    131049: (400, "This message was not delivered to maintain healthy ecosystem engagement"),
    131050: (400, "User has stopped receiving marketing messages from you"),
    131051: (400, "Unsupported message type"),
    131052: (400, "Media download error"),
    131053: (400, "Media upload error"),
    131056: (400, "(Business Account, Consumer Account) pair rate limit hit"),
    131057: (500, "Account in maintenance mode"),
    131062: (400, "Business-scoped user id is not allowed for this message"),
    131063: (400, "Marketing messages are disabled on Cloud API for this account"),
    131064: (400, "Account limited after template misclassification"),
    132000: (400, "Template param count mismatch"),
    132001: (404, "Template does not exist"),
    132005: (400, "Template hydrated text too long"),
    132007: (400, "Template format character policy violated"),
    132008: (400, "Template parameter value is not valid"),
    132012: (400, "Template parameter format mismatch"),
    132015: (400, "Template is paused"),
    132016: (400, "Template is disabled"),
    132068: (400, "Flow is in blocked state"),
    132069: (400, "Flow is in throttled state"),
    133010: (400, "Phone number not registered"),
    133016: (400, "Account register deregister rate limit exceeded"),
    135000: (400, "Generic user error"),
    137000: (400, "Identity key hash mismatch"),
}

_DETAILS = {
    130429: "Cloud API message throughput has been reached.",
    131026: "Message undeliverable.",
    131047: "Message failed to send because more than 24 hours have passed since the customer last replied "
    "to this number.",
    131056: "Too many messages sent from this phone number to the same phone number in a short period of "
    "time.",
}


class GraphError(Exception):
    """A request that Graph refuses."""

    def __init__(self, code: int, details: str | None = None, *, subcode: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.subcode = subcode
        self.details = details
        self.status, self.title = ERRORS.get(code, (400, "Unknown error"))

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {"message": self._message(), "type": "OAuthException", "code": self.code}
        if self.subcode:
            error |= {"type": "GraphMethodException", "error_subcode": self.subcode}
        elif self.code not in (0, 190):
            error["error_data"] = {"messaging_product": "whatsapp", "details": self._details()}
        return {"error": {**error, "fbtrace_id": "A" + secrets.token_urlsafe(16)}}

    def as_status(self) -> dict[str, Any]:
        """The same error in a `failed` status."""
        return {
            "code": self.code,
            "title": self.title,
            "message": self.title,
            "error_data": {"details": self._details()},
            "href": "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/",
        }

    def _details(self) -> str:
        return self.details or _DETAILS.get(self.code) or f"{self.title}."

    def _message(self) -> str:
        if self.subcode or self.code in (0, 190):
            return self._details()
        return f"(#{self.code}) {self.details if self.code == 100 and self.details else self.title}"


def refusal(code: int) -> tuple[int, object]:
    """HTTP status and body of an error."""
    error = GraphError(code)
    return error.status, error.body()


def bad_token(details: str) -> GraphError:
    return GraphError(190, details)


def no_such_object(number: str) -> GraphError:
    return GraphError(
        100,
        f"Unsupported post request. Object with ID '{number}' does not exist, cannot be loaded due to "
        "missing permissions, or does not support this operation. Please read the Graph API documentation at "
        "https://developers.facebook.com/docs/graph-api",
        subcode=33,
    )
