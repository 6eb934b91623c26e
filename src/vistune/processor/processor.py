"""Turn samples into tensors: the same code for training, evaluation, chat and server.

A template renders the messages to pieces; the encoder makes ids and labels of them; images become tiles. `collate`
joins examples to one packed row: no padding, positions restart with each document, `starts` marks the documents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from vistune.errors import DataError, RecipeError
from vistune.files import read_json, write_json
from vistune.processor.images import image_size
from vistune.processor.probes import empty_probes, image_probes, text_probes
from vistune.processor.template_defaults import without_generation_marks
from vistune.processor.templates import BOS, EOS, Control, Piece, TextPiece, chat_template
from vistune.processor.tiles import (
    blank_tiles,
    grids_of_sizes,
    load_tiles,
    shift_tiles,
    slots_of,
    slots_of_size,
)
from vistune.processor.tokenizer_files import TokenizerLike, load_tokenizer, save_tokenizer
from vistune.processor.tokenizer_template import TokenizerTemplate, template_for
from vistune.processor.tokens import Encoded, Encoder, collapse_slots
from vistune.processor.tool_template import ToolTemplate
from vistune.types import (
    IGNORE,
    SIZED_MODES,
    Batch,
    Example,
    ImageRef,
    Message,
    PatchBudget,
    Sample,
    Spec,
    TowerInput,
)

PixelReader = Callable[[ImageRef, Spec], torch.Tensor]
ONE_PATCH = torch.ones((1, 2), dtype=torch.int64)  # grid of a blank tile


class Processor:
    """The tokenizer, template and image rules of one model. Raises RecipeError if tokenizer and template do not fit."""

    def __init__(self, tokenizer: TokenizerLike, spec: Spec) -> None:
        self.spec = spec
        self.template = template_for(spec.template, tokenizer)
        self.tokenizer = self.template.tokenizer if isinstance(self.template, TokenizerTemplate) else tokenizer
        question, answer = Message("user", ("?",)), Message("assistant", ("!",))
        pieces = [*self.template.render((question, answer)), *self.template.render((question,))]
        self._encoder = Encoder(
            tokenizer,
            slots=self.slots,
            chunks=spec.tokenization == "chunks",
            controls={piece.token for piece in pieces if isinstance(piece, Control)} - {BOS, EOS},
            begins=self.begins,
        )

    @property
    def begins(self) -> bool:
        """Whether conversations begin with the tokens that the tokenizer puts before every text.

        A tokenizer's `apply_chat_template` omits them. A vision model's processor, whose template writes images,
        adds them.
        """
        return not isinstance(self.template, TokenizerTemplate) or self.template.shows_images

    def slots(self, image: ImageRef) -> int:
        """Return the number of slots of an image; no pixel is decoded."""
        return slots_of(image, self.spec)

    @cached_property
    def text_rules(self) -> str:
        """Hash of everything that determines a conversation's ids and labels, except its image slots."""
        probe = (Message("user", ("1",)), Message("assistant", ("2",))) * (1 if self.template.name == "plain" else 2)
        encoded = self._encoder.encode(self.template.render(probe))
        source = self.template.source if isinstance(self.template, TokenizerTemplate) else ""
        rules = (self.spec.template, self.spec.tokenization, source, self._encoder.begin, encoded.ids, encoded.labels)
        text = f"{self.tokenizer.backend_tokenizer.to_str()} {self.tokenizer.special_tokens_map} {rules}"
        return hashlib.sha256(text.encode()).hexdigest()

    def with_template(self, name: str) -> Processor:
        """Return a processor with another template."""
        return self if name == self.spec.template else Processor(self.tokenizer, replace(self.spec, template=name))

    def with_image_mode(self, mode: str) -> Processor:
        """Return a processor with another image mode.

        Raises:
            RecipeError: If the modes differ and one is anyres, whose models have a newline vector, or naflex, whose
                images have different numbers of tokens.
        """
        if mode == self.spec.image_mode:
            return self
        if {mode, self.spec.image_mode} & set(SIZED_MODES):
            raise RecipeError(
                f"image_mode: {mode}: this model was trained with {self.spec.image_mode}", "remove image_mode"
            )
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
        """Text that ends an answer; "" if a token ends it."""
        return self.template.end.text if isinstance(self.template.end, TextPiece) else ""

    def ended(self, tokens: Sequence[int]) -> bool:
        """Return whether the last of an answer's tokens ends it."""
        if tokens[-1] in self.stop_ids:
            return True
        end = self.stop_text  # at most one token per character
        return bool(end) and end in self._encoder.text.decode(tokens[-len(end) :], skip_special_tokens=False)

    def answer(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer without its end."""
        text = self.decode(tokens[:-1] if tokens and tokens[-1] in self.stop_ids else tokens)
        return text.partition(self.stop_text)[0].strip() if self.stop_text else text

    @property
    def chat_template(self) -> str:
        """The template as Jinja source with which transformers gives the same ids and masks as this processor."""
        if isinstance(self.template, TokenizerTemplate):
            return self.template.source_for_parts
        return chat_template(
            self.template.name,
            tokenization=self.spec.tokenization,
            begin="".join(self.tokenizer.convert_ids_to_tokens(self._encoder.begin)),
            spaced=bool(self._encoder.guard) and not self._encoder.restarts,
            hides=bool(self._encoder.lead),
        )

    @property
    def portable_chat_template(self) -> str:
        """The chat template without `{% generation %}`, as programs other than transformers parse it."""
        return without_generation_marks(self.chat_template)

    def encode_ids(self, sample: Sample) -> Encoded:
        """Return ids and labels with image slots expanded; no pixel is decoded."""
        try:
            return self._encoder.encode(self.template.render(sample.messages, origin=sample.origin))
        except DataError as error:
            if sample.origin and not error.message.startswith(sample.origin):
                raise DataError(f"{sample.origin}: {error.message}", error.hint) from None
            raise

    def length(self, sample: Sample) -> int:
        """Return the number of tokens of a sample, image slots included."""
        return len(self.encode_ids(sample).ids)

    def encode(self, sample: Sample, pixels: PixelReader = load_tiles) -> Example:
        """Encode for training: answers and their ends are supervised. `pixels` may be a cache around `load_tiles`."""
        return self._example(self.encode_ids(sample), pixels)

    def encode_prompt(self, messages: Sequence[Message], pixels: PixelReader = load_tiles) -> Example:
        """Encode for generation: the example ends where the answer begins, and nothing is supervised."""
        example = self._example(self._encoder.encode(self.template.render(messages)), pixels)
        return replace(example, labels=torch.full_like(example.input_ids, IGNORE))

    @cached_property
    def tools(self) -> ToolTemplate | None:
        """The tools of the tokenizer's chat template; None if it has none, or the template is one of ours."""
        tools = ToolTemplate(self.template) if isinstance(self.template, TokenizerTemplate) else None
        return tools if tools is not None and tools.form is not None else None

    def encode_pieces(self, pieces: Sequence[Piece]) -> Example:
        """Encode the pieces of a prompt; nothing is supervised."""
        example = self._example(self._encoder.encode(pieces))
        return replace(example, labels=torch.full_like(example.input_ids, IGNORE))

    def encode_text(self, text: str) -> Example:
        """Encode a text that the model continues, without a template and as the tokenizer reads it.

        Raises DataError if it contains the tokenizer's image token, for which there is no image.
        """
        ids = list(self.tokenizer(text)["input_ids"])
        if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(self.tokenizer.eos_token):
            ids.pop()
        if getattr(self.tokenizer, "image_token_id", None) in ids:
            raise DataError("the text contains the image token", "remove it; send images in the messages of a chat")
        labels = torch.full((len(ids),), IGNORE)
        return Example(torch.tensor(ids, dtype=torch.int64), labels, blank_tiles(self.spec, 0))

    @cached_property
    def plain_tokens(self) -> list[int]:
        """Tokens of a text that begins with a letter."""
        return list(self.tokenizer("a", add_special_tokens=False)["input_ids"])

    @cached_property
    def answer_space(self) -> str:
        """The space that the template writes before an answer, if decoding an answer shows it; else ""."""
        pieces = self.template.render((Message("user", ("?",)), Message("assistant", ("!",))))
        answer = next((piece.text for piece in pieces if isinstance(piece, TextPiece) and piece.supervised), "")
        word = list(self.tokenizer("a a", add_special_tokens=False)["input_ids"])[len(self.plain_tokens) :]
        return " " if answer.startswith(" ") and self.tokenizer.decode(word).startswith(" ") else ""

    def _example(self, encoded: Encoded, pixels: PixelReader = load_tiles) -> Example:
        spec, ids, labels = self.spec, torch.tensor(encoded.ids), torch.tensor(encoded.labels)
        tiles = [pixels(image, spec) for image in encoded.images]
        images = torch.cat(tiles) if tiles else blank_tiles(spec, 0)
        if not spec.slots_vary:
            return Example(ids, labels, images)
        sizes = [image_size(image) for image in encoded.images]
        slots = _joined_slots(zip((slots_of_size(size, spec) for size in sizes), map(len, tiles), strict=True))
        return Example(ids, labels, images, slots, grids_of_sizes(sizes, spec))

    def shown(self, sample: Sample) -> dict[str, Any]:
        """Return id, input_ids and labels as `vistune show --json` prints them: one -200 per image."""
        encoded = self.encode_ids(sample)
        ids, labels = collapse_slots(encoded)
        return {"id": sample.id, "input_ids": ids, "labels": labels}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens and outer whitespace."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def check(self) -> None:
        """Encode test conversations, so that a template that does not fit the tokenizer is found before training.

        Raises:
            RecipeError: It is unknown where the answers of the tokenizer's own template begin or end.
            DataError: A token is partly inside an answer; the supervised tokens are not the answers and their ends; or
                a prompt's ids differ from the beginning of its training example, or from `apply_chat_template`.
        """
        faults: Iterator[str] = (
            self._fault(messages[:2] if self.template.name == "plain" else messages) for messages in image_probes()
        )
        if isinstance(self.template, TokenizerTemplate):
            self.template.require_learnable()
            faults = chain(faults, self._own_faults(self.template))
        fault = next(filter(None, faults), "")
        if fault:
            raise DataError(
                f"template {self.template.name!r} does not fit this tokenizer: {fault}", "choose another template"
            )

    def _fault(self, messages: Sequence[Message]) -> str:
        """Return how the encoding of a finished conversation is wrong; "" if it is not."""
        encoded = self.encode_ids(Sample("probe", tuple(messages), origin="test conversation"))
        prompt = self._encoder.encode(self.template.render(messages[:-1])).ids
        written = [label for label in encoded.labels if label != IGNORE and label not in self._encoder.special]
        supervised = "".join(self.decode(written).split())
        answers = [message.text + self.stop_text for message in messages if message.role == "assistant"]
        expected = "".join("".join(answers).split())
        if supervised != expected:
            return f"the supervised tokens read {supervised!r}, the answers are {expected!r}"
        if encoded.ids[: len(prompt)] != prompt:
            return "a prompt's ids differ from the beginning of its training example"
        return ""

    def _is_encodable(self, messages: Sequence[Message]) -> bool:
        try:
            self._encoder.encode(self.template.render(messages))
        except (DataError, RecipeError):
            return False
        return True

    def _own_faults(self, template: TokenizerTemplate) -> Iterator[str]:
        """Yield how encoding with the tokenizer's own template differs from transformers, or lets a user end a turn."""
        for messages in [*text_probes(system=template.takes_system), *filter(self._is_encodable, empty_probes())]:
            yield self._fault(messages)
            encoded, prompt = self.encode_ids(Sample("probe", tuple(messages))), self.encode_prompt(messages[:-1])
            if not self.stop_text and self.stop_ids.isdisjoint(encoded.labels[len(prompt) :]):
                yield "no supervised token ends the last answer"
            chat = template.chat(messages[:-1])
            ids = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            begin = [] if ids[: len(self._encoder.begin)] == self._encoder.begin else self._encoder.begin
            if prompt.input_ids.tolist() != begin + ids:
                yield f"the ids of a prompt differ from those of apply_chat_template in {self.tokenizer.decode(ids)!r}"
        special = self._encoder.special
        typed = "".join(self.tokenizer.convert_ids_to_tokens(sorted(special)))
        written = [
            [token for token in self.encode_prompt((Message("user", (text,)),)).input_ids.tolist() if token in special]
            for text in ("x", typed)
        ]
        if written[0] != written[1]:
            yield "a question that spells special tokens becomes special tokens"

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files and spec.json."""
        save_tokenizer(self.tokenizer, folder)
        write_json(folder / "spec.json", asdict(self.spec))

    @classmethod
    def load(cls, folder: Path) -> Processor:
        """Read what `save` wrote."""
        return cls(load_tokenizer(folder), read_spec_file(folder / "spec.json"))


def read_spec_file(path: Path) -> Spec:
    """Read a spec.json. Raises DataError if it is not a spec."""
    tree = read_json(path)
    try:
        fields: dict[str, Any] = {key: _tuples(value) for key, value in tree.items()}
        fields["towers"] = tuple(TowerInput(**tower) for tower in fields.get("towers", ()))
        if fields.get("patch_budget"):
            fields["patch_budget"] = PatchBudget(**fields["patch_budget"])
        return Spec(**fields)
    except TypeError as error:
        raise DataError(
            f"{path}: not a vistune spec: {error}; its keys are {json.dumps(sorted(tree))}",
            "use a folder that vistune wrote",
        ) from None


def _tuples(value: Any) -> Any:
    """Convert JSON lists to tuples, at every level."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def collate(examples: Sequence[Example], ids: Sequence[str] = ()) -> Batch:
    """Join examples to one packed row. A row without images carries one blank tile."""
    lengths = [length for example in examples for length in example.documents or (len(example),)]
    labels = torch.cat([example.labels for example in examples])
    starts = torch.tensor([0, *lengths]).cumsum(0)
    images = [example.images for example in examples if len(example.images)]  # all tiles, or all their features
    supervised = labels != IGNORE
    supervised[starts[:-1]] = False  # a document's first token has no token before it to be predicted from
    blank = torch.zeros((1, *examples[0].images.shape[1:]), dtype=torch.uint8)
    grids = [example.grids for example in examples if example.grids is not None]
    return Batch(
        input_ids=torch.cat([example.input_ids for example in examples]),
        labels=labels,
        positions=torch.cat([torch.arange(length) for length in lengths]),
        starts=starts.to(torch.int32),
        images=torch.cat(images) if images else blank,
        supervised=int(supervised.sum()),
        ids=tuple(ids),
        slots=_joined_slots((example.slots, len(example.images)) for example in examples),
        grids=(torch.cat(grids) if images else ONE_PATCH) if grids else None,
        pair_documents=len(examples[0].documents),
    )


def blank_batch(spec: Spec) -> Batch:
    """Return a row of one token, one blank tile and no label, for a process without a row of its own in a step."""
    return Batch(
        input_ids=torch.zeros(1, dtype=torch.int64),
        labels=torch.full((1,), IGNORE),
        positions=torch.zeros(1, dtype=torch.int64),
        starts=torch.tensor([0, 1], dtype=torch.int32),
        images=blank_tiles(spec, 1),
        supervised=0,
        grids=ONE_PATCH if spec.image_mode == "naflex" else None,
    )


def _joined_slots(parts: Iterable[tuple[torch.Tensor | None, int]]) -> torch.Tensor | None:
    """Join slots, given with their number of tiles, which are counted over all parts; None if no part has slots."""
    slots, tiles = [], 0
    for part, count in parts:
        if part is not None:
            slots.append(shift_tiles(part, tiles))
        tiles += count
    return torch.cat(slots) if slots else None
