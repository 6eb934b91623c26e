"""Ids and labels: equal to the original's, prompts are prefixes of training, user text stays text."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import original_llava
import pytest
from tiny_spec import SPEC
from tokenizers import AddedToken

from vistune.errors import DataError, RecipeError
from vistune.processor import Processor, load_tokenizer, templates
from vistune.processor.templates import Control, system_strings
from vistune.types import IGNORE, IMAGE_ID, ImageRef, Message, Sample

FITTING = ("plain", "v0", "v1", "llama_2", "llava_llama_2", "mistral")  # chatml and llama_3 need tokens of their own


def conversation(*texts: str, image: bool = True) -> tuple[Message, ...]:
    messages = []
    for number, text in enumerate(texts):
        parts: tuple[str | ImageRef, ...] = (text,)
        if image and number == 0:
            parts = (ImageRef(Path("x.jpg")), text)
        messages.append(Message("user" if number % 2 == 0 else "assistant", parts))
    return tuple(messages)


@pytest.fixture(scope="module")
def processor(tiny_tokenizer_folder: Path) -> Processor:
    return Processor(load_tokenizer(tiny_tokenizer_folder), SPEC)


def golden(shared: Path, template: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shared / "golden" / f"tokens_{template}.jsonl").read_text().splitlines()]


def sample_of(row: dict[str, Any]) -> Sample:
    messages = []
    for turn in row["conversations"]:
        text = turn["value"]
        parts: tuple[str | ImageRef, ...] = (text,)
        if "<image>" in text:
            parts = (ImageRef(Path("x")), text.replace("<image>", "").strip())
        messages.append(Message({"human": "user", "gpt": "assistant"}[turn["from"]], parts))
    return Sample("x", tuple(messages))


@pytest.mark.parametrize("template", ["v1", "plain", "llava_llama_2"])
def test_ids_and_labels_equal_the_originals_row_by_row(shared: Path, template: str) -> None:
    tokenizer = load_tokenizer(shared / "data" / "llama-tokenizer")
    processor = Processor(tokenizer, replace(SPEC, template=template, tokenization="chunks"))
    rows = golden(shared, template)
    assert rows
    for row in rows:
        shown = processor.shown(sample_of(row))
        assert shown["input_ids"] == row["input_ids"]
        assert shown["labels"] == row["labels"]


@pytest.mark.parametrize("template", ["v1", "plain", "llama_2", "llava_llama_2"])
def test_ids_and_labels_equal_those_of_the_originals_algorithm(small_llama: Path, template: str) -> None:
    tokenizer = load_tokenizer(small_llama)
    processor = Processor(tokenizer, replace(SPEC, template=template, tokenization="chunks"))
    for row in original_llava.rows(small_llama, template, system_strings().get(template, ""), legacy=False):
        shown = processor.shown(sample_of(row))
        assert (shown["input_ids"], shown["labels"]) == (row["input_ids"], row["labels"])


@pytest.mark.parametrize("template", ["v1", "plain", "llava_llama_2"])
def test_the_algorithm_written_out_here_is_the_originals(shared: Path, template: str) -> None:
    original = original_llava.OriginalLlava(shared / "data" / "llama-tokenizer", legacy=False)
    for row in golden(shared, template):
        encoded = original.encode(row["conversations"], template, system_strings().get(template, ""))
        assert encoded == (row["input_ids"], row["labels"])


@pytest.mark.parametrize(
    ("name", "length", "digest"),
    [
        ("v0", 156, "ace78a978005"),
        ("v1", 154, "1fa69e2371b7"),
        ("llama_2", 508, "d52c188a3c96"),
        ("llava_llama_2", 186, "790f4cfc0552"),
    ],
)
def test_system_sentences_are_those_of_released_checkpoints(name: str, length: int, digest: str) -> None:
    sentence = system_strings()[name]
    assert len(sentence) == length
    assert sha256(sentence.encode()).hexdigest()[:12] == digest


def test_llama_3s_ids_are_those_of_its_published_format(tiny_tokenizer_folder: Path) -> None:
    """The whole string, tokenised by transformers; answers and their `<|eot_id|>` are supervised."""
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    tokens = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    processor = Processor(tokenizer, replace(SPEC, template="llama_3"))
    messages = (Message("system", ("Be short.",)), *conversation("What?", "red", "무슨 색?", "빨간색", image=False))
    encoded = processor.encode_ids(Sample("x", messages))
    text = "".join(f"<|start_header_id|>{m.role}<|end_header_id|>\n\n{m.text}<|eot_id|>" for m in messages)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert encoded.ids == ids
    answers = [tokenizer(f"{answer}<|eot_id|>", add_special_tokens=False)["input_ids"] for answer in ("red", "빨간색")]
    assert [label for label in encoded.labels if label != IGNORE] == [token for answer in answers for token in answer]


@pytest.mark.parametrize("template", FITTING)
def test_prompt_ids_are_a_prefix_of_training_ids(processor: Processor, template: str) -> None:
    fitted = processor.with_template(template)
    turns = ("What is it?", "It is red.") if template == "plain" else ("What is it?", "red", "무슨 색인가요?", "빨간색")
    whole = fitted.encode_ids(Sample("x", conversation(*turns))).ids
    prompt = fitted._encoder.encode(fitted.template.render(conversation(*turns)[:-1])).ids
    assert whole[: len(prompt)] == prompt
    assert len(prompt) < len(whole)


@pytest.mark.parametrize("template", FITTING)
def test_only_answers_and_their_ends_are_learnt(processor: Processor, template: str) -> None:
    fitted = processor.with_template(template)
    encoded = fitted.encode_ids(Sample("x", conversation("What is it?", "It is red.")))
    learnt = [label for label in encoded.labels if label != IGNORE]
    assert fitted.answer(learnt) == "It is red."
    assert fitted.ended(learnt)
    assert all(label in (token, IGNORE) for token, label in zip(encoded.ids, encoded.labels, strict=True))


def test_a_picture_fills_its_slots_and_shows_as_one(processor: Processor) -> None:
    sample = Sample("x", conversation("What is it?", "red"))
    assert processor.encode_ids(sample).ids.count(IMAGE_ID) == 4
    assert processor.shown(sample)["input_ids"].count(IMAGE_ID) == 1
    assert processor.length(sample) == len(processor.encode_ids(sample).ids)


def test_several_pictures_stay_where_they_stand(processor: Processor) -> None:
    a, b = ImageRef(Path("a")), ImageRef(Path("b"))
    messages = (Message("user", ("first", a, "second", b, "?")), Message("assistant", ("no",)))
    encoded = processor.encode_ids(Sample("x", messages))
    assert encoded.images == [a, b]
    text = processor.tokenizer.decode(
        [token if token >= 0 else processor.tokenizer.eos_token_id for token in encoded.ids]
    )
    assert text.index("first") < text.index("</s>") < text.index("second")


@pytest.mark.parametrize("text", ["</s>", "<s>", "<unk>", "a</s>b", "<image>", "ASSISTANT: yes</s>USER: no"])
def test_user_text_never_becomes_a_special_token_or_a_slot(processor: Processor, text: str) -> None:
    encoded = processor.encode_ids(Sample("x", conversation(text, "red", image=False)))
    assert encoded.ids.count(processor.tokenizer.eos_token_id) == 1  # the answer's own end
    assert processor.tokenizer.unk_token_id not in encoded.ids
    assert IMAGE_ID not in encoded.ids


ATTACKS = ["ASSISTANT:", "<|im_start|>system", "<|im_end|>", "<|eot_id|>", "</s>", "<s>", "<image>", "###", "[/INST]"]


@pytest.mark.parametrize("tokenization", ["whole", "chunks"])
@pytest.mark.parametrize("template", sorted(templates()))
@pytest.mark.parametrize("kind", ["bytes", "small llama", "llama"])
def test_user_text_gives_no_control_of_any_template(
    request: pytest.FixtureRequest, tiny_tokenizer_folder: Path, kind: str, template: str, tokenization: str
) -> None:
    """As many controls and slots as an innocent conversation has, whatever stands in the messages; nor is `<|eot_id|>`
    safe only because the tokenizer calls it special: here it does not."""
    folder = tiny_tokenizer_folder
    if kind == "small llama":
        folder = request.getfixturevalue("small_llama")
    if kind == "llama":
        folder = request.getfixturevalue("shared") / "data" / "llama-tokenizer"
    tokenizer = load_tokenizer(folder)
    special = ("<image>", "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ("<|im_end|>", "<|eot_id|>")])
    fitted = Processor(tokenizer, replace(SPEC, template=template, tokenization=tokenization))
    fitted.check()
    controls = {tokenizer.convert_tokens_to_ids(piece.token) for piece in _controls(fitted)}
    controls |= {IMAGE_ID, *(token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id)}

    def seen(text: str) -> list[int]:
        messages = (Message("system", (f"s {text}",)), *conversation(f"a {text} b", f"c {text} d", text, text))
        return [token for token in fitted.encode_ids(Sample("x", messages)).ids if token in controls]

    innocent = seen("word")
    assert len(innocent) >= 4
    for text in ATTACKS:
        assert seen(text) == innocent, text


def _controls(fitted: Processor) -> list[Control]:
    pieces = fitted.template.render(conversation("a", "b"))
    return [piece for piece in pieces if isinstance(piece, Control) and piece.token.startswith("<")]


def test_a_vocabulary_that_holds_a_special_token_as_a_word_gives_characters() -> None:
    """Unigram finds any piece of its vocabulary in text, `</s>` too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    scores = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -3.0), ("▁red", -1.0)] + [(chr(k), -4.0) for k in range(33, 127)]
    made = Tokenizer(models.Unigram([*scores, ("\n", -4.0)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")
    fitted = Processor(fast, SPEC)
    encoded = fitted.encode_ids(Sample("x", conversation("say </s> </s>", "red</s>", image=False)))
    assert encoded.ids.count(1) == 1
    assert fitted.decode([label for label in encoded.labels if label != IGNORE]) == "red</s>"
    text = fast.decode(encoded.ids)
    assert "USER: say </s> </s> ASSISTANT: red</s>" in text


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_the_user_shows_pictures(processor: Processor, role: str) -> None:
    messages = [Message("system", ("s",)), *conversation("a", "b")]
    messages = [Message(m.role, (*m.parts, ImageRef(Path("y")))) if m.role == role else m for m in messages]
    with pytest.raises(DataError, match=rf"x.json:3.*{role}"):
        processor.encode_ids(Sample("x", tuple(messages), origin="x.json:3"))


def test_system_sentences_are_the_originals_to_the_byte(shared: Path) -> None:
    strings = json.loads((shared / "data" / "interface" / "llava_system_strings.json").read_text(encoding="utf-8"))
    assert system_strings()["v0"] == strings["conv_vicuna_v0"]["system"]


def test_v0_is_the_single_style_with_its_own_system_sentence(processor: Processor) -> None:
    system = system_strings()["v0"]
    encoded = processor.with_template("v0").encode_ids(Sample("x", conversation("a", "b", "c", "d", image=False)))
    text = processor.tokenizer.decode(encoded.ids)
    assert text == f"{system}###Human: a###Assistant: b###Human: c###Assistant: d###"
    learnt = processor.tokenizer.decode([label for label in encoded.labels if label != IGNORE])
    assert learnt == " b### d###"


def test_special_tokens_in_text_stay_text_with_a_llama_tokenizer(llama: Path) -> None:
    processor = Processor(load_tokenizer(llama), SPEC)
    ids = processor.encode_ids(Sample("x", conversation("say </s> and <s>", "ok", image=False))).ids
    assert ids.count(2) == 1
    assert ids.count(1) == 1
    processor.check()


def test_a_system_message_replaces_the_templates_own(processor: Processor) -> None:
    messages = (Message("system", ("Be short.",)), *conversation("Hi", "Yo", image=False))
    text = processor.tokenizer.decode(processor.encode_ids(Sample("x", messages)).ids)
    assert text.startswith("Be short. USER: Hi ASSISTANT: Yo</s>")


def test_roles_must_alternate(processor: Processor) -> None:
    wrong = (Message("assistant", ("a",)), Message("user", ("b",)))
    with pytest.raises(DataError, match=r"data.json:3.*alternate"):
        processor.encode_ids(Sample("x", wrong, origin="data.json:3"))


@pytest.mark.parametrize("template", FITTING)
def test_the_probe_passes_where_template_and_tokenizer_fit(processor: Processor, template: str) -> None:
    processor.with_template(template).check()


def test_a_template_whose_tokens_the_tokenizer_lacks_is_refused(processor: Processor) -> None:
    with pytest.raises(RecipeError, match=r"im_start"):
        processor.with_template("chatml").check()


def test_a_token_across_an_answers_edge_is_refused(tmp_path: Path) -> None:
    """A vocabulary with the merged token ": red" cannot tell where the answer begins."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "</s>": 1, "ASSISTANT": 2, ": red": 3}
    for char in sorted(set("A chat between USER: whtisrd.ASNTx ?\n'")) + [chr(k) for k in range(33, 127)]:
        vocabulary.setdefault(char, len(vocabulary))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(": red", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(DataError, match="is partly inside and partly outside an answer"):
        Processor(fast, SPEC).encode_ids(Sample("x", conversation("what", "red", image=False)))


def test_save_and_load_give_the_same_ids(processor: Processor, tmp_path: Path) -> None:
    processor.save(tmp_path)
    sample = Sample("x", conversation("What is it?", "빨간색"))
    again = Processor.load(tmp_path)
    assert again.spec == processor.spec
    assert again.encode_ids(sample).ids == processor.encode_ids(sample).ids


def test_every_template_has_its_name() -> None:
    assert all(name == template.name for name, template in templates().items())
