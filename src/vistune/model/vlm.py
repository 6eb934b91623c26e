"""The model: pictures and text in, hidden states out. Image slots stand in the ids before the model sees them.

Batch -> tower -> projector -> one masked scatter into the text's embeddings -> language model -> (tokens, width)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import RecipeError
from vistune.model.attention import DocumentCache
from vistune.model.language import embed, head_weight, language_config, load_language, run
from vistune.model.lora import has_adapters
from vistune.model.projectors import build_projector
from vistune.model.vision import VisionTower, load_tower, slots, vision_config
from vistune.recipe import Model, source_of
from vistune.types import IMAGE_ID, Batch, Spec


class VisionLanguageModel(nn.Module):
    """A vision tower, a projector and a language model."""

    def __init__(self, vision: VisionTower, projector: nn.Module, language: nn.Module, spec: Spec) -> None:
        super().__init__()
        self.vision = vision
        self.projector = projector
        self.language = language
        self.spec = spec

    def forward(self, batch: Batch, cache: DocumentCache | None = None) -> Tensor:
        """Hidden states, one row per token. Trains and prefills; `decode` needs only the language model."""
        text = embed(self.language, batch.input_ids.clamp(min=0))
        pictures = self.projector(self.vision(batch.images)).flatten(0, 1).to(text.dtype)
        rows = text.masked_scatter((batch.input_ids == IMAGE_ID)[:, None], pictures)
        # A row without pictures scatters none of its blank tile: this keeps the projector in the graph, adding zero.
        rows = rows + 0.0 * pictures[:1]
        starts = [int(start) for start in batch.starts]
        return run(self.language, rows[None], batch.positions[None], starts=starts, cache=cache)[0]

    def decode(self, tokens: Tensor, cache: DocumentCache) -> Tensor:
        """Hidden states (sequences, width) of one more token each; the cache grows by it."""
        device = tokens.device
        cache.filled = True
        positions = cache.lengths.to(device)[:, None]
        hidden = run(
            self.language,
            embed(self.language, tokens)[:, None],
            positions,
            decode_mask=cache.decode_mask(device),
            cache=cache,
        )
        cache.lengths = cache.lengths + 1
        return hidden[:, 0]

    @property
    def head(self) -> Tensor:
        """(vocabulary, width)."""
        return head_weight(self.language)

    def parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Parameters by the part that a recipe's `learn` names."""
        language = list(self.language.named_parameters())
        return {
            "vision": list(self.vision.named_parameters()),
            "projector": list(self.projector.named_parameters()),
            "language": [(name, p) for name, p in language if "lora_" not in name],
            "adapters": [(name, p) for name, p in language if "lora_" in name],
        }

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

    @property
    def adapted(self) -> bool:
        return has_adapters(self.language)


def read_spec(model: Model) -> Spec:
    """What processor and model must agree on, from the backbones' configs: no weights are read."""
    vision_source = source_of(model.vision, "vision")
    vision = vision_config(vision_source)
    language = language_config(source_of(model.language, "language"))
    mean, std = _normalisation(vision_source)
    if model.projector == "identity" and vision.hidden_size != language.hidden_size:
        raise RecipeError(
            f"model.projector=identity: the tower's width {vision.hidden_size} is not the language model's "
            f"{language.hidden_size}",
            "use linear or mlp2x_gelu",
        )
    return Spec(
        vision_width=vision.hidden_size,
        language_width=language.hidden_size,
        vocabulary=language.vocab_size,
        slots_per_image=slots(vision, model.feature_tokens),
        image_side=vision.image_size,
        image_mean=mean,
        image_std=std,
        projector=model.projector,
        template=model.template,
        feature_layer=model.feature_layer,
        feature_tokens=model.feature_tokens,
        image_mode=model.image_mode,
    )


def _normalisation(source: str) -> tuple[Any, Any]:
    """Mean and standard deviation that the tower was trained with, from its image processor's file."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    return tuple(processor.image_mean), tuple(processor.image_std)


def build(model: Model, spec: Spec, *, seed: int, dtype: torch.dtype = torch.float32) -> VisionLanguageModel:
    """The backbones with their weights and a fresh projector."""
    return VisionLanguageModel(
        load_tower(source_of(model.vision, "vision"), spec, dtype),
        build_projector(spec, seed=seed).to(dtype),
        load_language(source_of(model.language, "language"), dtype),
        spec,
    )
