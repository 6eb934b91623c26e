"""Read a folder that PEFT wrote: every key of its config is used, refused by name, or reported.

adapter_config.json + adapter_model.safetensors -> Adapters (PEFT's own LoraConfig, tensors by name, remarks)
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import Field as ConfigField
from dataclasses import dataclass, fields
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from vistune.errors import CheckpointError, DataError, reason_of
from vistune.files import read_json

if TYPE_CHECKING:
    from peft import LoraConfig

T = TypeVar("T")

PREFIX = "base_model.model."  # PEFT puts it before every tensor's name
ABOUT_THE_FOLDER = {  # where the adapters came from; no output depends on them
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
    "task_type",
}  # fmt: skip
TRAINING_ONLY = {  # how adapters were initialised and computed; or options of a refused key
    "corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_core", "qalora_group_size",
    "runtime_config",
}  # fmt: skip
# Initialisations that change the base's weights in a way that loading the folder cannot repeat.
UNREPEATABLE = {
    "corda": "PEFT needs the covariances of the training data to load it",
    "loftq": "its base is a quantized one, which PEFT computes anew each time it loads it",
    "lora_ga": "PEFT needs the gradients that it began with to load it",
    "pissa_niter_": "PEFT draws a random projection each time it loads it",
}
BEGINNINGS = ("gaussian", "eva", "olora", "pissa", "orthogonal", "mica")
CONVERT = (
    "convert it where it was trained: "
    '`model.save_pretrained(OUT, path_initial_model_for_weight_conversion="INITIAL")`, '
    "or merge it there with `model.merge_and_unload().save_pretrained(OUT)` and run `vistune import OUT`"
)


class TensorSlice(Protocol):
    """A tensor of a safetensors file, which is read when it is indexed."""

    def __getitem__(self, index: EllipsisType | slice, /) -> Tensor: ...

    def get_shape(self) -> list[int]: ...


LazyTensor = Tensor | TensorSlice  # `[...]` gives the tensor


def shape_of(tensor: LazyTensor) -> tuple[int, ...]:
    """Return the shape of a tensor without reading it."""
    return tuple(tensor.shape if isinstance(tensor, Tensor) else tensor.get_shape())


@dataclass(frozen=True)
class Adapters:
    """A PEFT folder's adapters. `tensors`: by PEFT's names. `remarks`: messages about keys that have no effect."""

    config: LoraConfig
    tensors: Mapping[str, LazyTensor]
    folder: Path
    remarks: tuple[str, ...] = ()


def merge_hint(folder: Path) -> str:
    """Return a hint for refused adapters: a line of Python that merges them."""
    return (
        "merge them with PEFT: "
        f'`PeftModel.from_pretrained(model, "{folder}").merge_and_unload().save_pretrained(OUT)`, '
        "then run `vistune import OUT`"
    )


def read_settings(folder: Path) -> tuple[LoraConfig, tuple[str, ...]]:
    """Return PEFT's config of a folder, and remarks on keys without effect.

    Raises CheckpointError with the key that is unknown, or whose value is not supported.
    """
    path = folder / "adapter_config.json"
    try:
        raw = read_json(path)
    except DataError as error:
        raise CheckpointError(f"adapters cannot be read: {error.message}", "name a PEFT folder") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: a JSON object is expected", "name a PEFT folder")
    if raw.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type {raw.get('peft_type')!r}: only LORA is supported", merge_hint(folder))
    from peft import LoraConfig

    known = {field.name: field for field in fields(LoraConfig)}
    remarks = _refuse_keys(raw, known, path)
    _refuse_initialisation(raw.get("init_lora_weights", True), path)
    given = {key: value for key, value in raw.items() if key in known and key != "runtime_config"}
    given |= {key: {} for key in ("rank_pattern", "alpha_pattern") if given.get(key) is None}
    _refuse_values(given, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's warnings are covered by `remarks` or errors
            config = LoraConfig(**given)
    except Exception as error:  # PEFT raises many types
        raise CheckpointError(f"{path}: PEFT rejects this config: {reason_of(error)}", merge_hint(folder)) from None
    return config, remarks


def read_adapters(folder: Path) -> Adapters:
    """Read a PEFT folder. Raises CheckpointError if its config or tensors cannot be read."""
    from peft.utils import load_peft_weights

    config, remarks = read_settings(folder)
    try:
        if not any((folder / f"adapter_model.{kind}").is_file() for kind in ("safetensors", "bin")):
            raise OSError("neither adapter_model.safetensors nor adapter_model.bin")
        tensors = load_peft_weights(str(folder), device="cpu")
    except Exception as error:
        if not isinstance(error, OSError | ValueError | RuntimeError | EOFError | SafetensorError) and (
            type(error).__name__ != "UnpicklingError"
        ):
            raise
        raise CheckpointError(f"{folder}: adapters cannot be read: {reason_of(error)}", "name a PEFT folder") from None
    return Adapters(config, tensors, folder, remarks)


def _refuse_keys(raw: Mapping[str, object], known: Mapping[str, ConfigField[object]], path: Path) -> tuple[str, ...]:
    """Refuse keys that vistune does not use; return remarks on those without effect."""
    remarks = []
    for key, value in raw.items():
        if key not in known:
            if value not in (None, False, [], {}, ""):
                raise CheckpointError(
                    f"{path}: {key}={value!r}: the installed PEFT has no such key",
                    f"update PEFT if a newer one wrote the folder; otherwise {merge_hint(path.parent)}",
                )
            remarks.append(f"{path}: {key} is not read: the installed PEFT has no such key")
        elif key in ABOUT_THE_FOLDER or key in _Values.model_fields or _is_default(value, known[key]):
            continue
        elif key in TRAINING_ONLY:
            remarks.append(f"{path}: {key} is not read: it only concerns training")
        else:
            raise CheckpointError(f"{path}: {key}={value!r} is not supported", merge_hint(path.parent))
    return tuple(remarks)


def _is_default(value: object, field: ConfigField[object]) -> bool:
    default = field.default_factory() if callable(field.default_factory) else field.default
    return bool(value == default) or value in (None, False, [], {})


def _refuse_initialisation(value: object, path: Path) -> None:
    """Refuse initialisations that PEFT would repeat on loading, changing the base, with a different result."""
    for name, reason in UNREPEATABLE.items():
        if isinstance(value, str) and value.lower().startswith(name):
            raise CheckpointError(f"{path}: init_lora_weights {value!r} was saved unconverted: {reason}", CONVERT)


def _begins(value: bool | str) -> bool | str:
    if isinstance(value, str) and value not in BEGINNINGS and value.lower() not in ("gaussian", "olora"):
        raise ValueError(f"{value!r} is not known; known: {', '.join(BEGINNINGS)}")
    return value


def _regex(value: T) -> T:
    for text in [value] if isinstance(value, str) else value if isinstance(value, dict) else ():
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return value


Names = Annotated[str | list[str], AfterValidator(_regex)]


class _Values(BaseModel):
    """The keys that are used, and their types. PEFT's config accepts any value and fails much later, or not at all."""

    model_config = ConfigDict(strict=True, extra="ignore")

    r: int = Field(default=8, ge=1)
    lora_alpha: float = Field(default=8, allow_inf_nan=False)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Names
    exclude_modules: Names | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    rank_pattern: Annotated[dict[str, Annotated[int, Field(ge=1)]], AfterValidator(_regex)] = {}
    alpha_pattern: Annotated[dict[str, float], AfterValidator(_regex)] = {}
    modules_to_save: list[Annotated[str, Field(min_length=1)]] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    init_lora_weights: Annotated[bool | str, AfterValidator(_begins)] = True
    bias: Literal["none", "all", "lora_only"] = "none"
    ensure_weight_tying: bool = False
    fan_in_fan_out: bool = False
    lora_bias: bool = False
    use_dora: bool = False
    use_rslora: bool = False


def _refuse_values(given: Mapping[str, object], path: Path) -> None:
    try:
        _Values.model_validate(dict(given))
    except ValidationError as error:
        faults = [f"{'.'.join(str(key) for key in fault['loc'] if key not in ('str', 'int', 'list[str]'))}: "
                  f"{fault['msg']}" for fault in error.errors()]  # fmt: skip
        raise CheckpointError(f"{path}: {'; '.join(dict.fromkeys(faults))}", "restore what PEFT wrote") from None
