"""Use models: load, convert, export, draw, report, trace, chat and serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from vistune.api.arguments import PathLike, RecipeLike, as_path, as_recipe
from vistune.api.training import parent_of
from vistune.errors import DataError, RecipeError
from vistune.files import refuse_overwrite
from vistune.notebook import notebook_progress
from vistune.progress import Progress, ignore_message

if TYPE_CHECKING:
    from vistune.generation import Assistant
    from vistune.interop.export import ImportResult
    from vistune.interop.gguf import GgufExport
    from vistune.interop.parity import ParityRow
    from vistune.runs.provenance import Provenance
    from vistune.serving.api import Settings


class LoadOptions(TypedDict, total=False):
    """How a model is loaded; `quantize` is 4 or 8 bits."""

    device: str
    dtype: str
    quantize: int | None


def load(
    model: PathLike,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
    template: str | None = None,
) -> Assistant:
    """Load a run folder, a model folder, or a folder of a layout that `import` reads. Nothing is printed.

    Args:
        model: The folder. For a run, the best checkpoint of its last finished stage is loaded, else its newest.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or one GPU such as `cuda:1`.
        dtype: `auto` (bf16 on a GPU, fp32 on a CPU), `fp32`, `bf16` or `fp16`.
        quantize: Load the language model's weights in 4 or 8 bits; tower, projector and head keep their precision.
        template: Chat template of a folder of another layout that does not name its own.
    """
    from vistune.interop.load import load

    return load(Path(model), device=device, dtype=dtype, quantize=quantize, template=template)


def import_model(
    source: PathLike, out: PathLike, *, base: str | None = None, template: str | None = None, vision: str | None = None
) -> ImportResult:
    """Convert a model of another layout into a vistune model folder."""
    from vistune.interop.export import import_model

    refuse_overwrite(Path(out), "parts.json")
    return import_model(Path(source), Path(out), base=base, template=template, vision=vision)


def export(
    model: PathLike,
    out: PathLike,
    *,
    layout: str,
    merge: bool = False,
    base: str | None = None,
    **options: Unpack[LoadOptions],
) -> list[ParityRow]:
    """Write a model in a layout of other tools, load the result, and compare both; return the parity table.

    Args:
        options: `dtype` is by default the precision in which the language model is stored. `quantize` raises an error
            that says what to do instead, because no layout stores 4 or 8 bits.
    """
    from vistune.interop.export import export_model, refuse_quantised
    from vistune.model.precision import named_dtype, resolve_device
    from vistune.runs.folder import find_model, is_vistune_folder

    dtype = named_dtype(options.get("dtype", "auto"))
    if (bits := options.get("quantize")) is not None:
        refuse_quantised(layout, bits)
    folder = Path(model)
    folder = find_model(folder) if is_vistune_folder(folder) else folder
    device = resolve_device(options.get("device", "auto"))
    return export_model(folder, Path(out), layout=layout, merge=merge, base=base, dtype=dtype, device=device)


class GgufOptions(TypedDict, total=False):
    """Options of `export_gguf`.

    Attributes:
        kind: Type of the weights: `f16` (default), `f32`, `bf16`, `q8_0`, or a smaller type that llama.cpp's
            `llama-quantize` writes, such as `q4_k_m`.
        merge: Merge adapters, which GGUF does not store.
        class_position: Where the build of llama.cpp puts a tower's class token: `last` (default; builds with issue
            25814) or `first`.
        device: Where the model is loaded: `auto` (default), `cpu` or `cuda`.
    """

    kind: str
    merge: bool
    class_position: str
    device: str


def export_gguf(model: PathLike, out: PathLike, **options: Unpack[GgufOptions]) -> GgufExport:
    """Write a model as two GGUF files for llama.cpp and Ollama, with a Modelfile and a README.

    Returns the files, and the known differences between llama.cpp and the model.
    """
    from vistune.interop.gguf import export_gguf as write_gguf
    from vistune.model.precision import resolve_device
    from vistune.runs.folder import find_model, is_vistune_folder

    folder = Path(model)
    folder = find_model(folder) if is_vistune_folder(folder) else folder
    return write_gguf(
        folder,
        Path(out),
        kind=options.get("kind", "f16"),
        merge=options.get("merge", False),
        class_position=options.get("class_position", "last"),
        device=resolve_device(options.get("device", "auto")),
    )


def draw(recipe: RecipeLike, out: PathLike, *, language: str = "en") -> list[Path]:
    """Draw the model and the stages of a recipe into the folder `out`, with labels in `language` (en or ko)."""
    from vistune.report.gather import draw

    recipe = as_recipe(recipe)
    return draw(recipe, parent_of(recipe), Path(out), language=language)


def write_report(
    path: PathLike,
    *others: PathLike,
    out: PathLike | None = None,
    images: PathLike | None = None,
    against: Sequence[PathLike] = (),
    language: str = "en",
    progress: Progress = notebook_progress,
) -> Path:
    """Write the page of a run folder, of several runs, of a comparison, or of a data set; return its path.

    Args:
        others: Further runs to compare with the first.
        images: The image folder of a data file.
        against: Evaluation sets whose images are looked for in the data.
    """
    from vistune.report import gather

    if not others:
        sets = [Path(one) for one in against]
        target, folder = as_path(out), as_path(images)
        return gather.write_report(Path(path), target, folder, sets, language=language, progress=progress)
    if images or against:
        raise RecipeError("--images and --against need data, not several runs", "remove these options")
    from vistune.evaluation import compare_stored, labels_of

    runs = [Path(path), *map(Path, others)]
    for run in runs:
        if not (run / "run.json").is_file():
            raise DataError(
                f"{run}: not a run folder; several folders can only be compared if all are runs",
                "name only run folders",
            )
    folders = dict(zip(labels_of(runs), runs, strict=True))
    comparison = compare_stored({label: run / "evals" for label, run in folders.items()}).to_dict()
    return gather.report_runs(folders, comparison, out=as_path(out), language=language)


def why(model: PathLike) -> list[Provenance]:
    """Return the provenance of a model and then of each of its parents: recipe, data, teacher and versions."""
    from vistune.runs.provenance import why

    return why(Path(model))


def chat(
    model: PathLike,
    *,
    images: Sequence[PathLike] = (),
    language: str = "en",
    **options: Unpack[LoadOptions],
) -> None:
    """Chat with a model in the terminal."""
    from vistune.serving.chat import chat, describe_image

    paths = [Path(image) for image in images]
    for path in paths:
        describe_image(path)  # refuse a file that is not an image before the weights are loaded
    chat(load(model, **options), images=paths, language=language)


def serve(
    model: PathLike,
    settings: Settings,
    *,
    announce: Callable[[str], None] = ignore_message,
    **options: Unpack[LoadOptions],
) -> None:
    """Serve a model over an OpenAI-compatible HTTP API until the process is asked to stop.

    Args:
        announce: Called with the URL of the server when it listens.

    Raises:
        RecipeError: The address needs API keys, the port is in use, or a package is missing.
    """
    try:
        from vistune.serving.api.server import check, serve, use_one_arena
    except ImportError as error:
        raise RecipeError(f"vistune serve needs {error.name}", "pip install 'vistune[serve]'") from None
    check(settings)  # before the weights are loaded
    use_one_arena()
    serve(load(model, **options), settings, announce=announce)
