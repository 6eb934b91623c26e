"""Pictures from other servers, for hosts that the operator named; nobody else is spoken to.

URL -> one parser -> an allowed host -> all its addresses public -> a connection to the very address that was checked
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from vistune.processor import LARGEST_FILE_BYTES
from vistune.serving.api.refusal import Refusal

SECONDS = 10.0  # for a picture, redirects included
REDIRECTS = 3
Resolve = Callable[[str], Awaitable[Sequence[str]]]


async def resolve(host: str) -> list[str]:
    """All addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return sorted({str(entry[4][0]) for entry in found})


def is_public(address: str) -> bool:
    """Whether an address lies on the internet, IPv4 inside IPv6 looked into."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None) or parsed
    return bool(inner.is_global and not inner.is_multicast and not inner.is_reserved)


@dataclass(frozen=True)
class Fetcher:
    """`hosts`: exact names that pictures may come from, over https. Empty: nothing is fetched.

    `transport` and `resolve` stand in for the network in tests.
    """

    hosts: frozenset[str] = frozenset()
    seconds: float = SECONDS
    resolve: Resolve = field(default=resolve)
    transport: Any = None

    async def image(self, url: str, place: str) -> bytes:
        """A picture file's bytes. Raises Refusal; without an allowed host no socket is opened."""
        if not self.hosts:
            raise _refused(place, "a link, and this server fetches none")
        try:
            async with asyncio.timeout(self.seconds):
                for _ in range(REDIRECTS + 1):
                    data, url = await self._once(url, place)
                    if data is not None:
                        return data
        except TimeoutError:
            raise _refused(place, f"the image did not come within {self.seconds:.0f} s") from None
        except (httpx2.HTTPError, OSError):
            raise _refused(place, "the image could not be fetched; send it as a data: URL") from None
        raise _refused(place, f"the link redirects more than {REDIRECTS} times")

    async def _once(self, given: str, place: str) -> tuple[bytes | None, str]:
        """(bytes, "") or (None, where it was redirected to)."""
        url, address = await self._checked(given, place)
        literal = f"[{address}]" if ":" in address else address
        async with (
            httpx2.AsyncClient(trust_env=False, transport=self.transport, timeout=self.seconds) as client,
            client.stream(
                "GET",
                url.copy_with(host=literal),
                headers={"Host": url.host, "Accept": "image/*", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": url.host},
            ) as response,
        ):
            if response.is_redirect:
                target = url.join(response.headers.get("location", ""))
                if target.host != url.host:
                    raise _refused(place, "the link redirects to another host")
                return None, str(target)
            kind = response.headers.get("content-type", "")
            if response.status_code != 200 or not kind.startswith("image/"):
                raise _refused(place, f"the link gives no image (status {response.status_code})")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _refused(place, "the image was sent compressed")
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > LARGEST_FILE_BYTES:
                    raise _refused(place, f"the image is larger than {LARGEST_FILE_BYTES >> 20} MB")
            return bytes(data), ""

    async def _checked(self, given: str, place: str) -> tuple[httpx2.URL, str]:
        """The URL as it is asked for, and the address to connect to. Raises Refusal."""
        try:
            url = httpx2.URL(given)
        except (httpx2.InvalidURL, ValueError):
            raise _refused(place, "not a link that can be read; write https, the host and the path") from None
        if url.scheme != "https" or url.userinfo or url.port not in (None, 443) or "\\" in given:
            raise _refused(
                place, "only plain https links (no user, port 443) are fetched; send the image as a data: URL"
            )
        if url.host not in self.hosts:
            raise _refused(
                place,
                "this host is not one that --allow-fetch-from names; send the image as a data: URL",
            )
        addresses = await self.resolve(url.host)
        if not addresses or not all(map(is_public, addresses)):
            raise _refused(place, "the link's host has no public address")
        return url, addresses[0]


def _refused(place: str, why: str) -> Refusal:
    return Refusal(400, f"{place}: {why}", code="invalid_image", param=place)
