"""Write a model for llama.cpp and Ollama: language model, mmproj (tower and projector), Modelfile, README.

Each `Difference` names something that llama.cpp computes in another way, and the stage in which it appears: tokenizer,
resize, tower and so on.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistune.errors import CheckpointError, DiskError, RecipeError
from vistune.files import committed_folder, write_atomic
from vistune.interop.certificate import ExportForm, KnownDifference, certify, write_certificate
from vistune.interop.export import exported_from, merge_exported
from vistune.interop.gguf_file import TYPES, GgufContents, names, require_library, write_file
from vistune.interop.gguf_language import language_metadata, language_tensors, refuse_language
from vistune.interop.gguf_parts import gguf_parts
from vistune.interop.gguf_readme import modelfile, readme
from vistune.interop.gguf_tower import CLASS_POSITIONS, Difference, refuse_tower, tower_contents, tower_differences
from vistune.interop.gguf_vocabulary import vocabulary_metadata
from vistune.interop.parity import ParityRow, ProbeResult
from vistune.interop.writers import ExportedModel
from vistune.model.language import unwrap
from vistune.registry import guess

QUANTISER = "llama-quantize"
# Types that llama.cpp's own program writes from an f16 file.
SMALLER = ("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_k_s", "q4_k_m", "q5_0", "q5_k_s", "q5_k_m", "q6_k")


@dataclass(frozen=True, slots=True)
class GgufExport:
    """The files that were written.

    Attributes:
        language: File with the language model, tokenizer and chat template.
        projector: File with vision tower and projector.
        kind: Type of the language model's weights.
        differences: The known differences between llama.cpp and this model.
        merged: Comparison of the model before and after its adapters were merged.
    """

    language: Path
    projector: Path
    kind: str
    differences: tuple[Difference, ...]
    merged: tuple[ParityRow, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `vistune export --json` prints it."""
        return {
            "language": str(self.language),
            "projector": str(self.projector),
            "type": self.kind,
            "differences": [asdict(difference) for difference in self.differences],
            "merged": [row.to_dict() for row in self.merged],
        }


def export_gguf(
    folder: Path,
    out: Path,
    *,
    kind: str = "f16",
    merge: bool = False,
    class_position: str = "last",
    device: str = "cpu",
) -> GgufExport:
    """Write a model as two GGUF files with a Modelfile and a README.

    Args:
        folder: A model folder of vistune or of any layout that `import` reads.
        kind: A key of `TYPES`, or one of `SMALLER`, for which llama.cpp's own quantizer is called.
        merge: Merge adapters, which GGUF does not store.
        class_position: Where llama.cpp puts the class token of the tower, one of `CLASS_POSITIONS`.

    Raises:
        CheckpointError: If merging changes the outputs, or the quantizer fails; OUT is not written.
        RecipeError: If llama.cpp cannot compute the model, or OUT exists.
        DiskError: If the disk is full; OUT is not written.
    """
    require_library()
    quantiser = _quantiser(kind)
    if class_position not in CLASS_POSITIONS:
        raise RecipeError(f"--class-position {class_position!r} is not known", guess(class_position, CLASS_POSITIONS))
    if out.exists():
        raise RecipeError(f"{out}: already exists", "give another folder")
    exported = exported_from(folder, None, device)
    refuse_tower(exported)
    family = refuse_language(exported.model)
    rows: list[ParityRow] = []
    results: Mapping[str, ProbeResult] = {}
    if exported.model.adapted:
        if not merge:
            raise RecipeError(f"{folder}: has adapters, which --layout gguf cannot store", "add --merge")
        exported, rows, results = merge_exported(exported, out)
    title = exported_title(folder)
    vocabulary, tokenizer_differences = vocabulary_metadata(
        exported.processor, unwrap(exported.model.language).config.vocab_size
    )
    metadata = {names()["general"]["name"]: title, **language_metadata(exported.model, family), **vocabulary}
    language = GgufContents(family.architecture, metadata, language_tensors(exported.model, family))
    written = kind if quantiser is None else "f16"
    result = GgufExport(
        language=out / f"{title}-{kind}.gguf",
        projector=out / f"mmproj-{title}-{written}.gguf",
        kind=kind,
        differences=(*tokenizer_differences, *tower_differences(exported, class_position)),
        merged=tuple(rows),
    )
    projector = tower_contents(exported, title, class_position)
    try:
        with committed_folder(out) as draft:
            write_file(projector, draft / result.projector.name, written)
            write_file(language, draft / result.language.name, written)
            if quantiser is not None:
                quantise(quantiser, draft / result.language.name, kind)
            _write_texts(exported, result, draft)
            known = tuple(KnownDifference(entry.stage, entry.what) for entry in result.differences)
            form = ExportForm("gguf", kind, known, gguf_parts(draft))
            write_certificate(certify(exported.assistant, results, form), draft)
    except DiskError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiskError(f"{out}: cannot be written: {reason}", "free disk space, then export again") from error
    return result


def _write_texts(exported: ExportedModel, result: GgufExport, folder: Path) -> None:
    files = (result.language.name, result.projector.name)
    write_atomic(folder / "Modelfile", modelfile(exported.processor, *files))
    text = readme(exported.processor, *files, result.differences)
    write_atomic(folder / "README.md", f"{exported.card}\n{text}")


def exported_title(folder: Path) -> str:
    """Return the model's name in file names: the run's, or the folder's."""
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    return run.resolve().name


def _quantiser(kind: str) -> str | None:
    """Return the path of llama.cpp's quantizer if the type needs it. Raises RecipeError if it is missing."""
    if kind in TYPES:
        return None
    if kind not in SMALLER:
        raise RecipeError(f"--type {kind!r} is not known", guess(kind, (*TYPES, *SMALLER)))
    path = shutil.which(QUANTISER)
    if path is None:
        raise RecipeError(
            f"--type {kind} needs {QUANTISER} of llama.cpp, which is not on PATH",
            f"install llama.cpp, or choose --type {', '.join(TYPES)}",
        )
    return path


def quantise(program: str, path: Path, kind: str) -> None:
    """Replace an f16 file by its quantized form. Raises CheckpointError with the program's last line if it fails."""
    whole = path.with_suffix(".f16")
    path.rename(whole)
    done = subprocess.run(  # noqa: S603 - the program that the user has installed, with paths from here
        [program, str(whole), str(path), kind.upper()], capture_output=True, text=True, check=False
    )
    if done.returncode or not path.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise CheckpointError(f"{QUANTISER} failed: {lines[-1]}", "choose another --type")
    whole.unlink()
