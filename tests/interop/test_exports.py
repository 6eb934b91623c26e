"""What an export must carry: tuned towers with every layer, one precision, tokenizer.model, the merge's own error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_towers import save_towers

from vistune import api
from vistune.errors import CheckpointError, RecipeError
from vistune.generation import Assistant
from vistune.generation.messages import read_messages
from vistune.interop import layouts
from vistune.interop.export import export_model, import_model, write_card
from vistune.interop.parity import BATCH, MERGED, TOLERANCE, ParityRow, exceeds_tolerance, probes
from vistune.interop.writers import with_older_keys
from vistune.processor import load_tokenizer
from vistune.recipe import Lora
from vistune.runs import checkpoint

Make = Callable[..., Path]
FINISHED = [*probes()["picture"], {"role": "assistant", "content": "Waves."}]


def logits(made: Any) -> torch.Tensor:
    return Assistant(*made).logits(FINISHED)


def transformers_logits(folder: Path) -> torch.Tensor:
    """Of the finished conversation, by transformers alone: its classes, its processor, the folder's template."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    said = {"role": "assistant", "content": [{"type": "text", "text": "Waves."}]}
    inputs = processor.apply_chat_template(
        [*probes()["picture"], said], tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        return model(**inputs).logits[0]


@pytest.mark.parametrize("layer", [-1, -2, -3])
@pytest.mark.parametrize("mode", ["pad", "anyres"])
def test_a_tuned_tower_goes_to_transformers_with_all_its_layers(
    tuned: Make, tmp_path: Path, mode: str, layer: int
) -> None:
    """The feature layer keeps its number, and nothing is left for transformers to draw at random."""
    from transformers import AutoModelForImageTextToText

    folder = tuned("vision", "projector", image_mode=mode, feature_layer=layer, projector="mlp2x_gelu")
    export_model(folder, tmp_path / "hf", layout="llava-hf")
    wanted = logits(checkpoint.load(folder))
    torch.testing.assert_close(transformers_logits(tmp_path / "hf")[:, :400], wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(layouts.load(tmp_path / "hf"))[:, :400], wanted, atol=1e-4, rtol=1e-4)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["vision_feature_layer"], config["vision_config"]["num_hidden_layers"]) == (layer, 3)
    _, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_a_siglip_tower_goes_to_transformers_and_comes_back(tuned: Make, tmp_path: Path) -> None:
    """It has no class token: transformers is told to keep all of its tokens, and told otherwise would drop a patch."""
    save_towers(tmp_path)
    folder = tuned("projector", vision=str(tmp_path / "joint_siglip"), projector="mlp2x_gelu")
    export_model(folder, tmp_path / "hf", layout="llava-hf")
    wanted = logits(checkpoint.load(folder))
    torch.testing.assert_close(logits(layouts.load(tmp_path / "hf"))[:, :400], wanted, atol=1e-4, rtol=1e-4)
    import_model(tmp_path / "hf", tmp_path / "again")
    assert checkpoint.load(tmp_path / "again")[1].spec.feature_tokens == "patch"
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["vision_feature_select_strategy"] == "full"
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "vision_feature_select_strategy": "default"}))
    with pytest.raises(CheckpointError, match="full for a tower without one"):
        layouts.load(tmp_path / "hf")


def test_a_tuned_tower_goes_to_the_original_inside_the_weights(tuned: Make, tmp_path: Path) -> None:
    folder = tuned("vision", "projector", projector="linear")
    export_model(folder, tmp_path / "original", layout="llava-original")
    torch.testing.assert_close(
        logits(layouts.load(tmp_path / "original")), logits(checkpoint.load(folder)), atol=1e-5, rtol=1e-5
    )
    config = json.loads((tmp_path / "original" / "config.json").read_text())
    assert config["unfreeze_mm_vision_tower"] is True  # else the original takes the weights of the tower it is named
    assert config["mm_vision_select_layer"] == -2
    inside = load_file(tmp_path / "original" / "model.safetensors")
    layers = {name.split(".")[6] for name in inside if ".encoder.layers." in name}
    assert layers == {"0", "1", "2"}
    tower = tmp_path / "original" / config["mm_vision_tower"]
    assert json.loads((tower / "config.json").read_text())["num_hidden_layers"] == 3


@pytest.mark.parametrize("layout", ["llava-hf", "llava-original"])
def test_one_precision_throughout_as_stored_or_as_asked(original: Make, tmp_path: Path, layout: str) -> None:
    """The newline too; a model kept in bf16 comes and goes without growing."""
    merged = original(
        image_aspect_ratio="anyres", mm_patch_merge_type="spatial_unpad", tower_inside=True,
        image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]],
    )  # fmt: skip
    halved = {name: tensor.bfloat16() for name, tensor in load_file(merged / "model.safetensors").items()}
    save_file(halved, merged / "model.safetensors", metadata={"format": "pt"})
    import_model(merged, tmp_path / "ours")
    assert checkpoint.load(tmp_path / "ours", dtype=torch.bfloat16)[0].newline.dtype == torch.bfloat16
    for folder, dtype in ((tmp_path / "stored", None), (tmp_path / "single", torch.float32)):
        export_model(tmp_path / "ours", folder, layout=layout, dtype=dtype)
        found = {name: tensor.dtype for name, tensor in load_file(folder / "model.safetensors").items()}
        assert any("newline" in name for name in found)
        assert set(found.values()) == {dtype or torch.bfloat16}, found


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "in its own folder"])
def test_a_tower_is_compared_in_the_precision_in_which_it_is_written(
    original: Make, tmp_path: Path, inside: bool
) -> None:
    """In a folder of its own it stays as it was, beside a language model in half of its precision."""
    merged = original(tower_inside=inside)
    halved = {name: tensor.bfloat16() for name, tensor in load_file(merged / "model.safetensors").items()}
    save_file(halved, merged / "model.safetensors", metadata={"format": "pt"})
    import_model(merged, tmp_path / "ours")
    rows = export_model(tmp_path / "ours", tmp_path / "back", layout="llava-original")
    assert [row.largest_difference for row in rows] == [0.0] * len(rows)
    found = load_file(next((tmp_path / "back").glob("*/model.safetensors")))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16 if inside else torch.float32}


def test_tokenizer_model_and_legacy_go_with_the_original(original: Make, llama: Path, tmp_path: Path) -> None:
    merged = original()
    (merged / "tokenizer.json").unlink()
    shutil.copy(llama / "tokenizer.model", merged)
    (merged / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": True}))
    grow(merged, 32000)
    import_model(merged, tmp_path / "ours")
    export_model(tmp_path / "ours", tmp_path / "back", layout="llava-original")
    export_model(tmp_path / "ours", tmp_path / "hf", layout="llava-hf")  # parity: transformers keeps `legacy` too
    wanted = (merged / "tokenizer.model").read_bytes()
    assert (tmp_path / "ours" / "tokenizer" / "tokenizer.model").read_bytes() == wanted
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == wanted
    assert json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())["legacy"] is True


def grow(folder: Path, rows: int) -> None:
    """The language model with a larger vocabulary."""
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = 0.02 * torch.randn(rows, tensors[name].shape[1], generator=torch.Generator().manual_seed(2))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))


def test_a_merge_is_shown_beside_what_was_merged(tuned: Make, tmp_path: Path) -> None:
    folder = tuned("adapters", "projector", lora=Lora(rank=4, alpha=8), projector="mlp2x_gelu")
    rows = export_model(folder, tmp_path / "hf", layout="llava-hf", merge=True)
    names = [row.probe for row in rows]
    assert names == [f"merge: {probe}" for probe in probes()] + [*probes(), BATCH]
    merges = rows[: len(probes())]
    assert all(row.same_ids and row.same_tokens for row in merges)
    assert 0 < max(row.largest_difference for row in merges) < 1e-4  # another order of sums, no other sums
    torch.testing.assert_close(
        logits(layouts.load(tmp_path / "hf"))[:, :400], logits(checkpoint.load(folder)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("kind", "settings", "older"),
    [
        ("mistral", {"rope_theta": 1e6}, {"rope_theta": 1e6}),
        ("llama", {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0},
         {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("llama", {"rope_theta": 5e5, "rope_type": "yarn", "factor": 2.0},
         {"rope_theta": 5e5,
          "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}}),
        ("gemma3_text", None, {"rope_theta": 1e6, "rope_local_base_freq": 1e4}),
    ],
)  # fmt: skip
def test_older_loaders_turn_by_the_same_base(
    tmp_path: Path, kind: str, settings: dict[str, Any] | None, older: dict[str, Any]
) -> None:
    """transformers 4, with which the original runs, knows no `rope_parameters`; ours reads the same from both."""
    from transformers import AutoConfig

    given = {} if settings is None else {"rope_parameters": {"rope_type": "default", **settings}}
    config = AutoConfig.for_model(kind, **given)
    written = with_older_keys(config.to_dict())
    assert {key: written[key] for key in older} == older
    again = {key: value for key, value in AutoConfig.for_model(**written).rope_parameters.items() if key != "type"}
    assert again == config.rope_parameters


def test_the_card_names_what_the_model_was_made_of(tmp_path: Path) -> None:
    """Hub names also where the hub reads them; of a folder its name and not where it lies on this machine."""
    checkpoint_folder = tmp_path / "run" / "checkpoints" / "1-tune-000004"
    checkpoint_folder.mkdir(parents=True)
    sources = {"vision": {"source": "openai/clip-vit-large-patch14-336"}, "language": {"source": f"{tmp_path}/mine"}}
    (checkpoint_folder / "parts.json").write_text(json.dumps({**sources, "extra": {}}))
    recipe = {"name": "mine", "data": [{"file": "data/samples.json"}], "stages": [
        {"name": "tune", "learn": {"projector": 1e-4, "adapters": 2e-4}}]}  # fmt: skip
    (checkpoint_folder / "recipe.yaml").write_text(json.dumps(recipe))
    evals = tmp_path / "run" / "evals"
    evals.mkdir()
    (evals / "pope.json").write_text(json.dumps({"metrics": {"f1": 85.9}}))
    card = write_card(checkpoint_folder)
    assert yaml.safe_load(card.split("---")[1])["base_model"] == ["openai/clip-vit-large-patch14-336"]
    for line in ("Base models: openai/clip-vit-large-patch14-336, mine.", "Data: samples.json.",
                 "| pope | f1 85.9 | not asked | not asked | not asked |  |  |",
                 "- stage tune: projector at 0.0001, adapters at 0.0002"):  # fmt: skip
        assert line in card.splitlines()
    assert str(tmp_path) not in card
    (checkpoint_folder / "recipe.yaml").write_text(json.dumps({**recipe, "from": {"model": f"{tmp_path}/llava-hf"}}))
    assert "Base models: llava-hf." in write_card(checkpoint_folder)


@pytest.mark.parametrize("kind", [{"dora": True}, {"rslora": True}], ids=["DoRA", "rsLoRA"])
def test_every_kind_of_adapter_goes_to_peft_and_comes_back(tuned: Make, tmp_path: Path, kind: dict[str, bool]) -> None:
    folder = tuned("adapters", "projector", lora=Lora(rank=4, alpha=8, **kind), projector="mlp2x_gelu")
    rows = export_model(folder, tmp_path / "peft", layout="peft")
    assert all(row.same_ids and row.same_tokens and row.largest_difference < 1e-4 for row in rows)
    wanted = logits(checkpoint.load(folder))
    torch.testing.assert_close(logits(layouts.load(tmp_path / "peft"))[:, :400], wanted, atol=1e-4, rtol=1e-4)
    export_model(folder, tmp_path / "hf", layout="llava-hf", merge=True)
    torch.testing.assert_close(logits(layouts.load(tmp_path / "hf"))[:, :400], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("layout", "said"), [
    ("llava-hf", "BitsAndBytesConfig"), ("llava-original", "--load-4bit"), ("peft", "load their base"),
])  # fmt: skip
def test_an_export_is_never_quantised_and_says_who_does_it(tmp_path: Path, layout: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        api.export(tmp_path, tmp_path / "out", layout=layout, quantize=4)
    with pytest.raises(RecipeError, match="not known"):
        api.export(tmp_path, tmp_path / "out", layout="onnx", quantize=4)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_a_merge_decide_as_others_do(dtype: torch.dtype) -> None:
    def row(difference: float, *, ids: bool = True, tokens: bool = True) -> ParityRow:
        return ParityRow("merge: picture", 7, ids, difference, tokens)

    allowed = MERGED[dtype]
    assert not exceeds_tolerance([row(allowed / 2)], dtype, merged=True)
    assert exceeds_tolerance([row(allowed / 2), row(2 * allowed)], dtype, merged=True)
    assert exceeds_tolerance([row(float("nan"))], dtype, merged=True)
    assert exceeds_tolerance([row(0, ids=False)], dtype, merged=True)
    assert exceeds_tolerance([row(0, tokens=False)], dtype, merged=True) == (dtype == torch.float32)
    assert TOLERANCE[dtype] < allowed < 8  # as far apart as a head was that had followed its embedding


def test_an_export_begins_conversations_as_the_tokenizers_own_template(
    tiny_backbones: Path, tuned: Make, tmp_path: Path
) -> None:
    """SOLAR and EEVE: the tokenizer puts `<s>` before a text, its chat template does not. A processor would add it."""
    from transformers import AutoProcessor

    language = shutil.copytree(tiny_backbones / "language", tmp_path / "language")
    tokenizer: Any = load_tokenizer(language)
    tokenizer.add_bos_token = True
    tokenizer.chat_template = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}{{ '\n\n' if m.role == 'user' }}{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    tokenizer.save_pretrained(language)
    folder = tuned("projector", language=str(language), template="tokenizer")
    rows = export_model(folder, tmp_path / "hf", layout="llava-hf")
    assert all(row.same_ids for row in rows)
    theirs = AutoProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    messages = [{"role": "user", "content": [{"type": "text", "text": "What?"}]}]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    assert load_tokenizer(language)("a")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in ids[0]
    _, again = layouts.load(tmp_path / "hf", device="cpu", dtype=torch.float32)
    assert again.encode_prompt(read_messages(messages)).input_ids.tolist() == ids[0]
