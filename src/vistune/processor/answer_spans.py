"""Find the answers of a conversation that a chat template without generation marks has rendered.

An answer begins where its generation prompt ends. The prompt is the conversation up to the question, rendered with
`add_generation_prompt`. An answer's end is what follows both a middle and a last answer, up to the last control token.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile

from vistune.errors import RecipeError
from vistune.processor.shapes import ONE_TURN, OPEN, Shape, count_texts, mark_of

Roles = frozenset[str]
Render = Callable[[Shape, Roles], str]  # "" if the template refuses the shape
TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
NO_PROMPT = "\0"  # begins no rendered text


class AnswerSpans:
    """The rules by which answers are found.

    Args:
        two_turns: Rendered conversation of two questions and two answers.
        render: Renders a shape; the roles are those whose content is given as parts.
        controls: Pattern of one control token.
        eos: The tokenizer's end token, or "".
    """

    def __init__(self, two_turns: str, render: Render, controls: str, eos: str) -> None:
        self.render = render
        self.control = re.compile(controls)
        self._ending = re.compile(rf"\s*(?:{controls})")
        self._end, self._missing_end = self._find_end(two_turns, eos)

    def _find_end(self, two_turns: str, eos: str) -> tuple[str, str]:
        """Return the text after each answer, and the token to append to a last answer that has none after it.

        The token to append is the one that follows earlier answers (for GLM the beginning of the next turn), or else
        the tokenizer's end token. Text and token are "" if there is none.
        """
        middle = two_turns.partition(mark_of(1))[2].partition(OPEN)[0]
        last = two_turns.partition(mark_of(3))[2]
        common = _common_beginning(middle, last)
        end = ""
        while control := self._ending.match(common, len(end)):
            if end and control.group()[:1].isspace():
                break
            end += control.group()
            if control.group().strip() == eos:
                break
        if end:
            return end, ""
        if self._ending.match(last):  # the last turn ends with another token than earlier ones
            return "", ""
        if common.strip():  # text, such as "###"
            return common[: len(common) - len(common.lstrip())] + common.split()[0], ""
        following = self._ending.match(middle)
        return "", following.group().strip() if following else eos

    def find(self, shape: Shape, text: str, roles: Roles) -> tuple[str, list[tuple[int, int]]]:
        """Return a rendered shape and the spans of its answers with their ends.

        The last answer begins where its prompt ends. If the template writes no end after it, one is appended.
        """
        spans: list[tuple[int, int]] = []
        for index, (role, kinds) in enumerate(shape):
            if role != "assistant":
                continue
            prompt = self.render(shape[:index], roles) or NO_PROMPT
            if kinds:
                mark = mark_of(count_texts(shape[: index + 1]) - 1)
                start = text.index(mark)
                after = start + len(mark)
            else:
                start = after = self._empty_answer(shape[:index], text, prompt, roles)
            if index + 1 == len(shape):
                position, block = self._empty_block(prompt, text[:start])
                text = text[:position] + block + text[position:]
                start, after = start + len(block), after + len(block)
            stop = after + self._end_length(text[after:])
            if text.startswith(prompt) and len(prompt) <= start:
                start = len(prompt)
            spans.append((start, stop))
        if self._missing_end and shape[-1][0] == "assistant":
            start, stop = spans[-1]
            text = text[:stop] + self._missing_end
            spans[-1] = (start, len(text))
        return text, spans

    def _empty_answer(self, before: Shape, text: str, prompt: str, roles: Roles) -> int:
        """Return where an answer with text would be, or else the prompt's end.

        Raises:
            RecipeError: If the template leaves an empty answer's turn out.
        """
        answered = self.render((*before, ONE_TURN[1]), roles)
        start, mark, _ = answered.partition(mark_of(count_texts(before)))
        if not (mark and text.startswith(start)):
            start = prompt
        if not text.startswith(start):
            raise RecipeError("the tokenizer's chat template has no turn for an empty answer", "remove the record")
        return len(start)

    def _empty_block(self, prompt: str, before_answer: str) -> tuple[int, str]:
        """Return where the empty thoughts belong that are in the prompt but not in the conversation, and their text.

        The text is "" if there are none, or if the prompt leaves them open, because the model would not close them.
        """
        start, extra = difference(prompt, before_answer, self.control)
        tags = TAG.findall(extra)
        is_block = len(tags) == 2 and extra.strip().startswith(tags[0]) and extra.strip().endswith(tags[1])
        return start, extra if is_block and not any(tag in before_answer[start:] for tag in tags) else ""

    def _end_length(self, following: str) -> int:
        """Return how many characters of the text after an answer end it."""
        if self._end and following.startswith(self._end):
            return len(self._end)
        control = self._ending.match(following)
        return control.end() if control else 0


def prompt_fault(prompt: str, finished: str, control: re.Pattern[str]) -> str:
    """Return why a rendered generation prompt does not fit a finished turn; "" if it does.

    Args:
        prompt: The rendered question.
        finished: The rendered question and answer.
        control: Matches one control token.
    """
    if not finished.startswith(prompt):
        _, extra = difference(prompt, finished, control)
        return f"its generation prompt ends with {extra!r}, which a finished conversation does not contain"
    header = control.sub("", finished[len(prompt) : finished.index(mark_of(1))]).strip()
    if header:
        return f"the model would have to write {header!r} before each answer, because its prompt ends earlier"
    return ""


def difference(prompt: str, finished: str, control: re.Pattern[str]) -> tuple[int, str]:
    """Return where a prompt differs from a finished conversation, and its text from there; no token is cut."""
    start = len(_common_beginning(prompt, finished))
    for match in control.finditer(prompt):
        if match.start() < start < match.end():
            start = match.start()
    return start, prompt[start:]


def _common_beginning(left: str, right: str) -> str:
    return left[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))]
