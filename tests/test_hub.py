"""A hub that cannot be reached is an error at once, without messages of huggingface_hub."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

FETCH = """
from huggingface_hub import get_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from vistune.recipe.hub import fail_fast_without_network
for fetch in (lambda: hf_hub_download("owner/name", "config.json"), lambda: snapshot_download("owner/name")):
    fail_fast_without_network()
    try:
        fetch()
    except LocalEntryNotFoundError:
        print("not found")
print(len(get_session().event_hooks["request"]))
"""


def test_without_a_network_nothing_is_retried_and_nothing_is_printed(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound and not listening: every connection is refused
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", FETCH], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("not found\nnot found\n2\n", "")  # a retry prints a warning


def test_a_client_that_the_user_configured_is_left_alone() -> None:
    code = (
        "import huggingface_hub, httpx2; from vistune.recipe.hub import fail_fast_without_network; "
        "huggingface_hub.set_client_factory(httpx2.Client); fail_fast_without_network(); "
        "print(huggingface_hub.get_session().event_hooks['request'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
