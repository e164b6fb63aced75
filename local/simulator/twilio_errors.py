"""The errors of Twilio, as it words them."""

from __future__ import annotations

from typing import Any

# code: (HTTP status when it is the answer to a request, message)
ERRORS: dict[int, tuple[int, str]] = {
    11200: (400, "HTTP retrieval failure"),
    14107: (429, "Message rate limit exceeded"),
    20001: (400, "A parameter is not valid"),
    20003: (401, "Authenticate"),
    20404: (404, "The requested resource was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "Internal Server Error"),
    21211: (400, "Invalid 'To' Phone Number"),
    21603: (400, "A 'From' phone number is required"),
    21604: (400, "A 'To' phone number is required"),
    21609: (400, "Invalid 'StatusCallback' URL"),
    21610: (400, "Attempt to send to unsubscribed recipient"),
    21614: (400, "'To' number is not a valid mobile number"),
    21617: (400, "The concatenated message body exceeds the 1600 character limit"),
    21619: (400, "A message body, media URL or content SID is required"),
    21620: (400, "Invalid media URL"),
    21655: (400, "The ContentSid is invalid"),
    21656: (400, "The ContentVariables are invalid"),
    21910: (400, "Invalid 'From' and 'To' pair: both must be of the same channel"),
    30007: (400, "Message filtered"),
    30008: (400, "Unknown error"),
    63001: (401, "Channel could not authenticate the request"),
    63003: (400, "Channel could not find To address"),
    63005: (400, "Channel did not accept given content"),
    63007: (400, "Twilio could not find a Channel with the specified From address"),
    63016: (400, "Failed to send freeform message because you are outside the allowed window"),
    63018: (429, "Rate limit exceeded for Channel"),
    63019: (400, "Media failed to download"),
    63021: (400, "Channel invalid content error"),
    63024: (400, "Invalid message recipient"),
    63030: (400, "Unsupported parameter for type of channels message"),
    63032: (400, "User cannot receive this message"),
    63038: (429, "Account exceeded the daily messages limit"),
    63049: (400, "Meta chose not to deliver this marketing message"),
    63051: (400, "WhatsApp Business Account or sender is locked"),
    63059: (400, "The number was moved to another WhatsApp Business Account"),
}


class TwilioError(Exception):
    """A request that Twilio refuses."""

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.status, title = ERRORS.get(code, (400, "Unknown error"))
        self.message = message or title

    def body(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "more_info": f"https://www.twilio.com/docs/errors/{self.code}",
            "status": self.status,
        }


def refusal(code: int) -> tuple[int, object]:
    error = TwilioError(code)
    return error.status, error.body()
