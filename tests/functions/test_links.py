"""Addresses that come from data: we fetch none of them, and hand none over that leads inside."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import outward
from shared.errors import InternalError
from shared.senders.base import UnsendableError
from shared.senders.links import Guard, host_of, links_of
from tests.functions.provider import Provider

ROOT = Path(__file__).parents[2]
PUBLIC = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]

INSIDE = [
    *("127.0.0.1", "127.1", "127.0.0.1.", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001"),
    *("0.0.0.0", "0", "10.0.0.5", "172.16.9.9", "192.168.1.1", "100.64.0.1", "198.18.0.1", "255.255.255.255"),
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"),
    *("224.0.0.1", "[::1]", "[::]", "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fd00:ec2::254]"),
    *("[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[::127.0.0.1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[2001:0:7f00:1::]", "[ff02::1]", "[2001:db8::1]"),
    *("localhost", "LOCALHOST", "localhost.", "a.localhost", "metadata.google.internal", "printer.local"),
    *("router.lan", "nas.home.arpa", "intranet", "metadata", "１２７.0.0.1", "127。0。0。1", "ⓛocalhost"),  # noqa: RUF001
]
ODD = [
    *(
        "http://example.com/a",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_",
        "//a.com",
    ),
    *("https:/example.com", "https:example.com", "https://", "javascript:alert(1)", "data:text/html,x", ""),
    *("https://user@example.com/", "https://user:secret@example.com/", "https://example.com@127.0.0.1/"),
    *("https://127.0.0.1#@example.com/", "https://127.0.0.1\\@example.com/", "https://example.com%2f@x.com/"),
    *("https://exa mple.com/", "https://example.com/\r\nHost: x", "https://example.com/\0", "https://[::1/"),
    *("https://example.com:x/", "https://example.com:99999/", "https://1.2.3.4.5/", "https://0x/"),
    *("https://%31%32%37.0.0.1/", "\thttps://127.0.0.1/", "https://256.256.256.256/"),
]


async def to_public(host: str) -> Iterable[str]:
    return PUBLIC


def check(link: str, resolve: Any = to_public) -> None:
    asyncio.run(Guard(resolve).check({"media": {"link": link}}))


@pytest.mark.parametrize("host", INSIDE)
@pytest.mark.parametrize("rest", ["/a.jpg", ":443/a.jpg", "?x=1"])
def test_a_link_to_this_machine_or_a_private_network_is_refused_however_it_is_spelt(
    host: str, rest: str
) -> None:
    with pytest.raises(UnsendableError, match="The link"):
        check(f"https://{host}{rest}")


@pytest.mark.parametrize("link", ODD)
def test_a_link_that_is_no_plain_https_link_is_refused(link: str) -> None:
    with pytest.raises(UnsendableError):
        check(link)


@pytest.mark.parametrize(
    "link",
    [
        *(
            "https://example.com/a.jpg",
            "https://EXAMPLE.com.:8443/a?b=c#d",
            "https://xn--clnica-3va.example/x",
        ),
        *("https://clínica.example/día.pdf", "https://93.184.216.34/a", "https://[2606:2800:220:1::1]/a"),
        *(
            "https://x.example/?to=http://127.0.0.1/",
            "https://127.0.0.1.example/",
            "https://a.b.c.d.example/",
        ),
    ],
)
def test_a_public_link_is_handed_over(link: str) -> None:
    check(link)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["::ffff:10.0.0.1"], ["fe80::1"], [*PUBLIC, "192.168.0.1"]],
)
def test_a_name_that_resolves_inside_is_refused(addresses: list[str]) -> None:
    async def resolve(host: str) -> Iterable[str]:
        return addresses

    with pytest.raises(UnsendableError, match="private network"):
        check("https://innocent.example/a.jpg", resolve)


@pytest.mark.parametrize("trouble", [OSError("no such name"), TimeoutError()])
def test_a_name_that_we_cannot_resolve_is_the_providers_to_judge(trouble: Exception) -> None:
    async def resolve(host: str) -> Iterable[str]:
        raise trouble

    check("https://innocent.example/a.jpg", resolve)


def test_a_name_is_resolved_once_in_five_minutes() -> None:
    asked, now = [], [0.0]

    async def resolve(host: str) -> Iterable[str]:
        asked.append(host)
        return PUBLIC

    async def twice() -> None:
        guard = Guard(resolve, lambda: now[0])
        for now[0] in (0.0, 299.0, 301.0):
            await guard.check({"link": "https://a.example/1"})

    asyncio.run(twice())

    assert asked == ["a.example", "a.example"]


def test_links_are_found_wherever_a_message_has_them() -> None:
    header = {"type": "header", "parameters": [{"type": "image", "image": {"link": "https://a.example/1"}}]}
    data = {
        "media": {"link": "https://a.example/0"},
        "template": {"components": [header]},
        "interactive": {"header": {"type": "video", "video": {"link": "https://a.example/2"}}},
    }

    assert [link[-1] for link in links_of(data)] == ["0", "1", "2"]
    assert {host_of(link) for link in links_of(data)} == {"a.example"}


# What we fetch


@pytest.mark.parametrize(
    "path",
    [
        *("http://169.254.169.254/latest/meta-data", "https://evil.example/x"),
        *("http://provider.example/x", "https://provider.example:8443/x", "https://provider.example/other"),
    ],
)
def test_a_client_leaves_its_one_service_for_no_path(path: str) -> None:
    provider = Provider()

    async def ask() -> None:
        async with outward.client("https://provider.example/v1", transport=provider) as http:
            await http.get(path)

    with pytest.raises(InternalError):
        asyncio.run(ask())
    assert provider.asked == []


@pytest.mark.parametrize("to", ["http://169.254.169.254/", "https://evil.example/", "/elsewhere"])
def test_a_client_follows_no_redirect(to: str) -> None:
    provider = Provider(307, location=to)

    async def ask() -> httpx.Response:
        async with outward.client("https://provider.example", transport=provider) as http:
            return await http.get("x")

    assert asyncio.run(ask()).status_code == 307
    assert len(provider.asked) == 1


def test_there_is_no_other_way_out() -> None:
    """Every client is made by outward; models are asked, and health looks, where settings say."""
    allowed = {"shared/outward.py", "shared/llm.py", "shared/health.py"}
    ways = re.compile(r"\b(\w*Client|urlopen|open_connection|create_connection|getaddrinfo)\(|httpx\.get")
    sources = [path for folder in ("shared", "functions") for path in (ROOT / folder).rglob("*.py")]

    found = {str(path.relative_to(ROOT)) for path in sources if ways.search(path.read_text())}

    assert found - allowed == {"shared/senders/links.py"}  # which only resolves names


def test_the_database_calls_only_our_own_functions() -> None:
    """v_url is a secret that whoever runs this has set."""
    sources = sorted((ROOT / "sql").glob("*.sql"))

    calls = [call for path in sources for call in re.findall(r"net\.http_\w+\(\s*(.+)", path.read_text())]

    assert calls == ["url := replace(v_url, '{function}', p_function),"]


def test_whatever_a_provider_delivers_is_stored_and_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.functions.test_fuzz import PROVIDERS, encoded, parse, places, recorded

    def refuse(*arguments: Any, **_: Any) -> Any:
        raise AssertionError(f"a connection to {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for provider in PROVIDERS:
        for document in recorded(provider):
            hostile = httpx.Response(200, json=document).json()
            for container, key in list(places(hostile)):
                if str(container[key]).startswith("http"):
                    container[key] = "http://169.254.169.254/latest/meta-data"
            assert parse(provider, encoded(provider, hostile))
