"""Turn samples into examples: chat templates, tokens, image tiles."""

from vistune.processor.images import LARGEST_FILE_BYTES, load_bytes, open_image
from vistune.processor.pairs import encode_pair, pair_sides
from vistune.processor.processor import Processor, blank_batch, collate
from vistune.processor.templates import chat_template, templates
from vistune.processor.tiles import View, load_tiles, views_of
from vistune.processor.tokenizer_files import TokenizerLike, load_tokenizer, save_tokenizer
from vistune.processor.tokenizer_template import default_template

__all__ = [
    "LARGEST_FILE_BYTES",
    "Processor",
    "TokenizerLike",
    "View",
    "blank_batch",
    "chat_template",
    "collate",
    "default_template",
    "encode_pair",
    "load_bytes",
    "load_tiles",
    "load_tokenizer",
    "open_image",
    "pair_sides",
    "save_tokenizer",
    "templates",
    "views_of",
]
