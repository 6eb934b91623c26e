"""What a run is: frozen models, one YAML file a recipe, dotted overrides on top.

recipe name or file + ["stages.tune.learn.language=1e-4", …] -> Recipe, complete and checked; `dump` replays it.
List items are addressed by their `name`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vistune.errors import RecipeError
from vistune.files import read_text
from vistune.recipe.overrides import explain, refuse_secrets, set_key
from vistune.recipe.strict_yaml import parse_yaml
from vistune.registry import guess


def _unquoted(value: Any) -> Any:
    if isinstance(value, str | bool):
        raise ValueError(f"a number is wanted, got {value!r}; a number in quotes is text")
    return value


Rate = Annotated[float, Field(gt=0, lt=10, allow_inf_nan=False), BeforeValidator(_unquoted)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Part = Literal["vision", "projector", "language", "adapters"]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = get_args(annotation) or (annotation,)
        return _unquoted(value) if int in kinds or float in kinds else value


class Take(Strict):
    """Some of a file's rows: the first, the last or, by the recipe's seed, a random choice, in the file's order."""

    which: Literal["first", "last", "random"] = "first"
    rows: int = Field(ge=1)


def _take(value: Any) -> Any:
    """`100`, `last 100` and `random 100` as a Take."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"rows": value}
    if isinstance(value, str):
        found = re.fullmatch(r"(first|last|random) (\d+)", value.strip())
        if found is None:
            raise ValueError(f"{value!r} is not N, `first N`, `last N` or `random N`")
        return {"which": found.group(1), "rows": int(found.group(2))}
    return value


class DataSource(Strict):
    """Rows to learn from: a LLaVA JSON or messages JSONL file, or a folder that `generate` wrote."""

    file: Path
    images: Path | None = None  # picture folder; absent = the `images.json` beside the file
    kinds: tuple[str, ...] | None = None  # absent = the stage's kinds
    take: Annotated[Take | None, BeforeValidator(_take)] = None  # N, `last N` or `random N` rows; absent = all
    weight: float = Field(default=1.0, gt=0, le=100)  # how often an epoch shows each row; 0.5: a half, drawn anew


def _sources(value: Any) -> Any:
    listed = [value] if isinstance(value, str | Path) else value
    if not isinstance(listed, Sequence):
        return listed
    return [{"file": item} if isinstance(item, str | Path) else item for item in listed]


Sources = Annotated[tuple[DataSource, ...], BeforeValidator(_sources)]


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Lora(Strict):
    """Low-rank adapters on the language model (arXiv 2106.09685); without `targets`, all linear layers but the head.

    `targets`: `all-linear`, `attention`, or the ends of layers' names, such as [q_proj, v_proj].
    """

    rank: int = Field(default=128, ge=1)
    alpha: float = Field(default=256, gt=0, allow_inf_nan=False)
    dropout: Share = 0.0
    targets: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, BeforeValidator(_names)] = None
    dora: bool = False
    rslora: bool = False


class Validation(Strict):
    """Rows that are measured and never learnt from: a share of the run's own, or files of their own.

    `tasks`: benchmarks by name, each with its data folder.
    """

    share: float | None = Field(default=None, gt=0, le=0.5)  # by picture: none is both learnt from and measured
    data: Sources | None = None
    stages: tuple[str, ...] | None = None  # absent = every stage
    every: int | None = Field(default=None, ge=1)  # steps; absent = at a stage's end only
    rows: int = Field(default=256, ge=1)  # at most so many are measured
    answers: int = Field(default=4, ge=0, le=100)  # of their questions are answered, into samples.jsonl
    answer_tokens: int = Field(default=64, ge=1)
    tasks: Mapping[str, Path] = {}
    task_limit: int | None = Field(default=100, ge=1)  # questions of each

    @model_validator(mode="after")
    def _agree(self) -> Validation:
        if (self.share is None) == (self.data is None):
            raise ValueError("give exactly one of `share` and `data`")
        return self


class Shards(Strict):
    """Rows too many for one index: webdataset, parquet or JSONL shards, read one after another (data/stream.py)."""

    files: Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=1)]  # with `*` or `{0000..0999}`
    window: int = Field(default=1, ge=1)  # shards that are shuffled and packed together


def _shards(value: Any) -> Any:
    return {"files": value} if isinstance(value, str | list | tuple) else value


class Stage(Strict):
    """One stage of training: what learns at which peak rate, from which rows, for how long."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    learn: Mapping[Part, Rate]
    lora: Lora | None = None
    quantize: Literal[4, 8] | None = None  # bits of the language model under the adapters (QLoRA, arXiv 2305.14314)
    data: Sources | None = None  # absent = the recipe's
    shards: Annotated[Shards | None, BeforeValidator(_shards)] = None  # in place of data, where there is too much of it
    kinds: tuple[str, ...] | None = None  # absent = all
    template: str | None = None  # absent = the model's
    image_mode: Literal["square", "pad"] | None = None  # absent = the model's; LLaVA 1.5 aligns on squares
    recompute: tuple[Literal["vision", "language"], ...] = ()  # activation checkpointing: less memory, more time
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0, le=1000)
    samples_per_step: int = Field(default=128, ge=1)
    tokens_per_step: int | None = Field(default=None, ge=16)  # in place of samples_per_step: as many as this holds
    tokens_per_row: int = Field(default=2048, ge=16)
    too_long: Literal["cut", "reject"] = "cut"  # samples longer than a row: cut where a turn ends, or set aside
    optimizer: Literal["adamw", "muon"] = "adamw"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: Share = 0.03
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    betas: tuple[Share, Share] = (0.9, 0.999)
    clip: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"  # auto = bf16 where the hardware multiplies it faster
    cache_features: Literal["auto", "on", "off"] = "auto"  # a frozen tower's features on disk; auto = where it pays
    compile: Literal["auto", "on", "off"] = "auto"  # layers by torch.compile; auto = where the stage is long enough
    save_every: int | None = Field(default=None, ge=1)  # steps; absent = at the stage's end only

    @model_validator(mode="after")
    def _agree(self) -> Stage:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        if self.tokens_per_step is not None and "samples_per_step" in self.model_fields_set:
            raise ValueError("`samples_per_step` and `tokens_per_step` exclude each other: keep one")
        if self.shards is not None:
            self._stream()
        if not self.learn:
            raise ValueError("`learn` is empty: name at least one part and its rate")
        if "adapters" in self.learn and self.lora is None:
            raise ValueError("`learn.adapters` needs a `lora` section in the same stage")
        if self.lora is not None and "adapters" not in self.learn:
            raise ValueError("`lora` needs `learn.adapters`, the adapters' rate")
        if self.lora is not None and "language" in self.learn:
            raise ValueError("`learn.language` (full) and `lora` exclude each other: keep one")
        if self.quantize is not None and self.lora is None:
            raise ValueError("`quantize` needs `lora` in the same stage: quantised weights do not learn")
        return self

    def _stream(self) -> None:
        """What shards need: nobody knows how many rows they hold, and a step's rows are read one from each lane."""
        if self.data is not None:
            raise ValueError("`shards` and `data` exclude each other: keep one")
        if self.steps is None:
            raise ValueError("`shards` needs `steps`: how many rows there are is not known before they are read")
        if self.tokens_per_step is None or self.tokens_per_step % self.tokens_per_row:
            raise ValueError("`shards` needs `tokens_per_step`, a multiple of `tokens_per_row`: so many rows a step")
        if self.cache_features == "on":
            raise ValueError("`shards` are read once or so: `cache_features` keeps nothing of them, remove it")


class Model(Strict):
    """Backbones and how they are joined; a backbone is a folder, a hub name, or `builtin`."""

    vision: str = "builtin"
    language: str = "builtin"
    projector: str = "mlp2x_gelu"
    feature_layer: int = Field(default=-2, le=-1)
    feature_tokens: Literal["patch", "cls_patch"] = "patch"
    space: Literal["hidden", "joint"] = "hidden"  # joint: through CLIP's last norm and projection, on every token
    image_mode: Literal["square", "pad", "anyres"] = "square"
    canvases: tuple[tuple[int, int], ...] | None = None  # anyres: (width, height) in pixels; absent = LLaVA 1.6's five
    template: str = "v1"
    tokenization: Literal["whole", "chunks"] = "whole"  # or as the original LLaVA: see `Spec`


class Origin(Strict):
    """An existing model to go on from: a run, a model folder, or a folder of a layout that `import` reads.

    `base`, `vision`, `template`: what such a folder leaves outside, as for `vistune import` · `image_mode`: how it sees
    pictures from here on, in place of what the folder says; llava-hf's crop what LLaVA 1.5 learnt to see padded.
    """

    model: Path
    base: str | None = None
    vision: str | None = None
    template: str | None = None
    image_mode: Literal["square", "pad"] | None = None


def _origin(value: Any) -> Any:
    return {"model": value} if isinstance(value, str | Path) else value


class Recipe(Strict):
    """A whole run; it begins with the backbones of `model`, or with the model that `from` names."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = "run"
    seed: int = Field(default=0, ge=0)
    origin: Annotated[Origin | None, BeforeValidator(_origin)] = Field(default=None, alias="from")
    model: Model = Model()
    data: Sources = ()
    validation: Validation | None = None  # absent = nothing is set aside
    stages: tuple[Stage, ...] = Field(min_length=1)
    on_bad_sample: Literal["raise", "reject"] = "raise"
    reject_limit: Share = 0.01
    bad_steps: int = Field(default=0, ge=0)  # steps without a finite loss or gradient that a stage may leave out
    keep_checkpoints: int = Field(default=2, ge=1)
    workers: int = Field(default=0, ge=0, le=64)
    track: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], BeforeValidator(_names)] = ()
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"  # over several processes; auto = fsdp where ddp would not fit
    watchdog: float = Field(default=1800, ge=1, allow_inf_nan=False)  # seconds without any progress that end a run

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        if self.origin is not None and "model" in self.model_fields_set:
            raise ValueError("`from` brings its model: remove `model`; a stage may have its own template")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        measured = self.validation.stages or () if self.validation is not None else ()
        if unknown := [name for name in measured if name not in names]:
            raise ValueError(f"validation.stages: {unknown[0]!r} is no stage; there are {', '.join(names)}")
        if any(stage.quantize is not None for stage in self.stages[:-1]):
            raise ValueError("`quantize` is for the last stage: adapters cannot be merged into a quantised base")
        if self.model.image_mode == "anyres" and (own := [stage.name for stage in self.stages if stage.image_mode]):
            raise ValueError(f"stage {own[0]} has an `image_mode` of its own, which an anyres model cannot: remove it")
        changed = [stage.name for stage in self.stages[:-1] if {"language", "adapters"} & set(stage.learn)]
        if self.stages[-1].quantize is not None and changed:
            raise ValueError(
                f"`quantize` reads the language model anew, but stage {changed[0]} changes it: "
                "finish that run, and name its model's language folder in a run of its own"
            )
        return self


def source_of(name: str, part: str) -> str:
    """`builtin` is the package's own tiny backbone; anything else is a folder or a hub name as it stands."""
    return str(resources.files("vistune.scenes") / "backbones" / part) if name == "builtin" else name


def known_recipes() -> list[str]:
    folder = resources.files("vistune.recipe") / "shipped"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by its shipped name or its file, apply `key.path=value` overrides, check all of it.

    Raises RecipeError naming the key path, the value and what is allowed.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        place, text = str(path), read_text(path)
    elif name in known_recipes():
        place, text = name, (resources.files("vistune.recipe") / "shipped" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise RecipeError(f"unknown recipe {name!r}", f"{guess(name, known_recipes())}; or give a .yaml file")
    tree = parse_yaml(text, place)
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{place}: a recipe is a mapping of keys, got {type(tree).__name__}", "start from a shipped recipe"
        )
    for override in overrides:
        set_key(tree, override)
    return validate(tree, place)


def validate(tree: Any, place: str) -> Recipe:
    refuse_secrets(tree, place)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, place, _fields_at) from None


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal recipe."""
    tree = recipe.model_dump(mode="json", exclude_none=True, by_alias=True)
    if recipe.origin is not None:
        del tree["model"]  # what `from` names says it
    for stage in tree["stages"]:
        if "tokens_per_step" in stage:
            del stage["samples_per_step"]  # a default that is not in use, and excludes the other
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    model: type[Strict] = Recipe
    children: dict[str, type[Strict]] = {
        "model": Model, "stages": Stage, "lora": Lora, "data": DataSource, "take": Take, "shards": Shards,
        "from": Origin, "validation": Validation,
    }  # fmt: skip
    for key in loc:
        if isinstance(key, str) and key in children:
            model = children[key]
        elif key == "learn":
            return ["vision", "projector", "language", "adapters"]
    return list(model.model_fields)
