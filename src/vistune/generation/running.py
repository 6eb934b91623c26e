"""The running batch: prompts join and leave between steps, each answered as if it were alone.

prompts -> stems where they begin alike (read once) -> tails -> one token a prompt and step
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vistune.generation.prefix import Prompt, Recent, Stems, common, prompt_of
from vistune.generation.sampling import GREEDY, Choice, Sampling, choose
from vistune.model import Reading, Stem, Tails, VisionLanguageModel
from vistune.types import Example

WORTH = 16  # tokens that a stem must spare to be read on its own
LONGEST_TAIL = 256  # tokens; a longer prompt becomes a stem, which is not padded to the batch
TILES_AT_ONCE = 8
HEAD_ROWS = 2000  # of the vocabulary


@dataclass(eq=False, slots=True)
class Speaker:
    """One prompt being answered. `reused`: how many of its tokens had been read before it came."""

    prompt: Prompt
    sampling: Sampling = GREEDY
    said: list[int] = field(default_factory=list)
    reused: int = 0
    chance: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.chance = torch.Generator().manual_seed(self.sampling.seed)

    @property
    def choice(self) -> Choice:
        penal = self.sampling.repetition_penalty != 1
        seen = [*self.prompt.codes.tolist(), *self.said] if penal else ()
        return Choice(self.sampling, self.chance, seen)


class RunningBatch:
    """Who is speaking, and what they have read: speaker k has row k of the tails.

    `stems_at_once`: how many may be read while others wait to say their next token.
    """

    def __init__(self, model: VisionLanguageModel, cache_bytes: int, *, stems_at_once: int = 1) -> None:
        self.model = model
        self.stems_at_once = stems_at_once
        self.stems = Stems(cache_bytes)
        self.images: Recent[bytes, Tensor] = Recent(cache_bytes // 8)  # tiles as the language model sees them
        self.speakers: list[Speaker] = []
        self._tails = Tails(model.head.device)

    @torch.inference_mode()
    def admit(self, waiting: Sequence[Speaker], most: int) -> list[Speaker]:
        """Let the first who wait join, and say their first token.

        They are those, in order, before one more stem must be read than are read at once, so that the running never
        wait longer than for these. Nothing has changed where this raises.
        """
        joining: list[Speaker] = []
        stems: list[Stem | None] = []
        read = 0
        for speaker in waiting[:most]:
            stem, upto = self._plan(speaker.prompt, waiting)
            speaker.reused = len(stem) if stem is not None else 0
            if upto > speaker.reused:
                if read == self.stems_at_once:
                    break
                read += 1
                stem = self._read_stem(speaker.prompt, stem, upto)
            joining.append(speaker)
            stems.append(stem)
        if joining:
            begins = [len(stem) if stem is not None else 0 for stem in stems]
            rests = [self._embed(s.prompt, slice(b, len(s.prompt))) for s, b in zip(joining, begins, strict=True)]
            reading = Reading(stems, [len(rest) for rest in rests], self.model.head.device)
            hidden = self.model.read(torch.cat(rests), reading)
            last = torch.tensor(reading.starts[1:], device=hidden.device) - 1
            tokens = self._choose(hidden[last], joining)
            self._tails.add(reading)
            self.speakers += joining
            for speaker, token in zip(joining, tokens, strict=True):
                speaker.said.append(token)
        return joining

    @torch.inference_mode()
    def step(self) -> None:
        """Every speaker says one more token."""
        last = torch.tensor([speaker.said[-1] for speaker in self.speakers], device=self.model.head.device)
        tokens = self._choose(self.model.decode(last, self._tails), self.speakers)
        for speaker, token in zip(self.speakers, tokens, strict=True):
            speaker.said.append(token)

    @torch.inference_mode()
    def leave(self, speaker: Speaker) -> None:
        row = self.speakers.index(speaker)
        self._tails.drop(row)
        self.speakers[row] = self.speakers[-1]
        del self.speakers[-1]

    def clear(self) -> None:
        """All leave; what was read stays."""
        self.speakers = []
        self._tails = Tails(self.model.head.device)

    def _choose(self, hidden: Tensor, speakers: Sequence[Speaker]) -> list[int]:
        head = self.model.head
        # On a CPU, a head in stretches that its cache holds took two thirds of the time of one product (16 rows, AVX2).
        stretches = head.split(HEAD_ROWS if head.device.type == "cpu" else len(head))
        logits = torch.cat([hidden @ rows.T for rows in stretches], dim=-1)
        return choose(logits, [speaker.choice for speaker in speakers])

    def _plan(self, prompt: Prompt, waiting: Sequence[Speaker]) -> tuple[Stem | None, int]:
        """The longest stem there is for a prompt, and up to where one should be read first: 0 where it does.

        Up to what it shares with another that waits, at least with its pictures. The last token is never a stem's: its
        hidden state says the first token of the answer.
        """
        most = len(prompt) - 1
        stem = self.stems.longest(prompt.codes[:most])
        held = len(stem) if stem is not None else 0
        others = (speaker.prompt for speaker in waiting if speaker.prompt is not prompt)
        shared = max((common(prompt.codes[:most], other.codes) for other in others), default=0)
        upto = min(max(prompt.images_end, shared), most)
        if len(prompt) - max(upto, held) > LONGEST_TAIL:
            upto = most
        return stem, upto if upto - held >= WORTH else 0

    def _read_stem(self, prompt: Prompt, stem: Stem | None, upto: int) -> Stem:
        begin = len(stem) if stem is not None else 0
        made = self.model.read_stem(self._embed(prompt, slice(begin, upto)), stem)
        self.stems.put(prompt.codes[:upto], made)
        return made

    def _embed(self, prompt: Prompt, span: slice) -> Tensor:
        """(tokens, width): a stretch of a prompt as the language model takes it."""
        ids = prompt.example.input_ids[span].to(self.model.head.device)
        return self.model.embed(ids, self._slots(prompt, span))

    def _slots(self, prompt: Prompt, span: slice) -> Tensor:
        """(slots, width): what fills a prompt's slots within a span; each picture is encoded once."""
        before = int((prompt.codes[: span.start] < 0).sum())
        count = int((prompt.codes[span] < 0).sum())
        width, device = self.model.spec.language_width, self.model.head.device
        if not count:
            return torch.zeros(0, width, device=device, dtype=self.model.head.dtype)
        slots = prompt.slots[before : before + count]
        needed = sorted(set(slots[:, 0].tolist()) - {-1})
        tiles = dict(zip(needed, self._tiles(prompt, needed), strict=True))
        # A stretch of newlines alone needs no tile, but a table to look at.
        table = torch.stack([tiles[k] for k in needed]) if needed else torch.zeros(1, 1, width, device=device)
        number = {tile: k for k, tile in enumerate(needed)} | {-1: -1}
        placed = torch.stack([torch.tensor([number[k] for k in slots[:, 0].tolist()]), slots[:, 1]], dim=1)
        return self.model.place(table, placed.to(device))

    def _tiles(self, prompt: Prompt, needed: Sequence[int]) -> list[Tensor]:
        held = {k: self.images.get(prompt.tiles[k]) for k in needed}
        found = {k: features for k, features in held.items() if features is not None}
        missing = [k for k in needed if k not in found]
        for begin in range(0, len(missing), TILES_AT_ONCE):
            some = missing[begin : begin + TILES_AT_ONCE]
            encoded = self.model.encode(prompt.example.images[some].to(self.model.head.device))
            for k, features in zip(some, encoded, strict=True):
                found[k] = features.clone()  # on its own: a view would hold its neighbours
                self.images.put(prompt.tiles[k], found[k], features.nbytes)
        return [found[k] for k in needed]


def likeliest(model: VisionLanguageModel, example: Example, count: int) -> list[int]:
    """The `count` likeliest tokens behind a prompt, one after the other, whatever they end."""
    batch = RunningBatch(model, cache_bytes=0)
    (speaker,) = batch.admit([Speaker(prompt_of(example))], 1)
    while len(speaker.said) < count:
        batch.step()
    return speaker.said
