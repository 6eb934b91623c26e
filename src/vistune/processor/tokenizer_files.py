"""A model folder's tokenizer files: read as they mean, written whole.

tokenizer.json, or tokenizer.model alone -> fast tokenizer -> both, and the settings that transformers forgets
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers.models import BPE

from vistune.errors import RecipeError
from vistune.files import read_json

SENTENCEPIECE = "tokenizer.model"
CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")  # that a lone tokenizer.model is read as; null says nothing


def load_tokenizer(source: Path | str) -> Any:
    """The fast tokenizer of a model folder or hub name; remote code is never run.

    transformers' Auto class makes another one of a `tokenizer.model` without a tokenizer.json, and says nothing: such a
    folder has the Llama tokenizer that it is. Raises RecipeError where it cannot be read.
    """
    from transformers import AutoTokenizer

    if _is_lone(Path(source) / SENTENCEPIECE):
        return load_sentencepiece(Path(source))
    with _readable(source, "name a folder with tokenizer.json"):
        tokenizer = AutoTokenizer.from_pretrained(str(source), use_fast=True)
    fetched = Path(str(tokenizer.init_kwargs.get("vocab_file") or ""))  # of a hub name
    return load_sentencepiece(fetched.parent) if _is_lone(fetched) else _remembering(tokenizer)


def _is_lone(path: Path) -> bool:
    return path.name == SENTENCEPIECE and path.is_file() and not path.with_name("tokenizer.json").is_file()


def load_sentencepiece(folder: Path) -> Any:
    """The Llama tokenizer of a folder with tokenizer.model and no tokenizer.json.

    What its tokenizer_config.json leaves out is as in the transformers of LLaVA's time (4.31, 4.37): a `<s>` begins,
    no `</s>` ends, and `legacy`: a space is put before text behind every special token, not at the beginning alone.
    Raises RecipeError where it cannot be read, or is another tokenizer than Llama's.
    """
    from transformers import LlamaTokenizer

    path = folder / "tokenizer_config.json"
    given = read_json(path) if path.is_file() else {}
    if not isinstance(given, dict):
        raise RecipeError(f"{path}: an object is wanted", "mend it, or remove it")
    if given.get("tokenizer_class") not in (None, *CLASSES):
        raise RecipeError(
            f"{path}: {given['tokenizer_class']} is not read from {SENTENCEPIECE} alone", "fetch its tokenizer.json too"
        )
    defaults = {"add_bos_token": True, "add_eos_token": False, "legacy": True}
    settings = {key: default if given.get(key) is None else given[key] for key, default in defaults.items()}
    with _readable(folder, "fetch its tokenizer.model again, or a tokenizer.json"):
        model, spaced = _byte_pairs(folder / SENTENCEPIECE)
        if not spaced and settings["legacy"]:  # without `legacy` the space is transformers' own
            settings["add_prefix_space"] = False
        tokenizer = LlamaTokenizer.from_pretrained(str(folder), **settings)
        tokenizer.backend_tokenizer.model = model
        return _remembering(tokenizer)


def _byte_pairs(path: Path) -> tuple[BPE, bool]:
    """(a tokenizer.model's pieces, merged in the order of their scores; whether it puts a space before text).

    transformers 5 merges in the order of their numbers; runs of spaces, which come early and score lowest, then take
    the space of the word behind them. Raises ValueError where it is no byte-pair model, or changes text otherwise.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())  # type: ignore[attr-defined]
    rules, pieces = proto.normalizer_spec, proto.pieces
    pairs = proto.trainer_spec.model_type == proto.trainer_spec.BPE
    if not pairs or rules.precompiled_charsmap or rules.remove_extra_whitespaces:
        raise ValueError("not as Llama's: byte pairs, and no change of text but a space before it")
    scores = {piece.piece: piece.score for piece in pieces if piece.type == piece.NORMAL}
    vocabulary = {piece.piece: number for number, piece in enumerate(pieces)}
    merges = [
        (score, len(name[:cut]), name[:cut], name[cut:])
        for name, score in scores.items()
        for cut in range(1, len(name))
        if name[:cut] in scores and name[cut:] in scores
    ]
    merges.sort(key=lambda merge: merge[:2], reverse=True)
    listed = [(left, right) for _, _, left, right in merges]
    unknown = pieces[proto.trainer_spec.unk_id].piece
    model = BPE(vocab=vocabulary, merges=listed, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    return model, rules.add_dummy_prefix


@contextmanager
def _readable(folder: Path | str, hint: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged files make tokenizers and transformers raise many kinds: the reason is shown
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RecipeError(f"tokenizer {folder}: cannot be read: {reason}", hint) from None


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The tokenizer's files, with the `tokenizer.model` that it came from: older loaders read nothing else."""
    tokenizer.save_pretrained(folder)
    source = Path(str(tokenizer.init_kwargs.get("vocab_file") or ""))
    if source.name == SENTENCEPIECE and source.is_file():
        shutil.copyfile(source, folder / SENTENCEPIECE)


def _remembering(tokenizer: Any) -> Any:
    """`legacy` is kept on saving: transformers 5 reads it, but writes it only where it is among these."""
    if getattr(tokenizer, "legacy", False):
        tokenizer.init_kwargs["legacy"] = True
    return tokenizer
