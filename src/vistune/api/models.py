"""Use models: load, draw, report, trace, chat and serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from vistune.api.arguments import PathLike, RecipeLike, as_path, as_recipe
from vistune.api.training import parent_of
from vistune.errors import DataError, RecipeError
from vistune.notebook import notebook_progress
from vistune.progress import Progress, ignore_message

if TYPE_CHECKING:
    from vistune.generation import Assistant
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
    from vistune.serving.api.run_samples import samples_of_run

    check(settings)  # before the weights are loaded
    if settings.samples is None:
        settings = replace(settings, samples=samples_of_run(Path(model)))
    use_one_arena()
    serve(load(model, **options), settings, announce=announce)
