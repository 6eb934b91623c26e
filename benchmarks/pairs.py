"""Make the backbones and data of the benchmarks, for vistune and for transformers' LLaVA over the same weights.

A work folder has `vision/`, `llm/` (backbones as a user downloads them), `llava-hf/` (both as one
LlavaForConditionalGeneration, with its processor), `images/`, `data.json` and `pair.json`. The pairs:

small  CLIP 8x384 at 336 pixels (576 image tokens), Llama 8x512, 32,000 tokens; random weights, made by shared/bench
tiny   CLIP 4x64 at 56 pixels (16 image tokens), Llama 3x96, the built-in tokenizer; random weights and images
folder DINOv2-S at 224 pixels (256 image tokens), SmolLM2-135M; a folder that shared/real/make_backbones.py wrote
7b     only the configs of CLIP-L/336 and Llama-7B; the weights are drawn on the GPU
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

V1 = (
    "{% for m in messages %}{% if m.role=='user' %}USER: {% for c in m.content %}{% if c.type=='image' %}<image>\n"
    "{% else %}{{c.text}}{% endif %}{% endfor %} {% else %}ASSISTANT: {% generation %}{{m.content[0].text}}</s>"
    "{% endgeneration %}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{m.role}}\n{% for c in m.content %}{% if c.type=='image' %}<image>\n"
    "{% elif m.role=='user' %}{{c.text}}{% endif %}{% endfor %}{% if m.role!='user' %}{% generation %}"
    "{{m.content[0].text}}<|im_end|>{% endgeneration %}\n{% else %}<|im_end|>\n{% endif %}{% endfor %}"
)
ROWS = 64  # transformers' LLaVA adds them to the vocabulary for <image>
CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "image_size": 336, "patch_size": 14, "projection_dim": 768}  # fmt: skip
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096}  # fmt: skip
TINY_CLIP = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
             "image_size": 56, "patch_size": 14}  # fmt: skip
TINY_LLAMA = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
              "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """What both sides must know of a pair.

    Attributes:
        template: Our chat template; the peers' processor has the same one.
        feature_layer: Of the vision tower.
        image_token: The peers' id of `<image>`.
        drawn: Whether weights are drawn at random on the device, because no file has them.
    """

    name: str
    template: str = "v1"
    feature_layer: int = -2
    image_token: int = 32000
    drawn: bool = False

    @classmethod
    def read(cls, work: Path) -> Pair:
        """Read the pair of a work folder."""
        return cls(**json.loads((work / "pair.json").read_text()))


def prepare(work: Path, shared: Path, samples: int, pair: str = "small") -> Pair:
    """Write a pair's work folder with so many samples; `pair`: a name above, `tiny-drawn`, or a folder.

    The weights of `tiny-drawn` are drawn on the device, like those of 7b.
    """
    if pair in ("tiny", "tiny-drawn"):
        made = _tiny(work)
        _drawn_data(work, samples)
        if pair == "tiny-drawn":
            _remove_weights(work)
            made = replace(made, drawn=True)
    else:
        _real_data(work, shared, samples)
        made = _small(work, shared) if pair in ("small", "7b") else _real(work, Path(pair))
        if pair == "7b":
            made = _configs_only(work)
    (work / "pair.json").write_text(json.dumps(asdict(made)))
    return made


def _small(work: Path, shared: Path) -> Pair:
    tokenizer = shared / "data" / "llama-tokenizer"
    _run(shared / "bench" / "make_backbones.py", work, tokenizer)
    return Pair("small")


def _real_data(work: Path, shared: Path, samples: int) -> None:
    photographs = shared / "data" / "coco-mini" / "train2017"
    (work / "images").symlink_to(photographs.resolve())
    answers = shared / "data" / "llava-coco30" / "gpt4_qa.jsonl"
    _run(shared / "bench" / "make_data.py", photographs, answers, work / "data.json", samples)


def _run(script: Path, *arguments: object) -> None:
    done = subprocess.run([sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script} failed: {done.stderr[-2000:]}")


def _tiny(work: Path) -> Pair:
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    from vistune.recipe import source_of

    torch.manual_seed(0)
    for folder in ("vision", "llm"):
        (work / folder).mkdir(parents=True)
    CLIPVisionModel(CLIPVisionConfig(**TINY_CLIP)).save_pretrained(work / "vision")
    side = TINY_CLIP["image_size"]
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        work / "vision"
    )
    for file in Path(source_of("builtin", "language")).glob("token*"):
        shutil.copy(file, work / "llm")
    from transformers import AutoTokenizer

    words = len(AutoTokenizer.from_pretrained(work / "llm"))
    LlamaForCausalLM(LlamaConfig(**TINY_LLAMA, vocab_size=words)).save_pretrained(work / "llm")
    return Pair("tiny", image_token=_assemble(work, V1, feature_layer=-2))


def _real(work: Path, folder: Path) -> Pair:
    for place, name in (("vision", "dinov2-small"), ("llm", "smollm2-135m-instruct")):
        if not (folder / name).is_dir():
            raise SystemExit(f"{folder}: has no {name}; write it by shared/real/make_backbones.py {folder}")
        (work / place).symlink_to((folder / name).resolve())
    return Pair("real", "chatml", -1, _assemble(work, CHATML, feature_layer=-1))


def _configs_only(work: Path) -> Pair:
    """Replace the backbones' weights by the configs of 7B; the tokenizer and the image rules stay."""
    from transformers import CLIPVisionConfig, LlamaConfig

    _remove_weights(work)
    CLIPVisionConfig(**CLIP_L).save_pretrained(work / "vision")
    LlamaConfig(**LLAMA_7B).save_pretrained(work / "llm")
    config = _llava_config(work, -2, 32000)
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(work / "llava-hf")
    return Pair("7b", drawn=True)


def _remove_weights(work: Path) -> None:
    for place in ("vision", "llm", "llava-hf"):
        for file in (work / place).glob("*.safetensors"):
            file.unlink()


def _llava_config(work: Path, feature_layer: int, image_token: int) -> Any:
    from transformers import AutoConfig, LlavaConfig

    language = AutoConfig.from_pretrained(work / "llm")
    language.vocab_size += ROWS
    vision = AutoConfig.from_pretrained(work / "vision")
    return LlavaConfig(vision_config=getattr(vision, "vision_config", vision), text_config=language,
                       image_token_index=image_token, vision_feature_layer=feature_layer,
                       vision_feature_select_strategy="default",
                       tie_word_embeddings=language.tie_word_embeddings)  # fmt: skip


def _assemble(work: Path, chat_template: str, feature_layer: int) -> int:
    """Write `llava-hf` from the two backbones, with a random projector; return the id of <image>."""
    import torch
    from transformers import (
        AddedToken,
        AutoImageProcessor,
        AutoModel,
        AutoModelForCausalLM,
        AutoTokenizer,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = AutoTokenizer.from_pretrained(work / "llm")
    tokenizer.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(_llava_config(work, feature_layer, image_token))
    tower, language = AutoModel.from_pretrained(work / "vision"), AutoModelForCausalLM.from_pretrained(work / "llm")
    own = language.model.state_dict()
    with torch.no_grad():
        model.model.vision_tower.load_state_dict(getattr(tower, "vision_model", tower).state_dict(), strict=True)
        for name, parameter in model.model.language_model.state_dict().items():
            parameter[: len(own[name])].copy_(own[name])
        head = language.get_output_embeddings().weight
        model.lm_head.weight[: len(head)].copy_(head)
    model.save_pretrained(work / "llava-hf")
    images = AutoImageProcessor.from_pretrained(work / "vision")
    LlavaProcessor(image_processor=images, tokenizer=tokenizer, patch_size=14, num_additional_image_tokens=1,
                   vision_feature_select_strategy="default", chat_template=chat_template,
    ).save_pretrained(work / "llava-hf")  # fmt: skip
    return int(image_token)


def _drawn_data(work: Path, samples: int) -> None:
    """Write random images and conversations of one to three turns."""
    import numpy as np
    from PIL import Image

    rng = random.Random(0)
    words = "red blue circle square left right above below large small is the of".split()  # noqa: SIM905
    (work / "images").mkdir()
    rows = []
    for number in range(samples):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(work / "images" / f"{number}.png")
        turns = []
        for turn in range(rng.randint(1, 3)):
            asked = " ".join(rng.choices(words, k=8)) + "?"
            turns += [
                {"from": "human", "value": f"<image>\n{asked}" if turn == 0 else asked},
                {"from": "gpt", "value": " ".join(rng.choices(words, k=rng.randint(5, 40)))},
            ]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (work / "data.json").write_text(json.dumps(rows))


def messages(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row's turns as transformers' chat templates take them."""
    for number, turn in enumerate(row["conversations"]):
        content = [{"type": "text", "text": turn["value"].replace("<image>\n", "")}]
        if number == 0:
            content = [{"type": "image"}, *content]
        yield {"role": "user" if turn["from"] == "human" else "assistant", "content": content}
