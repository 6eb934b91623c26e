"""How much memory and time a large model folder takes to load, import or export: peak against its weights' size.

python benchmarks/load.py [--gigabytes 2.0] [--layout llava-original|llava-hf|ours] [--verb load|import|export]

Makes a random Llama of that size (fp16) with a small CLIP tower and a projector in the layout, in a temporary folder,
then loads, imports or exports it (to the original's layout, its parity check included) in a process of its own. "Peak"
is that process's most resident memory less what it holds before; "own" leaves out what is mapped in from files, which
the system drops where it needs the room (seen every 20 ms). An export computes in fp32, twice these weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import Any

from machine import resident


def make(folder: Path, gigabytes: float) -> int:
    """An original-layout folder; returns the bytes of its weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    tower = CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                             image_size=56, patch_size=14)  # fmt: skip
    CLIPVisionModel(tower).half().save_pretrained(folder / "tower")
    CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}).save_pretrained(
        folder / "tower"
    )
    width, inner, rows = 1024, 4096, 32000
    layer = 4 * width * width + 3 * width * inner
    layers = max(1, round((gigabytes * 2**30 / 2 - 2 * rows * width) / layer))
    config = LlamaConfig(hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=8,
                         num_key_value_heads=8, vocab_size=rows, dtype="float16")  # fmt: skip
    shapes = {"model.embed_tokens.weight": (rows, width), "lm_head.weight": (rows, width),
              "model.norm.weight": (width,),
              "model.mm_projector.0.weight": (width, 64), "model.mm_projector.0.bias": (width,),
              "model.mm_projector.2.weight": (width, width), "model.mm_projector.2.bias": (width,)}  # fmt: skip
    for k in range(layers):
        at = f"model.layers.{k}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{at}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    tensors = {name: torch.randn(shape, dtype=torch.float16) * 0.02 for name, shape in shapes.items()}
    tensors |= {name: torch.ones(shape, dtype=torch.float16) for name, shape in shapes.items() if "norm" in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tree = {**config.to_dict(), "architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "tower",
            "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 64, "mm_vision_select_layer": -2,
            "image_aspect_ratio": "pad"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(tree))
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    byte_level = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=byte_level, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return (folder / "model.safetensors").stat().st_size


def work(folder: str, layout: str, verb: str, result: Any) -> None:
    import torch
    import transformers  # noqa: F401 - what is imported anyway is not counted as the model's

    from vistune.interop import export, layouts
    from vistune.runs import checkpoint

    before, own = resident("VmHWM"), [resident("RssAnon")]
    began = time.perf_counter()
    Thread(target=progress, args=(own,), daemon=True).start()
    if verb == "load":
        reader = checkpoint.load if layout == "ours" else layouts.load
        model, _ = reader(Path(folder), dtype=torch.float16)
        sum(float(p.detach().sum()) for p in model.parameters())  # every page is really there
    elif verb == "import":
        export.import_model(Path(folder), Path(f"{folder}-imported"))
    else:
        export.export_model(Path(folder), Path(f"{folder}-exported"), layout="llava-original")
    result.put((time.perf_counter() - began, resident("VmHWM") - before, max(own) - own[0]))


def progress(own: list[int]) -> None:
    while True:
        own.append(resident("RssAnon"))
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--layout", choices=("llava-original", "llava-hf", "ours"), default="llava-original")
    parser.add_argument("--verb", choices=("load", "import", "export"), default="load")
    given = parser.parse_args()
    if (given.verb, given.layout) == ("import", "ours"):
        parser.error("a folder of ours is not imported")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        size = make(folder, given.gigabytes)
        if given.layout != "llava-original":
            from vistune.interop.export import export_model, import_model

            if given.layout == "ours":
                import_model(folder, Path(place) / "ours")
            else:
                export_model(folder, Path(place) / "llava-hf", layout="llava-hf")
            folder = Path(place) / given.layout
        result = context.Queue()
        child = context.Process(target=work, args=(str(folder), given.layout, given.verb, result))
        child.start()
        child.join()
        if child.exitcode:
            sys.exit(child.exitcode)
        took, peak, own = result.get()
        print(f"{given.verb} {given.layout}: {size / 2**30:.2f} GiB of weights, {took:.1f} s, "
              f"peak {peak / 2**30:.2f} GiB = {peak / size:.2f} x, own {own / size:.2f} x")  # fmt: skip


if __name__ == "__main__":
    main()
