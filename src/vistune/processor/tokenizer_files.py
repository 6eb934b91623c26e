"""Load and save the tokenizer files of a model folder.

A folder with only a `tokenizer.model` is read as a Llama tokenizer. Settings that transformers would not save are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from vistune.errors import RecipeError
from vistune.files import read_json
from vistune.recipe.hub import fail_fast_without_network

SENTENCEPIECE = "tokenizer.model"
CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")  # a lone tokenizer.model may name these, or no class


class TokenizerLike(Protocol):
    """The parts of transformers' fast tokenizers that vistune uses."""

    is_fast: bool
    backend_tokenizer: Tokenizer
    vocab_size: int
    eos_token: str
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None
    special_tokens_map: Mapping[str, str]
    all_special_tokens: list[str]
    added_tokens_decoder: Mapping[int, AddedToken]
    init_kwargs: dict[str, Any]
    chat_template: str | None

    def __len__(self) -> int: ...

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Mapping[str, list[int]]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]: ...

    def get_chat_template(self) -> str: ...

    def apply_chat_template(
        self, conversation: list[dict[str, Any]], *, add_generation_prompt: bool, return_dict: bool
    ) -> list[int]: ...

    def save_pretrained(self, save_directory: str | Path) -> object: ...


def load_tokenizer(source: Path | str) -> TokenizerLike:
    """Load the fast tokenizer of a model folder or hub name. Remote code is never run.

    A `tokenizer.model` without a tokenizer.json is read as a Llama tokenizer; transformers' AutoTokenizer would
    silently make a different one of it.

    Raises:
        RecipeError: If the files cannot be read.
    """
    from transformers import AutoTokenizer

    if _is_lone(Path(source) / SENTENCEPIECE):
        return load_sentencepiece(Path(source))
    if not Path(source).is_dir():
        fail_fast_without_network()
    with _readable(source, "name a folder with tokenizer.json"):
        tokenizer: TokenizerLike = AutoTokenizer.from_pretrained(str(source), use_fast=True)
    fetched = Path(str(tokenizer.init_kwargs.get("vocab_file") or ""))  # where a hub name was downloaded to
    return load_sentencepiece(fetched.parent) if _is_lone(fetched) else _keeping_legacy(tokenizer)


def _is_lone(path: Path) -> bool:
    return path.name == SENTENCEPIECE and path.is_file() and not path.with_name("tokenizer.json").is_file()


def load_sentencepiece(folder: Path) -> TokenizerLike:
    """Load the Llama tokenizer of a folder with tokenizer.model and no tokenizer.json.

    Settings missing in tokenizer_config.json have the defaults of the transformers that LLaVA used (4.31, 4.37): `<s>`
    begins a text, no `</s>` ends it, and `legacy` puts a space before text after every special token, not only at the
    beginning.

    Raises:
        RecipeError: If the files cannot be read, or belong to another kind of tokenizer.
    """
    from transformers import LlamaTokenizer

    path = folder / "tokenizer_config.json"
    given = read_json(path) if path.is_file() else {}
    if not isinstance(given, dict):
        raise RecipeError(f"{path}: a JSON object is expected", "repair the file or remove it")
    if given.get("tokenizer_class") not in (None, *CLASSES):
        raise RecipeError(
            f"{path}: {given['tokenizer_class']} is not read from {SENTENCEPIECE} alone", "fetch its tokenizer.json too"
        )
    defaults = {"add_bos_token": True, "add_eos_token": False, "legacy": True}
    settings = {key: default if given.get(key) is None else given[key] for key, default in defaults.items()}
    with _readable(folder, "fetch its tokenizer.model again, or a tokenizer.json"):
        model, spaced = _byte_pairs(folder / SENTENCEPIECE)
        if not spaced and settings["legacy"]:  # without `legacy`, transformers adds the space itself
            settings["add_prefix_space"] = False
        tokenizer = LlamaTokenizer.from_pretrained(str(folder), **settings)
        tokenizer.backend_tokenizer.model = model
        return _keeping_legacy(tokenizer)


def _byte_pairs(path: Path) -> tuple[BPE, bool]:
    """Return a tokenizer.model's byte-pair model, and whether it puts a space before text.

    Pieces are merged in the order of their scores. transformers 5 merges in the order of their ids instead, where runs
    of spaces come early although they score lowest and so take the space of the next word.

    Raises:
        ValueError: If it is not a byte-pair model, or changes text in other ways than by that space.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())  # type: ignore[attr-defined]
    rules, pieces = proto.normalizer_spec, proto.pieces
    pairs = proto.trainer_spec.model_type == proto.trainer_spec.BPE
    if not pairs or rules.precompiled_charsmap or rules.remove_extra_whitespaces:
        raise ValueError("not a Llama tokenizer: Llama's merges byte pairs and only adds a space before text")
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
    except Exception as error:  # tokenizers and transformers raise many types for damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RecipeError(f"tokenizer {folder}: cannot be read: {reason}", hint) from None


def save_tokenizer(tokenizer: TokenizerLike, folder: Path) -> None:
    """Save the tokenizer's files, and the `tokenizer.model` it was loaded from, which older loaders need."""
    tokenizer.save_pretrained(folder)
    source = Path(str(tokenizer.init_kwargs.get("vocab_file") or ""))
    if source.name == SENTENCEPIECE and source.is_file():
        shutil.copyfile(source, folder / SENTENCEPIECE)


def _keeping_legacy(tokenizer: TokenizerLike) -> TokenizerLike:
    """Keep `legacy` when the tokenizer is saved: transformers 5 reads it, but only writes what is in init_kwargs."""
    if getattr(tokenizer, "legacy", False):
        tokenizer.init_kwargs["legacy"] = True
    return tokenizer
