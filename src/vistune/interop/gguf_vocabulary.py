"""Describe tokenizer and chat template as llama.cpp reads them, and list how llama.cpp tokenizes differently."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from tokenizers import Tokenizer

from vistune.errors import RecipeError
from vistune.interop.gguf_file import Value, names
from vistune.interop.gguf_tower import Difference
from vistune.processor import Processor
from vistune.processor.tokenizer_template import IMAGE, TokenizerTemplate

SPACE = "▁"  # SentencePiece's
REMEDY = "train with a language model whose tokenizer llama.cpp knows (Llama, Qwen, SmolLM, Mistral, Gemma)"
ALIKE = 0.95  # share of the probe texts that the nearest pre-tokenizer must split as the model's own
MARK = re.compile(rf"(?<=set )(\w+) = {re.escape(json.dumps(IMAGE))}")  # how our Jinja sources name the image's mark
# Texts on which pre-tokenizers are compared, next to the words of the vocabulary.
PROBES = (
    "What colour is the circle at the left of the image?",
    "There are 3 dogs, 12 birds and 1024 pixels (about 40%).",
    "It's the user's cat; they're here, aren't they?\n\nYes!  No...",
    "이 그림에는 무엇이 있나요? 빨간 원이 3개 있습니다.",
    "왼쪽에 있는 파란색 사각형은 초록색 별보다 큽니까?",
    "image_1.png: https://example.org/a?b=c&d=[e]",
    "Ünïcödé, 漢字かな交じり文, русский текст, عربى",
)


def vocabulary_metadata(processor: Processor, rows: int) -> tuple[dict[str, Value], list[Difference]]:
    """Return the metadata of tokenizer and chat template, by llama.cpp's keys, and the differences.

    Args:
        rows: Rows of the embedding. Rows without a token get unused names.

    Raises RecipeError if llama.cpp cannot tokenize as this tokenizer does.
    """
    tree = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    model = tree["model"]
    if model["type"] != "BPE":
        raise RecipeError(f"--layout gguf: a tokenizer of type {model['type']} is not supported", REMEDY)
    if model.get("byte_fallback"):
        values, differences = _sentencepiece(tree, processor)
    else:
        values, differences = _byte_pairs(tree, processor)
    values |= {"tokens": _tokens(tree, rows), "types": _types(tree, rows), **_special_tokens(processor)}
    values["template"] = chat_template(processor)
    keys = names()["vocabulary"]["keys"]
    return {keys[key]: value for key, value in values.items()}, [*differences, *_template_differences(processor)]


def chat_template(processor: Processor) -> str:
    """Return the chat template in the form that llama.cpp renders: it gives images as marks inside strings."""
    source = processor.portable_chat_template
    prelude = (resources.files("vistune.interop") / "gguf_media.jinja").read_text(encoding="utf-8")
    if len(MARK.findall(source)) == 1:
        return prelude + MARK.sub(r"\1 = media.mark", source)
    mark = json.dumps(getattr(processor.tokenizer, "image_token", None) or IMAGE)
    return f"{prelude}{{%- set rendered -%}}{source}{{%- endset -%}}{{{{- rendered | replace({mark}, media.mark) -}}}}"


def _byte_pairs(tree: Mapping[str, Any], processor: Processor) -> tuple[dict[str, Value], list[Difference]]:
    """Return the values of a byte-level BPE tokenizer."""
    table = names()["vocabulary"]
    model = tree["model"]
    pre, differences = _pre_tokenizer(tree)
    if tree["normalizer"] is not None:
        differences.append(
            Difference(
                "tokenizer",
                "llama.cpp does not normalise text as this tokenizer does (NFC)",
                "give it text in NFC, which most text is",
            )
        )
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    if any(pair.count(" ") != 1 for pair in merges):
        raise RecipeError("--layout gguf: a merge of this tokenizer contains a space, which GGUF cannot store", REMEDY)
    return {"model": table["byte_pairs"], "pre": pre, "merges": merges}, differences


def _pre_tokenizer(tree: Mapping[str, Any]) -> tuple[str, list[Difference]]:
    """Return llama.cpp's name of the pre-tokenizer, or of the nearest one together with the difference.

    Raises RecipeError if none is near.
    """
    table = names()["vocabulary"]
    ignores = bool(tree["model"].get("ignore_merges"))
    own = _without_offsets(tree["pre_tokenizer"])
    known: Mapping[str, Any] = table["pre"]
    for name, candidate in known.items():
        if own == _without_offsets(candidate) and ignores == (name in table["ignores_merges"]):
            return str(name), []
    texts = [*PROBES, *_words(tree)]
    ids = _ids(tree, texts)
    shares, example = {}, {}
    for name, candidate in known.items():
        changed = {**tree, "pre_tokenizer": candidate,
                   "model": {**tree["model"], "ignore_merges": name in table["ignores_merges"]}}  # fmt: skip
        other = _ids(changed, texts)
        differing = [text for text, one, two in zip(texts, ids, other, strict=True) if one != two]
        shares[name], example[name] = 1 - len(differing) / len(texts), (differing or [""])[0]
    best = max(shares, key=shares.__getitem__)
    differing_share = f"{best} gives other tokens for {100 * (1 - shares[best]):.1f} % of {len(texts)} words and texts"
    if shares[best] < ALIKE:
        raise RecipeError(
            "--layout gguf: llama.cpp has no pre-tokenizer that splits text as this tokenizer does; the nearest, "
            f"{differing_share}",
            REMEDY,
        )
    shown = f", for example {example[best]!r}" if example[best] else ""
    what = f"llama.cpp has no pre-tokenizer that splits text as this tokenizer does; {differing_share}{shown}"
    return best, [Difference("tokenizer", what, REMEDY)]


def _words(tree: Mapping[str, Any]) -> list[str]:
    """Return the words of the vocabulary: tokens that are text by themselves."""
    decoder = Tokenizer.from_str(json.dumps(tree))
    texts = (decoder.decode([number]) for number in sorted(tree["model"]["vocab"].values()))
    return sorted({text for text in texts if text.strip() and "\ufffd" not in text})


def _ids(tree: Mapping[str, Any], texts: Sequence[str]) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(json.dumps(tree))
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _without_offsets(tree: Any) -> Any:
    """Remove what does not change tokens: `trim_offsets`, and sequences of one pre-tokenizer."""
    if isinstance(tree, list):
        return [_without_offsets(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.get("type") == "Sequence" and len(tree["pretokenizers"]) == 1:
        return _without_offsets(tree["pretokenizers"][0])
    return {key: _without_offsets(value) for key, value in tree.items() if key != "trim_offsets"}


def _sentencepiece(tree: Mapping[str, Any], processor: Processor) -> tuple[dict[str, Value], list[Difference]]:
    """Return the values of a SentencePiece tokenizer; scores follow the order of its merges.

    Raises RecipeError if llama.cpp, which merges any two neighbours that form a token, would merge other ones.
    """
    table = names()["vocabulary"]
    model = tree["model"]
    vocabulary: Mapping[str, int] = model["vocab"]
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    rank: dict[str, int] = {}
    for number, (left, right) in enumerate(pairs):
        rank.setdefault(left + right, number)
    listed = set(pairs)
    missing = next(
        (
            f"{text[:cut]!r} + {text[cut:]!r}"
            for text in rank
            for cut in range(1, len(text))
            if text[:cut] in vocabulary and text[cut:] in vocabulary and (text[:cut], text[cut:]) not in listed
        ),
        None,
    )
    if missing:
        raise RecipeError(
            f"--layout gguf: llama.cpp would merge {missing}, which this tokenizer does not",
            REMEDY,
        )
    by_number = {number: text for text, number in vocabulary.items()}
    scores = [-float(rank.get(by_number.get(number, ""), len(pairs))) for number in range(len(by_number))]
    encoder = processor._encoder
    return {
        "model": table["sentencepiece"],
        "pre": table["sentencepiece_pre"],
        "scores": scores,
        "add_space": encoder.restarts,  # else the chat template writes the space itself
    }, []


def _tokens(tree: Mapping[str, Any], rows: int) -> list[str]:
    """Return the vocabulary's tokens in order, with names for rows that have none."""
    texts = {number: text for text, number in tree["model"]["vocab"].items()}
    texts |= {token["id"]: token["content"] for token in tree["added_tokens"]}
    return [texts.get(number, f"[PAD{number}]") for number in range(rows)]


def _types(tree: Mapping[str, Any], rows: int) -> list[int]:
    types: Mapping[str, int] = names()["vocabulary"]["types"]
    numbers = set(tree["model"]["vocab"].values())
    kinds = dict.fromkeys(numbers, types["normal"])
    if tree["model"].get("byte_fallback"):
        kinds |= {
            tree["model"]["vocab"][f"<0x{byte:02X}>"]: types["byte"]
            for byte in range(256)
            if f"<0x{byte:02X}>" in tree["model"]["vocab"]
        }
    for token in tree["added_tokens"]:
        kinds[token["id"]] = types["control" if token["special"] else "user_defined"]
    unknown = tree["model"].get("unk_token")
    if unknown is not None:
        kinds[tree["model"]["vocab"][unknown]] = types["unknown"]
    return [kinds.get(number, types["unused"]) for number in range(rows)]


def _special_tokens(processor: Processor) -> dict[str, Value]:
    """Return the numbers of the special tokens, and whether a text begins with the first of them."""
    tokenizer = processor.tokenizer
    numbers = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
        "eot": next(iter(sorted(processor.stop_ids - {tokenizer.eos_token_id})), None),
    }
    values: dict[str, Value] = {key: int(number) for key, number in numbers.items() if number is not None}
    begin = processor._encoder.begin
    return {**values, "add_bos": bool(begin) and begin == [tokenizer.bos_token_id], "add_eos": False}


def _template_differences(processor: Processor) -> list[Difference]:
    differences = []
    if processor.stop_text:
        differences.append(
            Difference(
                "sampler",
                f"answers end at the text {processor.stop_text!r}, which GGUF cannot store",
                f"send stop={json.dumps([processor.stop_text])} with each request (the Modelfile does)",
            )
        )
    if isinstance(processor.template, TokenizerTemplate) and processor.template.shows_images:
        differences.append(
            Difference(
                "template",
                f"a question that spells {IMAGE} is read as an image",
                "nothing: such questions are rare",
            )
        )
    return differences
