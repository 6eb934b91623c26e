"""Our templates as Jinja: transformers' ids and masks of a rendered conversation are ours, for random conversations."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from vistune.errors import DataError, RecipeError
from vistune.processor import Processor, chat_template, load_tokenizer, templates
from vistune.types import IGNORE, IMAGE_ID, ImageRef, Message, Sample, Spec

SPEC = Spec(
    vision_width=32,
    language_width=48,
    vocabulary=400,
    slots_per_image=1,
    image_side=32,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    projector="linear",
    template="v1",
)
CONTROLS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
WORDS = st.text(alphabet="ab Zé.,#?!:\n\t가빨▁ ", max_size=12)
IMAGE = ImageRef(Path("x.jpg"))


def tokenizers(folder: Path, kind: str) -> tuple[Any, Any]:
    """A tokenizer with every template's control tokens, and a copy that also knows `<image>`."""
    made = []
    for more in ((), ("<image>",)):
        tokenizer = load_tokenizer(folder)
        tokens = [AddedToken(token, special=True, normalized=False) for token in (*CONTROLS, *more)]
        tokenizer.add_tokens(tokens, special_tokens=True)
        if kind == "bytes that begin":
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
            )
        made.append(tokenizer)
    return made[0], made[1]


@pytest.fixture(
    scope="module", params=["small", "small tokenizer.model", "llama", "tokenizer.model", "bytes", "bytes that begin"]
)
def pair(
    request: pytest.FixtureRequest, tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    if "bytes" not in request.param:
        if "small" in request.param:
            folder = request.getfixturevalue("small_llama")
        else:
            folder = request.getfixturevalue("shared") / "data" / "llama-tokenizer"
        if "tokenizer.model" in request.param:  # alone, so with a space behind special tokens too
            folder = Path(shutil.copy(folder / "tokenizer.model", tmp_path_factory.mktemp("alone"))).parent
        return tokenizers(folder, request.param)
    return tokenizers(tiny_tokenizer_folder, request.param)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    messages = [Message("system", (draw(WORDS),))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        parts = draw(st.lists(st.one_of(WORDS, st.just(IMAGE)), min_size=1, max_size=4))
        messages += [Message("user", tuple(parts)), Message("assistant", (draw(WORDS),))]
    return tuple(messages)


def as_chat(messages: tuple[Message, ...], strings: bool) -> list[dict[str, Any]]:
    """Content in parts, or, where `strings` and text alone, as a string."""
    chat: list[dict[str, Any]] = []
    for message in messages:
        parts = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in message.parts]
        whole = strings and not message.images
        chat.append({"role": message.role, "content": message.text if whole else parts})
    return chat


@pytest.mark.parametrize("tokenization", ["whole", "chunks"])
@pytest.mark.parametrize("template", sorted(templates()))
def test_transformers_gives_our_ids_and_masks(pair: tuple[Any, Any], template: str, tokenization: str) -> None:
    ours, theirs = pair
    processor = Processor(ours, replace(SPEC, template=template, tokenization=tokenization))
    source = processor.chat_template
    image = theirs.convert_tokens_to_ids("<image>")

    @settings(max_examples=25, deadline=None)
    @given(messages=conversations(), strings=st.booleans())
    def compare(messages: tuple[Message, ...], strings: bool) -> None:
        try:
            encoded = processor.encode_ids(Sample("x", messages))
        except DataError as error:
            if "partly inside" not in error.message:
                raise
            assume(False)
        found = theirs.apply_chat_template(
            as_chat(messages, strings),
            chat_template=source,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert found["input_ids"] == [image if token == IMAGE_ID else token for token in encoded.ids]
        assert found["assistant_masks"] == [int(label != IGNORE) for label in encoded.labels]
        prompt = theirs.apply_chat_template(
            as_chat(messages[:-1], strings), chat_template=source, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        asked = processor._encoder.encode(processor.template.render(messages[:-1])).ids
        assert prompt == [image if token == IMAGE_ID else token for token in asked]

    compare()


@pytest.mark.parametrize("tokenization", ["whole", "chunks"])
@pytest.mark.parametrize("template", sorted(set(templates()) - {"plain"}))  # plain leaves questions out, by design
def test_what_is_written_reads_back_as_the_tokenizers_own(
    pair: tuple[Any, Any], template: str, tokenization: str
) -> None:
    ours, theirs = pair
    processor = Processor(ours, replace(SPEC, template=template, tokenization=tokenization))
    theirs.chat_template = processor.chat_template
    again = Processor(theirs, replace(SPEC, template="tokenizer"))
    messages = (
        Message("user", (IMAGE, "무엇?")),
        Message("assistant", ("빨간 것",)),
        Message("user", ("a", IMAGE, "b", IMAGE)),
        Message("assistant", ("It is.",)),
    )
    wanted, found = (one.encode_ids(Sample("x", messages)) for one in (processor, again))
    assert (found.ids, found.labels) == (wanted.ids, wanted.labels)
    assert again.chat_template == processor.chat_template
    again.check()
    assert again.stop_ids == processor.stop_ids
    assert again.stop_text == processor.stop_text


def test_the_defaults_fit_a_llama_tokenizer(llama: Path) -> None:
    tokenizer = load_tokenizer(llama)
    for tokenization in ("whole", "chunks"):
        processor = Processor(tokenizer, replace(SPEC, template="v1", tokenization=tokenization))
        assert processor.chat_template == chat_template("v1", tokenization=tokenization)


def test_conversations_that_we_refuse_are_refused(tiny_tokenizer_folder: Path) -> None:
    from jinja2.exceptions import TemplateError

    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    source = chat_template("v1", tokenization="whole")
    twice = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(TemplateError, match="alternate"):
        tokenizer.apply_chat_template(twice, chat_template=source)
    shown = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image"}]}]
    with pytest.raises(TemplateError, match="only the user"):
        tokenizer.apply_chat_template(shown, chat_template=source)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"v2.*did you mean"):
        chat_template("v2", tokenization="whole")
