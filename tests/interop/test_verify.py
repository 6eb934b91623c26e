"""A certificate names the first stage at which a program computes an export differently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from verified_models import save_model

import vistune
from vistune.errors import CheckpointError
from vistune.interop.export import export_model

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
    "newline missing in the template": ("template", template("gap ~ '\\n' ~ (words", "gap ~ (words")),
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
