"""Ids and labels as the original LLaVA computes them: sentencepiece's own pieces, labels found by walking the rounds.

The algorithm is that of LLaVA's published code, Apache-2.0 (`tokenizer_image_token`, `preprocess_plain`,
`preprocess_v1`, `preprocess_llama_2`). It tokenises a conversation piece by piece and finds the answers again by their
lengths.
vistune does neither. Equal ids and labels therefore mean that both ways agree.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from small_llama import pieces_of

BOS, EOS, IMAGE, IGNORED = 1, 2, -200, -100
Turns = list[dict[str, str]]

# Invented conversations in LLaVA's form: with and without an image, at either end of the question, one to three turns.
CONVERSATIONS: list[Turns] = [
    [{"from": role, "value": text} for role, text in zip(("human", "gpt") * 3, texts, strict=False)]
    for texts in (
        ("<image>\nWhat colour is the circle?", "It is red."),
        ("Where is the blue square?\n<image>", "At the top left of the picture,\nabove a small green star."),
        ("<image>\n이 그림에는 무엇이 있나요?", "빨간 원과 파란 사각형이 있습니다. 뷁!"),
        ("What is 2 + 2?", "4"),
        ("<image>\nHow many stars?", "Three.", "And circles?", "One, at the top.", "어디에 있나요?", "왼쪽 위입니다."),
        ("안녕하세요?", "네, 안녕하세요.", "What's your name?", "I am an assistant; ask me."),
    )
]
CAPTIONS: list[Turns] = [
    [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]
    for question, caption in (
        ("<image>\nDescribe it.", "a red circle above a blue square"),
        ("Give a brief description.\n<image>", "파란 사각형 하나"),
    )
]


class OriginalLlava:
    """The original's preprocessing with a Llama tokenizer; `legacy` as in the tokenizer's settings."""

    def __init__(self, folder: Path, *, legacy: bool) -> None:
        self.legacy = legacy
        self.first, self.later = pieces_of(folder), pieces_of(folder, prefix=legacy)

    def tokenize(self, text: str) -> list[int]:
        """As transformers' slow Llama tokenizer: `<s>` begins; special tokens are found first, text between them."""
        ids = [BOS]
        special = {"<s>": BOS, "</s>": EOS}
        for number, part in enumerate(part for part in re.split(r"(</?s>)", text) if part):
            pieces = self.later if number else self.first
            ids += [special[part]] if part in special else pieces.encode(part)
        return ids

    def with_images(self, text: str) -> list[int]:
        """Each chunk between images on its own; `<s>` is kept once."""
        first, *others = [self.tokenize(chunk) for chunk in text.split("<image>")]
        return first + [token for chunk in others for token in (IMAGE, *chunk[1:])]

    def encode(self, conversation: Turns, template: str, system: str) -> tuple[list[int], list[int]]:
        """Return (ids, labels); an image is one -200, and what carries no loss is -100."""
        texts = [image_first(turn["value"]) for turn in conversation]
        if template == "plain":
            text = f"<image>{texts[1]}\n"
            ids = self.with_images(text)
            return ids, [IGNORED] * 2 + ids[2:]
        pairs = list(zip(texts[::2], texts[1::2], strict=True))
        if template == "v1":
            text = f"{system} " + "".join(f"USER: {question} ASSISTANT: {answer}</s>" for question, answer in pairs)
            opening = " ASSISTANT: "
        else:
            pairs[0] = (f"<<SYS>>\n{system}\n<</SYS>>\n\n{pairs[0][0]}", pairs[0][1])
            text = "<s>".join(f"[INST] {question} [/INST] {answer} </s>" for question, answer in pairs)
            opening = "[/INST] "
        return self.with_images(text), self.walk(text, opening, template)

    def walk(self, text: str, opening: str, template: str) -> list[int]:
        """Label what is behind each round's `opening`, and the `</s>` behind that."""
        labels = self.with_images(text)
        labels[0], position = IGNORED, 1
        for number, round_ in enumerate(text.split("</s>")[:-1]):
            question = round_.partition(opening)[0] + opening
            length = len(self.with_images(round_))  # its own `<s>` counts for the `</s>`
            unlearnt = len(self.with_images(question)) - 2  # less `<s>` and the space, which joins the answer
            if number and template == "v1" and not self.legacy:  # behind `</s>` no space is put before text
                length, unlearnt = length - 1, unlearnt - 1
            labels[position : position + unlearnt] = [IGNORED] * unlearnt
            position += length
        assert position == len(labels), "the original calls this a tokenization mismatch"
        return labels


def image_first(text: str) -> str:
    """Move an image to the front of its turn, with a line break behind it."""
    return f"<image>\n{text.replace('<image>', '').strip()}" if "<image>" in text else text


def rows(folder: Path, template: str, system: str, *, legacy: bool) -> list[dict[str, Any]]:
    """Encode all conversations above: the form of a line of golden tokens."""
    original = OriginalLlava(folder, legacy=legacy)
    encoded = []
    for conversation in CAPTIONS if template == "plain" else CONVERSATIONS:
        ids, labels = original.encode(conversation, template, system)
        encoded.append({"conversations": conversation, "input_ids": ids, "labels": labels})
    return encoded
