"""The command line as a person meets it: results on stdout, one clear line for a mistake, exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from vistune.cli.progress import terminal_bar

Result = subprocess.CompletedProcess[str]


def vistune(*arguments: str | Path, folder: Path, keyboard: str = "") -> Result:
    command = [sys.executable, "-c", "from vistune.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        command, cwd=folder, env=environment, input=keyboard, capture_output=True, text=True, timeout=300, check=False
    )


def refused(result: Result, *words: str) -> None:
    """Exit code 2, nothing on stdout, one line that says what, where and what to do."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    said = " ".join(result.stderr.split())
    for word in (*words, "Fix:"):
        assert word in said, f"{word!r} is not in {said!r}"


def write(folder: Path, *rows: object) -> Path:
    path = folder / "data.json"
    path.write_text("[\n" + ",\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n]\n")
    return path


def row(**changes: object) -> dict[str, object]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    return {"id": "1", "image": "a.png", "kind": "caption", "conversations": turns, **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "a.png")
    return tmp_path


def train(folder: Path, data: Path) -> Result:
    arguments = ["stages.align.steps=1", "stages.tune.steps=1", "stages.tune.kinds=[caption]"]
    return vistune("train", "quickstart", f"data={data}", *arguments, "--out", folder / "run", folder=folder)


def test_bad_data_is_one_line_with_its_place_and_leaves_nothing(folder: Path) -> None:
    cut = Image.new("RGB", (40, 40))
    cut.save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:60])
    cases: list[tuple[object, tuple[str, ...]]] = [
        (row(image="b.png"), ("data.json:3:image", "b.png")),
        ('{"id": "2", "conversations": [}', ("data.json:3", "not JSON")),
        (row(image=[], id="2"), ("data.json:3:image", "1 <image>", "0 images")),
    ]
    for bad, words in cases:
        refused(train(folder, write(folder, row(), bad)), *words)
        assert not (folder / "run").exists()
    refused(train(folder, write(folder, row(image="cut.png"))), "data.json:2", "cut.png", "damaged")
    (folder / "data.json").write_text("[]")
    refused(vistune("train", "quickstart", "data=data.json", "--out", "run2", folder=folder), "data.json", "no records")


def test_bad_rows_may_be_set_aside(folder: Path) -> None:
    data = write(folder, *[row(id=str(k)) for k in range(3)], row(id="bad", image="b.png"))
    arguments = ["stages.align.steps=1", "stages.tune.steps=1", "stages.tune.kinds=[caption]"]
    command = ("train", "quickstart", f"data={data}", *arguments, "on_bad_sample=reject", "--out", "run")
    few = vistune(*command, folder=folder)
    assert few.returncode == 3, few.stderr
    assert "rejected" in few.stderr
    done = vistune(*command, "reject_limit=0.5", folder=folder)
    assert done.returncode == 0, done.stderr
    rejects = [json.loads(line) for line in (folder / "run" / "rejects.jsonl").read_text().splitlines()]
    assert {(reject["id"], reject["reason"]) for reject in rejects} == {("bad", "bad_image")}


def test_a_mistake_in_a_module_of_the_users_is_one_line(folder: Path) -> None:
    task = (
        "from vistune.evaluation import Benchmark, Facts\n"
        "class Task(Benchmark):\n"
        "    facts = Facts('', (), '', '', '')\n"
        "    def questions(self):\n"
        "        return [{}['question']]\n"
        "    def metrics(self, rows):\n"
        "        return {}\n"
    )
    (folder / "my_task.py").write_text(task)
    (folder / "said.jsonl").write_text("")
    result = vistune("score", "my_task:Task", "--data", ".", "--predictions", "said.jsonl", folder=folder)
    refused(result, "your own module fails: KeyError: 'question'", "my_task.py:5")


def test_a_bar_cuts_off_its_note_and_not_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr("vistune.cli.log.stderr", console)
    with terminal_bar("generate", 36) as advance:
        advance(36, "no price known · rejected: language 12, shape 12")
    assert isinstance(console.file, io.StringIO)
    assert " 36/36 " in console.file.getvalue()
    assert "no price known · rejected" in console.file.getvalue()


def test_wrong_keys_and_names_get_a_guess(folder: Path) -> None:
    refused(vistune("train", "quickstrat", "--out", "run", folder=folder), "quickstrat", "did you mean 'quickstart'")
    bad_key = vistune("train", "quickstart", "stages.tune.lern.language=1e-4", "--out", "run", folder=folder)
    refused(bad_key, "stages.tune.lern", "did you mean 'learn'")
    refused(vistune("train", "quickstart", "--out", "run", folder=folder), "no data")
    refused(vistune("evaluate", "nowhere", "--data", ".", folder=folder), "nowhere")
    refused(vistune("generate", "nowhere", "--out", "data", folder=folder), "nowhere")


def test_check_lists_every_fault_and_json_is_one_document(folder: Path) -> None:
    data = write(folder, row(), row(image="b.png"), row(conversations=[]))
    result = vistune("check", data, "--recipe", "quickstart", "--json", folder=folder)
    assert result.returncode == 2
    report = json.loads(result.stdout)
    assert [fault["origin"].rsplit(":", 1)[1] for fault in report["faults"]] == ["3", "4"]
    plain = vistune("check", write(folder, row()), folder=folder)
    assert plain.returncode == 0
    assert "1 record," in plain.stdout


def test_check_proves_what_a_recipe_names_and_a_table_is_told_apart(folder: Path) -> None:
    write(folder, row(), row(image="b.png"))
    stage = "{name: tune, learn: {projector: 1e-3}, steps: 1, data: [{file: data.json, images: .}]}"
    (folder / "mine.yaml").write_text(f"stages: [{stage}]\nvalidation: {{data: data.json}}\n")
    result = vistune("check", "--recipe", "mine.yaml", folder=folder)
    assert result.returncode == 2
    assert "data.json:3:image: no image 'b.png'" in result.stdout
    assert "4 records" in result.stdout, "under the stage's picture folder and under its own"
    (folder / "pictures").mkdir()
    (folder / "a.png").rename(folder / "pictures" / "a.png")
    (folder / "mine.yaml").write_text(f"stages: [{stage.replace('images: .', 'images: pictures')}]\n")
    own = vistune("check", folder / "data.json", "--recipe", "mine.yaml", folder=folder)
    assert "1 fault" in own.stdout, "the picture folder is the recipe's"
    assert "data.json:3:image" in own.stdout
    refused(vistune("check", "mine.yaml", folder=folder), "mine.yaml is a recipe", "--recipe mine.yaml")
    refused(vistune("check", folder=folder), "check needs data")
    refused(vistune("check", "--recipe", "quickstart", folder=folder), "quickstart names no data files")
    (folder / "table.csv").write_text("image,caption\na.png,red\n")
    (folder / "table.jsonl").write_text('{"image": "a.png", "captions": ["red"]}\n')
    for name in ("table.csv", "table.jsonl"):
        assert "vistune generate TABLE" in vistune("check", name, folder=folder).stdout


def test_brackets_in_names_are_no_markup(folder: Path) -> None:
    result = vistune("show", write(folder, row(id="[bold]1[/x]")), folder=folder)
    assert result.stdout.startswith("[bold]1[/x]  ")
    drawn = vistune("scenes", "a[red]b", "--count", "1", folder=folder)
    assert drawn.stdout.startswith("a[red]b: 1 train")


def test_why_wants_a_model(folder: Path) -> None:
    refused(vistune("why", ".", folder=folder), "neither a model folder nor a run")


def test_show_needs_no_picture_and_marks_what_is_learnt(folder: Path) -> None:
    result = vistune("show", write(folder, row(image="gone.png")), "--json", folder=folder)
    (shown,) = json.loads(result.stdout)
    assert shown["input_ids"].count(-200) == 1
    assert any(label != -100 for label in shown["labels"])
    assert len(shown["input_ids"]) == len(shown["labels"])


def test_scenes_generate_and_report(folder: Path) -> None:
    drawn = vistune("scenes", "world", "--count", "12", folder=folder)
    assert drawn.returncode == 0, drawn.stderr
    command = ("generate", "world", "--split", "train", "--language", "en,ko", "--mix", "58:23:77", "--out", "data")
    made = vistune(*command, folder=folder)
    assert made.returncode == 0, made.stderr
    assert json.loads((folder / "data" / "generate.json").read_text())["images"] == 12
    assert vistune("check", "data", "--recipe", "quickstart", folder=folder).returncode == 0
    page = vistune("report", "data", "--lang", "ko", folder=folder)
    assert page.stdout.strip().endswith("report.html")


def test_help_names_every_verb(folder: Path) -> None:
    result = vistune("--help", folder=folder)
    for verb in ("quickstart", "scenes", "generate", "check", "show", "train", "evaluate", "chat", "report"):
        assert verb in result.stdout


def test_device_precision_and_bits_are_flags_of_what_uses_a_model(folder: Path) -> None:
    assert train(folder, write(folder, *[row(id=str(k)) for k in range(2)])).returncode == 0
    said = [
        vistune("chat", "run", "--image", "a.png", *flags, folder=folder, keyboard="What colour?\n")
        for flags in (("--device", "cpu"), ("--device", "cpu", "--dtype", "bf16"))
    ]
    assert all(result.returncode == 0 for result in said), said
    refused(vistune("chat", "run", "--device", "cpuu", folder=folder), "--device 'cpuu'", "cuda")
    refused(vistune("chat", "run", "--device", "cuda:99", folder=folder), "sees no such GPU")
    refused(vistune("chat", "run", "--dtype", "fp8", folder=folder), "--dtype 'fp8'", "bf16")
    refused(vistune("chat", "run", "--quantize", "3", folder=folder), "quantize 3", "4 or 8")
    assert vistune("scenes", "world", "--count", "2", folder=folder).returncode == 0
    refused(vistune("evaluate", "run", "--data", "world", "--device", "tpu", folder=folder), "--device 'tpu'")
    command = ("evaluate", "run", "--data", "world", "--limit", "10", "--device", "cpu", "--dtype", "bf16", "--json")
    assert json.loads(vistune(*command, folder=folder).stdout)["count"] >= 10
