"""Read the samples that a run did not train on, as its recipe splits the data.

run folder: recipe.yaml + run.json -> the same split as in training -> (source, Sample)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vistune.errors import DataError
from vistune.files import read_json
from vistune.records import UnreadField
from vistune.types import Sample


class HeldOutSamples:
    """The held-out samples of a run: those of `validation`, else the images that the blind check holds out.

    Raises:
        DataError: A data file is missing, or changed after the run; then the split may be another one.
        RecipeError: The run trained on all samples.
    """

    def __init__(self, run: Path) -> None:
        from vistune.data.stages import held_out_selections
        from vistune.interop.load import inspect_parent, recipe_processor
        from vistune.progress import no_progress
        from vistune.recipe import load_recipe

        recipe = load_recipe(str(run / "recipe.yaml"))
        parent = None if recipe.origin is None else inspect_parent(recipe.origin, run)
        self.selections = held_out_selections(recipe, recipe_processor(recipe, parent), no_progress)
        trained_on = read_json(run / "run.json").get("data", {})
        for selection in self.selections:
            file = selection.index
            recorded = trained_on.get(str(file.path.absolute()))
            if recorded is not None and recorded != file.digest:
                raise DataError(
                    f"{file.path}: changed after {run} was trained, so the held-out records may be others",
                    "restore the file, or name a file of held-out samples with --data FILE",
                )

    @property
    def unread_fields(self) -> list[UnreadField]:
        return [field for selection in self.selections for field in selection.index.unread_fields]

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """Yield (source, sample) in the order of the recipe's files; a source is named as briefly as possible."""
        paths = [selection.index.path for selection in self.selections]
        for selection in self.selections:
            path = selection.index.path
            source = path.name if sum(other.name == path.name for other in set(paths)) == 1 else str(path)
            for record in selection.records.tolist():
                yield source, selection.index.sample(record)


def is_run(path: Path) -> bool:
    """Return whether a folder is a run, with its recipe."""
    return (path / "run.json").is_file() and (path / "recipe.yaml").is_file()
