"""A row of several pictures in tiles: packed as apart, placed as transformers places them, answered as alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from stock_tiles import noise, placed_by_transformers
from torch import Tensor

from vistune.errors import RecipeError
from vistune.generation import Assistant, generate
from vistune.model import VisionLanguageModel, build, next_token_loss, read_spec
from vistune.processor import Processor, collate, load_tiles, load_tokenizer
from vistune.processor.images import image_size
from vistune.processor.tiles import NEWLINE, anyres_slots, choose_canvas, slots_of
from vistune.recipe import Model
from vistune.types import IMAGE_ID, Example, ImageRef, Message, Sample


@pytest.fixture(scope="module")
def assistant(tiny_backbones: Path) -> Assistant:
    """Tiles of 32 pixels with 2 x 2 patches."""
    return make(tiny_backbones)


def make(tiny_backbones: Path, **changes: object) -> Assistant:
    settings = Model.model_validate(
        {
            "vision": str(tiny_backbones / "vision"),
            "language": str(tiny_backbones / "language"),
            "image_mode": "anyres",
            **changes,
        }
    )
    spec = read_spec(settings)
    processor = Processor(load_tokenizer(settings.language), spec)
    processor.check()
    return Assistant(build(settings, spec, seed=0).eval(), processor)


def sample(*images: tuple[int, int]) -> Sample:
    parts = [ImageRef(noise(size, seed)) for seed, size in enumerate(images)]
    asked = Message("user", (*parts, "What colour is the circle?"))
    return Sample("s", (asked, Message("assistant", ("red and blue",))))


SAMPLES = [sample((90, 40), (40, 90)), sample(), sample((64, 64)), sample((200, 30))]


def loss_of(model: VisionLanguageModel, examples: list[Example]) -> Tensor:
    batch = collate(examples)
    return next_token_loss(model(batch), model.head, batch.labels, batch.starts).sum


@pytest.mark.parametrize("projector", ["mlp2x_gelu", "pool2x2_mlp2x_gelu"])
def test_packed_and_separate_rows_learn_the_same(projector: str, tiny_backbones: Path) -> None:
    assistant = make(tiny_backbones, projector=projector)
    model = assistant.model
    examples = [assistant.processor.encode(one) for one in SAMPLES]
    model.set_trainable({"vision", "projector", "language"})
    total = loss_of(model, examples)
    total.backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert float(together["newline"].abs().sum()) > 0
    model.zero_grad()
    apart = [loss_of(model, [example]) for example in examples]
    for loss in apart:
        loss.backward()
    torch.testing.assert_close(total, torch.stack(apart).sum(), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in together)
        if parameter.grad is not None:
            torch.testing.assert_close(together[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_row_without_pictures_gives_every_part_a_gradient_and_changes_no_text(assistant: Assistant) -> None:
    model = assistant.model
    model.set_trainable({"vision", "projector", "language"})
    model.zero_grad()
    batch = collate([assistant.processor.encode(sample())])
    assert batch.slots is None
    hidden = model(batch)
    embedded = model.language.get_input_embeddings()(batch.input_ids)[None]
    alone = model.language.get_decoder()(
        inputs_embeds=embedded, position_ids=batch.positions[None], starts=batch.starts.tolist()
    )
    assert torch.equal(hidden, alone.last_hidden_state[0])
    hidden.sum().backward()
    parts = model.parts()["projector"]
    assert "newline" in dict(parts)
    assert all(parameter.grad is not None and not parameter.grad.any() for _, parameter in parts)


def test_a_rows_features_equal_transformers_packing(assistant: Assistant) -> None:
    model, spec = assistant.model, assistant.processor.spec
    with torch.no_grad():
        batch = collate([assistant.processor.encode(one) for one in SAMPLES])
        tiles = model.projector(model.vision(batch.images))
        wanted, begin = [], 0
        for size in [(90, 40), (40, 90), (64, 64), (200, 30)]:
            width, height = choose_canvas(size, spec.canvases)
            count = 1 + width * height // 32**2
            wanted.append(placed_by_transformers(tiles[begin : begin + count], size, spec, model.newline))
            begin += count
        assert begin == len(batch.images)
        assert torch.equal(model.features(batch), torch.cat(wanted))
        assert int((batch.input_ids == IMAGE_ID).sum()) == sum(map(len, wanted))


def test_tiles_are_counted_over_a_sample_and_over_a_row(assistant: Assistant) -> None:
    spec = assistant.processor.spec
    batch = collate([assistant.processor.encode(one) for one in SAMPLES])
    begin, expected = 0, []
    for size in [(90, 40), (40, 90), (64, 64), (200, 30)]:
        expected += [
            (tile if tile == NEWLINE else tile + begin, patch) for tile, patch in anyres_slots(size, spec).tolist()
        ]
        begin += len(load_tiles(ImageRef(noise(size)), spec))
    assert batch.slots is not None
    assert [tuple(slot) for slot in batch.slots.tolist()] == expected
    again = collate([assistant.processor.encode(one) for one in SAMPLES])  # the cached slots were not written into
    assert again.slots is not None
    assert torch.equal(again.slots, batch.slots)


def test_answers_in_company_are_the_answers_alone(assistant: Assistant) -> None:
    prompts = [assistant.processor.encode_prompt(one.messages[:1]) for one in SAMPLES]
    together = generate(assistant.model, assistant.processor, prompts, max_tokens=8)
    apart = [generate(assistant.model, assistant.processor, [prompt], max_tokens=8)[0] for prompt in prompts]
    assert together == apart
    image = noise((90, 40))
    assert assistant.ask(image, "Where?", max_tokens=5) == "".join(assistant.stream(image, "Where?", max_tokens=5))


def test_a_picture_is_seen_tile_by_tile(assistant: Assistant) -> None:
    """A change in the right bottom corner changes the logits behind the image, and a change of size the length."""
    image, other = noise((90, 40)), noise((90, 40))
    other.paste((0, 0, 0), (70, 30, 90, 40))
    logits = [assistant.logits(turns_about(shown_image)) for shown_image in (image, other)]
    assert not torch.allclose(logits[0][-1], logits[1][-1])
    assert len(assistant.logits(turns_about(noise((90, 30))))) != len(logits[0])


def turns_about(image: Image.Image) -> list[Message]:
    return [Message("user", (ImageRef(image), "Where?")), Message("assistant", ("yes",))]


@pytest.mark.parametrize("canvas", [(32, 33), (48, 32), (31, 64)])
def test_canvases_not_made_of_tiles_are_refused(canvas: tuple[int, int], tiny_backbones: Path) -> None:
    refusal = rf"model\.canvases: {canvas[0]}x{canvas[1]} is not a multiple of the tower's side 32"
    with pytest.raises(RecipeError, match=refusal):
        make(tiny_backbones, canvases=[(32, 64), canvas])


def test_anyres_joins_patches_only(tiny_backbones: Path) -> None:
    with pytest.raises(RecipeError, match=r"image_mode=anyres needs features of patches only"):
        make(tiny_backbones, feature_tokens="cls_patch")


def test_own_canvases_and_shorter_tiles(tiny_backbones: Path) -> None:
    own = make(tiny_backbones, canvases=[(32, 32), (128, 32)]).processor
    assert own.spec.canvases == ((32, 32), (128, 32))
    assert own.encode(sample((300, 60))).images.shape[0] == 1 + 4
    pooled = make(tiny_backbones, projector="pool2x2_mlp2x_gelu").processor
    assert pooled.spec.slots_per_image == 1
    assert slots_of(ImageRef(noise((64, 64))), pooled.spec) == 1 + 2 * (2 + 1)


def test_a_picture_too_thin_for_a_row_of_patches_keeps_its_overview(assistant: Assistant) -> None:
    image = ImageRef(noise((400, 4)))
    slots = anyres_slots(image_size(image), assistant.processor.spec)
    assert slots[:4].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert not (slots[4:, 0] == 0).any()
    assert assistant.ask(image.source, "Where?", max_tokens=2) is not None
