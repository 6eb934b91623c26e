"""The pictures of a recipe: true numbers, nothing over anything else, the same bytes every time, no letter missing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from typer.testing import CliRunner

from vistune.api import draw
from vistune.errors import RecipeError
from vistune.planner.structure import ModelFacts, StageFacts
from vistune.recipe import load_recipe
from vistune.report import draw_diagrams, plots
from vistune.report.diagrams import model_drawing, rate_text, stages_drawing
from vistune.report.drawing import Drawing, short_count, shorten, width_of
from vistune.translations import catalogue

LLAVA = ModelFacts(
    vision="openai/clip-vit-large-patch14-336",
    vision_type="clip_vision_model",
    vision_layers=(23, 24),
    vision_width=1024,
    patch=14,
    side=336,
    class_token=False,
    joint=False,
    tower_tokens=576,
    projector="mlp2x_gelu",
    projector_steps=((1024, 4096), "GELU", (4096, 4096)),
    slots_per_tile=576,
    tiles=None,
    slots=(576, 576),
    language="lmsys/vicuna-7b-v1.5",
    language_type="llama",
    language_layers=32,
    language_width=4096,
    vocabulary=32000,
    template="v1",
    parameters={"vision": 290_909_184, "projector": 20_979_712, "language": 6_738_415_616},
)
TILES = replace(LLAVA, tiles=(2, 4), slots=(1752, 2928), class_token=True, joint=True, projector_steps=("GELU",) * 15)
NAFLEX = replace(LLAVA, vision_type="siglip2_vision_model", patch=16, side=256, tower_tokens=256, slots_per_tile=256,
                 slots=(1, 256), most_patches=256)  # fmt: skip
TINY = replace(LLAVA, side=32, patch=16, tower_tokens=4, slots_per_tile=4, slots=(4, 4), projector_steps=())
ALIGN = StageFacts(
    name="align",
    learn={"projector": 1e-3},
    parameters=LLAVA.parameters,
    lora_rank=None,
    quantize=None,
    steps=None,
    epochs=1,
    samples_per_step=256,
    optimizer="adamw",
    schedule="cosine",
    template="plain",
    kinds=("caption",),
)
TUNE = replace(
    ALIGN,
    name="tune-with-a-name-that-is-long",
    learn={"projector": 2e-5, "adapters": 1.25e-4},
    parameters={**LLAVA.parameters, "adapters": 319_815_680},
    lora_rank=128,
    quantize=4,
    kinds=("caption", "conversation", "detail", "reasoning"),
)
FULL = replace(ALIGN, learn={"vision": 2e-6, "projector": 2e-5, "language": 2e-5}, steps=12000, epochs=None, kinds=None)
LANGUAGES = ("en", "ko")


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    if request.param == "ko" and len(plots.fonts()) < 2:
        pytest.skip("no font with Korean letters on this machine: apt-get install fonts-nanum")
    return str(request.param)


@pytest.fixture
def no_korean_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without any of the fonts that have Korean letters."""

    def forget() -> None:
        plots.fonts.cache_clear()
        plots._letters.cache_clear()

    monkeypatch.setattr(plots, "HANGUL_FONTS", ())
    forget()
    yield
    monkeypatch.undo()
    forget()


def spoken(path: Path) -> str:
    """What a screen reader says of an SVG: its title and its description."""
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    assert root.get("role") == "img"
    texts = [element.text or "" for element in root if element.tag.endswith(("}title", "}desc"))]
    assert len(texts) == 2
    return "\n".join(texts)


def sheets(language: str) -> dict[str, Drawing]:
    labels = catalogue("report/diagrams", language)
    with plots.svg_style():
        return {
            "plain": model_drawing("llava", LLAVA, labels),
            "tiles": model_drawing("llava", TILES, labels),
            "naflex": model_drawing("llava", NAFLEX, labels),
            "tiny": model_drawing("a-name-without-an-end" * 10, TINY, labels),
            "stages": stages_drawing("llava", [ALIGN, TUNE, FULL], labels),
        }


def test_four_files_that_open_and_say_the_exact_numbers(tmp_path: Path, language: str) -> None:
    paths = draw_diagrams("llava & <co> $x$", LLAVA, [ALIGN, TUNE], tmp_path, language=language)
    assert [path.name for path in paths] == ["model.svg", "model.png", "stages.svg", "stages.png"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    model, stages = spoken(paths[0]), spoken(paths[2])
    for part in ("290,909,184", "20,979,712", "20.98 M", "6,738,415,616", "6.738 B", "7,050,304,512"):
        assert part in model
    for shape in ("576 × 1,024", "576 × 4,096", "1,024 → 4,096", "23", "336 × 336", "32,000", "llava & <co> $x$"):
        assert shape in model
    for number in ("1e-3", "2e-5", "1.25e-4", "319,815,680", "128", "0.3 %", "4.6 %", "340.8 M"):
        assert number in stages
    for path in paths[1::2]:
        with Image.open(path) as image:
            image.load()
            assert image.width > 1600
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # a ground of its own, on dark pages too


def test_letters_are_shapes_so_an_svg_needs_no_font(tmp_path: Path) -> None:
    text = draw_diagrams("llava", LLAVA, [ALIGN], tmp_path)[0].read_text(encoding="utf-8")
    assert "<text" not in text
    assert "font-family" not in text
    assert not re.search(r'href="(?!#)', text)


def test_the_same_values_draw_the_same_bytes(tmp_path: Path, language: str) -> None:
    first, second = (
        draw_diagrams("llava", TILES, [ALIGN, TUNE], tmp_path / name, language=language) for name in ("a", "b")
    )
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("sheet", ["plain", "tiles", "tiny", "stages"])
def test_no_words_lie_over_others_or_leave_the_sheet(sheet: str, language: str) -> None:
    drawing = sheets(language)[sheet]
    drawing.figure.set_dpi(72)
    drawing.figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawing.axes.texts]
    width, height = drawing.figure.get_size_inches() * 72
    for text, box in boxes:
        assert box.x0 >= 10 and box.x1 <= width - 10 and box.y0 >= 0 and box.y1 <= height, text  # noqa: PT018
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        # A line's box has room for accents above and tails below that its neighbour's may share.
        assert across <= 0 or up <= 4, f"{one!r} lies over {other!r}"


def test_tiles_show_their_range_and_row_ends() -> None:
    said = sheets("en")["tiles"].texts
    assert {"1 + 2…4", "1,752…2,928", "and the class token", "in the space shared with text", "… 12 more …"} <= set(
        said
    )
    assert "with row ends, on full canvases" in said


def test_a_frozen_base_under_adapters_and_the_sum_that_learns() -> None:
    said = sheets("en")["stages"].texts
    tune = said[said.index("2") :]
    assert "frozen · 4 bits" in tune
    assert "trained · rate 1.25e-4" in tune
    assert "rank 128" in tune
    assert tune[tune.index("3") :].count("trained · rate 2e-5") == 2
    assert "100.0 %" in tune


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.000 K"),
        (33_024, "33.02 K"),
        (99_999, "100.0 K"),
        (896_512, "896.5 K"),
        (999_999, "1.000 M"),
        (9_999_600, "10.00 M"),
        (20_979_712, "20.98 M"),
        (6_738_415_616, "6.738 B"),
    ],
)
def test_short_numbers(count: int, text: str) -> None:
    assert short_count(count) == text


@pytest.mark.parametrize(("rate", "text"), [(3e-3, "3e-3"), (1.25e-5, "1.25e-5"), (1.0, "1e0"), (2e-10, "2e-10")])
def test_rates_read_back_as_they_were(rate: float, text: str) -> None:
    assert rate_text(rate) == text
    assert float(text) == rate


def test_texts_that_do_not_fit_keep_both_ends() -> None:
    name = "organisation/" + "some-very-long-model-name-" * 3 + "13b"
    with plots.svg_style():
        drawing = model_drawing("llava", replace(LLAVA, projector=name), catalogue("report/diagrams", "en"))
        (drawn,) = (text for text in drawing.axes.texts if text.get_text().startswith("organ"))
        assert re.fullmatch(r"organ.*….*13b", drawn.get_text())
        assert width_of(drawn.get_text(), drawn.get_fontsize()) <= 134
        assert name in drawing.texts, "the description of the SVG has the whole name"
        assert shorten("short", 100, 9, False) == "short"


def test_both_languages_have_the_same_labels() -> None:
    tables = {language: catalogue("report/diagrams", language) for language in LANGUAGES}
    fields = {
        name: {key: sorted(re.findall(r"{\w+}", str(value))) for key, value in table.items()}
        for name, table in tables.items()
    }
    assert fields["en"] == fields["ko"]


def test_unknown_language_and_missing_letters_are_named(tmp_path: Path, no_korean_font: None) -> None:
    with pytest.raises(RecipeError, match=r"unknown language 'kr'.*did you mean 'ko'"):
        draw_diagrams("llava", LLAVA, [ALIGN], tmp_path, language="kr")
    with pytest.raises(RecipeError, match=r"no font with Korean letters.*fonts-nanum"):
        draw_diagrams("llava", LLAVA, [ALIGN], tmp_path, language="ko")
    with pytest.raises(RecipeError, match=r"'llava \\ue000: the model'.*no shape for"):
        draw_diagrams("llava \ue000", LLAVA, [ALIGN], tmp_path)
    assert not list(tmp_path.iterdir())


STAGES = (
    "stages=[{name: align, learn: {projector: 1e-3}, steps: 5}, "
    "{name: tune, learn: {adapters: 1e-4}, lora: {rank: 3, targets: [q_proj]}, epochs: 2}]"
)


def overrides(folder: Path, *more: str) -> list[str]:
    return [f"model.vision={folder / 'vision'}", f"model.language={folder / 'language'}", STAGES, *more]


def test_numbers_are_those_of_the_model_that_would_learn(tiny_backbones: Path, tmp_path: Path) -> None:
    from vistune.model import add_adapters, build, read_spec

    recipe = load_recipe("quickstart", overrides(tiny_backbones))
    built = build(recipe.model, read_spec(recipe.model), seed=0)
    assert recipe.stages[1].lora is not None
    counts = {part: sum(p.numel() for _, p in listed) for part, listed in built.parts().items()}
    built.language = add_adapters(built.language, recipe.stages[1].lora)
    counts["adapters"] = sum(p.numel() for _, p in built.parts()["adapters"])
    assert counts["adapters"] == 2 * 3 * (48 + 48)  # layers x rank x (in + out)
    paths = draw(recipe, tmp_path)
    model, stages = spoken(paths[0]), spoken(paths[2])
    for part in ("vision", "projector", "language"):
        assert f"{counts[part]:,} parameters" in model
        assert f"{counts[part]:,} parameters" in stages
    assert f"{counts['adapters']:,} parameters" in stages
    assert "2 of 3 layers" in model
    assert "4 × 32" in model
    assert "4 × 48" in model


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("model.projector=shuffle2x2_mlp2x_gelu",), ("4 × 32", "1 × 48", "Shuffle")),
        (("model.feature_tokens=cls_patch",), ("5 × 32", "5 × 48", "and the class token")),
        (("model.space=joint",), ("4 × 512", "in the space shared with text")),
        # An overview and two to four tiles of 2 x 2 patches; each row of patches ends in one more token.
        (("model.image_mode=anyres",), ("1 + 2…4", "14…24", "of each tile")),
    ],
    ids=["shortened", "cls_patch", "joint", "anyres"],
)
def test_every_shape_of_a_model(tiny_backbones: Path, tmp_path: Path, changes: list[str], said: list[str]) -> None:
    words = spoken(draw(load_recipe("quickstart", overrides(tiny_backbones, *changes)), tmp_path)[0])
    for word in said:
        assert word in words


def test_a_shipped_recipe_is_drawn_without_a_network(tmp_path: Path) -> None:
    model = spoken(draw(load_recipe("llava-v1.5-7b-lora"), tmp_path)[0])
    for word in ("20,979,712 parameters", "6,738,415,616 parameters", "lmsys/vicuna-7b-v1.5", "576 × 4,096"):
        assert word in model


def test_a_model_to_go_on_from_is_drawn_by_its_own_configs(golden: Path, tmp_path: Path) -> None:
    """The one that `from` names, in any layout that is read; its parts go by its name."""
    origin = golden / "ckpt_original_linear"
    stage = "{name: tune, learn: {projector: 1e-4, adapters: 1e-4}, lora: {rank: 2, alpha: 4}, steps: 3}"
    (tmp_path / "more.yaml").write_text(f"from: {origin}\ndata: [{{file: x.json}}]\nstages: [{stage}]\n")
    paths = draw(load_recipe(str(tmp_path / "more.yaml")), tmp_path / "drawn")
    model, stages = spoken(paths[0]), spoken(paths[2])
    assert "ckpt_original_linear" in model
    assert "linear" in model
    assert "template v1" in model
    assert "rank 2" in stages
    assert "3 steps" in stages


def test_draw_is_a_verb(tmp_path: Path) -> None:
    from vistune.cli.app import app

    result = CliRunner().invoke(app, ["draw", "quickstart", str(tmp_path / "drawn"), "stages.tune.steps=7"])
    assert result.exit_code == 0, result.output
    assert "7 steps" in spoken(tmp_path / "drawn" / "stages.svg")
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(app, ["draw", "quickstart", str(tmp_path / "file")])
    assert isinstance(refused.exception, RecipeError)
    assert "is a file" in str(refused.exception)
