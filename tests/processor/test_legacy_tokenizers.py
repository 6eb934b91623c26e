"""Tokenizers that put a space behind special tokens too, and folders that hold `tokenizer.model` alone."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import original_llava
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_llama import pieces_of
from tiny_spec import SPEC as TINY

from vistune.errors import RecipeError
from vistune.processor import Processor, load_tokenizer
from vistune.processor.templates import Control, TextPiece, system_strings
from vistune.processor.tokens import collapse_slots
from vistune.records import ImageFolders, read_sample
from vistune.types import IGNORE, IMAGE_ID, ImageRef, Sample

SPEC = replace(TINY, vocabulary=32000, tokenization="chunks")
BOS, EOS = 1, 2
UNSPACED = {"v1": [11889], "llava_llama_2": [29961]}  # Llama 2's "USER" and "[" as one piece …
SPACED = {"v1": [3148, 1001], "llava_llama_2": [518]}  # … and behind a space


@pytest.fixture
def folder_of(llama: Path, tmp_path: Path) -> Callable[..., Path]:
    """`tokenizer.model` alone, with a tokenizer_config.json of the settings given, or with none."""

    def make(**settings: Any) -> Path:
        folder = tmp_path / "llama"
        folder.mkdir()
        shutil.copy(llama / "tokenizer.model", folder)
        if settings:
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    return make


Rows = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def rows_of(llama: Path) -> Rows:
    """The ids and labels of a template's conversations: by the algorithm written out, or golden, of Llama 2."""

    def rows(template: str, *, legacy: bool) -> list[dict[str, Any]]:
        golden = llama.parents[1] / "golden" / f"tokens_{template}.jsonl"
        if not golden.is_file():
            return original_llava.rows(llama, template, system_strings().get(template, ""), legacy=legacy)
        made = [json.loads(line) for line in golden.read_text(encoding="utf-8").splitlines()]
        for row in made if legacy else ():
            row["input_ids"], row["labels"] = spaced(row, template)
        return made

    return rows


def sample_of(row: dict[str, Any], folder: Path) -> Sample:
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    return read_sample({"id": "x", "image": "x.png", **row} if "<image>" in str(row) else {"id": "x", **row},
                    "x:1", ImageFolders([folder]), Counter())  # fmt: skip


def spaced(row: dict[str, Any], template: str) -> tuple[list[int], list[int]]:
    """The golden row, made with legacy=False, as legacy=True gives it: other pieces behind a special token."""
    ids, labels = list(row["input_ids"]), list(row["labels"])
    old, new = UNSPACED[template], SPACED[template]
    for k in range(len(ids) - len(old), 1, -1):
        if ids[k - 1] in (BOS, EOS) and ids[k : k + len(old)] == old:
            assert labels[k : k + len(old)] == [IGNORE] * len(old)
            ids[k : k + len(old)] = new
            labels[k : k + len(old)] = [IGNORE] * len(new)
    return ids, labels


@pytest.mark.parametrize("template", ["v1", "plain", "llava_llama_2"])
def test_without_legacy_the_golden_ids(
    rows_of: Rows, folder_of: Callable[..., Path], tmp_path: Path, template: str
) -> None:
    processor = Processor(load_tokenizer(folder_of(legacy=False)), replace(SPEC, template=template))
    for row in rows_of(template, legacy=False):
        shown = processor.shown(sample_of(row, tmp_path))
        assert (shown["input_ids"], shown["labels"]) == (row["input_ids"], row["labels"])


@pytest.mark.parametrize("template", ["v1", "llava_llama_2"])
@pytest.mark.parametrize("settings", [{"legacy": True}, {"legacy": None}, {}], ids=["true", "null", "no config"])
def test_with_legacy_text_behind_a_special_token_begins_anew(
    rows_of: Rows, folder_of: Callable[..., Path], tmp_path: Path, template: str, settings: dict[str, Any]
) -> None:
    """Also after saving and loading again: the flag and `tokenizer.model` go along."""
    made = Processor(load_tokenizer(folder_of(**settings)), replace(SPEC, template=template))
    made.save(tmp_path / "saved")
    again = Processor.load(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["legacy"] is True
    assert (tmp_path / "saved" / "tokenizer.model").read_bytes() == (tmp_path / "llama/tokenizer.model").read_bytes()
    changed = 0
    for row, other in zip(rows_of(template, legacy=True), rows_of(template, legacy=False), strict=True):
        changed += row["input_ids"] != other["input_ids"]
        for processor in (made, again):
            shown = processor.shown(sample_of(row, tmp_path))
            assert (shown["input_ids"], shown["labels"]) == (row["input_ids"], row["labels"])
    assert changed


def test_a_legacy_prompt_is_sentencepieces_own_pieces(tmp_path: Path, folder_of: Callable[..., Path]) -> None:
    """Each stretch between special tokens and pictures as sentencepiece encodes it alone."""
    folder = folder_of()
    pieces = pieces_of(folder, prefix=True)
    row = {"conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "빨간 원."},
                             {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "On top."}]}  # fmt: skip
    shown = Processor(load_tokenizer(folder), SPEC).shown(sample_of(row, tmp_path))
    system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, " \
             "detailed, and polite answers to the user's questions."  # fmt: skip
    wanted = [BOS, *pieces.encode(f"{system} USER: "), IMAGE_ID, *pieces.encode("\nWhat is it? ASSISTANT: 빨간 원."),
              EOS, *pieces.encode("USER: Where? ASSISTANT: On top."), EOS]  # fmt: skip
    assert shown["input_ids"] == wanted


@pytest.mark.parametrize(("legacy", "spaced"), [(True, True), (False, True), (True, False)])
def test_any_text_is_sentencepieces_own_pieces(
    folder_of: Callable[..., Path], tmp_path: Path, legacy: bool, spaced: bool
) -> None:
    """Spaces too, at the beginning and in runs, as the original encodes them: by transformers' slow Llama tokenizer.

    With `legacy` it has sentencepiece put a space before each stretch between special tokens, without it before what
    begins a string; one that is there already is no reason to leave that out. `spaced`: not all models do so.
    """
    folder = folder_of(legacy=legacy)
    begins, goes_on = pieces_of(folder, prefix=spaced), pieces_of(folder, prefix=legacy and spaced)
    if not spaced:
        (folder / "tokenizer.model").write_bytes(begins.serialized_model_proto())
    Processor(load_tokenizer(folder), SPEC).save(tmp_path / "saved")
    encoder = Processor.load(tmp_path / "saved")._encoder
    image = ImageRef(Path("x.jpg"))

    @settings(max_examples=300, deadline=None)
    @given(st.tuples(*[st.text(alphabet="ab \t\né.가빨▁<s>", max_size=12)] * 3))
    def compare(texts: tuple[str, str, str]) -> None:
        first, shown, after = texts
        found = encoder.encode(
            [TextPiece(first), image, TextPiece(shown, supervised=True), Control("eos"), TextPiece(after)]
        )
        wanted = [BOS, *begins.encode(first), IMAGE_ID, *begins.encode(shown), EOS, *goes_on.encode(after)]
        assert collapse_slots(found)[0] == wanted
        assert [label for label in found.labels if label != IGNORE] == begins.encode(shown)

    compare()


@pytest.mark.parametrize("tokenization", ["whole", "chunks"])
def test_the_chat_template_of_a_legacy_tokenizer_gives_its_ids(
    rows_of: Rows, folder_of: Callable[..., Path], tmp_path: Path, tokenization: str
) -> None:
    """As transformers tokenises the rendered string, whole and with `<image>` a special token."""
    processor = Processor(load_tokenizer(folder_of()), replace(SPEC, tokenization=tokenization))
    processor.save(tmp_path / "saved")
    tokenizer = load_tokenizer(tmp_path / "saved")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = tokenizer.convert_tokens_to_ids("<image>")
    for row in rows_of("v1", legacy=True):
        sample = sample_of(row, tmp_path)
        messages = [{"role": message.role, "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in message.parts
        ]} for message in sample.messages]  # fmt: skip
        text = tokenizer.apply_chat_template(messages, chat_template=processor.chat_template, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert [IMAGE_ID if token == image else token for token in ids] == processor.shown(sample)["input_ids"]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.model": "damaged"},
        {"tokenizer.model": "damaged", "tokenizer_config.json": "[]"},
        {"tokenizer.json": "{}", "tokenizer_config.json": '{"tokenizer_class": "LlamaTokenizer"}'},
        {"tokenizer.json": "damaged", "tokenizer_config.json": "{}"},
        {"tokenizer.model": "whole", "tokenizer_config.json": '{"tokenizer_class": "GemmaTokenizer"}'},
        {},
    ],
)
def test_damaged_files_are_named(files: dict[str, str], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(RecipeError, match=f"{tmp_path}") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.hint
