"""Write a GGUF file: metadata and tensors by the names that llama.cpp reads. All names are in gguf_names.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vistune.errors import RecipeError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

Value = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]
LazyWeight = Callable[[], Tensor]  # returns the tensor when it is written, so that no copy of the model is kept

# --type -> how llama.cpp names the weights' type, and the file's
TYPES = {"f32": ("F32", "ALL_F32"), "f16": ("F16", "MOSTLY_F16"), "bf16": ("BF16", "MOSTLY_BF16"),
         "q8_0": ("Q8_0", "MOSTLY_Q8_0")}  # fmt: skip
BLOCK = 32  # values that q8_0 quantizes together


@dataclass(frozen=True)
class GgufContents:
    """The contents of a GGUF file.

    Attributes:
        architecture: llama.cpp's name of the architecture.
        metadata: Values by key. Whole numbers are written as uint32, others as float32.
        tensors: Tensors by name, of any precision.
        precise: Names of matrices that are written in f32 whatever the file's type, as llama.cpp's converter does.
    """

    architecture: str
    metadata: Mapping[str, Value]
    tensors: Mapping[str, LazyWeight]
    precise: frozenset[str] = frozenset()


@cache
def names() -> Mapping[str, Any]:
    """Return the names that llama.cpp reads (gguf_names.json)."""
    path = resources.files("vistune.interop") / "gguf_names.json"
    tree: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def require_library() -> None:
    """Raise RecipeError if the package gguf is missing."""
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError:
        raise RecipeError("--layout gguf needs the package gguf", "pip install 'vistune[gguf]'") from None


def write_file(contents: GgufContents, path: Path, kind: str) -> None:
    """Write a GGUF file; one tensor at a time is in memory.

    Args:
        kind: A key of `TYPES`. Vectors and the matrices in `precise` stay in f32. A matrix whose rows q8_0 cannot
            divide into blocks is written in f16.
    """
    import gguf
    import numpy as np

    keys = names()["general"]
    writer = gguf.GGUFWriter(path, contents.architecture)
    metadata: dict[str, Value] = {
        keys["file_type"]: int(gguf.LlamaFileType[TYPES[kind][1]]),
        keys["quantization_version"]: gguf.GGML_QUANT_VERSION,
        **contents.metadata,
    }
    for key, value in metadata.items():
        _add(writer, key, value)
    kinds = {}
    for name, read in contents.tensors.items():
        shape = read().shape
        kinds[name] = tensor_type(name, shape, kind, contents.precise)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kinds[name]]
        size = shape.numel() // block * block_bytes
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kinds[name])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, read in contents.tensors.items():
            values = read().detach().float().cpu().contiguous().numpy()
            writer.write_tensor_data(gguf.quants.quantize(values, kinds[name]))
    finally:
        writer.close()


def tensor_type(name: str, shape: Sequence[int], kind: str, precise: frozenset[str]) -> GGMLQuantizationType:
    """Return the type in which a tensor is written."""
    from gguf import GGMLQuantizationType

    if len(shape) < 2 or name in precise:
        return GGMLQuantizationType.F32
    if kind == "q8_0" and shape[-1] % BLOCK:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType[TYPES[kind][0]]


def _add(writer: Any, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))
