"""Towers of many architectures: features are transformers' own hidden states of the patches."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from joint_folders import KINDS as JOINT
from joint_folders import REFUSED, joint_model, save_config
from tiny_towers import with_changed_tower
from torch import Tensor
from tower_images import SHAPES, images, spec_for, tiles
from tower_kinds import COMMON, KINDS, LAYERS, save_tower, saved_config, side_of
from tower_kinds import REFUSED as REFUSED_TOWERS
from transformers import (
    AutoImageProcessor,
    BitImageProcessorPil,
    LlavaImageProcessorPil,
    SmolVLMImageProcessorPil,
    TimmWrapperConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vistune.errors import RecipeError
from vistune.model import build, read_spec
from vistune.model.image_rules import image_rules
from vistune.model.tower_class import require_torchvision
from vistune.model.tower_inputs import tower_inputs
from vistune.model.tower_shape import describe_tower, tokens_first
from vistune.model.vision import load_tower, vision_config
from vistune.recipe import Model
from vistune.runs import checkpoint


def pixels(folder: Path) -> Tensor:
    """The images as transformers' own image processor gives them."""
    rules = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return rules(images(), return_tensors="pt")["pixel_values"]


def states(model: Any, values: Tensor) -> tuple[Tensor, ...]:
    """Transformers' own hidden states; for Swin and its kin those in the order of the patches."""
    with torch.no_grad():
        output = model(**tower_inputs(model, values), output_hidden_states=True)
    return tuple(output.get("reshaped_hidden_states") or output.hidden_states)


@pytest.mark.parametrize("kind", [kind if kind in COMMON else pytest.param(kind, marks=pytest.mark.soak)
                                  for kind in KINDS])  # fmt: skip
def test_features_are_transformers_own_on_images_of_four_shapes(
    kind: str, tiny_backbones: Path, tmp_path: Path
) -> None:
    stretched = kind == "siglip2_vision_model"  # with its own grids: test_naflex.py
    model, prefix = save_tower(kind, tmp_path, resize=None if stretched else side_of(kind) + 8), KINDS[kind][1]
    for layer in (-1, -2):
        spec = spec_for(tmp_path, tiny_backbones, feature_layer=layer, feature_norm="off", image_mode="square")
        ours = load_tower(str(tmp_path), spec, torch.float64)  # some of these random towers amplify fp32's rounding
        seen = tiles(spec)
        # A square grid, in place of one with the image's aspect ratio, is a choice of ours: its pixels are not stock.
        values = (seen - ours.mean) / ours.std if stretched else pixels(tmp_path)
        expected = tokens_first(states(model.double(), values.double())[layer])[
            :, prefix : prefix + spec.slots_per_image
        ]
        with torch.no_grad():
            features = ours(seen)
        assert features.shape == expected.shape == (len(SHAPES), spec.slots_per_image, spec.vision_width)
        torch.testing.assert_close(features, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("kind", ["dinov2", "siglip_vision_model", "convnext"])
def test_a_tower_ends_at_its_last_feature_layer(kind: str, tiny_backbones: Path, tmp_path: Path) -> None:
    save_tower(kind, tmp_path)
    spec = spec_for(tmp_path, tiny_backbones, feature_norm="off")
    tower = load_tower(str(tmp_path), spec, torch.float32)
    tower(tiles(spec)).square().mean().backward()
    unused = [name for name, parameter in tower.named_parameters() if parameter.grad is None]
    assert not unused
    assert sum(p.numel() for p in tower.parameters()) == tower.shape.parameters


def test_several_feature_layers_are_concatenated(tiny_backbones: Path, tmp_path: Path) -> None:
    model = save_tower("dinov2", tmp_path)
    spec = spec_for(tmp_path, tiny_backbones, feature_layer=[-2, -3], feature_norm="off")
    assert (spec.vision_width, spec.feature_layer) == (64, (-2, -3))
    tower = load_tower(str(tmp_path), spec, torch.float32)
    all_states = states(model, pixels(tmp_path))
    expected = torch.cat([all_states[layer][:, 1:] for layer in (-2, -3)], dim=-1)
    torch.testing.assert_close(tower(tiles(spec)), expected, atol=1e-4, rtol=1e-4)
    save_tower("convnext", tmp_path / "convnext")
    with pytest.raises(RecipeError, match="different grids of patches"):
        spec_for(tmp_path / "convnext", tiny_backbones, feature_layer=[-1, -2])


def test_features_are_normalised_by_the_towers_own_norm_or_without_weights(
    tiny_backbones: Path, tmp_path: Path
) -> None:
    model = save_tower("dinov2", tmp_path)
    state = states(model, pixels(tmp_path))[-2][:, 1:]
    plain = torch.nn.functional.layer_norm(state, (32,))
    for norm, expected in (("tower", model.layernorm(state)), ("layer_norm", plain), ("auto", model.layernorm(state))):
        spec = spec_for(tmp_path, tiny_backbones, feature_norm=norm)
        assert spec.feature_norm == ("tower" if norm == "auto" else norm)
        tower = load_tower(str(tmp_path), spec, torch.float32)
        torch.testing.assert_close(tower(tiles(spec)), expected, atol=1e-4, rtol=1e-4)


def test_the_norm_is_off_for_clip_and_siglip_and_weightless_without_a_final_norm(
    tiny_backbones: Path, tmp_path: Path
) -> None:
    chosen = {"clip_vision_model": "off", "siglip_vision_model": "off", "metaclip_2_vision_model": "off",
              "radio": "layer_norm", "vit": "tower"}  # fmt: skip
    for kind, norm in chosen.items():
        save_tower(kind, tmp_path / kind)
        assert spec_for(tmp_path / kind, tiny_backbones).feature_norm == norm
    with pytest.raises(RecipeError, match="feature_norm=tower: radio has no final norm"):
        spec_for(tmp_path / "radio", tiny_backbones, feature_norm="tower")


@pytest.mark.parametrize("second", ["siglip_vision_model", "convnext"])
def test_two_towers_see_the_same_image_and_give_both_features(
    second: str, tiny_backbones: Path, tmp_path: Path
) -> None:
    """A second tower of another size and grid sees the larger tile, and is interpolated to the first one's grid."""
    for kind in ("dinov2", second):
        save_tower(kind, tmp_path / kind)
    folders = (str(tmp_path / "dinov2"), str(tmp_path / second))
    settings = Model(vision=folders, language=str(tiny_backbones / "language"), projector="shuffle2x2_mlp2x_gelu")
    spec = read_spec(settings)
    alone = [read_spec(settings.model_copy(update={"vision": folder})) for folder in folders]
    assert spec.vision_width == sum(each.vision_width for each in alone)
    assert (spec.slots_per_image, spec.image_side) == (4, max(each.image_side for each in alone))
    model = build(settings, spec, seed=0).eval()
    features = model.vision(tiles(spec))
    assert features.shape == (len(SHAPES), 16, spec.vision_width)
    if second == "siglip_vision_model":  # of the same side and grid
        seen = [load_tower(folder, own, torch.float32)(tiles(alone[0]))
                for folder, own in zip(folders, alone, strict=True)]  # fmt: skip
        torch.testing.assert_close(features, torch.cat(seen, dim=-1), atol=1e-4, rtol=1e-4)


def test_two_trained_towers_come_back(tiny_backbones: Path, tmp_path: Path) -> None:
    folders = tuple(str(tmp_path / kind) for kind in ("dinov2", "siglip_vision_model"))
    for folder in folders:
        save_tower(Path(folder).name, Path(folder))
    settings = Model(vision=folders, language=str(tiny_backbones / "language"), feature_layer=[-1, -3])
    model, processor, recipe = with_changed_tower(settings)
    for trained in ({"vision", "projector"}, {"projector"}):
        folder = tmp_path / "_".join(sorted(trained))
        tensors = checkpoint.snapshot(model, trained)
        checkpoint.save(folder, model, processor, recipe=recipe, tensors=tensors)
        loaded, loaded_processor = checkpoint.load(folder)
        assert loaded_processor.spec == processor.spec
        same = torch.equal(loaded.vision(tiles(processor.spec)), model.vision(tiles(processor.spec)))
        assert same == ("vision" in trained)


@pytest.mark.parametrize("kind", ["dinov2", "dinov3_vit", "beit", "convnext", "radio"])
def test_a_trained_tower_of_any_kind_comes_back(kind: str, tiny_backbones: Path, tmp_path: Path) -> None:
    save_tower(kind, tmp_path / "tower")
    settings = Model(vision=str(tmp_path / "tower"), language=str(tiny_backbones / "language"))
    model, processor, recipe = with_changed_tower(settings)
    tensors = checkpoint.snapshot(model, {"vision", "projector"})
    checkpoint.save(tmp_path / "run", model, processor, recipe=recipe, tensors=tensors)
    loaded, _ = checkpoint.load(tmp_path / "run")
    assert loaded.vision.state_dict().keys() == model.vision.state_dict().keys()
    assert torch.equal(loaded.vision(tiles(processor.spec)), model.vision(tiles(processor.spec)))


def test_a_tower_whose_tokens_are_not_a_grid_is_refused_with_the_reason(tmp_path: Path, tiny_backbones: Path) -> None:
    from transformers import ViTMAEConfig, ViTMAEModel

    sizes = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 64}
    ViTMAEModel(ViTMAEConfig(**sizes, image_size=28, patch_size=7)).save_pretrained(tmp_path)
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="'vit_mae' is not supported: its hidden states have 5 tokens for 4 x 4"):
        spec_for(tmp_path, tiny_backbones)


def test_tokens_after_the_patches_are_no_patches(tmp_path: Path, tiny_backbones: Path) -> None:
    """Llama 4 puts its class token last."""
    save_tower("llama4_vision_model", tmp_path)
    shape = describe_tower(saved_config(tmp_path), -2)
    assert (shape.prefix, shape.patches, shape.suffix, shape.tokens) == (0, 16, 1, 17)
    with pytest.raises(RecipeError, match="no class token before its patches"):
        spec_for(tmp_path, tiny_backbones, feature_tokens="cls_patch")


@pytest.mark.parametrize("kind", REFUSED_TOWERS)
def test_a_tower_of_transformers_is_refused_with_the_true_reason(kind: str) -> None:
    with pytest.raises(RecipeError, match=REFUSED_TOWERS[kind][1]):
        describe_tower(CONFIG_MAPPING[kind](), -1, 224)


@pytest.mark.skipif(find_spec("scipy") is not None, reason="scipy is installed")
def test_a_tower_names_the_package_that_it_needs() -> None:
    with pytest.raises(RecipeError, match="'eomt' needs scipy") as caught:
        describe_tower(CONFIG_MAPPING["eomt"](), -1, 224)
    assert caught.value.hint == "pip install scipy"


def test_a_tower_is_described_in_any_precision() -> None:
    """Depth Anything builds the backbone in it in the precision of the weights."""
    config = CONFIG_MAPPING["depth_anything"](**KINDS["depth_anything"][0])
    config.dtype = config.backbone_config.dtype = torch.bfloat16
    assert describe_tower(config, -1, 28).patches == 16


@pytest.mark.parametrize("kind", [kind if kind in ("smolvlm", "llama4", "aimv2")
                                  else pytest.param(kind, marks=pytest.mark.soak) for kind in JOINT])  # fmt: skip
def test_the_tower_of_a_whole_models_folder_is_read_with_its_weights(
    kind: str, tiny_backbones: Path, tmp_path: Path
) -> None:
    whole = joint_model(kind)
    whole.save_pretrained(tmp_path)
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    spec = spec_for(tmp_path, tiny_backbones, feature_layer=-1, feature_norm="off")
    ours = load_tower(str(tmp_path), spec, torch.float32)
    inside = next(module for module in whole.modules() if type(module) is type(ours.tower))
    expected = tokens_first(states(inside, pixels(tmp_path))[-1])
    first = ours.shape.prefix
    expected = expected[:, first : first + spec.slots_per_image]
    with torch.no_grad():
        torch.testing.assert_close(ours(tiles(spec)), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("kind", REFUSED)
def test_the_tower_of_a_whole_models_folder_is_refused_with_the_true_reason(kind: str, tmp_path: Path) -> None:
    save_config(kind, tmp_path)
    with pytest.raises(RecipeError, match=REFUSED[kind]):
        describe_tower(vision_config(str(tmp_path)), -1, 224)


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_a_tower_of_timm_names_the_extra_that_it_needs(tmp_path: Path, tiny_backbones: Path) -> None:
    config = TimmWrapperConfig(
        architecture="vit_tiny_patch16_224",
        pretrained_cfg={"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9},
    )
    config.save_pretrained(tmp_path)
    assert image_rules(str(tmp_path))["image_resize"] == 248
    with pytest.raises(RecipeError, match="'timm_wrapper' needs timm") as caught:
        spec_for(tmp_path, tiny_backbones)
    assert "vistune[timm]" in caught.value.hint
    plain = {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text(json.dumps(plain))  # without labels, which transformers asks timm for
    for read in (vision_config, image_rules):
        with pytest.raises(RecipeError, match="hub' needs timm"):
            read(str(tmp_path / "hub"))
    config.pretrained_cfg["crop_mode"] = "border"
    config.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"pretrained_cfg\.crop_mode 'border' in its config\.json is not supported"):
        image_rules(str(tmp_path))


def test_the_whole_image_is_the_tile_of_a_processor_that_cuts_tiles(tmp_path: Path) -> None:
    """SmolVLM's last tile is the whole image, resized to one square."""
    processor = SmolVLMImageProcessorPil(max_image_size={"longest_edge": 64}, size={"longest_edge": 256})
    processor.save_pretrained(tmp_path)
    rules = image_rules(str(tmp_path))
    assert (rules["image_fit"], rules["image_side"], rules["image_resize"]) == ("stretch", 64, 0)


@pytest.mark.parametrize("crops", [True, False])
def test_the_processor_of_llava_is_compared_on_an_image_that_it_does_not_pad(crops: bool, tmp_path: Path) -> None:
    rules: dict[str, Any] = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "do_pad": True}
    LlavaImageProcessorPil(**rules, do_center_crop=crops).save_pretrained(tmp_path)
    read = image_rules(str(tmp_path))
    assert (read["image_fit"], read["image_side"], read["image_resize"]) == ("crop", 56, 0)


def test_a_processor_of_llava_that_does_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of transformers could change its arithmetic."""
    LlavaImageProcessorPil(do_pad=True).save_pretrained(tmp_path)
    image_rules(str(tmp_path))
    normalize = LlavaImageProcessorPil.normalize
    monkeypatch.setattr(LlavaImageProcessorPil, "normalize", lambda *args, **more: normalize(*args, **more) / 2)
    with pytest.raises(RecipeError, match=r"on an image of .* pixels its normalised pixels differ by"):
        image_rules(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("JanusImageProcessorPil", "its normalised pixels differ by"),  # it pads to a square
        ("LevitImageProcessorPil", "its normalised pixels differ by"),  # it resizes to 256 / 224 of its size
        ("EfficientNetImageProcessorPil", "its normalised pixels differ by"),  # it divides by the deviation twice
        ("Qwen2VLImageProcessorPil", "it gives an array of .616, 1176., not images of"),
        ("AriaImageProcessorPil", "it does not resize"),
        ("BridgeTowerImageProcessorPil", "its crop None x None is not a square"),
    ],
)
def test_an_image_processor_that_does_something_else_is_refused(kind: str, reason: str, tmp_path: Path) -> None:
    getattr(transformers, kind)().save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=reason):
        image_rules(str(tmp_path))


def test_a_processor_that_needs_torchvision_is_read_without_it(tmp_path: Path) -> None:
    """DINOv3's has the keys of ViT's, and no backend for Pillow."""
    rules = {"image_processor_type": "DINOv3ViTImageProcessorFast", "do_resize": True, "do_rescale": True,
             "do_normalize": True, "rescale_factor": 1 / 255, "resample": 2, "image_mean": [0.485, 0.456, 0.406],
             "image_std": [0.229, 0.224, 0.225], "size": {"height": 224, "width": 224}}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(rules))
    read = image_rules(str(tmp_path))
    assert (read["image_fit"], read["image_side"], read["image_resample"]) == ("stretch", 224, 2)
    assert read["image_mean"] == (0.485, 0.456, 0.406)


def test_a_torchvision_that_cannot_be_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an installation of a build for another torch, with which transformers cannot build any model."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    require_torchvision.cache_clear()
    try:
        with pytest.raises(RecipeError, match=r"torchvision cannot be imported.*nms does not exist") as caught:
            vision_config(str(tmp_path))
    finally:
        require_torchvision.cache_clear()
    assert "matches torch" in caught.value.hint
