"""The keys of a recipe: frozen pydantic models, from the whole run down to a data file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)


def _unquoted(value: object) -> object:
    if isinstance(value, str | bool):
        raise ValueError(f"expected a number, got {value!r}; a number in quotes is text")
    return value


Rate = Annotated[float, Field(gt=0, lt=10, allow_inf_nan=False), BeforeValidator(_unquoted)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
TOWERS = ("vision", "vision_2")  # names of a model's towers in its folder
FeatureLayer = Annotated[int, Field(le=-1), BeforeValidator(_unquoted)]
Part = Literal["vision", "projector", "language", "adapters"]
AdaptedPart = Literal["language", "vision", "projector"]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = get_args(annotation) or (annotation,)
        return _unquoted(value) if int in kinds or float in kinds else value


class Take(Strict):
    """Some of a file's samples. `5000`, `last 5000` and `random 5000` are short forms."""

    which: Literal["first", "last", "random"] = Field(
        default="first",
        description="Which samples: the first, the last, or a random choice by the recipe's seed. They keep the file's "
        "order.",
    )
    rows: int = Field(ge=1, description="Number of samples. If the file has fewer, all are used and the run says so.")


def _take(value: object) -> object:
    """`100`, `last 100` and `random 100` as a Take."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"rows": value}
    if isinstance(value, str):
        match = re.fullmatch(r"(first|last|random) (\d+)", value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not N, `first N`, `last N` or `random N`")
        return {"which": match.group(1), "rows": int(match.group(2))}
    return value


class DataSource(Strict):
    """A file of samples. A path alone is a short form of `{file: PATH}`."""

    file: Path = Field(
        description="A data file in any form of [file formats](file-formats.md), or a folder that `generate` wrote. "
        "Relative to the folder in which the command runs."
    )
    images: Path | None = Field(
        default=None,
        description="Image folder. Default: the folders in `images.json` next to the file, else the file's own folder.",
    )
    kinds: tuple[str, ...] | None = Field(
        default=None, description="Use only samples of these kinds. Default: the stage's `kinds`."
    )
    take: Annotated[Take | None, BeforeValidator(_take)] = Field(
        default=None, description="Use only some of the samples: `N`, `last N` or `random N`. Default: all."
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="How often an epoch shows each sample. With 0.5, each epoch uses another random half of them.",
    )


def _sources(value: object) -> object:
    listed = [value] if isinstance(value, str | Path) else value
    if not isinstance(listed, Sequence):
        return listed
    return [{"file": item} if isinstance(item, str | Path) else item for item in listed]


Sources = Annotated[tuple[DataSource, ...], BeforeValidator(_sources)]


def _names(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Lora(Strict):
    """Low-rank adapters (arXiv 2106.09685). Needs `learn.adapters` in the same stage."""

    parts: Annotated[tuple[AdaptedPart, ...], BeforeValidator(_names), Field(min_length=1)] = Field(
        default=("language",),
        description="Parts that get adapters: `language`, `vision`, `projector`. All are trained at the rate of "
        "`learn.adapters`.",
    )

    rank: int = Field(default=128, ge=1, description="Rank of the adapters.")
    alpha: float = Field(default=256, gt=0, allow_inf_nan=False, description="Adapters are scaled by `alpha / rank`.")
    dropout: Share = Field(default=0.0, description="Dropout before the adapters.")
    targets: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, BeforeValidator(_names)] = Field(
        default=None,
        description="Which layers get adapters: `all-linear`, `attention`, or the ends of layer names, such as "
        "`[q_proj, v_proj]`. Default: all linear layers except the head. In the projector, all linear layers get "
        "adapters.",
    )
    dora: bool = Field(default=False, description="DoRA: train the magnitude of each weight separately.")
    rslora: bool = Field(default=False, description="rsLoRA: scale by `alpha / sqrt(rank)`.")


class Validation(Strict):
    """Samples that are measured and never trained on. Give exactly one of `share` and `data`."""

    share: float | None = Field(
        default=None,
        gt=0,
        le=0.5,
        description="Share of all stages' samples. The train/validation split is made by image, so no image is on both "
        "sides in any stage.",
    )
    data: Sources | None = Field(
        default=None,
        description="Separate validation files. Images that are also trained on are counted and reported.",
    )
    stages: tuple[str, ...] | None = Field(default=None, description="Stages that validate. Default: all.")
    every: int | None = Field(
        default=None,
        ge=1,
        description="Measure every N steps, and at the end of a stage. Default: only at the end.",
    )
    rows: int = Field(default=256, ge=1, description="Largest number of samples to measure, chosen by the seed.")
    answers: int = Field(
        default=4,
        ge=0,
        le=100,
        description="Number of validation questions that the model answers each time, for `samples.jsonl`. None are "
        "answered under `parallel: fsdp`.",
    )
    answer_tokens: int = Field(default=64, ge=1, description="Largest number of tokens per answer.")
    tasks: Mapping[str, Path] = Field(
        default={},
        description="Benchmarks to run each time, with their data folders, such as `{pope: data/pope}`. Not under "
        "`parallel: fsdp`.",
    )
    task_limit: int | None = Field(default=100, ge=1, description="Number of questions per benchmark; null asks all.")

    @model_validator(mode="after")
    def _agree(self) -> Validation:
        if (self.share is None) == (self.data is None):
            raise ValueError("give exactly one of `share` and `data`")
        return self


class Shards(Strict):
    """Shards that are read one after another, for sources too large for one index.

    A path alone is a short form of `{files: PATH}`. Needs `steps` and `tokens_per_step` in the same stage, and
    at least as many shards as packed rows per step.
    """

    files: Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=1)] = Field(
        description="Paths or addresses of webdataset, parquet or JSONL shards. `*` and `{0000..0999}` stand for many."
    )
    window: int = Field(default=1, ge=1, description="Number of shards that are shuffled and packed together.")


def _shards(value: object) -> object:
    return {"files": value} if isinstance(value, str | list | tuple) else value


class Preference(Strict):
    """The loss of a stage with `objective: dpo`. Pairs are described in [preference
    tuning](../how-to/preference-tuning.md)."""

    loss: Literal["dpo", "ipo", "simpo", "orpo"] = Field(
        default="dpo",
        description="`dpo` (arXiv 2305.18290), `ipo` (2310.12036), `simpo` (2405.14734) or `orpo` (2403.07691). The "
        "last two need no reference model.",
    )
    beta: float = Field(
        default=0.1, gt=0, le=100, description="How strongly the loss reacts to the difference of the two answers."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="dpo and simpo: share of pairs that are assumed to be swapped."
    )
    margin: float = Field(default=0.0, ge=0, le=100, description="simpo: target margin (gamma in the paper).")
    sft_weight: float = Field(
        default=0.0, ge=0, le=100, description="Weight of the mean cross-entropy of the chosen answer, which is added."
    )
    image_weight: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Weight of mDPO's image term (arXiv 2406.11839): the chosen answer must be more likely with the "
        "image than with a small part of it. Computes a third document per pair.",
    )
    anchor_weight: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Weight of mDPO's anchor: the chosen answer must not become less likely than in the reference.",
    )

    @property
    def needs_reference(self) -> bool:
        return self.loss in ("dpo", "ipo")

    @model_validator(mode="after")
    def _agree(self) -> Preference:
        if self.label_smoothing and self.loss not in ("dpo", "simpo"):
            raise ValueError(f"`label_smoothing` is not used by the loss {self.loss}: remove it")
        if self.margin and self.loss != "simpo":
            raise ValueError(f"`margin` is not used by the loss {self.loss}: remove it")
        if (self.image_weight or self.anchor_weight) and not self.needs_reference:
            raise ValueError("`image_weight` and `anchor_weight` need a reference: use the loss dpo or ipo")
        return self


class Stage(Strict):
    """One stage of training: which parts are trainable, on which data, for how long."""

    name: str = Field(
        pattern=r"^[a-z0-9_-]+$",
        description="Name of the stage. Overrides use it: `stages.NAME.steps=10`.",
    )
    learn: Mapping[Part, Rate] = Field(
        description="Trainable parts and their peak learning rates: `vision`, `projector`, `language`, `adapters`. "
        "Every part that is not listed is frozen."
    )
    objective: Literal["sft", "dpo"] = Field(
        default="sft",
        description="`sft` trains on answers, `dpo` on preference pairs: chosen answers become more likely than "
        "rejected ones. The reference is the model with which the stage begins.",
    )
    preference: Preference | None = Field(
        default=None, description="The loss of `objective: dpo`. Default: DPO with beta 0.1."
    )
    lora: Lora | None = Field(default=None, description="Adapters. Need `learn.adapters`.")
    quantize: Literal[4, 8] | None = Field(
        default=None,
        description="Bits of the frozen language model under the adapters (QLoRA, arXiv 2305.14314). Last stage only.",
    )
    data: Sources | None = Field(default=None, description="Data of this stage. Default: the recipe's `data`.")
    shards: Annotated[Shards | None, BeforeValidator(_shards)] = Field(
        default=None, description="Shards in place of `data`, if there are too many samples for one index."
    )
    kinds: tuple[str, ...] | None = Field(
        default=None,
        description="Use only samples of these kinds: `caption`, `conversation`, `detail`, `reasoning`, or your own "
        "names. Default: all.",
    )
    template: str | None = Field(default=None, description="Chat template of this stage. Default: the model's.")
    image_mode: Literal["square", "pad"] | None = Field(
        default=None, description="How images are made square in this stage. Default: the model's `image_mode`."
    )
    recompute: tuple[Literal["vision", "language"], ...] = Field(
        default=(), description="Activation checkpointing of these parts: the same gradients, less memory, more time."
    )
    steps: int | None = Field(
        default=None, ge=1, description="Number of steps. Give exactly one of `steps` and `epochs`."
    )
    epochs: float | None = Field(default=None, gt=0, le=1000, description="Number of passes over the data.")
    samples_per_step: int = Field(
        default=128, ge=1, description="Global batch size in samples, whatever the number of processes."
    )
    tokens_per_step: int | None = Field(
        default=None,
        ge=16,
        description="Global batch size in tokens, in place of `samples_per_step`: as many samples as fit.",
    )
    tokens_per_row: int = Field(
        default=2048,
        ge=16,
        description="Tokens of a packed row. Lower it if memory runs out; gradients stay the same.",
    )
    too_long: Literal["cut", "reject"] = Field(
        default="cut",
        description="A sample longer than a packed row: cut it at the end of a turn, or reject it. With `objective: "
        "dpo`, it is always rejected.",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="Fused AdamW, or Muon on the matrices of the language model and the vision tower."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_share: Share = Field(default=0.03, description="Share of the steps in which the rate rises to its peak.")
    weight_decay: float = Field(
        default=0.0, ge=0, le=1, description="Weight decay. Biases and norm weights never decay."
    )
    betas: tuple[Share, Share] = Field(default=(0.9, 0.999), description="AdamW's betas.")
    clip: float = Field(default=1.0, gt=0, description="Clip the gradient to this norm, over all processes.")
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        default="auto",
        description="Precision of matrix multiplications. `auto` is bf16 on a GPU that supports it. On a CPU it is "
        "bf16 if layers of the stage's sizes run at least 1.15 times as fast in it, measured once per machine. tf32 is "
        "for CUDA only. Trainable weights are always fp32.",
    )
    cache_features: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Keep a frozen vision tower's features on disk. `auto` does so if images are read at least twice "
        "on average and the features take at most half of the free disk space.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Run layers through `torch.compile`. `auto` does so if the stage needs at least 1e15 FLOPs on a "
        "CPU, or 3e17 on a GPU.",
    )
    save_every: int | None = Field(
        default=None, ge=1, description="Save a checkpoint every N steps. Default: only at the end of the stage."
    )

    @model_validator(mode="after")
    def _agree(self) -> Stage:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        if self.tokens_per_step is not None and "samples_per_step" in self.model_fields_set:
            raise ValueError("`samples_per_step` and `tokens_per_step` exclude each other: keep one")
        if self.shards is not None:
            self._stream()
        if self.preference is not None and self.objective != "dpo":
            raise ValueError("`preference` needs `objective: dpo` in the same stage")
        if self.objective == "dpo" and self.shards is not None:
            raise ValueError("`objective: dpo` needs `data`: the reference is computed before the first step")
        if self.pair_documents > 2 and self.cache_features == "on":
            raise ValueError("`preference.image_weight` shows parts of images, whose features cannot be kept: "
                             "remove `cache_features`")  # fmt: skip
        if not self.learn:
            raise ValueError("`learn` is empty: name at least one part and its rate")
        if "adapters" in self.learn and self.lora is None:
            raise ValueError("`learn.adapters` needs a `lora` section in the same stage")
        if self.lora is not None and "adapters" not in self.learn:
            raise ValueError("`lora` needs `learn.adapters`, the adapters' rate")
        for part in self.lora.parts if self.lora is not None else ():
            if part in self.learn:
                raise ValueError(f"`learn.{part}` (full) and `lora` on the {part} exclude each other: keep one")
        if self.quantize is not None and self.lora is None:
            raise ValueError("`quantize` needs `lora` in the same stage: quantised weights cannot be trained")
        return self

    def reaches(self, part: str) -> bool:
        """Return whether the stage trains weights or adapters of a part, so that gradients pass through it."""
        return part in self.learn or (self.lora is not None and part in self.lora.parts)

    @property
    def preference_loss(self) -> Preference | None:
        """The loss on preference pairs; None for other objectives."""
        return (self.preference or Preference()) if self.objective == "dpo" else None

    @property
    def pair_documents(self) -> int:
        """Documents of a preference pair: 3 with the image term; 0 for other objectives."""
        loss = self.preference_loss
        return 0 if loss is None else 3 if loss.image_weight else 2

    def _stream(self) -> None:
        """Check what shards need: the number of records is unknown, and each row of a step reads its own shards."""
        if self.data is not None:
            raise ValueError("`shards` and `data` exclude each other: keep one")
        if self.steps is None:
            raise ValueError("`shards` needs `steps`: the number of records is not known before they are read")
        if self.tokens_per_step is None or self.tokens_per_step % self.tokens_per_row:
            raise ValueError("`shards` needs `tokens_per_step`, a multiple of `tokens_per_row` (rows per step)")
        if self.cache_features == "on":
            raise ValueError("`cache_features` does not work with `shards`, which are hardly read twice: remove it")


class Model(Strict):
    """The backbones and how they are joined. A backbone is a folder, a hub name, or `builtin`."""

    vision: str | tuple[str, str] = Field(
        default="builtin",
        description="Vision tower: an image encoder of transformers, by itself or inside the folder of a larger model "
        "([backbones](../how-to/choose-backbones.md)). Two, such as `[DINOV2, SIGLIP]`, are fused: their features are "
        "concatenated.",
    )
    language: str = Field(
        default="builtin", description="Language model: a causal language model of transformers with a fast tokenizer."
    )
    projector: str = Field(
        default="mlp2x_gelu",
        description="`linear`, `mlp1x_gelu` to `mlp8x_gelu`, `identity`, `pool2x2_mlp2x_gelu`, `shuffle2x2_mlp2x_gelu` "
        "(the last two join four patches into one slot), or "
        "[`package.module:attribute`](../how-to/add-a-projector.md).",
    )
    feature_layer: FeatureLayer | Annotated[tuple[FeatureLayer, ...], Field(min_length=1)] = Field(
        default=-2,
        description="Layer of the vision tower whose output is used. The features of several, such as `[-2, -5]`, are "
        "concatenated. Later layers are not kept.",
    )
    feature_tokens: Literal["patch", "cls_patch"] = Field(
        default="patch", description="Use the patch tokens only, or the class token too."
    )
    feature_norm: Literal["auto", "off", "tower", "layer_norm"] = Field(
        default="auto",
        description="Norm of the features before the projector: the `tower`'s own final norm, a `layer_norm` without "
        "weights, or `off`. `auto` is `off` for CLIP and SigLIP towers; others get their own norm, or `layer_norm` if "
        "they have none.",
    )
    space: Literal["hidden", "joint"] = Field(
        default="hidden",
        description="Features: the tower's `hidden` states, or CLIP's `joint` space of images and texts, by its last "
        "norm and projection.",
    )
    image_mode: Literal["auto", "square", "pad", "anyres", "naflex"] = Field(
        default="auto",
        description="How an image becomes the tower's input: `square` follows the tower's own resize and crop rules, "
        "`pad` pads to a square as LLaVA 1.5, `anyres` cuts tiles as LLaVA 1.6, `naflex` keeps the aspect ratio in a "
        "grid of patches, for SigLIP 2 NaFlex towers. `auto` is `naflex` for these towers and `square` for others.",
    )
    canvases: tuple[tuple[int, int], ...] | None = Field(
        default=None,
        description="anyres: sizes to which images are fitted, `[[width, height], …]` in pixels. Default: the five of "
        "LLaVA 1.6.",
    )
    template: str | None = Field(
        default=None,
        description="Chat template: `plain`, `v0`, `v1`, `llama_2`, `llava_llama_2`, `mistral`, `chatml`, `llama_3`, "
        "or `tokenizer` for the tokenizer's own. Default: `tokenizer` if the language model has a chat template, else "
        "`v1`.",
    )
    tokenization: Literal["whole", "chunks"] = Field(
        default="whole",
        description="Tokenize a conversation as a whole, as transformers does, or in chunks around images, as the "
        "original LLaVA code does.",
    )

    @property
    def backbones(self) -> dict[str, str]:
        """Folder, hub name or `builtin` of each backbone; a second tower is called `vision_2`."""
        towers = (self.vision,) if isinstance(self.vision, str) else self.vision
        return {**dict(zip(TOWERS, towers, strict=False)), "language": self.language}


class Origin(Strict):
    """An existing model to start from. A path alone is a short form of `{model: PATH}`."""

    model: Path = Field(
        description="A run folder, a model folder, or a folder in a layout that `vistune import` reads."
    )
    base: str | None = Field(
        default=None, description="The base model, if the folder has only adapters or a projector, as `import --base`."
    )
    vision: str | None = Field(default=None, description="The vision tower, if the folder does not contain it.")
    template: str | None = Field(default=None, description="Chat template to use instead of the folder's.")
    image_mode: Literal["square", "pad"] | None = Field(
        default=None,
        description="How images are made square from here on. LLaVA 1.5's llava-hf folders say `square` although the "
        "model was trained on padded images, so the shipped recipes set `pad`.",
    )


def _origin(value: object) -> object:
    return {"model": value} if isinstance(value, str | Path) else value


class Recipe(Strict):
    """A whole run. It starts from the backbones of `model`, or from the model that `from` names."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(default="run", description="Name of the run, shown in reports and trackers.")
    seed: int = Field(
        default=0, ge=0, description="Random seed: fresh weights, order of the samples, dropout, every random choice."
    )
    origin: Annotated[Origin | None, BeforeValidator(_origin)] = Field(
        default=None, alias="from", description="An existing model to start from, in place of `model`."
    )
    model: Model = Field(default=Model(), description="Backbones of a new model.")
    data: Sources = Field(default=(), description="Data of every stage without a `data` key.")
    validation: Validation | None = Field(default=None, description="Validation during training. Default: none.")
    blind_check: int = Field(
        default=32,
        ge=0,
        description="Number of samples for the check at the end of each stage whether the model uses its images. It "
        "compares the loss with the right image, with another one and without. The samples come from the validation "
        "data, or have images that no stage trains on. 0 turns the check off.",
    )
    stages: tuple[Stage, ...] = Field(
        min_length=1, description="The stages, in order. Each starts from the model of the one before."
    )
    on_bad_sample: Literal["raise", "reject"] = Field(
        default="raise",
        description="A bad sample stops the run (`raise`), or is written to `rejects.jsonl` and skipped (`reject`).",
    )
    reject_limit: Share = Field(
        default=0.01, description="With `reject`: the run stops with exit code 3 above this share of rejected samples."
    )
    bad_steps: int = Field(
        default=0,
        ge=0,
        description="Number of steps per stage that may be skipped if their loss is not finite.",
    )
    keep_checkpoints: int = Field(
        default=2,
        ge=1,
        description="Number of checkpoints to keep within a stage. The one at the end of a stage, and the one with "
        "the best validation loss, are always kept.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Threads that decode images and pack rows ahead. They do not change any result.",
    )
    track: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], BeforeValidator(_names)] = Field(
        default=(), description="Trackers to write to, in addition to `metrics.jsonl`."
    )
    parallel: Literal["auto", "ddp", "fsdp"] = Field(
        default="auto",
        description="With several processes: DDP or FSDP2. `auto` is DDP on CPUs, and on GPUs if weights, gradients "
        "and optimizer state take less than 60 % of a GPU; else FSDP2.",
    )
    watchdog: float = Field(
        default=1800, ge=1, allow_inf_nan=False, description="Seconds without progress after which the run is stopped."
    )

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        if self.origin is not None and "model" in self.model_fields_set:
            raise ValueError("`from` and `model` exclude each other: remove `model`; a stage may have its own template")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages share a name: {', '.join(names)}")
        measured = self.validation.stages or () if self.validation is not None else ()
        if unknown := [name for name in measured if name not in names]:
            raise ValueError(f"validation.stages: {unknown[0]!r} is not a stage; there are {', '.join(names)}")
        if any(stage.quantize is not None for stage in self.stages[:-1]):
            raise ValueError("`quantize` is for the last stage: adapters cannot be merged into a quantised base")
        mode, own = self.model.image_mode, [stage.name for stage in self.stages if stage.image_mode]
        if mode in ("anyres", "naflex") and own:
            raise ValueError(
                f"the model's `image_mode` is {mode}, so stage {own[0]} cannot have another one: remove it there"
            )
        changed = [stage.name for stage in self.stages[:-1] if stage.reaches("language")]
        if self.stages[-1].quantize is not None and changed:
            raise ValueError(
                f"`quantize` loads the original language model, but stage {changed[0]} trains it: "
                "first finish a run without the last stage, then name its language folder as `model.language` "
                "of a second run"
            )
        return self
