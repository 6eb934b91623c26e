"""How a data set asks and what it speaks of: question types and verb-noun pairs, by simple rules on the surface.

rows -> questions by type and language · the most frequent (verb, noun) of English and Korean texts
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

# The first pattern that fits names the type; English patterns look at the beginning, Korean ones anywhere.
_TYPES = (
    ("how_many", re.compile(r"^how (?:many|much)\b|몇|얼마나 많")),
    ("where", re.compile(r"^(?:where|at which place)\b|어디")),
    ("why", re.compile(r"^why\b|왜|까닭|이유")),
    ("who", re.compile(r"^who\b|누구|누가")),
    ("which", re.compile(r"^which\b|어느|어떤|무슨")),
    ("how", re.compile(r"^how\b|어떻게|어떠")),
    ("what", re.compile(r"^(?:what|in a few words, what)\b|무엇|뭐|뭘")),
    ("is_there", re.compile(r"^(?:is|are) there\b|^can you see\b|(?:이|가|도) (?:있나요|있습니까|보이나요|보입니까)")),
    ("yes_no", re.compile(r"^(?:is|are|was|were|do|does|did|can|could|has|have|will)\b|(?:나요|까요?|가요)\s*\?")),
    ("request", re.compile(r"^\w+|세요|시오|줘|주십시오")),
)  # fmt: skip
_EN_DETERMINERS = frozenset(("the", "a", "an", "his", "her", "its", "their", "some", "two", "three", "several"))
_EN_WEAK = _EN_DETERMINERS | set(re.findall(r"\w+", """
    this that these other of to and in on at for with by near from into onto over under up down out off next front as
    behind beside around through along across together against towards himself herself itself themselves while
"""))  # fmt: skip
_EN_NOT_DOING = frozenset(
    ("dining", "parking", "living", "building", "ceiling", "evening", "morning", "during", "clothing")
)
_EN_PAIR = re.compile(
    rf"\b([a-z]{{3,}}ing)\s+((?:(?:{'|'.join(sorted(_EN_DETERMINERS))})\s+)?(?:[a-z]+\s+)?[a-z]{{3,}})"
)
_KO_PAIR = re.compile(r"([가-힣]{1,8})[을를]\s+([가-힣]{1,6}?)(?:고|며|면서|는|은|아|어|여|해|하|기|려|었|았|습|니)")


def question_types(rows: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """By type: how many questions in each language."""
    counted: dict[str, Counter[str]] = {name: Counter() for name, _ in _TYPES}
    for row in rows:
        for turn in row["conversations"]:
            if turn["from"] == "human":
                question = turn["value"].replace("<image>", "").strip().lower()
                for name, pattern in _TYPES:
                    if pattern.search(question):
                        counted[name][str(row.get("language", "–"))] += 1
                        break
    return {name: counts for name, counts in counted.items() if counts}


def verb_nouns(rows: Iterable[Mapping[str, Any]], most: int = 15) -> list[tuple[str, str, int]]:
    """(verb, noun, times) of the answers: an English -ing form and its object, a Korean object (을/를) and its verb."""
    pairs: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for turn in row["conversations"]:
            if turn["from"] == "gpt":
                text = turn["value"].lower()
                for verb, phrase in _EN_PAIR.findall(text):
                    words = [word for word in phrase.split() if word not in _EN_WEAK]
                    if words and verb not in _EN_NOT_DOING:
                        pairs[verb, words[-1]] += 1
                for noun, verb in _KO_PAIR.findall(text):
                    pairs[verb, noun] += 1
    return [(verb, noun, count) for (verb, noun), count in pairs.most_common(most)]
