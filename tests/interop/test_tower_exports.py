"""Towers of other architectures: an export is what transformers' LLaVA computes, or is refused with the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tower_kinds import KINDS, save_tower, saved_config, side_of

from vistune.errors import RecipeError
from vistune.interop import layouts
from vistune.interop.export import export_model, import_model
from vistune.interop.layout_limits import tower_misfit
from vistune.model import build, read_spec
from vistune.model.tower_shape import describe_tower
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model, Recipe, Stage
from vistune.runs import checkpoint


def make_run(folder: Path, backbones: Path, *kinds: str, trained: bool = False, **changes: Any) -> Path:
    """Save a model folder with these towers and a random projector; `trained`: the tower is stored in it."""
    for kind in kinds:
        save_tower(kind, folder / kind, resize=side_of(kind) + 12)
    vision = tuple(str(folder / kind) for kind in kinds)
    named = {"vision": vision if len(vision) > 1 else vision[0]} if vision else {}
    model = Model(**{**named, "language": str(backbones / "language"), "feature_norm": "off", **changes})
    recipe = Recipe(model=model, stages=(Stage(name="align", learn={"projector": 1e-3}, steps=1),))
    spec = read_spec(model)
    built = build(model, spec, seed=1)
    parts = {"projector", "vision"} if trained else {"projector"}
    processor = Processor(load_tokenizer(model.language), spec)
    checkpoint.save(folder / "run", built, processor, recipe=recipe, tensors=checkpoint.snapshot(built, parts))
    return folder / "run"


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("dinov2", -2),
        ("dinov2", (-2, -4)),
        ("aimv2_vision_model", -1),
        pytest.param("internvl_vision", -1, marks=pytest.mark.soak),
        pytest.param("vit", -2, marks=pytest.mark.soak),
        pytest.param("beit", -2, marks=pytest.mark.soak),
    ],
)
def test_an_export_and_its_import_compute_the_same(
    kind: str, layers: Any, trained: bool, tiny_backbones: Path, tmp_path: Path
) -> None:
    """`export_model` compares token ids, logits and greedy tokens with transformers' own classes."""
    run = make_run(tmp_path, tiny_backbones, kind, trained=trained, feature_layer=layers)
    rows = export_model(run, tmp_path / "hf", layout="llava-hf")
    assert all(row.same_ids and row.same_tokens and row.largest_difference < 1e-4 for row in rows)
    again = import_model(tmp_path / "hf", tmp_path / "again")
    assert (again.spec.feature_layer, again.spec.image_resize) == (layers, 40)
    tile = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    first, second = (checkpoint.load(folder)[0] for folder in (run, tmp_path / "again"))
    torch.testing.assert_close(second.encode(tile), first.encode(tile), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kinds", "changes", "reason"),
    [
        (("dinov2_with_registers",), {}, "it has 5 tokens before the patches, and LLaVA drops one"),
        (("convnext",), {}, "its hidden states are not sequences of tokens"),
        (("metaclip_2_vision_model",), {}, "AutoModel does not build it"),
        (("dinov2",), {"feature_norm": "tower"}, "no norm between tower and projector"),
        (("dinov2", "siglip_vision_model"), {}, "no layout of other tools has two towers"),
    ],
)
def test_what_transformers_llava_cannot_do_is_refused(
    kinds: tuple[str, ...], changes: dict[str, str], reason: str, tiny_backbones: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path, tiny_backbones, *kinds, **changes)
    with pytest.raises(RecipeError, match=reason):
        export_model(run, tmp_path / "hf", layout="llava-hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("layout", ["llava-hf", "llava-original", "peft"])
def test_a_model_is_refused_before_it_computes(
    layout: str, towers: Path, tiny_backbones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*_: object) -> None:
        raise AssertionError("a refused model was computed")

    run = make_run(tmp_path, tiny_backbones, vision=str(towers / "naflex"), projector="mlp2x_gelu")
    monkeypatch.setattr("vistune.interop.export.probe_ours", compute)
    with pytest.raises(RecipeError, match="this model's images have different grids of patches"):
        export_model(run, tmp_path / "out", layout=layout)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "projector", "hints"),
    [
        ("dinov2", "pool2x2_mlp2x_gelu", {
            "llava-hf": "train with model.projector=mlp2x_gelu",
            "llava-original": "train with model.projector=mlp2x_gelu, a CLIP tower"}),
        ("clip_vision_model", "pool2x2_mlp2x_gelu", {
            "llava-hf": "train with model.projector=mlp2x_gelu",
            "llava-original": "train with model.projector=mlp2x_gelu"}),
        ("clip_vision_model", "linear", {
            "llava-hf": "train with model.projector=mlp2x_gelu, or export --layout llava-original"}),
        ("dinov2", "mlp2x_gelu", {
            "llava-original": "train with a CLIP tower, or export --layout llava-hf"}),
    ],
)  # fmt: skip
def test_a_refused_layout_names_another_only_if_that_one_can_represent_the_model(
    kind: str, projector: str, hints: dict[str, str], tiny_backbones: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path, tiny_backbones, kind, projector=projector)
    for layout, hint in hints.items():
        with pytest.raises(RecipeError) as caught:
            export_model(run, tmp_path / layout, layout=layout)
        assert caught.value.hint == hint
    for layout in {"llava-hf", "llava-original"} - set(hints):
        export_model(run, tmp_path / layout, layout=layout)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_every_tower_is_exported_as_it_computes_or_refused(kind: str, tiny_backbones: Path, tmp_path: Path) -> None:
    mode = {"image_mode": "square"} if kind == "siglip2_vision_model" else {}
    run = make_run(tmp_path, tiny_backbones, kind, feature_layer=-1, **mode)
    config = saved_config(tmp_path / kind)
    if reason := tower_misfit(config, describe_tower(config, -1, side_of(kind))):
        with pytest.raises(RecipeError, match=re.escape(reason)):
            export_model(run, tmp_path / "hf", layout="llava-hf")
        return
    rows = export_model(run, tmp_path / "hf", layout="llava-hf")
    assert all(row.same_ids and row.same_tokens and row.largest_difference < 1e-4 for row in rows)


def test_the_tower_inside_a_whole_model_is_used_with_its_weights(tiny_backbones: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_backbones, "dinov2")
    export_model(run, tmp_path / "hf", layout="llava-hf")
    model = Model(vision=str(tmp_path / "hf"), language=str(tiny_backbones / "language"), feature_norm="tower")
    spec = read_spec(model)
    inside = build(model, spec, seed=0)
    alone = build(model.model_copy(update={"vision": str(tmp_path / "dinov2")}), spec, seed=0)
    assert all(
        torch.equal(tensor, alone.vision.state_dict()[name]) for name, tensor in inside.vision.state_dict().items()
    )
    layouts_model, _ = layouts.load(tmp_path / "hf")
    assert layouts_model.spec.image_side == spec.image_side
