"""Own labels: their words are used in both languages, in questions and in the checks, for one run only."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistune.errors import VistuneError
from vistune.grounding import lexicon
from vistune.grounding.claims import find_classes, ungrounded
from vistune.grounding.labels import read_labels, unknown_labels, using_labels, write_template
from vistune.types import AnnotatedImage, Box

DEER = "deer: {plural: deer, article: a, korean: 사슴, counter: 마리, group: animal, synonyms: [stag, 수사슴]}\n"
HOUR = "hourglass: {plural: hourglasses, article: an, korean: 모래시계}\n"


def labels(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_words_of_a_label_are_used_inside_the_block_only(tmp_path: Path) -> None:
    assert lexicon.counted(2, "deer", "ko") == "deer 두 개"
    with using_labels(read_labels(labels(tmp_path, DEER + HOUR))):
        assert lexicon.counted(2, "deer", "ko") == "사슴 두 마리"
        assert lexicon.counted(2, "deer", "en") == "two deer"
        assert lexicon.counted(1, "hourglass", "en") == "an hourglass"
        assert lexicon.particles(f"{lexicon.noun('deer', 'ko')}[이/가]") == "사슴이"
        assert lexicon.particles(f"{lexicon.noun('hourglass', 'ko')}[을/를]") == "모래시계를"
        assert lexicon.canonical_label("수사슴") == lexicon.canonical_label("Stags") == "deer"
        assert lexicon.has_singular("hourglass")
        assert lexicon.group("deer") == "animal"
        assert lexicon.counted(2, "dog", "ko") == "개 두 마리"
    assert lexicon.counted(2, "deer", "ko") == "deer 두 개"


def test_a_known_label_keeps_the_words_that_the_file_leaves_out(tmp_path: Path) -> None:
    with using_labels(read_labels(labels(tmp_path, "dog: {korean: 강아지}\nhuman: {korean: 인간, counter: 명}"))):
        assert lexicon.counted(2, "dog", "ko") == "강아지 두 마리"
        assert lexicon.counted(2, "dog", "en") == "two dogs"
        assert {named.label for named in find_classes("a puppy", "en")} == {"dog"}
        assert lexicon.noun(lexicon.label_in("human", "ko"), "ko") == "인간"
    assert lexicon.noun("dog", "ko") == "개"


def test_the_checks_know_the_labels(tmp_path: Path) -> None:
    image = AnnotatedImage("1", Path("1.jpg"), (), (Box("dog", 0, 0, 1, 1),))
    with using_labels(read_labels(labels(tmp_path, DEER))):
        assert ungrounded(image, (("What is there?", "A stag stands in the grass."),), "en") == "deer"
        assert ungrounded(image, (("무엇이 있나요?", "사슴이 서 있습니다."),), "ko") == "deer"
        seen = AnnotatedImage("1", Path("1.jpg"), (), (Box("deer", 0, 0, 1, 1),))
        assert ungrounded(seen, (("무엇이 있나요?", "사슴이 서 있습니다."),), "ko") == ""
    assert ungrounded(image, (("What is there?", "A stag stands in the grass."),), "en") == ""


def test_unknown_labels_are_counted_and_their_template_can_be_read(tmp_path: Path) -> None:
    boxes = tuple(Box(label, 0, 0, 0.1, 0.1) for label in ("deer", "deer", "frog", "dog", "white dog"))
    images = [AnnotatedImage("1", Path("1.jpg"), (), boxes, crowds=("frog",))]
    unknown = unknown_labels(images)
    assert unknown == {"deer": 2, "frog": 2}
    write_template(tmp_path / "template.yaml", unknown)
    read = read_labels(tmp_path / "template.yaml")
    assert set(read) == {"deer", "frog"}
    with using_labels(read):
        assert unknown_labels(images) == {}
        assert lexicon.counted(1, "frog", "en") == "a frog"
    written = (tmp_path / "template.yaml").read_text()
    write_template(tmp_path / "template.yaml", {"moose": 1})
    assert (tmp_path / "template.yaml").read_text() == written  # it may be filled in


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no labels"),
        ("[deer]", "has no labels"),
        ("deer: 사슴", "deer: expected the fields of a label"),
        ("deer: {korea: 사슴}", "deer.korea: unknown field"),
        ("deer: {counter: 3}", "deer.counter: expected a text, got 3"),
        ("deer: {article: the}", "deer.article: 'the'"),
        ("deer: {group: insect}", "deer.group: 'insect'"),
        ("deer: {synonyms: stag}", "deer.synonyms: expected a list of words"),
        ("12: {korean: 열둘}", "label 12: expected a text"),
        ("deer: {", "labels.yaml:1: not YAML"),
        ("deer: {plural: deer}\ndeer: {korean: 사슴}", "labels.yaml:2: not YAML: the key 'deer' occurs twice"),
        ("deer: {korean: 사슴, korean: 노루}", "the key 'korean' occurs twice"),
    ],
)
def test_a_bad_file_is_refused_with_label_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VistuneError, match=message.replace("{", r"\{")):
        read_labels(labels(tmp_path, text))
