"""Sample -> Example: templates, tokens, images."""

from vistune.processor.chat_templates import chat_template
from vistune.processor.collate import collate
from vistune.processor.images import open_picture
from vistune.processor.processor import Processor, load_tokenizer
from vistune.processor.templates import template_named, templates
from vistune.processor.tiles import load_tiles

__all__ = [
    "Processor",
    "chat_template",
    "collate",
    "load_tiles",
    "load_tokenizer",
    "open_picture",
    "template_named",
    "templates",
]
