"""Plain training loops over transformers' LlavaForConditionalGeneration, in the forms in which one writes them well.

A form says how a step's 8 samples are computed; gradients of its batches are added:

plain    one batch of 8, padded to the longest; as the first version of such a loop is
single   one sample at a time: nothing is padded, and activations of one sample are held
sorted4  two batches of 4, sorted by length, so that little is padded
sorted2  four batches of 2, sorted by length

All but `plain` store frozen weights in bf16 if the loop computes in bf16: autocast would convert them at each use. With
`-compiled`, the language model's layers are compiled with dynamic shapes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ours import LORA, RATE, SAMPLES, Setup, Steps, quantize
from pairs import Pair, messages

ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
AT_ONCE: Mapping[str, int] = {"plain": SAMPLES, "single": 1, "sorted4": 4, "sorted2": 2}  # samples of a batch
WARM = 2


def peer_model(work: Path, setup: Setup, device: str, *, narrow: bool) -> Any:
    """Return transformers' model with its trainable parts; `narrow`: frozen weights are stored in bf16."""
    import torch

    model = whole_model(work, setup, device)
    for name, parameter in model.named_parameters():
        learns = "multi_modal_projector" in name or (setup.stage == "full" and "vision_tower" not in name)
        parameter.requires_grad_(learns and parameter.is_floating_point())
        if learns and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
        if narrow and not learns and parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(torch.bfloat16)
    if setup.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if setup.stage == "qlora":
            model.enable_input_require_grads()
    return model


def with_adapters(model: Any, setup: Setup) -> Any:
    """Put the stage's LoRA adapters on the language model's linear layers."""
    from peft import get_peft_model

    return get_peft_model(model, lora_config(setup)) if setup.stage in LORA else model


def lora_config(setup: Setup) -> Any:
    """Return peft's config of the stage's adapters."""
    from peft import LoraConfig

    sizes = LORA[setup.stage]
    return LoraConfig(r=sizes["rank"], lora_alpha=sizes["alpha"], target_modules=ADAPTED,
                      modules_to_save=["multi_modal_projector"])  # fmt: skip


def whole_model(work: Path, setup: Setup, device: str) -> Any:
    """Return transformers' model: read from the folder, or drawn on the device if the folder has no weights."""
    import torch
    from transformers import AutoConfig, LlavaForConditionalGeneration

    folder = work / "llava-hf"
    if Pair.read(work).drawn:
        dtype = torch.float32 if setup.stage == "full" else torch.bfloat16
        with torch.device(device):
            model = LlavaForConditionalGeneration._from_config(
                AutoConfig.from_pretrained(folder), dtype=dtype, attn_implementation="sdpa"
            )
    else:
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).to(device)
    if setup.stage == "qlora":
        quantize_peer(model, device)
    return model


def quantize_peer(model: Any, device: str) -> None:
    """Quantize the language model's layers, and leave the tower and the projector."""
    language = model.model.language_model
    language.get_output_embeddings = lambda: None
    quantize(language, device)
    del language.get_output_embeddings
    model.is_loaded_in_4bit = True  # peft asks for it; the Trainer refuses an `is_quantized` model that it did not load


def batches_of(processor: Any, rows: list[dict[str, Any]], work: Path, form: str) -> list[dict[str, Any]]:
    """Return a step's padded batches with labels; all text is supervised, which changes no cost."""
    from PIL import Image

    texts = [processor.apply_chat_template(list(messages(row)), tokenize=False) for row in rows]
    images = [Image.open(work / "images" / row["image"]).convert("RGB") for row in rows]
    order = list(range(len(rows)))
    if form.startswith("sorted"):
        order.sort(key=lambda index: len(texts[index]))
    at_once, batches = AT_ONCE[form], []
    for first in range(0, len(rows), at_once):
        chosen = order[first : first + at_once]
        batch = processor(text=[texts[k] for k in chosen], images=[images[k] for k in chosen], return_tensors="pt",
                          padding=True)  # fmt: skip
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        batches.append({**batch, "labels": labels.masked_fill(labels == Pair.read(work).image_token, -100)})
    return batches


def train(work: Path, form: str, setup: Setup, device: str = "cpu", on_warm: Any = None) -> Steps:
    """Train with a plain loop, and return the times of its steps.

    On a CPU, a step contains the making of its batches. On a GPU they are made before, as workers would do in time.
    """
    import torch
    from transformers import AutoProcessor

    form, _, compiled = form.partition("-")
    processor = AutoProcessor.from_pretrained(work / "llava-hf")
    bf16 = setup.precision == "bf16"
    model = with_adapters(peer_model(work, setup, device, narrow=bf16 and form != "plain"), setup).train()
    if compiled:
        for layer in next(part for name, part in model.named_modules() if name.endswith("language_model")).layers:
            layer.compile(dynamic=True)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE, fused=device == "cuda")
    rows = json.loads((work / "data.json").read_text())
    by_step = [rows[step * SAMPLES : (step + 1) * SAMPLES] for step in range(setup.steps)]
    made = [batches_of(processor, listed, work, form) for listed in by_step] if device == "cuda" else None
    seconds, warm = [], WARM + 2 * bool(compiled)
    for step in range(setup.steps):
        if step == warm and on_warm is not None:
            on_warm()
        began = time.perf_counter()
        for batch in batches_of(processor, by_step[step], work, form) if made is None else made[step]:
            there = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = model(**there).loss
            (loss * (AT_ONCE[form] / SAMPLES)).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return Steps(tuple(seconds), (), warm)
