"""Every projector: its shape, its parameters, its slots, its names in a file; what it cannot do is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from vistune.errors import RecipeError
from vistune.model import VisionLanguageModel, build, build_projector, read_spec
from vistune.model.projectors import PROJECTORS, Projector, projector_named, slots_after
from vistune.recipe import Model
from vistune.types import Spec

VISION, LANGUAGE = 6, 10
HALF = (0.5, 0.5, 0.5)
SPEC = Spec(VISION, LANGUAGE, 1, 1, 32, HALF, HALF, "linear", "v1")
MLP = {f"mlp{depth}x_gelu": depth for depth in range(1, 9)}
SHORTENING = ["pool2x2_mlp2x_gelu", "shuffle2x2_mlp2x_gelu"]


def names(depth: int, before: str = "") -> list[str]:
    return [f"{before}{2 * layer}.{kind}" for layer in range(depth) for kind in ("weight", "bias")]


def test_there_are_no_other_projectors_than_these() -> None:
    assert set(PROJECTORS) == {"linear", "identity", *MLP, *SHORTENING}
    with pytest.raises(RecipeError, match="mlp2x_gelu"):
        projector_named("mlp2xgelu")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("linear", ["weight", "bias"]),
        ("identity", []),
        *((name, names(depth)) for name, depth in MLP.items()),
        *((name, names(2, "1.")) for name in SHORTENING),
    ],
)
def test_names_in_a_file_are_llavas(name: str, written: list[str]) -> None:
    assert list(build_projector(replace(SPEC, projector=name), seed=0).state_dict()) == written


@pytest.mark.parametrize(
    ("name", "language", "count"),
    [
        ("linear", 4096, 4_198_400),
        ("linear", 5120, 5_248_000),
        ("mlp2x_gelu", 4096, 20_979_712),
        ("mlp2x_gelu", 5120, 31_467_520),
        ("mlp1x_gelu", 4096, 4_198_400),
        ("mlp3x_gelu", 4096, 20_979_712 + 4096 * 4097),
        ("identity", 4096, 0),
        ("pool2x2_mlp2x_gelu", 4096, 20_979_712),
        ("shuffle2x2_mlp2x_gelu", 4096, 20_979_712 + 3 * 1024 * 4096),
    ],
)
def test_parameters_are_counted_as_published(name: str, language: int, count: int) -> None:
    with torch.device("meta"):
        projector = PROJECTORS[name].build(1024, language)
    assert sum(parameter.numel() for parameter in projector.parameters()) == count


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 27])
@pytest.mark.parametrize("name", sorted(PROJECTORS))
def test_the_slots_foretold_are_the_slots_made(name: str, side: int) -> None:
    width = LANGUAGE if name == "identity" else VISION
    projector = PROJECTORS[name].build(width, LANGUAGE)
    features = torch.randn(2, side * side, width)
    if name == "shuffle2x2_mlp2x_gelu" and side % 2:
        with pytest.raises(RecipeError, match=rf"a grid of {side} x {side} patches cannot be halved"):
            slots_after(name, side * side)
        return
    slots = slots_after(name, side * side)
    assert projector(features).shape == (2, slots, LANGUAGE)
    assert slots == (((side + 1) // 2) ** 2 if name in SHORTENING else side * side)


@pytest.mark.parametrize("name", SHORTENING)
def test_a_class_token_is_no_patch(name: str, tiny_backbones: Path) -> None:
    settings = Model(
        vision=str(tiny_backbones / "vision"),
        language=str(tiny_backbones / "language"),
        projector=name,
        feature_tokens="cls_patch",
    )
    with pytest.raises(
        RecipeError, match=f"model.projector={name}: 5 tokens do not form a square .*feature_tokens=patch"
    ):
        read_spec(settings)


def squares(features: Tensor, side: int) -> list[list[list[Tensor]]]:
    """The patches of each 2x2 square, by row and column of squares, left to right and down."""
    return [
        [
            [features[y * side + x] for y in range(top, min(top + 2, side)) for x in range(left, min(left + 2, side))]
            for left in range(0, side, 2)
        ]
        for top in range(0, side, 2)
    ]


@pytest.mark.parametrize("side", [2, 3, 4, 5])
def test_pooling_is_the_mean_of_the_patches_that_are_there(side: int) -> None:
    features = torch.randn(side * side, VISION)
    wanted = [torch.stack(square).mean(0) for row in squares(features, side) for square in row]
    pooled = PROJECTORS["pool2x2_mlp2x_gelu"].build(VISION, LANGUAGE)[0](features[None])[0]
    torch.testing.assert_close(pooled, torch.stack(wanted))


def test_shuffling_lays_four_patches_side_by_side() -> None:
    features = torch.randn(16, VISION)
    wanted = [torch.cat(square) for row in squares(features, 4) for square in row]
    shuffled = PROJECTORS["shuffle2x2_mlp2x_gelu"].build(VISION, LANGUAGE)[0](features[None])[0]
    assert torch.equal(shuffled, torch.stack(wanted))


def test_the_activation_is_exact_gelu() -> None:
    projector = build_projector(replace(SPEC, projector="mlp2x_gelu"), seed=0)
    features = 3 * torch.randn(1, 4, VISION)
    first, second = projector[0], projector[2]
    hidden = features @ first.weight.T + first.bias
    exact = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(projector(features), exact @ second.weight.T + second.bias)


@pytest.mark.parametrize("name", sorted(PROJECTORS.keys() - {"identity"}))
def test_a_fresh_projector_is_torchs_own_start_and_touches_no_other_chance(name: str) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    made = build_projector(replace(SPEC, projector=name), seed=11)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(11)
    linears = [module for module in made.modules() if isinstance(module, nn.Linear)]
    for ours in linears:
        stock = nn.Linear(ours.in_features, ours.out_features)
        assert torch.equal(ours.weight, stock.weight)
        assert torch.equal(ours.bias, stock.bias)


def model_with(tiny_backbones: Path, **changes: str) -> VisionLanguageModel:
    settings = Model.model_validate(
        {"vision": str(tiny_backbones / "vision"), "language": str(tiny_backbones / "language"), **changes}
    )
    return build(settings, read_spec(settings), seed=0)


def test_what_a_projectors_file_lacks_or_has_too_much_is_named(tiny_backbones: Path) -> None:
    tiled, plain = model_with(tiny_backbones, image_mode="anyres"), model_with(tiny_backbones)
    state = tiled.projector_state()
    assert list(state) == [*names(2), "newline"]
    with torch.no_grad():
        tiled.newline.zero_()
        tiled.projector[0].weight.zero_()
    kept = model_with(tiny_backbones, image_mode="anyres").projector_state()
    tiled.load_projector(kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in tiled.projector_state().items())
    with pytest.raises(RuntimeError, match="newline is missing"):
        tiled.load_projector({name: tensor for name, tensor in kept.items() if name != "newline"})
    with pytest.raises(RuntimeError, match=r"newline is of shape \(1,\); expected \(48,\)"):
        tiled.load_projector({**kept, "newline": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="newline"):
        plain.load_projector(kept)
    with pytest.raises(RuntimeError, match=r"2\.bias"):
        plain.load_projector({name: tensor for name, tensor in plain.projector_state().items() if name != "2.bias"})


def test_the_newline_begins_as_llava_begins_it_and_from_the_seed(tiny_backbones: Path) -> None:
    newline = model_with(tiny_backbones, image_mode="anyres").newline
    assert newline is not None
    assert torch.equal(newline, model_with(tiny_backbones, image_mode="anyres").newline)
    wanted = torch.randn(48, generator=torch.Generator().manual_seed(0)) / 48**0.5
    torch.testing.assert_close(newline.detach(), wanted)
    assert model_with(tiny_backbones).newline is None


class Padded(nn.Module):
    """Wraps a linear layer, and puts `more` zero tokens in front of its output."""

    def __init__(self, vision: int, language: int, more: int) -> None:
        super().__init__()
        self.linear, self.more = nn.Linear(vision, language), more

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.pad(self.linear(features), (0, 0, self.more, 0))


class Reading(nn.Linear):
    """Reads a value, which a tensor on the meta device does not have."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * (2.0 if features.sum().item() else 1.0)


class Ragged(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        raise KeyError("scale")


OWN: dict[str, object] = {
    "LINEAR": Projector(nn.Linear),
    "READING": Projector(Reading),
    "MORE": Projector(lambda vision, language: Padded(vision, language, 1)),
    "FEWER": Projector(lambda vision, language: Padded(vision, language, -1)),
    "GIVEN": Projector(lambda vision, language: Padded(vision, language, 1), slots=lambda tokens: tokens + 1),
    "NARROW": Projector(lambda vision, language: nn.Linear(vision, vision)),
    "TUPLE": Projector(lambda vision, language: nn.RNN(vision, language)),
    "CLASS": nn.Linear,
    "FLOAT": Projector(nn.Linear, slots=lambda tokens: tokens / 2),  # type: ignore[arg-type,return-value]
    "RAISING": Projector(Ragged),
    "ONE": Projector(lambda vision: nn.Linear(vision, 1)),  # type: ignore[arg-type,misc]
}


@pytest.fixture
def own_projectors(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own_projectors")
    vars(module).update(OWN)
    monkeypatch.setitem(sys.modules, "own_projectors", module)


@pytest.mark.usefixtures("own_projectors")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MORE", r"returns an output of shape \(2, 5, 48\), expected \(2, 4, 48\).*slots=lambda"),
        ("FEWER", r"returns an output of shape \(2, 3, 48\), expected \(2, 4, 48\).*slots=lambda"),
        ("NARROW", r"returns an output of shape \(2, 4, 32\), expected \(2, 4, 48\).*the language model's width"),
        ("TUPLE", "returns tuple instead of a tensor"),
        ("CLASS", r"is a class, not a Projector. Fix: write NAME = Projector\(CLASS\)"),
        ("FLOAT", "`slots` returns 2.0 for 4 tokens"),
        ("RAISING", r"fails on features of shape \(2, 4, 32\): KeyError: 'scale' \(.*test_projectors.py:\d+\)"),
        ("ONE", r"fails on features of shape .*takes 1 positional argument but 2 were given"),
    ],
)
def test_a_projector_that_does_not_keep_its_promise_is_refused(name: str, message: str, tiny_backbones: Path) -> None:
    with pytest.raises(RecipeError, match=f"model.projector=own_projectors:{name}: .*{message}"):
        model_with(tiny_backbones, projector=f"own_projectors:{name}")


@pytest.mark.usefixtures("own_projectors")
@pytest.mark.parametrize(("name", "slots"), [("LINEAR", 4), ("READING", 4), ("GIVEN", 5)])
def test_a_projector_that_keeps_its_promise_is_built(name: str, slots: int, tiny_backbones: Path) -> None:
    model = model_with(tiny_backbones, projector=f"own_projectors:{name}")
    assert model.spec.slots_per_image == slots
    assert model.encode(torch.randn(3, 4, 32)).shape == (3, slots, 48)


@pytest.mark.usefixtures("own_projectors")
def test_a_loaded_model_refuses_a_projector_that_changed(tiny_backbones: Path) -> None:
    model = model_with(tiny_backbones, projector="own_projectors:LINEAR")
    model.projector = Padded(32, 48, 1)
    with pytest.raises(RecipeError, match=r"LINEAR: returns an output of shape \(3, 5, 48\), expected \(3, 4, 48\)"):
        model.encode(torch.randn(3, 4, 32))
