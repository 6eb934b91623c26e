"""Put a PEFT folder's adapters on a LLaVA model: names are translated to our parts, then PEFT loads the tensors.

The language model's adapters stay adapters; those of the tower and the projector are merged into the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vistune.errors import CheckpointError, some
from vistune.interop.build import SourceModel, causal_class, load_tower_tensors
from vistune.interop.folders import PARTS, Parts, by_part
from vistune.model import build_projector
from vistune.model.lora import load_onto, refuse_misfits, with_adapters, with_empty_adapters
from vistune.model.peft_folder import PREFIX, Adapters, LazyTensor, merge_hint
from vistune.model.tower_shape import tower_class

if TYPE_CHECKING:
    from peft import LoraConfig

LORA, TOKENS = ".lora_", ".token_adapter."
KNOWN = ("model.", "language_model.", "vision_tower.", "lm_head.", "multi_modal_projector.", "image_newline")
ADAPTED_PARTS = ("vision", "projector", "language")


@dataclass(frozen=True)
class Naming:
    """The prefix of each part's module names in the model that PEFT adapted.

    `layout`: the layout whose rules assign tensors to parts, `llava-hf` or `original`.
    """

    layout: str
    language: str
    head: str
    vision: str
    projector: str

    def of(self, part: str, name: str) -> str:
        """Return the name of a part's module in the adapted model."""
        if part == "vision":
            return self.vision + name
        if part == "projector":
            index, dot, rest = name.partition(".")
            if self.layout == "llava-hf":
                index = {"0": "linear_1", "1": "act", "2": "linear_2"}.get(index, index)
            return f"{self.projector}{index}{dot}{rest}"
        return self.language + name.removeprefix("model.") if name.startswith("model.") else self.head + name


def naming_of(names: Iterable[str], folder: Path) -> Naming:
    """Detect how the adapted model names its modules: as LLaVA in transformers since 4.36, or as the original.

    Raises CheckpointError naming tensors that match neither.
    """
    listed = list(names)
    if unknown := [name for name in listed if not name.startswith(KNOWN)]:
        raise CheckpointError(f"{folder}: tensors of no known part: {some(unknown)}", merge_hint(folder))

    def begins(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in listed)

    own_tower = begins("model.vision_tower.") and not begins("model.vision_tower.vision_tower.")
    top = "model." if own_tower or begins("model.language_model.", "model.multi_modal_projector.") else ""
    if not top and begins("model."):
        return Naming("original", "model.", "", "model.vision_tower.vision_tower.vision_model.", "model.mm_projector.")
    inner = "vision_model." if begins(f"{top}vision_tower.vision_model.") else ""
    body, head = "language_model.", ""
    if not top and begins("language_model.model.", "language_model.lm_head."):
        body, head = "language_model.model.", "language_model."
    return Naming("llava-hf", top + body, head, f"{top}vision_tower.{inner}", f"{top}multi_modal_projector.")


def apply_adapters(source: SourceModel, adapters: Adapters) -> SourceModel:
    """Put adapters on the source's language model, and merge those of its other parts into the weights.

    Raises CheckpointError naming tensors that do not fit, or that the config does not explain.
    """
    folder = adapters.folder
    named = {name.removeprefix(PREFIX): tensor for name, tensor in adapters.tensors.items()}
    naming = naming_of(named, folder)
    if naming.language == "language_model.":  # LlavaModel, which has no head: by_part knows the names with one
        named = {f"model.{name}" if name.startswith("language_model.") else name: t for name, t in named.items()}
    parts = by_part(named, naming.layout, str(folder))
    with torch.device("meta"):
        empty: dict[str, nn.Module] = {
            "vision": tower_class(source.vision, "hidden")(source.vision),
            "projector": build_projector(source.spec, seed=0),
            "language": causal_class(source.language)(source.language),
        }
    by_name = {part: _of_part(part, empty[part], parts[part], adapters, naming) for part in ADAPTED_PARTS}
    remarks = [*source.remarks, *adapters.remarks, *(text for item in by_name.values() for text in item.remarks)]
    remarks += _unused_keys(adapters, empty, by_name, parts, naming)
    changed: Parts = {part: dict(source.parts[part]) for part in PARTS}
    if parts["newline"]:
        newline = {name: tensor[...] for name, tensor in changed["newline"].items()}
        refuse_misfits(newline, parts["newline"], folder)
        changed["newline"] |= parts["newline"]
    for part in ("vision", "projector"):
        if by_name[part].tensors:
            with_empty_adapters(empty[part], by_name[part], meta=True)  # report misfits before weights are read
            old = changed[part]
            merged = _merged(_loaded(part, source), by_name[part])
            old |= {name: new for name, new in merged.items() if not torch.equal(old[name][...].float(), new.float())}
            remarks.append(f"{folder}: adapters and trained weights of the {part} were merged into its weights")
    inside = source.tower_inside or bool(by_name["vision"].tensors)  # a trained tower is not the named one
    adapt = source.adapt
    if by_name["language"].tensors:
        with_empty_adapters(empty["language"], by_name["language"], meta=True)
        adapt = partial(load_onto, adapters=by_name["language"])
    return replace(source, parts=changed, remarks=tuple(remarks), adapt=adapt, tower_inside=inside)


def _of_part(
    part: str, module: nn.Module, tensors: Mapping[str, LazyTensor], adapters: Adapters, naming: Naming
) -> Adapters:
    """Return the adapters of one part by our names, with a config that lists exactly its modules."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.constants import DUMMY_TARGET_MODULES
    from peft.utils.other import get_pattern_key
    from transformers.pytorch_utils import Conv1D

    given = adapters.config
    layers = {name: naming.of(part, name) for name, _ in module.named_modules() if name}  # our name -> theirs
    adapted = {name.split(LORA)[0] for name in tensors if LORA in name}
    rule = copy.copy(given)
    modules = [(name, inner) for name, inner in module.named_modules() if name]
    if str(given.target_modules).lower() == "all-linear":  # every linear layer except the head
        head = getattr(module, "get_output_embeddings", lambda: None)()
        linear = (name for name, inner in modules if isinstance(inner, nn.Linear | Conv1D) and inner is not head)
        rule.target_modules = {layers[name] for name in linear}
    adaptable = (name for name, inner in modules if isinstance(inner, nn.Linear | nn.Embedding | nn.Conv2d | Conv1D))
    targets = {name for name in adaptable if check_target_module_exists(rule, layers[name])}
    tied = {"lm_head"} if given.ensure_weight_tying else set()
    if stray := sorted(adapted - targets - tied):
        raise CheckpointError(
            f"{adapters.folder}: adapters on modules that its target_modules do not name: "
            f"{some(layers.get(name, f'{part} {name}') for name in stray)}",
            merge_hint(adapters.folder),
        )
    remarks: tuple[str, ...] = ()
    if targets and not adapted:
        remarks = (
            f"{adapters.folder}: target_modules also name {len(targets)} modules of the {part}, such as "
            f"{layers[min(targets)]}, but the file has no tensors for them: they stay as in the base",
        )
        targets = set()
    config = copy.deepcopy(given)
    config.target_modules = targets or DUMMY_TARGET_MODULES  # PEFT's value for no modules
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.task_type = "CAUSAL_LM" if part == "language" else None
    for key, default in (("rank_pattern", given.r), ("alpha_pattern", given.lora_alpha)):
        pattern = getattr(given, key) or {}
        values = {name: pattern.get(get_pattern_key(pattern.keys(), layers[name]), default) for name in sorted(targets)}
        setattr(config, key, {name: value for name, value in values.items() if value != default})
    config.modules_to_save = _saved_modules(tensors, given, layers) or None
    config.trainable_token_indices = _tokens(tensors, given, layers) or None
    own = {PREFIX + name: tensor for name, tensor in tensors.items()}
    return Adapters(config, own, adapters.folder, remarks)


def _saved_modules(tensors: Mapping[str, LazyTensor], config: LoraConfig, layers: Mapping[str, str]) -> list[str]:
    """Return our names of the modules saved whole by `modules_to_save`; none is inside another."""
    listed = tuple(config.modules_to_save or ())
    modules = {name.rpartition(".")[0] for name in tensors if LORA not in name and TOKENS not in name}
    saved = {name for name in modules if _is_within(layers.get(name, name), listed)}
    return sorted(name for name in saved if not any(name.startswith(f"{other}.") for other in saved))


def _is_within(their: str, ends: tuple[str, ...]) -> bool:
    """Return whether the name of a module, or of one that contains it, ends with one of `ends`, as PEFT does."""
    steps = their.split(".")
    return bool(ends) and any(".".join(steps[:k]).endswith(ends) for k in range(1, len(steps) + 1))


def _tokens(tensors: Mapping[str, LazyTensor], config: LoraConfig, layers: Mapping[str, str]) -> dict[str, list[int]]:
    """Return the trained tokens of each embedding, by our module names."""
    given = config.trainable_token_indices
    trained = {name.split(TOKENS)[0] for name in tensors if TOKENS in name}
    if not trained or not given:
        return {}
    if not isinstance(given, dict):
        return {name: list(given) for name in trained}

    def ours(key: str) -> str:
        return next((name for name, their in layers.items() if f".{their}".endswith(f".{key}")), key)

    return {ours(key): list(tokens) for key, tokens in given.items()}


def _unused_keys(
    adapters: Adapters, empty: Mapping[str, nn.Module], by_name: Mapping[str, Adapters], parts: Parts, naming: Naming
) -> list[str]:
    """Return remarks on config entries that match no module. Raises CheckpointError if their tensors are missing."""
    from peft.utils.other import get_pattern_key

    config, path = adapters.config, adapters.folder / "adapter_config.json"
    names = [(part, name, naming.of(part, name)) for part in empty for name, _ in empty[part].named_modules() if name]
    remarks = []
    for entry in config.modules_to_save or ():
        matched = [their for _, _, their in names if their.endswith(entry)]
        stored = [name for part in ADAPTED_PARTS for name in parts[part] if LORA not in name and TOKENS not in name
                and _is_within(naming.of(part, name.rpartition(".")[0]), (entry,))]  # fmt: skip
        if matched and not stored:
            raise CheckpointError(
                f"{path}: modules_to_save names {entry!r}, but the file has no tensor of {matched[0]}",
                "download the folder again, or remove the name from modules_to_save",
            )
        if not matched:
            remarks.append(f"{path}: modules_to_save {entry!r} names no module of this model")
    tokens = config.trainable_token_indices
    if tokens and not any(TOKENS in name for name in parts["language"]):
        raise CheckpointError(
            f"{path}: trainable_token_indices={tokens!r}, but the file has no tensor for these tokens",
            "download the folder again",
        )
    adapted = [naming.of(part, name.removeprefix(PREFIX).split(LORA)[0])
               for part in by_name for name in by_name[part].tensors if LORA in name]  # fmt: skip
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = getattr(config, key) or {}
        matching = {get_pattern_key(pattern.keys(), their) for their in adapted}
        remarks += [f"{path}: {key} {name!r} matches no adapted module" for name in pattern if name not in matching]
    return remarks


def _loaded(part: str, source: SourceModel) -> nn.Module:
    """Build a part with the source's weights, in fp32."""
    if part == "vision":
        return load_tower_tensors(source, torch.float32)
    projector = build_projector(source.spec, seed=0)
    projector.load_state_dict({name: tensor[...].float() for name, tensor in source.parts["projector"].items()})
    return projector


def _merged(module: nn.Module, adapters: Adapters) -> dict[str, Tensor]:
    """Return the module's tensors with the adapters merged, by PEFT."""
    model = with_adapters(module, adapters)
    try:
        merged: nn.Module = model.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, NotImplementedError) as error:  # a kind of layer that PEFT cannot merge
        raise CheckpointError(
            f"{adapters.folder}: adapters outside the language model cannot be merged: {error}",
            merge_hint(adapters.folder),
        ) from None
    return {name: tensor.detach() for name, tensor in merged.state_dict().items()}
