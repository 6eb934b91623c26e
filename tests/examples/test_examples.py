"""Every file in examples/ does what its first lines say, and stays short; the task is in tests/evaluation."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import vistune
from vistune.api import check_data, generate_data, train
from vistune.datagen import GenerationConfig, TeacherOptions
from vistune.model import build, read_spec
from vistune.recipe import DataSource, Model, load_recipe
from vistune.records import FORMS

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def example(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_the_four_ways_to_extend_are_there() -> None:
    ways = [f"add_a_{what}" for what in ("projector", "reader", "task", "teacher")]
    assert [path.stem for path in FILES] == [*ways, "train_by_hand"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_under_forty_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    lines = [{"picture": name, "ask": "무슨 색?", "say": "빨강"} for name in ("a.png", "b.png")]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tmp_path / "mine.jsonl"


def test_a_reader_is_one_line_in_the_table(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(check_data([DataSource(file=pairs)]).faults) == 2
    monkeypatch.setitem(FORMS, "ask", example("add_a_reader").PAIR)  # type: ignore[arg-type]
    found = check_data([DataSource(file=pairs)])
    assert (found.rows, found.faults) == (2, [])


def test_a_reader_alone_writes_records_that_are_read(pairs: Path) -> None:
    written = pairs.with_name("data.jsonl")
    example("add_a_reader").convert(pairs, written)
    found = check_data([DataSource(file=written)])
    assert (found.rows, found.images, found.faults) == (2, 2, [])
    assert not [warning for warning in found.warnings if "<image>" in warning]


def test_a_converted_record_names_the_fields_that_are_lost(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = {"picture": "a.png", "ask": "What?", "say": "red", "score": 3}
    pairs.write_text(json.dumps(line) + "\n", encoding="utf-8")
    example("add_a_reader").convert(pairs, pairs.with_name("data.jsonl"))
    assert capsys.readouterr().out == "1 records; fields that are not read: {'score': 1}\n"


@pytest.fixture
def teacher() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), example("add_a_teacher").Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_teacher_of_ones_own_writes_data(teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of no use here")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "dog.png")
    row = {"image": "dog.png", "captions": ["A dog runs on the beach."]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    wishes = GenerationConfig(kinds=("conversation",), languages=("en",))
    made = generate_data(
        tmp_path / "mine.jsonl", tmp_path / "data", wishes, service=TeacherOptions("mine", base_url=teacher)
    )
    assert not made.rejects
    assert made.rows[0]["conversations"][1]["value"] == "It is a dog, and nothing hides it from view."


def test_a_projector_learns_and_comes_back(pairs: Path, tmp_path: Path) -> None:
    written = pairs.with_name("data.jsonl")
    example("add_a_reader").convert(pairs, written)
    name = "model.projector=add_a_projector:NEIGHBOURS"
    few = ["stages.align.steps=1", "stages.tune.steps=1", "stages.align.kinds=null", "stages.tune.kinds=null"]
    train(load_recipe("quickstart", [f"data={written}", name, *few]), tmp_path / "run")
    assistant = vistune.load(tmp_path / "run")
    assert type(assistant.model.projector).__name__ == "Neighbours"
    assert isinstance(assistant.ask(pairs.with_name("a.png"), "무슨 색?", max_tokens=2), str)


def test_a_step_by_hand_lowers_the_loss(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = pairs.with_name("data.jsonl")
    example("add_a_reader").convert(pairs, written)
    few = {"stages.align.steps": 1, "stages.tune.steps": 1, "stages.align.kinds": None, "stages.tune.kinds": None}
    run = vistune.train("quickstart", tmp_path / "run", data=written, overrides=few)
    capsys.readouterr()
    example("train_by_hand").main(str(run), str(pairs.with_name("a.png")), "무슨 색?", "빨강")
    first, _, third = map(float, capsys.readouterr().out.split())
    assert third < first


def test_a_projector_keeps_the_slots(tiny_backbones: Path) -> None:
    recipe = Model(
        vision=str(tiny_backbones / "vision"),
        language=str(tiny_backbones / "language"),
        projector="add_a_projector:NEIGHBOURS",
    )
    spec = read_spec(recipe)
    model = build(recipe, spec, seed=0)
    import torch

    assert model.projector(torch.randn(2, 4, 32)).shape == (2, spec.slots_per_image, 48)
