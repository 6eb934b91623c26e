"""Exports in the hands of other programs: chat templates, batches, language models of every kind, PEFT folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from jinja2 import nodes
from safetensors.torch import load_file
from tiny_models import small_config, tiny_from

from vistune.errors import RecipeError
from vistune.generation.messages import read_messages
from vistune.interop import layouts
from vistune.interop.export import export_model, import_model
from vistune.interop.parity import probes
from vistune.interop.writers import with_older_keys
from vistune.processor import Processor, load_tokenizer, templates
from vistune.processor.template_defaults import GENERATION
from vistune.recipe import Lora
from vistune.runs import checkpoint
from vistune.types import Spec

Make = Callable[..., Path]
PARTS = [{"type": "image"}, {"type": "text", "text": "What?"}]
OWN_OF_STRINGS = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def plain_jinja() -> jinja2.Environment:
    """Jinja as other servers have it: without transformers' tags and without its treatment of whitespace."""
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 - a prompt is no page

    def raise_exception(reason: str) -> None:
        raise jinja2.TemplateError(reason)

    environment.globals["raise_exception"] = raise_exception
    return environment


def loops_over_content(source: str) -> list[nodes.For]:
    """The loops in a parsed template that servers look for: `for part in message['content']`, outside macros.

    vLLM (renderers/hf.py) and SGLang (parser/jinja_template_utils.py) decide by them whether content may be parts.
    """
    tree = plain_jinja().parse(source)
    in_macros = {id(loop) for macro in tree.find_all(nodes.Macro) for loop in macro.find_all(nodes.For)}
    items = {
        loop.target.name
        for loop in tree.find_all(nodes.For)
        if isinstance(loop.iter, nodes.Name) and loop.iter.name == "messages" and isinstance(loop.target, nodes.Name)
    }

    def reads_content(node: nodes.Node) -> bool:
        return (
            isinstance(node, nodes.Getitem)
            and isinstance(node.node, nodes.Name)
            and node.node.name in items
            and isinstance(node.arg, nodes.Const)
            and node.arg.value == "content"
        )

    return [loop for loop in tree.find_all(nodes.For) if id(loop) not in in_macros and reads_content(loop.iter)]


@pytest.mark.parametrize("template", [*sorted(templates()), "tokenizer"])
def test_a_template_for_other_programs_has_one_direct_loop_over_the_content(
    template: str, tiny_tokenizer_folder: Path
) -> None:
    tokenizer: Any = load_tokenizer(tiny_tokenizer_folder)
    tokens = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.chat_template = OWN_OF_STRINGS
    spec = Spec(32, 48, 400, 1, 32, (0.5,) * 3, (0.5,) * 3, "linear", template)  # type: ignore[arg-type]
    processor = Processor(tokenizer, spec)
    source = processor.portable_chat_template
    assert len(loops_over_content(source)) == 1
    turns = [
        {"role": "user", "content": [*PARTS, {"type": "text", "text": " Really?"}]},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, *PARTS]},
    ]
    special = tokenizer.special_tokens_map
    shown = tokenizer.apply_chat_template(
        turns, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    assert plain_jinja().from_string(source).render(messages=turns, add_generation_prompt=True, **special) == shown


def test_a_batch_of_unequal_prompts_is_answered_as_each_alone(tuned: Make, tmp_path: Path) -> None:
    """`export_model` compares a batch too; with padding on the other side, its comparison fails."""
    from transformers import AutoProcessor

    folder = tuned("projector", projector="mlp2x_gelu")
    rows = export_model(folder, tmp_path / "hf", layout="llava-hf")
    assert [row.probe for row in rows] == [*probes(), "batch"]
    assert all(row.same_ids and row.same_tokens and row.largest_difference < 1e-4 for row in rows)
    processor = AutoProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    assert processor.tokenizer.padding_side == "left"
    config = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert config["padding_side"] == "left"


def test_the_pipeline_answers_as_vistune(tuned: Make, tmp_path: Path) -> None:
    from transformers import pipeline

    from vistune.generation import Assistant, greedy_tokens

    folder = tuned("projector", projector="mlp2x_gelu")
    export_model(folder, tmp_path / "hf", layout="llava-hf")
    ask = pipeline("image-text-to-text", model=str(tmp_path / "hf"), device="cpu", dtype=torch.float32)
    conversations = [list(probes()[name]) for name in ("picture", "two turns")]
    answers = ask(conversations, max_new_tokens=8, do_sample=False, return_full_text=False, batch_size=2)
    assistant = Assistant(*checkpoint.load(folder))
    for messages, answer in zip(conversations, answers, strict=True):
        prompt = assistant.processor.encode_prompt(read_messages(messages))
        tokens = greedy_tokens(assistant.model, prompt, 8)
        assert answer[0]["generated_text"].strip() == assistant.processor.answer(tokens).strip()


@pytest.mark.parametrize("kind", ["small_llama", "tiny_tokenizer_folder"])
def test_a_rendered_conversation_given_as_text_begins_once(
    kind: str, request: pytest.FixtureRequest, tuned: Make, tiny_backbones: Path, tmp_path: Path
) -> None:
    """The two ways to the ids, `apply_chat_template(tokenize=True)` and `processor(text=...)`, agree."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoProcessor

    language = shutil.copytree(tiny_backbones / "language", tmp_path / "language")
    tokenizer: Any = load_tokenizer(request.getfixturevalue(kind))
    if kind == "tiny_tokenizer_folder":
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id]
    tokenizer.save_pretrained(language)
    grow_vocabulary(language, len(tokenizer))
    folder = tuned("projector", projector="mlp2x_gelu", language=str(language))
    export_model(folder, tmp_path / "hf", layout="llava-hf")
    processor = AutoProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    messages = probes()["picture"]
    image = messages[0]["content"][0]["image"]
    ids = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    again = processor(text=text, images=image)["input_ids"]
    assert again[0] == ids["input_ids"][0]
    assert again[0].count(tokenizer.bos_token_id) == 1


def grow_vocabulary(language: Path, rows: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(language, vocab_size=max(rows, 400))
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(language)


def test_the_training_template_is_kept_and_read_again(tuned: Make, tmp_path: Path) -> None:
    folder = tuned("projector", projector="mlp2x_gelu")
    export_model(folder, tmp_path / "hf", layout="llava-hf")
    portable = (tmp_path / "hf" / "chat_template.jinja").read_text()
    assert not GENERATION.search(portable)
    assert "{%- generation -%}" in (tmp_path / "hf" / "training_chat_template.jinja").read_text()
    assert "{%- generation -%}" in layouts.read_source(tmp_path / "hf").tokenizer.chat_template
    (tmp_path / "hf" / "chat_template.jinja").write_text(portable.replace("USER: ", "Q: "))
    assert "Q: " in layouts.read_source(tmp_path / "hf").tokenizer.chat_template


# Of other kinds than Llama: how they name their tensors, their head, and what transformers' LLaVA does with them.
LANGUAGES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "GPT-NeoX": ("gpt_neox", {}),
    "GPT-2": ("gpt2", {}),
    "OPT": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 1024}),
    "Qwen3, tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 8}),
    "Hunyuan": ("hunyuan_v1_dense", {"head_dim": 8, "max_position_embeddings": 1024, "rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}}),
}  # fmt: skip


def save_language(folder: Path, tokenizer: Path, architecture: str, changes: dict[str, Any]) -> Path:
    settings = {"vocab_size": 400, "eos_token_id": 2, "max_position_embeddings": 1024, **changes}
    tiny_from(small_config(architecture, settings)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("GPT-NeoX", "square"), ("GPT-2", "square"), ("OPT", "square"), ("Hunyuan", "square"), ("Qwen3, tied", "anyres")],
)
def test_a_language_model_of_another_kind_goes_to_transformers_and_comes_back(
    kind: str, mode: str, tuned: Make, tiny_backbones: Path, tmp_path: Path
) -> None:
    language = save_language(tmp_path / "language", tiny_backbones / "language", *LANGUAGES[kind])
    folder = tuned("projector", projector="mlp2x_gelu", language=str(language), image_mode=mode)
    rows = export_model(folder, tmp_path / "hf", layout="llava-hf")
    assert all(row.same_ids and row.same_tokens and row.largest_difference < 1e-4 for row in rows)
    import_model(tmp_path / "hf", tmp_path / "again")
    prompt = read_messages(probes()["picture"])
    model, processor = checkpoint.load(folder)
    again, its = checkpoint.load(tmp_path / "again")
    found = [
        one.head.logits(one(collated(two.encode_prompt(prompt))))[:, :400]
        for one, two in ((model, processor), (again, its))
    ]
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)


def collated(example: Any) -> Any:
    from vistune.processor import collate

    return collate([example])


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        ("granite", {"logits_scaling": 8.0}, "it scales or caps its logits"),
        ("phi", {"head_dim": 8}, "its head has a bias"),
    ],
)
def test_a_head_that_llava_does_not_have_is_refused(
    architecture: str, changes: dict[str, Any], reason: str, tuned: Make, tiny_backbones: Path, tmp_path: Path
) -> None:
    language = save_language(tmp_path / "language", tiny_backbones / "language", architecture, changes)
    folder = tuned("projector", projector="mlp2x_gelu", language=str(language))
    with pytest.raises(RecipeError, match=reason):
        export_model(folder, tmp_path / "hf", layout="llava-hf")


def test_older_loaders_keep_hunyuans_alpha() -> None:
    config = small_config(*LANGUAGES["Hunyuan"]).to_dict()
    assert with_older_keys(config)["rope_scaling"] == {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}


def test_a_peft_folder_opens_on_its_own(tuned: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tuned("adapters", "projector", lora=Lora(rank=4, alpha=8), projector="mlp2x_gelu")
    export_model(folder, tmp_path / "peft", layout="peft")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "peft", dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "peft", backend="pil")
    inputs = processor.apply_chat_template(
        probes()["picture"], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ours, its = checkpoint.load(folder)
    with torch.inference_mode():
        theirs = model(**inputs).logits[0, -1, :400]
        wanted = ours.head.logits(ours(collated(its.encode_prompt(read_messages(probes()["picture"]))))[-1:])[0]
    torch.testing.assert_close(theirs, wanted, atol=1e-4, rtol=1e-4)
    shutil.move(tmp_path / "peft", tmp_path / "moved")
    moved, _ = layouts.load(tmp_path / "moved")
    assert moved.adapted


# vLLM 0.33.0, model_executor/models/llava.py and llava_next.py: `hf_to_vllm_mapper`, and the config that it reads.
VLLM_RENAMES = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.image_newline": "image_newline",
    "lm_head.": "language_model.lm_head.",
}
VLLM_KEYS = {
    "architectures", "vision_config", "text_config", "image_token_index", "projector_hidden_act",
    "multimodal_projector_bias", "vision_feature_layer", "vision_feature_select_strategy",
}  # fmt: skip


@pytest.mark.parametrize("mode", ["square", "anyres"])
def test_vllm_finds_its_config_keys_and_weights(mode: str, tuned: Make, tmp_path: Path) -> None:
    """Its towers have `vision_model` inside, and its projector has two layers."""
    export_model(tuned("projector", projector="mlp2x_gelu", image_mode=mode), tmp_path / "hf", layout="llava-hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config.keys() >= VLLM_KEYS
    kind = {"square": "LlavaForConditionalGeneration", "anyres": "LlavaNextForConditionalGeneration"}[mode]
    assert config["architectures"] == [kind]
    assert config["text_config"]["architectures"] in (None, ["LlamaForCausalLM"])
    names = set()
    for name in load_file(tmp_path / "hf" / "model.safetensors"):
        old = next((old for old in VLLM_RENAMES if name.startswith(old)), "")
        names.add(VLLM_RENAMES.get(old, "") + name.removeprefix(old))
    layer = "language_model.model.layers.0.self_attn.q_proj.weight"
    for wanted in (
        layer,
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_2.bias",
    ):
        assert wanted in names, sorted(names)
    assert ("image_newline" in names) == (mode == "anyres")
    beginnings = ("language_model.model.", "language_model.lm_head.", "vision_tower.vision_model.",
                  "multi_modal_projector.linear_", "image_newline")  # fmt: skip
    assert all(name.startswith(beginnings) for name in names)


def test_sglang_finds_what_it_reads_in_an_original_export(tuned: Make, tmp_path: Path) -> None:
    """SGLang 0.5.23, srt/models/llava.py: the tower's kind is read from its name, and the names of the weights."""
    export_model(tuned("projector", projector="mlp2x_gelu"), tmp_path / "original", layout="llava-original")
    config = json.loads((tmp_path / "original" / "config.json").read_text())
    assert "clip" in config["mm_vision_tower"]
    assert (tmp_path / "original" / config["mm_vision_tower"] / "config.json").is_file()
    assert config["mm_vision_select_feature"] in ("patch", "full", "cls_patch")
    assert config.keys() >= {"mm_hidden_size", "mm_vision_select_layer", "image_aspect_ratio", "mm_patch_merge_type"}
    projector = [name for name in load_file(tmp_path / "original" / "model.safetensors") if "projector" in name]
    assert {name.rsplit(".", 1)[0] for name in projector} == {"model.mm_projector.0", "model.mm_projector.2"}
