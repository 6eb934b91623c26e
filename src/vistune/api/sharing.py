"""Share models with other tools: import, export, verify and push."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from vistune.api.arguments import PathLike, refuse_unknown
from vistune.api.models import LoadOptions
from vistune.files import refuse_overwrite

if TYPE_CHECKING:
    from vistune.interop.export import ImportResult
    from vistune.interop.gguf import GgufExport
    from vistune.interop.parity import ParityRow
    from vistune.interop.push import PushResult
    from vistune.interop.verify import VerifyResult


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

    refuse_unknown("export", options, LoadOptions)
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

    refuse_unknown("export_gguf", options, GgufOptions)
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


def verify(model: PathLike, program: str | None = None, *, device: str = "auto") -> VerifyResult:
    """Run the certificate of an export in a program, and compare every stage; see `vistune.interop.verify`.

    Args:
        program: `transformers`, `llama.cpp` or the URL of an OpenAI-compatible server; by default vistune's own engine.
    """
    from vistune.interop.verify import verify

    return verify(Path(model), program, device=device)


class PushSettings(TypedDict, total=False):
    """Options of `push`.

    Attributes:
        layout: Layout in which a run or a model folder of vistune is exported: `llava-hf` (default) or
            `llava-original`.
        merge: Merge adapters into the weights.
        license_name: The licence's name on the hub, such as `apache-2.0`.
        results: Evaluations for the hub's leaderboards: `EVALUATION=OWNER/DATASET[:TASK][@METRIC]`.
        private: Create the repository as private.
        revision: Branch to upload to.
        dry_run: Only list the files.
        endpoint: Address of the hub. Default: the one that huggingface_hub uses.
        token: Access token. Default: the one that huggingface_hub has stored.
    """

    layout: str | None
    merge: bool
    license_name: str | None
    results: tuple[str, ...]
    private: bool
    revision: str | None
    dry_run: bool
    endpoint: str | None
    token: str | None


def push(model: PathLike, repo: str, **options: Unpack[PushSettings]) -> PushResult:
    """Upload a model to a hub: a run or a model folder, which is exported first, or an exported folder.

    The model card is made from the run, and only safetensors and GGUF weights are uploaded.
    """
    from vistune.interop.push import PushOptions, push_model

    return push_model(Path(model), repo, PushOptions(**options))
