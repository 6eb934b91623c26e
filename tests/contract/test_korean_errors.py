"""The user's own mistakes in Korean: real errors of real calls, and what is not translated stays as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_of
from transformers import CLIPVisionConfig, PixtralVisionConfig

from vistune.cli import data, model
from vistune.cli import evaluation as measure
from vistune.cli.log import using
from vistune.cli.settings import Settings
from vistune.data import all_samples, open_source
from vistune.errors import RecipeError, VistuneError
from vistune.evaluation import TASKS
from vistune.files import read_text
from vistune.model.language import load_language
from vistune.model.tower_shape import describe_tower
from vistune.processor.images import load_bytes, open_image
from vistune.recipe import DataSource, load_recipe
from vistune.records.samples import form_of
from vistune.registry import lookup
from vistune.runs.folder import find_model
from vistune.translations import in_language
from vistune.types import ImageRef

HERE = Path(__file__).parent
MISTAKES: dict[str, Callable[[], Any]] = {
    "recipe": lambda: load_recipe("quickstat"),
    "key": lambda: load_recipe("quickstart", ["stages.tune.lern=1"]),
    "file": lambda: read_text(HERE / "nothere"),
    "data file": lambda: all_samples(DataSource(file=HERE / "nothere.json")),
    "folder": lambda: open_source(HERE),
    "pictures": lambda: all_samples(DataSource(file=Path(__file__), images=HERE / "nothere")),
    "record": lambda: form_of({"question": "?"}, "a.json:1"),
    "empty picture": lambda: load_bytes(b"", "a.jpg"),
    "web page": lambda: load_bytes(b"<html>", "a.jpg"),
    "bitmap": lambda: load_bytes(b"BM" + bytes(40), "a.jpg"),
    "image": lambda: open_image(ImageRef(HERE / "nothere.jpg")),
    "task": lambda: lookup("scens", TASKS, "task"),
    "model": lambda: find_model(HERE),
    "train": lambda: model.train("quickstart"),
    "resume": lambda: model.train("quickstart", out=HERE / "nothere", resume=True),
    "check": lambda: data.check(None),
    "evaluate": lambda: measure.evaluate(None),
    "tower": lambda: describe_tower(PixtralVisionConfig()),
    "feature layer": lambda: describe_tower(CLIPVisionConfig(), -99),
    "task data": lambda: measure.tasks_of("scenes", None, [HERE]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_common_mistake_is_told_korean_message(name: str) -> None:
    with pytest.raises(VistuneError) as caught:
        MISTAKES[name]()
    said = in_language(str(caught.value), "ko")
    message, _, hint = said.partition(". 고치는 법: ")
    assert re.search("[가-힣]", message)
    assert re.search("[가-힣]", hint)


def test_what_is_not_known_stays_english() -> None:
    assert in_language(str(RecipeError("something rare", "mend it")), "ko") == "something rare. Fix: mend it"


def test_the_warning_of_an_unpacked_model_is_korean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_of("mamba", {"state_size": 4}).save_pretrained(tmp_path)
    with using(Settings(language="ko")):
        load_language(str(tmp_path), torch.float32)
    printed = " ".join(capsys.readouterr().err.split())
    assert f"언어 모델 {tmp_path}은(는) 문서를 하나씩 실행합니다: its layers keep a recurrent state" in printed
    assert "runs unpacked" not in printed


def test_the_command_line_tells_it_so() -> None:
    command = [sys.executable, "-m", "vistune", "--lang", "ko", "train", "quickstat", "--out", "x"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 2
    assert "'quickstat': 그런 레시피가 없습니다. 고치는 법: 혹시 'quickstart'?" in found.stderr
