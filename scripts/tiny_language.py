"""Train the tiny language model: a Llama that learns from text only, English and Korean, with its own tokenizer.

A row puts notes in place of an image ("USER: <notes> question ASSISTANT: answer</s>…"), followed by dialogues that the
rule teacher writes about them, so the model learns in text to look things up by name. The scenes are those of the drawn
world, and made-up everyday scenes with captions from a small grammar (`photo_words.json`), so that the model knows more
than shapes when it meets the first photographs.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vistune.datagen.teachers.rule import instructions, write
from vistune.grounding import QUESTION_TYPES, Scene, ask, brief_cue
from vistune.grounding import lexicon as words
from vistune.grounding.scene import PLACES, place_of
from vistune.scenes import make_scene
from vistune.types import AnnotatedImage, Box

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
ROW = 224  # tokens
ROWS = 24  # per step
GRID = 6  # folded notes take GRID x GRID positions, as many as the tiny tower has patches
FOLD = 0  # the id (<unk>) that stands for a folded position
BAG = 8  # most words per position
FOLDED = 0.6  # share of rows whose notes are folded
EASY_STEPS = 2000  # with at most three objects per scene
EVERYDAY = 0.4  # share of rows about everyday scenes
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
EVERYDAY_KINDS = ("conversation",) * 2 + ("detail", "reasoning") + ("caption",) * 3
PHOTO_WORDS = json.loads((Path(__file__).parent / "photo_words.json").read_text(encoding="utf-8"))
# Korean particles and endings are split from their nouns, so that a name is always the same token.
ENDINGS = r"(?:입니다|에는|에서|보다|은|는|이|(?<!십자)가|을|를|의|와|과|에|개)(?=[\s.,?!]|$)"


def train_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train and save a byte-level BPE tokenizer; every word of the drawn world becomes one token."""
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
    text_rng, rng = random.Random(1), np.random.default_rng(1)
    for _ in range(4000):
        boxes = make_scene(rng).boxes()
        image = AnnotatedImage("", Path(), (), boxes)
        for language in ("en", "ko"):
            yield f"USER: {notes(boxes, language, text_rng)}\n"
            for kind in ("conversation", "detail", "reasoning", "caption"):
                for question, answer in write(image, kind, language, text_rng) or ():
                    yield f"USER: {question} ASSISTANT: {answer}"
                    yield f"\n{question}"
    objects = words.objects()
    for label in list(objects) * 6:
        yield f" a {label}, two {words.plural(label, 'en')}."
        yield f" {words.noun(label, 'ko')}은 {words.counted(2, label, 'ko')}"
    for _ in range(50):
        yield f"{SYSTEM} USER: "
        yield from (
            f"{line} ASSISTANT:" for lists in instructions().values() for lines in lists.values() for line in lines
        )


def notes(boxes: tuple[Box, ...], language: str, text_rng: random.Random) -> str:
    """Describe an image in notes: one phrase per object, half of the time in reading order."""
    listed = list(boxes)
    if text_rng.random() < 0.5:
        text_rng.shuffle(listed)
    phrases = []
    for box in listed:
        phrases.append(f"{words.place_word(place_of(box), language)}: {_sized(box, language)}.")
    return " ".join(phrases)


def _sized(box: Box, language: str) -> str:
    size = box.attributes.get("size")
    return f"{words.size_word(size, language)} {words.name(box, language)}" if size else words.name(box, language)


def everyday(text_rng: random.Random) -> AnnotatedImage:
    """Make up a photograph: a few objects at places, some labels several times, and an English caption."""
    labels = [label for label in words.objects() if not words.is_shape(label)]
    chosen = [text_rng.choice(labels) if text_rng.random() < 0.75 else "person" for _ in range(text_rng.randint(1, 5))]
    boxes = []
    for label in chosen:
        for _ in range(text_rng.choice((1, 1, 1, 1, 2, 3, 5))):
            x, y, side = text_rng.random(), text_rng.random(), text_rng.choice((0.1, 0.2, 0.4))
            boxes.append(
                Box(label, max(0, x - side / 2), max(0, y - side / 2), min(1, x + side / 2), min(1, y + side / 2))
            )
    return AnnotatedImage(str(text_rng.random()), Path(), (everyday_caption(chosen, text_rng),), tuple(boxes))


def everyday_caption(labels: list[str], text_rng: random.Random) -> str:
    """Write a caption as people do; it names at most three of the labels."""

    def thing(label: str) -> str:
        name = text_rng.choice(PHOTO_WORDS["person"]) if label == "person" else label
        quantity = text_rng.choice(PHOTO_WORDS["quantities"])
        adjective = f"{text_rng.choice(PHOTO_WORDS['adjectives'])} " if text_rng.random() < 0.4 else ""
        many = quantity not in ("a", "the", "one", "an old") and label != "person"
        return f"{quantity} {adjective}{words.plural(label, 'en') if many else name}"

    a, b, c = (thing(label) for label in (labels * 3)[:3])
    if len(labels) == 1:
        b, c = (f"a {text_rng.choice(PHOTO_WORDS['scenes'])}" for _ in range(2))
    scene = text_rng.choice(PHOTO_WORDS["scenes"])
    text = text_rng.choice(PHOTO_WORDS["frames"]).format(
        a=a,
        b=b,
        c=c,
        do=text_rng.choice(PHOTO_WORDS["doing"]),
        do2=text_rng.choice(PHOTO_WORDS["doing"]),
        rel=text_rng.choice(PHOTO_WORDS["relations"]),
        scene=f"{text_rng.choice(('a', 'the', 'a', 'an open', 'a small'))} {scene}",
        scene_bare=scene,
        **{"in": text_rng.choice(("in", "on", "at", "near", "by"))},
    )
    if text_rng.random() < 0.85:
        text = text[:1].upper() + text[1:]
    return text + (". " if text_rng.random() < 0.7 else "").strip()


@dataclass
class Drawn:
    """Token rows with loss weights (answers 1, other tokens little, padding 0), and folded notes.

    - ids, weights: (rows, tokens)
    - bags, shares: (slots, words) word ids and their shares, for every FOLD in `ids`
    """

    ids: Tensor
    weights: Tensor
    bags: Tensor
    shares: Tensor


class Rows:
    """Makes rows of dialogue about notes. Notes are plain sentences, or laid out on a grid of GRID x GRID positions.

    On the grid, the words of a phrase are folded into single positions (their embeddings are added up) where the object
    would be in an image. The notes then have the shape in which a projector passes an image.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: str) -> None:
        self.tokenizer = tokenizer
        self.text_rng = random.Random(seed)
        self.rng = np.random.default_rng([int(part) for part in seed.split("/")])
        self.end = tokenizer.eos_token_id
        self.empty = tokenizer.encode(".", add_special_tokens=False)[0]

    def batch(self, counts: tuple[int, int], folded: float) -> Drawn:
        ids = torch.full((ROWS, ROW), self.end)  # padding: it carries no loss
        weights = torch.zeros(ROWS, ROW)
        bags: list[list[int]] = []
        shares: list[list[float]] = []
        for k in range(ROWS):
            if self.text_rng.random() < EVERYDAY:
                image, kinds = everyday(self.text_rng), EVERYDAY_KINDS
            else:
                boxes = make_scene(self.rng, held_out=self.text_rng.random() < 0.1, counts=counts).boxes()
                image, kinds = AnnotatedImage(str(self.text_rng.random()), Path(), (), boxes), KINDS
            on_grid = self.text_rng.random() < folded
            tokens, weight = self._dialogue(image, kinds, on_grid)
            ids[k, : len(tokens)] = torch.tensor(tokens)
            weights[k, : len(tokens)] = torch.tensor(weight)
            if on_grid:
                for bag in fold(image, self.text_rng, self.tokenizer, self.empty):
                    bags.append([word for word, _ in bag] + [self.empty] * (BAG - len(bag)))
                    shares.append([share for _, share in bag] + [0.0] * (BAG - len(bag)))
        return Drawn(ids, weights, torch.tensor(bags).view(-1, BAG), torch.tensor(shares).view(-1, BAG))

    def _dialogue(self, image: AnnotatedImage, kinds: tuple[str, ...], on_grid: bool) -> tuple[list[int], list[float]]:
        """Return notes, then dialogues about them in one language until the row is full."""
        opening = f"{SYSTEM} USER: " if self.text_rng.random() < 0.3 else "USER: "
        tokens = self.tokenizer.encode(opening)
        if on_grid:
            tokens += [FOLD] * GRID * GRID
        else:
            text = " ".join([notes(image.boxes, self.text_rng.choice(("en", "ko")), self.text_rng), *image.captions])
            tokens += self.tokenizer.encode(text, add_special_tokens=False)
        weights = [0.05 * (not on_grid)] * len(tokens)
        language, start = self.text_rng.choice(("en", "ko")), "\n"
        texts: list[str] = []
        for _ in range(6):
            kind, number = self.text_rng.choice(kinds), self.text_rng.randrange(1000)  # any of the instructions
            for question, answer in write(image, kind, language, self.text_rng, number) or ():
                texts += [f"{start}{question} ASSISTANT:", f" {answer}"]
                start = "USER: "
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        for asked, said in zip(encoded[0::2], encoded[1::2], strict=True):
            if len(tokens) + len(asked) + len(said) + 1 > ROW:
                break
            tokens += [*asked, *said, self.end]
            weights += [0.05] * len(asked) + [1.0] * (len(said) + 1)
        return tokens, weights


def fold(
    image: AnnotatedImage, text_rng: random.Random, tokenizer: PreTrainedTokenizerFast, empty: int
) -> list[list[tuple[int, float]]]:
    """Return (word, share) of every grid position in reading order; an object covers the 2 x 2 positions of its ninth.

    A caption is spread over the grid too, a few of its words per position, in order.
    """
    grid: list[list[tuple[int, float]]] = [[(empty, 1.0)] for _ in range(GRID * GRID)]
    language = text_rng.choice(("en", "ko"))
    for text in image.captions:
        caption = tokenizer.encode(f" {text}", add_special_tokens=False)
        parts = [caption[k : k + BAG - 1] for k in range(0, len(caption), BAG - 1)]
        for part, corner in zip(parts, sorted(text_rng.sample(range(GRID * GRID), len(parts))), strict=True):
            grid[corner] = [(word, 1.0) for word in part]
    for box in image.boxes:
        place = place_of(box)
        phrase = f" {words.place_word(place, language)} {_sized(box, language)}"
        bag = tokenizer.encode(phrase, add_special_tokens=False)[: BAG - 1]
        row, column = divmod(PLACES.index(place), 3)
        corners = [(2 * row + y) * GRID + 2 * column + x for y in (0, 1) for x in (0, 1)]
        strong = text_rng.choice(corners)
        for corner in corners:
            share = 1.0 if corner == strong else text_rng.choice((0.0, 0.3, 0.6, 1.0))
            grid[corner] = [(word, share * text_rng.uniform(0.7, 1.3)) for word in bag] + [(empty, 1 - min(share, 1.0))]
    return grid


def embed(model: LlamaForCausalLM, drawn: Drawn, noise: float) -> Tensor:
    """Return embeddings (rows, tokens, width): a folded position is the sum of its words, a little blurred."""
    table = model.get_input_embeddings().weight
    rows = table[drawn.ids]
    if len(drawn.bags):
        folded = (table[drawn.bags] * drawn.shares[:, :, None]).sum(dim=1)
        folded = folded + noise * folded.detach().pow(2).mean().sqrt() * torch.randn_like(folded)
        rows = rows.masked_scatter((drawn.ids == FOLD)[:, :, None], folded)
    return rows


def loss_of(body: nn.Module, model: LlamaForCausalLM, drawn: Drawn) -> Tensor:
    hidden = body(inputs_embeds=embed(model, drawn, 0.3), use_cache=False).last_hidden_state[:, :-1]
    wanted = drawn.weights[:, 1:]
    learnt = wanted > 0
    logits = hidden[learnt] @ model.lm_head.weight.T
    losses = nn.functional.cross_entropy(logits, drawn.ids[:, 1:][learnt], reduction="none")
    return (losses * wanted[learnt]).sum() / wanted.sum()


@torch.no_grad()
def look_up(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, folded: bool, count: int = 40
) -> dict[str, float]:
    """Return the share of short answers that match exactly, from notes of unseen scenes, by type and in all."""
    model.eval()
    text_rng, rng = random.Random(99), np.random.default_rng(99)
    empty = tokenizer.encode(".", add_special_tokens=False)[0]
    result = {}
    for kind in QUESTION_TYPES:
        right, asked_count = 0, 0
        while asked_count < count:
            language = text_rng.choice(("en", "ko"))
            boxes = make_scene(rng, counts=(2, 5)).boxes()
            asked = ask(Scene(boxes), kind, language, text_rng)
            if asked is None:
                continue
            asked_count += 1
            start = tokenizer.encode(f"{SYSTEM} USER: ")
            bags, shares = torch.zeros(0, BAG, dtype=torch.long), torch.zeros(0, BAG)
            if folded:
                start += [FOLD] * GRID * GRID
                grid = fold(AnnotatedImage("", Path(), (), boxes), text_rng, tokenizer, empty)
                bags = torch.tensor([[word for word, _ in bag] + [empty] * (BAG - len(bag)) for bag in grid])
                shares = torch.tensor([[share for _, share in bag] + [0.0] * (BAG - len(bag)) for bag in grid])
            else:
                start += tokenizer.encode(notes(boxes, language, text_rng), add_special_tokens=False)
            question = f"\n{asked.question}\n{brief_cue(language)} ASSISTANT:"
            start += tokenizer.encode(question, add_special_tokens=False)
            gold = [*tokenizer.encode(f" {asked.answer}", add_special_tokens=False), tokenizer.eos_token_id]
            drawn = Drawn(torch.tensor([start + gold]), torch.zeros(1), bags, shares)
            logits = model(inputs_embeds=embed(model, drawn, 0.0)).logits[0, len(start) - 1 : -1]
            right += int((logits.argmax(-1) == torch.tensor(gold)).all())
        result[kind] = right / count
    result["all"] = float(np.mean(list(result.values())))
    model.train()
    return {kind: round(share, 3) for kind, share in result.items()}


def train(work: Path, *, minutes: float, rate: float, decay: bool) -> None:
    """Train for `minutes` from `work/language.pt` if it exists, and save."""
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
    if (work / "language" / "model.safetensors").exists():  # the shipped model, to go on from
        model.load_state_dict(LlamaForCausalLM.from_pretrained(work / "language", dtype=torch.float32).state_dict())
        step = EASY_STEPS
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
        loss = loss_of(body, model, rows.batch((1, 3) if step < EASY_STEPS else (1, 5), FOLDED))
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
            print("folded ", look_up(model, tokenizer, folded=True), flush=True)
            print("look-up", look_up(model, tokenizer, folded=False), flush=True)
            save(work, model, muon, adam, step)
    print("folded ", look_up(model, tokenizer, folded=True), flush=True)
    print("look-up", look_up(model, tokenizer, folded=False), flush=True)
    save(work, model, muon, adam, step)


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, **CONFIG)
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def save(work: Path, model: nn.Module, muon: torch.optim.Optimizer, adam: torch.optim.Optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "step": step}
    torch.save(state, work / "language.pt.new")
    (work / "language.pt.new").replace(work / "language.pt")


def export(work: Path, out: Path) -> dict[str, float]:
    """Write fp16 weights and the tokenizer in transformers' layout; return the look-up scores."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "language")
    model = build(tokenizer)
    model.load_state_dict(torch.load(work / "language.pt", weights_only=True)["model"])
    scores = {f"text_{kind}": share for kind, share in look_up(model, tokenizer, folded=False, count=100).items()}
    scores |= {f"folded_{kind}": share for kind, share in look_up(model, tokenizer, folded=True, count=100).items()}
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return scores
