"""Where an answer looked: against transformers' own attentions, and where the patches lie in the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference import Bench, image

from vistune.errors import DataError
from vistune.generation import answered_prompt, compute_attention_maps
from vistune.generation.attention_maps import AnsweredPrompt
from vistune.model import VisionLanguageModel, build, read_spec
from vistune.processor import Processor, collate, load_tiles, load_tokenizer, views_of
from vistune.recipe import Model
from vistune.types import ImageRef, Message, Spec

ANSWER = "The circle is red, 사각형은 파란색입니다."


def asked(*parts: str | Image.Image) -> list[Message]:
    return [Message("user", tuple(part if isinstance(part, str) else ImageRef(part) for part in parts))]


def stock_weights(bench: Bench, given: AnsweredPrompt) -> torch.Tensor:
    """(answer tokens, tokens): transformers' `output_attentions`, mean over heads and the later half of the layers."""
    with torch.no_grad():
        rows = bench.model.embed(given.example.input_ids, bench.model.features(collate([given.example])))
        found = bench.stock(inputs_embeds=rows[None], output_attentions=True).attentions
    layers = torch.stack(found)[len(found) // 2 :, 0]
    return layers.mean(dim=(0, 1))[given.answer.start - 1 : given.answer.stop - 1]


@pytest.mark.parametrize("kind", ["grouped heads", "sliding window", "anyres"])
def test_weights_are_those_of_transformers(make_bench: Callable[[str], Bench], kind: str) -> None:
    bench = make_bench(kind)
    messages = [
        *asked(image(1), "What is it?"),
        Message("assistant", ("a star",)),
        *asked("And", image(2, (50, 20)), "or", image(3, (32, 90)), "?"),
    ]
    given = answered_prompt(bench.processor, messages, ANSWER)
    found = compute_attention_maps(bench.model, bench.processor, given)
    stock = stock_weights(bench, given)
    assert len(found.images) == 3
    for views, (start, stop) in zip(found.images, given.spans, strict=True):
        assert (given.example.input_ids[start:stop] < 0).all()
        for seen in views:
            assert seen.weights.shape == (len(given.answer), seen.view.rows, seen.view.columns)
            wanted = stock[:, start:stop][:, seen.view.slots].reshape(seen.weights.shape)
            torch.testing.assert_close(seen.weights, wanted, atol=1e-6, rtol=1e-5)
    assert stock.sum(dim=1).allclose(torch.ones(len(stock)))


def test_tokens_add_up_to_the_answer(make_bench: Callable[[str], Bench]) -> None:
    bench = make_bench("grouped heads")
    given = answered_prompt(bench.processor, asked(image(1), "What is it?"), f"  {ANSWER}\n")
    found = compute_attention_maps(bench.model, bench.processor, given)
    assert "".join(found.tokens) == ANSWER
    assert len(found.tokens) == len(given.answer)


def test_an_answer_looks_alike_whatever_is_cut_off_behind_it(make_bench: Callable[[str], Bench]) -> None:
    """A token saw nothing of what came later: an answer that was stopped is looked at as far as it went."""
    bench = make_bench("anyres")
    messages = asked(image(4), "What is it?")
    whole, part = (
        compute_attention_maps(bench.model, bench.processor, answered_prompt(bench.processor, messages, text))
        for text in ("The circle is red.", "The circle")
    )
    count = len(part.tokens)
    assert whole.tokens[:count] == part.tokens
    for mine, others in zip(part.images[0], whole.images[0], strict=True):
        torch.testing.assert_close(mine.weights, others.weights[:count], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("messages", "answer", "said"),
    [
        (asked("What is it?"), "red", "no image"),
        (asked(image(1), "What is it?"), " \n", "empty"),
        ([*asked(image(1), "a"), *asked("b")], "red", "alternate"),
    ],
)
def test_nothing_to_look_at(
    make_bench: Callable[[str], Bench], messages: list[Message], answer: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        answered_prompt(make_bench("grouped heads").processor, messages, answer)


def made(backbones: Path, **changes: object) -> tuple[VisionLanguageModel, Processor]:
    recipe = Model(vision=str(backbones / "vision"), language=str(backbones / "language"), **changes)
    spec = read_spec(recipe)
    return build(recipe, spec, seed=0).eval(), Processor(load_tokenizer(backbones / "language"), spec)


def test_the_class_token_is_in_no_grid(tiny_backbones: Path) -> None:
    model, processor = made(tiny_backbones, feature_tokens="cls_patch")
    given = answered_prompt(processor, asked(image(1), "What is it?"), "red")
    (seen,) = compute_attention_maps(model, processor, given).images[0]
    assert given.spans[0][1] - given.spans[0][0] == 5
    assert seen.view.slots.tolist() == [1, 2, 3, 4]
    assert seen.weights.shape[1:] == (2, 2)


@pytest.mark.parametrize("mode", ["square", "stretch", "pad", "anyres"])
@pytest.mark.parametrize("size", [(64, 64), (160, 64), (60, 150), (97, 41), (33, 100)])
def test_patches_lie_where_their_pixels_come_from(tiny_backbones: Path, mode: str, size: tuple[int, int]) -> None:
    """A picture whose colours tell the place: the middle of each patch shows the colour of where its box says it is."""
    canvases = ((64, 128), (128, 64), (128, 128)) if mode == "anyres" else ()
    spec = replace(
        read_spec(Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))),
        image_side=64, slots_per_image=16, image_mode="square" if mode == "stretch" else mode,
        image_fit="stretch" if mode == "stretch" else "crop", canvases=canvases,
    )  # fmt: skip
    width, height = size
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([(x + 0.5) / width * 255, (y + 0.5) / height * 255, np.full(x.shape, 255)], axis=-1)
    shown = ImageRef(Image.fromarray(ramp.round().astype(np.uint8)))
    tiles = load_tiles(shown, spec).float()
    for number, view in enumerate(views_of(size, spec)):
        x0, y0, x1, y1 = view.box
        compared = 0
        for row in range(view.rows):
            for column in range(view.columns):
                at = np.array([x0 + (x1 - x0) * (column + 0.5) / view.columns,
                               y0 + (y1 - y0) * (row + 0.5) / view.rows])  # fmt: skip
                if not ((at > 0.1) & (at < 0.9)).all():
                    continue  # what was added around the picture, and the edges that resizing smears
                red, green, _ = patch_colour(tiles, spec, view.slots[row * view.columns + column], size, number)
                compared += 1
                # A pixel of the tile on either side: resized sizes are whole pixels.
                assert abs(np.array([red, green]) / 255 - at).max() < 1.5 / min(64, *size) + 0.02
        assert compared >= 2


def patch_colour(tiles: torch.Tensor, spec: Spec, slot: torch.Tensor, size: tuple[int, int], view: int) -> list[float]:
    """The colour in the middle of the patch that fills a slot."""
    from vistune.processor.tiles import anyres_slots

    tile, patch = (0, int(slot)) if view == 0 else anyres_slots(size, spec)[int(slot)].tolist()
    row, column = divmod(patch, 4)
    middle = tiles[tile, :, row * 16 + 7 : row * 16 + 9, column * 16 + 7 : column * 16 + 9]
    return middle.mean(dim=(1, 2)).tolist()


def test_slots_that_lie_in_no_grid_are_refused_by_name(tiny_backbones: Path) -> None:
    spec = read_spec(Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language")))
    with pytest.raises(DataError, match="7 slots"):
        views_of((64, 64), replace(spec, slots_per_image=7))
