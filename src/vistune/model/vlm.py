"""The vision-language model: images and text in, hidden states out.

The token ids that the model gets already contain the image slots. The projector turns the tower's features into
embeddings, which replace the embeddings of the slots; then the language model runs. Processor and model must agree on
the `Spec`. It is read from the backbones' configs before any weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import RecipeError
from vistune.model.attention import attending_again, documents
from vistune.model.cache import Cache, KVCache, Prefill, PrefillDone, Prefix, SeparateCaches, SeparatePrefill
from vistune.model.head import Head
from vistune.model.image_rules import ImageRules, image_rules, resolve_image_mode
from vistune.model.language import (
    embed,
    head_of,
    is_packed,
    language_config,
    load_language,
    read,
    read_separately,
    run,
    unwrap,
)
from vistune.model.lora import has_adapters
from vistune.model.projectors import build_projector, require_shape, tried_slots
from vistune.model.rotary import rope_limit
from vistune.model.shapes import VisionConfig
from vistune.model.tower_shape import describe_tower
from vistune.model.trial import language_traits
from vistune.model.vision import (
    FusedTowers,
    VisionTower,
    load_towers,
    resolve_norm,
    slots_of_tile,
    vision_config,
    width_of,
)
from vistune.recipe import Model, source_of
from vistune.recipe.hub import cached_folder
from vistune.types import IMAGE_ID, Batch, Spec, TowerInput


class VisionLanguageModel(nn.Module):
    """Vision tower, projector and language model; for anyres also `newline`, the vector after each row of patches."""

    def __init__(
        self, vision: VisionTower | FusedTowers, projector: nn.Module, language: nn.Module, spec: Spec
    ) -> None:
        super().__init__()
        self.vision = vision
        self.projector = projector
        config = unwrap(language).config
        self.traits = language_traits(config)
        self.rope_limit = rope_limit(config)  # longer documents are rotated differently, from their first token on
        like = next(
            projector.parameters(), unwrap(language).get_output_embeddings().weight
        )  # `newline` has the projector's dtype
        newline = torch.zeros(spec.language_width, dtype=like.dtype)
        self.newline = nn.Parameter(newline) if spec.image_mode == "anyres" else None
        self.language = language
        self.spec = spec

    def forward(self, batch: Batch, at: Tensor | None = None) -> Tensor:
        """Return the hidden states (tokens, width) of a packed row, or (n, width) of the positions `at` (n,) only.

        This is the forward pass of training; generation uses `read`, `read_prefix` and `decode`.
        """
        images = self.features(batch)
        embedded = self.embed(batch.input_ids, images)
        # Keeps the projector in the graph of a row without images, whose blank tile fills no slot.
        embedded = embedded + 0.0 * images[:1].to(embedded.dtype)
        layout = documents(batch.starts, embedded.device)
        hidden = run(self.language, embedded[None], batch.positions[None], at=at, **layout)[0]
        return hidden if at is None else hidden.index_select(0, at)

    def features(self, batch: Batch) -> Tensor:
        """Return the features (slots, width) of the row's image slots; without images, those of its blank tile."""
        tiles = self.encode(batch.images, batch.grids)
        if batch.slots is not None:
            return self.place(tiles, batch.slots)
        flat: Tensor = tiles.flatten(0, 1)
        return flat if self.newline is None else torch.cat([flat, self.newline[None].to(flat.dtype)])

    def encode(self, images: Tensor, grids: Tensor | None = None) -> Tensor:
        """Encode tiles (`Batch.images`, `Batch.grids`) as (tiles, slots, width).

        A NaFlex tile is padded: an image uses the first of its slots (`Batch.slots`).
        """
        features: Tensor = images if images.is_floating_point() else self.vision(images, grids)
        # A frozen tower may be in bf16 and the projector in fp32, and generation uses no autocast.
        features = features.to(next(self.projector.parameters(), features).dtype)
        budget = self.spec.patch_budget
        joins = budget is not None and budget.cell > 1
        tiles: Tensor = self.projector(features, grids) if joins else self.projector(features)
        # More slots than the text has would shift features from one image to the next without an error.
        require_shape(self.spec.projector, tiles, (len(images), self.spec.slots_per_image, self.spec.language_width))
        return tiles

    def place(self, tiles: Tensor, slots: Tensor) -> Tensor:
        """Return (slots, width) for the tile and patch of each slot (slots, 2); `newline` where the tile is -1."""
        tile, patch = slots.unbind(1)
        placed = tiles[tile.clamp(min=0), patch]
        if self.newline is None:
            return placed
        return torch.where((tile < 0)[:, None], self.newline.to(placed.dtype), placed)

    def embed(self, ids: Tensor, images: Tensor) -> Tensor:
        """Return embeddings (tokens, width): the text's, with images (slots, width) at the image slots."""
        text = self.embed_text(ids.clamp(min=0))
        return text.masked_scatter((ids == IMAGE_ID)[:, None], images.to(text.dtype))

    def new_cache(self) -> Cache:
        """Return an empty cache of running sequences."""
        return KVCache(self.head.device) if self.packed else SeparateCaches()

    def new_prefill(self, prefixes: Sequence[Prefix | None], lengths: Sequence[int]) -> Prefill | SeparatePrefill:
        """Return a prefill of new documents, each after its prefix; an unpacked model shares no prefix."""
        return Prefill(prefixes, lengths, self.head.device) if self.packed else SeparatePrefill(lengths)

    def embed_text(self, ids: Tensor) -> Tensor:
        """Return embeddings (tokens, width) of token ids."""
        return embed(self.language, ids, self.traits.embedding_scale)

    def read(self, embedded: Tensor, prefill: Prefill | SeparatePrefill) -> Tensor:
        """Return hidden states (tokens, width) of packed embeddings; `prefill` receives their keys and values."""
        if isinstance(prefill, Prefill):
            return read(self.language, embedded, prefill, prefill.positions)
        parts = [read_separately(self.language, rows) for rows in embedded.split(prefill.lengths)]
        prefill.caches = [cache for _, cache in parts]
        return torch.cat([hidden for hidden, _ in parts])

    def read_prefix(self, embedded: Tensor, prefix: Prefix | None) -> Prefix:
        """Read embeddings after a prefix, or at the beginning, and return both as one prefix."""
        layers = unwrap(self.language).config.num_hidden_layers
        prefill = Prefill([prefix], [len(embedded)], embedded.device, layers)
        with suppress(PrefillDone):
            self.read(embedded, prefill)
        return prefill.prefix(0)

    def decode(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Return hidden states (rows, width) of one more token (rows,) per sequence, and add it to the cache."""
        embedded = self.embed_text(tokens)
        if isinstance(cache, SeparateCaches):
            rows = zip(embedded, cache.caches, cache.lengths, strict=True)
            parts = [read_separately(self.language, row[None], own, length) for row, own, length in rows]
            cache.caches = [own for _, own in parts]
            cache.lengths = [length + 1 for length in cache.lengths]
            return torch.cat([hidden for hidden, _ in parts])
        assert isinstance(cache, KVCache)
        positions = cache.prepare()
        hidden = read(self.language, embedded, cache, positions)
        cache.advance()
        return hidden

    @property
    def packed(self) -> bool:
        """Whether the language model reads packed rows of several documents; otherwise it reads one at a time."""
        return is_packed(self.language)

    @property
    def head(self) -> Head:
        """The output layer, which turns hidden states into logits."""
        return head_of(self.language, self.traits.rule)

    def parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return the parameters of each part that a recipe's `learn` can name."""
        modules = {"vision": self.vision, "projector": self.projector, "language": self.language}
        named = {part: list(module.named_parameters()) for part, module in modules.items()}
        parts = {part: [(name, p) for name, p in listed if "lora_" not in name] for part, listed in named.items()}
        if self.newline is not None:
            parts["projector"].append(("newline", self.newline))
        return {**parts, "adapters": [each for listed in named.values() for each in listed if "lora_" in each[0]]}

    def projector_state(self, *, keep_vars: bool = False) -> dict[str, Tensor]:
        """Return the projector's tensors and `newline`; with `keep_vars` the parameters themselves."""
        newline = {} if self.newline is None else {"newline": self.newline if keep_vars else self.newline.detach()}
        state = self.projector.state_dict(keep_vars=keep_vars)
        own = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if "lora_" not in name}
        return {**own, **newline}

    def load_projector(self, state: Mapping[str, Tensor]) -> None:
        """Load what `projector_state` returned. Raises RuntimeError naming tensors that do not fit."""
        rest = dict(state)
        if self.newline is not None:
            given = rest.pop("newline", None)
            if given is None or given.shape != self.newline.shape:
                actual = "missing" if given is None else f"of shape {tuple(given.shape)}"
                raise RuntimeError(f"newline is {actual}; expected {tuple(self.newline.shape)}")
            with torch.no_grad():
                self.newline.copy_(given)
        self.projector.load_state_dict(rest)

    def set_trainable(self, trainable: Collection[str]) -> None:
        """Freeze every part except these. Frozen parts are in evaluation mode."""
        for part, parameters in self.parts().items():
            if part in trainable and not parameters:
                raise RecipeError(f"learn.{part}: this model has no such part", "remove it from `learn`")
            for _, parameter in parameters:
                parameter.requires_grad_(part in trainable)
        for part, module in (("vision", self.vision), ("projector", self.projector), ("language", self.language)):
            adapted = any("lora_" in name for name, _ in module.named_parameters())
            module.train(part in trainable or (adapted and "adapters" in trainable))

    def set_recompute(self, parts: Collection[str]) -> None:
        """Turn on activation checkpointing for these parts: layers keep their inputs and recompute the rest."""
        towers: list[tuple[str, Any]] = [("vision", tower.tower) for tower in self.vision.towers]
        for part, module in (*towers, ("language", unwrap(self.language))):
            if part in parts and not getattr(module, "supports_gradient_checkpointing", True):
                raise RecipeError(f"recompute: {type(module).__name__} cannot recompute its layers", f"remove {part}")
            if part in parts:
                module.activation_checkpointing_enable({"use_reentrant": False, "context_fn": attending_again})
            elif module.is_activation_checkpointing:
                module.activation_checkpointing_disable()

    @property
    def adapted(self) -> bool:
        """Whether any part has adapters."""
        return has_adapters(self.language) or bool(self.parts()["adapters"])


def default_canvases(side: int) -> tuple[tuple[int, int], ...]:
    """Return LLaVA 1.6's five canvases, (width, height) in pixels, for tiles of `side` pixels."""
    return tuple((columns * side, rows * side) for columns, rows in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)))


def spec_of(model: Model, vision: VisionConfig, width: int, vocabulary: int, rules: ImageRules) -> Spec:
    """Make a spec from a tower's config, image rules, and the language model's width and vocabulary.

    Raises RecipeError if they do not fit.
    """
    shape = describe_tower(vision, model.feature_layer, rules.get("image_side"))
    vision_width = width_of(vision, shape, model.space)
    # The tower may not take images of its image processor's size.
    rules = rules.copy()
    if rules.get("image_side") != shape.side:
        rules["image_side"], rules["image_resize"] = shape.side, 0
    mode, budget = resolve_image_mode(model, vision, rules.pop("patch_budget", None))
    tokens = slots_of_tile(shape, model.feature_tokens)
    if budget is not None:
        rules["patch_budget"], tokens = budget, budget.most
    anyres = mode == "anyres"
    if anyres and model.feature_tokens != "patch":
        raise RecipeError("model.image_mode=anyres needs features of patches only", "use feature_tokens=patch")
    canvases = (model.canvases or default_canvases(shape.side)) if anyres else ()
    for canvas in canvases:
        if any(edge % shape.side for edge in canvas):
            raise RecipeError(
                f"model.canvases: {canvas[0]}x{canvas[1]} is not a multiple of the tower's side {shape.side}",
                "write multiples of the tower's side, in pixels: [[336, 672], [672, 336]]",
            )
    is_fused = len(model.backbones) > 2  # the projector then gets both towers' features, on the first one's grid
    return Spec(
        vision_width=vision_width,
        language_width=width,
        vocabulary=vocabulary,
        slots_per_image=tokens if is_fused else tried_slots(model.projector, tokens, vision_width, width, budget),
        projector=model.projector,
        template=model.template or "v1",
        feature_layer=model.feature_layer,
        feature_tokens=model.feature_tokens,
        feature_norm=resolve_norm(model.feature_norm, shape, model.space),
        space=model.space,
        image_mode=mode,
        canvases=canvases,
        tokenization=model.tokenization,
        **rules,
    )


def fused_spec(model: Model, specs: Sequence[Spec]) -> Spec:
    """Join the specs of a model's towers; the first decides the grid, and how an image becomes a square."""
    first = specs[0]
    if len(specs) == 1:
        return first
    refused = {"image_mode": "anyres", "feature_tokens": "cls_patch", "space": "joint"}
    for key, value in refused.items():
        if getattr(model, key) == value:
            raise RecipeError(
                f"model.{key}={value}: not possible with two fused towers", f"remove {key}, or name one tower"
            )
    side, width = max(spec.image_side for spec in specs), sum(spec.vision_width for spec in specs)
    return replace(
        first,
        vision_width=width,
        slots_per_image=tried_slots(model.projector, first.slots_per_image, width, first.language_width),
        image_side=side,
        image_resize=round(first.image_resize * side / first.image_side),
        feature_norm=model.feature_norm,
        towers=tuple(TowerInput(spec.image_side, spec.image_mean, spec.image_std, spec.feature_norm) for spec in specs),
    )


def tower_sources(model: Model) -> list[str]:
    """Return the folder or hub name of each tower."""
    return [source_of(name, "vision") for part, name in model.backbones.items() if part != "language"]


def rules_at_hand(source: str) -> ImageRules:
    """Return the image rules of a tower's folder or hub cache; without them, only a usual mean and deviation."""
    folder = source if Path(source).is_dir() else cached_folder(source, "preprocessor_config.json")
    with suppress(RecipeError):
        if folder is not None:
            return image_rules(folder)
    return {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}


def read_spec(model: Model) -> Spec:
    """Read the spec of a recipe's model section from the backbones' configs."""
    language = language_config(source_of(model.language, "language"))
    specs = [
        spec_of(model, vision_config(source), language.hidden_size, language.vocab_size, image_rules(source))
        for source in tower_sources(model)
    ]
    return fused_spec(model, specs)


def build(
    model: Model,
    spec: Spec,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    quantize: int | None = None,
    meta: bool = False,
) -> VisionLanguageModel:
    """Load the backbones of a recipe's model section, and initialise a projector from `seed`.

    Args:
        spec: The spec that `read_spec` returned for `model`.
        quantize: Bits of the language model, 4 or 8.
        meta: Do not load the backbones' weights, but check them in the same way.
    """
    built = VisionLanguageModel(
        load_towers(tower_sources(model), spec, dtype, meta=meta),
        build_projector(spec, seed=seed).to(dtype),
        load_language(source_of(model.language, "language"), dtype, quantize, meta=meta),
        spec,
    )
    if built.newline is not None:  # initialised like LLaVA 1.6's: N(0, 1) / sqrt(width)
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            built.newline.copy_(torch.randn(spec.language_width, generator=rng) / spec.language_width**0.5)
    return built
