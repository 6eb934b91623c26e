"""Run the certificate of an export in another program or with today's libraries; name the first stage that differs.

`verify` is the entry. `verify_stages` compares programs that show every stage; `verify_server` compares servers.
"""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vistune.errors import CheckpointError, RecipeError, reason_of
from vistune.files import read_json
from vistune.generation import greedy_batch, read_messages
from vistune.interop.agreement import Agreement
from vistune.interop.certificate import POSITIONS, Certificate, library_versions, read_certificate
from vistune.interop.folders import read_tensors, readable_config
from vistune.interop.layouts import adapters_base
from vistune.interop.load import load
from vistune.interop.parity import (
    GREEDY_SETTINGS,
    GREEDY_TOKENS,
    batch_inputs,
    generate_greedily,
    probe_ours,
    probe_transformers,
)
from vistune.interop.server_client import OpenAIServer, serve_gguf
from vistune.interop.verify_server import compare_server, gguf_changes
from vistune.interop.verify_stages import DIFFERS, ProgramResults, StageResult, compare_stages
from vistune.model.precision import resolve_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

OURS, TRANSFORMERS, LLAMA_CPP = "vistune", "transformers", "llama.cpp"
REMEDIES = {
    "template": "give the program the chat template of the export",
    "tokenizer": "give the program the tokenizer files of the export",
    "resize": "compare the image processor's settings with those of the export",
    "tower": "export the model again, or use another version of the program",
    "projector": "export the model again, or use another version of the program",
    "language model": "export the model again, or use another version of the program",
    "sampler": "ask for greedy answers (temperature 0, no penalties), and compare the end tokens",
}


@dataclass(frozen=True, slots=True)
class WeightReport:
    """How transformers used the stored weights.

    Attributes:
        renamed: Number of stored tensors that got another name.
        missing: Weights that are not stored, and were newly initialised.
        unexpected: Stored tensors that were not used.
        mismatched: Weights that are stored with another shape, and were newly initialised.
    """

    renamed: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The comparison of a program with the certificate of an export.

    Attributes:
        model: The export.
        program: vistune, transformers, llama.cpp, or the URL of a server.
        stages: One result per stage, in order.
        agreement: For quantized weights: equal answers and KL divergence.
        weights: How transformers used the stored weights; None if it did not load them.
        versions: Versions of libraries that changed since the export: then and now.
    """

    model: Path
    program: str
    stages: tuple[StageResult, ...]
    agreement: Agreement | None = None
    weights: WeightReport | None = None
    versions: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def first_difference(self) -> StageResult | None:
        """The first stage that differs; None if none does."""
        return next((stage for stage in self.stages if stage.status == DIFFERS), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `vistune verify --json` prints it."""
        first = self.first_difference
        return {
            "model": str(self.model),
            "program": self.program,
            "equal": first is None,
            "first_difference": None if first is None else first.stage,
            "stages": [asdict(stage) for stage in self.stages],
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "weights": None if self.weights is None else asdict(self.weights),
            "versions": {name: {"then": then, "now": now} for name, (then, now) in self.versions.items()},
        }

    def require_equal(self) -> None:
        """Raise CheckpointError that names the first stage that differs."""
        if (first := self.first_difference) is not None:
            raise CheckpointError(
                f"{self.model}: {self.program} first differs at the stage {first.stage}: {first.detail}",
                REMEDIES[first.stage],
            )


def verify(folder: Path, program: str | None = None, *, device: str = "auto") -> VerifyResult:
    """Run the certificate of an export in a program.

    Args:
        folder: An export with its certificate.json.
        program: `transformers`, `llama.cpp` or the URL of an OpenAI-compatible server; by default vistune's own engine.
        device: Where vistune and transformers compute: `auto`, `cpu` or `cuda`.

    Raises:
        CheckpointError: The folder has no certificate, or a program cannot load the model.
        RecipeError: The program is not known, cannot read this layout, or is not installed.
        TeacherError: The server does not answer.
    """
    certificate = read_certificate(folder)
    agreement: Agreement | None = None
    weights: WeightReport | None = None
    if program is None:
        require_layout(certificate, "vistune", ("llava-hf", "llava-original", "peft"))
        stages = compare_stages(certificate, run_ours(folder, certificate, device))
        weights = weight_report(folder) if certificate.layout == "llava-hf" else None
    elif program == TRANSFORMERS:
        require_layout(certificate, program, ("llava-hf", "peft"))
        results, weights = run_transformers(folder, certificate, device)
        stages = compare_stages(certificate, results)
    elif program == LLAMA_CPP:
        require_layout(certificate, program, ("gguf",))
        server = serve_gguf(folder, certificate.longest)
        stages, agreement = compare_server(certificate, server, gguf_changes(folder, certificate))
    elif program.startswith(("http://", "https://")):
        stages, agreement = compare_server(certificate, OpenAIServer(program))
    else:
        raise RecipeError(f"--with {program!r} is not known", "use transformers, llama.cpp or the URL of a server")
    now = library_versions()
    changed = {
        name: (then, now.get(name, "not installed"))
        for name, then in certificate.versions.items()
        if then != now.get(name)
    }
    return VerifyResult(folder, program or OURS, stages, agreement, weights, changed)


def require_layout(certificate: Certificate, program: str, layouts: tuple[str, ...]) -> None:
    """Raise RecipeError if a program does not read the layout of an export."""
    if certificate.layout not in layouts:
        other = "--with llama.cpp" if certificate.layout == "gguf" else "no --with"
        raise RecipeError(
            f"{program} does not read the layout {certificate.layout}",
            f"use {other} or the URL of a server, or export --layout {layouts[0]}",
        )


def run_ours(folder: Path, certificate: Certificate, device: str) -> ProgramResults:
    """Run the probes in vistune's own engine."""
    device = resolve_device(device)
    dtype = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[certificate.computed]
    assistant = load(folder, device=device, dtype="fp32" if device == "cpu" else dtype)
    messages = certificate.messages()
    probed = {name: messages[name] for name in certificate.batch}
    prompts = [assistant.processor.encode_prompt(read_messages(probed[name])) for name in probed]
    tokens = greedy_batch(assistant.model, prompts, POSITIONS)
    processor = assistant.processor
    ends = (tuple(sorted(processor.stop_ids)), processor.stop_text)
    expected = (certificate.stop_ids, certificate.stop_text)
    return ProgramResults(
        results=probe_ours(assistant, probed, certificate.answers),
        batch=dict(zip(probed, tokens, strict=True)),
        sampler_fault="" if ends == expected else f"answers end at {ends}, expected {expected}",
    )


def run_transformers(folder: Path, certificate: Certificate, device: str) -> tuple[ProgramResults, WeightReport]:
    """Run the probes in transformers, with its own classes for model and processor."""
    from transformers import AutoProcessor

    device = resolve_device(device)
    dtype = torch.float32 if device == "cpu" else getattr(torch, certificate.computed)
    whole = folder
    if certificate.layout == "peft":
        whole = adapters_base(folder, str(read_json(folder / "adapter_config.json").get("base_model_name_or_path")))
    with readable_config(folder):
        model, report = _load_model(whole, dtype=dtype)
        if whole != folder:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder))
        processor = AutoProcessor.from_pretrained(str(whole), backend="pil")
    model = model.eval().to(device)
    messages = certificate.messages()
    probed = {name: messages[name] for name in certificate.batch}
    results = probe_transformers(model, processor, probed, model.config.image_token_id, certificate.answers)
    batch, fault = _batch_of(model, processor, certificate)
    program = ProgramResults(results, batch, fault, _sampler_fault(model, processor, certificate))
    del model
    gc.collect()
    return program, report


def _load_model(folder: Path, **settings: Any) -> tuple[Any, WeightReport]:
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(str(folder), output_loading_info=True, **settings)
    unexpected = tuple(sorted(info["unexpected_keys"]))
    renamed = set(read_tensors(folder)) - set(model.state_dict()) - set(unexpected)
    mismatched = tuple(sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]))
    return model, WeightReport(len(renamed), tuple(sorted(info["missing_keys"])), unexpected, mismatched)


def weight_report(folder: Path) -> WeightReport:
    """Return how transformers uses the stored weights; they are not read."""
    with readable_config(folder):
        return _load_model(folder, device_map="meta")[1]


def _batch_of(
    model: PreTrainedModel, processor: ProcessorMixin, certificate: Certificate
) -> tuple[dict[str, list[int]], str]:
    """Return the greedy tokens of the probes in one batch, and why there is no batch."""
    messages = certificate.messages()
    try:
        inputs = batch_inputs(model, processor, [messages[name] for name in certificate.batch])
        if not bool(inputs["attention_mask"][:, -1].all()):
            return {}, "a batch is padded on the right, so that answers would follow the padding (padding_side)"
        tokens, _ = generate_greedily(model, inputs, POSITIONS)
    except (ValueError, RuntimeError, IndexError) as error:
        return {}, f"a batch fails: {reason_of(error)}"
    return dict(zip(certificate.batch, tokens, strict=True)), ""


def _sampler_fault(model: PreTrainedModel, processor: ProcessorMixin, certificate: Certificate) -> str:
    """Return how the folder's generation config gives other answers than greedy ones."""
    config = model.generation_config
    for name, expected in GREEDY_SETTINGS.items():
        if name != "eos_token_id" and (value := getattr(config, name, None)) not in (None, expected):
            return f"generation_config.json: {name} is {value}, greedy answers need {expected}"
    ends = config.eos_token_id
    listed = tuple(sorted([ends] if isinstance(ends, int) else ends or ()))
    if listed != certificate.stop_ids:
        return f"generation_config.json: answers end at tokens {list(listed)}, expected {list(certificate.stop_ids)}"
    if certificate.stop_text and certificate.stop_text not in (getattr(config, "stop_strings", None) or ()):
        return f"generation_config.json: stop_strings lacks {certificate.stop_text!r}, which ends an answer"
    name = next(name for name in certificate.batch if not certificate.conversations[name].image_name)
    record = certificate.conversations[name]
    try:
        inputs = processor.apply_chat_template(
            certificate.messages()[name],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ).to(model.device)  # fmt: skip
        with torch.inference_mode():
            generated = model.generate(
                **inputs, max_new_tokens=GREEDY_TOKENS, tokenizer=getattr(processor, "tokenizer", None)
            )
    except (ValueError, RuntimeError, IndexError) as error:
        return f"generate fails: {reason_of(error)}"
    answer = generated[0, inputs["input_ids"].shape[1] :].tolist()
    expected_tokens = list(record.tokens[: record.length])
    if answer != expected_tokens and certificate.computed == "float32":
        return f"{name}: by its own settings the answer is {answer}, expected {expected_tokens}"
    return ""
