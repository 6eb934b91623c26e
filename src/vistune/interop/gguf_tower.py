"""Describe vision tower and projector as llama.cpp's clip reads them (the file `mmproj`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vistune.errors import RecipeError
from vistune.interop.gguf_file import GgufContents, LazyWeight, Value, names
from vistune.interop.layout_limits import PROJECTOR, instead
from vistune.interop.writers import ExportedModel
from vistune.model.peft_folder import LazyTensor
from vistune.model.tower_shape import as_layers
from vistune.types import Spec

CLASS_POSITIONS = ("last", "first")  # where a build of llama.cpp puts the class token
PADDING = (122, 116, 104)  # colour with which llama.cpp pads for this projector
BICUBIC = 3  # Pillow's number
LAYER_NORM_EPSILON = 1e-5  # of torch's LayerNorm


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that llama.cpp does in another way than this model was trained.

    Attributes:
        stage: template, tokenizer, resize, tower, projector, language model or sampler.
        what: The difference.
        remedy: How to avoid it.
    """

    stage: str
    what: str
    remedy: str


def refuse_tower(exported: ExportedModel) -> None:
    """Raise RecipeError if llama.cpp cannot compute the model's image features."""
    spec = exported.spec
    kind = exported.tower_config.model_type
    towers = names()["tower"]["towers"]
    activations = names()["tower"]["activations"]
    several = not isinstance(spec.feature_layer, int) and len(spec.feature_layer) > 1
    reasons = (
        (spec.projector != "mlp2x_gelu", f"llama.cpp has no projector {spec.projector}: it computes two linear layers "
         "with GELU between them", instead(exported, PROJECTOR)),
        (spec.space != "hidden", "llama.cpp has no joint space", "train with model.space=hidden"),
        (spec.feature_tokens != "patch", "llama.cpp drops the class token", "train with model.feature_tokens=patch"),
        (spec.image_mode == "anyres", "llama.cpp puts no newline vector behind the rows of an anyres image",
         instead(exported, "train with model.image_mode=square")),
        (kind not in towers, f"llama.cpp does not know the tower {kind!r}",
         f"train with one of these towers: {', '.join(towers)}"),
        (kind in towers and _activation(exported) not in activations,
         f"llama.cpp's tower has no activation {_activation(exported)!r}", f"it has {', '.join(activations)}"),
        (kind in towers and exported.tower_shape.prefix > 1, "llama.cpp's tower has at most one class token",
         "train with a tower without register tokens"),
        (spec.feature_norm != "off" and several, "llama.cpp normalises only the last of several feature layers",
         "train with model.feature_norm=off"),
        (spec.feature_norm == "layer_norm" and _epsilon(exported) != LAYER_NORM_EPSILON,
         "llama.cpp normalises the features with the tower's epsilon", "train with model.feature_norm=off"),
    )  # fmt: skip
    for refused, reason, remedy in reasons:
        if refused:
            raise RecipeError(f"--layout gguf: {reason}", remedy)


def tower_differences(exported: ExportedModel, class_position: str) -> list[Difference]:
    """Return how llama.cpp computes image features in another way. `class_position`: one of `CLASS_POSITIONS`."""
    differences = [_class_token(class_position)] if exported.tower_shape.prefix else []
    if _activation(exported) == "gelu":
        differences.append(
            Difference("tower", "llama.cpp computes GELU by its tanh approximation", "nothing: it is close")
        )
    rounded = "llama.cpp computes GELU by its tanh approximation, rounded to f16"
    differences.append(Difference("projector", rounded, "nothing: features differ by about 0.001"))
    return [*differences, *_resizing(exported.spec)]


def _class_token(position: str) -> Difference:
    misplaced = "builds of llama.cpp with issue 25814 put the class token behind the patches"
    if position == "first":
        return Difference(
            "tower",
            f"{misplaced}; there, this file gives each patch its neighbour's position",
            "use a build in which the issue is repaired, or export with --class-position last",
        )
    return Difference(
        "tower",
        f"{misplaced}, and use the features of all patches but the first, then those of the class token; this file has "
        "the positions for such builds",
        "for a build in which the issue is repaired, export with --class-position first; SigLIP has no class token",
    )


def _resizing(spec: Spec) -> list[Difference]:
    """Return how llama.cpp fits images to the tower's square in another way."""
    side = f"{spec.image_side}x{spec.image_side}"
    prepared = f"give it images of {side} pixels"
    differences = []
    if spec.image_mode == "pad":
        colour = tuple(int(mean * 255) for mean in spec.image_mean)
        differences.append(
            Difference(
                "resize",
                f"llama.cpp resizes an image that is not square and pads it with the colour {PADDING}; this model pads "
                f"first, with {colour}",
                "nothing: only pixels at the padding differ" if colour == PADDING else prepared,
            )
        )
    else:
        own = "stretches it" if spec.image_fit == "stretch" else "cuts out its centre"
        differences.append(
            Difference(
                "resize",
                f"llama.cpp pads an image that is not square; this model {own}",
                f"give it square images, best of {side} pixels, or train with model.image_mode=pad",
            )
        )
        if spec.image_resize not in (0, spec.image_side):
            own = f"resizes to {spec.image_resize} pixels and cuts out the centre"
            differences.append(Difference("resize", f"llama.cpp resizes to {side} pixels; this model {own}", prepared))
    if spec.image_resample != BICUBIC:
        differences.append(
            Difference("resize", "llama.cpp resizes by bicubic interpolation, this model otherwise", prepared)
        )
    return differences


def tower_contents(exported: ExportedModel, title: str, class_position: str) -> GgufContents:
    """Return the contents of the file with tower and projector. `class_position`: one of `CLASS_POSITIONS`."""
    table = names()["tower"]
    shape, spec, keys = exported.tower_shape, exported.spec, table["keys"]
    activation = table["activations"][_activation(exported)]
    metadata: dict[str, Value] = {
        names()["general"]["type"]: table["type"],
        names()["general"]["name"]: title,
        keys["vision"]: True,
        keys["projector"]: table["projector"],
        keys["gelu"]: activation == "gelu",
        keys["silu"]: activation == "silu",
        keys["side"]: shape.side,
        keys["patch"]: shape.side // shape.columns,
        keys["width"]: shape.hidden,
        keys["inner"]: shape.inner,
        keys["layers"]: shape.kept,
        keys["heads"]: shape.heads,
        keys["epsilon"]: _epsilon(exported),
        keys["output"]: spec.language_width,
        keys["mean"]: list(spec.image_mean),
        keys["std"]: list(spec.image_std),
        keys["feature_layers"]: sorted(feature_numbers(exported)),
    }
    tensors = {**_tower_tensors(exported, class_position), **_projector_tensors(exported)}
    precise = frozenset({table["tensors"]["position"], table["tensors"]["patch"]})
    return GgufContents(table["architecture"], metadata, tensors, precise)


def feature_numbers(exported: ExportedModel) -> list[int]:
    """Return the feature layers as numbers of hidden states: 0 is the first layer's input."""
    depth = exported.tower_shape.depth
    return [depth + 1 + layer for layer in as_layers(exported.spec.feature_layer)]


def _tower_tensors(exported: ExportedModel, class_position: str) -> dict[str, LazyWeight]:
    table = names()["tower"]
    ours: Mapping[str, str] = table["tensors"]
    theirs = table["towers"][exported.tower_config.model_type]
    norm = exported.spec.feature_norm
    single = {theirs[part]: ours[part] for part in ("class", "patch", "patch_bias") if part in theirs}
    prefixes = {theirs["pre_norm"]: ours["pre_norm"]} if "pre_norm" in theirs else {}
    if norm == "tower":
        prefixes[theirs["post_norm"]] = ours["post_norm"]
    layer = re.compile(re.escape(theirs["layer"]).replace(r"\{\}", "([0-9]+)"))
    tensors: dict[str, LazyWeight] = {
        ours["position"]: partial(_positions, exported, theirs["position"], class_position == "last")
    }
    for name, tensor in exported.tower.items():
        prefix, leaf = name.rpartition(".")[0] + ".", name.rpartition(".")[2]
        if name in single:
            tensors[single[name]] = partial(_whole, tensor)
        elif prefix in prefixes:
            tensors[prefixes[prefix] + leaf] = partial(_whole, tensor)
        elif (match := layer.match(name)) and int(match[1]) < exported.tower_shape.kept:
            inner = prefix[match.end() :]
            if inner not in theirs["layer_tensors"]:
                continue  # a layer scale, which is multiplied into the tensor before it
            scale = theirs.get("scales", {}).get(inner)
            read = partial(_whole, tensor)
            if scale is not None:
                read = partial(_scaled, tensor, exported.tower[match[0] + scale])
            tensors[ours["layer"].format(match[1]) + theirs["layer_tensors"][inner] + leaf] = read
    if norm == "layer_norm":
        like = next(tensor for name, tensor in exported.tower.items() if name.endswith("norm1.weight"))
        tensors[ours["post_norm"] + "weight"] = lambda: like[...].float() * 0 + 1
        tensors[ours["post_norm"] + "bias"] = lambda: like[...].float() * 0
    return tensors


def _projector_tensors(exported: ExportedModel) -> dict[str, LazyWeight]:
    name = names()["tower"]["tensors"]["projector"]
    state = exported.model.projector_state()
    tensors: dict[str, LazyWeight] = {
        name.format(key.partition(".")[0]) + key.partition(".")[2]: partial(_whole, tensor)
        for key, tensor in state.items()
    }
    numbers = feature_numbers(exported)
    if numbers != sorted(numbers):  # llama.cpp concatenates the layers in ascending order
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        first = name.format(0) + "weight"
        tensors[first] = partial(_reordered, state["0.weight"], order)
    return tensors


def _reordered(weight: Tensor, order: list[int]) -> Tensor:
    columns = weight.reshape(weight.shape[0], len(order), -1)
    return columns[:, order].reshape(weight.shape)


def _positions(exported: ExportedModel, name: str, class_last: bool) -> Tensor:
    """Return the position embeddings (tokens, width) for the tower's side; the class token's is first or last."""
    shape = exported.tower_shape
    positions = exported.tower[name][...].float().reshape(-1, shape.hidden)
    if len(positions) != shape.tokens:  # the tower interpolates them for images of another size than its config's
        embeddings: Any = exported.model.vision.towers[0].body.embeddings
        patches = torch.zeros(1, shape.tokens, shape.hidden)
        positions = embeddings.interpolate_pos_encoding(patches, shape.side, shape.side).detach().float().cpu()[0]
    return positions.roll(-1, 0) if class_last and shape.prefix else positions


def _scaled(tensor: LazyTensor, scale: LazyTensor) -> Tensor:
    """Return a layer's output weight or bias times its layer scale (output width,)."""
    factor = scale[...].float()
    whole = tensor[...].float()
    return whole * (factor[:, None] if whole.ndim == 2 else factor)


def _whole(tensor: LazyTensor) -> Tensor:
    whole = tensor[...]
    return whole.reshape(-1) if whole.shape[:2] == (1, 1) else whole  # DINOv2's class token is (1, 1, width)


def _activation(exported: ExportedModel) -> str:
    return str(getattr(exported.tower_config, "hidden_act", ""))


def _epsilon(exported: ExportedModel) -> float:
    return float(getattr(exported.tower_config, "layer_norm_eps", 0.0))
