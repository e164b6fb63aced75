"""The errors of Whapi: an HTTP status, and the same number as a code."""

from __future__ import annotations

from typing import Any

ERRORS: dict[int, str] = {
    400: "Wrong request parameters",
    401: "Channel authorization error",
    402: "Trial version limit exceeded",
    403: "Forbidden",
    404: "Specified item is not found",
    409: "Label is already associated with this item",
    413: "Media is too large",
    415: "Unsupported media type",
    429: "Too many requests",
    500: "Internal server error",
}


class WhapiError(Exception):
    """A request that Whapi refuses."""

    def __init__(self, code: int, details: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.details = details

    def body(self) -> dict[str, Any]:
        details = {"details": self.details} if self.details else {}
        href = "https://support.whapi.cloud/help-desk"
        return {
            "error": {"code": self.code, "message": ERRORS.get(self.code, "Error"), **details, "href": href}
        }


def refusal(code: int) -> tuple[int, object]:
    """Status and body of an error; one that is no HTTP status comes as a 500."""
    return (code if code in ERRORS else 500), WhapiError(code).body()
