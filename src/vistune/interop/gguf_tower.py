"""Describe vision tower and projector as llama.cpp's clip reads them (the file `mmproj`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from vistune.errors import RecipeError
from vistune.interop.gguf_file import GgufContents, LazyWeight, Value, names
from vistune.interop.writers import ExportedModel
from vistune.model.peft_folder import LazyTensor, shape_of
from vistune.model.tower_shape import as_layers

INSTEAD = "train with model.projector=mlp2x_gelu, or export --layout llava-hf"
OTHERWISE = "export --layout llava-hf, and use vLLM or transformers"
LAYER_NORM_EPSILON = 1e-5  # of torch's LayerNorm


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that llama.cpp does in another way than this model was trained.

    Attributes:
        stage: template, tokenizer, resize, tower, projector, language model or sampler.
        what: The difference.
        remedy: What to do about it.
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
         "with GELU between them", INSTEAD),
        (spec.space != "hidden", "llama.cpp has no joint space", "train with model.space=hidden"),
        (spec.feature_tokens != "patch", "llama.cpp drops the class token", "train with model.feature_tokens=patch"),
        (spec.image_mode == "anyres", "llama.cpp puts no newline vector behind the rows of an anyres image",
         "train with model.image_mode=square, or export --layout llava-hf"),
        (kind not in towers, f"llama.cpp does not know the tower {kind!r}",
         f"train with one of these towers: {', '.join(towers)}"),
        (getattr(exported.tower_config, "hidden_act", "") not in activations,
         f"llama.cpp's tower has no activation {getattr(exported.tower_config, 'hidden_act', '')!r}",
         f"it has {', '.join(activations)}"),
        (spec.feature_norm != "off" and several, "llama.cpp normalises only the last of several feature layers",
         "train with model.feature_norm=off"),
        (spec.feature_norm == "layer_norm" and _epsilon(exported) != LAYER_NORM_EPSILON,
         "llama.cpp normalises the features with the tower's epsilon", "train with model.feature_norm=off"),
    )  # fmt: skip
    for refused, reason, remedy in reasons:
        if refused:
            raise RecipeError(f"--layout gguf: {reason}", remedy)


def tower_differences(exported: ExportedModel) -> list[Difference]:
    """Return how llama.cpp computes image features in another way."""
    spec, shape = exported.spec, exported.tower_shape
    found = []
    if shape.prefix:
        found.append(
            Difference(
                "tower",
                "builds of llama.cpp with issue 25814 put the class token behind the patches: each patch gets its "
                "neighbour's position, the first patch is lost, and the class token becomes the last slot",
                "use a build in which this is repaired, or train with a tower without a class token (SigLIP)",
            )
        )
    found.append(
        Difference(
            "projector",
            "llama.cpp computes GELU by its tanh approximation, rounded to f16",
            "nothing: features differ by about 0.001",
        )
    )
    if spec.image_mode != "pad":
        own = "stretches it" if spec.image_fit == "stretch" else "cuts out its centre"
        found.append(
            Difference(
                "resize",
                f"llama.cpp pads an image that is not square; this model {own}",
                f"give it square images, best of {spec.image_side}x{spec.image_side} pixels, or train with "
                "model.image_mode=pad",
            )
        )
    else:
        found.append(
            Difference(
                "resize",
                "llama.cpp resizes an image that is not square before it pads it; this model pads first",
                "nothing: the pixels next to the edge differ slightly",
            )
        )
    if spec.image_resample != 3:
        found.append(
            Difference(
                "resize",
                "llama.cpp resizes by bicubic interpolation, this model otherwise",
                f"give it images of {spec.image_side}x{spec.image_side} pixels",
            )
        )
    return found


def tower_contents(exported: ExportedModel, title: str) -> GgufContents:
    """Return the contents of the file with tower and projector."""
    table = names()["tower"]
    config: Any = exported.tower_config
    shape, spec, keys = exported.tower_shape, exported.spec, table["keys"]
    activation = table["activations"][config.hidden_act]
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
    tensors = {**_tower_tensors(exported), **_projector_tensors(exported)}
    precise = frozenset({table["tensors"]["position"], table["tensors"]["patch"]})
    return GgufContents(table["architecture"], metadata, tensors, precise)


def feature_numbers(exported: ExportedModel) -> list[int]:
    """Return the feature layers as numbers of hidden states: 0 is the first layer's input."""
    depth = exported.tower_shape.depth
    return [depth + 1 + layer for layer in as_layers(exported.spec.feature_layer)]


def _tower_tensors(exported: ExportedModel) -> dict[str, LazyWeight]:
    table = names()["tower"]
    ours: Mapping[str, str] = table["tensors"]
    theirs = table["towers"][exported.tower_config.model_type]
    norm = exported.spec.feature_norm
    single = {theirs[part]: ours[part] for part in ("class", "position", "patch", "patch_bias") if part in theirs}
    stems = {theirs[part]: ours[part] for part in ("pre_norm",) if part in theirs}
    if norm == "tower":
        stems[theirs["post_norm"]] = ours["post_norm"]
    layer = re.compile(re.escape(theirs["layer"]).replace(r"\{\}", "([0-9]+)"))
    tensors: dict[str, LazyWeight] = {}
    for name, tensor in exported.tower.items():
        stem, leaf = name.rpartition(".")[0] + ".", name.rpartition(".")[2]
        if name in single:
            tensors[single[name]] = partial(_whole, tensor)
        elif stem in stems:
            tensors[stems[stem] + leaf] = partial(_whole, tensor)
        elif (match := layer.match(name)) and int(match[1]) < exported.tower_shape.kept:
            inner = theirs["layer_tensors"][stem[match.end() :]]
            tensors[ours["layer"].format(match[1]) + inner + leaf] = partial(_whole, tensor)
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


def _whole(tensor: LazyTensor) -> Tensor:
    return tensor[...]


def _epsilon(exported: ExportedModel) -> float:
    return float(exported.tower_config.layer_norm_eps)
