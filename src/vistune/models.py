"""A model by its folder: found, loaded, brought in from other layouts, written as others read it.

MODEL (run folder, checkpoint, other layout) -> Assistant · other layout -> import_model -> ours -> export -> another
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistune.errors import CheckpointError, RecipeError
from vistune.registry import lookup

if TYPE_CHECKING:
    import torch

    from vistune.generation import Assistant
    from vistune.recipe import Model, Origin
    from vistune.training import Base
    from vistune.types import Spec


def find_model(path: Path) -> Path:
    """A model folder itself, or a run's: its last finished stage's best by validation loss, where none was measured its
    end; where no stage is finished, the newest checkpoint.
    """
    if (path / "parts.json").is_file():
        return path
    from vistune.checkpoint import read_parts
    from vistune.training.folder import best_of, checkpoints_of

    saved = checkpoints_of(path)
    if not saved:
        raise CheckpointError(f"{path}: neither a model folder nor a run with checkpoints", "check the path")
    extras = {folder: read_parts(folder)["extra"] for folder in saved}
    finished = [folder for folder, extra in extras.items() if extra.get("finished")]
    if not finished:
        return saved[-1]
    return best_of(extras, extras[finished[-1]]["stage"]) or finished[-1]


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
    template: str | None = None,
) -> Assistant:
    """A run folder, a model folder, or a folder of a layout that `import` reads, as something to talk to.

    `device` auto: a GPU where there is one · `dtype` auto: bf16 on a GPU, fp32 on a CPU · `quantize`: the language
    model's weights in 4 or 8 bits; tower, projector and head stay as they are.
    """
    from vistune import checkpoint
    from vistune.generation import Assistant

    device = chosen_device(device)
    precision = chosen_dtype(dtype, device)
    path = Path(model)
    if is_ours(path):
        made = checkpoint.load(find_model(path), device=device, dtype=precision, quantize=quantize)
        return Assistant(*made)
    from vistune.interop import layouts

    return Assistant(*layouts.load(path, device=device, dtype=precision, quantize=quantize, template=template))


def chosen_device(name: str) -> str:
    """The device that --device means. Raises RecipeError where it is not there."""
    import torch

    kind, _, number = name.partition(":")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not (kind == "cuda" and (number.isdigit() or name == "cuda")):
        raise RecipeError(f"--device {name!r} is not known", "choose of auto, cpu, cuda, or a GPU such as cuda:1")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise RecipeError(f"--device {name}: torch {torch.__version__} sees no such GPU", "use --device auto")
    return name


def chosen_dtype(name: str, device: str) -> torch.dtype:
    """The precision that --dtype means on a device."""
    import torch

    return named_dtype(name) or (torch.float32 if device == "cpu" else torch.bfloat16)


def named_dtype(name: str) -> torch.dtype | None:
    """The precision that --dtype names; None for auto."""
    import torch

    names = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return lookup(name, names, "--dtype")


def is_ours(path: Path) -> bool:
    """Whether a folder is a run or a model folder of ours; others are read by what is in them."""
    return any((path / name).exists() for name in ("parts.json", "run.json", "checkpoints")) or not path.is_dir()


def import_model(
    source: Path, out: Path, *, base: str | None = None, template: str | None = None, vision: str | None = None
) -> dict[str, Any]:
    """A model of another layout as a model folder of ours."""
    from vistune.interop import export as conversion

    refuse_written(out, "parts.json")
    return conversion.import_model(source, out, base=base, template=template, vision=vision)


def export(
    model: Path,
    out: Path,
    *,
    layout: str,
    merge: bool = False,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
) -> list[dict[str, Any]]:
    """A model as other tools load it, compared with itself after loading; the parity table.

    See `docs/how-to/export-a-model.md`.

    `dtype` auto: as the language model is stored. `quantize` is refused with what to do instead: no layout holds it.
    """
    from vistune.interop import export as conversion

    precision = named_dtype(dtype)
    if quantize is not None:
        conversion.refuse_quantised(layout, quantize)
    folder = find_model(model) if is_ours(model) else model
    rows = conversion.export_model(
        folder, out, layout=layout, merge=merge, base=base, dtype=precision, device=chosen_device(device)
    )
    return [asdict(row) for row in rows]


def base_of(origin: Origin, out: Path) -> Base:
    """The model that a recipe goes on from. One of another layout is brought into OUT/from when training begins.

    Reads configs and tokenizer only. Of a run it is the checkpoint that stands there now, whatever the run does later.
    Raises CheckpointError or RecipeError where the folder is no model.
    """
    base = _as_it_lies(origin, out)
    if origin.image_mode is None:
        return base
    processor = base.processor.with_image_mode(origin.image_mode)
    return replace(base, processor=processor, model=base.model.model_copy(update={"image_mode": origin.image_mode}))


def _as_it_lies(origin: Origin, out: Path) -> Base:
    from vistune import checkpoint
    from vistune.processor import Processor
    from vistune.recipe import Origin
    from vistune.training.origin import Base

    outside = {"base": origin.base, "vision": origin.vision, "template": origin.template}
    if origin.model.exists() and is_ours(origin.model):
        if any(outside.values()):
            raise RecipeError(f"from: {origin.model} is whole", "remove base, vision and template")
        folder = find_model(origin.model)
        processor = Processor.load(folder / "tokenizer")
        vision, cut = checkpoint.backbone_of(folder, "vision")
        language, _ = checkpoint.backbone_of(folder, "language")
        return Base(
            origin=Origin(model=folder, image_mode=origin.image_mode),
            told=told_of(folder),
            processor=processor,
            model=model_of(processor.spec, vision, language),
            cut=cut,
            adapted=bool(checkpoint.read_parts(folder)["adapter"]),
            open=lambda: folder,
            empty=lambda: checkpoint.load_empty(folder),
        )
    import torch

    from vistune.interop import layouts
    from vistune.interop.build import build_model, processor_of

    source = layouts.read_source(origin.model, **outside)
    folder = out / "from"

    def bring_in() -> Path:
        from vistune.interop import export

        export.import_model(origin.model, folder, **outside)  # anew: what lies there may be of another `from`
        return folder

    return Base(
        origin=origin,
        told=told_of(source.folder),  # of a hub name, the snapshot that was fetched
        processor=processor_of(source),
        model=model_of(source.spec, str(folder / "vision"), str(folder / "language")),
        cut=False,
        adapted=source.adapt is not None,
        open=bring_in,
        empty=lambda: build_model(source, torch.float32, meta=True),
        configs=(source.vision, source.language),
    )


def told_of(folder: Path) -> dict[str, Any]:
    """A model folder, and a hash of its manifest or config: whether it is still the one that was there."""
    from vistune.files import sha256_of

    known = next((folder / name for name in ("manifest.json", "config.json") if (folder / name).is_file()), None)
    return {"model": str(folder.absolute()), "sha256": None if known is None else sha256_of(known)}


def model_of(spec: Spec, vision: str, language: str) -> Model:
    """A recipe's model section for what a spec says of backbones that lie there."""
    from vistune.recipe import Model

    keys = ("projector", "feature_layer", "feature_tokens", "space", "image_mode", "template", "tokenization")
    return Model(
        vision=vision,
        language=language,
        canvases=spec.canvases or None,
        **{key: getattr(spec, key) for key in keys},
    )


def refuse_written(out: Path, name: str) -> None:
    """Raise RecipeError where `out` is a file or holds what an earlier call wrote: nothing is overwritten silently."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: is a file, a folder is wanted", "give another folder")
    if (out / name).exists():
        raise RecipeError(f"{out}: holds {name} already", "give another folder, or remove this one")
