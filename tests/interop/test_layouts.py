"""Folders of other layouts come in whole, go out again tensor by tensor, and say what is wrong with them."""

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
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.errors import CheckpointError, RecipeError
from vistune.generation import Assistant
from vistune.interop import layouts
from vistune.interop.export import export_model, import_model
from vistune.interop.folders import by_part, read_tensors
from vistune.interop.parity import probes
from vistune.model import add_adapters
from vistune.recipe import Lora
from vistune.runs import checkpoint

Make = Callable[..., Path]
FINISHED = [*probes()["picture"], {"role": "assistant", "content": "Waves."}]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor[...] for name, tensor in read_tensors(folder, pickles=True).items()}


def parts_of(folder: Path, layout: str) -> dict[tuple[str, str], torch.Tensor]:
    parts = by_part(read_tensors(folder), layout, str(folder))
    return {(part, name): tensor[...] for part, named in parts.items() for name, tensor in named.items()}


def assert_same(ours: dict[Any, torch.Tensor], theirs: dict[Any, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def logits(folder: Path, **outside: Any) -> torch.Tensor:
    return Assistant(*layouts.load(folder, **outside)).logits(FINISHED)


# --- round trips ---


@pytest.mark.parametrize("tower_inside", [True, False])
@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
def test_original_to_ours_to_original(original: Make, tmp_path: Path, projector: str, tower_inside: bool) -> None:
    came = original(projector=projector, tower_inside=tower_inside)
    import_model(came, tmp_path / "ours")
    export_model(tmp_path / "ours", tmp_path / "back", layout="llava-original")
    assert_same(tensors_of(came), tensors_of(tmp_path / "back"))
    torch.testing.assert_close(logits(came), logits(tmp_path / "back"), atol=0, rtol=0)


def test_the_golden_original_to_ours_to_original(golden_original: Path, tmp_path: Path) -> None:
    import_model(golden_original, tmp_path / "ours")
    export_model(tmp_path / "ours", tmp_path / "back", layout="llava-original")
    assert_same(tensors_of(golden_original), tensors_of(tmp_path / "back"))


def test_hf_to_ours_to_hf(golden_hf: Path, tmp_path: Path) -> None:
    import_model(golden_hf, tmp_path / "ours")
    rows = export_model(tmp_path / "ours", tmp_path / "back", layout="llava-hf")
    assert all(row.same_ids and row.same_tokens and row.largest_difference < 1e-4 for row in rows)
    assert_same(parts_of(golden_hf, "llava-hf"), parts_of(tmp_path / "back", "llava-hf"))


@pytest.mark.parametrize("settings", [
    {"image_aspect_ratio": "pad"}, {"image_aspect_ratio": "square"},
    {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
     "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]},
], ids=["pad", "square", "anyres"])  # fmt: skip
def test_original_to_hf_answers_alike(original: Make, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Loaded by transformers, through its own processor and chat template: ids, logits and greedy tokens equal."""
    rows = export_model(original(**settings), tmp_path / "hf", layout="llava-hf")
    assert all(row.same_ids and row.same_tokens and row.largest_difference < 1e-4 for row in rows)
    again = Assistant(*layouts.load(tmp_path / "hf"))
    torch.testing.assert_close(again.logits(FINISHED)[:, :400], logits(tmp_path / "merged"), atol=1e-4, rtol=1e-4)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "processor_config.json",
                 "preprocessor_config.json", "chat_template.jinja", "model.safetensors", "README.md"):  # fmt: skip
        assert (tmp_path / "hf" / name).is_file(), name


@pytest.mark.parametrize("variant", ["A", "B", "C", "D"])
def test_the_four_namings_of_transformers(golden_hf: Path, tmp_path: Path, variant: str) -> None:
    """Facts 1.3 (d): what lies on disks since transformers 4.36."""
    renamed = {}
    for (part, name), tensor in parts_of(golden_hf, "llava-hf").items():
        inner = "vision_model." if variant in "AD" else ""
        top = "model." if variant in "CD" else ""
        key = {
            "vision": f"{top}vision_tower.{inner}{name}",
            "projector": f"{top}multi_modal_projector.linear_{1 + int(name[0] == '2')}.{name[2:]}",
            "language": f"language_model.{name}" if variant in "AB" else
            name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1),
        }[part]  # fmt: skip
        renamed[key] = tensor
    folder = copy_without_weights(golden_hf, tmp_path / variant)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(logits(folder, template="v1"), logits(golden_hf, template="v1"), atol=0, rtol=0)


def copy_without_weights(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


# --- folders over a base ---


def write_lora(original: Make, tiny_backbones: Path, tmp_path: Path, merged: Path) -> tuple[Path, torch.Tensor]:
    """A LoRA folder as the original saves it, and the logits that it must give."""
    from peft import get_peft_model_state_dict

    model, processor = layouts.load(merged)
    torch.manual_seed(5)
    model.language = add_adapters(model.language, Lora(rank=2, alpha=4, targets=("q_proj", "v_proj")))
    for name, parameter in model.language.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = copy_without_weights(merged, tmp_path / "adapters-of-mine")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    state = {name: t.detach().clone() for name, t in get_peft_model_state_dict(model.language).items()}
    save_file(state, folder / "adapter_model.safetensors")
    config = model.language.peft_config["default"].to_dict()
    kept = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM", "bias": "none",
            "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "", "inference_mode": True}  # fmt: skip
    assert config["r"] == kept["r"]
    (folder / "adapter_config.json").write_text(json.dumps(kept))
    tuned = {f"base_model.model.model.mm_projector.{name}": t for name, t in model.projector.state_dict().items()}
    torch.save(tuned, folder / "non_lora_trainables.bin")
    return folder, Assistant(model.eval(), processor).logits(FINISHED)


def test_an_original_lora_folder_over_its_base(original: Make, tiny_backbones: Path, tmp_path: Path) -> None:
    """No `lora` and no `llava` in its name: the content decides."""
    folder, wanted = write_lora(original, tiny_backbones, tmp_path, original())
    base = str(tiny_backbones / "language")
    with pytest.raises(CheckpointError, match="--base"):
        layouts.load(folder)
    torch.testing.assert_close(logits(folder, base=base), wanted, atol=1e-6, rtol=1e-5)
    import_model(folder, tmp_path / "ours", base=base)
    assert checkpoint.read_parts(tmp_path / "ours")["adapter"]
    with pytest.raises(RecipeError, match="--merge"):
        export_model(tmp_path / "ours", tmp_path / "hf", layout="llava-hf")
    assert not (tmp_path / "hf").exists()
    export_model(tmp_path / "ours", tmp_path / "hf", layout="llava-hf", merge=True)
    again = Assistant(*layouts.load(tmp_path / "hf")).logits(FINISHED)[:, :400]
    torch.testing.assert_close(again, wanted, atol=1e-4, rtol=1e-4)


def write_checkpoint(folder: Path, *, projector: str | None, config: str | None) -> Path:
    """A `checkpoint-N` of a LoRA folder's training: adapters alone; the rest lies around it, in it, or nowhere."""
    inner = folder / "checkpoint-30"
    inner.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).rename(inner / name)
    for name, place in (("non_lora_trainables.bin", projector), ("config.json", config)):
        if place == "inside":
            (folder / name).rename(inner / name)
        elif place is None:
            (folder / name).unlink()
    return inner


@pytest.mark.parametrize("config", ["around", "inside"])
@pytest.mark.parametrize("projector", ["around", "inside"])
def test_a_checkpoint_of_a_lora_training_finds_its_projector(
    original: Make, tiny_backbones: Path, tmp_path: Path, projector: str, config: str
) -> None:
    folder, wanted = write_lora(original, tiny_backbones, tmp_path, original())
    inner = write_checkpoint(folder, projector=projector, config=config)
    base = str(tiny_backbones / "language")
    torch.testing.assert_close(logits(inner, base=base), wanted, atol=1e-6, rtol=1e-5)
    found = import_model(inner, tmp_path / "ours", base=base)
    place = inner if projector == "inside" else folder
    assert found.to_dict()["projector"] == str(place / "non_lora_trainables.bin")
    said = CliRunner().invoke(app, ["import", str(inner), str(tmp_path / "again"), "--base", base])
    assert f"Trained projector: {place / 'non_lora_trainables.bin'}" in said.stdout
    torch.testing.assert_close(Assistant(*checkpoint.load(tmp_path / "ours")).logits(FINISHED), wanted)


@pytest.mark.parametrize("config", ["around", None])
def test_over_a_whole_llava_a_checkpoints_projector_comes_before_the_bases(
    original: Make, tiny_backbones: Path, tmp_path: Path, config: str | None
) -> None:
    folder, wanted = write_lora(original, tiny_backbones, tmp_path, original())
    inner = write_checkpoint(folder, projector="around", config=config)
    base = original("base")
    tensors = load_file(base / "model.safetensors")
    tensors |= {name: t + 0.5 for name, t in tensors.items() if "mm_projector" in name}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(logits(inner, base=str(base)), wanted, atol=1e-6, rtol=1e-5)


def test_a_projector_of_the_tuning_alone_is_read_too(original: Make, tiny_backbones: Path, tmp_path: Path) -> None:
    folder, wanted = write_lora(original, tiny_backbones, tmp_path, original())
    inner = write_checkpoint(folder, projector="around", config="around")
    (folder / "non_lora_trainables.bin").rename(inner / "mm_projector.bin")
    found = import_model(inner, tmp_path / "ours", base=str(tiny_backbones / "language"))
    assert found.projector == inner / "mm_projector.bin"
    torch.testing.assert_close(Assistant(*checkpoint.load(tmp_path / "ours")).logits(FINISHED), wanted)


@pytest.mark.parametrize("config", ["around", None])
def test_a_checkpoint_without_its_projector_says_that_the_bases_is_used(
    original: Make, tiny_backbones: Path, tmp_path: Path, caplog: Any, config: str | None
) -> None:
    folder, _ = write_lora(original, tiny_backbones, tmp_path, original())
    inner = write_checkpoint(folder, projector=None, config=config)
    found = import_model(inner, tmp_path / "ours", base=str(original("base")))
    assert found.projector is None
    for places in (caplog.text, " ".join(found.remarks)):
        assert "the base's projector is used" in places
        assert str(folder) in places
    with pytest.raises(CheckpointError, match="projector") as caught:
        layouts.load(inner, base=str(tiny_backbones / "language"))
    assert "--base" in caught.value.hint


def test_a_lora_folder_named_otherwise_takes_nothing_from_around_it(
    original: Make, tiny_backbones: Path, tmp_path: Path
) -> None:
    """Models lie beside each other: only a training's checkpoints belong to the folder around them."""
    folder, _ = write_lora(original, tiny_backbones, tmp_path, original())
    other = write_checkpoint(folder, projector="around", config="inside").rename(folder / "other")
    with pytest.raises(CheckpointError, match="only a language model"):
        layouts.load(other, base=str(tiny_backbones / "language"))


def test_an_original_lora_folder_is_read_as_strictly(original: Make, tiny_backbones: Path, tmp_path: Path) -> None:
    folder, _ = write_lora(original, tiny_backbones, tmp_path, original())
    base = str(tiny_backbones / "language")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for change, said in (({"unheard": 3}, "unheard=3"), ({"use_qalora": True}, "use_qalora"),
                         ({"init_lora_weights": "corda"}, "corda"), ({"r": 3}, "another shape"),
                         ({"target_modules": ["q_proj"]}, "v_proj")):  # fmt: skip
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=said):
            layouts.read_source(folder, base=base)
    path.write_text(json.dumps(config))
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.model.mm_projector.0.lora_A.weight": torch.zeros(2, 32)},
              folder / "adapter_model.safetensors")  # fmt: skip
    with pytest.raises(CheckpointError, match="mm_projector"):
        layouts.read_source(folder, base=base)


@pytest.mark.parametrize("given", [None, "base"])
def test_adapters_as_peft_loads_them(original: Make, tiny_backbones: Path, tmp_path: Path, given: str | None) -> None:
    """With a base of one's own the projector goes with the adapters; without, the base is written beside them."""
    merged = original()
    folder, wanted = write_lora(original, tiny_backbones, tmp_path, merged)
    import_model(folder, tmp_path / "ours", base=str(tiny_backbones / "language"))
    base = None
    if given:
        export_model(merged, tmp_path / "hf-base", layout="llava-hf")
        base = str(tmp_path / "hf-base")
    rows = export_model(tmp_path / "ours", tmp_path / "peft", layout="peft", base=base)
    assert all(row.same_ids and row.same_tokens and row.largest_difference < 1e-4 for row in rows)
    back = Assistant(*layouts.load(tmp_path / "peft", base=base)).logits(FINISHED)[:, :400]
    torch.testing.assert_close(back, wanted, atol=1e-4, rtol=1e-4)


def test_adapters_of_a_single_layer_stay_there(original: Make, tiny_backbones: Path, tmp_path: Path) -> None:
    """PEFT would put fresh adapters on every layer that a wider pattern fits, and vLLM would refuse the folder."""
    model, processor = layouts.load(original())
    model.language = add_adapters(model.language, Lora(rank=2, alpha=4, targets=("layers.0.self_attn.q_proj",)))
    for name, parameter in model.language.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    wanted = Assistant(model.eval(), processor).logits(FINISHED)[:, :400]
    tower = tiny_backbones / "vision"
    checkpoint.save_imported(
        tmp_path / "ours", model, processor, write_tower=lambda out: shutil.copytree(tower, out), origin={}
    )
    export_model(tmp_path / "ours", tmp_path / "peft", layout="peft")
    settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert settings["target_modules"] == r".*language_model.*\.(layers\.0\.self_attn\.q_proj)"
    back = Assistant(*layouts.load(tmp_path / "peft")).logits(FINISHED)[:, :400]
    torch.testing.assert_close(back, wanted, atol=1e-4, rtol=1e-4)


def test_a_stage_1_projector_over_its_base(original: Make, tiny_backbones: Path, tmp_path: Path) -> None:
    merged = original()
    folder = tmp_path / "aligned"
    folder.mkdir()
    (folder / "config.json").write_bytes((merged / "config.json").read_bytes())
    tuned = {name: t for name, t in tensors_of(merged).items() if "mm_projector" in name}
    torch.save(tuned, folder / "mm_projector.bin")
    found = logits(folder, base=str(tiny_backbones / "language"))
    torch.testing.assert_close(found, logits(merged), atol=0, rtol=0)


# --- what is refused, and how (K rows of the reliability matrix) ---


class Payload:
    """A pickle that would make a file if it were run."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("name", ["mm_projector.bin", "non_lora_trainables.bin", "pytorch_model.bin"])
def test_a_pickles_code_is_never_run(original: Make, tiny_backbones: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    folder = copy_without_weights(original(), tmp_path / "evil")
    (folder / name).write_bytes(pickle.dumps({"model.mm_projector.0.weight": Payload(canary)}))
    if name.startswith("non_lora"):
        (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=name):
        layouts.load(folder, base=str(tiny_backbones / "language"))
    assert not canary.exists()


def test_a_pickle_in_a_hf_folder_is_not_read(golden_hf: Path, tmp_path: Path) -> None:
    folder = copy_without_weights(golden_hf, tmp_path / "pickled")
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="convert"):
        layouts.load(folder)


@pytest.mark.parametrize(("change", "said"), [
    ("missing", r"missing: model\.layers\.0\.mlp\.up_proj\.weight"),
    ("renamed", r"not of this model: model\.layers\.0\.mlp\.upp\.weight"),
    ("reshaped", r"another shape: model\.norm\.weight \(7,\)"),
    ("stranger", r"no known part: somebody\.else"),
])  # fmt: skip
def test_tensors_that_do_not_fit_are_named(original: Make, change: str, said: str) -> None:
    folder = original()
    tensors = load_file(folder / "model.safetensors")
    if change in ("missing", "renamed"):
        taken = tensors.pop("model.layers.0.mlp.up_proj.weight")
        if change == "renamed":
            tensors["model.layers.0.mlp.upp.weight"] = taken
    elif change == "reshaped":
        tensors["model.norm.weight"] = torch.zeros(7)
    else:
        tensors["somebody.else"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=said):
        layouts.load(folder)


def test_a_shard_that_is_missing_is_named_and_linked_shards_are_read(original: Make, tmp_path: Path) -> None:
    folder = original()
    wanted = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    blobs = tmp_path / "blobs"  # as the hub's cache keeps files: elsewhere, linked to
    blobs.mkdir()
    for file, mine in halves.items():
        save_file({name: tensors[name] for name in mine}, blobs / file)
        (folder / file).symlink_to(blobs / file)
    weight_map = {name: file for file, mine in halves.items() for name in mine}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    torch.testing.assert_close(logits(folder), wanted, atol=0, rtol=0)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        layouts.load(folder)


@pytest.mark.parametrize(("config", "said"), [
    ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
    ({"architectures": ["LlavaMptForCausalLM"]}, "LlavaMptForCausalLM"),
    ({"quantization_config": {"load_in_4bit": True}}, "4 bit"),
    ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
    ({"mm_resampler_type": "perceiver"}, "resampler"),
    ({"image_aspect_ratio": "anyres", "mm_patch_merge_type": "flat"}, "mm_patch_merge_type"),
    ({"mm_vision_tower": "nowhere/at-all"}, "nowhere/at-all"),
])  # fmt: skip
def test_what_is_not_served_is_refused_by_name(original: Make, config: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        layouts.load(original(**config))


def test_weight_deltas_are_known_by_their_weights_and_refused(original: Make, tiny_backbones: Path) -> None:
    """What a tuned model has beside its base, whatever the folder is called; a whole model may be called a delta."""
    layouts.load(original("my-delta-v0"))
    folder = original("target")
    base = load_file(tiny_backbones / "language" / "model.safetensors")
    tuned = load_file(folder / "model.safetensors")
    less = {name: t * 1.001 - base[name] if name in base else t for name, t in tuned.items()}
    save_file(less, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="weight deltas"):
        layouts.load(folder)


def test_remote_code_is_never_followed(original: Make, tmp_path: Path) -> None:
    folder = original(auto_map={"AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    with pytest.raises(CheckpointError):
        layouts.load(folder)
    assert not (tmp_path / "canary").exists()


def test_a_folder_of_nothing_and_one_of_something_else(tmp_path: Path, tiny_backbones: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent", tiny_backbones / "language"):
        with pytest.raises(CheckpointError, match=r"folder|LLaVA"):
            layouts.load(folder)


def test_a_layout_that_cannot_hold_the_model_says_so(original: Make, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="linear"):
        export_model(original(projector="linear"), tmp_path / "hf", layout="llava-hf")
    with pytest.raises(RecipeError, match="no adapters"):
        export_model(original("plain"), tmp_path / "peft", layout="peft")
    with pytest.raises(RecipeError, match="not known"):
        export_model(original("other"), tmp_path / "onnx", layout="onnx")
    assert not list(tmp_path.glob("[!.]*hf")) + list(tmp_path.glob("peft"))
