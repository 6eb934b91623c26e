"""Convert models for `vistune import` and `vistune export`. An export is loaded again and compared with its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vistune.errors import CheckpointError, RecipeError
from vistune.files import committed_folder, read_json
from vistune.generation import Assistant
from vistune.interop import layouts
from vistune.interop.build import SourceModel, build_model, source_processor
from vistune.interop.certificate import ExportForm, certify, write_certificate
from vistune.interop.folders import is_hub_name, read_tensors, read_tower, resolve, with_full_depth, write_tower
from vistune.interop.layout_limits import refuse_layout
from vistune.interop.model_card import write_card
from vistune.interop.parity import (
    BATCH,
    ParityRow,
    ProbeResult,
    compare,
    describe_rows,
    exceeds_tolerance,
    probe_batch,
    probe_ours,
    probe_transformers,
    probes,
)
from vistune.interop.peft_export import refuse_peft, write_peft
from vistune.interop.writers import ExportedModel, write_hf, write_original
from vistune.model import VisionLanguageModel
from vistune.model.part_adapters import merge_parts
from vistune.model.peft_folder import LazyTensor
from vistune.model.quiet import without_bars
from vistune.registry import guess
from vistune.runs import checkpoint
from vistune.types import Spec

GGUF = "gguf"  # written by interop/gguf.py
QUANTISED_BY = {  # layout -> how to get it in 4 or 8 bits: loaders quantize while loading
    "llava-hf": "transformers quantizes it as it loads, by "
    "quantization_config=BitsAndBytesConfig(load_in_{bits}bit=True), and so does vLLM, by --quantization bitsandbytes",
    "llava-original": "the original LLaVA reads full precision and quantizes it as it loads: --load-{bits}bit",
    "peft": "adapters are never quantized; load their base in {bits} bits",
}


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The model that `import_model` read, and the folder that it wrote.

    Attributes:
        layout: The layout that was read.
        out: The model folder.
        spec: The model's spec.
        adapter: Whether the model has adapters.
        projector: The file with the trained projector of a LoRA training, if there is one.
        remarks: Keys or tensors that have no effect, or an unexpected one.
    """

    layout: str
    out: Path
    spec: Spec
    adapter: bool
    projector: Path | None
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `vistune import --json` prints it."""
        return {
            **asdict(self),
            "out": str(self.out),
            "projector": None if self.projector is None else str(self.projector),
            "remarks": list(self.remarks),
        }


def import_model(
    folder: Path, out: Path, *, base: str | None = None, template: str | None = None, vision: str | None = None
) -> ImportResult:
    """Convert a folder of another layout to a model folder of vistune that contains every part.

    Arguments are those of `read_source`.
    """
    source = layouts.read_source(folder, base=base, template=template, vision=vision)
    processor = source_processor(source)
    model = build_model(source, stored_dtype(source.parts["language"]))
    origin = {"layout": source.layout, "folder": folder.name, "base": base, "tower": source.tower,
              "tower_inside": source.tower_inside}  # fmt: skip
    tower = partial(write_tower, source.parts["vision"], source.vision, source.spec)
    checkpoint.save_imported(out, model, processor, write_tower=tower, origin=origin)
    return ImportResult(source.layout, out, source.spec, model.adapted, source.tuned, source.remarks)


def stored_dtype(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """Return the precision of a part's weights, from its embedding."""
    first = next(tensors[name] for name in ("model.embed_tokens.weight", *tensors) if name in tensors)
    return first[:0].dtype


def export_model(
    folder: Path,
    out: Path,
    *,
    layout: str,
    merge: bool = False,
    base: str | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> list[ParityRow]:
    """Write a model in another layout, load the result, and compare both.

    Args:
        folder: A model folder of vistune or of any layout that `import` reads.
        merge: Merge adapters, for a layout that has none.
        base: With `peft`, the llava-hf model on which the adapters are put.
        dtype: Precision of the weights; None keeps that of the stored language model.

    Returns the parity table. If adapters are merged, rows named `merge: …` come first: before and after merging.

    Raises:
        CheckpointError: If the merged model or the written folder gives other outputs; OUT is not written.
        RecipeError: If the layout cannot represent the model, or OUT exists.
    """
    refuse_unknown(layout)
    if out.exists():
        raise RecipeError(f"{out}: already exists", "give another folder")
    exported = exported_from(folder, dtype, device)
    if layout == "peft":
        refuse_peft(exported, base)
    else:
        refuse_layout(exported, layout)
    merges: list[ParityRow] = []
    expected: Mapping[str, ProbeResult] = {}
    if exported.model.adapted and layout != "peft":
        if not merge:
            raise RecipeError(
                f"{folder}: has adapters, which --layout {layout} cannot store",
                "add --merge, or export --layout peft",
            )
        exported, merges, expected = merge_exported(exported, out)
    precision = exported.model.head.dtype
    if precision != exported.dtype:
        round_weights(exported.model, exported.dtype, tower=layout != "llava-original" or exported.tower_inside)
        expected = {}
    expected = expected or probe_ours(exported.assistant, probes())
    certificate = certify(exported.assistant, expected, ExportForm(layout, str(exported.dtype).removeprefix("torch.")))
    if precision != exported.dtype:
        exported.model.to(exported.dtype)  # in the precision of the file, so that no second copy is needed
    writers: Mapping[str, Callable[[ExportedModel, Path], None]] = {
        "llava-hf": write_hf,
        "llava-original": write_original,
        "peft": partial(write_peft, base=base, own_base=out.absolute() / layouts.BASE_FOLDER),
    }
    with committed_folder(out) as draft:
        writers[layout](exported, draft)
        del exported  # frees memory for the model that is loaded
        base_folder = (base or str(draft / layouts.BASE_FOLDER)) if layout == "peft" else None
        write_certificate(certificate, draft)
        rows = compare(expected, probe_written(draft, layout, base_folder, precision, device))
        if exceeds_tolerance(rows, precision):
            raise CheckpointError(
                f"{out}: the exported model gives other outputs than the original: {describe_rows(rows)}",
                "remove --base: this model is not that base with adapters"
                if layout == "peft" and base is not None
                else "report this with the model",
            )
    return [*merges, *rows]


def merge_exported(exported: ExportedModel, out: Path) -> tuple[ExportedModel, list[ParityRow], dict[str, ProbeResult]]:
    """Merge the model's adapters; return the merged model, the comparison of before and after, and the results after.

    Raises CheckpointError if the outputs change.
    """
    before = probe_ours(exported.assistant, probes())
    if "vision" in merge_parts(exported.model):
        state: dict[str, LazyTensor] = dict(exported.model.vision.towers[0].tower.state_dict())
        assert state.keys() <= exported.tower.keys()
        exported = replace(exported, tower={**exported.tower, **state}, tower_inside=True)
    after = probe_ours(exported.assistant, probes())
    rows = [replace(row, probe=f"merge: {row.probe}") for row in compare(before, after)]
    if exceeds_tolerance(rows, exported.model.head.dtype, merged=True):
        raise CheckpointError(
            f"{out}: the model's outputs change when its adapters are merged: {describe_rows(rows)}",
            "merge in fp32 (--device cpu), or export --layout peft, which keeps adapters",
        )
    return exported, rows, after


def refuse_unknown(layout: str) -> None:
    """Raise RecipeError for a layout that is not written."""
    if layout == GGUF:
        raise RecipeError("layout gguf has a separate call with other options", "call vistune.export_gguf")
    if layout not in QUANTISED_BY:
        raise RecipeError(f"--layout {layout!r} is not known", guess(layout, (*QUANTISED_BY, GGUF)))


def refuse_quantised(layout: str, bits: int) -> None:
    """Raise RecipeError with the tool that quantizes the layout: exports keep full precision."""
    refuse_unknown(layout)
    reason = QUANTISED_BY[layout].format(bits=bits)
    raise RecipeError(
        f"--quantize {bits}: --layout {layout} is written in full precision; {reason}", "export without --quantize"
    )


def round_weights(model: VisionLanguageModel, dtype: torch.dtype, *, tower: bool) -> None:
    """Round every weight to its value on disk, so that the comparison is exact.

    Without `tower`, the vision tower keeps its precision, as in a layout that stores the tower in a separate folder.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if tower or not name.startswith("vision."):
                parameter.copy_(parameter.to(dtype))


def exported_from(folder: Path, dtype: torch.dtype | None, device: str) -> ExportedModel:
    """Load a model folder of vistune or of another layout for an export, with its tower as stored.

    On a CPU the model computes in fp32, whatever is written: half precision is slow and imprecise there.
    """
    computes = torch.float32 if device == "cpu" else None
    if (folder / "parts.json").is_file():
        language, _ = checkpoint.backbone_of(folder, "language")
        dtype = dtype or stored_dtype(read_tensors(resolve(language), pickles=True))
        model, processor = checkpoint.load(folder, dtype=computes or dtype, device=device)
        if processor.spec.towers:
            raise RecipeError(f"{folder}: no layout of other tools has two towers", "train with one tower to export it")
        name, cut = checkpoint.backbone_of(folder, "vision")
        tower_folder, config, tower = read_tower(name)
        if cut:
            tower, config = with_full_depth(tower, config, processor.spec.feature_layer)
        origin = read_json(folder / "parts.json")["extra"].get("origin", {})
        reference = str(origin.get("tower") or name)
        return ExportedModel(
            model=model,
            processor=processor,
            tower=tower,
            tower_config=config,
            tower_name=reference if is_hub_name(reference) else named_by_kind(tower_folder.name),
            tower_inside=cut or bool(origin.get("tower_inside", False)),
            card=write_card(folder),
            dtype=dtype,
        )
    source: SourceModel = layouts.read_source(folder)
    dtype = dtype or stored_dtype(source.parts["language"])
    return ExportedModel(
        model=build_model(source, computes or dtype).to(device),
        processor=source_processor(source),
        tower=source.parts["vision"],
        tower_config=source.vision,
        tower_name=source.tower if source.tower and is_hub_name(source.tower) else named_by_kind("vision_tower"),
        tower_inside=source.tower_inside,
        card=write_card(folder),
        dtype=dtype,
    )


def named_by_kind(folder: str) -> str:
    """Return a name for the folder of a CLIP tower, the only kind in the original layout.

    SGLang and newer versions of the original code read the tower's kind from its name.
    """
    return folder if "clip" in folder else f"clip_{folder}"


@without_bars()
def probe_written(
    folder: Path, layout: str, base: str | None, dtype: torch.dtype, device: str
) -> dict[str, ProbeResult]:
    """Load a written folder, and run the probes on it.

    transformers and PEFT load their layouts. Our reader loads the original's, whose code needs old libraries. `base`:
    the folder or hub name on which a PEFT folder's adapters are put; None for the other layouts.
    """
    if layout == "llava-original":
        return probe_ours(Assistant(*layouts.load(folder, dtype=dtype, device=device)), probes())
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    whole = base or str(folder)
    model = AutoModelForImageTextToText.from_pretrained(whole, dtype=dtype)
    if base is not None:
        model = PeftModel.from_pretrained(model, str(folder))
    processor = AutoProcessor.from_pretrained(whole, backend="pil")
    model, image_id, conversations = model.eval().to(device), processor.image_token_id, probes()
    results = probe_transformers(model, processor, conversations, image_id)
    return {**results, BATCH: probe_batch(model, processor, list(conversations.values()), image_id)}
