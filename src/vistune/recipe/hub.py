"""Find a model that a recipe names in the hub's cache, and give up at once if the hub cannot be reached."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    import httpx2

REMEMBERED_SECONDS = 60.0  # how long a failed attempt counts for the requests that follow
PORTS = {"http": 80, "https": 443}


def cached_folder(name: str, file: str) -> str | None:
    """Return the folder of the hub's cache that contains a file of a model; None if there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, file)
    except HFValidationError:
        return None
    return str(Path(cached).parent) if isinstance(cached, str) else None


def fail_fast_without_network() -> None:
    """Make huggingface_hub try one connection before its first request to a host.

    It repeats a failed request five times, which takes 25 seconds for each file that is not in the cache, and logs each
    attempt. Connections through a proxy are not checked, and neither is a client that the user has configured.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils._http import hf_request_event_hook

    client = get_session()
    hooks = client.event_hooks
    if hooks["request"] == [hf_request_event_hook]:
        client.event_hooks = {**hooks, "request": [hf_request_event_hook, _ConnectionCheck()]}


class _ConnectionCheck:
    """Raise OfflineModeIsEnabled, which huggingface_hub does not retry, if a host cannot be reached."""

    def __init__(self) -> None:
        self.reached: set[str] = set()
        self.failed_until = 0.0

    def __call__(self, request: httpx2.Request) -> None:
        from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
        from huggingface_hub.errors import OfflineModeIsEnabled

        scheme, host = request.url.scheme, request.url.host
        proxies = getproxies()
        if host in self.reached or ((scheme in proxies or "all" in proxies) and not proxy_bypass(host)):
            return
        if time.monotonic() >= self.failed_until:
            try:
                socket.create_connection((host, request.url.port or PORTS[scheme]), HF_HUB_ETAG_TIMEOUT).close()
            except OSError:
                self.failed_until = time.monotonic() + REMEMBERED_SECONDS
            else:
                self.reached.add(host)
                return
        raise OfflineModeIsEnabled(f"cannot connect to {host}")
