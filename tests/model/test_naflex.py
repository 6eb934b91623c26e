"""SigLIP 2 NaFlex: each image keeps its aspect ratio, features are transformers' own, and tokens are planned."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from tiny_towers import NAFLEX_PATCHES, naflex
from torch import Tensor, nn
from transformers import Siglip2ImageProcessorPil, Siglip2VisionModel
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

from vistune.errors import RecipeError
from vistune.generation import Assistant, generate
from vistune.generation.attention_maps import answered_prompt, compute_attention_maps
from vistune.generation.sequence import hash_prompt
from vistune.model import VisionLanguageModel, build, next_token_loss, read_spec
from vistune.model.projectors import Projector
from vistune.processor import Processor, collate, load_tiles, load_tokenizer
from vistune.processor.patch_grids import grid_of
from vistune.processor.processor import read_spec_file
from vistune.processor.tiles import grids_of_sizes, slots_of
from vistune.recipe import Model
from vistune.types import IMAGE_ID, Example, ImageRef, Message, PatchBudget, Sample, Spec

SHAPES = ((64, 64), (200, 30), (25, 130), (5, 3))  # width, height: square, wide, tall, tiny
PATCH = 8
OWN_PROJECTOR = Projector(nn.Linear)
OWN_PROJECTOR_OF_PATCHES = Projector(nn.Linear, cell=1)

Make = Callable[..., Assistant]


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def make(towers: Path, tiny_backbones: Path) -> Make:
    def make_assistant(vision: Path = towers / "naflex", **changes: Any) -> Assistant:
        tree = {"vision": str(vision), "language": str(tiny_backbones / "language"), **changes}
        settings = Model.model_validate(tree)
        spec = read_spec(settings)
        processor = Processor(load_tokenizer(settings.language), spec)
        processor.check()
        return Assistant(build(settings, spec, seed=0).eval(), processor)

    return make_assistant


def sample(*images: Image.Image) -> Sample:
    asked = Message("user", (*map(ImageRef, images), "What colour is the circle?"))
    return Sample("s", (asked, Message("assistant", ("red and blue",))))


def samples() -> list[Sample]:
    square, wide, tall, tiny = (noise(size, seed) for seed, size in enumerate(SHAPES))
    return [sample(wide, tall), sample(), sample(square), sample(tiny)]


@given(
    size=st.tuples(st.integers(2, 3000), st.integers(2, 3000)),
    patch=st.sampled_from((14, 16)),
    most=st.integers(1, 1024),
)
def test_a_grid_is_that_of_transformers(size: tuple[int, int], patch: int, most: int) -> None:
    rows, columns = grid_of(size, PatchBudget(patch, most))
    height, width = get_image_size_for_max_num_patches(size[1], size[0], patch, most)
    assert (rows * patch, columns * patch) == (height, width)
    assert rows * columns <= most


@given(size=st.tuples(st.integers(2, 3000), st.integers(2, 3000)), most=st.integers(4, 1024))
def test_a_grid_of_cells_has_even_sides_within_the_budget(size: tuple[int, int], most: int) -> None:
    rows, columns = grid_of(size, PatchBudget(16, most, cell=2))
    assert rows % 2 == columns % 2 == 0
    assert rows * columns <= most


@pytest.mark.parametrize("feature_layer", [-1, -2, (-1, -3)])
def test_features_are_transformers_own_on_images_of_four_shapes(
    feature_layer: int | tuple[int, ...], make: Make, towers: Path
) -> None:
    assistant = make(feature_layer=feature_layer)
    images = [noise(size, seed) for seed, size in enumerate(SHAPES)]
    stock = Siglip2ImageProcessorPil.from_pretrained(towers / "naflex")(images, return_tensors="pt")
    tower = Siglip2VisionModel.from_pretrained(towers / "naflex").eval()
    with torch.no_grad():
        states = tower(**stock, output_hidden_states=True).hidden_states
    layers = (feature_layer,) if isinstance(feature_layer, int) else feature_layer
    expected = torch.cat([states[layer] for layer in layers], dim=-1)
    spec = assistant.processor.spec
    grids = grids_of_sizes(SHAPES, spec)
    assert grids is not None
    assert torch.equal(grids, torch.as_tensor(stock["spatial_shapes"]))
    assert len({tuple(grid) for grid in grids.tolist()}) == len(SHAPES)
    tiles = torch.cat([load_tiles(ImageRef(image), spec) for image in images])
    with torch.no_grad():
        features = assistant.model.vision(tiles, grids)
    assert features.shape == (len(SHAPES), NAFLEX_PATCHES, spec.vision_width)
    for ours, theirs, count in zip(features, expected, grids.prod(1).tolist(), strict=True):
        torch.testing.assert_close(ours[:count], theirs[:count], atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_features_do_not_depend_on_the_tiles_beside_them(make: Make) -> None:
    """Also if no other tile has padding, for which transformers leaves the attention mask out."""
    model, spec = make().model, make().processor.spec
    full, padded = noise((PATCH * 11, PATCH * 2)), noise((64, 64))
    grids = grids_of_sizes([full.size, padded.size], spec)
    assert grids is not None
    assert grids.prod(1).tolist() == [NAFLEX_PATCHES, 16]
    tiles = torch.cat([load_tiles(ImageRef(image), spec) for image in (full, padded)])
    together = model.encode(tiles, grids)
    for k in range(2):
        alone = model.encode(tiles[k : k + 1], grids[k : k + 1])[0]
        count = int(grids[k].prod())
        torch.testing.assert_close(together[k, :count], alone[:count], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("projector", ["mlp2x_gelu", "pool2x2_mlp2x_gelu", "shuffle2x2_mlp2x_gelu"])
def test_tokens_planned_from_the_header_are_the_tokens_made(projector: str, make: Make, tmp_path: Path) -> None:
    assistant = make(projector=projector)
    spec, cell = assistant.processor.spec, 1 if projector == "mlp2x_gelu" else 2
    assert spec.slots_per_image == NAFLEX_PATCHES // cell**2
    for seed, size in enumerate(SHAPES):
        for orientation in (1, 6):  # upright, and stored on its side
            path = tmp_path / f"{seed}-{orientation}.jpg"
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = orientation
            noise(size, seed).save(path, exif=exif)
            image = ImageRef(path)
            upright = size if orientation == 1 else size[::-1]
            rows, columns = grid_of(upright, PatchBudget(PATCH, NAFLEX_PATCHES, cell))
            batch = collate([assistant.processor.encode(sample_of(image))])
            assert slots_of(image, spec) == rows * columns // cell**2
            assert int((batch.input_ids == IMAGE_ID).sum()) == len(assistant.model.features(batch)) == slots_of(
                image, spec
            )  # fmt: skip
            assert batch.images[0, rows * columns - 1].any()
            assert not batch.images[0, rows * columns :].any()


def sample_of(image: ImageRef) -> Sample:
    return Sample("s", (Message("user", (image, "Where?")), Message("assistant", ("here",))))


@pytest.mark.parametrize("projector", ["pool2x2_mlp2x_gelu", "shuffle2x2_mlp2x_gelu"])
def test_a_projector_that_joins_patches_joins_neighbours_of_each_images_grid(projector: str, make: Make) -> None:
    model, spec = make(projector=projector).model, make(projector=projector).processor.spec
    grids = grids_of_sizes(SHAPES, spec)
    assert grids is not None
    tiles = torch.cat([load_tiles(ImageRef(noise(size)), spec) for size in SHAPES])
    with torch.no_grad():
        slots, features = model.encode(tiles, grids), model.vision(tiles, grids)
        for k, (rows, columns) in enumerate(grids.tolist()):
            cells = features[k, : rows * columns].reshape(rows // 2, 2, columns // 2, 2, -1).transpose(1, 2)
            cells = cells.reshape(rows * columns // 4, 4, -1)
            joined = cells.flatten(1) if "shuffle" in projector else cells.mean(1)
            torch.testing.assert_close(slots[k, : len(joined)], model.projector[1](joined), atol=1e-5, rtol=1e-5)


def loss_of(model: VisionLanguageModel, examples: list[Example]) -> Tensor:
    batch = collate(examples)
    return next_token_loss(model(batch), model.head, batch.labels, batch.starts).sum


@pytest.mark.parametrize("projector", ["mlp2x_gelu", "shuffle2x2_mlp2x_gelu"])
def test_packed_and_separate_rows_learn_the_same(projector: str, make: Make) -> None:
    assistant = make(projector=projector)
    model = assistant.model
    examples = [assistant.processor.encode(one) for one in samples()]
    assert len({tuple(grid) for example in examples for grid in example.grids.tolist()}) >= 3
    model.set_trainable({"vision", "projector", "language"})
    total = loss_of(model, examples)
    total.backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert float(together["vision.tower.embeddings.position_embedding.weight"].abs().sum()) > 0
    model.zero_grad()
    apart = [loss_of(model, [example]) for example in examples]
    for loss in apart:
        loss.backward()
    torch.testing.assert_close(total, torch.stack(apart).sum(), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in together)
        if parameter.grad is not None:
            torch.testing.assert_close(together[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_row_without_images_gives_every_part_a_gradient_of_zero(make: Make) -> None:
    assistant = make(projector="shuffle2x2_mlp2x_gelu")
    model = assistant.model
    model.set_trainable({"vision", "projector", "language"})
    batch = collate([assistant.processor.encode(sample())])
    assert batch.slots is None
    model(batch).sum().backward()
    for part in ("vision", "projector"):
        assert all(p.grad is not None and not p.grad.any() for _, p in model.parts()[part])


def test_answers_in_company_are_the_answers_alone(make: Make) -> None:
    assistant = make()
    prompts = [assistant.processor.encode_prompt(one.messages[:1]) for one in samples()]
    together = generate(assistant.model, assistant.processor, prompts, max_tokens=8)
    apart = [generate(assistant.model, assistant.processor, [prompt], max_tokens=8)[0] for prompt in prompts]
    assert together == apart


def test_equal_patches_in_another_grid_are_another_image(make: Make) -> None:
    """A prefix of the one must not answer questions about the other."""
    assistant = make()
    codes = []
    for size in ((PATCH * 11, PATCH * 2), (PATCH * 2, PATCH * 11)):
        prompt = assistant.processor.encode_prompt(sample(Image.new("RGB", size)).messages[:1])
        codes.append(hash_prompt(prompt).codes)
    assert codes[0].shape == codes[1].shape
    assert not np.array_equal(*codes)


def test_attention_maps_have_each_images_grid(make: Make) -> None:
    assistant = make(projector="shuffle2x2_mlp2x_gelu")
    asked = samples()[0].messages[:1]
    maps = compute_attention_maps(
        assistant.model, assistant.processor, answered_prompt(assistant.processor, asked, "red and blue")
    )
    budget = PatchBudget(PATCH, NAFLEX_PATCHES, cell=2)
    for views, size in zip(maps.images, (SHAPES[1], SHAPES[2]), strict=True):
        (shown,) = views
        assert (shown.view.rows * 2, shown.view.columns * 2) == grid_of(size, budget)
        assert shown.weights.shape[1:] == (shown.view.rows, shown.view.columns)
        assert shown.view.box == (0, 0, 1, 1)


def test_a_spec_comes_back_from_its_file(make: Make, tmp_path: Path) -> None:
    processor = make(projector="pool2x2_mlp2x_gelu").processor
    assert processor.spec.patch_budget == PatchBudget(PATCH, NAFLEX_PATCHES, cell=2)
    processor.save(tmp_path)
    assert read_spec_file(tmp_path / "spec.json") == processor.spec


def test_the_mode_is_naflex_unless_the_recipe_names_another(make: Make, towers: Path) -> None:
    def mode(**changes: Any) -> tuple[str, int]:
        spec: Spec = make(**changes).processor.spec
        return spec.image_mode, spec.slots_per_image

    side = math.isqrt(NAFLEX_PATCHES)
    assert mode() == mode(image_mode="naflex") == ("naflex", NAFLEX_PATCHES)
    assert mode(image_mode="square") == ("square", side**2)
    assert mode(image_mode="pad") == ("pad", side**2)
    assert mode(vision=towers / "siglip") == ("square", 16)
    with pytest.raises(RecipeError, match="image_mode=naflex: siglip_vision_model takes images of one size"):
        make(vision=towers / "siglip", image_mode="naflex")


def test_two_towers_share_a_square_tile(towers: Path, tiny_backbones: Path) -> None:
    both = (str(towers / "naflex"), str(towers / "siglip"))
    settings = Model(vision=both, language=str(tiny_backbones / "language"))
    assert read_spec(settings).image_mode == "square"
    with pytest.raises(RecipeError, match="two fused towers share a square tile"):
        read_spec(settings.model_copy(update={"image_mode": "naflex"}))


def test_a_projector_that_does_not_say_how_it_takes_grids_is_refused(make: Make) -> None:
    with pytest.raises(RecipeError, match="does not say how it takes a NaFlex tower's images") as caught:
        make(projector=f"{__name__}:OWN_PROJECTOR")
    assert "cell=1" in caught.value.hint
    assert make(projector=f"{__name__}:OWN_PROJECTOR_OF_PATCHES").processor.spec.slots_per_image == NAFLEX_PATCHES
    assert make(projector=f"{__name__}:OWN_PROJECTOR", image_mode="square").processor.spec.slots_per_image == 16


def test_rules_that_do_not_fit_are_refused(make: Make, tmp_path: Path) -> None:
    naflex().save_pretrained(tmp_path)
    for rules, why in (
        ({"patch_size": 16, "max_num_patches": 22}, "cuts patches of 16 pixels, its config says 8"),
        ({"patch_size": 8, "max_num_patches": 3}, "joins 2 x 2 patches, the tower has at most 3"),
    ):
        Siglip2ImageProcessorPil(**rules).save_pretrained(tmp_path)
        with pytest.raises(RecipeError, match=why):
            make(vision=tmp_path, projector="pool2x2_mlp2x_gelu")


def test_an_image_in_memory_has_the_tokens_of_its_file(make: Make, tmp_path: Path) -> None:
    assistant = make()
    data = io.BytesIO()
    noise(SHAPES[1]).save(data, "PNG")
    (tmp_path / "image.png").write_bytes(data.getvalue())
    in_memory, on_disk = (
        assistant.processor.encode(sample_of(ImageRef(source))) for source in (noise(SHAPES[1]), tmp_path / "image.png")
    )
    assert torch.equal(in_memory.images, on_disk.images)
    assert torch.equal(in_memory.input_ids, on_disk.input_ids)
