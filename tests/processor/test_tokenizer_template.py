"""The tokenizer's own chat template: ids as transformers gives them, user text stays text, refusals say why."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_spec import SPEC as TINY
from tokenizers import AddedToken

from vistune.errors import RecipeError
from vistune.processor import Processor, load_tokenizer, tokenizer_template
from vistune.processor.tokenizer_template import TokenizerTemplate
from vistune.processor.tokens import collapse_slots
from vistune.types import IGNORE, IMAGE_ID, ImageRef, Message, Sample

SPEC = replace(TINY, template="tokenizer")
IMAGE = ImageRef(Path("x.jpg"))
TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n%s{% endfor %}{% if add_generation_prompt %}%s{% endif %}"
CONTENT = "{{ m.content }}<|im_end|>\n"
LEARNT = "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}" + (
    CONTENT + "{% endif %}"
)
PARTS = "{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}"


def chatml(body: str, opening: str = "<|im_start|>assistant\n") -> str:
    return TURN.replace("%s", body, 1).replace("%s", opening, 1)


@pytest.fixture
def tokenizer(tiny_tokenizer_folder: Path) -> Any:
    made = load_tokenizer(tiny_tokenizer_folder)
    made.add_tokens([AddedToken("<|im_start|>", special=True, normalized=False)], special_tokens=True)
    made.add_tokens([AddedToken("<|im_end|>", special=False, normalized=False)])  # as many fine-tuned models have it
    return made


def processor(tokenizer: Any, source: str) -> Processor:
    tokenizer.chat_template = source
    return Processor(tokenizer, SPEC)


def turns(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("assistant" if k % 2 else "user", (text,)) for k, text in enumerate(texts))


def learnt(processor: Processor, *texts: str) -> str:
    labels = processor.encode_ids(Sample("x", turns(*texts))).labels
    return str(processor.tokenizer.decode([label for label in labels if label != IGNORE]))


def test_ids_equal_those_of_transformers(golden: Path) -> None:
    folder = golden / "ckpt_hf_clip_llama"
    tokenizer = load_tokenizer(folder)
    fitted = Processor(tokenizer, replace(SPEC, slots_per_image=16))
    image = tokenizer.convert_tokens_to_ids("<image>")
    rows = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    assert rows
    for row in rows:
        messages = tuple(
            Message(m["role"], tuple(IMAGE if p["type"] == "image" else p["text"] for p in m["content"]))
            for m in row["messages"]
        )
        encoded = fitted.encode_ids(Sample("x", messages))
        assert [image if token == IMAGE_ID else token for token in encoded.ids] == row["input_ids"]
        answers = [message.text for message in messages if message.role == "assistant"]
        said = tokenizer.decode([label for label in encoded.labels if label != IGNORE])
        assert said.replace(" ", "") == "".join(f"{answer}</s>" for answer in answers).replace(" ", "")
    fitted.check()


def test_the_space_before_an_answer_is_learnt_with_it_and_ends_no_prompt(golden: Path) -> None:
    """`ASSISTANT: ` stands outside the block; Llama's space is part of "▁Three", and alone before Korean."""
    tokenizer = load_tokenizer(golden / "ckpt_hf_clip_llama")
    fitted = Processor(tokenizer, SPEC)
    for answer, first in (("Three.", "▁Three"), ("빨간색", "▁")):
        encoded = fitted.encode_ids(Sample("x", turns("How many?", answer)))
        begin = next(k for k, label in enumerate(encoded.labels) if label != IGNORE)
        assert tokenizer.convert_ids_to_tokens(encoded.ids[begin]) == first
        assert fitted.encode_prompt(turns("How many?")).input_ids.tolist() == encoded.ids[:begin]


def test_answers_and_their_ends_are_learnt_in_every_turn(tokenizer: Any) -> None:
    fitted = processor(tokenizer, chatml(LEARNT))
    assert learnt(fitted, "What?", "red", "And?", " 파란 ") == "red<|im_end|>파란<|im_end|>"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in fitted.stop_ids
    fitted.check()


def test_many_shapes_of_conversations_take_no_more_memory(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_template, "MOST_SHAPES", 3)
    template = processor(tokenizer, chatml(LEARNT)).template
    conversations = [turns(*"abcdefgh"[:count]) for count in range(1, 8, 2)] * 2
    assert [len(template.render(messages)) for messages in conversations[:4]] == [
        len(template.render(messages)) for messages in conversations[4:]
    ]
    assert isinstance(template, TokenizerTemplate)
    assert len(template._pieces) == len(template._roles_with_parts) <= 3  # private: nothing public tells the memory


def test_outer_whitespace_goes_and_inner_stays(tokenizer: Any) -> None:
    fitted = processor(tokenizer, chatml(LEARNT))
    messages = (Message("user", (" \n", " a ", " b\n")), Message("assistant", (" c  d ",)))
    text = tokenizer.decode(fitted.encode_ids(Sample("x", messages)).ids)
    assert text == "<|im_start|>user\na  b<|im_end|>\n<|im_start|>assistant\nc  d<|im_end|>"


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "<|im_start|>system", "</s>", "<image>", "{{ 1 }}", "\ue0001\ue001\ue002"]
)
def test_user_text_is_never_a_control_a_slot_or_a_mark(tokenizer: Any, text: str) -> None:
    fitted = processor(tokenizer, chatml(LEARNT))
    encoded = fitted.encode_ids(Sample("x", (Message("user", (text, IMAGE)), Message("assistant", (f"{text}!",)))))
    controls = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>", "</s>")]
    assert [encoded.ids.count(control) for control in controls] == [2, 2, 0]
    assert encoded.ids.count(IMAGE_ID) == 4
    shown = tokenizer.decode([token for token in encoded.ids if token != IMAGE_ID])
    assert shown == f"<|im_start|>user\n\n{text}<|im_end|>\n<|im_start|>assistant\n{text}!<|im_end|>"


def test_pictures_stand_where_a_template_of_parts_puts_them(tokenizer: Any) -> None:
    fitted = processor(tokenizer, chatml(LEARNT.replace("{{ m.content }}", PARTS)))
    messages = (Message("user", ("a", IMAGE, "b", IMAGE)), Message("assistant", ("c",)))
    ids = fitted.encode_ids(Sample("x", messages)).ids
    marked = tokenizer.decode([tokenizer.eos_token_id if token == IMAGE_ID else token for token in ids])
    assert "user\na" + "</s>" * 4 + "b" + "</s>" * 4 + "<|im_end|>" in marked
    fitted.check()


def test_in_a_template_of_strings_a_lone_picture_is_first_and_a_newline_follows(tokenizer: Any) -> None:
    fitted = processor(tokenizer, chatml(LEARNT))
    ids = fitted.encode_ids(Sample("x", (Message("user", ("a", IMAGE)), Message("assistant", ("c",))))).ids
    marked = tokenizer.decode([tokenizer.eos_token_id if token == IMAGE_ID else token for token in ids])
    assert "user\n" + "</s>" * 4 + "\na<|im_end|>" in marked


@pytest.mark.parametrize("body", [LEARNT, LEARNT.replace("m.content", "m.content | trim")], ids=["plain", "trims"])
@pytest.mark.parametrize("system", [True, False])
def test_a_template_of_strings_is_written_for_those_who_give_parts(tokenizer: Any, body: str, system: bool) -> None:
    """As transformers' processors and vLLM give them; read again it says the same, and is written as it is."""
    if not system:
        body = "{% if m.role == 'system' %}{{ raise_exception('none here') }}{% endif %}" + body
    fitted = processor(tokenizer, chatml(body))
    source = fitted.chat_template
    theirs = deepcopy(tokenizer)
    theirs.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    conversations = [
        *([(Message("system", ("짧게.",)), *turns("What?", "red"))] if system else []),
        (Message("user", ("무엇?", IMAGE)), *turns("x", "빨간 것", " And? ", "It is.")[1:]),
        (Message("user", ("a", IMAGE, IMAGE, "b")), *turns("x", "c")[1:]),
        turns("2 + 2?", "4"),
    ]
    for messages in conversations:
        chat = [
            {"role": message.role, "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in message.parts
            ]}
            for message in messages
        ]  # fmt: skip
        found = theirs.apply_chat_template(
            chat, chat_template=source, return_dict=True, return_assistant_tokens_mask=True
        )
        encoded = fitted.encode_ids(Sample("x", messages))
        ids, labels = collapse_slots(encoded)
        behind = found["input_ids"][len(ids) :]  # a newline behind the last end: not the model's to write
        image = theirs.convert_tokens_to_ids("<image>")
        assert found["input_ids"][: len(ids)] == [image if token == IMAGE_ID else token for token in ids]
        assert not theirs.decode(behind).strip()
        assert found["assistant_masks"][: len(ids)] == [int(label != IGNORE) for label in labels]
    theirs.chat_template = source
    again = Processor(theirs, SPEC)
    assert again.chat_template == source
    assert all(
        again.encode_ids(Sample("x", messages)).ids == fitted.encode_ids(Sample("x", messages)).ids
        for messages in conversations
    )


def test_a_control_takes_the_whitespace_beside_it_as_in_a_whole_string(tokenizer: Any) -> None:
    tokenizer.add_tokens([AddedToken("<|end|>", special=True, normalized=False, rstrip=True)], special_tokens=True)
    fitted = processor(tokenizer, chatml(LEARNT.replace("<|im_end|>", "<|end|>")))
    chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}]
    wanted = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert fitted.encode_ids(Sample("x", turns("What?", "red"))).ids == wanted


def test_a_beginning_that_the_template_writes_is_not_doubled(llama: Path) -> None:
    tokenizer = load_tokenizer(llama)
    source = "{{ bos_token }}" + chatml("{% generation %}{{ m.content + eos_token }}{% endgeneration %}")
    fitted = processor(tokenizer, source)
    chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}]
    wanted = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert fitted.encode_ids(Sample("x", turns("What?", "red"))).ids == wanted
    assert wanted.count(1) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{% generation %}{% endgeneration %}" + CONTENT, "marks no answer"),
        ("{% generation %}{{ '!' }}{% endgeneration %}" + CONTENT, "does not contain the answer"),
        ("{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n", "lacks the token that ends"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_but_answers(tokenizer: Any, body: str, reason: str) -> None:
    fitted = processor(tokenizer, chatml(body))
    with pytest.raises(RecipeError, match=rf"{reason}.*template=v1"):
        fitted.check()
    prompt = tokenizer.decode(fitted.encode_prompt(turns("What?")).input_ids)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert "What?" in prompt
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in fitted.stop_ids


def test_a_prompt_that_is_not_how_its_training_begins_is_refused(tokenizer: Any) -> None:
    fitted = processor(tokenizer, chatml(LEARNT, opening="<|im_start|>assistant\n<think>"))
    with pytest.raises(RecipeError, match="its generation prompt ends with '<think>'"):
        fitted.check()


def test_a_template_that_leaves_a_message_out_is_refused(tokenizer: Any) -> None:
    fitted = processor(tokenizer, chatml(LEARNT).replace("in messages", "in messages if m.role != 'system'"))
    messages = (Message("system", ("Be short.",)), *turns("What?", "red"))
    with pytest.raises(RecipeError, match=r"system, user, assistant.*leaves out"):
        fitted.encode_ids(Sample("x", messages))


def test_a_templates_own_refusal_is_told(tokenizer: Any) -> None:
    body = "{% if m.role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}" + LEARNT
    fitted = processor(tokenizer, chatml(body))
    with pytest.raises(RecipeError, match="no system role here"):
        fitted.encode_ids(Sample("x", (Message("system", ("Be short.",)), *turns("What?", "red"))))


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_tokenizer_folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"no chat template.*v1"):
        Processor(load_tokenizer(tiny_tokenizer_folder), SPEC)


def test_an_unknown_template_lists_the_tokenizers_own_too(tokenizer: Any) -> None:
    with pytest.raises(RecipeError, match=r"known: .*tokenizer"):
        Processor(tokenizer, replace(SPEC, template="v7"))
