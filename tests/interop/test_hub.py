"""Models by their hub name, from a hub on loopback: old ones that lie there as pickles alone, and no second copies."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file
from small_llama import pieces_of

COMMIT = "a" * 40
READ = """
from vistune.interop import layouts
for _ in range(2):  # the second time from the cache
    print(layouts.read_source("liuhaotian/aligned", base="lmsys/vicuna").layout)
"""
TOKENIZE = "from vistune.processor import load_tokenizer; print(load_tokenizer('lmsys/alone')('a  b')['input_ids'])"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """(a folder of OWNER/NAME folders, the address where they are served as on the hub, the files asked for)."""
    root = tmp_path / "hub"
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                held = sorted(root.joinpath(*parts[2:4]).iterdir())
                tree = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": p.name} for p in held]
                told = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": [{"rfilename": p.name} for p in held]}
                return self.answer(dumps(tree if "tree" in parts else told).encode())
            path = root.joinpath(*parts[:2], parts[-1])
            if not path.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if self.command == "GET":
                asked.append(f"{parts[1]}/{path.name}")
            return self.answer(path.read_bytes())

        do_HEAD = do_GET

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield root, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def put(source: Path, folder: Path, *, pickled: bool, both: bool = False) -> None:
    """A model folder on the hub, its weights as the pickle that old models lie there in."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors" or not pickled or both:
            (folder / path.name).write_bytes(path.read_bytes())
    if pickled:
        torch.save(load_file(source / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "modeling.py").write_text("raise SystemExit('code of a model was run')")


def test_a_stage_1_projector_over_hub_names_that_hold_pickles(
    hub: tuple[Path, str, list[str]], tiny_backbones: Path, original: Callable[..., Path], tmp_path: Path
) -> None:
    """As liuhaotian's projectors over a Vicuna and openai/clip-vit-large-patch14-336; of two forms one is fetched."""
    root, address, asked = hub
    put(tiny_backbones / "language", root / "lmsys" / "vicuna", pickled=True, both=True)
    put(tiny_backbones / "vision", root / "openai" / "clip", pickled=True)
    merged = original(mm_vision_tower="openai/clip")
    aligned = root / "liuhaotian" / "aligned"
    aligned.mkdir(parents=True)
    (aligned / "config.json").write_bytes((merged / "config.json").read_bytes())
    tuned = {name: t for name, t in load_file(merged / "model.safetensors").items() if "mm_projector" in name}
    torch.save(tuned, aligned / "mm_projector.bin")
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True)
    assert done.stdout == "original\noriginal\n", done.stderr
    weights = sorted(name for name in asked if name.endswith((".bin", ".safetensors")))
    assert weights == ["aligned/mm_projector.bin", "clip/pytorch_model.bin", "vicuna/model.safetensors"]
    assert not any(name.endswith(".py") for name in asked)


def test_a_lone_tokenizer_model_by_its_hub_name(
    hub: tuple[Path, str, list[str]], tiny_backbones: Path, llama: Path, tmp_path: Path
) -> None:
    """With a beginning, and two spaces as sentencepiece cuts them: neither is so in what transformers makes of it."""
    root, address, _ = hub
    folder = root / "lmsys" / "alone"
    folder.mkdir(parents=True)
    shutil.copy(llama / "tokenizer.model", folder)
    shutil.copy(tiny_backbones / "language" / "config.json", folder)
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", TOKENIZE], env=environment, capture_output=True, text=True)
    assert done.stdout == f"{[1, *pieces_of(folder).encode('a  b')]}\n", done.stderr
