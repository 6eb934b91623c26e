"""Sample -> Example: templates, tokens, images."""

from vistune.processor.images import load_pixels, open_picture
from vistune.processor.processor import Processor, load_tokenizer
from vistune.processor.templates import template_named, templates

__all__ = ["Processor", "load_pixels", "load_tokenizer", "open_picture", "template_named", "templates"]
