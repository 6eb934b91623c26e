"""Train the tiny vision tower: a CLIP ViT that learns contrastively from drawn images and their captions.

The score of a caption for an image is the mean, over its comma-separated phrases, of the best patch (FILIP, arXiv
2111.07783), and the loss is a symmetric InfoNCE over scenes and near duplicates. A phrase is the sum of its words'
vectors, so that the features of a patch become a sum of directions. Captions are the only labels, and no held-out pair
of colour and shape is ever drawn.
"""

from __future__ import annotations

import dataclasses
import math
import random
import re
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from vistune.grounding import Scene, caption
from vistune.scenes import COLORS, HELD_OUT, SHAPES, SIDE, DrawnScene, make_scene, render
from vistune.scenes.draw import RADII

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, so that images are processed as for any other tower
STD = (0.26862954, 0.26130258, 0.27577711)
CONFIG = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 16,
    "projection_dim": 128,
}
GROUP = 4  # a scene and three that differ from it in one object
GROUPS = 32


class Words(nn.Module):
    """Phrases as sums of their words' vectors: (phrases, width), unit length."""

    def __init__(self, vocabulary: dict[str, int], width: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.table = nn.EmbeddingBag(len(vocabulary) + 1, width, mode="sum")
        nn.init.normal_(self.table.weight, std=0.3)

    def forward(self, phrases: list[str]) -> Tensor:
        ids = [[self.vocabulary.get(word, len(self.vocabulary)) for word in split_words(phrase)] for phrase in phrases]
        offsets = np.cumsum([0] + [len(row) for row in ids[:-1]])
        flat = torch.tensor([word for row in ids for word in row])
        return nn.functional.normalize(self.table(flat, torch.as_tensor(offsets)), dim=-1)


def split_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def vocabulary() -> dict[str, int]:
    """Return every word of the captions."""
    chance, rng = random.Random(0), np.random.default_rng(0)
    words: set[str] = set()
    for number in range(3000):
        words.update(split_words(caption(Scene(make_scene(rng).boxes()), ("en", "ko")[number % 2], chance)))
    return {word: number for number, word in enumerate(sorted(words))}


def near_duplicate(scene: DrawnScene, chance: random.Random, shape_share: float) -> DrawnScene:
    """Return the scene with the shape, colour or size of one object changed; never into a held-out pair."""
    while True:
        number = chance.randrange(len(scene.things))
        thing = scene.things[number]
        if chance.random() < shape_share:
            changed = dataclasses.replace(thing, shape=chance.choice(SHAPES))
        elif chance.random() < 0.4:
            changed = dataclasses.replace(thing, color=chance.choice(list(COLORS)))
        else:
            size = "small" if thing.size == "large" else "large"
            cell_x, cell_y = thing.x // 32 * 32 + 16, thing.y // 32 * 32 + 16  # a larger object must fit its cell
            changed = dataclasses.replace(thing, size=size, radius=chance.randint(*RADII[size]), x=cell_x, y=cell_y)
        if changed != thing and (changed.color, changed.shape) not in HELD_OUT:
            things = (*scene.things[:number], changed, *scene.things[number + 1 :])
            return DrawnScene(things, background=chance.randrange(2**31))


def make_batch(
    rng: np.random.Generator, chance: random.Random, counts: tuple[int, int]
) -> tuple[Tensor, list[list[str]]]:
    """Return images (GROUPS * GROUP, 3, side, side) uint8 and the phrases of each caption."""
    pixels, phrases = [], []
    for _ in range(GROUPS):
        scene = make_scene(rng, counts=counts)
        for variant in (scene, *(near_duplicate(scene, chance, 0.6) for _ in range(GROUP - 1))):
            pixels.append(render(variant))
            language = chance.choice(("en", "ko"))
            text = (
                caption(Scene(variant.boxes()), language, chance)
                .rstrip(".")
                .removesuffix("이 있습니다")
                .removesuffix("가 있습니다")
            )
            phrases.append([shorten(phrase, chance) for phrase in text.lower().split(", ")])
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), phrases


def shorten(phrase: str, chance: random.Random) -> str:
    """Drop the place from some captions."""
    if chance.random() < 0.2:
        return re.sub(r" at the .*$|^.*에 ", "", phrase)
    return phrase


class Contrast(nn.Module):
    """Tower, projection and words; forward returns the symmetric loss and the share of captions matched."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower = CLIPVisionModel._from_config(CLIPVisionConfig(**CONFIG), attn_implementation="sdpa")
        self.project = nn.Linear(CONFIG["hidden_size"], CONFIG["projection_dim"], bias=False)
        self.words = Words(vocabulary(), CONFIG["projection_dim"])
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def patches(self, pixels: Tensor) -> Tensor:
        normal = (pixels.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        return self.tower(normal).last_hidden_state[:, 1:]

    def forward(self, pixels: Tensor, phrases: list[list[str]]) -> tuple[Tensor, float]:
        distinct = sorted({phrase for row in phrases for phrase in row})
        number = {phrase: k for k, phrase in enumerate(distinct)}
        share = torch.zeros(len(distinct), len(phrases))
        for column, row in enumerate(phrases):
            for phrase in row:
                share[number[phrase], column] += 1 / len(row)
        seen = nn.functional.normalize(self.project(self.patches(pixels)).float(), dim=-1)
        best = (seen @ self.words(distinct).float().T).amax(dim=1)  # (images, distinct phrases)
        logits = best @ share * self.scale.exp().clamp(max=100) * 3
        target = torch.arange(len(phrases))
        loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        found = (logits.argmax(dim=1) == target).float().mean()
        return loss, float(found)


@torch.no_grad()
def probe(tower: CLIPVisionModel, *, layer: int = -2, scenes: int = 1500) -> dict[str, float]:
    """Fit linear probes (ridge regression) on the 2 x 2 patches of a cell, to see what the features encode.

    Held-out scenes are judged; `shape_combinations` are things of the pairs that the tower never saw.
    """
    rng = np.random.default_rng(12345)
    features: dict[str, list[np.ndarray]] = {"train": [], "test": [], "combinations": []}
    labels: dict[str, list[tuple[int, int, int]]] = {"train": [], "test": [], "combinations": []}
    for part, held_out, count in (("train", False, scenes), ("test", False, 400), ("combinations", True, 400)):
        drawn = [make_scene(rng, held_out=held_out) for _ in range(count)]
        pixels = torch.from_numpy(np.stack([render(scene) for scene in drawn])).permute(0, 3, 1, 2)
        normal = (pixels.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        hidden = torch.cat(
            [tower(chunk, output_hidden_states=True).hidden_states[layer][:, 1:] for chunk in normal.split(200)]
        )
        grid = hidden.reshape(count, 3, 2, 3, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(count, 9, -1).numpy()
        for k, scene in enumerate(drawn):
            for thing in scene.things:
                if part == "combinations" and (thing.color, thing.shape) not in HELD_OUT:
                    continue
                features[part].append(grid[k, thing.y // 32 * 3 + thing.x // 32])
                labels[part].append(
                    (SHAPES.index(thing.shape), list(COLORS).index(thing.color), int(thing.size == "large"))
                )
    x = np.stack(features["train"])
    mean, std = x.mean(0), x.std(0) + 1e-6

    def with_one(rows: list[np.ndarray]) -> np.ndarray:
        normal = (np.stack(rows) - mean) / std
        return np.concatenate([normal, np.ones((len(rows), 1), np.float32)], 1)

    x = with_one(features["train"])
    gram = np.linalg.inv(x.T @ x + 30.0 * np.eye(x.shape[1])) @ x.T
    result = {}
    for k, what in enumerate(("shape", "color", "size")):
        weights = gram @ np.eye(6)[[row[k] for row in labels["train"]]]
        for part in ("test", "combinations"):
            right = (with_one(features[part]) @ weights).argmax(1) == np.array([row[k] for row in labels[part]])
            result[what + ("" if part == "test" else "_combinations")] = float(right.mean())
    return result


def train(work: Path, *, minutes: float, rate: float, decay: bool) -> None:
    """Train for `minutes` from `work/vision.pt` if it exists, and save."""
    model = Contrast()
    matrices = [p for n, p in model.tower.named_parameters() if p.ndim == 2 and "embedding" not in n]
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    step = 0
    if (work / "vision.pt").exists():
        saved = torch.load(work / "vision.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        step = saved["step"]
    rng, chance = np.random.default_rng([7, step]), random.Random(f"7/{step}")
    began, shown, losses, founds = time.time(), time.time(), [], []
    leg_start = step
    while (elapsed := (time.time() - began) / 60) < minutes:
        factor = min(1.0, (step - leg_start + 1) / 100) * (max(0.02, 1 - elapsed / minutes) if decay else 1.0)
        for optimizer in (muon, adam):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        pixels, phrases = make_batch(rng, chance, (1, 2) if step < 600 else (1, 5))
        loss, found = model(pixels, phrases)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        losses.append(loss.item())
        founds.append(found)
        if time.time() - shown > 60:
            print(
                f"step {step} {elapsed:.1f} min loss {np.mean(losses[-50:]):.3f} found {np.mean(founds[-50:]):.3f}",
                flush=True,
            )
            shown = time.time()
        if step % 400 == 0:
            print("probe", {k: round(v, 3) for k, v in probe(model.tower.eval()).items()}, flush=True)
            model.train()
            save(work, model, muon, adam, step)
    print("probe", {k: round(v, 3) for k, v in probe(model.tower.eval()).items()}, flush=True)
    save(work, model, muon, adam, step)


def save(work: Path, model: Contrast, muon: torch.optim.Optimizer, adam: torch.optim.Optimizer, step: int) -> None:
    state = {"model": model.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict(), "step": step}
    torch.save(state, work / "vision.pt.new")
    (work / "vision.pt.new").replace(work / "vision.pt")


def export(work: Path, out: Path) -> dict[str, float]:
    """Write the tower in fp16 in transformers' layout with its image processor; return its probe scores."""
    model = Contrast()
    model.load_state_dict(torch.load(work / "vision.pt", weights_only=True)["model"])
    scores = {what: round(share, 4) for what, share in probe(model.tower.eval()).items()}
    model.tower.half().save_pretrained(out)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(out)
    return scores
