"""What Twilio remembers of an account: its messages, newest first, in pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlencode

from local.simulator.messages import Received, Sent
from local.simulator.outside import Outside
from local.simulator.twilio_errors import ERRORS, TwilioError
from local.simulator.twilio_voice import address_of, whatsapp
from local.simulator.world import Number

_FIRST, _MOST = 50, 1000


class History:
    def __init__(self, outside: Outside) -> None:
        self._out = outside

    def numbers(self, account: str) -> list[Number]:
        known = self._out.world.numbers()
        return [one for one in known if one.provider == "twilio" and one.account == account]

    def messages(self, account: str, query: Mapping[str, str]) -> dict[str, Any]:
        found = [resource for _, resource in self._all(account, query)]
        return page(f"{_uri(account)}.json", query, "messages", found)

    def message(self, account: str, sid: str) -> dict[str, Any]:
        for number in self.numbers(account):
            sent = self._out.messages.sent_message(sid)
            found = sent or self._out.messages.received_message(number.number, sid)
            if found and (not sent or sent.number == number.number):
                return self.describe(number, found)
        raise TwilioError(20404)

    def media(self, account: str, sid: str) -> dict[str, Any]:
        for number in self.numbers(account):
            if received := self._out.messages.received_message(number.number, sid):
                found = [_media(account, sid, received.message)] if "MediaUrl0" in received.message else []
                return page(f"{_uri(account)}/{sid}/Media.json", {}, "media_list", found)
        raise TwilioError(20404)

    def describe(self, number: Number, message: Received | Sent) -> dict[str, Any]:
        is_sent = isinstance(message, Sent)
        contact = self._out.world.contact(number.number, message.bsuid)
        ours, theirs = whatsapp(number.phone), address_of(contact)
        status, code = self._status(message) if isinstance(message, Sent) else ("received", None)
        at = format_datetime(datetime.fromtimestamp(int(message.at), UTC))
        uri = f"{_uri(number.account)}/{message.wa_message_id}"
        return {
            "sid": message.wa_message_id,
            "account_sid": number.account,
            "api_version": "2010-04-01",
            "messaging_service_sid": None,
            "from": ours if is_sent else theirs,
            "to": theirs if is_sent else ours,
            "body": message.said.text,
            "direction": "outbound-api" if is_sent else "inbound",
            "status": status,
            "error_code": code,
            "error_message": ERRORS[code][1] if code else None,
            "num_media": "1" if "MediaUrl" in message.message or "MediaUrl0" in message.message else "0",
            "num_segments": "1",
            "price": None,
            "price_unit": "USD",
            "date_created": at,
            "date_sent": at,
            "date_updated": at,
            "uri": f"{uri}.json",
            "subresource_uris": {"media": f"{uri}/Media.json"},
        }

    def _status(self, sent: Sent) -> tuple[str, int | None]:
        ticks, told = self._out.webhooks.last_status(sent.wa_message_id)
        return ("queued" if ticks == "accepted" else ticks), int(told.get("ErrorCode", 0)) or None

    def _all(self, account: str, query: Mapping[str, str]) -> list[tuple[float, dict[str, Any]]]:
        wanted = _Wanted(query)
        found = [
            (message.at, resource)
            for number in self.numbers(account)
            for message in self._both(number)
            if wanted.time(message.at) and wanted.ends(resource := self.describe(number, message))
        ]
        return sorted(found, key=lambda one: one[0], reverse=True)

    def _both(self, number: Number) -> list[Received | Sent]:
        return [*self._out.messages.received(number.number), *self._out.messages.sent(number.number)]


class _Wanted:
    """The filters of a list: To, From, DateSent, and DateSent> and < for from and until."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = query
        self._days = [query["DateSent"][:10]] if "DateSent" in query else []
        if self._days:
            _moment(query["DateSent"])
        self._since = _moment(query["DateSent>"]) if "DateSent>" in query else 0.0
        self._until = _moment(query["DateSent<"]) if "DateSent<" in query else float("inf")

    def time(self, at: float) -> bool:
        day = datetime.fromtimestamp(at, UTC).date().isoformat()
        return int(self._since) <= at <= self._until and (not self._days or day in self._days)

    def ends(self, resource: Mapping[str, Any]) -> bool:
        return all(resource[key] == self._query.get(key.title(), resource[key]) for key in ("to", "from"))


def page(path: str, query: Mapping[str, str], name: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A page of the 2010 API; its links are relative to the host."""
    size, index = page_size(query), _whole(query, "Page", 0)
    kept = {key: value for key, value in query.items() if key not in ("Page", "PageToken", "PageSize")}

    def link(number: int) -> str:
        return f"{path}?{urlencode({**kept, 'PageSize': size, 'Page': number})}"

    part = found[index * size : (index + 1) * size]
    return {
        name: list(part),
        "page": index,
        "page_size": size,
        "start": index * size,
        "end": index * size + max(len(part) - 1, 0),
        "uri": link(index),
        "first_page_uri": link(0),
        "previous_page_uri": link(index - 1) if index else None,
        "next_page_uri": link(index + 1) if len(found) > (index + 1) * size else None,
    }


def page_size(query: Mapping[str, str]) -> int:
    size = _whole(query, "PageSize", _FIRST)
    if not 1 <= size <= _MOST:
        raise TwilioError(20001, f"PageSize must be between 1 and {_MOST}")
    return size


def page_index(query: Mapping[str, str]) -> int:
    return _whole(query, "Page", 0)


def _whole(query: Mapping[str, str], name: str, default: int) -> int:
    given = query.get(name, str(default))
    if not given.isdecimal():
        raise TwilioError(20001, f"{name} must be a whole number")
    return int(given)


def _moment(text: str) -> float:
    """A day, or a moment in ISO 8601; both in UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise TwilioError(20001, f"{text!r} is no date") from exc
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _media(account: str, sid: str, form: Mapping[str, str]) -> dict[str, Any]:
    media = form["MediaUrl0"].rpartition("/")[2]
    return {
        "sid": media,
        "account_sid": account,
        "parent_sid": sid,
        "content_type": form["MediaContentType0"],
        "uri": f"{_uri(account)}/{sid}/Media/{media}.json",
    }


def _uri(account: str) -> str:
    return f"/2010-04-01/Accounts/{account}/Messages"
