"""GGUF files: what llama.cpp computes from them is what our model computes, and the rest is refused or named."""

from __future__ import annotations

import json
import math
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from llama_cpp import LlamaServer
from PIL import Image
from small_llama import save_small_llama
from tiny_models import tiny_from
from tiny_tokenizer import TEXTS, make_tokenizer

from vistune.errors import CheckpointError, DiskError, RecipeError, VistuneError
from vistune.generation import Assistant, read_messages
from vistune.interop.parity import probe_image, probe_ours
from vistune.model import add_adapters, build, read_spec
from vistune.processor import Processor, load_tokenizer
from vistune.recipe import Lora, Model, Recipe, Stage
from vistune.runs import checkpoint
from vistune.types import IMAGE_ID

pytest.importorskip("gguf", reason="needs the extra gguf: pip install 'vistune[gguf]'")
from vistune.interop import gguf as gguf_module
from vistune.interop.gguf import GgufExport, export_gguf
from vistune.interop.gguf_tower import PADDING

Make = Callable[..., Path]
SIZE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
LANGUAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama, biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3": ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                                              "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                              "original_max_position_embeddings": 64}}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    "mistral": ("mistral", {"sliding_window": 512}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3, yarn": ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                                                  "original_max_position_embeddings": 256}}),
    "gemma3": ("gemma3_text", {"num_hidden_layers": 6, "sliding_window": 16, "query_pre_attn_scalar": 16,
                               "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
}  # fmt: skip
QUESTIONS = ("What colour is the circle?", "Where is the blue square, and what is 12 + 5?", "원은 무슨 색인가요?")
TOWER: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                         "patch_size": 8}  # fmt: skip
SIDE = 32


def save_language(folder: Path, kind: str, tokenizer: Callable[[Path], None] = make_tokenizer) -> None:
    """Write a language model of random weights whose answers have only tokens that are text by themselves.

    A server keeps the bytes of an unfinished character back, and with them their log-probabilities.
    """
    from transformers import AutoConfig

    folder.mkdir(parents=True)
    tokenizer(folder)
    architecture, changes = LANGUAGES[kind]
    saved_tokenizer = load_tokenizer(str(folder))
    rows = len(saved_tokenizer)
    model = tiny_from(AutoConfig.for_model(architecture, **{**SIZE, "vocab_size": rows, **changes}))
    texts = [saved_tokenizer.decode([number], skip_special_tokens=True) for number in range(rows)]
    silent = [number for number, text in enumerate(texts) if not (text and text.isascii() and text.isprintable())]
    with torch.no_grad():
        model.get_output_embeddings().weight[silent] = 0
    model.save_pretrained(folder)


def save_tower(folder: Path, kind: str, **changes: Any) -> None:
    """Write a tower of random weights, none of them zero or one, with its image processor."""
    from transformers import (
        AutoConfig,
        AutoModel,
        CLIPImageProcessorPil,
        CLIPVisionModel,
        SiglipImageProcessorPil,
        SiglipVisionModel,
    )

    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **{**TOWER, "image_size": SIDE, **changes})
    kinds: dict[str, Any] = {"clip_vision_model": CLIPVisionModel, "siglip_vision_model": SiglipVisionModel}
    tower = kinds[kind](config) if kind in kinds else AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tower.save_pretrained(folder)
    side = {"height": SIDE, "width": SIDE}
    stretches = kind == "siglip_vision_model"
    rules = SiglipImageProcessorPil(size=side, resample=3) if stretches else CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=side)  # fmt: skip
    rules.save_pretrained(folder)


@pytest.fixture
def saved(tmp_path: Path) -> Make:
    """Write a model folder of random weights."""

    def make(
        language: str = "llama",
        tower: str = "siglip_vision_model",
        tower_changes: dict[str, Any] | None = None,
        tokenizer: Callable[[Path], None] = make_tokenizer,
        lora: Lora | None = None,
        trained: Sequence[str] = ("projector",),
        **choices: Any,
    ) -> Path:
        save_language(tmp_path / "language", language, tokenizer)
        save_tower(tmp_path / "vision", tower, **(tower_changes or {}))
        named = {"vision": str(tmp_path / "vision"), "language": str(tmp_path / "language"), "feature_norm": "off",
                 "projector": "mlp2x_gelu", "template": "v1", **choices}  # fmt: skip
        recipe = Recipe(model=Model(**named), stages=(Stage(name="tune", learn={"projector": 1e-3}, steps=1),))
        spec = read_spec(recipe.model)
        model = build(recipe.model, spec, seed=1)
        if lora is not None:
            model.language = add_adapters(model.language, lora)
        with torch.no_grad():
            for parameter in model.projector.parameters():
                parameter.mul_(2)
            for part in set(trained) - {"projector"}:
                for _, parameter in model.parts()[part]:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        processor = Processor(load_tokenizer(recipe.model.language), spec)
        checkpoint.save(
            tmp_path / "model", model, processor, recipe=recipe, tensors=checkpoint.snapshot(model, trained)
        )
        return tmp_path / "model"

    return make


def loaded(folder: Path) -> Assistant:
    return Assistant(*checkpoint.load(folder, dtype=torch.float32, device="cpu"))


def asked(question: str, *images: Image.Image) -> list[dict[str, Any]]:
    shown = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]


def tokens_before_tie(ours: Assistant, messages: list[dict[str, Any]]) -> int:
    """Return how many tokens of our answer are certain: rounding can swap two tokens that are equally likely."""
    steps = probe_ours(ours, {"probe": messages})["probe"].steps
    assert steps is not None
    best, second = torch.log_softmax(steps.float(), dim=-1).topk(2).values.unbind(-1)
    ties = (best - second < 2e-3).nonzero()
    return int(ties[0]) if len(ties) else len(steps)


def furthest(ours: Assistant, server: LlamaServer, question: str, *images: Image.Image, tokens: int = 12) -> float:
    """Return the largest difference of a log-probability at the first token; the answers must be equal until a tie."""
    tokens = min(tokens, tokens_before_tie(ours, asked(question, *images)))
    assert tokens >= 3
    reply = server.ask(question, *images, tokens=tokens)
    logits = ours.logits(asked(question, *images))
    assert reply.prompt_tokens == len(logits)
    mine = torch.log_softmax(logits[-1].float(), dim=-1)
    answer = ours.chat(asked(question, *images), max_tokens=tokens)
    assert reply.text.strip() == answer.text
    return max(abs(value - float(mine[token])) for token, value in reply.first.items())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let every write behind `size` bytes of a file fail, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("language", LANGUAGES)
def test_language_models_give_the_same_answers_in_llama_cpp(saved: Make, tmp_path: Path, language: str) -> None:
    folder = saved(language)
    exported = export_gguf(folder, tmp_path / "out", kind="f32")
    ours, server = loaded(folder), LlamaServer(tmp_path / "out")
    image = probe_image().resize((SIDE, SIDE))
    exact = 5e-3 if language == "gemma3" else 1e-4  # llama.cpp rounds Gemma's GELU to f16
    assert max(furthest(ours, server, question) for question in QUESTIONS) < exact
    assert max(furthest(ours, server, question, image) for question in QUESTIONS) < 2e-2
    stages = [item.stage for item in exported.differences if item.stage != "tokenizer"]  # Qwen2's normalises text
    assert stages == ["projector", "resize"]


@pytest.mark.parametrize(
    "choices",
    [
        {"feature_layer": -1},
        {"feature_layer": (-1, -3)},
        {"feature_norm": "tower"},
        {"template": "chatml"},
        {"image_mode": "pad"},
    ],
    ids=str,
)
def test_a_siglip_tower_gives_the_same_features_in_llama_cpp(
    saved: Make, tmp_path: Path, choices: dict[str, Any]
) -> None:
    def with_turn_tokens(folder: Path) -> None:
        make_tokenizer(folder)
        tokenizer = load_tokenizer(str(folder))
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.save_pretrained(str(folder))

    folder = saved(tokenizer=with_turn_tokens, **choices)
    export_gguf(folder, tmp_path / "out", kind="f32")
    ours, server = loaded(folder), LlamaServer(tmp_path / "out")
    small = probe_image().resize((SIDE, SIDE))
    assert furthest(ours, server, QUESTIONS[0], small) < 2e-2
    assert furthest(ours, server, QUESTIONS[1], probe_image().resize((100, 100))) < 2e-2  # square: resized alike
    assert furthest(ours, server, QUESTIONS[2], small, small.rotate(90)) < 2e-2


@pytest.mark.parametrize("size", [(64, 40), (90, 32), (33, 70)])
def test_an_image_that_is_not_square_is_resized_as_named(saved: Make, tmp_path: Path, size: tuple[int, int]) -> None:
    """llama.cpp resizes it to the tower's side and pads it with CLIP's mean colour; our model pads first."""
    folder = saved(image_mode="pad")
    exported = export_gguf(folder, tmp_path / "out", kind="f32")
    assert "pads it with the colour (122, 116, 104); this model pads first, with (127, 127, 127)" in "".join(
        item.what for item in exported.differences
    )
    image = probe_image().resize(size)
    scale = SIDE / max(size)
    resized = image.resize((math.ceil(size[0] * scale), math.ceil(size[1] * scale)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (SIDE, SIDE), PADDING)
    canvas.paste(resized, ((SIDE - resized.width) // 2, (SIDE - resized.height) // 2))
    reply = LlamaServer(tmp_path / "out").ask(QUESTIONS[0], image, tokens=1)
    mine = torch.log_softmax(loaded(folder).logits(asked(QUESTIONS[0], canvas))[-1].float(), dim=-1)
    assert max(abs(value - float(mine[token])) for token, value in reply.first.items()) < 0.05


@pytest.mark.parametrize(
    ("tower", "changes"),
    [
        ("clip_vision_model", {}),
        ("clip_vision_model", {"hidden_act": "gelu"}),
        ("dinov2", {"layerscale_value": 0.7}),
        ("dinov2", {"image_size": 48}),  # its positions are interpolated to the images' side
    ],
)
def test_a_tower_with_a_class_token_is_computed_with_the_named_difference(
    saved: Make, tmp_path: Path, tower: str, changes: dict[str, Any]
) -> None:
    """The features are ours in this order: every patch but the first, then the class token."""
    folder = saved(tower=tower, tower_changes=changes)
    exported = export_gguf(folder, tmp_path / "out", kind="f32")
    assert exported.differences[0].stage == "tower"
    assert "25814" in exported.differences[0].what
    ours, server = loaded(folder), LlamaServer(tmp_path / "out")
    image = probe_image().resize((SIDE, SIDE))
    tower_features: Any = ours.model.vision._features

    def as_in_llama_cpp(state: torch.Tensor) -> torch.Tensor:
        ours.model.vision.has_class_slot = True
        with_class: torch.Tensor = tower_features(state)
        return torch.cat([with_class[:, 2:], with_class[:, :1]], dim=1)

    ours.model.vision._features = as_in_llama_cpp  # type: ignore[method-assign]
    tokens = 3 if tower == "dinov2" else 12  # its GELU is approximated, and later tokens of random models are near ties
    assert max(furthest(ours, server, question, image, tokens=tokens) for question in QUESTIONS) < 2e-2


def test_the_class_token_can_come_first(saved: Make, tmp_path: Path) -> None:
    import gguf

    folder = saved(tower="clip_vision_model")
    own = loaded(folder).model.vision.towers[0].body.embeddings.position_embedding.weight.detach()
    for position, expected in (("first", own), ("last", own.roll(-1, 0))):
        exported = export_gguf(folder, tmp_path / position, kind="f16", class_position=position)
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(exported.projector).tensors}
        written = torch.tensor(tensors["v.position_embd.weight"].data.copy())
        torch.testing.assert_close(written, expected)


def test_a_sentencepiece_tokenizer_gives_the_same_ids(saved: Make, tmp_path: Path) -> None:
    folder = saved(tokenizer=save_small_llama)
    export_gguf(folder, tmp_path / "out", kind="f32")
    ours, server = loaded(folder), LlamaServer(tmp_path / "out")
    image = probe_image().resize((SIDE, SIDE))
    for question in QUESTIONS:
        assert furthest(ours, server, question) < 1e-3
        assert furthest(ours, server, question, image) < 2e-2


STRINGS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '<image>' }}{% else %}{{ p['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", ["v0", "v1", "llama_2", "chatml", STRINGS, PARTS])
def test_llama_cpp_renders_the_chat_template_as_we_do(saved: Make, tmp_path: Path, template: str) -> None:
    """A conversation of three turns with a system message and two images, as token ids."""

    def with_template(folder: Path) -> None:
        make_tokenizer(folder)
        tokenizer: Any = load_tokenizer(str(folder))
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = template if "{" in template else None
        tokenizer.save_pretrained(str(folder))

    folder = saved(tokenizer=with_template, template="tokenizer" if "{" in template else template)
    export_gguf(folder, tmp_path / "out", kind="f32")
    server, processor = LlamaServer(tmp_path / "out"), loaded(folder).processor
    image = probe_image().resize((SIDE, SIDE))
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Answer briefly."},
        *asked("What colour is the circle?", image),
        {"role": "assistant", "content": "red"},
        *asked("Where is the blue square?"),
        {"role": "assistant", "content": "at the top"},
        *asked("이 그림에는 원이 있습니다.", image),
    ]
    shown = processor.encode_prompt(read_messages(messages))
    expected = [token for token in shown.input_ids.tolist() if token != IMAGE_ID]
    prompt, mark = server.rendered(messages)
    pieces = prompt.split(mark)
    assert len(pieces) == 3
    begin = [1] if expected[0] == 1 else []
    written = [token for piece in pieces for token in server.ids(piece, special=True)]
    assert begin + written[written[:1] == begin :] == expected


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_smaller_types_are_near(saved: Make, tmp_path: Path, kind: str) -> None:
    folder = saved()
    exported = export_gguf(folder, tmp_path / "out", kind=kind)
    assert exported.language.stat().st_size > 0
    reply = LlamaServer(tmp_path / "out").ask(QUESTIONS[0], probe_image().resize((SIDE, SIDE)))
    logits = loaded(folder).logits(asked(QUESTIONS[0], probe_image().resize((SIDE, SIDE))))
    mine = torch.log_softmax(logits[-1].float(), dim=-1)
    assert max(abs(value - float(mine[token])) for token, value in reply.first.items()) < 0.5


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"projector": "linear"}, "no projector linear.*model.projector=mlp2x_gelu"),
        ({"projector": "shuffle2x2_mlp2x_gelu"}, "no projector shuffle2x2_mlp2x_gelu"),
        ({"projector": "pool2x2_mlp2x_gelu"}, "no projector pool2x2_mlp2x_gelu"),
        ({"image_mode": "anyres"}, "newline vector.*model.image_mode=square"),
        ({"tower": "clip_vision_model", "feature_tokens": "cls_patch"}, "drops the class token"),
        ({"tower": "vit"}, "does not know the tower 'vit'.*siglip_vision_model"),
        ({"feature_norm": "layer_norm"}, "tower's epsilon"),
        ({"feature_norm": "tower", "feature_layer": (-1, -2)}, "only the last of several feature layers"),
    ],
    ids=str,
)
def test_what_llama_cpp_cannot_compute_is_refused(
    saved: Make, tmp_path: Path, choices: dict[str, Any], message: str
) -> None:
    folder = saved(**choices)
    with pytest.raises(RecipeError, match=message):
        export_gguf(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("olmo2", {}, "'olmo2' is not supported.*llama"),
        ("gemma3_text", {"query_pre_attn_scalar": 32}, "query_pre_attn_scalar 32"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "use_sliding_window"),
        ("llama", {"hidden_act": "relu"}, "activation 'relu'"),
    ],
)
def test_other_language_models_and_settings_are_refused(
    saved: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setitem(LANGUAGES, "other", (architecture, changes))
    with pytest.raises(RecipeError, match=message):
        export_gguf(saved("other"), tmp_path / "out")


def test_adapters_are_merged_when_asked(saved: Make, tmp_path: Path) -> None:
    folder = saved(lora=Lora(rank=4, alpha=8), trained=("adapters", "projector"))
    with pytest.raises(RecipeError, match=r"has adapters, which --layout gguf cannot store.*add --merge"):
        export_gguf(folder, tmp_path / "out")
    exported = export_gguf(folder, tmp_path / "out", kind="f32", merge=True)
    assert {row.probe.partition(":")[0] for row in exported.merged} == {"merge"}
    assert furthest(loaded(folder), LlamaServer(tmp_path / "out"), QUESTIONS[0]) < 1e-3


def test_a_trained_tower_is_exported(saved: Make, tmp_path: Path) -> None:
    """A trained tower is stored up to its feature layer only, and llama.cpp needs no more."""
    folder = saved(trained=("vision", "projector", "language"), feature_layer=-2)
    export_gguf(folder, tmp_path / "out", kind="f32")
    image = probe_image().resize((SIDE, SIDE))
    assert furthest(loaded(folder), LlamaServer(tmp_path / "out"), QUESTIONS[0], image, tokens=4) < 2e-2


def test_a_tokenizer_that_splits_otherwise_is_named_with_its_share(saved: Make, tmp_path: Path) -> None:
    """The built-in tokenizer separates Korean particles, which no pre-tokenizer of llama.cpp does."""

    def separating(folder: Path) -> None:
        make_tokenizer(folder)
        tree = json.loads((folder / "tokenizer.json").read_text())
        particles = {"type": "Split", "pattern": {"Regex": "(?:은|는|이|에는)(?=[\\s.,?!]|$)"}, "behavior": "Isolated",
                     "invert": False}  # fmt: skip
        tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [particles, tree["pre_tokenizer"]]}
        (folder / "tokenizer.json").write_text(json.dumps(tree))

    exported = export_gguf(saved(tokenizer=separating), tmp_path / "out")
    [difference] = [item for item in exported.differences if item.stage == "tokenizer"]
    assert "gpt-2 gives other tokens for" in difference.what


def test_nothing_is_left_behind(saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = saved(), tmp_path / "out"
    with pytest.raises(RecipeError, match="--type 'q9' is not known"):
        export_gguf(folder, out, kind="q9")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match="q4_k_m needs llama-quantize"):
        export_gguf(folder, out, kind="q4_k_m")

    with files_of_at_most(20_000), pytest.raises(DiskError, match="out: cannot be written: "):
        export_gguf(folder, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["language", "model", "vision"]
    out.mkdir()
    with pytest.raises(RecipeError, match="out: already exists"):
        export_gguf(folder, out)


def test_the_quantizer_of_llama_cpp_writes_smaller_types(
    saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of that name gets the f16 file, the file to write and the type; its error ends the export."""
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] || { echo "unknown type $3" >&2; exit 1; }\ncp "$1" "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    folder = saved()
    exported = export_gguf(folder, tmp_path / "out", kind="q4_k_m")
    assert exported.language.name == "model-q4_k_m.gguf"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "Modelfile", "README.md", "certificate.json", "mmproj-model-f16.gguf", "model-q4_k_m.gguf"]  # fmt: skip
    with pytest.raises(CheckpointError, match="llama-quantize failed: unknown type Q6_K"):
        export_gguf(folder, tmp_path / "other", kind="q6_k")
    assert not (tmp_path / "other").exists()


def test_the_files_for_ollama_say_what_the_template_writes(saved: Make, tmp_path: Path) -> None:
    exported = export_gguf(saved(), tmp_path / "out")
    written = (tmp_path / "out" / "Modelfile").read_text()
    assert written.startswith("FROM ./model-f16.gguf\nFROM ./mmproj-model-f16.gguf\n")
    assert "USER: {{ end }}" in written
    assert " ASSISTANT:" in written
    readme = (tmp_path / "out" / "README.md").read_text()
    for command in (
        "llama-server -m model-f16.gguf --mmproj mmproj-model-f16.gguf",
        "llama-mtmd-cli -m",
        "ollama create",
    ):
        assert command in readme
    assert all(item.what in readme for item in exported.differences)


def test_the_result_is_json(saved: Make, tmp_path: Path) -> None:
    exported = export_gguf(saved(), tmp_path / "out")
    assert isinstance(exported, GgufExport)
    tree = json.loads(json.dumps(exported.to_dict()))
    assert tree["type"] == "f16"
    assert {item["stage"] for item in tree["differences"]} == {"projector", "resize"}


def test_gguf_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(VistuneError, match=r"needs the package gguf.*vistune\[gguf\]"):
        gguf_module.export_gguf(tmp_path, tmp_path / "out")


def test_the_tokenizers_texts_have_the_same_ids(saved: Make, tmp_path: Path) -> None:
    folder = saved()
    export_gguf(folder, tmp_path / "out", kind="f32")
    server, tokenizer = LlamaServer(tmp_path / "out"), load_tokenizer(str(folder / "tokenizer"))
    for text in TEXTS:
        assert server.ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
