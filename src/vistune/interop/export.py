"""From one layout to another, for `vistune import` and `export`: loaded again and compared before it counts.

MODEL folder -> Exported -> OUT, drafted -> loaded by its reader -> parity table -> OUT, committed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vistune.errors import CheckpointError, RecipeError
from vistune.files import committed_folder, read_json
from vistune.generation import Assistant
from vistune.interop import layouts
from vistune.interop.build import SourceModel, build_model, source_processor
from vistune.interop.card import write_card
from vistune.interop.folders import is_hub_name, read_tower, resolve
from vistune.interop.parity import ProbeResult, ParityRow, probe_ours, probe_transformers, compare, describe_rows, exceeds_tolerance, probes
from vistune.interop.tensors import read_tensors
from vistune.interop.towers import with_full_depth, write_tower
from vistune.interop.writers import ExportedModel, write_hf, write_original, write_peft
from vistune.model import VisionLanguageModel, merge_adapters
from vistune.registry import guess
from vistune.runs import checkpoint

Conversations = dict[str, list[dict[str, Any]]]
Writer = Callable[[ExportedModel, Path], None]
Loader = Callable[[Path, torch.dtype, Conversations], dict[str, ProbeResult]]

QUANTISED_BY = {  # the layouts, and why none is written in 4 or 8 bits: who makes that form of each, while loading it
    "llava-hf": "transformers quantises it as it loads, by "
    "quantization_config=BitsAndBytesConfig(load_in_{bits}bit=True), and so does vLLM, by --quantization bitsandbytes",
    "llava-original": "the original LLaVA reads full precision and quantises it as it loads: --load-{bits}bit",
    "peft": "adapters are never quantised; load the base under them in {bits} bits",
}


def import_model(
    folder: Path, out: Path, *, base: str | None = None, template: str | None = None, vision: str | None = None
) -> dict[str, Any]:
    """A folder of another layout as a model folder of ours, every part inside. Returns what was found."""
    source = layouts.read_source(folder, base=base, template=template, vision=vision)
    processor = source_processor(source)
    model = build_model(source, stored_dtype(source.parts["language"]))
    origin = {"layout": source.layout, "folder": folder.name, "base": base, "tower": source.tower,
              "tower_inside": source.tower_inside}  # fmt: skip
    tower = partial(write_tower, source.parts["vision"], source.vision, source.spec)
    checkpoint.save_imported(out, model, processor, write_tower=tower, origin=origin)
    return {
        "layout": source.layout,
        "out": str(out),
        "spec": asdict(source.spec),
        "adapter": model.adapted,
        "projector": None if source.tuned is None else str(source.tuned),
        "remarks": list(source.remarks),
    }


def stored_dtype(tensors: Mapping[str, Any]) -> torch.dtype:
    """The precision that most of a part's weights lie in: its embedding's."""
    first = next(tensors[name] for name in ("model.embed_tokens.weight", *tensors) if name in tensors)
    return torch.empty(0, dtype=first[:0].dtype).dtype


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
    """Write `folder` (ours or any supported layout) as `layout`, load the result, compare, and return the parity table.

    If adapters are merged, rows of "merge" come first: the model before merging compared with the model after. `dtype`:
    None = the dtype of the stored language model. `device`: for running both models.
    Raises CheckpointError, and leaves no OUT, if the merged model or the written folder gives other outputs.
    """
    refuse_unknown(layout)
    if out.exists():
        raise RecipeError(f"{out}: is there already", "give another folder")
    made = exported_from(folder, dtype, device)
    conversations = probes()
    wanted = probe_ours(Assistant(made.model, made.processor), conversations)
    merges: list[ParityRow] = []
    if made.model.adapted and layout != "peft":
        if not merge:
            raise RecipeError(
                f"{folder}: its adapters are not merged, and --layout {layout} has no place for them",
                "add --merge, or export --layout peft",
            )
        before = {f"merge: {probe}": answer for probe, answer in wanted.items()}
        made.model.language = merge_adapters(made.model.language)
        wanted = probe_ours(Assistant(made.model, made.processor), conversations)
        merges = compare(before, {f"merge: {probe}": answer for probe, answer in wanted.items()})
        if exceeds_tolerance(merges, made.model.head.dtype, merged=True):
            raise CheckpointError(
                f"{out}: the model's outputs change when its adapters are merged: {describe_rows(merges)}",
                "merge in fp32 (--device cpu), or export --layout peft, which keeps them apart",
            )
    precision = made.model.head.dtype
    if precision != made.dtype:
        round_weights(made.model, made.dtype, tower=layout != "llava-original" or made.tower_inside)
        wanted = probe_ours(Assistant(made.model, made.processor), conversations)
        made.model.to(made.dtype)  # as it is written, so that no second model in another precision is made for that
    ways: Mapping[str, tuple[Writer, Loader]] = {
        "llava-hf": (write_hf, partial(from_transformers, device=device)),
        "llava-original": (write_original, partial(from_original, device=device)),
        "peft": (partial(write_peft, base=base), partial(from_peft, base=base, device=device)),
    }
    write, read = ways[layout]
    with committed_folder(out) as draft:
        write(made, draft)
        del made
        rows = compare(wanted, read(draft, precision, conversations))
        if exceeds_tolerance(rows, precision):
            own_base = layout == "peft" and base is not None
            raise CheckpointError(
                f"{out}: the exported model gives other outputs than the original: {describe_rows(rows)}",
                "leave --base out: this model is not that one with adapters"
                if own_base
                else "report this with the model",
            )
    return [*merges, *rows]


def refuse_unknown(layout: str) -> None:
    if layout not in QUANTISED_BY:
        raise RecipeError(f"--layout {layout!r} is not known", guess(layout, QUANTISED_BY))


def refuse_quantised(layout: str, bits: int) -> None:
    """Raise RecipeError: what was quantised is not written, since nothing could make it exact again."""
    refuse_unknown(layout)
    reason = QUANTISED_BY[layout].format(bits=bits)
    raise RecipeError(
        f"--quantize {bits}: --layout {layout} is written in full precision; {reason}", "export without --quantize"
    )


def round_weights(model: VisionLanguageModel, dtype: torch.dtype, *, tower: bool) -> None:
    """Give every weight the value it will have on disk: what is compared is then the same to the last digit.

    Without `tower` the vision tower keeps its own precision, as one in a folder of its own does.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if tower or not name.startswith("vision."):
                parameter.copy_(parameter.to(dtype))


def exported_from(folder: Path, dtype: torch.dtype | None, device: str) -> ExportedModel:
    """A model folder of ours, or of a layout that is read, with its tower as it lies on disk.

    On a CPU it computes in fp32, whatever is written: half precision is slow there, and compares loosely.
    """
    computes = torch.float32 if device == "cpu" else None
    if (folder / "parts.json").is_file():
        language, _ = checkpoint.backbone_of(folder, "language")
        dtype = dtype or stored_dtype(read_tensors(resolve(language), pickles=True))
        model, processor = checkpoint.load(folder, dtype=computes or dtype, device=device)
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
            tower_name=reference if is_hub_name(reference) else tower_folder.name,
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
        tower_name=source.tower if source.tower and is_hub_name(source.tower) else "vision_tower",
        tower_inside=source.tower_inside,
        card=write_card(folder),
        dtype=dtype,
    )


def from_transformers(
    folder: Path, dtype: torch.dtype, conversations: Conversations, *, device: str
) -> dict[str, ProbeResult]:
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(str(folder), dtype=dtype)
    return with_processor(model.eval().to(device), folder, conversations)


def with_processor(model: Any, folder: Path, conversations: Conversations) -> dict[str, ProbeResult]:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(str(folder), backend="pil")
    return probe_transformers(model, processor, conversations, processor.image_token_id)


def from_original(folder: Path, dtype: torch.dtype, conversations: Conversations, *, device: str) -> dict[str, ProbeResult]:
    """By our own reader: the original's code needs libraries of its time."""
    return probe_ours(Assistant(*layouts.load(folder, dtype=dtype, device=device)), conversations)


def from_peft(
    folder: Path, dtype: torch.dtype, conversations: Conversations, *, base: str | None, device: str
) -> dict[str, ProbeResult]:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    home = base or str(folder / "base")
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(home, dtype=dtype), str(folder))
    return with_processor(model.eval().to(device), Path(home), conversations)
