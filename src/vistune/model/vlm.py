"""The model: pictures and text in, hidden states out. Image slots stand in the ids before the model sees them.

Batch -> tower -> projector -> one masked scatter into the text's embeddings -> language model -> (tokens, width)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

from vistune.errors import RecipeError
from vistune.model.attention import documents
from vistune.model.cache import Enough, Reading, Stem, Tails
from vistune.model.language import base_of, embed, head_weight, language_config, load_language, run
from vistune.model.lora import has_adapters
from vistune.model.projectors import build_projector
from vistune.model.spec import spec_of
from vistune.model.vision import VisionTower, image_rules, load_tower, vision_config
from vistune.recipe import Model, source_of
from vistune.types import IMAGE_ID, Batch, Spec


class VisionLanguageModel(nn.Module):
    """A vision tower, a projector and a language model; `newline` ends each row of an anyres picture's patches."""

    def __init__(self, vision: VisionTower, projector: nn.Module, language: nn.Module, spec: Spec) -> None:
        super().__init__()
        self.vision = vision
        self.projector = projector
        like = next(projector.parameters(), head_weight(language))  # the newline lies among the projector's rows
        newline = torch.zeros(spec.language_width, dtype=like.dtype)
        self.newline = nn.Parameter(newline) if spec.image_mode == "anyres" else None
        self.language = language
        self.spec = spec

    def forward(self, batch: Batch, at: Tensor | None = None) -> Tensor:
        """Hidden states (tokens, width) of documents from their beginning, or of the positions `at` (n,) alone.

        Trains; answering uses what follows.
        """
        images = self.features(batch)
        rows = self.embed(batch.input_ids, images)
        # A row without pictures scatters none of its blank tile: this keeps the projector in the graph, adding zero.
        rows = rows + 0.0 * images[:1].to(rows.dtype)
        known = documents(batch.starts, rows.device)
        hidden = run(self.language, rows[None], batch.positions[None], at=at, **known)[0]
        return hidden if at is None else hidden.index_select(0, at)

    def features(self, batch: Batch) -> Tensor:
        """(slots, width): what stands in the row's image slots; of a row without pictures, its blank tile's."""
        tiles = self.encode(batch.images)
        if self.newline is None or batch.slots is None:
            flat: Tensor = tiles.flatten(0, 1)
            return flat if self.newline is None else torch.cat([flat, self.newline[None].to(flat.dtype)])
        return self.place(tiles, batch.slots)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (tiles, 3, side, side), or a frozen tower's features, as the language model sees them: (…, width)."""
        features: Tensor = images if images.is_floating_point() else self.vision(images)
        # A frozen tower may lie in bf16 under a projector that learns in fp32, and answers know no autocast.
        tiles: Tensor = self.projector(features.to(next(self.projector.parameters(), features).dtype))
        return tiles

    def place(self, tiles: Tensor, slots: Tensor) -> Tensor:
        """(slots, width): the tile and patch that fill each slot (slots, 2), the newline where the tile is -1."""
        tile, patch = slots.unbind(1)
        placed = tiles[tile.clamp(min=0), patch]
        if self.newline is None:
            return placed
        return torch.where((tile < 0)[:, None], self.newline.to(placed.dtype), placed)

    def embed(self, ids: Tensor, images: Tensor) -> Tensor:
        """(tokens, width): the text's embeddings, with pictures (slots, width) at the image slots."""
        text = embed(self.language, ids.clamp(min=0))
        return text.masked_scatter((ids == IMAGE_ID)[:, None], images.to(text.dtype))

    def read(self, rows: Tensor, reading: Reading) -> Tensor:
        """Hidden states (tokens, width) of a row of embeddings; the reading then holds its keys and values."""
        return run(self.language, rows[None], reading.positions[None], cache=reading, past=reading)[0]

    def read_stem(self, rows: Tensor, stem: Stem | None) -> Stem:
        """A row of embeddings behind a stem, or at the beginning, as one stem."""
        layers = base_of(self.language).config.num_hidden_layers
        reading = Reading([stem], [len(rows)], rows.device, layers)
        with suppress(Enough):
            self.read(rows, reading)
        return reading.stem(0)

    def decode(self, tokens: Tensor, tails: Tails) -> Tensor:
        """Hidden states (rows, width) of one more token (rows,) of each running document; the tails grow by it."""
        positions = tails.prepare()
        rows = embed(self.language, tokens)
        hidden = run(self.language, rows[None], positions[None], cache=tails, past=tails)[0]
        tails.advance()
        return hidden

    @property
    def head(self) -> Tensor:
        """(vocabulary, width)."""
        return head_weight(self.language)

    def parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Parameters by the part that a recipe's `learn` names."""
        language = list(self.language.named_parameters())
        newline = [("newline", self.newline)] if self.newline is not None else []
        return {
            "vision": list(self.vision.named_parameters()),
            "projector": [*self.projector.named_parameters(), *newline],
            "language": [(name, p) for name, p in language if "lora_" not in name],
            "adapters": [(name, p) for name, p in language if "lora_" in name],
        }

    def projector_state(self, *, keep_vars: bool = False) -> dict[str, Tensor]:
        """The projector's tensors, and the newline beside them; `keep_vars`: the parameters themselves."""
        newline = {} if self.newline is None else {"newline": self.newline if keep_vars else self.newline.detach()}
        return {**self.projector.state_dict(keep_vars=keep_vars), **newline}

    def load_projector(self, state: Mapping[str, Tensor]) -> None:
        """Take what `projector_state` gave. Raises RuntimeError naming what is missing, extra or of another shape."""
        rest = dict(state)
        if self.newline is not None:
            given = rest.pop("newline", None)
            if given is None or given.shape != self.newline.shape:
                found = "missing" if given is None else f"{tuple(given.shape)}"
                raise RuntimeError(f"newline is {found}, {tuple(self.newline.shape)} is wanted")
            with torch.no_grad():
                self.newline.copy_(given)
        self.projector.load_state_dict(rest)

    def set_learning(self, learning: Collection[str]) -> None:
        """Freeze every part but these; frozen parts are in evaluation mode."""
        for part, parameters in self.parts().items():
            if part in learning and not parameters:
                raise RecipeError(f"learn.{part}: this model has no such part", "remove it from `learn`")
            for _, parameter in parameters:
                parameter.requires_grad_(part in learning)
        self.vision.train("vision" in learning)
        self.projector.train("projector" in learning)
        self.language.train("language" in learning or "adapters" in learning)

    def set_recompute(self, parts: Collection[str]) -> None:
        """Activation checkpointing: layers of these parts keep only their inputs and compute the rest again."""
        towers = {"vision": self.vision.tower, "language": base_of(self.language)}
        for part, module in towers.items():
            if part in parts:
                module.activation_checkpointing_enable({"use_reentrant": False})
            elif module.is_activation_checkpointing:
                module.activation_checkpointing_disable()

    @property
    def adapted(self) -> bool:
        return has_adapters(self.language)


def read_spec(model: Model) -> Spec:
    """What processor and model must agree on, from the backbones' configs: no weights are read."""
    vision_source = source_of(model.vision, "vision")
    vision = vision_config(vision_source)
    language = language_config(source_of(model.language, "language"))
    return spec_of(model, vision, language.hidden_size, language.vocab_size, image_rules(vision_source))


def build(
    model: Model,
    spec: Spec,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    quantize: int | None = None,
    meta: bool = False,
) -> VisionLanguageModel:
    """The backbones with their weights and a fresh projector; `quantize`: bits of the language model, 4 or 8.

    `meta`: do not load the backbones' weights, but check them in the same way.
    """
    made = VisionLanguageModel(
        load_tower(source_of(model.vision, "vision"), spec, dtype, meta=meta),
        build_projector(spec, seed=seed).to(dtype),
        load_language(source_of(model.language, "language"), dtype, quantize, meta=meta),
        spec,
    )
    if made.newline is not None:  # N(0, 1) / sqrt(width), as LLaVA 1.6 begins it
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            made.newline.copy_(torch.randn(spec.language_width, generator=chance) / spec.language_width**0.5)
    return made
