"""A certificate is compared with servers: llama.cpp's own, vistune's, and those that answer wrongly or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from verified_models import save_model

import vistune
from vistune.interop.export import export_model
from vistune.interop.gguf_parts import gguf_files
from vistune.interop.verify import VerifyResult

pytest.importorskip("gguf", reason="needs the extra gguf: pip install 'vistune[gguf]'")
from vistune.interop.gguf import export_gguf

Fault = Callable[[Path], None]


@pytest.fixture(scope="module")
def model(towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return save_model(folder, towers / "siglip", readable=True, image_mode="square")


@pytest.fixture(scope="module")
def hf(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "hf"
    export_model(model, out, layout="llava-hf")
    return out


@pytest.fixture(scope="module")
def gguf(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "gguf"
    export_gguf(model, out, kind="f32")
    return out


def statuses(result: VerifyResult) -> dict[str, str]:
    return {stage.stage: stage.status for stage in result.stages}


def tensors(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    return {tensor.name: tensor.data for tensor in GGUFReader(path, "r+").tensors}


def swap(path: Path, kind: str) -> None:
    """Swap queries and keys in a file's layers."""
    found = tensors(path)
    names = [name for name in found if f"attn_q.{kind}" in name]
    assert names
    for name in names:
        query, key = found[name], found[name.replace("attn_q", "attn_k")]
        kept = np.array(query)
        query[:], key[:] = key, kept


def wrong_mean(folder: Path) -> None:
    from gguf import GGUFReader

    field = GGUFReader(gguf_files(folder)[1], "r+").fields["clip.vision.image_mean"]
    for index in field.data:
        field.parts[index][:] = 0.1


def wrong_projector(folder: Path) -> None:
    tensors(gguf_files(folder)[1])["mm.2.weight"][:] *= -1


def other_template(folder: Path) -> None:
    path = gguf_files(folder)[0]
    data = path.read_bytes()
    assert data.count(b"USER: ") == 1
    path.write_bytes(data.replace(b"USER: ", b"User: "))


FAULTS: dict[str, tuple[str, Fault]] = {
    "template": ("template", other_template),
    "mean": ("resize", wrong_mean),
    "swapped q and k in the tower": ("tower", lambda folder: swap(gguf_files(folder)[1], "weight")),
    "projector": ("projector", wrong_projector),
    "swapped q and k in the language model": ("language model", lambda folder: swap(gguf_files(folder)[0], "weight")),
}


def test_a_gguf_export_is_equal_in_llama_cpp(gguf: Path) -> None:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, a prebuilt llama.cpp")
    result = vistune.verify(gguf, "llama.cpp")
    assert result.first_difference is None, result.stages
    assert statuses(result) == {
        "template": "equal", "tokenizer": "equal", "resize": "known difference", "tower": "equal",
        "projector": "known difference", "language model": "equal", "sampler": "equal"}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_gguf_file_is_named_by_its_stage(gguf: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, a prebuilt llama.cpp")
    stage, plant = FAULTS[name]
    plant(shutil.copytree(gguf, tmp_path / "gguf"))
    result = vistune.verify(tmp_path / "gguf", "llama.cpp")
    assert result.first_difference is not None
    assert result.first_difference.stage == stage, result.stages


def test_quantized_weights_are_judged_by_an_interval(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, a prebuilt llama.cpp")
    export_gguf(model, tmp_path / "out", kind="f16")
    result = vistune.verify(tmp_path / "out", "llama.cpp")
    assert result.first_difference is None, result.stages
    agreement = result.agreement
    assert agreement is not None
    assert agreement.divergence is not None
    assert agreement.conversations == 13  # the three with a wide image are a known difference
    assert 0.6 <= agreement.answers.low <= agreement.answers.mean <= agreement.answers.high <= 1
    assert 0 <= agreement.divergence.low <= agreement.divergence.mean <= agreement.divergence.high <= 0.1
    swap(gguf_files(tmp_path / "out")[0], "weight")
    worse = vistune.verify(tmp_path / "out", "llama.cpp")
    assert worse.first_difference is not None
    assert worse.first_difference.stage == "language model"
    assert worse.agreement is not None
    assert not worse.agreement.holds
