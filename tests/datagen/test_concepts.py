"""Concept-balanced selection: which phrases a caption names, and which captions the phrases select."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistune.datagen import filter_captions
from vistune.datagen.caption_filter import select
from vistune.datagen.noun_phrases import FINDERS, noun_phrases, singular
from vistune.errors import RecipeError

PHRASES = {
    "A red bus passes by an old church and statue.": "red bus, old church, statue",
    "A woman dressed in leather poses on a motorcycle.": "woman, leather, motorcycle",
    "A family of elephants which includes a baby elephant": "family, elephant, baby elephant",
    "LARGE PANDA BEARS WALKING AROUND IN AN ENCLOSURE": "large panda bear, enclosure",
    "A stuffed bear and the dog's red leash": "stuffed bear, dog, red leash",
    "the dog 's leash": "dog, leash",
    "A heavily loaded truck at the stop, with a can of food": "loaded truck, stop, can, food",
    "She is running quickly and smiles at everyone else": "",
    "U.S. president at the 50th annual awards": "u.s. president, annual award",
    "café table, T-shirt design": "café table, t-shirt design",
    "digital art selected for the #": "digital art",
    "dog, dog and dogs": "dog, dog, dog",
    "...": "",
    "빨간 공을 든 소년이 공원에서 놀고 있다.": "공, 소년, 공원",
    "고양이 두 마리가 소파 위에 앉아 있습니다": "고양이, 소파",
    "나무 옆에 서 있는 개": "나무, 개",
    "해변에서 서핑하는 사람들": "해변, 사람",
    "기차역에 정차한 기차와 고기 굽는 요리사": "기차역, 기차, 고기, 요리사",
    "흰 접시에 담긴 사과와 바나나": "접시, 사과, 바나나",
    "바다로 가는 길, 비행기가 활주로에 있다": "바다, 길, 비행기, 활주로",
    "나이 든 여인이 길가의 의자에 앉아 있다": "나이, 여인, 길가, 의자",
}
SINGULAR = {
    "buses": "bus", "children": "child", "ladies": "lady", "ties": "tie", "movies": "movie", "shoes": "shoe",
    "potatoes": "potato", "boxes": "box", "dishes": "dish", "glasses": "glass", "horses": "horse", "pandas": "panda",
    "christmas": "christmas", "grass": "grass", "cactus": "cactus", "tennis": "tennis", "gas": "gas", "dog's": "dog",
}  # fmt: skip


@pytest.mark.parametrize(("caption", "wanted"), PHRASES.items())
def test_what_a_caption_names(caption: str, wanted: str) -> None:
    assert ", ".join(noun_phrases(caption)) == wanted


@pytest.mark.parametrize(("plural", "wanted"), SINGULAR.items())
def test_singular(plural: str, wanted: str) -> None:
    assert singular(plural) == wanted


def test_phrases_of_photographs_are_their_objects(coco_mini: Path) -> None:
    """Real captions name something, no phrase is a verb or a function word, and the objects lead the list."""
    tree = json.loads((coco_mini / "annotations" / "captions_train2017.json").read_text(encoding="utf-8"))
    captions = [row["caption"] for row in tree["annotations"]]
    found = [noun_phrases(caption) for caption in captions]
    assert all(found)
    counts = Counter(phrase for phrases in found for phrase in set(phrases))
    assert {"dog", "kitchen", "person", "man", "woman", "table"} <= {phrase for phrase, _ in counts.most_common(30)}
    words = {word for phrase in counts for word in phrase.split()}
    assert not words & {"a", "the", "of", "with", "is", "are", "sitting", "standing", "holding", "holds"}


# --- the choice ---


def chosen(captions: Sequence[Sequence[int]], least: int = 3, most: int = 5, seed: int = 0) -> set[int]:
    """Numbers of the chosen captions, each given as the phrases that it names."""
    phrases = np.array([phrase for caption in captions for phrase in caption], np.uint64)
    keep, _ = select(phrases, np.array([len(c) for c in captions], np.uint32), least=least, most=most, seed=seed)
    return set(np.flatnonzero(keep).tolist())


def test_a_phrase_selects_none_all_or_exactly_most() -> None:
    assert chosen([[1], [], [1], [2]]) == set()
    assert chosen([[1], [1], [2], [1]]) == {0, 1, 3}
    assert chosen([[1]] * 5) == set(range(5))
    for size in (6, 50):
        assert len(chosen([[1]] * size)) == 5
    assert chosen([]) == chosen([[], []]) == set()


def test_the_selection_depends_only_on_the_seed() -> None:
    captions = [[1]] * 200
    assert chosen(captions, seed=3) == chosen(captions, seed=3)
    assert chosen(captions, seed=3) != chosen(captions, seed=4)
    assert 5 < len(chosen([[1, 2]] * 200)) <= 10, "two phrases of the same captions draw apart"


@given(st.lists(st.sets(st.integers(1, 6)), max_size=60), st.integers(0, 5))
def test_the_selection_is_the_union_over_phrases(captions: list[set[int]], seed: int) -> None:
    """The selection of a phrase depends neither on other phrases nor on their order in a caption."""
    each = [chosen([[p] if p in caption else [] for caption in captions], seed=seed) for p in range(1, 7)]
    assert chosen([sorted(caption) for caption in captions], seed=seed) == set().union(*each)
    assert chosen([sorted(caption, reverse=True) for caption in captions], seed=seed) == set().union(*each)
    for phrase, taken in enumerate(each, start=1):
        size = sum(phrase in caption for caption in captions)
        assert len(taken) == (0 if size < 3 else min(size, 5))


def test_numbers_articles_and_plurals_name_one_concept(tmp_path: Path) -> None:
    captions = ["A red apple.", "The red apple on a shelf.", "Two red apples.", "A shelf in a barn."]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"caption": text}) + "\n" for text in captions))
    filter_captions(tmp_path / "in.jsonl", tmp_path / "out.jsonl")  # red apple: in 3, shelf: 2, barn: 1
    assert [json.loads(line)["caption"] for line in (tmp_path / "out.jsonl").open()] == captions[:3]


def test_a_phrase_said_twice_in_a_caption_counts_once(tmp_path: Path) -> None:
    source = tmp_path / "in.tsv"
    source.write_text("a dog and a dog\tu\nthe dog\tu\n", encoding="utf-8")
    done = filter_captions(source, tmp_path / "out.tsv")
    assert (done.phrases, done.frequent_enough, done.chosen) == (1, 0, 0)


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed")
def test_a_missing_spacy_names_the_command_that_installs_it() -> None:
    with pytest.raises(RecipeError, match=r"vistune\[spacy\]"):
        next(FINDERS["spacy"](["a dog"]))
