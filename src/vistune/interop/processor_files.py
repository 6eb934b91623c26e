"""Write the processor of an exported model: tokenizer, image processor, chat template, and generation settings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from vistune.files import write_atomic
from vistune.interop.folders import image_processor
from vistune.processor import Processor, TokenizerLike
from vistune.processor.templates import Control
from vistune.processor.tokenizer_template import TokenizerTemplate
from vistune.types import Message

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    from vistune.interop.writers import ExportedModel

ROWS = 64  # an enlarged vocabulary is rounded up to a multiple of this, as llava-hf's is
IMAGE, PAD = "<image>", "<pad>"
TRAINING_TEMPLATE = "training_chat_template.jinja"


def with_image_token(tokenizer: TokenizerLike, rows: int) -> tuple[PreTrainedTokenizerFast, int, int]:
    """Return a tokenizer with `<image>` and a padding token, the image token's id, and the vocabulary's rows."""
    from tokenizers import AddedToken

    own: PreTrainedTokenizerFast = copy.deepcopy(tokenizer)
    own.chat_template = None
    # In a batch, every prompt then ends where its answer begins. transformers saves what is in init_kwargs.
    own.padding_side = own.init_kwargs["padding_side"] = "left"
    if IMAGE not in own.get_vocab():
        own.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    if own.pad_token_id is None or own.pad_token_id == own.unk_token_id:
        own.add_special_tokens({"pad_token": AddedToken(PAD, special=True, normalized=False)})
    needed = max(own.convert_tokens_to_ids([IMAGE, own.pad_token])) + 1
    image_id: int = own.convert_tokens_to_ids(IMAGE)
    return own, image_id, rows if needed <= rows else -(-needed // ROWS) * ROWS


def leaves_beginning_to_tokenizer(processor: Processor) -> bool:
    """Return whether the tokenizer must write how a conversation begins: the tokenizer's own template may not do it."""
    if not isinstance(processor.template, TokenizerTemplate) or not processor.begins:
        return False
    tokenizer = processor.tokenizer
    first = processor.template.render((Message("user", ("?",)),))[0]
    written = [tokenizer.backend_tokenizer.token_to_id(first.token)] if isinstance(first, Control) else []
    return bool(tokenizer("")["input_ids"] != written)


def without_additions(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return the tokenizer without the tokens that it puts before and after every text.

    The exported chat template writes them. Otherwise a rendered conversation that is given to the processor as text
    would begin with two of them.
    """
    from tokenizers import processors

    for key in ("add_bos_token", "add_eos_token"):
        if getattr(tokenizer, key, False):
            setattr(tokenizer, key, False)
    if tokenizer("")["input_ids"]:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # adds nothing
    return tokenizer


def write_processor(exported: ExportedModel, folder: Path) -> None:
    """Write tokenizer, image processor and chat template, also under the names that older loaders read.

    The chat template is written without `{% generation %}`, which only transformers parses; if it has these marks, it
    is written with them as TRAINING_TEMPLATE too.
    """
    from transformers import LlavaNextProcessor, LlavaProcessor

    tokenizer, _, _ = with_image_token(exported.processor.tokenizer, exported.language.config.vocab_size)
    if not leaves_beginning_to_tokenizer(exported.processor):
        tokenizer = without_additions(tokenizer)
    template = exported.processor.portable_chat_template
    if template != exported.processor.chat_template:
        write_atomic(folder / TRAINING_TEMPLATE, exported.processor.chat_template)
    kind = LlavaNextProcessor if exported.spec.image_mode == "anyres" else LlavaProcessor
    images = image_processor(exported.spec)
    kind(
        images,
        tokenizer,
        patch_size=exported.spec.image_side // exported.tower_shape.columns,
        vision_feature_select_strategy=exported.select_strategy,
        chat_template=template,
        num_additional_image_tokens=exported.tower_shape.prefix,
    ).save_pretrained(folder)
    images.save_pretrained(folder)


def generation_config(exported: ExportedModel, tokenizer: TokenizerLike | PreTrainedTokenizerFast) -> GenerationConfig:
    """Return a greedy generation config that stops where the template ends an answer."""
    from transformers import GenerationConfig

    ends = sorted(exported.processor.stop_ids)
    text_ends = {"stop_strings": [exported.processor.stop_text]} if exported.processor.stop_text else {}
    return GenerationConfig(
        **text_ends,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=tokenizer.pad_token_id,
    )
