"""Any causal LM of transformers answers through us as by itself; what would answer otherwise is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from language_table import ACCEPTED, REFUSED
from safetensors.torch import load_file, save_file
from tiny_models import KINDS, config_of, small_config, tiny
from torch import Tensor

from vistune.errors import CheckpointError, RecipeError
from vistune.model import KVCache, Prefill, build, read_spec
from vistune.model.attention import register
from vistune.model.language import embed, language_config, load_language, run
from vistune.recipe import Model
from vistune.types import IGNORE, Example


def example(ids: Tensor) -> Example:
    return Example(
        input_ids=ids, labels=torch.full_like(ids, IGNORE), images=torch.zeros((0, 3, 32, 32), dtype=torch.uint8)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_equal_stock_transformers_on_each_alone(kind: str) -> None:
    model = tiny(kind)
    documents = [torch.randint(1, 99, (n,)) for n in (7, 1, 12)]
    with torch.no_grad():
        alone = [model.model(input_ids=ids[None]).last_hidden_state[0] for ids in documents]
        model.set_attn_implementation(register())
        rows = model.get_input_embeddings()(torch.cat(documents)[None])
        positions = torch.cat([torch.arange(len(d)) for d in documents])
        packed = run(model, rows, positions[None], starts=[0, 7, 8, 20])[0]
    torch.testing.assert_close(packed, torch.cat(alone), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_those_of_transformers_token_by_token(
    kind: str, tmp_path: Path, tiny_backbones: Path
) -> None:
    """Two prompts of unlike length in one batch, far past the sliding windows of those that have one."""
    stock = tiny(kind)
    stock.save_pretrained(tmp_path)
    recipe = Model(vision=str(tiny_backbones / "vision"), language=str(tmp_path))
    model = build(recipe, read_spec(recipe), seed=0).eval()
    prompts = [torch.randint(1, 99, (n,), generator=torch.Generator().manual_seed(n)) for n in (3, 9)]
    wanted = [
        stock.generate(ids[None], do_sample=False, max_new_tokens=24, eos_token_id=None)[0, len(ids) :].tolist()
        for ids in prompts
    ]
    with torch.inference_mode():
        reading, tails = Prefill([None, None], [len(ids) for ids in prompts]), KVCache()
        rows = model.embed(torch.cat(prompts), torch.zeros(0, 32))
        hidden = model.read(rows, reading)[torch.tensor(reading.starts[1:]) - 1]
        tails.add(reading)
        tokens = [model.head.logits(hidden).argmax(dim=-1)]
        while len(tokens) < 24:
            tokens.append(model.head.logits(model.decode(tokens[-1], tails)).argmax(dim=-1))
    said = torch.stack(tokens, dim=1).tolist()
    assert said == wanted
    assert len(set(said[0] + said[1])) > 4, "the answers are too dull to prove anything"


def test_a_sliding_window_is_felt() -> None:
    """The same weights without their window say something else: the tests above do look past it."""
    model = tiny("mistral")
    ids = torch.randint(1, 99, (1, 12), generator=torch.Generator().manual_seed(9))
    with_window = model(ids).logits
    model.config.sliding_window = None
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    assert not torch.allclose(with_window, model(ids).logits, atol=1e-2)


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_computed_otherwise_is_refused_by_name_before_weights_are_read(case: str, tmp_path: Path) -> None:
    """The folder holds a config alone: a refusal that came after reading weights would speak of missing ones."""
    kind, word = REFUSED[case]
    small_config(kind.architecture, kind.changes).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=word) as caught:
        language_config(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert kind.architecture in str(caught.value)
    assert caught.value.hint


def test_a_config_that_transformers_cannot_build_is_refused_with_its_reason(tmp_path: Path) -> None:
    small_config("reformer", {"is_decoder": True}).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"transformers cannot build it \(ValueError: .*axial_pos_embds"):
        language_config(str(tmp_path))


def test_infinity_in_a_config_is_no_obstacle(tmp_path: Path) -> None:
    kind = ACCEPTED["granite 4"]
    small_config(kind.architecture, kind.changes).save_pretrained(tmp_path)
    assert "Infinity" in (tmp_path / "config.json").read_text()
    assert language_config(str(tmp_path)).model_type == "granitemoehybrid"


def test_what_a_trial_must_not_refuse() -> None:
    from vistune.model.trial import require_supported

    for kind in KINDS:
        require_supported(config_of(kind), kind)


def test_a_trial_draws_nothing_and_changes_no_config(tmp_path: Path) -> None:
    config = config_of("gemma3")
    before, state = config.to_dict(), torch.get_rng_state()
    from vistune.model.trial import require_supported

    require_supported(config, "here")
    assert config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)


JOINT = {"gemma3": {"mm_tokens_per_image": 4}, "llava": {}}


@pytest.mark.parametrize("architecture", JOINT)
def test_the_text_model_of_a_multimodal_folder_is_taken_with_its_weights(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    texts = {"gemma3": "gemma3_text", "llava": "llama"}
    text = small_config(texts[architecture], {"head_dim": 8}).to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    if architecture == "llava":
        vision["model_type"] = "clip_vision_model"
    torch.manual_seed(1)
    config = AutoConfig.for_model(architecture, text_config=text, vision_config=vision, **JOINT[architecture])
    joint = AutoModelForImageTextToText.from_config(config).eval()
    joint.save_pretrained(tmp_path)
    language = load_language(str(tmp_path), torch.float32)
    ids = torch.randint(2, 98, (1, 9))
    with torch.no_grad():
        stock = joint.model.language_model(input_ids=ids).last_hidden_state
        ours = run(language, embed(language, ids), torch.arange(9)[None], starts=[0, 9])
        torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)
    assert torch.equal(language.get_output_embeddings().weight, joint.get_output_embeddings().weight)


def test_a_text_model_that_sees_its_whole_prompt_is_refused(tmp_path: Path) -> None:
    from transformers import PaliGemmaConfig

    PaliGemmaConfig(text_config=small_config("gemma", {"head_dim": 8}).to_dict()).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="looks ahead"):
        language_config(str(tmp_path))


def test_a_text_model_that_transformers_cannot_build_alone_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("qwen2_5_vl").save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"no causal language model for its text model \(qwen2_5_vl_text\)"):
        language_config(str(tmp_path))


def test_code_in_the_folder_and_quantised_weights_are_refused(tmp_path: Path) -> None:
    config_of("llama").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    plain = json.loads(file.read_text())
    file.write_text(json.dumps({**plain, "auto_map": {"AutoModelForCausalLM": "own.Model"}}))
    with pytest.raises(RecipeError, match="custom code"):
        language_config(str(tmp_path))
    file.write_text(json.dumps({**plain, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(RecipeError, match="stored quantised"):
        language_config(str(tmp_path))


def test_missing_and_misshapen_tensors_are_named_not_drawn_at_random(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = load_file(weights)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in whole.items() if key != name}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_language(str(tmp_path), torch.float32)
    save_file({**whole, name: torch.zeros(3, 3)}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_language(str(tmp_path), torch.float32)
    save_file({"model.norm.weight": whole["model.norm.weight"]}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        load_language(str(tmp_path), torch.float32)
    assert caught.value.message.count("weight") == 10
    assert "and 10 more" in caught.value.message
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_language(str(tmp_path), torch.float32)
