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

from vistune import checkpoint
from vistune.errors import CheckpointError, RecipeError
from vistune.files import committed_folder, read_json
from vistune.generation import Assistant
from vistune.interop import layouts
from vistune.interop.build import Source, build_model
from vistune.interop.card import write_card
from vistune.interop.folders import read_tower
from vistune.interop.parity import Answer, Row, ask_ours, ask_transformers, compare, is_off, probes
from vistune.interop.writers import Exported, write_hf, write_original, write_peft, write_tower
from vistune.model import merge_adapters
from vistune.processor import Processor

Conversations = dict[str, list[dict[str, Any]]]
Writer = Callable[[Exported, Path], None]
Loader = Callable[[Path, torch.dtype, Conversations], dict[str, Answer]]

LAYOUTS = ("llava-hf", "llava-original", "peft")


def import_model(
    folder: Path, out: Path, *, base: str | None = None, template: str | None = None, vision: str | None = None
) -> dict[str, Any]:
    """A folder of another layout as a model folder of ours, every part inside. Returns what was found."""
    source = layouts.read_source(folder, base=base, template=template, vision=vision)
    model = build_model(source, stored_dtype(source.parts["language"]))
    processor = Processor(source.tokenizer, source.spec)
    origin = {"layout": source.layout, "folder": folder.name, "base": base, "tower": source.tower,
              "tower_inside": source.tower_inside}  # fmt: skip
    tower = partial(write_tower, source.parts["vision"], source.vision, source.spec)
    checkpoint.save_imported(out, model, processor, write_tower=tower, origin=origin)
    return {"layout": source.layout, "out": str(out), "spec": asdict(source.spec), "adapter": model.adapted}


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
) -> list[Row]:
    """Write `folder` (ours or any layout that is read) as `layout`, load that, and compare; the parity table.

    Raises CheckpointError, and leaves no OUT, where the written folder does not answer as the model does.
    """
    if layout not in LAYOUTS:
        raise RecipeError(f"--layout {layout!r} is not known", f"choose of {', '.join(LAYOUTS)}")
    if out.exists():
        raise RecipeError(f"{out}: is there already", "give another folder")
    made = exported_from(folder, dtype)
    if made.model.adapted and layout != "peft":
        if not merge:
            raise RecipeError(
                f"{folder}: its adapters are not merged, and --layout {layout} has no place for them",
                "add --merge, or export --layout peft",
            )
        made.model.language = merge_adapters(made.model.language)
    precision = next(made.model.projector.parameters(), torch.zeros(0)).dtype
    conversations = probes()
    wanted = ask_ours(Assistant(made.model, made.processor), conversations)
    ways: Mapping[str, tuple[Writer, Loader]] = {
        "llava-hf": (write_hf, from_transformers),
        "llava-original": (write_original, from_original),
        "peft": (partial(write_peft, base=base), partial(from_peft, base=base)),
    }
    write, read = ways[layout]
    with committed_folder(out) as draft:
        write(made, draft)
        del made
        rows = compare(wanted, read(draft, precision, conversations))
        if is_off(rows, precision):
            listed = "; ".join(
                f"{row.probe}: ids {'equal' if row.same_ids else 'differ'}, logits {row.largest_difference:.2g} apart, "
                f"greedy tokens {'equal' if row.same_tokens else 'differ'}"
                for row in rows
            )
            raise CheckpointError(f"{out}: what was written answers otherwise: {listed}", "report this with the model")
    return rows


def exported_from(folder: Path, dtype: torch.dtype | None) -> Exported:
    """A model folder of ours, or of a layout that is read, with its tower as it lies on disk."""
    if (folder / "parts.json").is_file():
        model, processor = checkpoint.load(folder, dtype=dtype or torch.float32)
        name, cut = checkpoint.tower_of(folder)
        tower_folder, config, tower = read_tower(name)
        origin = read_json(folder / "parts.json")["extra"].get("origin", {})
        reference = str(origin.get("tower") or name)
        return Exported(
            model=model,
            processor=processor,
            tower=tower,
            tower_config=config,
            cut=cut,
            tower_name=reference if is_hub_name(reference) else tower_folder.name,
            tower_inside=bool(origin.get("tower_inside", False)),
            card=write_card(folder),
        )
    source: Source = layouts.read_source(folder)
    return Exported(
        model=build_model(source, dtype or stored_dtype(source.parts["language"])),
        processor=Processor(source.tokenizer, source.spec),
        tower=source.parts["vision"],
        tower_config=source.vision,
        cut=False,
        tower_name=source.tower if source.tower and is_hub_name(source.tower) else "vision_tower",
        tower_inside=source.tower_inside,
        card=write_card(folder),
    )


def is_hub_name(name: str) -> bool:
    """OWNER/NAME that is no folder here."""
    return name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).is_dir()


def from_transformers(folder: Path, dtype: torch.dtype, conversations: Conversations) -> dict[str, Answer]:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(str(folder), dtype=dtype).eval()
    return with_processor(model, folder, conversations)


def with_processor(model: Any, folder: Path, conversations: Conversations) -> dict[str, Answer]:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(str(folder), backend="pil")
    return ask_transformers(model, processor, conversations, processor.image_token_id)


def from_original(folder: Path, dtype: torch.dtype, conversations: Conversations) -> dict[str, Answer]:
    """By our own reader: the original's code needs libraries of its time."""
    return ask_ours(Assistant(*layouts.load(folder, dtype=dtype)), conversations)


def from_peft(folder: Path, dtype: torch.dtype, conversations: Conversations, *, base: str | None) -> dict[str, Answer]:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    home = base or str(folder / "base")
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(home, dtype=dtype), str(folder))
    return with_processor(model.eval(), Path(home), conversations)
