"""Model folders that are damaged, foreign or hostile: the rest of the reliability matrix's K rows."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vistune import checkpoint, models
from vistune.errors import CheckpointError, VistuneError
from vistune.interop import layouts
from vistune.interop.export import import_model
from vistune.model import read_spec
from vistune.model.language import load_language
from vistune.model.vision import load_tower
from vistune.recipe import Model

Make = Callable[..., Path]


class Payload:
    """A pickle that would make a file if it were run."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("form", ["pickle", "zip"])
@pytest.mark.parametrize("part", ["language", "vision"])
def test_a_backbones_pickle_is_never_run(tiny_backbones: Path, tmp_path: Path, part: str, form: str) -> None:
    """Hub folders of old (Vicuna) hold nothing else: tensors are read from them, code is not."""
    folder, canary = tmp_path / part, tmp_path / "canary"
    shutil.copytree(tiny_backbones / part, folder)
    (folder / "model.safetensors").unlink()
    evil = {"model.norm.weight": Payload(canary)}
    if form == "zip":
        torch.save(evil, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(evil))
    spec = read_spec(Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language")))
    load = {"language": lambda: load_language(str(folder), torch.float32),
            "vision": lambda: load_tower(str(folder), spec, torch.float32)}[part]  # fmt: skip
    with pytest.raises(VistuneError, match=part):
        load()
    assert not canary.exists()


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        ("llava-hf", {"vision_feature_select_strategy": "odd"}),
        ("llava-hf", {"text_config": {"model_type": "llama", "hidden_size": "wide"}}),
        ("llava-hf", {"vision_config": {"model_type": "none such"}}),
        ("original", {"hidden_size": "wide"}),
        ("tower", {"num_hidden_layers": "many"}),
    ],
)
def test_values_that_no_config_takes_are_named_with_the_file(
    golden_hf: Path, original: Make, tiny_backbones: Path, tmp_path: Path, layout: str, change: dict[str, Any]
) -> None:
    if layout == "original":
        folder = spoilt = original()
    elif layout == "tower":
        spoilt = Path(shutil.copytree(tiny_backbones / "vision", tmp_path / "tower"))
        folder = original(mm_vision_tower=str(spoilt))
    else:
        folder = spoilt = Path(shutil.copytree(golden_hf, tmp_path / "hf"))
    config = json.loads((spoilt / "config.json").read_text())
    (spoilt / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(VistuneError, match=str(spoilt)) as caught:
        layouts.load(folder)
    assert caught.value.hint


def test_a_backbone_of_pickled_tensors_alone_is_the_same_backbone(tiny_backbones: Path, tmp_path: Path) -> None:
    folder = tmp_path / "language"
    shutil.copytree(tiny_backbones / "language", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    wanted = load_language(str(tiny_backbones / "language"), torch.float32).state_dict()
    found = load_language(str(folder), torch.float32).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_pickle_slipped_into_a_folder_of_ours_is_not_opened(original: Make, tmp_path: Path) -> None:
    import_model(original(), tmp_path / "ours")
    wanted = checkpoint.load(tmp_path / "ours")[0].projector_state()
    for name in ("projector.pt", "pytorch_model.bin", "language/pytorch_model.bin", "vision/pytorch_model.bin"):
        (tmp_path / "ours" / name).write_bytes(pickle.dumps({"x": Payload(tmp_path / "canary")}))
    found = checkpoint.load(tmp_path / "ours")[0].projector_state()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert not (tmp_path / "canary").exists()


def test_a_folder_without_its_commit_mark_is_refused(original: Make, tmp_path: Path) -> None:
    import_model(original(), tmp_path / "ours")
    (tmp_path / "ours" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no manifest\.json.*cut off"):
        models.load(tmp_path / "ours")


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.mark.parametrize("change", ["overlap", "beyond the end", "negative", "gap"])
def test_offsets_that_cannot_be_are_named(original: Make, change: str) -> None:
    folder = original()
    path = folder / "model.safetensors"
    header, body = header_of(path)
    names = [name for name in header if name != "__metadata__"]
    first, second = sorted(names, key=lambda name: header[name]["data_offsets"][0])[:2]
    begin, end = header[second]["data_offsets"]
    header[second]["data_offsets"] = {
        "overlap": [(at := header[first]["data_offsets"][0]), at + end - begin],
        "beyond the end": [2**40, 2**40 + end - begin],
        "negative": [-8, end - begin - 8],
        "gap": [begin + 1, end],
    }[change]
    told = json.dumps(header).encode()
    path.write_bytes(len(told).to_bytes(8, "little") + told + body)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        layouts.load(folder)


def test_at_most_ten_tensors_are_listed_and_the_rest_counted(original: Make) -> None:
    folder = original()
    tensors = load_file(folder / "model.safetensors")
    gone = sorted(name for name in tensors if ".layers." in name)
    assert len(gone) == 18
    save_file({name: tensor for name, tensor in tensors.items() if name not in gone}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="and 8 more") as caught:
        layouts.load(folder)
    assert caught.value.message.count(".layers.") == 10


def test_a_tokenizer_longer_than_the_vocabulary_is_refused(original: Make, shared: Path, tmp_path: Path) -> None:
    folder = original()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shared / "data" / "llama-tokenizer" / file, folder)
    with pytest.raises(CheckpointError, match="ids up to 31999, its language model has 400 rows"):
        layouts.load(folder)
    with pytest.raises(CheckpointError, match="ids up to 31999"):
        import_model(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_word_added_to_the_tokenizer_alone_is_refused_a_special_token_is_not(original: Make) -> None:
    from transformers import AutoTokenizer

    folder = original()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<soft>"]})
    tokenizer.save_pretrained(folder)
    layouts.load(folder)  # no text becomes it
    tokenizer.add_tokens(["wordish"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="ids up to 401"):
        layouts.load(folder)
