"""Answers: greedy equals transformers' greedy, company changes nothing, pieces join to the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from vistune.errors import DataError
from vistune.generation import Assistant, Sampling, generate
from vistune.model import build, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Model
from vistune.types import IMAGE_ID, ImageRef, Message


@pytest.fixture(scope="module")
def assistant(tiny_backbones: Path) -> Assistant:
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    spec = read_spec(recipe)
    return Assistant(build(recipe, spec, seed=0).eval(), Processor(load_tokenizer(tiny_backbones / "language"), spec))


def image(seed: int) -> Image.Image:
    pixels = torch.randint(0, 256, (40, 32, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


QUESTIONS = [
    "What colour is it?",
    "Where?",
    "이 그림에 무엇이 있나요? 자세히 설명해 주세요.",
    "How many are there in all?",
]


def test_greedy_equals_transformers_token_by_token(assistant: Assistant, tiny_backbones: Path) -> None:
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(tiny_backbones / "language", attn_implementation="eager").eval()
    model = assistant.model
    for seed, question in enumerate(QUESTIONS):
        prompt = assistant.processor.encode_prompt([Message("user", (ImageRef(image(seed)), question))])
        text = model.language.get_input_embeddings()(prompt.input_ids.clamp(min=0))
        tiles = model.projector(model.vision(prompt.images)).flatten(0, 1)
        embeddings = text.masked_scatter((prompt.input_ids == IMAGE_ID)[:, None], tiles)
        wanted = stock.generate(inputs_embeds=embeddings[None], max_new_tokens=12, do_sample=False)[0]
        ours = generate(model, assistant.processor, [prompt], max_tokens=12)[0]
        assert ours.text == assistant.processor.decode(wanted.tolist())
        assert ours.prompt_tokens == len(prompt)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, top_p=0.9, top_k=20, seed=5)])
def test_company_changes_no_answer_and_seeds_repeat(assistant: Assistant, sampling: Sampling) -> None:
    prompts = [
        assistant.processor.encode_prompt([Message("user", (ImageRef(image(seed)), question) if seed else (question,))])
        for seed, question in enumerate(QUESTIONS)
    ]
    together = generate(assistant.model, assistant.processor, prompts, max_tokens=10, sampling=sampling)
    again = generate(assistant.model, assistant.processor, prompts, max_tokens=10, sampling=sampling)
    assert together == again
    for k, prompt in enumerate(prompts):
        own = replace(sampling, seed=sampling.seed + k)
        alone = generate(assistant.model, assistant.processor, [prompt], max_tokens=10, sampling=own)[0]
        assert together[k] == alone


def test_pieces_of_a_stream_join_to_the_answer(assistant: Assistant) -> None:
    for question in QUESTIONS:
        pieces = list(assistant.stream(image(1), question, max_tokens=20))
        assert "".join(pieces) == assistant.ask(image(1), question, max_tokens=20)


def test_logits_have_a_row_for_every_expanded_token(assistant: Assistant, tmp_path: Path) -> None:
    image(3).save(tmp_path / "a.png")
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": str(tmp_path / "a.png")}, {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": "red"},
    ]
    example = assistant.encode(messages)
    assert assistant.logits(messages).shape == (len(example), 400)
    assert (example.input_ids == IMAGE_ID).sum() == 4


def test_messages_that_cannot_be_read_name_their_place() -> None:
    from vistune.generation import read_messages

    with pytest.raises(DataError, match=r"messages\[1\].role"):
        read_messages([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}])
    with pytest.raises(DataError, match=r"messages\[0\].content\[0\].image_url"):
        read_messages([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}])
