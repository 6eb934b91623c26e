"""A model folder's tokenizer files: read as they mean, written whole.

tokenizer.json, or tokenizer.model alone -> fast tokenizer -> both, and the settings that transformers forgets
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from vistune.errors import RecipeError
from vistune.files import read_json

SENTENCEPIECE = "tokenizer.model"


def load_tokenizer(folder: Path | str) -> Any:
    """The fast tokenizer of a model folder; remote code is never run."""
    from transformers import AutoTokenizer

    try:
        return _remembering(AutoTokenizer.from_pretrained(str(folder), use_fast=True))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(
            f"tokenizer {folder}: cannot be read: {reason}", "name a folder with tokenizer.json"
        ) from None


def load_sentencepiece(folder: Path) -> Any:
    """The Llama tokenizer of a folder with tokenizer.model and no tokenizer.json.

    What its tokenizer_config.json leaves out is as in the transformers of LLaVA's time (4.31, 4.37): a `<s>` begins,
    no `</s>` ends, and `legacy`: a space is put before text behind every special token, not at the beginning alone.
    """
    from transformers import LlamaTokenizer

    path = folder / "tokenizer_config.json"
    given = read_json(path) if path.is_file() else {}
    defaults = {"add_bos_token": True, "add_eos_token": False, "legacy": True}
    settings = {key: default if given.get(key) is None else given[key] for key, default in defaults.items()}
    return _remembering(LlamaTokenizer.from_pretrained(str(folder), **settings))


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
