"""The only place where text and pixels become tensors: one renderer for training, evaluation, chat and server.

Sample -> template -> pieces -> ids, labels, pixels -> Example
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vistune.errors import DataError, RecipeError
from vistune.files import read_json, write_json
from vistune.processor.chat_templates import chat_template
from vistune.processor.images import image_size
from vistune.processor.templates import BOS, EOS, Control, Text
from vistune.processor.tiles import NEWLINE, anyres_slots, load_tiles, slots_of
from vistune.processor.tokenizer_files import load_tokenizer, save_tokenizer
from vistune.processor.tokenizer_template import TokenizerTemplate, template_for
from vistune.processor.tokens import Encoded, Encoder, collapse
from vistune.types import IGNORE, Example, ImageRef, Message, Sample, Spec

PixelReader = Callable[[ImageRef, Spec], torch.Tensor]


class Processor:
    """A tokenizer, a template and the picture rules of one model. Raises RecipeError where they do not fit."""

    def __init__(self, tokenizer: Any, spec: Spec) -> None:
        self.tokenizer = tokenizer
        self.spec = spec
        self.template = template_for(spec.template, tokenizer)
        turn = self.template.render((Message("user", ("?",)), Message("assistant", ("!",))))
        self._encoder = Encoder(
            tokenizer,
            slots=self.slots,
            chunks=spec.tokenization == "chunks",
            controls={piece.token for piece in turn if isinstance(piece, Control)} - {BOS, EOS},
        )

    def slots(self, image: ImageRef) -> int:
        """How many slots a picture takes; no pixel is decoded."""
        return slots_of(image, self.spec)

    @cached_property
    def text_rules(self) -> str:
        """A hash of all that decides a conversation's ids and labels, image slots aside."""
        probe = (Message("user", ("1",)), Message("assistant", ("2",))) * (1 if self.template.name == "plain" else 2)
        shown = self._encoder.encode(self.template.render(probe))
        source = self.template.source if isinstance(self.template, TokenizerTemplate) else ""
        rules = (self.spec.template, self.spec.tokenization, source, self._encoder.begin, shown.ids, shown.labels)
        text = f"{self.tokenizer.backend_tokenizer.to_str()} {self.tokenizer.special_tokens_map} {rules}"
        return hashlib.sha256(text.encode()).hexdigest()

    def with_template(self, name: str) -> Processor:
        return self if name == self.spec.template else Processor(self.tokenizer, replace(self.spec, template=name))

    def with_image_mode(self, mode: str) -> Processor:
        """The same with another mode. Raises RecipeError for an anyres model, whose newline others do not have."""
        if mode == self.spec.image_mode:
            return self
        if "anyres" in (mode, self.spec.image_mode):
            raise RecipeError(f"image_mode: {mode}: this model's is {self.spec.image_mode}", "remove it")
        return Processor(self.tokenizer, replace(self.spec, image_mode=mode))

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's end token and the template's own."""
        ends = {self.tokenizer.eos_token_id}
        if isinstance(self.template.end, Control) and self.template.end != Control(EOS):
            ends.add(self._encoder.control(self.template.end.token))
        return frozenset(token for token in ends if token is not None)

    @property
    def stop_text(self) -> str:
        """Text that ends an answer, of as many tokens as it may take; "" where a token of the template does."""
        return self.template.end.text if isinstance(self.template.end, Text) else ""

    def ended(self, said: Sequence[int]) -> bool:
        """Whether the last of the tokens said ends the answer."""
        if said[-1] in self.stop_ids:
            return True
        end = self.stop_text  # each of its characters is from one of as many tokens at most
        return bool(end) and end in self._encoder.text.decode(said[-len(end) :], skip_special_tokens=False)

    def answer(self, said: Sequence[int]) -> str:
        """The text of an answer, without its end."""
        text = self.decode(said[:-1] if said and said[-1] in self.stop_ids else said)
        return text.partition(self.stop_text)[0].strip() if self.stop_text else text

    @property
    def chat_template(self) -> str:
        """The template as Jinja, such that transformers gives the ids that this processor gives."""
        if isinstance(self.template, TokenizerTemplate):
            return self.template.source_for_parts
        return chat_template(
            self.template.name,
            tokenization=self.spec.tokenization,
            begin="".join(self.tokenizer.convert_ids_to_tokens(self._encoder.begin)),
            spaced=bool(self._encoder.guard) and not self._encoder.restarts,
            hides=bool(self._encoder.lead),
        )

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

    def encode_prompt(self, messages: Sequence[Message], pixels: PixelReader = load_tiles) -> Example:
        """The generation view: ends where the assistant's answer begins, nothing is learnt."""
        example = self._example(self._encoder.encode(self.template.render(messages)), pixels)
        return replace(example, labels=torch.full_like(example.input_ids, IGNORE))

    def _example(self, encoded: Encoded, pixels: PixelReader = load_tiles) -> Example:
        side = self.spec.image_side
        tiles = [pixels(image, self.spec) for image in encoded.images]
        images = torch.cat(tiles) if tiles else torch.zeros((0, 3, side, side), dtype=torch.uint8)
        slots = self._slots(encoded.images, tiles) if self.spec.image_mode == "anyres" and tiles else None
        return Example(torch.tensor(encoded.ids), torch.tensor(encoded.labels), images, slots)

    def _slots(self, images: Sequence[ImageRef], tiles: Sequence[torch.Tensor]) -> torch.Tensor:
        """The pictures' slots (slots, 2), tiles counted over all of them."""
        found, before = [], 0
        for image, mine in zip(images, tiles, strict=True):
            slots = anyres_slots(image_size(image), self.spec).clone()
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
        """Encode a probe conversation before a training.

        Raises RecipeError where the tokenizer's template does not say what is learnt, DataError where a token
        straddles an answer's edge, an answer does not come back or a prompt is not how its training begins.
        """
        if isinstance(self.template, TokenizerTemplate):
            self.template.require_learnable()
        image = ImageRef(Image.new("RGB", (2, 2)))  # a size suffices
        for turns in (("What colour is it?", "It is red."), ("무슨 색인가요?", "빨간색입니다.")), (("2 + 2?", "4"),):
            messages: list[Message] = []
            for number, (question, answer) in enumerate(turns):
                asked = (image, question) if number == 0 else (question,)
                messages += [Message("user", asked), Message("assistant", (answer,))]
            if self.template.name == "plain":
                messages = messages[:2]
            encoded = self.encode_ids(Sample("probe", tuple(messages), origin="start-up probe"))
            prompt = self._encoder.encode(self.template.render(messages[:-1])).ids
            learnt = [label for label in encoded.labels if label != IGNORE and label not in self.stop_ids]
            said = "".join(self.decode(learnt).split())
            answers = [answer + self.stop_text for _, answer in turns[: len(messages) // 2]]
            wanted = "".join("".join(answers).split())
            if said != wanted:
                wrong = f"the learnt tokens read {said!r}, the answers are {wanted!r}"
            elif encoded.ids[: len(prompt)] != prompt:
                wrong = "a prompt's ids are not those with which its answer is learnt"
            else:
                continue
            raise DataError(
                f"start-up probe: {wrong}",
                f"the template {self.template.name!r} and this tokenizer do not fit: choose another template",
            )

    def save(self, folder: Path) -> None:
        """Tokenizer files and spec.json."""
        save_tokenizer(self.tokenizer, folder)
        write_json(folder / "spec.json", asdict(self.spec))

    @classmethod
    def load(cls, folder: Path) -> Processor:
        return cls(load_tokenizer(folder), read_spec_file(folder / "spec.json"))


def read_spec_file(path: Path) -> Spec:
    tree = read_json(path)
    try:
        return Spec(**{key: _frozen(value) for key, value in tree.items()})
    except TypeError as error:
        raise DataError(f"{path}: not a vistune spec: {error}", f"keys seen: {json.dumps(sorted(tree))}") from None


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples that a spec holds."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
