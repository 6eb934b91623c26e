"""Load any model folder as an `Assistant`: a run, a vistune model, or another layout."""

from __future__ import annotations

from pathlib import Path

from vistune.generation import Assistant
from vistune.interop import layouts
from vistune.model.devices import resolve_device, resolve_dtype
from vistune.runs import checkpoint
from vistune.runs.folder import find_model, is_vistune_folder


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: int | None = None,
    template: str | None = None,
) -> Assistant:
    """Load a run folder, a model folder, or a folder of a layout that `import` reads.

    Args:
        model: The folder. Of a run, its last finished stage's best checkpoint, else its newest.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or one GPU such as `cuda:1`.
        dtype: `auto` (bf16 on a GPU, fp32 on a CPU), `fp32`, `bf16` or `fp16`.
        quantize: Load the language model's weights in 4 or 8 bits; tower, projector and head keep their precision.
        template: Chat template of a folder of another layout that does not name its own.
    """
    device = resolve_device(device)
    precision = resolve_dtype(dtype, device)
    path = Path(model)
    if is_vistune_folder(path):
        return Assistant(*checkpoint.load(find_model(path), device=device, dtype=precision, quantize=quantize))
    return Assistant(*layouts.load(path, device=device, dtype=precision, quantize=quantize, template=template))
