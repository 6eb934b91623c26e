"""Turn training samples into questions: a turn of the assistant is the right answer to the dialogue before it.

record with `conversations`, `messages` or `texts` -> Sample -> one Question per supervised answer
`--match MATCH` or `--match KIND=MATCH,...` -> MatchRule -> the match of each question
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vistune.errors import RecipeError
from vistune.evaluation.matching import CHOICE, MATCHES, NUMBER, only_number
from vistune.evaluation.parsing import lenient_letter
from vistune.evaluation.task import bare
from vistune.records import FORMS, ImageFolders, RecordError, read_sample
from vistune.registry import guess
from vistune.types import Question, Sample

DEFAULT_MATCH = "exact"
LETTERS = "ABCDE"
OWN_FIELDS = ("match", "type")  # of a record to train on, in addition to those that `train` reads
LONG_ANSWER = 12  # words; a longer answer is rarely repeated word by word
_OPTION = re.compile(r"^\s*(?:\(([A-Z])\)|([A-Z])[.):])\s*(\S.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MatchRule:
    """Which match decides about a question without its own `match`, by its kind."""

    default: str = DEFAULT_MATCH
    by_kind: Mapping[str, str] = field(default_factory=dict)

    def match_of(self, kind: str) -> str:
        return self.by_kind.get(kind, self.default)

    def refuse_unknown_kinds(self, kinds: Collection[str]) -> None:
        """Raise RecipeError if the rule names a kind that no question has."""
        for kind in self.by_kind:
            if kind not in kinds:
                raise RecipeError(
                    f"--match {kind}={self.by_kind[kind]}: no question is of this kind", guess(kind, kinds)
                )


DEFAULT_RULE = MatchRule()


def read_match_rule(text: str | None) -> MatchRule:
    """Parse `--match`: a match for all questions, and KIND=MATCH for kinds, separated by commas."""
    default, by_kind = DEFAULT_MATCH, {}
    for part in filter(None, (text or "").split(",")):
        kind, _, name = part.rpartition("=")
        if name not in MATCHES:
            raise RecipeError(f"--match {part}: unknown match {name!r}", guess(name, MATCHES))
        if kind:
            by_kind[kind] = name
        else:
            default = name
    return MatchRule(default, by_kind)


def is_sample(fields: Mapping[str, object]) -> bool:
    """Return whether a record is a dialogue to train on."""
    return any(fields.get(form) is not None for form in FORMS)


@dataclass(frozen=True, slots=True)
class SampleReader:
    """Reads the questions of dialogues.

    Attributes:
        rule: The match of questions without their own.
        unread, notes: Counters of fields that are not read, and of notes for the user.
        gold: Whether replies are compared with the answers.
    """

    rule: MatchRule
    unread: Counter[str]
    notes: Counter[str]
    gold: bool = True

    def read(self, fields: Mapping[str, object], location: str, folders: ImageFolders) -> list[Question]:
        """Return the questions of a record, which `train` would read in the same way.

        Raises RecordError if the record is bad, or if an answer does not fit its match.
        """
        record = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
        sample = read_sample(record, location, folders, self.notes, self.unread)
        kind, language, own = (_text_of(fields, name, location) for name in ("type", "language", "match"))
        if own and own not in MATCHES:
            raise RecordError(location, "match", f"unknown value {own!r}", guess(own, MATCHES))
        return list(self.of_sample(sample, kind=kind, language=language, match=own))

    def of_sample(
        self, sample: Sample, *, kind: str = "", language: str = "", match: str = "", source: str = ""
    ) -> Iterator[Question]:
        """Yield a question per supervised answer; a later one has the dialogue before it, with the right answers."""
        kind = kind or sample.kind or "all"
        answered = [k for k, message in enumerate(sample.messages) if message.role == "assistant"]
        for nth, index in enumerate(answered, start=1):
            message = sample.messages[index]
            if not message.supervised:
                self.notes["an answer that is not trained on is given as part of the dialogue, not asked"] += 1
                continue
            name = sample.id if len(answered) == 1 else f"{sample.id}/{nth}"
            dialogue = replace(sample, id=name, messages=sample.messages[:index])
            used = match or self.rule.match_of(kind)
            tags: dict[str, object] = {"type": kind, "language": language or "all", "match": used}
            if source:
                tags["source"] = source
            question = Question(name, dialogue, message.text.strip(), tags)
            if not self.gold:
                yield question
                continue
            if used == "exact" and len(message.text.split()) > LONG_ANSWER:
                self.notes[
                    f"an answer of more than {LONG_ANSWER} words is compared by exact match, which few replies will "
                    "meet; use --match rouge-l or --match judge"
                ] += 1
            yield with_match(question)


def with_match(question: Question) -> Question:
    """Return a question whose answer fits its match: for `choice`, with the options that its text lists.

    Raises RecordError if the answer has no number, or names no option of the text.
    """
    match, location = question.tags["match"], question.sample.origin
    if match == NUMBER and only_number(question.answer) is None:
        problem = f"the answer {question.answer!r:.60} has no number, or several; `number` needs exactly one"
        raise RecordError(location, "match", problem, "use another match for it, such as --match KIND=number")
    if match != CHOICE or "choices" in question.tags:
        return question
    options = {(m[1] or m[2]): m[3].strip() for m in _OPTION.finditer(question.sample.messages[-1].text)}
    choices = dict(zip(LETTERS, options.values(), strict=False))
    letter = selected_option(question.answer, list(choices.values())) if choices.keys() == options.keys() else None
    letter = letter or next((key for key, text in choices.items() if bare(text) == bare(question.answer)), None)
    if letter is None:
        problem = f"the answer {question.answer!r:.60} is none of the options that the question lists as A, B …"
        raise RecordError(location, "match", problem, "list them as lines `A. …`, at most five, or use another match")
    return replace(question, answer=letter, tags={**question.tags, "choices": list(choices.values())})


def selected_option(reply: str, choices: Sequence[object]) -> str | None:
    """Return the letter of the option that a reply selects, by the lenient rule of the tasks with options."""
    return lenient_letter(reply, dict(zip(LETTERS, map(str, choices), strict=False))) if choices else None


def with_own_id(question: Question, taken: Collection[str]) -> Question:
    """Return a question whose id is not taken: in many files several dialogues have the same id."""
    location = question.sample.origin
    for name in (question.id, f"{question.id}@{location.rsplit(':', 1)[-1]}", f"{question.id}@{location}"):
        if name not in taken:
            return question if name == question.id else replace(question, id=name)
    raise RecordError(location, "id", f"{question.id!r} occurs twice", "give each record its own id")


def _text_of(fields: Mapping[str, object], name: str, location: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RecordError(location, name, f"expected text, got {value!r:.60}", "write one word")
    return value
