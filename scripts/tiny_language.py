"""The tiny language model: a Llama that learns from text only, English and Korean, with its own tokenizer.

scene -> notes in words -> the rule teacher's dialogue about the notes -> next-token loss
Each row puts notes where a picture would stand ("USER: <notes> question ASSISTANT: answer</s>…"), so looking
things up by name is learnt in text; a share of rows are key-value lists, which bring about copying heads early.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vistune.datagen.rule import instructions, write
from vistune.facts import QUESTION_TYPES, Scene, ask, brief_cue
from vistune.facts import lexicon as words
from vistune.facts.scene import place_of
from vistune.scenes import make_scene
from vistune.types import AnnotatedImage, Box

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
ROW = 224  # tokens
ROWS = 24  # a step
CONFIG = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}
KINDS = ("conversation",) * 6 + ("detail", "reasoning", "caption")
# Korean particles and endings are split from their nouns, so that a name is the same token wherever it stands.
ENDINGS = r"(?:입니다|에는|에서|보다|은|는|이|(?<!십자)가|을|를|의|와|과|에|개)(?=[\s.,?!]|$)"


def train_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE; every word of the drawn world becomes one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(ENDINGS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=3,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        model_max_length=2048,
    )
    fast.save_pretrained(folder)
    return fast


def _tokenizer_texts() -> Iterator[str]:
    chance, rng = random.Random(1), np.random.default_rng(1)
    for _ in range(4000):
        boxes = make_scene(rng).boxes()
        image = AnnotatedImage("", Path(), (), boxes)
        for language in ("en", "ko"):
            yield f"USER: {notes(boxes, language, chance)}\n"
            for kind in ("conversation", "detail", "reasoning", "caption"):
                for question, answer in write(image, kind, language, chance) or ():
                    yield f"USER: {question} ASSISTANT: {answer}"
                    yield f"\n{question}"
    objects = words.lexicon()["objects"]
    for label in list(objects) * 6:
        yield f" a {label}, two {words.plural(label, 'en')}."
        yield f" {words.noun(label, 'ko')}은 {words.counted(2, label, 'ko')}"
    for _ in range(50):
        yield f"{SYSTEM} USER: "
        yield from (
            f"{line} ASSISTANT:" for lists in instructions().values() for lines in lists.values() for line in lines
        )


def notes(boxes: tuple[Box, ...], language: str, chance: random.Random) -> str:
    """What a picture would show, as words: one phrase a thing, half the time in reading order."""
    listed = list(boxes)
    if chance.random() < 0.5:
        chance.shuffle(listed)
    phrases = []
    for box in listed:
        size = words.size_word(box.attributes["size"], language)
        phrases.append(f"{words.place_word(place_of(box), language)}: {size} {words.name(box, language)}.")
    return " ".join(phrases)


class Rows:
    """Token rows and the weight of each token's loss: answers 1, the rest little, padding 0."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: str) -> None:
        self.tokenizer = tokenizer
        self.chance = random.Random(seed)
        self.rng = np.random.default_rng([int(part) for part in seed.split("/")])
        self.end = tokenizer.eos_token_id

    def batch(self, counts: tuple[int, int], recall: float) -> tuple[Tensor, Tensor]:
        ids = torch.zeros(ROWS, ROW, dtype=torch.long)
        weights = torch.zeros(ROWS, ROW)
        pieces = [self._recall() if self.chance.random() < recall else self._dialogue(counts) for _ in range(ROWS)]
        for k, row in enumerate(pieces):
            tokens, weight = self._encode(row)
            ids[k, : len(tokens)] = torch.tensor(tokens)
            weights[k, : len(tokens)] = torch.tensor(weight)
        return ids, weights

    def _encode(self, row: list[tuple[str, float]] | list[tuple[int, float]]) -> tuple[list[int], list[float]]:
        tokens, weights = [self.tokenizer.bos_token_id], [0.0]
        if row and isinstance(row[0][0], int):
            return [token for token, _ in row][:ROW], [weight for _, weight in row][:ROW]
        encoded = self.tokenizer([text for text, _ in row], add_special_tokens=False)["input_ids"]
        for ids, (_, weight) in zip(encoded, row, strict=True):
            ids = ids + [self.end] * (weight == 1.0)
            if len(tokens) + len(ids) > ROW:
                break
            tokens += ids
            weights += [weight] * len(ids)
        return tokens, weights

    def _dialogue(self, counts: tuple[int, int]) -> list[tuple[str, float]]:
        """Notes, then dialogues about them in either language until the row is full."""
        boxes = make_scene(self.rng, held_out=self.chance.random() < 0.1, counts=counts).boxes()
        image = AnnotatedImage("", Path(), (), boxes)
        text = f"{SYSTEM} USER: " if self.chance.random() < 0.3 else "USER: "
        text += notes(boxes, self.chance.choice(("en", "ko")), self.chance) + "\n"
        row: list[tuple[str, float]] = []
        language = self.chance.choice(("en", "ko"))
        for _ in range(6):
            for question, answer in write(image, self.chance.choice(KINDS), language, self.chance) or ():
                row += [(f"{text}{question} ASSISTANT:", 0.05), (f" {answer}", 1.0)]
                text = "USER: "
        return row

    def _recall(self) -> list[tuple[int, float]]:
        """Random keys and values, then the keys again in another order: only copying tells the values."""
        count = self.chance.randint(3, 12)
        symbols = self.chance.sample(range(259, len(self.tokenizer)), 2 * count + 1)
        keys, values, mark = symbols[:count], symbols[count : 2 * count], symbols[-1]
        row: list[tuple[int, float]] = [(1, 0.0)]
        for key, value in zip(keys, values, strict=True):
            row += [(key, 0.0), (value, 0.0), (mark, 0.0)]
        while len(row) < ROW - 3:
            k = self.chance.randrange(count)
            row += [(keys[k], 0.0), (values[k], 0.5), (mark, 0.0)]
        return row


def loss_of(body: nn.Module, head: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    hidden = body(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    learnt = weights[:, 1:] > 0
    logits = hidden[learnt] @ head.T
    losses = nn.functional.cross_entropy(logits, ids[:, 1:][learnt], reduction="none")
    return (losses * weights[:, 1:][learnt]).sum() / weights[:, 1:].sum()


@torch.no_grad()
def look_up(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, count: int = 40) -> dict[str, float]:
    """Share of short answers right, word for word, from notes of unseen scenes, by type and in all."""
    model.eval()
    chance, rng = random.Random(99), np.random.default_rng(99)
    result = {}
    for kind in QUESTION_TYPES:
        prompts, answers = [], []
        while len(prompts) < count:
            language = chance.choice(("en", "ko"))
            boxes = make_scene(rng, counts=(2, 5)).boxes()
            asked = ask(Scene(boxes), kind, language, chance)
            if asked is None:
                continue
            prompts.append(
                f"{SYSTEM} USER: {notes(boxes, language, chance)}\n{asked.question}\n{brief_cue(language)} ASSISTANT:"
            )
            answers.append(f" {asked.answer}")
        right = 0
        for prompt, answer in zip(prompts, answers, strict=True):
            start = tokenizer(prompt)["input_ids"]
            gold = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            logits = model(input_ids=torch.tensor([start + gold])).logits[0, len(start) - 1 : -1]
            right += int((logits.argmax(-1) == torch.tensor(gold)).all())
        result[kind] = right / count
    result["all"] = float(np.mean(list(result.values())))
    model.train()
    return result


def train(work: Path, *, minutes: float, rate: float, decay: bool) -> None:
    """One leg: go on from `work/language.pt` if it is there, stop after `minutes`, save."""
    if not (work / "language").exists():
        train_tokenizer(work / "language")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "language")
    torch.manual_seed(0)
    model = build(tokenizer)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    step = 0
    if (work / "language.pt").exists():
        saved = torch.load(work / "language.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        step = saved["step"]
    rows = Rows(tokenizer, f"7/{step}")
    body = torch.compile(model.model)  # a third faster on a CPU; the weights stay `model`'s
    began, shown, losses, first = time.time(), time.time(), [], step
    while (elapsed := (time.time() - began) / 60) < minutes:
        factor = min(1.0, (step - first + 1) / 100) * (max(0.02, 1 - elapsed / minutes) if decay else 1.0)
        for optimizer in (muon, adam):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        counts, recall = ((1, 2), 0.4) if step < 700 else ((1, 3), 0.2) if step < 1500 else ((1, 5), 0.04)
        loss = loss_of(body, model.lm_head.weight, *rows.batch(counts, recall))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        losses.append(loss.item())
        if time.time() - shown > 60:
            print(f"step {step} {elapsed:.1f} min loss {np.mean(losses[-60:]):.4f}", flush=True)
            shown = time.time()
        if step % 400 == 0:
            print("look-up", look_up(model, tokenizer), flush=True)
            save(work, model, muon, adam, step)
    print("look-up", look_up(model, tokenizer), flush=True)
    save(work, model, muon, adam, step)


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, **CONFIG)
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def save(work: Path, model: nn.Module, muon: torch.optim.Optimizer, adam: torch.optim.Optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "step": step}
    torch.save(state, work / "language.pt.new")
    (work / "language.pt.new").replace(work / "language.pt")


def export(work: Path, out: Path) -> dict[str, float]:
    """Weights in fp16 and the tokenizer, in transformers' layout; returns the look-up scores."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "language")
    model = build(tokenizer)
    model.load_state_dict(torch.load(work / "language.pt", weights_only=True)["model"])
    scores = look_up(model, tokenizer, count=100)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return scores
