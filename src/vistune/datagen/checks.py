"""Check what a teacher wrote: one function per reason of rejection, each with its code in CHECKS.

A check returns the words that it found wrong, or "". The checks for refusals, repeated prompts and leaks know English
and Korean words only.
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

FEWEST_WORDS = {"detail": 16, "reasoning": 10}  # more than a sentence, more than a phrase
KO_WORDS = 0.7  # Korean needs fewer words, which are longer
UNSPACED = ("zh", "ja", "th")
LETTERS_PER_WORD = 2  # in languages without spaces between words
MOST_WORDS = 1500
ECHOED_WORDS = 12  # this many words of the prompt in a row count as an echo


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample to check: the image, the request, and the turns that a teacher wrote for it."""

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
    """Why a sample is rejected: the code of the check, and the words that the check found wrong."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class CheckedReply:
    """The turns of a reply (none if it cannot be parsed) and why it is rejected (empty if it is accepted)."""

    turns: Turns
    failures: tuple[CheckFailure, ...] = ()


_LEAK = re.compile(
    r"\bcaptions?\b|\bbounding[- ]box|\bannotat\w*"
    # but not the verb: "he coordinates several tasks"
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


def leak(sample: Candidate) -> str:
    """Find words or raw numbers that reveal what the teacher was shown in place of the image."""
    # the question "Write a caption for this image" is not a leak
    return _first_match(sample.answers if sample.kind == "caption" else sample.texts, _LEAK, _NUMBERS)


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


def language(sample: Candidate) -> str:
    """Find a text with too few letters in the language's script; names in another script are allowed."""
    script = _SCRIPTS.get(sample.language, _LATIN)
    for text in sample.texts:
        letters = re.findall(r"[^\W\d_]", text)
        own = len(re.findall(script, text))
        # Korean words have few letters, so the letters of an English name weigh more among them
        if len(letters) > 3 and own < (0.35 if sample.language == "ko" else 0.7) * len(letters):
            return f"{own} of {len(letters)} letters are in the script: {text[:40]!r}"
    return ""


_REFUSAL = re.compile(
    r"\bas an ai\b|\bi(?:'m| am) (?:sorry|unable|not able)|\bi don't have (?:access|the ability)|\bi apologi[sz]e"
    r"|\bi (?:can't|can’t|cannot) (?:assist|help (?:you|with)|provide|access|fulfil|describe|answer|determine|generate)"
    # "I can't see any cars" is about the image, "I can't see the image" refuses
    r"|\bi (?:can't|can’t|cannot) (?:actually |directly )?(?:see|view|open)(?:\s*[.,;!]|"
    r" (?:the |this |that |your |any |an |it\b|what you|)(?:attached |actual )?"
    r"(?:images?|pictures?|photos?|it\b|what you|files?))"
    r"|\bas a (?:large )?language model"
    r"|죄송(?:합니다|하지만|해요)|(?:이미지|사진|그림)(?:를|을) (?:직접 )?(?:볼|확인할|분석할) 수 없"
    r"|(?:AI|인공지능|언어) ?(?:모델|어시스턴트|비서)|도와 ?드릴 수 없|제공할 수 없|답변(?:을 드릴|할) 수 없",
    re.IGNORECASE,
)


def refusal(sample: Candidate) -> str:
    return _first_match(sample.answers, _REFUSAL)


def _first_match(texts: list[str], *patterns: re.Pattern[str]) -> str:
    matches = (pattern.search(text) for text in texts for pattern in patterns)
    return next((match.group() for match in matches if match), "")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


_INSTRUCTION = re.compile(
    r"(?:^|[.!?:]\s+|\n)\s*(?:please )?(?:write|create|generate) (?:a|one) (?:conversation|question|description)\b|"
    r"다음 (?:형식|지시|규칙)|형식으로 (?:작성|써)|\buse this form\b"
)


@cache
def _prompt_words(kind: str, language: str) -> str:
    return " ".join(_words(system_prompt(kind, language)))


def prompt_echo(sample: Candidate) -> str:
    """Find words of the prompt, or captions or boxes repeated as they were shown."""
    prompt = _prompt_words(sample.kind, sample.language)
    shown = context(sample.image.captions, sample.image.boxes, sample.kind).lower()
    for text in sample.texts:
        words = _words(text)
        for k in range(len(words) - ECHOED_WORDS + 1):
            if (run := " ".join(words[k : k + ECHOED_WORDS])) in prompt:
                return run
        lines = [line.strip() for line in shown.split("\n") if len(line.split()) > 3]
        echoed = [line for line in lines if line in text.lower()]
        if len(echoed) >= 2 or (echoed and "[" in echoed[0]):
            return echoed[0]
        if match := _INSTRUCTION.search(text.lower()):
            return match.group()
    return ""


_STOP_WORDS = frozenset({
    "the", "a", "an", "please", "so", "then", "and", "exactly", "is", "are", "was", "were", "of", "do", "does", "did",
    "혹시",
})  # fmt: skip
_STEM = re.compile(r"^([a-z]{3,}?)(?:(?<=([a-z]))\2)?(?:ing|s)$")  # "wearing", "wears", "sitting"


def _without_image(question: str) -> str:
    text = re.sub(r"\b(?:in|of) (?:the|this) (?:picture|image|photo|scene)\b", " ", question.lower().split("\n")[0])
    return re.sub(r"(?:사진|그림|이미지)(?:에서?|속에?)?\s", " ", text)


def _content_words(question: str) -> list[str]:
    """Return a question's words without articles, particles, politeness and "in the picture"."""
    words = [re.sub(r"(?<=[가-힣])(?:은|는|이|가|을|를)$", "", word) for word in _words(_without_image(question))]
    return [_STEM.sub(r"\1", word) for word in words if word not in _STOP_WORDS]


_KO_ASKED = re.compile(
    r"(누구|무엇|어디|언제|뭐|누가|무슨 색)(?:은|는|이|가|을|를|에)?"
    r"(?:인가요|입니까|일까요|인지|예요|이에요|죠)?(?=\s|$|\W)"
)
_KO_BEING = re.compile(r"(?<=고) (?:있는(?: 것)?(?:은|는|이|가)?|있나요|있습니까|있을까요|있어요|있죠)(?=\s|$|\W)")


def _ko_content_words(question: str) -> list[str]:
    """Return a Korean question's words, sorted: "무엇을 먹고 있나요" and "먹고 있는 것은 무엇인가요" ask the same.

    The particles of subject and topic are kept, in one form.
    """
    words = _words(_KO_ASKED.sub(r"\1", _KO_BEING.sub("", _without_image(question))))
    return sorted(re.sub(r"(?<=[가-힣])(?:은|는|가)$", "이", word) for word in words if word not in _STOP_WORDS)


def near_duplicate(sample: Candidate) -> str:
    """Find a question that is asked twice in nearly the same words, or an answer that repeats its question."""
    seen: list[list[str]] = []
    seen_korean: list[list[str]] = []
    for question, answer in sample.turns:
        if question and _words(question) == _words(answer):
            return question[:60]
        words = _content_words(question)
        korean = _ko_content_words(question) if sample.language == "ko" else []
        alike = any(SequenceMatcher(None, words, other).ratio() >= 0.93 for other in seen)
        if (words and alike) or (korean and korean in seen_korean):
            return question[:60]
        seen.append(words)
        seen_korean.append(korean)
    return ""


def length(sample: Candidate) -> str:
    """Find an answer that is too short, too long, or repeats itself in a loop."""
    fewest = FEWEST_WORDS.get(sample.kind, 1) * (KO_WORDS if sample.language == "ko" else 1)
    for answer in sample.answers:
        words = answer.split()
        count = len(words)
        if sample.language in UNSPACED:
            count = max(count, len(re.findall(r"[^\W\d_]", answer)) // LETTERS_PER_WORD)
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
_ROLE = re.compile(r"\b(?:USER|ASSISTANT):")


def special_tokens(sample: Candidate) -> str:
    return _first_match(sample.texts, _SPECIAL, _ROLE)


CHECKS: Mapping[str, Callable[[Candidate], str]] = {
    "special_tokens": special_tokens,
    "refusal": refusal,
    "prompt_echo": prompt_echo,
    "leak": leak,
    "language": language,
    "near_duplicate": near_duplicate,
    "length": length,
    # a COCO class that is asserted although neither captions nor boxes name it, a wrong number, a wrong side
    "ungrounded_object": lambda sample: ungrounded(sample.image, sample.turns, sample.language),
    "count": lambda sample: wrong_count(sample.image, sample.turns, sample.language),
    "position": lambda sample: wrong_position(sample.image, sample.turns, sample.language),
}


def run_checks(candidate: Candidate) -> tuple[CheckFailure, ...]:
    """Return the failure of each check that rejects a sample, in the order of CHECKS."""
    return tuple(CheckFailure(code, detail) for code, check in CHECKS.items() if (detail := check(candidate)))


def check_reply(text: str, image: AnnotatedImage, kind: str, language: str, *, asked_here: bool = True) -> CheckedReply:
    """Parse a raw reply and check its turns. `asked_here`: vistune asks the question; a reply has only the answer."""
    try:
        turns = parse_reply(text, kind, asked_here=asked_here)
    except ReplyError as error:
        unparsed = CheckFailure(error.code, error.detail)
        if error.code == "thinking":  # a thought is never an answer, even if it looks like one
            return CheckedReply((), (unparsed,))
        whole = Candidate(image, kind, language, (("", text),))
        # a refusal or an echo cannot be parsed either, and its code says more
        clearer = [CheckFailure(code, detail) for code in ("refusal", "prompt_echo") if (detail := CHECKS[code](whole))]
        return CheckedReply((), tuple(clearer) or (unparsed,))
    return CheckedReply(turns, run_checks(Candidate(image, kind, language, turns)))
