"""Model folders that are damaged, foreign or hostile: the rest of the reliability matrix's K rows."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from script_modules import load_script

from vistune import api
from vistune.errors import CheckpointError, VistuneError
from vistune.interop import layouts
from vistune.interop.export import import_model
from vistune.model import read_spec
from vistune.model.language import load_language
from vistune.model.vision import load_tower
from vistune.recipe import Model

Make = Callable[..., Path]
CORPUS = load_script("corpus_models")
MODELS, Payload = CORPUS.MODELS, CORPUS.Payload


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


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_the_corpus_is_loaded_or_refused(name: str, tmp_path: Path) -> None:
    case, folder = MODELS[name], tmp_path / name
    case.write(folder)
    if case.outcome == "ok":
        assert api.load(folder).encode([{"role": "user", "content": "?"}]).input_ids.numel()
    else:
        with pytest.raises(CheckpointError, match=case.words) as caught:
            api.load(folder)
        assert caught.value.hint
        assert caught.value.message.count(".layers.") <= 20, "ten missing and ten strange ones are listed"
    assert not (folder / "canary").exists()


def test_a_tokenizer_longer_than_the_vocabulary_is_not_imported(tmp_path: Path) -> None:
    MODELS["K09-longer-tokenizer"].write(tmp_path / "folder")
    with pytest.raises(CheckpointError, match="ids up to"):
        import_model(tmp_path / "folder", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
