"""The model on packed rows equals stock transformers on single documents; loss, gradients and parts are exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vistune.errors import RecipeError
from vistune.model import VisionLanguageModel, build, next_token_loss, read_spec
from vistune.recipe import Model
from vistune.types import IGNORE, IMAGE_ID, Batch


@pytest.fixture
def model(tiny_backbones: Path) -> VisionLanguageModel:
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    return build(recipe, read_spec(recipe), seed=0)


def document(length: int, image: bool, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids, labels (the last half learnt), tiles."""
    chance = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 400, (length,), generator=chance)
    if image:
        ids = torch.cat([ids[:2], torch.full((4,), IMAGE_ID), ids[2:]])
    labels = ids.clone()
    labels[: len(ids) // 2] = IGNORE
    labels[ids == IMAGE_ID] = IGNORE
    tiles = torch.randint(0, 256, (1, 3, 32, 32), generator=chance, dtype=torch.uint8)
    return ids, labels, tiles if image else tiles[:0]


def pack(documents: list[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    lengths = [len(ids) for ids, _, _ in documents]
    images = torch.cat([tiles for _, _, tiles in documents])
    labels = torch.cat([labels for _, labels, _ in documents])
    return Batch(
        input_ids=torch.cat([ids for ids, _, _ in documents]),
        labels=labels,
        positions=torch.cat([torch.arange(n) for n in lengths]),
        starts=torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32),
        images=images if len(images) else torch.zeros((1, 3, 32, 32), dtype=torch.uint8),
        supervised=int((labels != IGNORE).sum()),
    )


def loss_of(model: VisionLanguageModel, batch: Batch) -> tuple[Tensor, int]:
    loss = next_token_loss(model(batch), model.head, batch.labels, batch.starts)
    return loss.sum, loss.count


def test_packed_and_separate_documents_give_the_same_loss_and_gradients(model: VisionLanguageModel) -> None:
    documents = [document(9, True, 1), document(14, False, 2), document(6, True, 3)]
    model.set_trainable({"vision", "projector", "language"})
    total, count = loss_of(model, pack(documents))
    total.backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    apart = [loss_of(model, pack([one])) for one in documents]
    for loss, _ in apart:
        loss.backward()
    assert count == sum(n for _, n in apart)
    torch.testing.assert_close(total, sum(loss for loss, _ in apart), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        if name in together and parameter.grad is not None:
            torch.testing.assert_close(together[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_the_loss_is_plain_shifted_cross_entropy(model: VisionLanguageModel) -> None:
    batch = pack([document(20, False, 4)])
    logits = model.head.logits(model(batch))
    wanted = torch.nn.functional.cross_entropy(
        logits[:-1].float(), batch.labels[1:], reduction="sum", ignore_index=IGNORE
    )
    total, count = loss_of(model, batch)
    torch.testing.assert_close(total, wanted)
    assert count == int((batch.labels[1:] != IGNORE).sum())


def test_a_row_without_pictures_keeps_a_gradient_on_every_part_and_its_text_bit_equal(
    model: VisionLanguageModel,
) -> None:
    batch = pack([document(8, False, 5)])
    model.set_trainable({"vision", "projector", "language"})
    stock = model.language.get_decoder()
    hidden = model(batch)
    embedded = model.language.get_input_embeddings()(batch.input_ids)
    alone = stock(inputs_embeds=embedded[None], position_ids=batch.positions[None], starts=[0, 8]).last_hidden_state[0]
    assert torch.equal(hidden, alone)
    hidden.sum().backward()
    assert all(p.grad is not None for p in model.projector.parameters())
    assert all(p.grad is not None for name, p in model.vision.named_parameters() if "post_layernorm" not in name)


def test_a_picture_changes_what_follows_it_and_nothing_before(model: VisionLanguageModel) -> None:
    ids, labels, tiles = document(9, True, 6)
    a, b = model(pack([(ids, labels, tiles)])), model(pack([(ids, labels, 255 - tiles)]))
    assert torch.equal(a[:2], b[:2])
    assert not torch.allclose(a[6:], b[6:])


def test_layers_behind_the_feature_layer_are_gone(model: VisionLanguageModel, tiny_backbones: Path) -> None:
    from transformers import CLIPVisionModel

    stock = CLIPVisionModel.from_pretrained(tiny_backbones / "vision")
    tile = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(value)[:, None, None] for value in (model.spec.image_mean, model.spec.image_std))
    wanted = stock((tile / 255 - mean) / std, output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(model.vision(tile), wanted, atol=1e-5, rtol=1e-5)
    assert model.vision.shape.kept == len(model.vision.layers()) == 2


def test_only_what_a_stage_names_learns(model: VisionLanguageModel) -> None:
    model.set_trainable({"projector"})
    assert {part for part, ps in model.parts().items() if any(p.requires_grad for _, p in ps)} == {"projector"}
    assert not model.language.training
    with pytest.raises(RecipeError, match=r"learn\.adapters"):
        model.set_trainable({"adapters"})


def test_the_same_seed_gives_the_same_projector(tiny_backbones: Path) -> None:
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    spec = read_spec(recipe)
    a, b, c = (build(recipe, spec, seed=seed).projector[0].weight for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_backbone_that_is_not_there_is_named() -> None:
    with pytest.raises(RecipeError, match="no/such/folder"):
        read_spec(Model(vision="no/such/folder", language="no/such/folder"))


def test_siglip_towers_are_read(tmp_path: Path, tiny_backbones: Path) -> None:
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    stock = SiglipVisionModel(SiglipVisionConfig(**size, image_size=32, patch_size=16)).eval()
    stock.save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    recipe = Model(vision=str(tmp_path), language=str(tiny_backbones / "language"))
    model = build(recipe, read_spec(recipe), seed=0)
    tile = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    wanted = stock(tile / 127.5 - 1, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(model.vision(tile), wanted, atol=1e-5, rtol=1e-5)
