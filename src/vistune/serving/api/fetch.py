"""Fetch images over https from the hosts that the operator allows.

Each URL is parsed once, its host must be allowed, all addresses of the host must be public, and the connection goes to
the address that was checked. So no link can reach a private network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx2

from vistune.processor import LARGEST_FILE_BYTES
from vistune.serving.api.guard import Refusal

SECONDS = 10.0  # per image, including redirects
REDIRECTS = 3
Resolve = Callable[[str], Awaitable[Sequence[str]]]


async def resolve(host: str) -> list[str]:
    """Return all addresses of a host."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return sorted({str(entry[4][0]) for entry in infos})


def is_public(address: str) -> bool:
    """Return whether an address is public, also if it is an IPv4 address inside an IPv6 one."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None) or parsed
    return bool(inner.is_global and not inner.is_multicast and not inner.is_reserved)


@dataclass(frozen=True)
class Fetcher:
    """Fetches images from allowed hosts. Tests replace the network by `transport` and `resolve`."""

    hosts: frozenset[str] = frozenset()  # exact names; empty: nothing is fetched
    seconds: float = SECONDS
    resolve: Resolve = field(default=resolve)
    transport: httpx2.AsyncBaseTransport | None = None

    async def image(self, url: str, param: str) -> bytes:
        """Return the bytes of an image file.

        Raises Refusal with `param`, the path of the URL in the request. Without an allowed host no socket is opened.
        """
        if not self.hosts:
            raise _refused(param, "a link, and this server fetches none")
        try:
            async with asyncio.timeout(self.seconds):
                for _ in range(REDIRECTS + 1):
                    data, url = await self._once(url, param)
                    if data is not None:
                        return data
        except TimeoutError:
            raise _refused(param, f"the image did not come within {self.seconds:.0f} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError):  # InvalidURL: a redirect to a malformed link
            raise _refused(param, "the image could not be fetched; send it as a data: URL") from None
        raise _refused(param, f"the link redirects more than {REDIRECTS} times")

    async def _once(self, given: str, param: str) -> tuple[bytes | None, str]:
        """Return the bytes and "", or None and the URL that the server redirects to."""
        url, address = await self._checked(given, param)
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
                    raise _refused(param, "the link redirects to another host")
                return None, str(target)
            kind = response.headers.get("content-type", "")
            if response.status_code != 200 or not kind.startswith("image/"):
                raise _refused(param, f"the link gives no image (status {response.status_code})")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _refused(param, "the image was sent compressed")
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > LARGEST_FILE_BYTES:
                    raise _refused(param, f"the image is larger than {LARGEST_FILE_BYTES >> 20} MB")
            return bytes(data), ""

    async def _checked(self, given: str, param: str) -> tuple[httpx2.URL, str]:
        """Return the parsed URL and the address to connect to; raise Refusal if it is not allowed."""
        try:
            url = httpx2.URL(given)
        except (httpx2.InvalidURL, ValueError):
            raise _refused(param, "not a link that can be read; write https, the host and the path") from None
        if url.scheme != "https" or url.userinfo or url.port not in (None, 443) or "\\" in given:
            raise _refused(
                param, "only plain https links (no user, port 443) are fetched; send the image as a data: URL"
            )
        if url.host not in self.hosts:
            raise _refused(
                param,
                "this host is not one that --allow-fetch-from names; send the image as a data: URL",
            )
        addresses = await self.resolve(url.host)
        if not addresses or not all(map(is_public, addresses)):
            raise _refused(param, "the link's host has no public address")
        return url, addresses[0]


def _refused(param: str, why: str) -> Refusal:
    return Refusal(400, f"{param}: {why}", code="invalid_image", param=param)
