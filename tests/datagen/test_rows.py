"""The written samples: kinds are dealt exactly, both file forms agree, and the seed decides everything."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import settled

from vistune.datagen import GenerationConfig, generate_by_rule, read_coco, write_generated
from vistune.datagen.teachers import deal_kinds, make_requests, rule
from vistune.grounding import lexicon
from vistune.grounding.lexicon import EN_NUMBERS
from vistune.scenes import write_world
from vistune.types import KINDS, AnnotatedImage, Box

CUES = {"en": "Answer the question using a single word or phrase.", "ko": "한 단어나 구로 답하세요."}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedImage]:
    out = tmp_path_factory.mktemp("world")
    write_world(out, count=40, seed=9, tests=1)
    return read_coco(out, "train")


@given(st.tuples(*[st.integers(0, 90)] * 3).filter(any), st.integers(0, 2000))
def test_a_mix_is_dealt_exactly(mix: tuple[int, int, int], total: int) -> None:
    """No kind is a whole row away from its share; where the shares divide the rows, each is exact."""
    dealt = Counter(deal_kinds(mix, total))
    assert dealt.total() == total
    for kind, share in zip(("conversation", "detail", "reasoning"), mix, strict=True):
        assert abs(dealt[kind] - total * share / sum(mix)) < 1
        assert share or not dealt[kind]
        if total % sum(mix) == 0:
            assert dealt[kind] == total // sum(mix) * share


@pytest.mark.parametrize(("per_image", "wanted"), [(1, (29, 12, 39)), (3, (88, 35, 117)), (79, (2320, 920, 3080))])
def test_58_23_77_over_forty_pictures_and_two_languages(
    images: list[AnnotatedImage], per_image: int, wanted: tuple[int, ...]
) -> None:
    placed = make_requests(
        images, GenerationConfig(kinds=KINDS, languages=("en", "ko"), mix=(58, 23, 77), per_image=per_image)
    )
    kinds = Counter(request.kind for request in placed)
    assert (kinds["conversation"], kinds["detail"], kinds["reasoning"]) == wanted
    each = Counter((request.image.id, request.language) for request in placed if request.kind != "caption")
    assert set(each.values()) == {per_image}
    assert len({request.name for request in placed}) == len(placed)


def test_seeds_differ_and_a_seed_does_not(images: list[AnnotatedImage]) -> None:
    config = GenerationConfig(languages=("en", "ko"), mix=(58, 23, 77), per_image=2, seed=1)
    assert generate_by_rule(images, config).rows == generate_by_rule(images, config).rows
    other = generate_by_rule(images, replace(config, seed=2)).rows
    assert other != generate_by_rule(images, config).rows


def test_a_row_does_not_depend_on_its_neighbours(images: list[AnnotatedImage]) -> None:
    """A run over a part of the pictures writes the same rows for them: limits and retries change nothing."""
    whole = {row["id"]: row for row in generate_by_rule(images, GenerationConfig(languages=("en", "ko"))).rows}
    part = generate_by_rule(images[7:11], GenerationConfig(languages=("ko",), kinds=("reasoning", "conversation"))).rows
    assert part
    assert all(whole[row["id"]] == row for row in part)


def test_every_row_asks_and_answers_in_turn_with_one_marker(images: list[AnnotatedImage]) -> None:
    rows = generate_by_rule(images, GenerationConfig(languages=("en", "ko"))).rows
    assert {(row["kind"], row["language"]) for row in rows} == {(kind, la) for kind in KINDS for la in ("en", "ko")}
    sides = Counter()
    for row in rows:
        turns = row["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert all(turn["value"].strip() == turn["value"] != "" for turn in turns)
        assert "".join(turn["value"] for turn in turns).count("<image>") == 1
        first = turns[0]["value"]
        assert first.startswith("<image>\n") != first.endswith("\n<image>")
        sides[first.startswith("<image>")] += 1
        hangul = any("가" <= char <= "힣" for turn in turns for char in turn["value"])
        assert hangul == (row["language"] == "ko"), row
    assert 0.4 < sides[True] / sides.total() < 0.6


def test_conversations_are_answered_as_the_boxes_say(images: list[AnnotatedImage]) -> None:
    """The oracle of the facts' tests answers each turn again; brief ones, and those in sentences, agree with it."""
    by_name = {image.path.name: image for image in images}
    forms = Counter()
    for row in generate_by_rule(images, GenerationConfig(kinds=("conversation",), languages=("en", "ko"))).rows:
        table, turns = settled(by_name[row["image"]].boxes, row["language"]), row["conversations"]
        lines = turns[0]["value"].replace("<image>", "").strip().split("\n")
        brief = CUES[row["language"]] in lines
        asked = [lines[0], *(turn["value"] for turn in turns[2::2])]
        assert len(set(asked)) == len(asked) <= 8
        assert len(lines) == 1 + brief
        for question, answer in zip(asked, (turn["value"] for turn in turns[1::2]), strict=True):
            _, wanted = table[question]
            if brief:
                assert answer == wanted, row
            else:
                start = {"yes": "Yes, ", "no": "No, "}.get(wanted, wanted)
                assert answer.endswith(".")
                assert start in answer, row
        forms[brief] += 1
    assert 0.6 < forms[True] / forms.total() < 0.9


def test_both_files_hold_the_same_turns(images: list[AnnotatedImage], tmp_path: Path) -> None:
    made = generate_by_rule(images, GenerationConfig(languages=("en", "ko")))
    write_generated(tmp_path / "out", made, images)
    llava = json.loads((tmp_path / "out" / "samples.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "out" / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    assert llava == made.rows
    for row, line in zip(llava, lines, strict=True):
        other = json.loads(line)
        assert other["images"] == [row["image"]]
        assert (other["id"], other["kind"], other["language"]) == (row["id"], row["kind"], row["language"])
        texts = []
        for number, message in enumerate(other["messages"]):
            assert message["role"] == ("user", "assistant")[number % 2]
            if number == 0:
                assert [part["type"] for part in message["content"]] == ["image", "text"]
                texts.append(message["content"][1]["text"])
            else:
                texts.append(message["content"])
        assert texts == [turn["value"].replace("<image>", "").strip() for turn in row["conversations"]]
    counted = json.loads((tmp_path / "out" / "generate.json").read_text())
    assert counted["rows"] == len(llava) == sum(counted["counts"].values())
    folders = json.loads((tmp_path / "out" / "images.json").read_text())["folders"]
    assert all((tmp_path / "out" / name / llava[0]["image"]).is_file() for name in folders)


@pytest.mark.parametrize("marked", ["An <image> of a dog.", "<image>"])
def test_a_marker_in_any_text_is_rejected(tmp_path: Path, marked: str) -> None:
    """In a caption, and in a label that a question would name."""
    captioned = AnnotatedImage("1", tmp_path / "1.jpg", (marked, "A dog."))
    labelled = AnnotatedImage("2", tmp_path / "2.jpg", (), (Box(marked, 0.1, 0.1, 0.2, 0.2),))
    made = generate_by_rule([captioned, labelled], GenerationConfig(languages=("en",)))
    assert [row["conversations"][1]["value"] for row in made.rows] == ["A dog."]
    reasons = {reject.id: reject.reason for reject in made.rejects}
    assert reasons["1-caption-en"] == reasons["2-caption-en"] == "special_tokens"
    assert reasons["2-detail-en"] == "special_tokens"
    write_generated(tmp_path / "out", made, [captioned, labelled])
    lines = (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [reject.id for reject in made.rejects]
    assert json.loads((tmp_path / "out" / "generate.json").read_text())["rejects"] == dict(
        Counter(reject.reason for reject in made.rejects)
    )


def test_coco_photographs_are_described_by_their_own_boxes(coco_mini: Path) -> None:
    """Real labels, real captions: counts in every row are those of the boxes, and all the captions are used."""
    photographs = read_coco(coco_mini, "val2017")
    by_name = {image.path.name: image for image in photographs}
    made = generate_by_rule(photographs, GenerationConfig(languages=("en", "ko"), seed=3))
    kinds = Counter((row["kind"], row["language"]) for row in made.rows)
    assert set(kinds) == {(kind, language) for kind in KINDS for language in ("en", "ko")}
    written = Counter(
        (row["image"], row["conversations"][1]["value"])
        for row in made.rows
        if (row["kind"], row["language"]) == ("caption", "en")
    )
    assert written == Counter((name, " ".join(text.split())) for name in by_name for text in by_name[name].captions)
    ids = [row["id"] for row in made.rows] + [reject.id for reject in made.rejects]
    assert len(set(ids)) == len(ids)
    labels_of_the_set = {box.label for image in photographs for box in image.boxes}
    asked = 0
    for row in made.rows:
        labels = Counter(box.label for box in by_name[row["image"]].boxes)
        for question, answer in zip(row["conversations"][::2], row["conversations"][1::2], strict=True):
            for label in labels_of_the_set:
                if f"How many {lexicon.plural(label, 'en')} are there?" in question["value"]:
                    number = labels[label]
                    words = {str(number), EN_NUMBERS[min(number, 10)], *(["any"] if number == 0 else [])}
                    assert words & set(re.findall(r"\w+", answer["value"]))
                    asked += 1
                if re.search(rf"Is there an? {label}\?", question["value"]):
                    assert answer["value"].lower().startswith("yes" if labels[label] else "no")
                    asked += 1
    assert asked > len(photographs) / 8


@pytest.mark.parametrize("language", ["en", "ko"])
def test_what_a_caption_names_is_never_denied(language: str) -> None:
    """Boxes show two chairs alone; a cat, a bicycle and an apple are told of, in Korean or as a kitty."""
    chairs = tuple(Box("chair", x, 0.4, x + 0.2, 0.9) for x in (0.1, 0.6))
    told = ("고양이와 자전거, 사과가 있는 거실.", "A kitty beside a bicycle and an apple.")
    names = {"en": r"\b(?:cat|bicycle|apple)s?\b", "ko": "고양이|자전거|사과"}[language]
    for caption in told:
        image = AnnotatedImage("1", Path("1.jpg"), (caption,), chairs)
        for seed in range(60):
            turns = rule.write(image, "conversation", language, random.Random(seed)) or ()
            assert not [turn for turn in turns if re.search(names, turn[0])], turns
