"""Bases in 4 and 8 bits: the language model alone, its head left out, adapters learning on top, no merge into them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_tokenizer import make_tokenizer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from vistune import api
from vistune.errors import RecipeError, Stopped
from vistune.model import add_adapters, build, merge_adapters, read_spec
from vistune.model.language import is_quantised, load_language, unwrap
from vistune.model.lora import probe_hidden_states
from vistune.recipe import Lora, Model, Recipe, Stage, validate
from vistune.runs import checkpoint
from vistune.runs.folder import find_model
from vistune.training import Run

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install 'vistune[quant]'"
)


@pytest.fixture(scope="module")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for blocks of 64 weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=400,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def backbones(language: Path, tiny_backbones: Path) -> Model:
    return Model(vision=str(tiny_backbones / "vision"), language=str(language))


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "kind", "close"), [(4, "Linear4bit", 0.3), (8, "Linear8bitLt", 0.03)])
def test_the_language_models_layers_are_quantised_and_nothing_else(
    bits: int,
    kind: str,
    close: float,
    language_folder: Path,
    tiny_backbones: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = backbones(language_folder, tiny_backbones)
    model = build(recipe, read_spec(recipe), seed=0, quantize=bits).eval()
    classes = {name: type(m).__name__ for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    inside = {name: found for name, found in classes.items() if name.startswith("language.model.")}
    assert set(inside.values()) == {kind}
    assert len(inside) == 2 * 7
    assert {found for name, found in classes.items() if name not in inside} == {"Linear"}
    assert model.head.dtype == torch.float32
    plain = probe_hidden_states(load_language(str(language_folder), torch.float32))
    coarse = probe_hidden_states(model.language)
    distance = float((coarse - plain).norm() / plain.norm())
    assert 0 < distance < close
    assert "MatMul8bitLt" not in caplog.text, "a line at every layer of every step"


@needs_bitsandbytes
@pytest.mark.parametrize("layout", ["llava-hf", "llava-original"])
def test_a_folder_of_another_layout_is_quantised_as_it_is_loaded(
    layout: str, language_folder: Path, tiny_backbones: Path, tmp_path: Path
) -> None:
    from vistune.interop.export import export_model
    from vistune.processor import Processor, load_tokenizer

    recipe = Recipe(
        model=backbones(language_folder, tiny_backbones),
        stages=(Stage(name="tune", learn={"projector": 1.0}, steps=1),),
    )
    spec = read_spec(recipe.model)
    made = build(recipe.model, spec, seed=0)
    checkpoint.save(
        tmp_path / "ours",
        made,
        Processor(load_tokenizer(language_folder), spec),
        recipe=recipe,
        tensors=checkpoint.snapshot(made, ["projector"]),
    )
    export_model(tmp_path / "ours", tmp_path / "theirs", layout=layout)
    asked = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (32, 32), "red")},
                                          {"type": "text", "text": "무엇?"}]}]  # fmt: skip
    wanted = api.load(tmp_path / "theirs").logits(asked)
    for bits, kind, close in ((4, "Linear4bit", 0.3), (8, "Linear8bitLt", 0.03)):
        assistant = api.load(tmp_path / "theirs", quantize=bits)
        coarse = [name for name, module in assistant.model.named_modules() if type(module).__name__ == kind]
        assert len(coarse) == 2 * 7
        assert all(name.startswith("language.model.") for name in coarse)
        assert 0 < float((assistant.logits(asked) - wanted).norm() / wanted.norm()) < close


@needs_bitsandbytes
def test_four_bits_are_qloras(language_folder: Path) -> None:
    """nf4, doubly quantised, computing in the model's precision (arXiv 2305.14314, section 3)."""
    language: Any = load_language(str(language_folder), torch.bfloat16, 4)
    layer = language.model.layers[0].self_attn.q_proj
    assert layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.quant_state.nested
    assert layer.compute_dtype == torch.bfloat16
    assert layer.weight.numel() == 64 * 64 // 2  # two weights a byte
    assert language.get_output_embeddings().weight.dtype == torch.bfloat16


def gradients(language: nn.Module) -> tuple[float, dict[str, Tensor]]:
    """The loss of one text, and its gradient on the adapters."""
    ids = torch.arange(3, 23)[None]
    base: Any = unwrap(language)
    loss = cross_entropy(base(ids, starts=[0, 20]).logits[0, :-1], ids[0, 1:])
    loss.backward()
    found = {name: p.grad.flatten() for name, p in language.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "alike"), [(4, 0.95), (8, 0.999)])
def test_adapters_learn_over_a_quantised_base_as_over_a_whole_one_and_the_base_stays(
    bits: int, alike: float, language_folder: Path
) -> None:
    def adapted(quantize: int | None) -> nn.Module:
        base = load_language(str(language_folder), torch.float32, quantize)
        torch.manual_seed(0)
        return add_adapters(base, Lora(rank=4))

    language = adapted(bits)
    (loss, found), (_, wanted) = gradients(language), gradients(adapted(None))
    assert found.keys() == wanted.keys()
    learning = [name for name in found if "lora_B" in name]  # the gradient of A is zero while B is
    assert len(learning) == 2 * 7
    assert min(float(cosine_similarity(found[name], wanted[name], dim=0)) for name in learning) > alike
    before = {name: p.clone() for name, p in language.named_parameters() if "lora_" not in name}
    torch.optim.SGD([p for p in language.parameters() if p.requires_grad], lr=1e-4).step()
    assert gradients(language)[0] < loss
    assert all(torch.equal(p, before[name]) for name, p in language.named_parameters() if name in before)


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [4, 8])
def test_merging_into_a_quantised_base_is_refused_with_what_to_do(bits: int, language_folder: Path) -> None:
    language = add_adapters(load_language(str(language_folder), torch.float32, bits), Lora(rank=4))
    assert is_quantised(language)
    with pytest.raises(RecipeError, match="load the model without --quantize, then merge"):
        merge_adapters(language)


def recipe_of(folder: Path, language: Path, tiny_backbones: Path, bits: int | None) -> Recipe:
    """A projector stage, then adapters over a base of so many bits."""
    Image.new("RGB", (40, 40), (200, 30, 30)).save(folder / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    rows = [{"id": str(k), "image": "a.png", "conversations": turns} for k in range(6)]
    (folder / "data.json").write_text(json.dumps(rows))
    short = {"steps": 2, "samples_per_step": 2, "tokens_per_row": 256, "precision": "fp32", "save_every": 1}
    stages = [
        {"name": "align", "learn": {"projector": 1e-3}, **short},
        {
            "name": "tune",
            "learn": {"projector": 1e-3, "adapters": 1e-2},
            "lora": {"rank": 4},
            "quantize": bits,
            **short,
        },
    ]
    model = backbones(language, tiny_backbones).model_dump(mode="json", exclude_none=True)
    data = [{"file": str(folder / "data.json"), "images": str(folder)}]
    return validate({"model": model, "data": data, "stages": stages, "keep_checkpoints": 9}, "here")


@needs_bitsandbytes
def test_a_run_quantises_from_its_last_stage_on_and_loads_whole_or_quantised(
    tmp_path: Path, language_folder: Path, tiny_backbones: Path
) -> None:
    from vistune.progress import no_progress

    recipe = recipe_of(tmp_path, language_folder, tiny_backbones, 4)
    Run(recipe, tmp_path / "run", progress=no_progress).start(resume=False)
    last = find_model(tmp_path / "run")
    assert not (last / "language").exists()
    whole, _ = checkpoint.load(last)
    coarse = api.load(tmp_path / "run", device="cpu", quantize=4).model
    assert not is_quantised(whole.language)
    assert is_quantised(coarse.language)
    for (name, a), (_, b) in zip(whole.parts()["adapters"], coarse.parts()["adapters"], strict=True):
        assert torch.equal(a, b), name
    assert any(p.abs().sum() > 0 for name, p in coarse.parts()["adapters"] if "lora_B" in name)
    merge_adapters(whole.language)


@needs_bitsandbytes
def test_a_stopped_qlora_run_resumes_to_the_same_adapters(
    tmp_path: Path, language_folder: Path, tiny_backbones: Path
) -> None:
    from vistune.progress import no_progress

    @contextmanager
    def interrupting(name: str, total: int) -> Iterator[Any]:
        """Ask to stop after the first step of the second stage."""

        def advance(count: int, note: str = "", total: int | None = None, **event: object) -> None:
            if name == "tune" and count:
                os.kill(os.getpid(), signal.SIGTERM)

        yield advance

    recipe = recipe_of(tmp_path, language_folder, tiny_backbones, 4)
    Run(recipe, tmp_path / "whole", progress=no_progress).start(resume=False)
    with pytest.raises(Stopped, match="step 1 of stage tune"):
        Run(recipe, tmp_path / "cut", progress=interrupting).start(resume=False)
    Run(recipe, tmp_path / "cut", progress=no_progress).start(resume=True)
    both = [api.load(tmp_path / name, device="cpu").model.parts()["adapters"] for name in ("whole", "cut")]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(*both, strict=True))


def stages(*listed: dict[str, Any]) -> dict[str, Any]:
    return {"stages": [{"name": f"stage{k}", "steps": 1, **stage} for k, stage in enumerate(listed)]}


ADAPTERS: dict[str, Any] = {"learn": {"adapters": 1e-4}, "lora": {"rank": 4}}


@pytest.mark.parametrize(
    ("tree", "word"),
    [
        (stages({**ADAPTERS, "quantize": 5}), "quantize"),
        (stages({"learn": {"projector": 1e-3}, "quantize": 4}), "needs `lora`"),
        (stages({"learn": {"language": 1e-5}, "quantize": 4}), "needs `lora`"),
        (stages({**ADAPTERS, "quantize": 4}, {"learn": {"projector": 1e-3}}), "last stage"),
        (stages({"learn": {"language": 1e-5}}, {**ADAPTERS, "quantize": 4}), "stage0 trains it"),
        (stages(ADAPTERS, {**ADAPTERS, "quantize": 4}), "stage0 trains it"),
    ],
)
def test_recipes_that_would_learn_or_lose_quantised_weights_are_refused(tree: dict[str, Any], word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        validate(tree, "here")


def test_without_bitsandbytes_one_line_says_what_to_install(language_folder: Path) -> None:
    """In a process of its own that cannot find the library."""
    code = f"""
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "bitsandbytes" else real(name, package)
import torch
from vistune.errors import RecipeError
from vistune.model.language import load_language
try:
    load_language({str(language_folder)!r}, torch.float32, 4)
except RecipeError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.strip() == ("quantize 4: bitsandbytes is not installed. Fix: pip install 'vistune[quant]'"), (
        said.stderr
    )
