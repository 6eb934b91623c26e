"""The only place where text and pixels become tensors: one renderer for training, evaluation, chat and server.

Sample -> template -> pieces -> ids, labels, pixels -> Example
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vistune.errors import DataError, RecipeError
from vistune.files import read_json, write_json
from vistune.processor.images import picture_size
from vistune.processor.templates import template_named
from vistune.processor.tiles import NEWLINE, anyres_slots, load_tiles, slots_of
from vistune.processor.tokens import Encoded, Encoder, collapse
from vistune.types import IGNORE, Example, Message, Picture, Sample, Spec

PixelReader = Callable[[Picture, Spec], torch.Tensor]


class Processor:
    """A tokenizer, a template and the picture rules of one model. Raises RecipeError where they do not fit."""

    def __init__(self, tokenizer: Any, spec: Spec) -> None:
        self.tokenizer = tokenizer
        self.spec = spec
        self.template = template_named(spec.template)
        self._encoder = Encoder(
            tokenizer, slots=lambda picture: slots_of(picture, spec), chunks=spec.tokenization == "chunks"
        )

    def with_template(self, name: str) -> Processor:
        return self if name == self.spec.template else Processor(self.tokenizer, replace(self.spec, template=name))

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: the tokenizer's end token and the template's own."""
        ends = {self.tokenizer.eos_token_id}
        if self.template.end == "\n":
            ends |= set(self._encoder.text.encode("\n", add_special_tokens=False).ids[-1:])
        else:
            ends.add(self._encoder.control(self.template.end))
        return frozenset(token for token in ends if token is not None)

    def encode_ids(self, sample: Sample) -> Encoded:
        """Ids and labels with slots expanded; no picture is opened."""
        try:
            return self._encoder.encode(self.template.render(sample.messages, origin=sample.origin))
        except DataError as error:
            if sample.origin and not error.message.startswith(sample.origin):
                raise DataError(f"{sample.origin}: {error.message}", error.hint) from None
            raise

    def length(self, sample: Sample) -> int:
        return len(self.encode_ids(sample).ids)

    def encode(self, sample: Sample, pixels: PixelReader = load_tiles) -> Example:
        """The training view: answers and their ends are learnt. `pixels` may be a cache around `load_tiles`."""
        return self._example(self.encode_ids(sample), pixels)

    def encode_prompt(self, messages: Sequence[Message]) -> Example:
        """The generation view: ends where the assistant's answer begins, nothing is learnt."""
        example = self._example(self._encoder.encode(self.template.render(messages)))
        return replace(example, labels=torch.full_like(example.input_ids, IGNORE))

    def _example(self, encoded: Encoded, pixels: PixelReader = load_tiles) -> Example:
        side = self.spec.image_side
        tiles = [pixels(picture, self.spec) for picture in encoded.pictures]
        images = torch.cat(tiles) if tiles else torch.zeros((0, 3, side, side), dtype=torch.uint8)
        slots = self._slots(encoded.pictures, tiles) if self.spec.image_mode == "anyres" and tiles else None
        return Example(torch.tensor(encoded.ids), torch.tensor(encoded.labels), images, slots)

    def _slots(self, pictures: Sequence[Picture], tiles: Sequence[torch.Tensor]) -> torch.Tensor:
        """The pictures' slots (slots, 2), tiles counted over all of them."""
        found, before = [], 0
        for picture, mine in zip(pictures, tiles, strict=True):
            slots = anyres_slots(picture_size(picture), self.spec).clone()
            slots[slots[:, 0] != NEWLINE, 0] += before
            found.append(slots)
            before += len(mine)
        return torch.cat(found)

    def shown(self, sample: Sample) -> dict[str, Any]:
        """What the model sees of a sample, one -200 for a picture, and what it learns."""
        encoded = self.encode_ids(sample)
        ids, labels = collapse(encoded)
        return {"id": sample.id, "input_ids": ids, "labels": labels}

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens and outer whitespace."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def check(self) -> None:
        """Encode a probe conversation; raise where a token straddles an answer or the answer does not come back."""
        picture = Picture(Image.new("RGB", (2, 2)))  # a size suffices
        for turns in (("What colour is it?", "It is red."), ("무슨 색인가요?", "빨간색입니다.")), (("2 + 2?", "4"),):
            messages: list[Message] = []
            for number, (question, answer) in enumerate(turns):
                asked = (picture, question) if number == 0 else (question,)
                messages += [Message("user", asked), Message("assistant", (answer,))]
            if self.template.name == "plain":
                messages = messages[:2]
            encoded = self.encode_ids(Sample("probe", tuple(messages), origin="start-up probe"))
            learnt = [label for label in encoded.labels if label != IGNORE]
            said = "".join(self.decode(learnt).split())
            wanted = "".join("".join(answer.split()) for _, answer in turns[: len(messages) // 2])
            if said != wanted:
                raise DataError(
                    f"start-up probe: the learnt tokens read {said!r}, the answers are {wanted!r}",
                    f"the template {self.template.name!r} and this tokenizer do not fit: choose another template",
                )

    def save(self, folder: Path) -> None:
        """Tokenizer files and spec.json."""
        self.tokenizer.save_pretrained(folder)
        write_json(folder / "spec.json", asdict(self.spec))

    @classmethod
    def load(cls, folder: Path) -> Processor:
        return cls(load_tokenizer(folder), read_spec_file(folder / "spec.json"))


def load_tokenizer(folder: Path | str) -> Any:
    """The fast tokenizer of a model folder; remote code is never run."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), use_fast=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(
            f"tokenizer {folder}: cannot be read: {reason}", "name a folder with tokenizer.json"
        ) from None


def read_spec_file(path: Path) -> Spec:
    tree = read_json(path)
    try:
        return Spec(**{key: _frozen(value) for key, value in tree.items()})
    except TypeError as error:
        raise DataError(f"{path}: not a vistune spec: {error}", f"keys seen: {json.dumps(sorted(tree))}") from None


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples that a spec holds."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
