"""The wheel: everything that the package holds is inside, and it works where it is installed, without a compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "vistune"
WANTED = (
    "scenes/backbones/vision/model.safetensors",
    "scenes/backbones/language/model.safetensors",
    "scenes/backbones/language/tokenizer.json",
    "recipe/shipped/quickstart.yaml",
    "recipe/shipped/llava-v1.5-7b-lora.yaml",
    "datagen/teachers/prompts/en.json",
    "datagen/teachers/prompts/ko.json",
    "report/page.html.j2",
    "ko.json",
    "py.typed",
)


def run(*words: str | Path, **settings: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    found = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert found.returncode == 0, f"{words}: {found.stdout}{found.stderr}"
    return found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (found,) = folder.glob("vistune-*-py3-none-any.whl")
    return found


def test_everything_is_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = [path.relative_to(SOURCE) for path in SOURCE.rglob("*") if path.is_file()]
    here = {path.as_posix() for path in files if "__pycache__" not in path.parts and ".tmp-" not in path.name}
    assert here <= {name.removeprefix("vistune/") for name in inside}
    assert set(WANTED) <= here
    assert any(name.startswith("serving/page/") for name in here)
    assert any(name.endswith("/LICENSE") for name in inside)


def test_it_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    path = {"PYTHONPATH": str(tmp_path / "installed")}
    assert str(tmp_path) in run(sys.executable, "-c", "import vistune; print(vistune.__file__)", **path)
    run(sys.executable, "-m", "vistune", "scenes", tmp_path / "world", "--count", "2", **path)
    assert len(list((tmp_path / "world").rglob("*.jpg"))) >= 2


@pytest.mark.soak
def test_a_clean_environment_without_compilers(wheel: Path, tmp_path: Path) -> None:
    """Every dependency from a wheel; then the help, a world, and the tiny backbones taking their first step."""
    run(sys.executable, "-m", "venv", tmp_path / "clean")
    python, vistune = (tmp_path / "clean" / "bin" / name for name in ("python", "vistune"))
    no_compiler = {"CC": "/bin/false", "CXX": "/bin/false", "PIP_ONLY_BINARY": ":all:"}
    run(python, "-m", "pip", "install", "-c", ROOT / "constraints.txt", "torch", **no_compiler)
    run(python, "-m", "pip", "install", "-c", ROOT / "constraints.txt", wheel, **no_compiler)
    assert "quickstart" in run(vistune, "--help")
    assert "사용법" in run(vistune, "--help", LC_ALL="ko_KR.UTF-8", PYTHONUTF8="1")
    run(vistune, "scenes", tmp_path / "world", "--count", "20")
    run(vistune, "generate", tmp_path / "world", "--split", "train", "--out", tmp_path / "data")
    steps = ["stages.align.steps=1", "stages.tune.steps=1"]
    run(vistune, "train", "quickstart", f"data={tmp_path / 'data'}", *steps, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
