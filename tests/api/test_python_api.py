"""The Python API: strings, overrides, data in memory, results that a notebook can show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vistune
from vistune.errors import DataError, RecipeError

FEW_STEPS = {"stages.align.steps": 1, "stages.tune.steps": 1}


def records_of(scenes: Path, count: int = 6) -> list[dict[str, Any]]:
    rows = json.loads((scenes / "data" / "samples.json").read_text(encoding="utf-8"))[:count]
    return [{**row, "image": str(scenes / "world" / "train" / row["image"])} for row in rows]


def test_a_run_tells_its_state_and_is_a_path(run: vistune.Run, scenes: Path) -> None:
    assert run.status == "finished"
    assert [line["stage"] for line in run.metrics] == ["align", "tune"]
    assert [path.name for path in run.checkpoints] == ["1-align-000001", "2-tune-000001"]
    assert run.recipe.stages[1].steps == 1
    assert Path(run) == scenes / "run" == run.path
    assert (run / "metrics.jsonl").is_file()
    assert repr(run) == f"Run({str(run.path)!r}, status='finished', steps=2)"
    assert json.loads(json.dumps(run.to_dict()))["last_loss"].keys() == {"align", "tune"}
    assert "<td>tune</td>" in run._repr_html_()


def test_overrides_may_be_a_mapping_or_a_list_of_texts(scenes: Path) -> None:
    from vistune.api.arguments import as_recipe

    mapped = as_recipe("quickstart", {"stages.tune.learn.language": 1e-05, "seed": 3, "data": scenes / "data"})
    listed = as_recipe("quickstart", ["stages.tune.learn.language=1e-5", "seed=3", f"data={scenes / 'data'}"])
    assert mapped == listed
    assert as_recipe(mapped, {"seed": 3}) == mapped
    with pytest.raises(RecipeError, match=r"unknown key 'stages.tune.lern'"):
        as_recipe(mapped, {"stages.tune.lern": 1})


def test_records_in_memory_train_as_their_file_does(scenes: Path, tmp_path: Path) -> None:
    rows = records_of(scenes)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    in_memory = [{**rows[0], "image": Image.open(rows[0]["image"])}, *rows[1:]]
    source = vistune.DataSource(file=file, images=scenes / "world" / "train")
    read = vistune.train("quickstart", tmp_path / "read", data=source, overrides=FEW_STEPS)
    kept = vistune.train("quickstart", tmp_path / "kept", data=in_memory, overrides=FEW_STEPS)
    assert [line["loss"] for line in read.metrics] == [line["loss"] for line in kept.metrics]
    again = vistune.train("quickstart", tmp_path / "kept", data=in_memory, overrides=FEW_STEPS, resume=True)
    assert again.status == "finished"
    assert len(list((tmp_path / "kept" / "records").glob("records-*"))) == 1


def test_check_names_the_record_in_memory(scenes: Path) -> None:
    rows = records_of(scenes, 3)
    rows[1]["image"] = "nothere.jpg"
    report = vistune.check(rows, recipe="quickstart")
    assert (report.rows, len(report.faults)) == (3, 1)
    assert report.faults[0].detail.startswith("data:2:image: no image 'nothere.jpg'")
    assert repr(report) == "CheckReport(rows=3, samples=2, images=2, faults=1, notes=0)"
    assert "nothere.jpg" in report._repr_html_()


def test_data_of_another_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\[0\]: int is not data"):
        vistune.check(3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"data\[0\]: set cannot be stored"):
        vistune.check([{"id": "1", "conversations": {1}}])


def test_a_dataset_keeps_the_bytes_of_its_images(scenes: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = records_of(scenes)
    dataset = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    report = vistune.check(dataset, recipe="quickstart")
    assert (report.samples, report.faults) == (len(rows), [])
    run = vistune.train("quickstart", tmp_path / "run", data=dataset, overrides=FEW_STEPS)
    assert run.status == "finished"
    with pytest.raises(DataError, match="has the splits train"):
        vistune.check(datasets.DatasetDict(train=dataset))


def test_generation_takes_its_settings_as_keywords(scenes: Path, tmp_path: Path) -> None:
    config = vistune.GenerationConfig(kinds=("caption",), languages=("ko",))
    one = vistune.generate_data(scenes / "world", tmp_path / "one", config, split="train")
    two = vistune.generate_data(scenes / "world", tmp_path / "two", split="train", language="ko", kinds=["caption"])
    assert one.rows == two.rows
    assert two.path == tmp_path / "two"
    assert repr(two) == f"GeneratedData({str(tmp_path / 'two')!r}, samples=12, rejected=0)"
    assert two.to_dict()["samples"] == 12
    with pytest.raises(RecipeError, match="seed: given next to a config"):
        vistune.generate_data(scenes / "world", tmp_path / "three", config, seed=1)
    with pytest.raises(RecipeError, match="teacher 'openai' needs a service"):
        vistune.generate_data(scenes / "world", tmp_path / "three", teacher="openai")


def test_a_misspelt_option_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"quantise": 4}
    with pytest.raises(TypeError, match=r"generate_data.*'quantise'.*per_image"):
        vistune.generate_data(tmp_path, tmp_path / "out", **options)
    with pytest.raises(TypeError, match=r"export.*'quantise'.*dtype, quantize"):
        vistune.export(tmp_path, tmp_path / "out", layout="llava-hf", **options)
    with pytest.raises(TypeError, match=r"export_gguf.*'quantise'.*kind"):
        vistune.export_gguf(tmp_path, tmp_path / "out", **options)


def test_several_tasks_give_a_list(run: vistune.Run, scenes: Path) -> None:
    [listed] = vistune.evaluate(run, tasks=("scenes",), data={"scenes": str(scenes / "world")}, limit=10)
    one = vistune.evaluate(run, task="scenes", data=str(scenes / "world"), limit=10)
    assert listed.metrics == one.metrics
    assert repr(one).startswith("EvaluationResult('scenes', ")
    assert "gain from the image" in one._repr_html_()
    with pytest.raises(RecipeError, match="evaluate needs `task` or `tasks`"):
        vistune.evaluate(run, data="x")  # type: ignore[call-overload]
    with pytest.raises(RecipeError, match="data: has folders for pope, the tasks are scenes"):
        vistune.evaluate(run, tasks=["scenes"], data={"pope": "x"})


def test_a_notebook_shows_an_answer_with_image_and_attention(run: vistune.Run, scenes: Path) -> None:
    assistant = run.load()
    assert repr(assistant) == f"Assistant({str(run.path)!r}, 2,427,392 parameters, float32 on cpu)"
    image = sorted((scenes / "world" / "train").glob("*.jpg"))[0]
    parts = [{"type": "image", "image": image}, {"type": "text", "text": "What is <b>here</b>?"}]
    answer = assistant.chat([{"role": "user", "content": parts}], max_tokens=6)
    shown = answer._repr_html_()
    assert shown.count("data:image/png;base64,") == 2
    assert "attention of the answer" in shown
    assert "What is &lt;b&gt;here&lt;/b&gt;?" in shown
    assert len(answer.attention_maps().images) == 1
    without = assistant.chat([{"role": "user", "content": "Hello"}], max_tokens=2)
    assert "<img" not in without._repr_html_()


def test_loading_prints_nothing(run: vistune.Run) -> None:
    code = f"import vistune; assert repr(vistune.load({str(run.path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_progress_is_shown_in_notebooks_only(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vistune.draw_scenes(tmp_path / "silent", count=2, tests=20)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "ipykernel", sys)  # the kernel of a notebook has it
    vistune.draw_scenes(tmp_path / "shown", count=2, tests=20)
    assert "draw: 100%" in capsys.readouterr().err
