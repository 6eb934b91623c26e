"""A model folder's tokenizer files: read as they mean, written whole.

tokenizer.json, or tokenizer.model alone -> fast tokenizer -> both, and the settings that transformers forgets
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vistune.errors import RecipeError
from vistune.files import read_json

SENTENCEPIECE = "tokenizer.model"


def load_tokenizer(folder: Path | str) -> Any:
    """The fast tokenizer of a model folder; remote code is never run. Raises RecipeError where it cannot be read."""
    from transformers import AutoTokenizer

    with _readable(folder, "name a folder with tokenizer.json"):
        return _remembering(AutoTokenizer.from_pretrained(str(folder), use_fast=True))


def load_sentencepiece(folder: Path) -> Any:
    """The Llama tokenizer of a folder with tokenizer.model and no tokenizer.json.

    What its tokenizer_config.json leaves out is as in the transformers of LLaVA's time (4.31, 4.37): a `<s>` begins,
    no `</s>` ends, and `legacy`: a space is put before text behind every special token, not at the beginning alone.
    Raises RecipeError where it cannot be read.
    """
    from transformers import LlamaTokenizer

    path = folder / "tokenizer_config.json"
    given = read_json(path) if path.is_file() else {}
    if not isinstance(given, dict):
        raise RecipeError(f"{path}: an object is wanted", "mend it, or remove it")
    defaults = {"add_bos_token": True, "add_eos_token": False, "legacy": True}
    settings = {key: default if given.get(key) is None else given[key] for key, default in defaults.items()}
    with _readable(folder, "fetch its tokenizer.model again"):
        return _remembering(LlamaTokenizer.from_pretrained(str(folder), **settings))


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
