"""A certificate names the first stage at which a program computes an export differently."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from verified_models import save_model

import vistune
from vistune.errors import CheckpointError, DiskError, RecipeError
from vistune.interop.certificate import FILE, POSITIONS, read_certificate
from vistune.interop.export import export_model
from vistune.interop.sketches import sketch
from vistune.interop.verify import run_ours
from vistune.interop.verify_stages import StageResult, compare_stages
from vistune.recipe import Lora

Fault = Callable[[Path], None]


@pytest.fixture(scope="module")
def model(tiny_backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("source"), tiny_backbones / "vision")


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "hf"
    export_model(model, out, layout="llava-hf")
    return out


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "hf")


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def images(**settings: Any) -> Fault:
    """Change the image processor in every file that describes it."""

    def plant(folder: Path) -> None:
        for name in ("preprocessor_config.json", "processor_config.json"):
            if (folder / name).is_file():
                edit_json(folder / name, lambda tree: tree.get("image_processor", tree).update(settings))

    return plant


def config(name: str, *keys: str, **settings: Any) -> Fault:
    """Change a JSON file, at a path of keys."""

    def change(tree: dict[str, Any]) -> None:
        for key in keys:
            tree = tree[key]
        tree.update(settings)

    return lambda folder: edit_json(folder / name, change)


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Fault:
    def plant(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return plant


def swapped(part: str) -> Fault:
    """Swap queries and keys in the layers of a part."""

    def swap(tensors: dict[str, torch.Tensor]) -> None:
        names = [name for name in tensors if part in name and ".q_proj." in name]
        assert names
        for name in names:
            other = name.replace(".q_proj.", ".k_proj.")
            tensors[name], tensors[other] = tensors[other].clone(), tensors[name].clone()

    return weights(swap)


def wrong_projector(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "multi_modal_projector.linear_2.weight" in name)
    tensors[name][3] *= -1


def lose_weight(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if "layers.1.mlp.up_proj" in name and "language_model" in name)]


def template(old: str, new: str) -> Fault:
    """Replace text of the chat template."""

    def plant(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return plant


def lose_token(folder: Path) -> None:
    edit_json(folder / "tokenizer.json", lambda tree: tree.update(
        added_tokens=[token for token in tree["added_tokens"] if token["content"] != "colour"]))  # fmt: skip


def untie(folder: Path) -> None:
    edit_json(folder / "config.json", lambda tree: (tree.update(tie_word_embeddings=False),
                                                    tree["text_config"].update(tie_word_embeddings=False)))  # fmt: skip


def turn_otherwise(folder: Path) -> None:
    edit_json(folder / "config.json", lambda tree: (tree["text_config"]["rope_parameters"].update(rope_theta=500.0),
                                                    tree["text_config"].update(rope_theta=500.0)))  # fmt: skip


FAULTS: dict[str, tuple[str, Fault]] = {
    "mean": ("resize", images(image_mean=[0.5, 0.5, 0.5])),
    "std": ("resize", images(image_std=[0.3, 0.3, 0.3])),
    "resample": ("resize", images(resample=2)),
    "crop in place of padding": ("resize", images(do_pad=False)),
    "size": ("resize", images(size={"shortest_edge": 40}, do_pad=False)),
    "newline missing in the template": ("template", template("gap ~ '\\n' ~ (turn.text", "gap ~ (turn.text")),
    "no BOS in the template": ("template", template('begin = "<s>"', 'begin = ""')),
    "added token lost": ("tokenizer", lose_token),
    "image token id": ("tokenizer", config("config.json", image_token_index=5, image_token_id=5)),
    "padding side": ("tokenizer", config("tokenizer_config.json", padding_side="right")),
    "swapped q and k in the tower": ("tower", swapped("vision_tower")),
    "feature layer": ("tower", config("config.json", vision_feature_layer=-3)),
    "projector weight": ("projector", weights(wrong_projector)),
    "swapped q and k in the language model": ("language model", swapped("language_model")),
    "rope theta": ("language model", turn_otherwise),
    "head untied": ("language model", untie),
    "weight missing": ("language model", weights(lose_weight)),
    "temperature": ("sampler", config("generation_config.json", do_sample=True, temperature=0.7)),
    "penalty": ("sampler", config("generation_config.json", repetition_penalty=1.3)),
    "end token": ("sampler", config("generation_config.json", eos_token_id=7)),
}  # fmt: skip


def test_an_export_is_equal_in_transformers_and_here(exported: Path) -> None:
    for program in ("transformers", None):
        result = vistune.verify(exported, program)
        assert [stage.status for stage in result.stages] == ["equal"] * 7, result
        assert result.first_difference is None
        assert result.weights is not None
        report = result.weights
        assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
        tree = json.loads(json.dumps(result.to_dict()))
        assert (tree["equal"], tree["first_difference"], tree["versions"]) == (True, None, {})


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_by_its_stage(copied: Path, name: str) -> None:
    stage, plant = FAULTS[name]
    plant(copied)
    result = vistune.verify(copied, "transformers")
    assert result.first_difference is not None
    assert (result.first_difference.stage, result.stages[-1].status) == (
        stage,
        "differs" if stage == "sampler" else "not judged",
    ), result.stages
    with pytest.raises(CheckpointError, match=f"transformers first differs at the stage {stage}: "):
        result.require_equal()


@pytest.mark.parametrize(
    "name", ["mean", "newline missing in the template", "rope theta", "swapped q and k in the language model"]
)
def test_our_engine_names_the_stage_too(copied: Path, name: str) -> None:
    stage, plant = FAULTS[name]
    plant(copied)
    result = vistune.verify(copied)
    assert result.program == "vistune"
    assert result.first_difference is not None
    assert result.first_difference.stage == stage, result.stages


def test_missing_positions_differ_unless_they_cannot_be_computed(exported: Path) -> None:
    certificate = read_certificate(exported)
    program = run_ours(exported, certificate, "cpu")

    def first_difference(omitted: int) -> StageResult | None:
        results = {name: replace(result, steps=result.steps[:3], omitted=omitted)  # type: ignore[index]
                   for name, result in program.results.items()}  # fmt: skip
        stages = compare_stages(certificate, replace(program, results=results))
        return next((stage for stage in stages if stage.status == "differs"), None)

    assert first_difference(POSITIONS - 3) is None
    missing = first_difference(0)
    assert missing is not None
    assert missing.stage == "language model"
    assert missing.detail.endswith(f"the program gives logits at 3 positions of the answer, expected {POSITIONS}")


def test_weights_that_are_initialised_or_not_used_are_listed(copied: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))
        tensors[name.replace("up_proj", "upward_proj")] = tensors.pop(name)

    weights(rename)(copied)
    report = vistune.verify(copied, "transformers").weights
    assert report is not None
    assert [name.endswith("layers.0.mlp.up_proj.weight") for name in report.missing] == [True]
    assert [name.endswith("layers.0.mlp.upward_proj.weight") for name in report.unexpected] == [True]


def test_versions_that_changed_since_the_export_are_listed(copied: Path) -> None:
    config(FILE, "versions", transformers="4.36.0")(copied)
    result = vistune.verify(copied)
    assert list(result.versions) == ["transformers"]
    assert result.versions["transformers"][0] == "4.36.0"
    assert result.first_difference is None


@pytest.mark.parametrize("layout", ["llava-original", "peft"])
def test_other_layouts_have_a_certificate_too(tiny_backbones: Path, tmp_path: Path, layout: str) -> None:
    lora = Lora(rank=4, alpha=8) if layout == "peft" else None
    folder = save_model(tmp_path / "source", tiny_backbones / "vision", lora=lora)
    export_model(folder, tmp_path / "out", layout=layout)
    assert vistune.verify(tmp_path / "out").first_difference is None
    if layout == "peft":
        shutil.move(tmp_path / "out", tmp_path / "moved")  # the config still names the base by its former path
        result = vistune.verify(tmp_path / "moved", "transformers")
        assert result.first_difference is None, result.stages


def test_anyres_is_compared_tile_by_tile(tiny_backbones: Path, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "source", tiny_backbones / "vision", tied=False, image_mode="anyres")
    export_model(folder, tmp_path / "out", layout="llava-hf")
    for program in ("transformers", None):
        result = vistune.verify(tmp_path / "out", program)
        assert result.first_difference is None, result.stages


def test_a_certificate_stands_alone_and_is_small(exported: Path) -> None:
    certificate = read_certificate(exported)
    assert (exported / FILE).stat().st_size < 300_000
    assert len(certificate.batch) == 4
    texts = json.dumps([entry.messages for entry in certificate.conversations.values()], ensure_ascii=False)
    assert "What is in the picture?" in texts
    assert "이 이미지를" in texts
    assert {entry.image_name for entry in certificate.conversations.values()} == {"", "wide", "square"}
    assert {"vistune", "torch", "transformers", "pillow"} <= certificate.versions.keys()


def test_one_value_in_a_sketch_counts() -> None:
    """A sample of values would miss a changed row."""
    tensor = torch.randn(100, 64, generator=torch.Generator().manual_seed(1))
    changed = tensor.clone()
    changed[:, 7] *= -1
    expected = float((changed - tensor).norm() / tensor.norm())
    assert sketch(tensor).distance(sketch(changed)) == pytest.approx(expected, rel=0.4)
    assert sketch(tensor).distance(sketch(tensor.clone())) == 0


def no_file(folder: Path) -> None:
    (folder / FILE).unlink()


def not_json(folder: Path) -> None:
    (folder / FILE).write_text("{")


BAD: dict[str, tuple[Fault, str]] = {
    "no certificate": (no_file, r"contains no certificate.json.*`vistune export` writes"),
    "not JSON": (not_json, "certificate.json: not JSON"),
    "other format": (config(FILE, format=9), "format 9 is not supported, 1 is expected"),
    "field missing": (lambda folder: edit_json(folder / FILE, lambda tree: tree.pop("batch")), "batch: Field required"),
    "other image": (config(FILE, "images", "wide", sha256="0"), "draws another image 'wide'.*use vistune"),
    "weights cut off": (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "transformers rejects it"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(copied: Path, name: str) -> None:
    plant, message = BAD[name]
    plant(copied)
    with pytest.raises(CheckpointError, match=message) as caught:
        vistune.verify(copied, "transformers")
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_named(model: Path, tmp_path: Path, exported: Path) -> None:
    with pytest.raises(CheckpointError, match=r"contains no certificate.json"):
        vistune.verify(model)
    with pytest.raises(CheckpointError, match="no such folder"):
        vistune.verify(tmp_path / "nothing")
    with pytest.raises(RecipeError, match=r"--with 'vllm' is not known.*use transformers"):
        vistune.verify(exported, "vllm")


def test_the_certificate_of_another_model_differs(copied: Path, tiny_backbones: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "source", tiny_backbones / "vision", template="v0")
    export_model(other, tmp_path / "other", layout="llava-hf")
    shutil.copy(tmp_path / "other" / FILE, copied)
    first = vistune.verify(copied, "transformers").first_difference
    assert first is not None
    assert first.stage == "template"


def test_a_full_disk_leaves_nothing_behind(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vistune.files.os.replace", full)
    with pytest.raises(DiskError, match=r"cannot be written: No space left on device"):
        export_model(model, tmp_path / "out", layout="llava-hf")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_stages_and_ends_with_2(copied: Path) -> None:
    config("generation_config.json", do_sample=True)(copied)
    command = [sys.executable, "-m", "vistune", "verify", str(copied), "--with", "transformers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "language model" in done.stdout
    assert "first differs at the stage sampler: generation_config.json: do_sample is True" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["first_difference"] == "sampler"
