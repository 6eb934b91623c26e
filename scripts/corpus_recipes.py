"""Rows C of the reliability matrix for scripts/make_corpus.py: recipes that are refused, and the words that say why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STAGE = "stages:\n- {name: tune, learn: {projector: 1e-3}, steps: 5}\n"
LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@dataclass(frozen=True)
class RecipeCase:
    """`words`: a pattern that the message must meet."""

    text: str
    words: str


def stage(changes: str) -> str:
    return f"stages:\n- {{name: tune, {changes}}}\n"


RECIPES: Mapping[str, RecipeCase] = {
    "C02-quoted-number": RecipeCase(stage("learn: {projector: '1e-4'}, steps: 5"), "a number in quotes is text"),
    "C02-text-for-a-number": RecipeCase("seed: many\n" + STAGE, "seed"),
    "C02-yes-for-a-number": RecipeCase("seed: no\n" + STAGE, "seed"),
    "C02-a-list": RecipeCase("- 1\n", "a mapping of keys"),
    "C02-number-for-a-key": RecipeCase("1: 2\n" + STAGE, "Keys should be strings"),
    "C03-negative-rate": RecipeCase(stage("learn: {projector: -1}, steps: 5"), "greater than 0"),
    "C03-no-rate": RecipeCase(stage("learn: {projector: 0}, steps: 5"), "greater than 0"),
    "C03-rate-is-nan": RecipeCase(stage("learn: {projector: .nan}, steps: 5"), "finite"),
    "C03-rate-is-infinite": RecipeCase(stage("learn: {projector: .inf}, steps: 5"), "finite|less than"),
    "C03-empty-batch": RecipeCase(
        stage("learn: {projector: 1e-3}, steps: 5, samples_per_step: 0"), "greater than or equal to 1"
    ),
    "C04-object": RecipeCase("a: !!python/object/apply:os.system [touch owned]\n" + STAGE, "not YAML"),
    "C04-new-object": RecipeCase("a: !!python/object/new:os.system [touch owned]\n" + STAGE, "not YAML"),
    "C04-name": RecipeCase("a: !!python/name:os.system x\n" + STAGE, "not YAML"),
    "C05-key-twice": RecipeCase("seed: 1\nseed: 2\n" + STAGE, "occurs twice"),
    "C05-key-twice-inside": RecipeCase("model: {seed: 1, seed: 2}\n" + STAGE, r":1: .*'seed' occurs twice"),
    "C06-int-tag": RecipeCase("seed: !!int abc\n" + STAGE, "cannot be read as YAML"),
    "C06-float-tag": RecipeCase("seed: !!float abc\n" + STAGE, "cannot be read as YAML"),
    "C06-bool-tag": RecipeCase("a: !!bool abc\n" + STAGE, "cannot be read as YAML"),
    "C06-date-tag": RecipeCase("a: !!timestamp abc\n" + STAGE, "cannot be read as YAML"),
    "C06-map-tag": RecipeCase("a: !!map [1]\n" + STAGE, "cannot be read as YAML"),
    "C06-list-for-a-key": RecipeCase("? [a]\n: 1\n" + STAGE, "a key is a list"),
    "C06-mapping-for-a-key": RecipeCase("{a: 1}: 2\n" + STAGE, "a key is a list or a mapping"),
    "C06-second-document": RecipeCase("a: 1\n---\n" + STAGE, "another document"),
    "C06-bell": RecipeCase("a: \x07\n" + STAGE, "not YAML"),
    "C06-broken-off": RecipeCase("seed: [\n" + STAGE, r":\d+: not YAML"),
    "C07-laughs": RecipeCase(LAUGHS + STAGE, "aliases"),
    "C07-alias": RecipeCase("a: &x [1]\nb: *x\n" + STAGE, "aliases"),
    "C07-long-number": RecipeCase(f"seed: {'9' * 5000}\n" + STAGE, "cannot be read as YAML"),
    "C07-deep-list": RecipeCase(f"a: {'[' * 600}{']' * 600}\n" + STAGE, "cannot be read as YAML"),
    "C10-lora-and-full": RecipeCase(
        stage("learn: {language: 1e-4, adapters: 1e-3}, lora: {rank: 4}, steps: 5"), "exclude each other"
    ),
    "C10-steps-and-epochs": RecipeCase(
        stage("learn: {projector: 1e-3}, steps: 5, epochs: 1"), "exactly one of `steps` and `epochs`"
    ),
    "C10-quantised-not-last": RecipeCase(
        "stages:\n- {name: a, learn: {adapters: 1e-3}, lora: {rank: 4}, quantize: 4, steps: 5}\n"
        "- {name: b, learn: {projector: 1e-3}, steps: 5}\n", "`quantize` is for the last stage"
    ),
    "C10-from-and-model": RecipeCase(
        "from: run\nmodel: {vision: x}\n" + STAGE, "`from` and `model` exclude each other"
    ),
    "C13-key": RecipeCase("model: {openai_api_key: x}\n" + STAGE, "secret"),
    "C13-token": RecipeCase("model: {hf_token: x}\n" + STAGE, r"model\.hf_token: a secret"),
    "C13-password": RecipeCase("data: [{file: a, password: x}]\n" + STAGE, r"data\.0\.password: a secret"),
    "C14-unknown-key": RecipeCase("seeds: 1\n" + STAGE, "unknown key 'seeds'"),
    "C14-unknown-choice": RecipeCase(stage("learn: {projector: 1e-3}, steps: 5, optimizer: lion"), "adamw"),
}  # fmt: skip
