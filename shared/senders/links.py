"""Links that people and models write into messages, before they are handed to a provider that fetches them.

Only what the whole world can reach: https, no user or password in it, and a host that is neither this machine
nor a private network, however it is spelt and whatever its name resolves to. We fetch none of them ourselves.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from shared.cache import Cache, Clock
from shared.senders.base import UnsendableError

RESOLVE_SECONDS = 1.0
KNOWN_SECONDS = 300.0  # an answer about a name is remembered
_NAMES = 2_000
# RFC 6761, 6762, 7686, 8375, and what clouds and offices call their own
_INSIDE = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "corp", "private", "onion")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.ASCII)

_NOBODY = ipaddress.IPv4Address(0)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str], Awaitable[Iterable[str]]]


def links_of(data: Any) -> Iterator[str]:
    """Every link of a message's data, as providers have them: the value of a key `link`, at any depth."""
    if isinstance(data, dict):
        for name, value in data.items():
            if name == "link" and isinstance(value, str):
                yield value
            else:
                yield from links_of(value)
    elif isinstance(data, list):
        for value in data:
            yield from links_of(value)


def host_of(link: str) -> str:
    """The host of a link that may be handed over as far as its spelling goes. UnsendableError: it may not."""
    if re.search(r"[\s\\\x00-\x20\x7f]", link):
        raise _refusal("has a character that does not belong into a link")
    try:
        parts = urlsplit(link)
        _ = parts.port  # ValueError: it is no number
        host = (parts.hostname or "").encode("idna").decode().rstrip(".").lower()
    except ValueError as exc:
        raise _refusal("cannot be read") from exc
    if parts.scheme != "https":
        raise _refusal("must start with https://")
    if "@" in parts.netloc or "%" in parts.netloc:
        raise _refusal("has more than a host before its path")
    address = _literal(host)
    is_inside = "." not in host or any(host == name or host.endswith(f".{name}") for name in _INSIDE)
    if (address is not None and not _is_public(address)) or (address is None and is_inside):
        raise _refusal("leads into a private network")
    return host


class Guard:
    """Remembers what names resolved to. `resolve` gives the addresses of a name, or raises OSError."""

    def __init__(self, resolve: Resolve | None = None, clock: Clock = time.monotonic) -> None:
        self._resolve = resolve or _system
        self._known: Cache[str, bool] = Cache(KNOWN_SECONDS, entries=_NAMES, clock=clock)

    async def check(self, data: Any) -> None:
        """UnsendableError: a link of this message must not be handed over."""
        for link in links_of(data):
            if not await self._is_public(host_of(link)):
                raise _refusal("leads into a private network")

    async def _is_public(self, host: str) -> bool:
        """A name nobody resolves in time is the provider's to refuse: it asks other servers than we do."""
        if (known := self._known.get(host)) is not None:
            return known
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                public = all(_is_public(ipaddress.ip_address(one)) for one in await self._resolve(host))
        except (OSError, ValueError):  # TimeoutError is one
            public = True
        self._known.put(host, public)
        return public


async def _system(host: str) -> Iterable[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return [str(address[0]).partition("%")[0] for *_, address in found]


def _literal(host: str) -> Address | None:
    """The address a host spells, in any of the ways resolvers read: 127.1, 2130706433, 0x7f.0.0.1, 0177.1"""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    parts = host.split(".")
    if not _NUMBER.fullmatch(parts[-1]):
        return None
    if len(parts) > 4:
        return _NOBODY
    try:
        *heads, last = [_number(part) for part in parts]
        value = sum(head << (24 - 8 * place) for place, head in enumerate(heads)) + last
        return ipaddress.IPv4Address(value)
    except ValueError:  # no address, and no name either
        return _NOBODY


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") and part != "0" else 10)


def _is_public(address: Address) -> bool:
    """Also when an IPv4 address hides in it: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ()), _translated(address)]
        if any(one is not None for one in inner):
            return all(_is_public(one) for one in inner if one is not None)
    return address.is_global and not address.is_multicast


def _translated(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """RFC 6052's well-known prefix, and addresses that are merely compatible."""
    if address in ipaddress.ip_network("64:ff9b::/96") or int(address) >> 32 == 0:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _refusal(why: str) -> UnsendableError:
    return UnsendableError(f"The link {why}; send a public https link to the file.")
