"""Chat templates without generation marks, in the styles of many models: prompts, supervised spans and refusals."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from chat_tokenizers import make_chat_tokenizer
from tiny_spec import SPEC as TINY

from vistune.errors import RecipeError, VistuneError
from vistune.processor import Processor, load_tokenizer
from vistune.types import IGNORE, IMAGE_ID, ImageRef, Message, Sample

SPEC = replace(TINY, template="tokenizer")
IMAGE = ImageRef(Path("x.jpg"))


def chat(*texts: str, system: str = "") -> tuple[Message, ...]:
    first = (Message("system", (system,)),) if system else ()
    return first + tuple(Message("assistant" if k % 2 else "user", (text,)) for k, text in enumerate(texts))


@dataclass(frozen=True)
class Style:
    """A chat template, and the supervised text of its two answers "red" and "파랑"."""

    source: str
    first: str
    last: str
    system: bool = True


def turns(user: str, assistant: str, opening: str, *, system: str = "", begin: str = "") -> str:
    """Return a template of alternating turns; @ stands for a message's text."""

    def written(text: str) -> str:
        return text.replace("@", "{{ m.content | trim }}")

    no_system = "{{ raise_exception('System role not supported') }}"
    return (
        f"{begin}{{% for m in messages %}}{{% if m.role == 'system' %}}{written(system) or no_system}"
        f"{{% elif m.role == 'user' %}}{written(user)}{{% else %}}{written(assistant)}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    )


IM = "<|im_start|>"
HISTORY_WITHOUT_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
BLOCK_IN_THE_PROMPT_ONLY = turns(
    "[|user|]\n@[|endofturn|]\n",
    "[|assistant|]\n@[|endofturn|]\n",
    "[|assistant|]\n{% if enable_thinking | default(true) %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}",
    system="[|system|]\n@[|endofturn|]\n",
)
DATED = (
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "{% set today = strftime_now('%d %B %Y') %}<|im_start|>system\nToday Date: {{ today }}\n"
    "Reasoning Mode: {{ '/think' if enable_thinking else '/no_think' }}\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}You are SmolLM.{% endif %}<|im_end|>\n"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{{ '<think>\n\n</think>\n' if m.role == 'assistant' and not enable_thinking }}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{{ '<think>\n\n</think>\n' if not enable_thinking }}{% endif %}"
)
MISTRAL = turns("[INST] @[/INST]", " @{{ eos_token }}", "", begin="{{ bos_token }}").replace(
    "{% for m",
    "{% for m in messages %}{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}{% for m",
)
HEADER = "<|start_header_id|>%s<|end_header_id|>\n\n"

STYLES = {
    "ChatML": Style(
        turns(
            f"{IM}user\n@<|im_end|>\n", f"{IM}assistant\n@<|im_end|>\n", f"{IM}assistant\n", system=f"{IM}system\n@\n"
        ),
        "red<|im_end|>",
        "파랑<|im_end|>",
    ),
    "Llama 3": Style(
        turns(
            HEADER % "user" + "@<|eot_id|>",
            HEADER % "assistant" + "@<|eot_id|>",
            HEADER % "assistant",
            system=HEADER % "system" + "Today Date: {{ strftime_now('%d %b %Y') }}\n\n@<|eot_id|>",
            begin="{{ bos_token }}",
        ),
        "red<|eot_id|>",
        "파랑<|eot_id|>",
    ),
    "Mistral": Style(MISTRAL, " red</s>", " 파랑</s>", system=False),
    "Gemma": Style(
        turns(
            "<start_of_turn>user\n@<end_of_turn>\n",
            "<start_of_turn>model\n@<end_of_turn>\n",
            "<start_of_turn>model\n",
            begin="{{ bos_token }}",
        ),
        "red<end_of_turn>",
        "파랑<end_of_turn>",
        system=False,
    ),
    "Qwen 3": Style(HISTORY_WITHOUT_THOUGHTS, "red<|im_end|>", "파랑<|im_end|>"),
    "EXAONE 4": Style(BLOCK_IN_THE_PROMPT_ONLY, "red[|endofturn|]", "파랑[|endofturn|]"),
    "SmolLM 3": Style(DATED, "red<|im_end|>", "파랑<|im_end|>"),
    "Phi 3": Style(
        turns("<|user|>\n@<|end|>\n", "<|assistant|>\n@<|end|>\n", "<|assistant|>\n", system="<|system|>\n@<|end|>\n")
        + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        "red<|end|>",
        "파랑<|end|>",
    ),
    "DeepSeek 3": Style(
        turns(
            "<｜User｜>@",
            "<｜Assistant｜>@<｜end▁of▁sentence｜>",
            "<｜Assistant｜>",
            system="@\n\n",
            begin="{{ bos_token }}",
        ),
        "red<｜end▁of▁sentence｜>",
        "파랑<｜end▁of▁sentence｜>",
    ),
    "Command R7B": Style(
        turns(
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>@<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>@<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>@<|END_OF_TURN_TOKEN|>",
        ),
        "<|START_RESPONSE|>red<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        "<|START_RESPONSE|>파랑<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    ),
    "SOLAR": Style(
        turns("### User:\n@\n\n", "### Assistant:\n@", "### Assistant:\n", system="### System:\n@\n\n"),
        "red",
        "파랑</s>",
    ),
    "GLM 4": Style(
        turns("<|user|>\n@", "<|assistant|>\n@", "<|assistant|>\n", system="<|system|>\n@", begin="[gMASK]"),
        "red<|user|>",
        "파랑<|user|>",
    ),
    "Zephyr": Style(
        turns("<|user|>\n@</s>\n", "<|assistant|>\n@</s>\n", "<|assistant|>\n", system="<|system|>\n@</s>\n"),
        "red</s>",
        "파랑</s>",
    ),
    "Vicuna": Style(
        turns("USER: @\n", "ASSISTANT: @{{ eos_token }}\n", "ASSISTANT:", system="@\n\n", begin="{{ bos_token }}"),
        " red</s>",
        " 파랑</s>",
    ),
}


def supervised(processor: Processor, *texts: str, system: str = "") -> list[str]:
    """Return each stretch of supervised tokens as text."""
    encoded = processor.encode_ids(Sample("x", chat(*texts, system=system)))
    stretches: list[list[int]] = [[]]
    for label in encoded.labels:
        if label != IGNORE:
            stretches[-1].append(label)
        elif stretches[-1]:
            stretches.append([])
    return [processor.tokenizer.decode(ids) for ids in stretches if ids]


def rendered(tokenizer: Any, *texts: str, system: str = "", **options: Any) -> list[int]:
    messages = [{"role": message.role, "content": message.text} for message in chat(*texts, system=system)]
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, return_dict=False, **options
    )
    return ids


@pytest.mark.parametrize("name", STYLES)
def test_answers_and_their_ends_are_supervised_and_nothing_else(name: str) -> None:
    style = STYLES[name]
    processor = Processor(make_chat_tokenizer(style.source), SPEC)
    processor.check()
    assert supervised(processor, "What?", "red", "무엇?", "파랑") == [style.first, style.last]
    assert supervised(processor, "What?", "파랑") == [style.last]
    if style.system:
        assert supervised(processor, "What?", "파랑", system="Be brief.") == [style.last]


@pytest.mark.parametrize("name", STYLES)
def test_prompts_equal_those_of_apply_chat_template(name: str) -> None:
    style = STYLES[name]
    tokenizer = make_chat_tokenizer(style.source)
    processor = Processor(tokenizer, SPEC)
    conversations = [("What?",), ("무엇?", "빨강 " * 60, "And <b>?", "{{ x }}", "Why?")]
    for texts in [tuple(text.strip() for text in conversation) for conversation in conversations]:
        for system in ("", "짧게.") if style.system else ("",):
            expected = rendered(tokenizer, *texts, system=system)
            assert processor.encode_prompt(chat(*texts, system=system)).input_ids.tolist() == expected
            finished = processor.encode_ids(Sample("x", chat(*texts, "red", system=system))).ids
            assert finished[: len(expected)] == expected


@pytest.mark.parametrize("name", ["ChatML", "Qwen 3", "SOLAR", "GLM 4"])
def test_an_empty_answer_is_its_end_only(name: str) -> None:
    style = STYLES[name]
    processor = Processor(make_chat_tokenizer(style.source), SPEC)
    assert supervised(processor, "What?", "") == [style.last.removeprefix("파랑")]


def test_a_first_token_follows_apply_chat_template_and_not_the_tokenizer() -> None:
    tokenizer = make_chat_tokenizer(STYLES["SOLAR"].source)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    prompt = Processor(tokenizer, SPEC).encode_prompt(chat("What?")).input_ids.tolist()
    assert tokenizer.bos_token_id not in prompt
    plain = Processor(tokenizer, replace(SPEC, template="plain"))
    assert plain.encode_prompt(chat("What?")).input_ids.tolist()[:1] == [tokenizer.bos_token_id]


def test_a_vision_templates_first_token_is_that_of_its_processor() -> None:
    """transformers' processors put it before a template that does not write it, as for LLaVA 1.5."""
    body = "{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}"
    source = STYLES["Zephyr"].source.replace("{{ m.content | trim }}", body)
    tokenizer = make_chat_tokenizer(source)
    prompt = Processor(tokenizer, SPEC).encode_prompt(chat("What?")).input_ids.tolist()
    assert prompt[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("name", ["ChatML", "Mistral", "Qwen 3", "SOLAR"])
def test_a_lone_image_begins_its_question(name: str) -> None:
    processor = Processor(make_chat_tokenizer(STYLES[name].source), SPEC)
    messages = (Message("user", ("What?", IMAGE)), Message("assistant", ("red",)))
    ids = processor.encode_ids(Sample("x", messages)).ids
    assert processor.tokenizer.decode(ids[ids.index(IMAGE_ID) + 4 :]).startswith("\nWhat?")


def test_thinking_is_off_unless_the_template_turns_it_on() -> None:
    source = STYLES["Qwen 3"].source
    tokenizer = make_chat_tokenizer(source)
    block = "<think>\n\n</think>\n\n"
    prompt = tokenizer.decode(Processor(tokenizer, SPEC).encode_prompt(chat("What?")).input_ids)
    assert prompt.endswith(block)
    tokenizer.chat_template = "{% set enable_thinking = true %}\n" + source
    thinking = Processor(tokenizer, SPEC)
    assert tokenizer.decode(thinking.encode_prompt(chat("What?")).input_ids) == prompt.removesuffix(block)
    thinking.check()
    assert supervised(thinking, "What?", "red") == [f"{block}red<|im_end|>"]


def test_a_saved_processor_keeps_thinking_off_and_the_date(tmp_path: Path) -> None:
    tokenizer = make_chat_tokenizer(STYLES["SmolLM 3"].source)
    processor = Processor(tokenizer, SPEC)
    processor.save(tmp_path)
    again = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "What?"}]
    ids = again.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == processor.encode_prompt(chat("What?")).input_ids.tolist()
    assert f"{datetime.now():%d %B %Y}\nReasoning Mode: /no_think" in again.decode(ids)
    older = again.chat_template.replace(f"{datetime.now():%Y}", "1999")
    again.chat_template = older
    reread = Processor(again, SPEC)
    assert reread.tokenizer.chat_template == older
    assert "1999" in again.decode(reread.encode_prompt(chat("What?")).input_ids.tolist())


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        ("<｜Assistant｜><think>\n", "its generation prompt ends with '<think>\\n', which a finished conversation"),
        ("", "the model would have to write 'Bot:' before each answer"),
    ],
    ids=["an open thought", "no opening"],
)
def test_a_prompt_that_cannot_be_continued_by_an_answer_is_refused_with_the_reason(opening: str, reason: str) -> None:
    answer = "<｜Assistant｜>@<｜end｜>" if opening else "Bot: @<｜end｜>"
    processor = Processor(make_chat_tokenizer(turns("<｜User｜>@<｜end｜>", answer, opening)), SPEC)
    with pytest.raises(RecipeError, match=re.escape(reason)):
        processor.check()


def test_a_template_that_changes_texts_is_refused() -> None:
    source = STYLES["ChatML"].source.replace("m.content | trim", "m.content | replace('<', '&lt;')")
    with pytest.raises(VistuneError, match="differ from those of apply_chat_template"):
        Processor(make_chat_tokenizer(source), SPEC).check()


def test_a_template_without_any_end_is_refused() -> None:
    tokenizer = make_chat_tokenizer(STYLES["SOLAR"].source)
    tokenizer.eos_token = None
    with pytest.raises(RecipeError, match="nothing ends an answer"):
        Processor(tokenizer, SPEC).check()


def test_a_template_that_is_not_jinja_is_refused() -> None:
    with pytest.raises(RecipeError, match="not valid Jinja"):
        Processor(make_chat_tokenizer("{% for m in messages %}"), SPEC)


def test_most_templates_of_trl_work_and_the_others_say_why() -> None:
    """TRL ships the templates of about forty models, most without generation marks."""
    found = find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("trl is not installed; it ships real chat templates")
    paths = [
        path
        for path in (Path(found.origin).parent / "chat_templates").glob("*.jinja")
        if not path.stem.endswith("_training")
    ]
    refused = {}
    for path in paths:
        try:
            Processor(make_chat_tokenizer(path.read_text(encoding="utf-8")), SPEC).check()
        except VistuneError as error:
            refused[path.stem] = str(error)
    assert len(refused) <= len(paths) // 4, refused
