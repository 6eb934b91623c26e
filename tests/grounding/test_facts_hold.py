"""For any boxes: every question is decided by them, every statement is true, and every name is in the image."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import settled
from oracle_words import EN_PLACES, KO_COLORS, KO_PLACES, SHAPES, WORDS, article

from vistune.grounding import PLACES, QUESTION_TYPES, Scene, ask, caption, description, place_of
from vistune.grounding import lexicon as words
from vistune.types import Box

LANGUAGES = st.sampled_from(["en", "ko"])
SEEDS = st.integers(0, 10_000)
EN_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
KO_NUMBERS = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열")


@st.composite
def boxes(draw: st.DrawFn, attributes: st.SearchStrategy[dict[str, str]], labels: tuple[str, ...]) -> list[Box]:
    """Draw corners on a grid of 64, so that rounding decides nothing; from tiny boxes to boxes that fill the image."""
    found = []
    for _ in range(draw(st.integers(0, 7))):
        x0, y0 = draw(st.integers(0, 63)), draw(st.integers(0, 63))
        x1, y1 = draw(st.integers(x0 + 1, 64)), draw(st.integers(y0 + 1, 64))
        corners = (side / 64 for side in (x0, y0, x1, y1))
        found.append(Box(draw(st.sampled_from(labels)), *corners, draw(attributes)))
    return found


COLOR = st.sampled_from(sorted(KO_COLORS))
DRAWN = st.fixed_dictionaries({"color": COLOR, "size": st.sampled_from(["large", "small"])})
THINGS = tuple(label for label in WORDS if label not in SHAPES)
SCENES = st.one_of(
    boxes(DRAWN, SHAPES),  # the drawn world
    boxes(st.just({}), THINGS),  # COCO: no attributes
    boxes(st.one_of(st.just({}), st.fixed_dictionaries({"color": COLOR})), tuple(WORDS)),  # some of them coloured
)


@settings(deadline=None, max_examples=250)
@given(SCENES, LANGUAGES, SEEDS)
def test_every_question_is_decided_and_answered_correctly(found: list[Box], language: str, seed: int) -> None:
    scene, rng, table = Scene(tuple(found)), random.Random(seed), settled(found, language)
    for kind in QUESTION_TYPES:
        asked = ask(scene, kind, language, rng)
        if asked is None:
            continue
        assert asked.type == kind
        assert table.get(asked.question, absent(asked.question, language)) == (kind, asked.answer), asked
        truth = {"yes": "Yes, ", "no": "No, ", "네": "네, ", "아니요": "아니요, "}.get(asked.answer)
        assert asked.sentence.startswith(truth) if truth else says(asked.sentence, asked.answer), asked
        assert not re.search(r"[\[\]{}]", asked.question + asked.sentence), asked


def says(sentence: str, answer: str) -> bool:
    """Return the answer, and its number as a word."""
    words_ = [EN_NUMBERS[int(answer)], KO_NUMBERS[int(answer)] or answer] if answer.isdigit() else []
    return any(word in sentence for word in [answer, *words_])


def absent(question: str, language: str) -> tuple[str, str] | None:
    """Questions about absent objects use any word of the lexicon, also words that the oracle does not know."""
    objects = words.objects()
    others = [words.noun(label, language) for label in objects if label not in WORDS and not objects[label].of]
    strange = any(question.endswith((f" {word}?", f" {word} in the picture?", f"{word}이 있나요?", f"{word}가 있나요?",
                                     f"{word}이 보이나요?", f"{word}가 보이나요?")) for word in others)  # fmt: skip
    return ("existence", "no" if language == "en" else "아니요") if strange else None


@settings(deadline=None, max_examples=100)
@given(SCENES, LANGUAGES, SEEDS)
def test_every_question_type_that_the_boxes_decide_is_asked(found: list[Box], language: str, seed: int) -> None:
    """Each type is asked if the oracle knows an answer, except about objects without a singular."""
    if any(box.label == "skis" for box in found):
        return
    scene, rng = Scene(tuple(found)), random.Random(seed)
    kinds = {kind for kind, _ in settled(found, language).values()}
    for kind in {"colour", "shape", "position", "size"} & kinds:
        assert ask(scene, kind, language, rng) is not None, kind
    assert all((ask(scene, kind, language, rng) is None) == (not found) for kind in ("existence", "count"))
    taken = len(scene.labels) > 1 if scene.drawn else max(scene.labels.values(), default=0) > 1
    assert (ask(scene, "removal", language, rng) is not None) == taken


def test_an_uncoloured_name_has_its_own_article() -> None:
    scene = Scene((Box("airplane", 0, 0, 0.1, 0.1),))
    asked = [ask(scene, "existence", "en", random.Random(seed)) for seed in range(300)]
    text = " ".join(item.question + item.sentence for item in asked if item)
    assert not re.search(r"\ba [aeiou]", text)


def listed(found: list[Box], language: str) -> Counter[str]:
    """Return each object in full, as a coloured scene lists them."""
    said: Counter[str] = Counter()
    for box in found:
        color, size, index = box.attributes["color"], box.attributes["size"], PLACES.index(place_of(box))
        if language == "en":
            said[f"a {size} {color} {box.label} at the {EN_PLACES[index]}"] += 1
        else:
            big = {"large": "큰", "small": "작은"}[size]
            said[f"{KO_PLACES[index]}에 {big} {KO_COLORS[color]} {WORDS[box.label][1]}"] += 1
    return said


def tallied(found: list[Box], language: str) -> Counter[str]:
    """Return the count of each label, as a longer or an uncoloured scene lists them."""
    said: Counter[str] = Counter()
    for label, number in Counter(box.label for box in found).items():
        plural, noun, counter = WORDS[label]
        if language == "ko":
            said[f"{noun} {f'{KO_NUMBERS[number]} ' if number <= 10 else number}{counter}"] += 1
        elif number == 1:
            said["a pair of skis" if label == "skis" else article(label)] += 1
        else:
            said[f"{EN_NUMBERS[number] if number <= 10 else number} {plural}"] += 1
    return said


FRAMES = re.compile(
    r"A picture with |The picture shows |A photograph of |사진에는 |[이가] 있는 사진입니다\.$|[이가] 있습니다\.$"
    r"|[이가] 보이는 사진입니다\.$|\.$"
)


def parts(text: str) -> Counter[str]:
    """Return the objects that a caption lists."""
    bare = FRAMES.sub("", text)
    return Counter(part[:1].lower() + part[1:] for part in re.split(r", | and |(?<=[개명마리대자루벌])[과와] ", bare))


@settings(deadline=None, max_examples=120)
@given(SCENES, LANGUAGES, SEEDS)
def test_a_caption_names_exactly_what_is_there(found: list[Box], language: str, seed: int) -> None:
    text = caption(Scene(tuple(found)), language, random.Random(seed))
    if not found:
        assert text in ("There is nothing to name in the picture.", "사진에 이름을 붙일 만한 물체가 없습니다.")
    elif all("size" in box.attributes for box in found):
        assert parts(text) == listed(found, language), text
    elif not any("color" in box.attributes for box in found) and len({box.label for box in found}) <= 4:
        assert parts(text) == tallied(found, language), text


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("number", [1, 2, 8, 9, 10, 11, 25])
def test_a_crowd_is_counted_not_listed(number: int, language: str) -> None:
    found = [Box("person", 0, 0, 0.1, 0.1)] * number + [Box("robot", 0.5, 0.5, 0.7, 0.7)]
    for seed in range(6):
        assert parts(caption(Scene(tuple(found)), language, random.Random(seed))) == tallied(found, language)


@settings(deadline=None, max_examples=120)
@given(boxes(DRAWN, SHAPES), LANGUAGES, SEEDS)
def test_a_description_counts_and_then_names_each(found: list[Box], language: str, seed: int) -> None:
    """Its sentences state the number of objects, then each object in reading order."""
    if not found:
        return
    opening, *lines = re.findall(r"[^.]+\.", description(Scene(tuple(found)), language, random.Random(seed)))
    assert re.findall(r"\d+", opening) == [str(len(found))]
    assert ("objects" in opening) <= (len(found) > 1)
    said: Counter[str] = Counter()
    for line in lines:
        told = re.fullmatch(r" ?At the (.+?)(?: there is|,) (a .+)\.", line)
        if language == "en":
            assert told, line
            said[f"{told[2]} at the {told[1]}"] += 1
        else:
            told = re.fullmatch(r" ?(.+?)에는? (.+)[이가] (?:있습니다|보입니다)\.", line)
            assert told, line
            said[f"{told[1]}에 {told[2]}"] += 1
    assert said == listed(found, language)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("사각형[은/는] 하트[은/는] 별[은/는]", "사각형은 하트는 별은"),
        ("칼[을/를] 소[을/를] 10[을/를]", "칼을 소를 10을"),
        *[(f"{digit}[이/가]", f"{digit}{'이' if digit in '013678' else '가'}") for digit in "0123456789"],
        *[(f"{letter}[과/와]", f"{letter}{'과' if letter in 'LMNRlmnr' else '와'}") for letter in "ABLMNRTXlmnrvz"],
        ("원)[은/는]", "원)는"),
        ("nothing here, [a/b", "nothing here, [a/b"),
        ("", ""),
    ],
)
def test_particles_follow_letters_digits_and_syllables(text: str, wanted: str) -> None:
    assert words.particles(text) == wanted


def test_every_word_of_the_lexicon_has_a_plural_a_korean_name_and_no_double() -> None:
    objects = words.objects()
    assert len({words.noun(label, "ko") for label in objects}) == len(objects)
    assert {label for label in objects if words.is_shape(label)} == set(SHAPES)
    irregular = {"person": "people", "sheep": "sheep", "mouse": "computer mice", "knife": "knives"}
    for label in objects:
        plural = words.plural(label, "en")
        if objects[label].of:
            assert objects[label].of in objects
        elif label in irregular:
            assert plural == irregular[label]
        elif not words.has_singular(label):
            assert re.fullmatch(rf"(pair|piece)s of {label}", plural)
        else:
            assert plural == words.noun(label, "en") + ("es" if re.search(r"(s|x|z|ch|sh)$", label) else "s")
        assert words.plural(label, "ko") == words.noun(label, "ko")
        assert re.fullmatch("[가-힣 ]+", words.noun(label, "ko"))
        article = f"{words.noun(label, 'en')}$" if objects[label].words["en"].mass else "an [aeiou]|a [^aeiou]"
        assert re.match(article, words.one(words.noun(label, "en"), label))


@pytest.mark.parametrize(
    ("label", "wanted", "english"),
    [
        ("자전거", "자전거 두 대", "two bicycles"),
        ("강아지", "강아지 두 마리", "two puppies"),
        ("컵", "컵 두 개", "two cups"),
        ("사람", "사람 두 명", "two people"),
        ("Bicycles", "자전거 두 대", "two bicycles"),
        ("휴대폰", "휴대전화 두 대", "two cell phones"),
        ("검은 고양이", "검은 고양이 두 마리", "two cats"),
        ("traffic_light", "신호등 두 개", "two traffic lights"),
        ("오븐", "오븐 두 대", "two ovens"),
        ("스키", "스키 두 벌", "two pairs of skis"),
        ("가위", "가위 두 자루", "two pairs of scissors"),
    ],
)
def test_a_label_in_any_form_is_known_as_its_class(label: str, wanted: str, english: str) -> None:
    assert words.counted(2, words.label_in(label, "ko"), "ko") == wanted
    assert words.counted(2, words.label_in(label, "en"), "en") == english


def test_korean_numbers_have_a_space_before_the_counter_and_digits_have_none() -> None:
    assert [words.amount(number, "book") for number in (1, 10, 11, 25)] == ["한 권", "열 권", "11권", "25권"]


def test_a_name_shared_with_one_of_unknown_colour_is_not_asked_for() -> None:
    """If the colour of one dog is unknown, neither "the dog" nor "the red dog" identifies one."""
    plain, red = Box("dog", 0, 0, 0.1, 0.1), Box("dog", 0.8, 0.8, 0.9, 0.9, {"color": "red"})
    for language in ("en", "ko"):
        for seed in range(20):
            for kind in ("position", "comparison", "size"):
                assert ask(Scene((plain, red)), kind, language, random.Random(seed)) is None
            asked = ask(Scene((plain, red)), "shape", language, random.Random(seed))
            assert asked is not None
            assert "red" not in asked.question
            assert "빨간" not in asked.question
