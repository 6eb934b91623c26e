"""What a teacher wrote, judged: one small named function a reason, each with its code.

picture + kind + language + turns -> the faults found, empty where the sample may be learnt
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache

from vistune.datagen.teachers.prompts import context, system_prompt
from vistune.datagen.teachers.replies import ReplyError, Turns, parse_reply
from vistune.grounding.claims import ungrounded, wrong_count, wrong_position
from vistune.types import AnnotatedImage

FEWEST_WORDS = {"detail": 16, "reasoning": 10}  # one sentence is no description, one phrase no reasoning
KO_WORDS = 0.7  # Korean says the same in fewer, longer words
UNSPACED = ("zh", "ja", "th")
LETTERS_A_WORD = 2  # where no spaces part the words
MOST_WORDS = 1500
ECHOED_WORDS = 12  # as many words of the prompt in a row are an echo


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is judged: the order, and what the teacher wrote for it."""

    image: AnnotatedImage
    kind: str
    language: str
    turns: Turns

    @property
    def answers(self) -> list[str]:
        return [answer for _, answer in self.turns]

    @property
    def texts(self) -> list[str]:
        return [text for turn in self.turns for text in turn if text]


@dataclass(frozen=True, slots=True)
class CheckFailure:
    code: str
    detail: str


_LEAK = re.compile(
    r"\bcaptions?\b|\bbounding[- ]box|\bannotat\w*"
    # not the verb: "he coordinates several tasks"
    r"|\b(?:the|these|those|its|their|given|exact|pixel|image|picture|normali[sz]ed|relative|with|at|from|x|y)"
    r"[- ]coordinates?\b|\bcoordinates? (?:of|for|are|show|indicate|suggest|given)\b|\bcoordinates?\s*[\[(:=]"
    r"|\bdescriptions? (?:(?:does not|doesn't|doesn’t|do not|don't|don’t|never) )?(?:explicitly )?"
    r"(?:says?|mentions?|states?|tells?|specif(?:y|ies)|indicates?)\b"
    r"|\b(?:(?:is|are|was|were) not|isn't|isn’t|aren't|aren’t) (?:explicitly |clearly |directly )?"
    r"(?:mentioned|specified|stated|described)\b"
    r"|\b(?:according to|based on|from) the (?:provided |given )?(?:descriptions?|sentences|list)"
    r"|\b(?:none|any|one|some|each|all|both|two) of the (?:sentences|descriptions)\b"
    r"|\bsentences? (?:says?|mentions?|states?|tells?|describes?)\b"
    r"|\bas (?:described|stated|mentioned) in the"
    r"|캡션|바운딩|경계 ?상자|좌표|주석|(?:설명|문장|목록|정보)(?:에|을) (?:따르면|의하면|보면|바탕으로)"
    r"|(?:주어진|제공된) (?:설명|문장|정보|목록)|(?:언급|명시|서술|기술)(?:되어 있지|되어있지|되지|하지) 않|언급이 없",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    r"[\[(]\s*[01]?\.\d+\s*,\s*[01]?\.\d+|(?<![\d.])0\.\d{2,3}(?!\d)(?![\s-]?(?:liters?|litres?|리터|미터|킬로|그램|퍼센트|초|km|kg|ml|mm|cm|g|l|m|miles?|meters?|metres?|inch(?:es)?|percent|seconds?)\b|\s?%)"
)


def leak(written: Candidate) -> str:
    """Words or raw numbers that give away what the teacher was shown in place of the picture."""
    # "Write a caption for this picture" is how people ask for one
    for text in written.answers if written.kind == "caption" else written.texts:
        if match := _LEAK.search(text) or _NUMBERS.search(text):
            return match.group()
    return ""


def ungrounded_object(written: Candidate) -> str:
    """One of the 80 COCO classes asserted that neither captions nor boxes name."""
    return ungrounded(written.image, written.turns, written.language)


def count(written: Candidate) -> str:
    return wrong_count(written.image, written.turns, written.language)


def position(written: Candidate) -> str:
    return wrong_position(written.image, written.turns, written.language)


_SCRIPTS = {
    "ko": r"[가-힣]",
    "ja": r"[぀-ヿ一-鿿]",
    "zh": r"[一-鿿]",
    "ru": r"[Ѐ-ӿ]",
    "uk": r"[Ѐ-ӿ]",
    "ar": r"[؀-ۿ]",
    "th": r"[฀-๿]",
    "hi": r"[ऀ-ॿ]",
    "he": r"[֐-׿]",
    "el": r"[Ͱ-Ͽ]",
}
_LATIN = r"[A-Za-zÀ-ɏ]"


def language(written: Candidate) -> str:
    """Most letters of every text are of the language's script; names in another script may stand among them."""
    script = _SCRIPTS.get(written.language, _LATIN)
    for text in written.texts:
        letters = re.findall(r"[^\W\d_]", text)
        own = len(re.findall(script, text))
        # Korean packs a word into few letters, so an English name among them weighs more than it reads
        if len(letters) > 3 and own < (0.35 if written.language == "ko" else 0.7) * len(letters):
            return f"{own} of {len(letters)} letters are of the script: {text[:40]!r}"
    return ""


_REFUSAL = re.compile(
    r"\bas an ai\b|\bi(?:'m| am) (?:sorry|unable|not able)|\bi don't have (?:access|the ability)|\bi apologi[sz]e"
    r"|\bi (?:can't|can’t|cannot) (?:assist|help (?:you|with)|provide|access|fulfil|describe|answer|determine|generate)"
    # "I can't see any cars" tells of the picture, "I can't see the picture" refuses
    r"|\bi (?:can't|can’t|cannot) (?:actually |directly )?(?:see|view|open)(?:\s*[.,;!]|"
    r" (?:the |this |that |your |any |an |it\b|what you|)(?:attached |actual )?"
    r"(?:images?|pictures?|photos?|it\b|what you|files?))"
    r"|\bas a (?:large )?language model"
    r"|죄송(?:합니다|하지만|해요)|(?:이미지|사진|그림)(?:를|을) (?:직접 )?(?:볼|확인할|분석할) 수 없"
    r"|(?:AI|인공지능|언어) ?(?:모델|어시스턴트|비서)|도와 ?드릴 수 없|제공할 수 없|답변(?:을 드릴|할) 수 없",
    re.IGNORECASE,
)


def refusal(written: Candidate) -> str:
    for answer in written.answers:
        if match := _REFUSAL.search(answer):
            return match.group()
    return ""


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


_ORDER = re.compile(
    r"(?:^|[.!?:]\s+|\n)\s*(?:please )?(?:write|create|generate) (?:a|one) (?:conversation|question|description)\b|"
    r"다음 (?:형식|지시|규칙)|형식으로 (?:작성|써)|\buse this form\b"
)


@cache
def _instructions(kind: str, language: str) -> str:
    return " ".join(_words(system_prompt(kind, language)))


def prompt_echo(written: Candidate) -> str:
    """A run of the instructions' words, or the captions or boxes as they were shown."""
    asked = _instructions(written.kind, written.language)
    shown = context(written.image.captions, written.image.boxes, written.kind).lower()
    for text in written.texts:
        words = _words(text)
        for k in range(len(words) - ECHOED_WORDS + 1):
            if (run := " ".join(words[k : k + ECHOED_WORDS])) in asked:
                return run
        lines = [line.strip() for line in shown.split("\n") if len(line.split()) > 3]
        echoed = [line for line in lines if line in text.lower()]
        if len(echoed) >= 2 or (echoed and "[" in echoed[0]):
            return echoed[0]
        if match := _ORDER.search(text.lower()):
            return match.group()
    return ""


_TRIFLES = frozenset(
    (
        "the",
        "a",
        "an",
        "please",
        "so",
        "then",
        "and",
        "exactly",
        "is",
        "are",
        "was",
        "were",
        "of",
        "do",
        "does",
        "did",
        "혹시",
    )
)


_STEM = re.compile(r"^([a-z]{3,}?)(?:(?<=([a-z]))\2)?(?:ing|s)$")  # "wearing", "wears", "sitting"


def _plain(question: str) -> str:
    text = re.sub(r"\b(?:in|of) (?:the|this) (?:picture|image|photo|scene)\b", " ", question.lower().split("\n")[0])
    return re.sub(r"(?:사진|그림|이미지)(?:에서?|속에?)?\s", " ", text)


def _bare(question: str) -> list[str]:
    """A question's words without what changes nothing: articles, particles, politeness, "in the picture"."""
    words = [re.sub(r"(?<=[가-힣])(?:은|는|이|가|을|를)$", "", word) for word in _words(_plain(question))]
    return [_STEM.sub(r"\1", word) for word in words if word not in _TRIFLES]


_KO_ASKED = re.compile(
    r"(누구|무엇|어디|언제|뭐|누가|무슨 색)(?:은|는|이|가|을|를|에)?"
    r"(?:인가요|입니까|일까요|인지|예요|이에요|죠)?(?=\s|$|\W)"
)
_KO_BEING = re.compile(r"(?<=고) (?:있는(?: 것)?(?:은|는|이|가)?|있나요|있습니까|있을까요|있어요|있죠)(?=\s|$|\W)")


def _ko_bare(question: str) -> list[str]:
    """The words in any order: "무엇을 먹고 있나요" and "먹고 있는 것은 무엇인가요" ask the same. What marks who does
    it is kept, in one form for subject and topic.
    """
    words = _words(_KO_ASKED.sub(r"\1", _KO_BEING.sub("", _plain(question))))
    return sorted(re.sub(r"(?<=[가-힣])(?:은|는|가)$", "이", word) for word in words if word not in _TRIFLES)


def near_duplicate(written: Candidate) -> str:
    """Two questions of one conversation the same but for trifles, or an answer that is its question."""
    seen: list[list[str]] = []
    seen_korean: list[list[str]] = []
    for question, answer in written.turns:
        if question and _words(question) == _words(answer):
            return question[:60]
        words = _bare(question)
        korean = _ko_bare(question) if written.language == "ko" else []
        alike = any(SequenceMatcher(None, words, other).ratio() >= 0.93 for other in seen)
        if (words and alike) or (korean and korean in seen_korean):
            return question[:60]
        seen.append(words)
        seen_korean.append(korean)
    return ""


def length(written: Candidate) -> str:
    """A description of a few words, an answer without end, or one that runs in a loop."""
    fewest = FEWEST_WORDS.get(written.kind, 1) * (KO_WORDS if written.language == "ko" else 1)
    for answer in written.answers:
        words = answer.split()
        count = len(words)
        if written.language in UNSPACED:
            count = max(count, len(re.findall(r"[^\W\d_]", answer)) // LETTERS_A_WORD)
        if count < fewest or count > MOST_WORDS:
            return f"{count} words"
        runs = [tuple(words[k : k + 4]) for k in range(len(words) - 3)]
        if len(runs) >= 24 and len(set(runs)) < 0.5 * len(runs):
            return f"{len(runs) - len(set(runs))} repeated runs of four words"
    return ""


_SPECIAL = re.compile(
    r"</?s>|<\|[^|\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?image>|<(?:pad|unk|bos|eos)>|"
    r"^\s*(?:USER|ASSISTANT|SYSTEM|Human|Assistant|User)\s*:|###\s*(?:Human|Assistant)",
    re.MULTILINE,
)


def special_tokens(written: Candidate) -> str:
    for text in written.texts:
        if match := _SPECIAL.search(text) or re.search(r"\b(?:USER|ASSISTANT):", text):
            return match.group()
    return ""


CHECKS: Mapping[str, Callable[[Candidate], str]] = {
    "special_tokens": special_tokens,
    "refusal": refusal,
    "prompt_echo": prompt_echo,
    "leak": leak,
    "language": language,
    "near_duplicate": near_duplicate,
    "length": length,
    "ungrounded_object": ungrounded_object,
    "count": count,
    "position": position,
}


def run_checks(written: Candidate) -> list[CheckFailure]:
    """Every check's fault, in the order of the table."""
    return [CheckFailure(code, detail) for code, check in CHECKS.items() if (detail := check(written))]


def check_reply(
    text: str, image: AnnotatedImage, kind: str, language: str, *, asked_here: bool = True
) -> tuple[Turns, list[CheckFailure]]:
    """A raw reply parsed and judged; no turns where its shape cannot be read."""
    try:
        turns = parse_reply(text, kind, asked_here=asked_here)
    except ReplyError as fault:
        if fault.code == "thinking":  # a thought is not an answer, even if it looks like one
            return (), [CheckFailure(fault.code, fault.detail)]
        whole = Candidate(image, kind, language, (("", text),))
        # a refusal or an echo has no shape either; that it is one says more
        better = [CheckFailure(code, found) for code in ("refusal", "prompt_echo") if (found := CHECKS[code](whole))]
        return (), better or [CheckFailure(fault.code, fault.detail)]
    return turns, run_checks(Candidate(image, kind, language, turns))
