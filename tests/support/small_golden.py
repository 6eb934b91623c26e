"""Small models in the original's layout and in llava-hf's, with the numbers that transformers' classes compute.

The folders hold the same files as `golden/` of ../shared: `inputs.json` (conversations, ids, labels) and
`expected.npz`.
No code of vistune makes any of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from original_llava import CONVERSATIONS, IGNORED, IMAGE, OriginalLlava
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from small_llama import save_small_llama
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

SIDE, PATCH, TOWER_WIDTH, WIDTH = 56, 14, 48, 32
SLOTS = (SIDE // PATCH) ** 2
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
CHAT = (
    "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}"
    "{% for c in m.content if c.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m.content if c.type == 'text' %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ c.text }}</s>{% endgeneration %}{% else %}{{ c.text }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def save_golden(folder: Path) -> None:
    """Write `images/`, `ckpt_original_linear/` and `ckpt_hf_clip_llama/`."""
    for name in ("images", "ckpt_original_linear", "ckpt_hf_clip_llama"):
        (folder / name).mkdir()
    draw_images(folder / "images")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        save_original(folder / "ckpt_original_linear", folder / "images")
        save_hf(folder / "ckpt_hf_clip_llama", folder / "images")


def draw_images(folder: Path) -> None:
    """A tall, a wide, a square and a small image: coloured noise behind a shape, as JPEG and PNG."""
    rng = np.random.default_rng(5)
    for name, size in (
        ("tall.jpg", (90, 160)),
        ("wide.jpg", (170, 70)),
        ("square.png", (64, 64)),
        ("tiny.png", (9, 7)),
    ):
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        ImageDraw.Draw(image).ellipse((size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2), fill=(200, 30, 40))
        image.save(folder / name)


def tower_config() -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=TOWER_WIDTH,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=0.1,
    )


def language_config(vocabulary: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=vocabulary,
        max_position_embeddings=2048,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
    )


def image_rules() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def save_original(folder: Path, images: Path) -> None:
    """The original's layout: one linear projector, the tower both inside the weights and in a folder, `pad` images."""
    from transformers import CLIPVisionModel, LlamaForCausalLM

    save_small_llama(folder)
    (folder / "tokenizer.json").unlink()  # the original reads tokenizer.model
    tower = CLIPVisionModel(tower_config()).eval()
    language = LlamaForCausalLM(language_config(480)).eval()
    projector = nn.Linear(TOWER_WIDTH, WIDTH)
    tower.save_pretrained(folder / "clip-tiny")
    image_rules().save_pretrained(folder / "clip-tiny")
    inside = "model.vision_tower.vision_tower.vision_model."
    tensors = {
        **language.state_dict(),
        **{f"model.mm_projector.{name}": tensor for name, tensor in projector.state_dict().items()},
        **{inside + name.removeprefix("vision_model."): tensor for name, tensor in tower.state_dict().items()},
    }
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if "position_ids" not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        **json.loads(language.config.to_json_string()),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": TOWER_WIDTH,
        "mm_projector_type": "linear",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "clip-tiny",
        "use_mm_proj": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = original_rows(folder, sorted(path.name for path in images.iterdir()))
    (folder / "inputs.json").write_text(json.dumps(rows))
    np.savez(folder / "expected.npz", **original_numbers(rows, images, tower, projector, language))


def original_rows(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    original, rows = OriginalLlava(folder, legacy=False), []
    shown = [conversation for conversation in CONVERSATIONS if "<image>" in conversation[0]["value"]]
    for name, conversation in zip(names, shown, strict=True):
        ids, labels = original.encode(conversation, "v1", SYSTEM)
        rows.append({"image": name, "conversations": conversation, "input_ids": ids, "labels": labels})
    return rows


def original_pixels(path: Path) -> Tensor:
    """Paste the image in the middle of a square of CLIP's mean colour; then CLIP's own processor."""
    image = Image.open(path).convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return image_rules()(square, return_tensors="pt")["pixel_values"]


@torch.inference_mode()
def original_numbers(
    rows: list[dict[str, Any]], images: Path, tower: Any, projector: nn.Linear, language: Any
) -> dict[str, Any]:
    """Features of the last layer but one without the class token, spliced in for -200; the loss over the answers."""
    pixels = torch.cat([original_pixels(images / row["image"]) for row in rows])
    features = projector(tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])
    embed = language.get_input_embeddings()
    losses, counts, last, lengths = [], [], [], []

    def spliced(ids: list[int], image: Tensor) -> Tensor:
        at = ids.index(IMAGE)
        return torch.cat([embed(torch.tensor(ids[:at])), image, embed(torch.tensor(ids[at + 1 :]))])[None]

    for row, image in zip(rows, features, strict=True):
        at = row["input_ids"].index(IMAGE)
        labels = torch.tensor(row["labels"][:at] + [IGNORED] * SLOTS + row["labels"][at + 1 :])
        logits = language(inputs_embeds=spliced(row["input_ids"], image)).logits[0]
        losses.append(cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORED).item())
        counts.append(int((labels[1:] != IGNORED).sum()))
        last.append(logits[-1, :64].numpy())
        lengths.append(len(labels))
    prompt, said = spliced(rows[0]["input_ids"][:-8], features[0]), [1]
    for _ in range(16):
        said.append(int(language(inputs_embeds=prompt).logits[0, -1].argmax()))
        prompt = torch.cat([prompt, embed(torch.tensor([[said[-1]]]))], dim=1)
    return {
        "projected_features": features.numpy(),
        "per_sample_loss": np.array(losses),
        "batch_loss": np.average(losses, weights=counts),
        "last_logits64": np.stack(last),
        "seq_len": np.array(lengths),
        "generated": np.array([said]),
    }


@torch.inference_mode()
def save_hf(folder: Path, images: Path) -> None:
    """llava-hf's layout as transformers saves it: `<image>` and `<pad>` behind the vocabulary, padded to 64."""
    from transformers import LlamaTokenizer, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    save_small_llama(folder)
    (folder / "tokenizer.model").rename(folder.parent / "tokenizer.model")
    tokenizer = LlamaTokenizer.from_pretrained(folder, extra_special_tokens={"image_token": "<image>"})
    (folder.parent / "tokenizer.model").unlink()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    processor = LlavaProcessor(
        image_rules(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    config = LlavaConfig(
        vision_config=tower_config(),
        text_config=language_config(512),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=SLOTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    rows, numbers = [], {}
    names = sorted(path.name for path in images.iterdir())
    for number, (name, conversation) in enumerate(zip(names, CONVERSATIONS, strict=False)):
        messages = hf_messages(conversation)
        image = Image.open(images / name).convert("RGB")
        inputs = processor(text=processor.apply_chat_template(messages), images=image, return_tensors="pt")
        asked = processor.apply_chat_template(messages[:1], add_generation_prompt=True)
        prompt = processor(text=asked, images=image, return_tensors="pt")
        said = model.generate(**prompt, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        ids = inputs["input_ids"][0].tolist()
        greedy = said[0, prompt["input_ids"].shape[1] :].tolist()
        rows.append({"image": name, "messages": messages, "input_ids": ids, "greedy": greedy})
        numbers[f"logits_{number}"] = model(**inputs).logits[:, :, ::97].numpy()
    (folder / "inputs.json").write_text(json.dumps(rows))
    np.savez(folder / "expected.npz", **numbers)


def hf_messages(conversation: list[dict[str, str]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(conversation):
        parts: list[dict[str, Any]] = [{"type": "text", "text": turn["value"].replace("<image>", "").strip()}]
        if not number:
            parts.insert(0, {"type": "image"})
        messages.append({"role": {"human": "user", "gpt": "assistant"}[turn["from"]], "content": parts})
    return messages
