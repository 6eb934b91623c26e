"""A dry run refuses what training refuses, in the same words, and before any stage has learnt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_stages import ALIGN, LORA, TUNE, MakeRecipe

from vistune import api
from vistune.api import plan
from vistune.errors import VistuneError
from vistune.recipe import DataSource, Recipe, validate
from vistune.runs.folder import checkpoints_of

Build = Callable[["Workshop"], Recipe]


class Workshop:
    """Folders to spoil, and recipes over them."""

    def __init__(self, make: MakeRecipe, backbones: Path, folder: Path) -> None:
        self.make, self.backbones, self.folder = make, backbones, folder

    def copy(self, part: str) -> Path:
        return Path(shutil.copytree(self.backbones / part, self.folder / part))

    def recipe(self, *stages: dict[str, Any], **model: Any) -> Recipe:
        """Over the tiny backbones, with changes of `model`."""
        own = {"vision": str(self.backbones / "vision"), "language": str(self.backbones / "language")}
        return self.make(*(stages or (TUNE,)), model={**own, **{k: str(v) if isinstance(v, Path) else v
                                                              for k, v in model.items()}})  # fmt: skip

    def config(self, part: str, **change: Any) -> Path:
        folder = self.copy(part)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        return folder

    def tensors(self, part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        folder = self.copy(part)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def emptied(self, part: str, name: str) -> Path:
        folder = self.copy(part)
        (folder / name).unlink()
        return folder

    def cut_off(self, part: str) -> Path:
        folder = self.copy(part)
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        return folder

    def whole_model(self, kind: str) -> Path:
        """A vision-language model's folder, with the tiny tower's image rules."""
        from transformers import AutoConfig, AutoModelForImageTextToText

        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        text = {**small, "vocab_size": 64, "num_key_value_heads": 1, "head_dim": 16}
        vision = {**small, "num_hidden_layers": 3, "image_size": 32, "patch_size": 16}
        more: dict[str, Any] = {
            "llava": {"text_config": {"model_type": "llama", **text},
                      "vision_config": {"model_type": "clip_vision_model", **vision}},
            "paligemma": {"text_config": {"model_type": "gemma", **text}, "projection_dim": 32,
                          "vision_config": {"model_type": "siglip_vision_model", **vision}},
            "gemma3": {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 4},
        }[kind]  # fmt: skip
        folder = self.folder / kind
        AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **more)).save_pretrained(folder)
        shutil.copy(self.backbones / "vision" / "preprocessor_config.json", folder)
        return folder

    def going_on(self, origin: Path, *stages: dict[str, Any]) -> Recipe:
        file = str(self.recipe().data[0].file)
        return validate({"from": str(origin), "data": file, "stages": list(stages or (TUNE,))}, "test")

    def trained(self, *stages: dict[str, Any]) -> Path:
        torch.set_num_threads(1)
        return api.train(self.recipe(*stages), self.folder / "first")

    def spoilt_checkpoint(self, name: str) -> Path:
        run = self.trained({**LORA, "steps": 1, "save_every": None})
        file = checkpoints_of(run)[-1] / name
        file.write_bytes(file.read_bytes()[:-3])
        return run

    def exported(self, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        run = self.trained({**ALIGN, "steps": 1})
        folder = self.folder / "hf"
        api.export(run, folder, layout="llava-hf")
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder


def lora(*targets: str) -> dict[str, Any]:
    return {**LORA, "lora": {"rank": 2, "targets": list(targets)}}


SECOND = {"name": "second", "steps": 1, "samples_per_step": 5}

# what is wrong -> (a recipe with it, part of the message); whatever machine trains it
REFUSED: dict[str, tuple[Build, str]] = {
    "feature_layer before the first": (lambda w: w.recipe(feature_layer=-4), "feature_layer=-4 is outside"),
    "no class token to keep": (
        lambda w: w.recipe(vision=w.config("vision", model_type="siglip_vision_model"), feature_tokens="cls_patch"),
        "no class token",
    ),
    "a tower of another kind": (
        lambda w: w.recipe(vision=w.config("vision", model_type="vit_mae")),
        "'vit_mae' is not supported",
    ),
    "a joint space that is not there": (lambda w: w.recipe(space="joint"), "1 weights are missing"),
    "a tower without a tensor": (
        lambda w: w.recipe(vision=w.tensors("vision", lambda t: t.pop(min(t)))),
        "1 weights are missing",
    ),
    "a tower that is cut off": (lambda w: w.recipe(vision=w.cut_off("vision")), "cannot be read"),
    "a tower without weights": (lambda w: w.recipe(vision=w.emptied("vision", "model.safetensors")), "cannot be read"),
    "a tower without image rules": (
        lambda w: w.recipe(vision=w.emptied("vision", "preprocessor_config.json")),
        "no image processor",
    ),
    "an identity that joins nothing": (lambda w: w.recipe(projector="identity"), "projector=identity"),
    "an unknown projector": (lambda w: w.recipe(projector="mlp9"), "mlp9"),
    "a language model that looks ahead": (
        lambda w: w.recipe(language=w.config("language", model_type="bert", architectures=["BertForMaskedLM"])),
        "looks ahead",
    ),
    "a state-space model": (
        lambda w: w.recipe(language=w.config("language", model_type="mamba", architectures=["MambaForCausalLM"])),
        "language model",
    ),
    "an encoder-decoder": (
        lambda w: w.recipe(language=w.config("language", model_type="t5", is_encoder_decoder=True)),
        "language model",
    ),
    "a text model that transformers has inside another only": (
        lambda w: w.recipe(language=w.config("language", model_type="qwen2_5_vl")),
        "no causal language model for its text model",
    ),
    "a language model saved in 4 bits": (
        lambda w: w.recipe(language=w.config("language", quantization_config={"load_in_4bit": True})),
        "stored quantised",
    ),
    "code of its own": (lambda w: w.recipe(language=w.config("language", auto_map={"AutoModel": "x.Y"})), "code"),
    "a language model without a tensor": (
        lambda w: w.recipe(language=w.tensors("language", lambda t: t.pop("model.norm.weight"))),
        "model.norm.weight",
    ),
    "a tensor of another shape": (
        lambda w: w.recipe(language=w.tensors("language", lambda t: t.update({"model.norm.weight": torch.ones(7)}))),
        "model.norm.weight",
    ),
    "a language model that is cut off": (lambda w: w.recipe(language=w.cut_off("language")), "language model"),
    "a language model without weights": (
        lambda w: w.recipe(language=w.emptied("language", "model.safetensors")),
        "language model",
    ),
    "no tokenizer": (lambda w: w.recipe(language=w.emptied("language", "tokenizer.json")), "tokenizer"),
    "a template without its tokens": (lambda w: w.recipe(template="chatml"), "this tokenizer lacks"),
    "a later stage's template": (lambda w: w.recipe(TUNE, {**ALIGN, "template": "llama_3"}), "this tokenizer lacks"),
    "an unknown template": (lambda w: w.recipe(template="v7"), "v7"),
    "a tokenizer without a chat template": (lambda w: w.recipe(template="tokenizer"), "no chat template of its own"),
    "a chat template that hides answers": (
        lambda w: w.recipe(language=_with_template(w, HIDING), template="tokenizer"),
        "chat template",
    ),
    "LoRA on nothing": (lambda w: w.recipe(lora("q_prj")), "lora.targets 'q_prj'"),
    "LoRA on nothing in the second stage": (
        lambda w: w.recipe({**ALIGN, "steps": 1}, {**lora("c_attn"), "name": "second"}),
        "lora.targets 'c_attn'",
    ),
    "LoRA on the head": (lambda w: w.recipe(lora("lm_head")), "lora.targets 'lm_head'"),
    "no projector to learn": (
        lambda w: w.recipe(projector="identity", vision=_wide_tower(w), space="hidden"),
        "learn.projector: this model has no such part",
    ),
    "features of a tower that learns": (
        lambda w: w.recipe({**TUNE, "learn": {"vision": 1e-4, "projector": 1e-3}, "cache_features": "on"}),
        "cache_features is on",
    ),
    "image mode of a stage over tiles": (
        lambda w: w.going_on(w.trained({**ALIGN, "steps": 1}), {**TUNE, "template": "chatml"}),
        "this tokenizer lacks",
    ),
    "no model in `from`": (lambda w: w.going_on(w.folder / "nothing"), "nothing"),
    "LoRA on nothing over `from`": (
        lambda w: w.going_on(w.trained({**ALIGN, "steps": 1}), lora("q_prj")),
        "lora.targets 'q_prj'",
    ),
    "quantised over adapters": (
        lambda w: w.going_on(w.trained({**LORA, "steps": 1, "save_every": None}), {**LORA, "quantize": 4}),
        "has adapters",
    ),
    "`from` another layout without a tensor": (
        lambda w: w.going_on(w.exported(lambda t: t.pop("language_model.model.norm.weight"))),
        "model.norm.weight",
    ),
    "`from` another layout with a strange tensor": (
        lambda w: w.going_on(w.exported(lambda t: t.update({"somebody.else": torch.zeros(1)}))),
        "somebody.else",
    ),
}
# as above, where it depends on the machine that would train
BY_MACHINE: dict[str, tuple[Build, str]] = {
    "fsdp of one process": (lambda w: w.recipe().model_copy(update={"parallel": "fsdp"}), "this run has one process"),
    "tf32 on a CPU": (lambda w: w.recipe({**TUNE, "precision": "tf32"}), "tf32 needs a CUDA device"),
    "a tracker that is not installed": (lambda w: w.recipe().model_copy(update={"track": ("trackio",)}), "trackio"),
    "QLoRA without bitsandbytes": (lambda w: w.recipe({**LORA, "quantize": 4}), "bitsandbytes is not installed"),
    "QLoRA in a later stage": (
        lambda w: w.recipe({**ALIGN, "steps": 1}, {**LORA, "quantize": 8}),
        "bitsandbytes is not installed",
    ),
    "a damaged projector in `from`": (lambda w: w.going_on(w.spoilt_checkpoint("projector.safetensors")), "damaged"),
    "damaged adapters in `from`": (
        lambda w: w.going_on(w.spoilt_checkpoint("adapter/adapter_model.safetensors")),
        "damaged",
    ),
}
HIDING = "{% for m in messages %}{{ m.role }}: {% if m.role == 'user' %}{{ m.content }}{% endif %}\n{% endfor %}"


def _with_template(w: Workshop, text: str) -> Path:
    folder = w.copy("language")
    (folder / "chat_template.jinja").write_text(text)
    return folder


def _wide_tower(w: Workshop) -> Path:
    """A tower as wide as the language model."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    folder = w.folder / "wide"
    size = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**size, image_size=32, patch_size=16)).save_pretrained(folder)
    shutil.copy(w.backbones / "vision" / "preprocessor_config.json", folder)
    return folder


@pytest.fixture
def workshop(
    make_recipe: MakeRecipe, tiny_backbones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workshop:
    def make(*stages: dict[str, Any], model: dict[str, Any]) -> Recipe:
        tree = make_recipe(*stages).model_dump(mode="json", exclude_none=True, by_alias=True)
        return validate({"model": model, "data": tree["data"], "stages": list(stages)}, "test")

    (tmp_path / "work").mkdir()
    return Workshop(make, tiny_backbones, tmp_path / "work")


def refusal(call: Callable[[], object]) -> tuple[type[VistuneError], str, str]:
    with pytest.raises(VistuneError) as caught:
        call()
    return type(caught.value), caught.value.message, caught.value.hint


def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from vistune.model import language

    find = language.find_spec
    monkeypatch.setattr(language, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))


@pytest.mark.parametrize("name", [*REFUSED, *BY_MACHINE])
def test_a_dry_run_says_what_training_says(
    workshop: Workshop, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training says it before any stage has learnt; and so it would say itself, once it came to it."""
    build, said = {**REFUSED, **BY_MACHINE}[name]
    recipe = build(workshop)
    without_bitsandbytes(monkeypatch)
    dry = refusal(lambda: api.dry_run(recipe))
    assert said in dry[1]
    assert dry[2]
    assert refusal(lambda: api.train(recipe, tmp_path / "run")) == dry
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    monkeypatch.setattr("vistune.training.run.refuse_untrainable", lambda *_: None)
    assert refusal(lambda: api.train(recipe, tmp_path / "late")) == dry


@pytest.mark.parametrize("name", REFUSED)
def test_check_and_plan_say_it_too_where_no_machine_is_asked(workshop: Workshop, name: str) -> None:
    build, _ = REFUSED[name]
    recipe = build(workshop)
    dry = refusal(lambda: api.dry_run(recipe))
    sources = [DataSource(file=source.file) for source in recipe.data]
    assert refusal(lambda: api.check_data(sources, recipe=recipe)) == dry
    if name.endswith("without weights"):
        assert plan(recipe).stages  # which needs sizes alone, and is asked before anything is fetched
        return
    kind, message, _ = refusal(lambda: plan(recipe))
    assert (kind, message) == dry[:2] or "cannot be planned" in message


def test_check_and_plan_are_of_other_machines_too(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_bitsandbytes(monkeypatch)
    for name in ("fsdp of one process", "tf32 on a CPU", "QLoRA without bitsandbytes"):
        recipe = BY_MACHINE[name][0](workshop)
        assert api.check_data(recipe.data, recipe=recipe).samples
        assert plan(recipe).stages
    muon = workshop.recipe({**TUNE, "optimizer": "muon"}).model_copy(update={"parallel": "fsdp"})
    assert "muon needs whole matrices" in refusal(lambda: plan(muon))[1]
    assert "muon needs whole matrices" in refusal(lambda: api.check_data(muon.data, recipe=muon))[1]


@pytest.mark.parametrize("kind", ["llava", "paligemma", "gemma3"])
def test_the_tower_of_a_whole_model_is_checked_with_its_weights_and_planned_by_its_config(
    workshop: Workshop, kind: str
) -> None:
    tower = workshop.whole_model(kind)
    assert api.dry_run(workshop.recipe(vision=tower))
    (tower / "model.safetensors").unlink()
    assert plan(workshop.recipe(vision=tower)).stages
    assert "cannot be read" in refusal(lambda: api.dry_run(workshop.recipe(vision=tower)))[1]


def test_what_trains_passes_the_dry_run_and_reads_no_weights(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters after full learning, of a run and of another layout's model; names and shapes are all that is read."""
    recipe = workshop.recipe(
        {**ALIGN, "steps": 1}, {**LORA, "steps": 1, "save_every": None}, {**TUNE, "name": "last", "steps": 1}
    )
    assert [row.stage for row in api.dry_run(recipe)] == ["align", "tune", "last"]
    run = api.train(recipe, tmp_path / "run")
    api.export(run, tmp_path / "hf", layout="llava-hf")
    for origin in (run, tmp_path / "hf"):
        assert api.dry_run(workshop.going_on(origin, LORA, {**TUNE, "name": "more"}))
