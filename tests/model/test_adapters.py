"""Adapters: on the language model by full names, loaded whole or refused by name, merged only if nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import tiny
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from vistune.errors import CheckpointError, RecipeError
from vistune.model import VisionLanguageModel, add_adapters, build, load_adapters, merge_adapters, read_spec
from vistune.model.attention import register
from vistune.model.language import embed, run
from vistune.model.lora import probe_hidden_states, targets
from vistune.recipe import Lora, Model, validate

KINDS = {"lora": {}, "dora": {"dora": True}, "rslora": {"rslora": True}, "all three": {"dora": True, "rslora": True}}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def ours(kind: str, seed: int = 1) -> Any:
    model = tiny(kind, seed)
    model.set_attn_implementation(register())
    return model


def taught(language: nn.Module) -> nn.Module:
    """As if they had learnt: every tensor of the adapters drawn at random."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in language.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return language.eval()


@pytest.fixture
def model(tiny_backbones: Path) -> VisionLanguageModel:
    """Tower and language model have layers of the same names: q_proj, k_proj, v_proj."""
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    return build(recipe, read_spec(recipe), seed=0)


@pytest.mark.parametrize("wish", [None, "all-linear", "attention", ["q_proj", "v_proj"]])
def test_adapters_land_on_the_language_model_only(model: VisionLanguageModel, wish: Any) -> None:
    names = {name for name, _ in model.vision.named_parameters()}
    assert any("q_proj" in name for name in names)
    model.language = add_adapters(model.language, Lora(rank=2, targets=wish))
    model.set_trainable({"adapters"})
    assert {name for name, _ in model.vision.named_parameters()} == names
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.parts()["adapters"]}
    layers = ["gate_proj", "up_proj", "down_proj"]
    assert adapted == set(
        ["q_proj", "v_proj"] if isinstance(wish, list) else ATTENTION + layers * (wish != "attention")
    )
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(name.startswith("language.") and "lora_" in name for name in learning)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3"])
def test_attention_is_found_by_the_modules_not_by_a_list_of_names(kind: str) -> None:
    language = tiny(kind)
    wanted = {
        f"model.layers.{layer}.self_attn.{name}"
        for layer in range(2)
        for name in (["qkv_proj", "o_proj"] if kind == "phi3" else ATTENTION)
    }
    assert set(targets(language, ("attention",))) == wanted
    every = targets(language, ("all-linear",))
    assert wanted < set(every)
    assert "lm_head" not in every
    assert targets(language, None) == every
    assert targets(language, ("layers.0.self_attn.o_proj",)) == ["model.layers.0.self_attn.o_proj"]


def test_a_target_that_no_layer_meets_is_named_even_beside_good_ones() -> None:
    with pytest.raises(RecipeError, match=r"'q_prj'.*down_proj, gate_proj"):
        targets(tiny("llama"), ("v_proj", "q_prj"))
    with pytest.raises(RecipeError, match="lm_head"):
        targets(tiny("llama"), ("lm_head",))


def test_targets_in_a_recipe_are_a_word_or_a_list() -> None:
    def lora(value: Any) -> Lora | None:
        stage = {"name": "a", "learn": {"adapters": 1e-4}, "lora": {"targets": value}, "steps": 1}
        return validate({"stages": [stage]}, "here").stages[0].lora

    assert lora("attention") == lora(["attention"]) == Lora(targets=("attention",))
    with pytest.raises(RecipeError, match="targets"):
        lora([])


@pytest.mark.parametrize("kind", KINDS)
def test_saved_adapters_come_back_and_merge_into_the_same_answers(kind: str, tmp_path: Path) -> None:
    language = taught(add_adapters(ours("qwen2"), Lora(rank=4, alpha=8, **KINDS[kind])))
    language.save_pretrained(tmp_path)
    bare = probe_hidden_states(ours("qwen2"))
    wanted = probe_hidden_states(language)
    assert not torch.allclose(wanted, bare, atol=1e-2)
    loaded = load_adapters(ours("qwen2"), tmp_path)
    assert torch.equal(probe_hidden_states(loaded), wanted)
    assert not any(p.requires_grad for p in loaded.parameters())
    merged = merge_adapters(loaded)
    assert not hasattr(merged, "merge_and_unload")
    torch.testing.assert_close(probe_hidden_states(merged), wanted, atol=2e-4, rtol=1e-4)


def test_adapters_are_the_papers_sum() -> None:
    """W x + (alpha / rank) B A x, arXiv 2106.09685 section 4.1; alpha / sqrt(rank) in rsLoRA, arXiv 2312.03732."""
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for rslora, scale in ((False, 8 / 4), (True, 8 / 4**0.5)):
        language: Any = taught(add_adapters(ours("llama"), Lora(rank=4, alpha=8, rslora=rslora)))
        layer = language.base_model.model.model.layers[0].self_attn.q_proj
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        wanted = x @ layer.base_layer.weight.T + scale * (x @ a.T) @ b.T
        torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    taught(add_adapters(ours("llama"), Lora(rank=4))).save_pretrained(tmp_path)  # type: ignore[operator]
    return tmp_path


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def test_missing_adapters_are_named_ten_at_most(saved: Path) -> None:
    def without_one(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t for name, t in tensors.items() if not name.endswith("layers.1.mlp.up_proj.lora_B.weight")}

    rewrite(saved, without_one)
    with pytest.raises(CheckpointError, match=r"missing: \S+layers\.1\.mlp\.up_proj\.lora_B\.weight\."):
        load_adapters(ours("llama"), saved)
    rewrite(saved, lambda tensors: dict(list(tensors.items())[:2]))
    with pytest.raises(CheckpointError, match="and 16 more") as caught:
        load_adapters(ours("llama"), saved)
    assert caught.value.message.count("lora_") == 10


def test_adapters_of_another_shape_or_model_are_named(saved: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    rewrite(saved, lambda tensors: {**tensors, name: torch.zeros(5, 32)})
    with pytest.raises(CheckpointError, match=r"q_proj\.lora_A\.weight \(5, 32\) instead of \(4, 32\)"):
        load_adapters(ours("llama"), saved)
    rewrite(
        saved,
        lambda tensors: {**tensors, name: torch.zeros(4, 32), "base_model.model.other.lora_A.weight": tensors[name]},
    )
    with pytest.raises(CheckpointError, match=r"not of this model: base_model\.model\.other\.lora_A\.weight"):
        load_adapters(ours("llama"), saved)
    with pytest.raises(CheckpointError, match="made for"):
        load_adapters(ours("phi3"), saved)


def test_a_folder_without_adapters_is_named(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing"):
        load_adapters(ours("llama"), tmp_path / "nothing")
    (saved / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapters(ours("llama"), saved)


def test_a_merge_that_loses_something_is_refused() -> None:
    """A tenth in one hidden value, or a value that is no number, is not what adapters said."""
    with pytest.raises(CheckpointError, match="1e-12 is allowed"):
        merge_adapters(taught(add_adapters(ours("llama"), Lora(rank=4))), tolerance=1e-12)
    broken = taught(add_adapters(ours("llama"), Lora(rank=4)))
    with torch.no_grad():
        next(p for name, p in broken.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="nan"):
        merge_adapters(broken)


def test_merging_in_half_precision_keeps_half_of_its_digits() -> None:
    merge_adapters(taught(add_adapters(ours("llama").to(torch.bfloat16), Lora(rank=4, alpha=4))))


def test_dropout_is_off_while_a_merge_is_checked_and_on_again_after() -> None:
    language = taught(add_adapters(ours("llama"), Lora(rank=4, dropout=0.5))).train()
    assert merge_adapters(language).training


def test_the_probe_is_sixteen_tokens_over_the_vocabulary() -> None:
    language = ours("llama")
    ids = torch.linspace(0, 98, 16).long()
    wanted = run(language, embed(language, ids)[None], torch.arange(16)[None], starts=[0, 16])[0]
    assert torch.equal(probe_hidden_states(language), wanted)


def test_an_adapters_config_is_pefts_own(saved: Path) -> None:
    """Other tools load them: the layout, the full names, the base's task."""
    config = json.loads((saved / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "CAUSAL_LM"
    assert sorted(config["target_modules"])[0] == "model.layers.0.mlp.down_proj"


BESIDE_LAYERS: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding alone": {"target_modules": ["embed_tokens"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head"]},
    "both, tied by a word": {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    "embedding saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "head saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "norms saved": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 50]},
    "tokens of the embedding": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 50]}},
    "pissa": {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, "model.layers.1.mlp.up_proj": 3},
        "alpha_pattern": {r".*layers\.1\..*": 64},
    },
}


def answers(language: Any) -> Tensor:
    """Logits of a whole model, by its own forward pass."""
    ids = torch.tensor([[3, 7, 50, 9, 98, 3, 12]])
    with torch.no_grad():
        logits: Tensor = language(input_ids=ids).logits
    return logits


def moved(kind: str, settings: dict[str, Any]) -> Any:
    """An adapted model as training leaves it, in PEFT's own hands."""
    model = get_peft_model(tiny(kind), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings))
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=chance)
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "llama, tied"])
@pytest.mark.parametrize("name", BESIDE_LAYERS)
@pytest.mark.filterwarnings("ignore")
def test_what_peft_trains_beside_layers_is_merged_and_comes_back(name: str, kind: str, tmp_path: Path) -> None:
    """A tied head is untied where it must be, in what is saved too; nothing leaks from the embedding into the head."""
    model = moved(kind, BESIDE_LAYERS[name])
    model.save_pretrained(tmp_path / "adapters")
    wanted = answers(PeftModel.from_pretrained(tiny(kind), tmp_path / "adapters").eval())
    assert not torch.allclose(wanted, answers(tiny(kind)), atol=1e-2)
    if name != "pissa":  # whose base PEFT has changed, and which it saves as it began
        torch.testing.assert_close(answers(model), wanted, atol=1e-5, rtol=1e-5)
    loaded = load_adapters(tiny(kind), tmp_path / "adapters")
    torch.testing.assert_close(answers(loaded), wanted, atol=1e-4, rtol=1e-4)
    before = probe_hidden_states(loaded)
    merged: Any = merge_adapters(loaded if name == "pissa" else model)
    if name == "pissa":
        torch.testing.assert_close(probe_hidden_states(merged), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answers(merged), wanted, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(answers(again), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_adapters_that_became_weights_are_not_saved_as_adapters_again(tmp_path: Path) -> None:
    """What stays is a plain adapter of layers: PEFT reads it over the saved base, and changes that no more."""
    moved("llama, tied", {**BESIDE_LAYERS["pissa"], "modules_to_save": ["embed_tokens"]}).save_pretrained(
        tmp_path / "a"
    )
    loaded: Any = load_adapters(tiny("llama, tied"), tmp_path / "a")
    wanted = answers(loaded)
    loaded.save_pretrained(tmp_path / "b")
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert (config["init_lora_weights"], config["modules_to_save"]) == (True, None)
    assert all("lora_" in name for name in load_file(tmp_path / "b" / "adapter_model.safetensors"))
    base = loaded.get_base_model()
    state = {name.replace(".base_layer.", "."): t for name, t in base.state_dict().items() if "lora_" not in name}
    base.save_pretrained(tmp_path / "base", state_dict=state)
    again = load_adapters(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "b")
    torch.testing.assert_close(answers(again), wanted, atol=1e-5, rtol=1e-5)


def test_a_merge_that_changes_only_the_head_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden states say nothing of a head; its logits are compared too."""
    language = taught(add_adapters(ours("llama"), Lora(rank=4)))
    merge = language.merge_and_unload

    def spoil(*args: Any, **kwargs: Any) -> Any:
        merged = merge(*args, **kwargs)
        with torch.no_grad():
            merged.lm_head.weight.mul_(1.1)
        return merged

    monkeypatch.setattr(language, "merge_and_unload", spoil)
    with pytest.raises(CheckpointError, match="logits differ"):
        merge_adapters(language)


@pytest.mark.parametrize(("change", "said"), [
    ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"), ({"unheard": 3}, "unheard=3"),
    ({"init_lora_weights": "corda"}, "corda"), ({"peft_type": "IA3"}, "IA3"),
])  # fmt: skip
def test_keys_that_cannot_be_used_are_named(saved: Path, change: dict[str, Any], said: str) -> None:
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_adapters(ours("llama"), saved)
    assert "merge_and_unload" in caught.value.hint
