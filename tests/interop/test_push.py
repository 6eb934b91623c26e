"""`push` against a hub on loopback: what is uploaded, the card, evaluation results, and what is refused before."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_hub import TOKEN, Hub, running_hub
from huggingface_hub import parse_eval_result_entries
from safetensors.torch import load, load_file

from vistune import api
from vistune.errors import HubError, RecipeError, VistuneError
from vistune.interop.export import export_model
from vistune.recipe import Lora

Make = Callable[..., Path]
REPO = "someone/my-model"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with running_hub() as running:
        yield running


@pytest.fixture
def run(tuned: Make, tmp_path: Path) -> Path:
    """A run folder with a checkpoint, the record of its data, and an evaluation."""
    made = tuned("projector", projector="mlp2x_gelu")
    folder = tmp_path / "run" / "checkpoints" / "0-tune-000001"
    folder.parent.mkdir(parents=True)
    shutil.move(made, folder)
    parts = json.loads((folder / "parts.json").read_text())
    parts["extra"] = {"stage": 0, "step": 1, "finished": True, "history": {"data": [
        {"file": f"{tmp_path}/secret/samples.json", "sha256": "ab" * 32,
         "written": {"teacher": "rule", "language": "en"}}]}}  # fmt: skip
    (folder / "parts.json").write_text(json.dumps(parts))
    from vistune.runs.checkpoint import write_manifest

    write_manifest(folder)
    (tmp_path / "run" / "evals").mkdir()
    (tmp_path / "run" / "evals" / "pope.json").write_text(json.dumps({
        "task": "pope", "metrics": {"accuracy": 80.0, "f1": 81.5}, "count": 90, "majority": 0.5,
        "intervals": {"with_image": {"value": 0.8, "low": 0.75, "high": 0.85, "count": 90},
                      "without_image": {"value": 0.5, "low": 0.4, "high": 0.6, "count": 90}},
    }))  # fmt: skip
    return tmp_path / "run"


def push(model: Path, hub: Hub, **options: Any) -> Any:
    return api.push(model, REPO, endpoint=hub.url, token=TOKEN, **options)


def test_a_run_is_exported_and_uploaded_with_its_card(run: Path, hub: Hub, tmp_path: Path) -> None:
    result = push(run, hub, license_name="apache-2.0", private=True)
    files = hub.files[REPO]
    assert result.url.startswith(f"{hub.url}/{REPO}/commit/")
    assert hub.private[REPO]
    assert files.keys() == result.files.keys()
    assert {name: len(data) for name, data in files.items()} == result.files
    assert {"config.json", "model.safetensors", "chat_template.jinja", "tokenizer.json", "README.md"} <= files.keys()
    export_model(run / "checkpoints" / "0-tune-000001", tmp_path / "hf", layout="llava-hf")
    assert load(files["model.safetensors"]).keys() == load_file(tmp_path / "hf" / "model.safetensors").keys()
    card = files["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"
    for line in (
        "| samples.json | `abababababababab` | teacher rule, language en |",
        "| pope | accuracy 80, f1 81.5 | 80.0 % (75.0 to 85.0) | 50.0 % (40.0 to 60.0) | not asked | 50.0 % | 90 |",
        "- stage tune: projector at 0.001",
        "## Limits",
        "## Citation",
    ):
        assert line in card.splitlines()
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]


def test_a_dry_run_lists_the_same_files_and_asks_nobody(run: Path, hub: Hub) -> None:
    dry = push(run, hub, dry_run=True)
    assert not hub.requests
    assert dry.url is None
    assert push(run, hub).files == dry.files


def test_evaluation_results_are_in_the_hubs_format(run: Path, hub: Hub) -> None:
    push(run, hub, results=("pope=lmms-lab/POPE:adversarial@f1",))
    text = hub.files[REPO][".eval_results/pope.yaml"].decode()
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("lmms-lab/POPE", "adversarial", 81.5)
    assert entry.notes is not None
    assert "accuracy with image 80.0 % (75.0 to 85.0); accuracy without image 50.0 %" in entry.notes


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("pope=lmms-lab/POPE", "add @ and one of accuracy, f1"),
        ("pope=lmms-lab/POPE@recall", "no metric 'recall'"),
        ("gqa=lmms-lab/GQA@accuracy", "evaluations of this run: pope"),
        ("pope", "not EVALUATION=OWNER/DATASET"),
    ],
)
def test_a_result_that_the_run_does_not_have_is_refused(result: str, reason: str, run: Path, hub: Hub) -> None:
    with pytest.raises(RecipeError, match=reason):
        push(run, hub, results=(result,))
    assert not hub.requests


def test_pickles_and_adapters_over_a_local_base_are_refused(tuned: Make, hub: Hub, tmp_path: Path) -> None:
    folder = tuned("adapters", "projector", lora=Lora(rank=4, alpha=8), projector="mlp2x_gelu")
    export_model(folder, tmp_path / "peft", layout="peft")
    with pytest.raises(RecipeError, match="the base model 'base' is on this machine"):
        push(tmp_path / "peft", hub)
    with pytest.raises(RecipeError, match="has adapters"):
        push(folder, hub)
    export_model(folder, tmp_path / "hf", layout="llava-hf", merge=True)
    (tmp_path / "hf" / "notes.log").write_text("mine")
    assert push(tmp_path / "hf", hub).skipped == ("notes.log",)
    assert "notes.log" not in hub.files[REPO]
    (tmp_path / "hf" / "old.bin").write_bytes(b"pickle")
    with pytest.raises(RecipeError, match="only safetensors and GGUF are uploaded"):
        push(tmp_path / "hf", hub)


def test_private_is_never_uploaded_to_a_public_repository(run: Path, hub: Hub) -> None:
    hub.files[REPO], hub.private[REPO] = {}, False
    with pytest.raises(RecipeError, match=f"--private: {REPO} exists already and is public"):
        push(run, hub, private=True)
    assert not hub.files[REPO]
    hub.private[REPO] = True
    push(run, hub, private=True)
    assert "model.safetensors" in hub.files[REPO]


def test_without_private_the_owners_default_holds(run: Path, hub: Hub) -> None:
    hub.default = "private"
    push(run, hub)
    assert hub.private[REPO]


@pytest.mark.parametrize("repo", ["my-model", "a/b/c", "me/a--b", "me/모델", "-me/model", "me/model.git"])
def test_a_name_that_the_hub_does_not_accept_is_refused(repo: str, run: Path) -> None:
    with pytest.raises(RecipeError, match="is not OWNER/NAME"):
        api.push(run, repo, dry_run=True)


@pytest.mark.parametrize(("options", "name"), [({"layout": "llava-hf"}, "--layout"), ({"merge": True}, "--merge")])
def test_options_of_the_export_are_refused_for_an_exported_folder(
    options: dict[str, Any], name: str, run: Path, hub: Hub, tmp_path: Path
) -> None:
    export_model(run / "checkpoints" / "0-tune-000001", tmp_path / "hf", layout="llava-hf")
    with pytest.raises(RecipeError, match=f"{name}: .* is not a run or a model folder"):
        push(tmp_path / "hf", hub, **options)
    assert not hub.requests


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "hf auth login"),
        (403, "hf auth login"),
        (400, "answers 400.*check the name, --revision and the model card"),
        (404, "answers 404.*check the name, --revision and the model card"),
        (429, "answers 429.*try again later"),
    ],
)
def test_what_the_hub_refuses_is_one_line(status: int, reason: str, run: Path, hub: Hub) -> None:
    hub.status = status
    with pytest.raises(HubError, match=reason) as caught:
        push(run, hub)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_an_error_at_once(run: Path) -> None:
    with socket.socket() as closed:  # bound and not listening: every connection is refused
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(VistuneError, match="cannot be reached"):
            api.push(run, REPO, endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}", token=TOKEN)
