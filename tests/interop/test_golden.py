"""What the original's code and transformers computed, computed again from their own folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from vistune.errors import RecipeError
from vistune.generation import greedy_tokens
from vistune.interop import layouts
from vistune.interop.build import source_processor
from vistune.model import VisionLanguageModel, next_token_loss
from vistune.processor import Processor, collate
from vistune.processor.tiles import load_tiles
from vistune.types import IGNORE, IMAGE_ID, Example, ImageRef

Loaded = tuple[VisionLanguageModel, Processor]
PUBLIC_TEMPLATE = (  # in the manner of llava-hf/llava-1.5-7b-hf's: pictures first, no end token, no system sentence
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role.upper() ~ ': ' }}{% endif %}"
    "{% for c in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m.content | selectattr('type', 'equalto', 'text') %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ c.text ~ ' ' }}{% endgeneration %}{% else %}{{ c.text ~ ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "inputs.json").read_text(encoding="utf-8"))


def image_id(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["image_token_index"]


def example(row: dict[str, Any], images: Path, processor: Processor) -> Example:
    """A golden row, its one -200 made as many slots as the picture takes."""
    spec, slots = processor.spec, processor.spec.slots_per_image
    ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        ids += [token] * (slots if token == IMAGE_ID else 1)
        labels += [label] * (slots if token == IMAGE_ID else 1)
    tiles = load_tiles(ImageRef(images / row["image"]), spec)
    return Example(torch.tensor(ids), torch.tensor(labels), tiles)


@pytest.fixture(scope="module")
def original_model(golden_original: Path) -> Loaded:
    return layouts.load(golden_original)


def test_the_originals_ids_and_labels(original_model: Loaded, golden_original: Path, golden_images: Path) -> None:
    from collections import Counter

    from vistune.records import ImageFolders, read_sample

    _, processor = original_model
    for row in rows_of(golden_original):
        sample = read_sample({**row, "id": "x"}, "x:1", ImageFolders([golden_images]), Counter())
        shown = processor.shown(sample)
        assert shown["input_ids"] == row["input_ids"]
        assert shown["labels"] == row["labels"]


def test_the_originals_numbers(original_model: Loaded, golden_original: Path, golden_images: Path) -> None:
    model, processor = original_model
    expected = np.load(golden_original / "expected.npz")
    rows = rows_of(golden_original)
    examples = [example(row, golden_images, processor) for row in rows]
    with torch.inference_mode():
        features = model.features(collate(examples)).reshape(expected["projected_features"].shape)
        np.testing.assert_allclose(features.numpy(), expected["projected_features"], atol=1e-4)
        total, count = 0.0, 0
        for k, one in enumerate(examples):
            assert len(one) == expected["seq_len"][k]
            batch = collate([one])
            hidden = model(batch)
            loss = next_token_loss(hidden, model.head, batch.labels, batch.starts)
            assert float(loss.sum) / loss.count == pytest.approx(float(expected["per_sample_loss"][k]), abs=1e-4)
            last = model.head.logits(hidden[-1])
            np.testing.assert_allclose(last[:64].numpy(), expected["last_logits64"][k], atol=1e-4)
            total, count = total + float(loss.sum), count + loss.count
    assert total / count == pytest.approx(float(expected["batch_loss"]), abs=1e-4)
    prompt = Example(examples[0].input_ids[:-8], torch.full_like(examples[0].labels[:-8], IGNORE), examples[0].images)
    assert greedy_tokens(model, prompt, 16) == expected["generated"][0, 1:].tolist()


def test_transformers_numbers(golden_hf: Path, golden_images: Path) -> None:
    model, processor = layouts.load(golden_hf, template="v1")
    expected = np.load(golden_hf / "expected.npz")
    for k, row in enumerate(rows_of(golden_hf)):
        ids = torch.tensor(row["input_ids"])
        ids = torch.where(ids == image_id(golden_hf), IMAGE_ID, ids)
        tiles = load_tiles(ImageRef(golden_images / row["image"]), processor.spec)
        batch = collate([Example(ids, torch.full_like(ids, IGNORE), tiles)])
        with torch.inference_mode():
            logits = model.head.logits(model(batch))
        np.testing.assert_allclose(logits[:, ::97].numpy(), expected[f"logits_{k}"].squeeze(), atol=1e-4)


def test_transformers_ids_and_greedy_tokens(golden_hf: Path, golden_images: Path) -> None:
    """By the folder's own chat template."""
    from vistune.generation import Assistant

    assistant = Assistant(*layouts.load(golden_hf))
    for row in rows_of(golden_hf):
        messages = [
            {**message, "content": [
                {"type": "image", "image": golden_images / row["image"]} if part["type"] == "image" else part
                for part in message["content"]
            ]}
            for message in row["messages"]
        ]  # fmt: skip
        ids = assistant.encode(messages).input_ids
        assert torch.where(ids == IMAGE_ID, image_id(golden_hf), ids).tolist() == row["input_ids"]
        prompt = assistant.processor.encode_prompt(read(messages[:1]))
        assert greedy_tokens(assistant.model, prompt, len(row["greedy"])) == row["greedy"]


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_a_chat_template_where_the_public_models_have_it(golden_hf: Path, tmp_path: Path, name: str) -> None:
    """llava-hf/llava-1.5-7b-hf keeps it in a file that transformers' processor reads and its tokenizer does not.

    It goes before the tokenizer's own, which there is the language model's; it ends no answer, so nothing learns by it.
    """
    folder = tmp_path / "hf"
    folder.mkdir()
    for path in golden_hf.iterdir():
        if path.name != "chat_template.jinja":
            (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    held = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps({**held, "chat_template": PUBLIC_TEMPLATE}))
    theirs = AutoProcessor.from_pretrained(folder, backend="pil")
    processor = source_processor(layouts.read_source(folder))
    image = Image.new("RGB", (60, 40), "red")
    for text in ("What is it?", "무엇이 보이나요?"):
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        ids = processor.encode_prompt(read(messages)).input_ids
        assert torch.where(ids == IMAGE_ID, theirs.image_token_id, ids).tolist() == wanted["input_ids"][0]
    with pytest.raises(RecipeError, match="lacks the token that ends an answer"):
        processor.check()


def read(messages: list[dict[str, Any]]) -> Any:
    from vistune.generation import read_messages

    return read_messages(messages)
