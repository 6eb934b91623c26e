"""Whatever PEFT writes over a llava-hf model answers as PEFT's own reload of it, or is refused by name."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from vistune.errors import CheckpointError
from vistune.generation import Assistant
from vistune.interop import layouts
from vistune.interop.build import SourceModel
from vistune.interop.export import export_model, import_model
from vistune.interop.parity import ProbeResult, probe_ours, probe_transformers, probes
from vistune.runs import checkpoint

Make = Callable[..., Path]
CONVERSATIONS = {name: messages for name, messages in probes().items() if name in ("picture", "text alone")}
SHORT = ["q_proj", "v_proj"]  # also the tower's
LANGUAGE = r".*language_model.*\.(q_proj|v_proj|up_proj)"

CONFIGS: dict[str, dict[str, Any]] = {
    "language model only": {"target_modules": LANGUAGE},
    "short names, the tower too": {"target_modules": SHORT},
    "all-linear": {"target_modules": "all-linear"},
    "projector": {"target_modules": ["linear_1", "linear_2", "o_proj"]},
    "alpha_pattern": {"target_modules": LANGUAGE, "alpha_pattern": {"q_proj": 32, "layers.1.self_attn.v_proj": 3}},
    "rank_pattern by suffix": {"target_modules": SHORT, "rank_pattern": {"q_proj": 7}},
    "rank_pattern by regex": {
        "target_modules": LANGUAGE,
        "rank_pattern": {r"^model\.language_model\.layers\.0\..*": 5},
        "alpha_pattern": {r".*layers\.1\.mlp.*": 64},
    },
    "rank_pattern by full names": {
        "target_modules": SHORT,
        "rank_pattern": {
            "model.language_model.layers.0.self_attn.q_proj": 3,
            "model.vision_tower.encoder.layers.1.self_attn.v_proj": 2,
        },
    },
    "rslora": {"target_modules": SHORT, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "dora": {"target_modules": SHORT, "use_dora": True},
    "dora, all-linear": {"target_modules": "all-linear", "use_dora": True},
    "gaussian": {"target_modules": LANGUAGE, "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": LANGUAGE, "init_lora_weights": "orthogonal"},
    "pissa": {"target_modules": SHORT, "init_lora_weights": "pissa"},
    "pissa, ranks": {"target_modules": LANGUAGE, "init_lora_weights": "pissa", "rank_pattern": {"q_proj": 2}},
    "olora": {"target_modules": SHORT, "init_lora_weights": "olora"},
    "eva": {"target_modules": LANGUAGE, "init_lora_weights": "eva"},
    "mica": {"target_modules": LANGUAGE, "init_lora_weights": "mica"},
    "embedding and head saved": {"target_modules": LANGUAGE, "modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding saved": {"target_modules": LANGUAGE, "modules_to_save": ["embed_tokens"]},
    "head saved": {"target_modules": LANGUAGE, "modules_to_save": ["lm_head"]},
    "projector saved": {"target_modules": LANGUAGE, "modules_to_save": ["multi_modal_projector"]},
    "norms saved": {"target_modules": LANGUAGE, "modules_to_save": ["norm", "input_layernorm"]},
    "tower saved": {"target_modules": LANGUAGE, "modules_to_save": ["vision_tower"]},
    "embedding adapted": {"target_modules": ["embed_tokens", "o_proj"]},
    "embedding and head adapted": {"target_modules": ["embed_tokens", "lm_head", "o_proj"]},
    "embedding alone adapted": {"target_modules": ["embed_tokens"]},
    "head adapted": {"target_modules": ["lm_head", "down_proj"]},
    "tokens": {"target_modules": LANGUAGE, "trainable_token_indices": [5, 80, 300]},
    "tokens by name": {"target_modules": LANGUAGE, "trainable_token_indices": {"embed_tokens": [5, 80]}},
    "tied with a word": {"target_modules": ["embed_tokens", "o_proj"], "ensure_weight_tying": True},
    "saved and tied": {"target_modules": LANGUAGE, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "layers_to_transform": {"target_modules": ["down_proj"], "layers_to_transform": [1]},
    "exclude_modules": {"target_modules": SHORT, "exclude_modules": r".*vision_tower.*"},
    "biases": {"target_modules": SHORT, "bias": "all"},
    "biases of adapted layers": {"target_modules": ["q_proj", "linear_1"], "bias": "lora_only"},
    "lora_bias": {"target_modules": ["linear_1", "out_proj"], "lora_bias": True},
}
TIED = ["language model only", "short names, the tower too", "embedding saved", "head saved", "embedding adapted",
        "embedding and head saved", "embedding and head adapted", "embedding alone adapted", "tokens", "tokens by name",
        "head adapted", "tied with a word", "saved and tied", "dora"]  # fmt: skip


@pytest.fixture(scope="module")
def bases(tiny_backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """llava-hf folders of random weights, with a head of its own and one tied to the embedding."""
    from tiny_llava import write_llava_hf

    folder = tmp_path_factory.mktemp("bases")
    return {name: write_llava_hf(folder / name, tiny_backbones, tied=name == "tied") for name in ("own head", "tied")}


def trained(base: Path, folder: Path, **config: Any) -> Path:
    """A PEFT folder as training leaves it: everything that trains has moved."""
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, **config))
    chance = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=chance)
    model.save_pretrained(folder)
    return folder


def pefts(base: Path, folder: Path) -> dict[str, ProbeResult]:
    """The answers of PEFT's own reload of the whole model."""
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), folder).eval()
    processor = AutoProcessor.from_pretrained(base, backend="pil")
    return probe_transformers(model, processor, CONVERSATIONS, processor.image_token_id)


def assert_same(found: dict[str, ProbeResult], wanted: dict[str, ProbeResult]) -> None:
    for name, answer in wanted.items():
        assert torch.equal(found[name].ids, answer.ids)
        common = min(len(answer.logits), len(found[name].logits))
        torch.testing.assert_close(found[name].logits[:common], answer.logits[:common], atol=1e-4, rtol=0)
        assert found[name].tokens == answer.tokens


CASES = [("own head", name) for name in CONFIGS] + [("tied", name) for name in TIED]


@pytest.mark.parametrize(("head", "name"), CASES, ids=[f"{name}, {head}" for head, name in CASES])
@pytest.mark.filterwarnings("ignore")
def test_what_peft_writes_answers_as_peft_reads_it(
    bases: dict[str, Path], tmp_path: Path, head: str, name: str
) -> None:
    """Loaded as it is, imported, and merged into another layout."""
    base = bases[head]
    folder = trained(base, tmp_path / "adapters", **CONFIGS[name])
    wanted = pefts(base, folder)
    bare = probe_ours(Assistant(*layouts.load(base)), CONVERSATIONS)
    assert max(float((bare[probe].logits - wanted[probe].logits).abs().max()) for probe in wanted) > 0.01
    assert_same(probe_ours(Assistant(*layouts.load(folder, base=str(base))), CONVERSATIONS), wanted)
    import_model(folder, tmp_path / "ours", base=str(base))
    assert_same(probe_ours(Assistant(*checkpoint.load(tmp_path / "ours")), CONVERSATIONS), wanted)
    rows = export_model(tmp_path / "ours", tmp_path / "hf", layout="llava-hf", merge=True)
    assert all(row.largest_difference < 1e-3 for row in rows)
    assert_same(probe_ours(Assistant(*layouts.load(tmp_path / "hf")), CONVERSATIONS), wanted)


@pytest.mark.parametrize("name", ["all-linear", "dora", "tower saved", "biases", "pissa"])
@pytest.mark.parametrize("kind", ["siglip", "next"])
@pytest.mark.filterwarnings("ignore")
def test_other_towers_and_tiles_answer_as_peft_reads_them(
    tiny_backbones: Path, tmp_path: Path, kind: str, name: str
) -> None:
    from tiny_llava import write_llava_hf

    base = write_llava_hf(tmp_path / "base", tiny_backbones, kind=kind)
    folder = trained(base, tmp_path / "adapters", **CONFIGS[name])
    found = probe_ours(Assistant(*layouts.load(folder, base=str(base))), CONVERSATIONS)
    assert_same(found, pefts(base, folder))


# --- what is refused, by name and with a way out ---


@pytest.fixture(scope="module")
def plain(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose adapters lie on the language model, with patterns and a saved head."""
    folder = tmp_path_factory.mktemp("plain")
    return trained(bases["own head"], folder, target_modules=LANGUAGE, modules_to_save=["lm_head"])


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copy"))


def rewrite(folder: Path, **change: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return folder


@pytest.mark.parametrize(
    ("change", "named", "hint"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'", "merge_and_unload"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'", "merge_and_unload"),
        ({"peft_type": "VERA"}, "peft_type 'VERA'", "merge_and_unload"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type 'PROMPT_TUNING'", "merge_and_unload"),
        ({"peft_type": None}, "peft_type None", "merge_and_unload"),
        ({"megatron_config": {"tp": 2}}, "megatron_config", "merge_and_unload"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication", "merge_and_unload"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters", "merge_and_unload"),
        ({"use_qalora": True}, "use_qalora", "merge_and_unload"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens", "merge_and_unload"),
        ({"arrow_config": {"top_k": 2}}, "arrow_config", "merge_and_unload"),
        ({"kasa_config": {"beta": 1.0}}, "kasa_config", "merge_and_unload"),
        ({"monteclora_config": {"num_samples": 2}}, "monteclora_config", "merge_and_unload"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora", "merge_and_unload"),
        ({"velora_config": {"num_groups": 2}}, "velora_config", "merge_and_unload"),
        ({"init_lora_weights": "corda"}, "init_lora_weights 'corda'", "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights 'lora_ga'", "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4", "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights 'loftq'", "merge_and_unload"),
        ({"scaled_by": 2.0}, "scaled_by=2.0", "update PEFT"),
        ({"r": "eight"}, "r: Input should be a valid integer", "restore"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj", "restore"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern.q_proj", "restore"),
        ({"rank_pattern": {"q_(": 2}}, "rank_pattern", "restore"),
        ({"bias": "some"}, "bias", "restore"),
        ({"target_modules": None}, "target_modules", "restore"),
        ({"init_lora_weights": "swirl"}, "init_lora_weights", "restore"),
        ({"r": 5}, r"of another shape", "made for"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, "modules_to_save names 'embed_tokens'", "download"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices", "download"),
        ({"target_modules": ["q_proj"]}, "target_modules do not name", "merge_and_unload"),
        ({"target_modules": r".*language_model.*\.(q|v|up|k)_proj"}, "missing", "made for"),
        ({"use_dora": True}, "missing", "made for"),
        ({"lora_bias": True}, "missing", "made for"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    bases: dict[str, Path], copied: Path, change: dict[str, Any], named: str, hint: str
) -> None:
    rewrite(copied, **change)
    with pytest.raises(CheckpointError) as caught:
        layouts.read_source(copied, base=str(bases["own head"]))
    assert named in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint


def with_tensors(folder: Path, **change: torch.Tensor | None) -> Path:
    path = folder / "adapter_model.safetensors"
    tensors = {**load_file(path), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return folder


TOP = "base_model.model.model.language_model.layers.0.self_attn."


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({f"{TOP}q_proj.lora_A.weight": None}, "missing"),
        ({f"{TOP}q_proj.lora_A.weight": None, f"{TOP}q_proj.lora_B.weight": None}, "missing"),
        ({f"{TOP}q_proj.lora_A.weight": torch.zeros(4, 7)}, "of another shape"),
        ({f"{TOP}o_proj.lora_A.weight": torch.zeros(4, 48)}, "target_modules do not name"),
        ({f"{TOP}q_proj.lora_C.weight": torch.zeros(4)}, "lora_C"),
        ({f"{TOP}q_proj.lora_magnitude_vector": torch.zeros(48)}, "lora_magnitude_vector"),
        ({f"{TOP}q_proj.lora_B.bias": torch.zeros(48)}, r"lora_B.bias"),
        ({"base_model.model.lm_head.weight": torch.zeros(500, 48)}, r"lm_head.weight (500, 48) instead of (448, 48)"),
        ({"base_model.model.model.multi_modal_projector.linear_3.weight": torch.zeros(3)}, "linear_3"),
        ({"base_model.model.somebody.else": torch.zeros(3)}, "somebody.else"),
        ({"base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)},
         "model.vision_tower.encoder.layers.0.self_attn.q_proj"),
        ({"base_model.model.model.image_newline": torch.zeros(48)}, "newline"),
        ({"prompt_embeddings": torch.zeros(3)}, "prompt_embeddings"),
    ],
)  # fmt: skip
def test_a_tensor_too_few_or_too_many_is_refused_by_name(
    bases: dict[str, Path], copied: Path, change: dict[str, torch.Tensor | None], named: str
) -> None:
    with_tensors(copied, **change)
    with pytest.raises(CheckpointError) as caught:
        layouts.read_source(copied, base=str(bases["own head"]))
    assert named in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rank_pattern": {"nowhere": 3}}, "rank_pattern 'nowhere'"),
        ({"alpha_pattern": {"nowhere": 3}}, "alpha_pattern 'nowhere'"),
        ({"modules_to_save": ["lm_head", "classifier"]}, "modules_to_save 'classifier'"),
        ({"a_later_key": None}, "a_later_key"),
        ({"a_later_switch": False}, "a_later_switch"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config"),
        ({"eva_config": {"rho": 2.0}}, "eva_config"),
        ({"runtime_config": {"ephemeral_gpu_offload": True}}, "runtime_config"),
        ({"eva_config": {"unheard": 1}}, "eva_config"),
        ({"modules_to_save": None, "later": None}, "later"),  # PEFT reads the head's tensor all the same
        ({"target_modules": r".*\.(q_proj|v_proj|up_proj)"}, "modules of the vision"),
    ],
)
def test_what_has_no_effect_is_reported_and_changes_nothing(
    bases: dict[str, Path], plain: Path, copied: Path, tmp_path: Path, caplog: Any, change: dict[str, Any], named: str
) -> None:
    base = str(bases["own head"])
    wanted = probe_ours(Assistant(*layouts.load(plain, base=base)), CONVERSATIONS)
    rewrite(copied, **change)
    with caplog.at_level(logging.WARNING, "vistune.interop"):
        found = import_model(copied, tmp_path / "ours", base=base)
    assert [text for text in found.remarks if named in text]
    assert named in caplog.text
    assert_same(probe_ours(Assistant(*checkpoint.load(tmp_path / "ours")), CONVERSATIONS), wanted)


def test_a_folder_that_names_no_base_asks_for_one(copied: Path) -> None:
    rewrite(copied, base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match="no base model") as caught:
        layouts.read_source(copied)
    assert "--base" in caught.value.hint


def test_a_tower_that_was_adapted_goes_to_the_original_inside_the_weights(
    bases: dict[str, Path], tiny_backbones: Path, tmp_path: Path
) -> None:
    """A base of the original's layout names its tower, which is not the adapted one."""
    base = bases["own head"]
    import_model(base, tmp_path / "ours", template="v1")
    export_model(tmp_path / "ours", tmp_path / "original", layout="llava-original")
    folder = trained(base, tmp_path / "adapters", target_modules=SHORT)
    import_model(folder, tmp_path / "adapted", base=str(tmp_path / "original"))
    wanted = probe_ours(Assistant(*checkpoint.load(tmp_path / "adapted")), CONVERSATIONS)
    export_model(tmp_path / "adapted", tmp_path / "back", layout="llava-original", merge=True)
    shutil.rmtree(tmp_path / "original")
    assert_same(probe_ours(Assistant(*layouts.load(tmp_path / "back")), CONVERSATIONS), wanted)


def test_names_of_older_transformers_are_read(bases: dict[str, Path], tmp_path: Path) -> None:
    """LlavaForConditionalGeneration held the tower, the projector and a whole language model until 4.52."""
    base = bases["own head"]
    config = {"target_modules": [*SHORT, "linear_1"], "alpha_pattern": {"q_proj": 20}}
    folder = trained(base, tmp_path / "now", **config)
    wanted = probe_ours(Assistant(*layouts.load(folder, base=str(base))), CONVERSATIONS)
    older = Path(shutil.copytree(folder, tmp_path / "older"))
    names = {"model.language_model.": "language_model.model.", "model.multi_modal_projector.": "multi_modal_projector.",
             "model.vision_tower.": "vision_tower.vision_model."}  # fmt: skip
    tensors = {}
    for name, tensor in load_file(older / "adapter_model.safetensors").items():
        inner = name.removeprefix("base_model.model.")
        new = next(new + inner.removeprefix(old) for old, new in names.items() if inner.startswith(old))
        tensors[f"base_model.model.{new}"] = tensor
    save_file(tensors, older / "adapter_model.safetensors")
    rewrite(older, rank_pattern={"language_model.model.layers.0.self_attn.q_proj": 4, "vision_tower": 9})
    assert_same(probe_ours(Assistant(*layouts.load(older, base=str(base))), CONVERSATIONS), wanted)
    full = {"language_model.model.layers.0.self_attn.q_proj": 40}
    rewrite(older, alpha_pattern=full | {"q_proj": 20})
    found = probe_ours(Assistant(*layouts.load(older, base=str(base))), CONVERSATIONS)
    assert max(float((found[name].logits - wanted[name].logits).abs().max()) for name in wanted) > 1e-3
    rewrite(folder, alpha_pattern={"model.language_model.layers.0.self_attn.q_proj": 40, "q_proj": 20})
    assert_same(found, pefts(base, folder))


def test_half_a_model_in_bf16_loses_nothing_of_its_adapters(bases: dict[str, Path], tmp_path: Path) -> None:
    """Adapters outside the language model are added in fp32, whatever the base is stored in."""
    base = Path(shutil.copytree(bases["own head"], tmp_path / "base"))
    halved = {name: t.bfloat16() for name, t in load_file(base / "model.safetensors").items()}
    save_file(halved, base / "model.safetensors", metadata={"format": "pt"})
    folder = trained(base, tmp_path / "adapters", target_modules=SHORT)
    wanted = pefts(base, folder)
    model, processor = layouts.load(folder, base=str(base))
    assert model.vision.tower.encoder.layers[0].self_attn.q_proj.weight.dtype == torch.float32
    assert_same(probe_ours(Assistant(model, processor), CONVERSATIONS), wanted)


# --- kinds, not cases ---

FIELDS = sorted(
    {*json.loads(json.dumps(LoraConfig().to_dict(), default=list)), "a_later_key", "scale", "use_x", "rank"}
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.floats(-2, 2),
    st.sampled_from(["", "x", "pissa", "gaussian", "all"]),
    st.lists(st.sampled_from(["q_proj", "lm_head", "zzz"]), max_size=2),
    st.dictionaries(st.sampled_from(["q_proj", "zz"]), st.integers(1, 9), max_size=2),
)


def read_or_refuse(folder: Path, base: Path) -> SourceModel | CheckpointError:
    """What reading the folder gives, its model's adapters put on for a trial."""
    try:
        source = layouts.read_source(folder, base=str(base))
        layouts.build_model(source, torch.float32)
    except CheckpointError as error:
        return error
    return source


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from(FIELDS), value=VALUES)
@pytest.mark.filterwarnings("ignore")
def test_a_key_is_used_reported_or_refused_never_dropped(
    bases: dict[str, Path], plain: Path, tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    """Used: the model answers as PEFT's reload of the same folder does."""
    base = bases["own head"]
    folder = Path(shutil.copytree(plain, tmp_path_factory.mktemp("key") / "folder"))
    before = json.loads((folder / "adapter_config.json").read_text()).get(key)
    rewrite(folder, **{key: value})
    source = read_or_refuse(folder, base)
    if isinstance(source, CheckpointError):
        assert source.hint
        assert str(folder) in source.message
        return
    if value == before or any(key in remark for remark in source.remarks):
        return
    assistant = Assistant(layouts.build_model(source, torch.float32), layouts.source_processor(source))
    found = probe_ours(assistant, {"text alone": CONVERSATIONS["text alone"]})
    nothing = value in (None, [], {}) and key in ("alpha_pattern", "rank_pattern", "trainable_token_indices")
    wanted = pefts(base, plain if nothing else folder)  # PEFT itself fails on nothing there
    assert_same(found, {"text alone": wanted["text alone"]})


PLACES = ["base_model.model.model.language_model.", "base_model.model.", "base_model.model.model.vision_tower.",
          "base_model.model.model.multi_modal_projector.", "", TOP]  # fmt: skip
NAMES = ["k_proj", "zz.weight", "lora_A.weight", "q_proj.lora_A.default.weight", "norm.gain", "linear_1", "lora_B",
         "q_proj.ia3_l", "embed_tokens.token_adapter.trainable_tokens_delta", "q_proj.bias"]  # fmt: skip


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    place=st.sampled_from(PLACES),
    name=st.sampled_from(NAMES),
    shape=st.lists(st.integers(1, 4), max_size=2),
)  # fmt: skip
def test_a_tensor_of_no_module_is_refused_never_dropped(
    bases: dict[str, Path],
    plain: Path,
    tmp_path_factory: pytest.TempPathFactory,
    place: str,
    name: str,
    shape: list[int],
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path_factory.mktemp("tensor") / "folder"))
    with_tensors(folder, **{place + name: torch.zeros(shape)})
    with pytest.raises(CheckpointError) as caught:
        layouts.read_source(folder, base=str(bases["own head"]))
    assert caught.value.hint
