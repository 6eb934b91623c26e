"""Sample -> Example: templates, tokens, images."""

from vistune.processor.chat_templates import chat_template
from vistune.processor.collate import blank_row, collate
from vistune.processor.images import LARGEST_FILE_BYTES, load_bytes, open_image
from vistune.processor.processor import Processor
from vistune.processor.templates import template_named, templates
from vistune.processor.tiles import load_tiles
from vistune.processor.tokenizer_files import load_tokenizer, save_tokenizer
from vistune.processor.views import View, views_of

__all__ = [
    "LARGEST_FILE_BYTES",
    "Processor",
    "View",
    "blank_row",
    "chat_template",
    "collate",
    "load_bytes",
    "load_tiles",
    "load_tokenizer",
    "open_image",
    "save_tokenizer",
    "template_named",
    "templates",
    "views_of",
]
