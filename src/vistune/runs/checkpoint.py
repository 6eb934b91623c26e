"""Save, load and verify a model folder.

FOLDER/{recipe.yaml, parts.json, projector.safetensors, tokenizer/, manifest.json,
        [vision/, language/, adapter/ (of the language model), adapters.safetensors (of tower and projector)]}
Trained parts are stored as weights. A part that was never trained is stored as a reference to its source, with the
checksum of its config. The manifest contains the checksum of every file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vistune.errors import CheckpointError, DataError, DiskError, VistuneError
from vistune.files import committed_folder, read_json, sha256_of, write_atomic, write_json
from vistune.model import VisionLanguageModel, build_projector, load_adapters, load_towers
from vistune.model.language import load_language, unwrap
from vistune.model.lora import has_adapters, with_empty_adapters
from vistune.model.part_adapters import inner_adapters, load_inner, plain_state, settings_of
from vistune.model.peft_folder import read_adapters
from vistune.model.quiet import without_bars
from vistune.processor import Processor
from vistune.recipe import TOWERS, Recipe, dump, source_of

FORMAT, FORMAT_OF_INNER_ADAPTERS = 1, 2
INNER_ADAPTERS = "adapters.safetensors"
BACKBONES = (*TOWERS, "language")


State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's tensors by name, for each part whose weights a folder stores."""

    projector: State
    adapter: State
    vision: State | None = None
    vision_2: State | None = None
    language: State | None = None
    inner_adapters: State | None = None

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for part in fields(self):
            for name, tensor in (getattr(self, part.name) or {}).items():
                yield f"{part.name} {name}", tensor


def snapshot(
    model: VisionLanguageModel, trained: Collection[str], take: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Snapshot:
    """Collect the tensors that a model folder stores.

    Args:
        trained: Every part that any stage so far has trained.
        take: Returns a tensor to store: itself, or a copy that later steps do not change.
    """
    taken: dict[int, Tensor] = {}  # tied weights are one tensor under two names

    def take_all(state: State) -> State:
        for tensor in state.values():
            if id(tensor) not in taken:
                taken[id(tensor)] = take(tensor.detach())
        return {name: taken[id(tensor)] for name, tensor in state.items()}

    adapter = _own_state(model.language) if has_adapters(model.language) else {}
    inner = inner_adapters(model)
    return Snapshot(
        projector=take_all(model.projector_state(keep_vars=True)),
        adapter=take_all({name: tensor for name, tensor in adapter.items() if "lora_" in name}),
        **{
            part: take_all(plain_state(_own_state(tower.tower))) if "vision" in trained else None
            for part, tower in zip(TOWERS, model.vision.towers, strict=False)
        },
        language=take_all(language_state(model, keep_vars=True)) if "language" in trained else None,
        inner_adapters=take_all(inner) if inner else None,
    )


def _own_state(module: nn.Module) -> State:
    state: State = module.state_dict(keep_vars=True)
    return state


@without_bars()
def save(
    folder: Path,
    model: VisionLanguageModel,
    processor: Processor,
    *,
    recipe: Recipe,
    tensors: Snapshot,
    extra: Mapping[str, Any] | None = None,
    write_more: Callable[[Path], None] = lambda draft: None,
) -> None:
    """Write a model folder; it is complete or absent.

    Args:
        tensors: The snapshot to store; it contains those backbones that were trained.
        extra: Values for parts.json.
        write_more: Writes more files into the folder; the manifest includes them.

    Raises:
        DiskError: If the disk is full or fails.
        CheckpointError: If weights are not finite.
    """
    if bad := [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise CheckpointError(f"{folder}: not saved: {bad[0]} is not finite", "lower the learning rates in `learn`")
    with disk_errors(folder), committed_folder(folder) as draft:
        for part, tower in zip(TOWERS, model.vision.towers, strict=False):
            if (state := getattr(tensors, part)) is not None:
                tower.tower.save_pretrained(draft / part, state_dict=dict(state))
        if tensors.language is not None:
            unwrap(model.language).save_pretrained(draft / "language", state_dict=dict(tensors.language))
            if has_adapters(model.language):  # PEFT reads the base from here: the adapters belong to these weights
                adapters: Any = model.language
                adapters.active_peft_config.base_model_name_or_path = str(folder.absolute() / "language")
        _save_own_parts(model, processor, draft, tensors)
        write_atomic(draft / "recipe.yaml", dump(recipe))
        parts = {
            part: _reference(part, source, getattr(tensors, part) is not None)
            for part, source in recipe.model.backbones.items()
        }
        write_json(draft / "parts.json", {**_adapters_of(model), **parts, "extra": dict(extra or {})})
        write_more(draft)
        write_manifest(draft)


def save_imported(
    folder: Path,
    model: VisionLanguageModel,
    processor: Processor,
    *,
    write_tower: Callable[[Path], None],
    origin: Mapping[str, Any],
) -> None:
    """Write the model folder of an imported model; it contains all parts.

    Args:
        write_tower: Writes the whole tower's files into a folder.
        origin: The layout and folder it came from.
    """
    with committed_folder(folder) as draft:
        write_tower(draft / "vision")
        save_language(model, draft / "language")
        _save_own_parts(model, processor, draft, snapshot(model, ()))
        parts = {
            part: {"source": part, "saved": True, "cut": False, "config_sha256": None}
            for part in ("vision", "language")
        }
        extra = {"finished": True, "origin": dict(origin)}
        write_json(draft / "parts.json", {**_adapters_of(model), **parts, "extra": extra})
        write_manifest(draft)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Convert the errors that libraries raise for a full or failing disk to DiskError."""
    try:
        yield
    except VistuneError:
        raise
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise DiskError(f"{folder}: cannot be written: {reason}", "make room, then resume with --resume") from error


def _disk_reason(error: Exception) -> str | None:
    """Return the disk's message, or None. torch.save wraps an OSError; safetensors and tokenizers only have a text."""
    for cause in (error, error.__context__):
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
    return str(error) if "(os error " in str(error) else None


def _save_own_parts(model: VisionLanguageModel, processor: Processor, folder: Path, stored: Snapshot) -> None:
    """Write what every model folder contains: projector, adapters if there are any, tokenizer and spec."""
    save_file({name: t.contiguous() for name, t in stored.projector.items()}, folder / "projector.safetensors")
    if stored.inner_adapters is not None:
        tensors = {name: tensor.contiguous() for name, tensor in stored.inner_adapters.items()}
        save_file(tensors, folder / INNER_ADAPTERS)
    if has_adapters(model.language):
        adapter = {"state_dict": dict(stored.adapter), "save_embedding_layers": False}
        model.language.save_pretrained(folder / "adapter", **adapter)  # type: ignore[operator]
    processor.save(folder / "tokenizer")


def _adapters_of(model: VisionLanguageModel) -> dict[str, Any]:
    """Return the format and the adapters for parts.json.

    Folders with adapters on other parts than the language model have a newer format: an older vistune would read them
    without these adapters.
    """
    inner = {name: dict(settings) for name, settings in settings_of(model).items()}
    adapter = {"adapter": has_adapters(model.language)}
    return {"format": FORMAT_OF_INNER_ADAPTERS, **adapter, "inner_adapters": inner} if inner else {
        "format": FORMAT, **adapter}  # fmt: skip


@without_bars()
def save_language(model: VisionLanguageModel, folder: Path) -> None:
    """Write the language model without its adapters, in transformers' layout."""
    unwrap(model.language).save_pretrained(folder, state_dict=language_state(model))


def language_state(model: VisionLanguageModel, *, keep_vars: bool = False) -> dict[str, Tensor]:
    """Return the language model's tensors under its own names, without adapters."""
    state = unwrap(model.language).state_dict(keep_vars=keep_vars)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}


def backbone_of(folder: Path, part: str) -> tuple[str, bool]:
    """Return the source of a model's vision or language, and whether it is a tower cut at the feature layer."""
    reference = read_parts(folder)[part]
    return _locate(folder, part, reference), part in TOWERS and is_cut(reference)


def backbones_of(folder: Path) -> tuple[list[str], str]:
    """Return the sources of a model's towers, and of its language model."""
    parts = read_parts(folder)
    sources = [_locate(folder, part, parts[part]) for part in BACKBONES if part in parts]
    return sources[:-1], sources[-1]


def is_cut(reference: Mapping[str, Any]) -> bool:
    """Return whether a stored tower ends at the feature layer: a trained one does, an imported one does not."""
    return bool(reference["saved"] and reference.get("cut", True))


def write_manifest(folder: Path) -> None:
    """Write manifest.json with the checksum of every file in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    write_json(folder / "manifest.json", {str(path.relative_to(folder)): sha256_of(path) for path in files})


def _reference(part: str, source: str, saved: bool) -> dict[str, Any]:
    config = Path(source_of(source, part)) / "config.json"
    return {"source": source, "saved": saved, "config_sha256": sha256_of(config) if config.is_file() else None}


def verify(folder: Path) -> None:
    """Raise CheckpointError naming the first file that is missing or changed."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder", "check the path")
    manifest_file = folder / "manifest.json"
    if not manifest_file.is_file():
        raise CheckpointError(
            f"{folder}: no manifest.json: not a model folder of vistune, or incomplete", "name another folder"
        )
    for name, digest in _read(manifest_file).items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, but listed in manifest.json", "use another checkpoint")
        if sha256_of(path) != digest:
            raise CheckpointError(f"{path}: damaged: its SHA-256 differs from manifest.json", "use another checkpoint")


def load(
    folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, quantize: int | None = None
) -> tuple[VisionLanguageModel, Processor]:
    """Load a model folder after checking its manifest.

    `quantize`: bits of the language model, 4 or 8. Raises CheckpointError if a file is missing, is damaged or does not
    fit.
    """
    verify(folder)
    model, processor = _read_model(folder, dtype, quantize)
    return model.to(device).eval(), processor


def load_empty(folder: Path) -> VisionLanguageModel:
    """Build the model of a folder without backbone weights and adapters, with the same checks as `load`."""
    verify(folder)
    return _read_model(folder, torch.float32, None, meta=True)[0]


def _read_model(
    folder: Path, dtype: torch.dtype, quantize: int | None, *, meta: bool = False
) -> tuple[VisionLanguageModel, Processor]:
    parts = read_parts(folder)
    processor = Processor.load(folder / "tokenizer")
    spec = processor.spec
    towers, language_source = backbones_of(folder)
    language = load_language(language_source, dtype, quantize, meta=meta)
    if parts["adapter"] and meta:
        language = unwrap(with_empty_adapters(language, read_adapters(folder / "adapter"), meta=True).unload())
    elif parts["adapter"]:
        language = load_adapters(language, folder / "adapter")
    tower = load_towers(towers, spec, dtype, cut=is_cut(parts["vision"]), meta=meta)
    model = VisionLanguageModel(tower, build_projector(spec, seed=0).to(dtype), language, spec)
    try:
        model.load_projector(load_file(folder / "projector.safetensors"))
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder / 'projector.safetensors'}: {error}", "use another checkpoint") from None
    if (inner := parts.get("inner_adapters")) and not meta:
        load_inner(model, inner, load_file(folder / INNER_ADAPTERS), str(folder / INNER_ADAPTERS))
    return model, processor


def read_parts(folder: Path) -> Mapping[str, Any]:
    """Read parts.json. Raises CheckpointError if it is missing or of another format."""
    parts = _read(folder / "parts.json")
    if parts.get("format") not in (FORMAT, FORMAT_OF_INNER_ADAPTERS):
        raise CheckpointError(
            f"{folder}: has format {parts.get('format')}; this vistune reads format {FORMAT} and "
            f"{FORMAT_OF_INNER_ADAPTERS}",
            "use a newer vistune",
        )
    return parts


def _locate(folder: Path, part: str, reference: Mapping[str, Any]) -> str:
    if reference["saved"]:
        return str(folder / part)
    source = source_of(str(reference["source"]), part)
    config = Path(source) / "config.json"
    if reference["config_sha256"] and not config.is_file():
        raise CheckpointError(f"{folder}: its {part} backbone {source} is missing", "restore it there")
    if reference["config_sha256"] and sha256_of(config) != reference["config_sha256"]:
        raise CheckpointError(f"{folder}: its {part} backbone {source} has changed", "restore the original")
    return source


def _read(path: Path) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = read_json(path)
    except DataError as error:
        raise CheckpointError(error.message, "use another checkpoint") from None
    return tree
