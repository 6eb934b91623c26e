"""LLaVA-1.5 in its real sizes on the meta device: every tensor's name and shape in every layout that exists on disks.

What is expected is written out here from the shapes that the papers' models have (facts 1.2 and 1.3), once more and
apart from the maps that the package reads and writes by.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vistune.interop.adapters import naming_of
from vistune.interop.build import fit_tensors
from vistune.interop.folders import by_part, written_name
from vistune.interop.original import stripped
from vistune.interop.peft_export import peft_state
from vistune.interop.writers import ExportedModel, hf_state, original_state
from vistune.model import VisionLanguageModel, add_adapters, build_projector
from vistune.model.attention import register
from vistune.model.lora import refuse_misfits
from vistune.model.peft_folder import shape_of
from vistune.model.vision import VisionTower
from vistune.model.vlm import spec_of
from vistune.recipe import Lora, Model
from vistune.runs.checkpoint import language_state

Shapes = dict[str, tuple[int, ...]]
CONFIGS = Path(__file__).parents[1] / "configs"
RULES = {"image_mean": (0.48, 0.46, 0.41), "image_std": (0.27, 0.26, 0.28), "image_fit": "crop", "image_resample": 3}
SIZES = {"vicuna-7b": (4096, 11008, 32), "vicuna-13b": (5120, 13824, 40)}  # width, inner width, layers
RANK = 128
ROWS = 32064  # of transformers' vocabulary: 32002 rounded up to 64s


# --- what there is, by the original's names inside each part ---


def clip_large() -> Shapes:
    """ViT-L/14 at 336 pixels, all 24 layers."""
    found: Shapes = {
        "embeddings.class_embedding": (1024,),
        "embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "embeddings.position_embedding.weight": (577, 1024),
    }
    for norm in ("pre_layrnorm", "post_layernorm", *(f"encoder.layers.{k}.layer_norm{n}" for k in range(24)
                                                     for n in (1, 2))):  # fmt: skip
        found |= {f"{norm}.weight": (1024,), f"{norm}.bias": (1024,)}
    for k in range(24):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"encoder.layers.{k}.self_attn.{name}", 1024, 1024)
        found |= linear(f"encoder.layers.{k}.mlp.fc1", 1024, 4096) | linear(f"encoder.layers.{k}.mlp.fc2", 4096, 1024)
    return found


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def llama_layers(width: int, inner: int, layers: int) -> Shapes:
    """The seven linear layers of each layer, by their names inside the model."""
    kinds = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
    kinds |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    return {f"layers.{k}.{name}": shape for k in range(layers) for name, shape in kinds.items()}


def llama(width: int, inner: int, layers: int, rows: int = 32000) -> Shapes:
    """The body's names; the head's is apart, for layouts put it elsewhere."""
    found: Shapes = {"embed_tokens.weight": (rows, width), "norm.weight": (width,)}
    for k in range(layers):
        found |= {f"layers.{k}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    return found | {f"{name}.weight": shape for name, shape in llama_layers(width, inner, layers).items()}


def lora(width: int, inner: int, layers: int) -> Shapes:
    found: Shapes = {}
    for name, (outputs, inputs) in llama_layers(width, inner, layers).items():
        found |= {f"{name}.lora_A.weight": (RANK, inputs), f"{name}.lora_B.weight": (outputs, RANK)}
    return found


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def hf(variant: str, width: int, inner: int, layers: int, rows: int) -> Shapes:
    """A classic hub files, B transformers 5's own, C names in memory, D those with `vision_model`."""
    top = "model." if variant in "CD" else ""
    vision = "vision_tower.vision_model." if variant in "AD" else "vision_tower."
    body, head = ("language_model.model.", "language_model.lm_head.weight") if variant in "AB" else (
        "model.language_model.", "lm_head.weight")  # fmt: skip
    projector = {
        **linear(f"{top}multi_modal_projector.linear_1", 1024, width),
        **linear(f"{top}multi_modal_projector.linear_2", width, width),
    }
    text = under(body, llama(width, inner, layers, rows)) | {head: (rows, width)}
    return {**under(top + vision, clip_large()), **projector, **text}


def original(width: int, inner: int, layers: int, *, tower: bool) -> Shapes:
    projector = {**linear("model.mm_projector.0", 1024, width), **linear("model.mm_projector.2", width, width)}
    inside = under("model.vision_tower.vision_tower.vision_model.", clip_large()) if tower else {}
    text = under("model.", llama(width, inner, layers)) | {"lm_head.weight": (32000, width)}
    return {**inside, **projector, **text}


# --- the model without memory ---


def config(name: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(CONFIGS / f"{name}.json")


def on_meta(name: str, *, adapted: bool = False, image_mode: Any = "pad") -> ExportedModel:
    """LLaVA-1.5 as `export` would have it in hand."""
    from transformers import AutoModelForCausalLM, CLIPVisionModel

    vision, language = config("clip-vit-large-patch14-336"), config(name)
    spec = spec_of(Model(image_mode=image_mode), vision, language.hidden_size, language.vocab_size, RULES)
    with torch.device("meta"):
        tower = CLIPVisionModel(copy.deepcopy(vision))
        named = {key.removeprefix("vision_model."): tensor for key, tensor in tower.state_dict().items()}
        text = AutoModelForCausalLM.from_config(language, attn_implementation=register())
        body = add_adapters(text, Lora(rank=RANK, alpha=256)) if adapted else text
        model = VisionLanguageModel(VisionTower(tower, spec), build_projector(spec, seed=0), body, spec)
    processor: Any = None  # tensors need no tokenizer
    return ExportedModel(model, processor, named, vision, "openai/clip-vit-large-patch14-336", True, "", torch.float16)


def empty(shapes: Shapes) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def shapes_of(tensors: dict[str, Any]) -> Shapes:
    return {name: shape_of(tensor) for name, tensor in tensors.items()}


def fits(parts: dict[str, dict[str, Any]], made: ExportedModel, *, rows: int = 32000) -> None:
    """What was read is, part by part, exactly what the model takes; a layout's vocabulary may be longer."""
    fit_tensors(dict(made.tower), parts["vision"], "vision")
    fit_tensors(dict(made.model.projector.state_dict()), parts["projector"], "projector")
    wanted = dict(made.model.language.state_dict())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        wanted[name] = torch.empty((rows, wanted[name].shape[1]), device="meta")
    fit_tensors(wanted, parts["language"], "language")
    assert not parts["newline"]


@pytest.fixture(scope="module", params=SIZES)
def size(request: pytest.FixtureRequest) -> tuple[str, tuple[int, int, int]]:
    return request.param, SIZES[request.param]


@pytest.fixture(scope="module")
def made(size: tuple[str, Any]) -> ExportedModel:
    return on_meta(size[0])


@pytest.fixture(scope="module")
def adapted(size: tuple[str, Any]) -> ExportedModel:
    return on_meta(size[0], adapted=True)


@pytest.mark.parametrize("variant", "ABCD")
def test_the_four_namings_of_transformers_are_read(size: tuple[str, Any], made: ExportedModel, variant: str) -> None:
    shapes = hf(variant, *size[1], ROWS)
    assert len(shapes) == len(clip_large()) + 4 + len(llama(*size[1])) + 1
    fits(by_part(empty(shapes), "llava-hf", variant), made, rows=ROWS)


def test_transformers_gets_its_classic_names(size: tuple[str, Any], made: ExportedModel) -> None:
    assert shapes_of(hf_state(made, ROWS)) == hf("A", *size[1], ROWS)


def test_transformers_class_has_the_names_in_memory(size: tuple[str, Any]) -> None:
    """The rules above are not ours alone: this is what transformers itself builds of the same configs."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    text = config(size[0])
    text.vocab_size = ROWS
    with torch.device("meta"):
        theirs = LlavaForConditionalGeneration(
            LlavaConfig(vision_config=config("clip-vit-large-patch14-336"), text_config=text)
        )
    assert shapes_of(theirs.state_dict()) == hf("C", *size[1], ROWS)


@pytest.mark.parametrize("tower", [True, False], ids=["tower inside", "tower outside"])
def test_the_original_merged(size: tuple[str, Any], made: ExportedModel, tower: bool) -> None:
    shapes = original(*size[1], tower=tower)
    parts = by_part(empty({**shapes, "model.layers.0.self_attn.rotary_emb.inv_freq": (64,)}), "original", "x")
    assert bool(parts["vision"]) == tower
    fits({**parts, "vision": parts["vision"] or dict(made.tower)}, made)
    assert shapes_of(original_state(replace(made, tower_inside=tower))) == shapes


def test_a_stage_1_file_whatever_stands_before_its_names(size: tuple[str, Any], made: ExportedModel) -> None:
    width = size[1][0]
    for prefix in ("model.mm_projector.", "transformer.mm_projector.", "base_model.model.model.mm_projector."):
        shapes = {**linear(f"{prefix}0", 1024, width), **linear(f"{prefix}2", width, width)}
        parts = by_part(empty({stripped(name): shape for name, shape in shapes.items()}), "original", "x")
        fit_tensors(dict(made.model.projector.state_dict()), parts["projector"], "projector")
        assert not parts["language"]
        assert not parts["vision"]


def test_the_newline_of_llava_1_6(size: tuple[str, Any]) -> None:
    """One row as wide as the language model, beside the other tensors of 1.5's sizes."""
    wide = on_meta(size[0], image_mode="anyres")
    width = size[1][0]
    for variant in "ABCD":
        shapes = hf(variant, *size[1], ROWS) | {("" if variant in "AB" else "model.") + "image_newline": (width,)}
        assert shapes_of(by_part(empty(shapes), "llava-hf", variant)["newline"]) == {"newline": (width,)}
        if variant == "A":
            assert shapes_of(hf_state(wide, ROWS)) == shapes
    shapes = original(*size[1], tower=True) | {"model.image_newline": (width,)}
    assert shapes_of(by_part(empty(shapes), "original", "x")["newline"]) == {"newline": (width,)}
    assert shapes_of(original_state(wide)) == shapes


def test_an_original_lora_folder(size: tuple[str, Any], adapted: ExportedModel) -> None:
    """Its seven names a layer, none in the tower, and the folder of ours that holds the same adapters."""
    from peft import get_peft_model_state_dict

    shapes = under("base_model.model.model.", lora(*size[1]))
    assert len(shapes) == 2 * 7 * size[1][2]
    wanted = get_peft_model_state_dict(adapted.model.language, save_embedding_layers=False)
    assert shapes_of(wanted) == shapes
    refuse_misfits(wanted, empty(shapes), Path("x"))


@pytest.mark.parametrize("with_projector", [True, False])
def test_peft_over_transformers_class(
    size: tuple[str, Any], made: ExportedModel, adapted: ExportedModel, with_projector: bool
) -> None:
    top, width = "base_model.model.model.", size[1][0]
    shapes = under(f"{top}language_model.", lora(*size[1]))
    if with_projector:
        shapes |= linear(f"{top}multi_modal_projector.linear_1", 1024, width)
        shapes |= linear(f"{top}multi_modal_projector.linear_2", width, width)
    assert shapes_of(peft_state(adapted, with_projector=with_projector)) == shapes
    inner = {name.removeprefix("base_model.model."): shape for name, shape in shapes.items()}
    naming = naming_of(inner, Path("x"))
    of_language = under("model.", lora(*size[1])).items()
    projector = {naming.of("projector", name) for name in made.model.projector_state()}
    known = {name: shape for name, shape in inner.items() if name not in projector}
    assert known == {naming.of("language", name): shape for name, shape in of_language}
    assert inner.keys() - known.keys() == (projector if with_projector else set())


def test_a_folder_of_ours(size: tuple[str, Any], made: ExportedModel, adapted: ExportedModel) -> None:
    """projector.safetensors, language/ (under adapters too) and vision/."""
    width = size[1][0]
    assert shapes_of(made.model.projector_state()) == {**linear("0", 1024, width), **linear("2", width, width)}
    text = under("model.", llama(*size[1])) | {"lm_head.weight": (32000, width)}
    assert shapes_of(language_state(made.model)) == shapes_of(language_state(adapted.model)) == text
    tower = {written_name("vision", name, "tower"): tensor for name, tensor in made.tower.items()}
    assert shapes_of(tower) == under("vision_model.", clip_large())
