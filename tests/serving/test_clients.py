"""Today's clients of OpenAI's API, unchanged, against `vistune serve` in a process of its own.

Each client is a script of `clients/`, so that it runs with whichever Python has the package. `make soak` installs each
client into an environment of its own below build/clients, because their dependencies do not fit together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from commanded import Commanded, commanded
from running_servers import CHAT, data_url, png

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS = 1200
PLAIN = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}]


@dataclass(frozen=True)
class Client:
    """A client and its script.

    Args:
        package: what pip installs.
        module: what the script imports.
        answers: the name of an answer in the script's output -> what was asked.
    """

    name: str
    package: str
    module: str
    answers: dict[str, str]

    @property
    def script(self) -> Path:
        return Path(__file__).parent / "clients" / f"ask_{self.name}.py"


def same(asked: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, asked)


CLIENTS = (
    Client(
        "openai",
        "openai>=3",
        "openai",
        {
            **same("plain", "plain", "streamed", "helper", "responses"),
            **same("again", "again", "again as a dict"),
            **same("image", "image"),
        },
    ),
    Client(
        "litellm",
        "litellm",
        "litellm",
        {
            **same("plain", "plain", "streamed", "as a vLLM", "async"),
            **same("again", "again", "again as a dict"),
            **same("image", "image", "image as text"),
        },
    ),
    Client(
        "langchain",
        "langchain-openai",
        "langchain_openai",
        {
            **same("plain", "plain", "streamed", "chain", "async"),
            **same("again", "again", "again from blocks"),
            **same("image", "image", "image block", "older image block"),
        },
    ),
    Client(
        "llama_index",
        "llama-index-llms-openai-like",
        "llama_index.llms.openai_like",
        {
            **same("plain", "plain", "streamed", "async", "engine"),
            **same("again", "again", "engine again"),
            **same("image", "image", "image with a mime type"),
            **same("without a system message", "complete"),
        },
    ),
)


@pytest.fixture(scope="module")
def server(model_folder: Path) -> Iterator[Commanded]:
    with commanded(model_folder) as found:
        yield found


@pytest.fixture(scope="module")
def wanted(server: Commanded) -> dict[str, str]:
    """What the server answers to bare HTTP, by what is asked."""

    def answer(messages: list[dict[str, Any]]) -> str:
        response = server.http.post(
            CHAT, json={"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 12}
        )
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    plain = answer(PLAIN)
    again = [*PLAIN, {"role": "assistant", "content": plain}, {"role": "user", "content": "Where?"}]
    shown = [
        {"type": "text", "text": "What colour is it?"},
        {"type": "image_url", "image_url": {"url": data_url(png())}},
    ]
    found = {
        "plain": plain,
        "again": answer(again),
        "image": answer([{"role": "user", "content": shown}]),
        "without a system message": answer(PLAIN[1:]),
    }
    assert len(set(found.values())) == len(found), "no two questions have one answer"
    return found


def ask(client: Client, python: Path, server: Commanded, folder: Path) -> dict[str, Any]:
    """What the script prints; a client that raises ends the test with its traceback."""
    image = folder / "red.png"
    image.write_bytes(png())
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1", "PYTHONPATH": ""}
    command = [str(python), str(client.script), f"{server.address}/v1", str(image)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    said: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return said


def check(client: Client, said: dict[str, Any], wanted: dict[str, str]) -> None:
    assert {name: said.get(name) for name in client.answers} == {
        name: wanted[asked] for name, asked in client.answers.items()
    }
    assert said["version"]
    if client.name == "openai":
        assert said["models"] == ["tiny"]
        assert said["at once"] == [wanted["plain"]]
        assert sorted(said["ignored"].split(", ")) == ["metadata", "store", "user"]
        assert said["parsed"] in ("red", "blue")


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_that_is_installed_runs_unchanged(
    client: Client, server: Commanded, wanted: dict[str, str], tmp_path: Path
) -> None:
    if find_spec(client.module.partition(".")[0]) is None:
        pytest.skip(f"{client.package} is not installed; `make soak` runs it in an environment of its own")
    check(client, ask(client, Path(sys.executable), server, tmp_path), wanted)


@pytest.mark.soak
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_newest_client_of_the_package_index_runs_unchanged(
    client: Client, server: Commanded, wanted: dict[str, str], tmp_path: Path
) -> None:
    folder = ROOT / "build" / "clients" / client.name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--upgrade", client.package]
    subprocess.run(install, check=True, timeout=INSTALL_SECONDS)
    said = ask(client, python, server, tmp_path)
    print(f"{client.package}: {said['version']}")
    check(client, said, wanted)
