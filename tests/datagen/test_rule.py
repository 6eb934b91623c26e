"""The rule teacher on photographs: no question twice, no word that the picture's boxes or captions do not bear out."""

from __future__ import annotations

import random
import re
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

import pytest

from vistune.datagen import GenerationConfig, generate_by_rule
from vistune.datagen.checks import Candidate, run_checks
from vistune.datagen.teachers import rule
from vistune.grounding import QUESTION_TYPES, Scene, ask, description, reason
from vistune.grounding.annotated import scene_of
from vistune.types import AnnotatedImage, Box

ROOM = (
    Box("chair", 0.05, 0.1, 0.2, 0.3),
    Box("dog", 0.7, 0.6, 0.95, 0.95),
    Box("cup", 0.4, 0.05, 0.45, 0.12),
    Box("cup", 0.6, 0.05, 0.65, 0.12),
)


def photograph(*captions: str, boxes: tuple[Box, ...] = ROOM) -> AnnotatedImage:
    return AnnotatedImage("1", Path("1.jpg"), captions, boxes)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_no_question_comes_twice_in_other_words(language: str) -> None:
    scene = Scene(ROOM)
    about: dict[str, Hashable] = {}
    for seed in range(600):
        for kind in QUESTION_TYPES:
            if asked := ask(scene, kind, language, random.Random(seed)):
                about[asked.question] = asked.topic
    for seed in range(60):
        turns = rule.conversation(scene, language, random.Random(seed))
        assert turns is not None
        asked_of = [question.split("\n")[0] for question, _ in turns]
        subjects = [about.get(question, question) for question in asked_of]  # what is absent has no other words
        assert len(set(subjects)) == len(subjects) > 3


def test_a_pair_turned_round_is_the_same_question() -> None:
    scene, found = Scene(ROOM), {}
    for seed in range(600):
        if asked := ask(scene, "comparison", "en", random.Random(seed)):
            found[asked.question] = asked.topic
    one = found["Is the chair to the left of the dog?"]
    assert one == found["Is the dog to the left of the chair?"] == found["Is the dog further left than the chair?"]
    assert one != found["Is the dog higher in the picture than the chair?"]


@pytest.mark.parametrize(
    ("captions", "wanted"),
    [
        (("A dog in a kitchen.", "The kitchen of a house."), "부엌"),
        (("A dog in a kitchen.",), "부엌"),
        (("A dog in a kitchen.", "개 한 마리."), "부엌"),
        (("A dog in a kitchen.", "A dog by a chair."), ""),
        (("A kitchen.", "The kitchen.", "A bedroom.", "The bedroom."), ""),
        (("A park bench.", "A dog on a park bench."), ""),
        (("A boy in a skate park.", "A busy skate park."), "스케이트장"),
        (("개가 부엌에 있다.",), ""),
        ((), ""),
    ],
)
def test_the_setting_is_what_captions_agree_on(captions: tuple[str, ...], wanted: str) -> None:
    assert rule.setting_of(photograph(*captions)) == wanted


def written(image: AnnotatedImage, language: str, kinds: tuple[str, ...] = ("conversation", "detail")) -> str:
    """All that is said of a picture over some seeds; nothing of it may fall through the checks."""
    texts: list[str] = []
    for seed in range(12):
        for row in generate_by_rule([image], GenerationConfig(kinds=kinds, languages=(language,), seed=seed)).rows:
            said = [turn["value"].replace("<image>", "").strip() for turn in row["conversations"]]
            turns = tuple(zip(said[::2], said[1::2], strict=True))
            assert run_checks(Candidate(image, row["kind"], language, turns)) == ()
            texts += said
    assert texts
    return " ".join(texts)


def test_a_sink_beside_a_toilet_is_a_washbasin_in_korean_and_in_a_kitchen_it_is_not() -> None:
    sink, toilet = Box("sink", 0.05, 0.1, 0.2, 0.3), Box("toilet", 0.6, 0.5, 0.8, 0.9)
    bathroom = written(photograph(boxes=(sink, toilet)), "ko")
    assert "세면대" in bathroom
    assert "싱크대" not in bathroom
    kitchen = written(photograph(boxes=(sink, replace(toilet, label="oven"))), "ko")
    assert "싱크대" in kitchen
    assert "세면대" not in kitchen
    english = written(photograph(boxes=(sink, toilet)), "en")
    assert "sink" in english
    assert "washbasin" not in english


def test_boxes_with_korean_labels_are_spoken_of_in_both_languages() -> None:
    boxes = (replace(ROOM[0], label="자전거"), replace(ROOM[1], label="검은 고양이"))
    korean, english = (written(photograph(boxes=boxes), language) for language in ("ko", "en"))
    assert "자전거" in korean
    assert "검은 고양이" in korean
    assert "bicycle" in english
    assert "cat" in english
    assert not re.search("[가-힣]", english)


def test_korean_relations_say_higher_and_never_on_top_of() -> None:
    """ "위에" would say that one lies on the other; boxes know only which is higher."""
    scene, texts = Scene(ROOM), list[str]()
    for seed in range(80):
        rng = random.Random(seed)
        texts.append(description(scene, "ko", rng))
        texts += reason(scene, "ko", rng) or ()
        texts += [text for turn in rule.conversation(scene, "ko", rng) or () for text in turn]
    said = " ".join(texts)
    assert "보다 위쪽에" in said
    assert not re.search(r"(?<!왼쪽 )(?<!오른쪽 )위에", said)
    assert not re.search(r"(?<!왼쪽 )(?<!오른쪽 )아래에", said)


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize(
    "boxes",
    [
        (Box("toothbrush", 0.1, 0.1, 0.5, 0.9), Box("toothbrush", 0.5, 0.1, 0.9, 0.95)),
        (Box("person", 0, 0, 0.5, 0.5), Box("person", 0.5, 0, 0.6, 0.2), Box("person", 0.8, 0.1, 1, 0.5)),
        (Box("dog", 0.1, 0.1, 0.3, 0.3),) * 2,
        (Box("bear", 0.1, 0.1, 0.9, 0.9),),
        (Box("kite", 0.45, 0, 0.5, 0.04),),
        (Box("scissors", 0.1, 0.1, 0.9, 0.9),),
    ],
)
def test_one_kind_of_thing_alone_gets_three_sentences(boxes: tuple[Box, ...], language: str) -> None:
    for seed in range(12):
        text = description(Scene(boxes), language, random.Random(seed))
        assert len(re.findall(r"\.(?=\s|$)", text)) == 3, text
        assert len(set(re.split(r"(?<=\.)\s", text))) == 3, text
        assert run_checks(Candidate(photograph(boxes=boxes), "detail", language, (("", text),))) == ()


def test_a_dog_beside_a_puppy_is_neither_counted_nor_called_many() -> None:
    scene = Scene((Box("dog", 0.1, 0.1, 0.3, 0.3), Box("puppy", 0.6, 0.6, 0.7, 0.7), Box("cup", 0.4, 0.4, 0.5, 0.5)))
    asked = [ask(scene, kind, "en", random.Random(seed)) for seed in range(60) for kind in ("existence", "count")]
    said = " ".join(item.sentence for item in asked if item)
    assert "cup" in said
    assert not re.search(r"\b(?:many|dogs?|pupp(?:y|ies))\b", said)


@pytest.mark.parametrize(("boxes", "wanted"), [((), "사진"), ((Box("star", 0, 0, 0.1, 0.1),), "그림")])
def test_a_picture_known_by_its_captions_alone_is_no_drawing(boxes: tuple[Box, ...], wanted: str) -> None:
    images = [replace(photograph("별 하나.", boxes=boxes), id=str(number)) for number in range(30)]
    asked = " ".join(turns[0][0] for image in images if (turns := rule.write(image, "caption", "ko", random.Random(0))))
    assert wanted in asked
    if wanted == "사진":
        assert "그림" not in asked


@pytest.mark.parametrize(("language", "question", "answer"), [("en", "dog", "Yes"), ("ko", "개", "네")])
def test_photographs_with_captions_only_are_asked_about_in_both_languages(
    language: str, question: str, answer: str
) -> None:
    captions = ("A dog runs over grass.", "A brown dog on a meadow.", "An animal in a field.")
    images = [AnnotatedImage(str(k), Path(f"{k}.jpg"), captions) for k in range(20)]
    cats = [AnnotatedImage(f"c{k}", Path(f"c{k}.jpg"), ("A cat sleeps.", "A sleeping cat.")) for k in range(20)]
    written = generate_by_rule([*images, *cats], GenerationConfig(kinds=("conversation",), languages=(language,)))
    of_dogs = [row for row in written.rows if not row["image"].startswith("c")]
    asked = [turn["value"] for row in of_dogs for turn in row["conversations"]]
    assert any(question in text for text in asked)
    for turn, reply in zip(asked[::2], asked[1::2], strict=True):
        assert reply.lower().startswith(answer.lower()) == (question in turn), (turn, reply)


def test_a_class_in_one_of_several_captions_is_neither_asked_for_nor_denied() -> None:
    scene = scene_of(photograph("A dog on grass.", "A brown dog.", "A dog and a frisbee.", boxes=()), "en")
    assert scene.named == ("dog",)
    assert "frisbee" not in replace(scene, others=("frisbee", "cat")).absent


def test_an_unknown_number_is_not_worded_as_one_or_many() -> None:
    scene = scene_of(photograph("Two dogs.", boxes=()), "ko")
    sentences = {ask(scene, "existence", "ko", random.Random(seed)) for seed in range(40)}
    confirmed = {item.sentence for item in sentences if item is not None and item.answer == "네"}
    assert confirmed == {"네, 개가 있습니다.", "네, 개가 보입니다."}


def test_an_object_in_a_quarter_of_the_image_has_a_position() -> None:
    quarter = Scene((Box("dog", 0, 0, 0.5, 0.5),))
    assert ask(quarter, "position", "en", random.Random(0)) is not None
    assert ask(Scene((Box("dog", 0, 0, 0.6, 0.5),)), "position", "en", random.Random(0)) is None
