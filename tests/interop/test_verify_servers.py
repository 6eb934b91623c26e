"""A certificate is compared with servers: llama.cpp's own, vistune's, and those that answer wrongly or not at all."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_servers import running
from verified_models import save_model

import vistune
from vistune.errors import RecipeError, TeacherError, VistuneError
from vistune.interop.certificate import FILE
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


def test_vistunes_server_is_compared_by_its_log_probabilities(hf: Path) -> None:
    assistant: Any = vistune.load(hf, device="cpu")
    with running(assistant) as server:
        result = vistune.verify(hf, f"{server.server.address}/v1/")
        assert result.first_difference is None, result.stages
        assert [statuses(result)[stage] for stage in ("template", "tokenizer", "language model", "sampler")] == [
            "not seen", "equal", "equal", "equal"]  # fmt: skip
        assert result.agreement is None, "equal within rounding, not only similar"


def test_a_server_of_a_changed_model_differs_in_the_language_model(hf: Path) -> None:
    assistant: Any = vistune.load(hf, device="cpu")
    for name, parameter in assistant.model.language.named_parameters():
        if "mlp.down_proj" in name:
            parameter.data.neg_()
    with running(assistant) as server:
        result = vistune.verify(hf, server.server.address)
    assert result.first_difference is not None
    assert result.first_difference.stage == "language model", result.stages


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Serve the same response to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, b"<html>nothing</html>", RecipeError, "/v1/models answers HTTP 404: <html>.*/v1/chat/completions"),
        (200, b"<html>hello</html>", RecipeError, "/v1/models does not answer with JSON"),
        (200, b'{"data": []}', RecipeError, "/v1/models lists no model"),
        (200, b'{"data": [{"id": "m"}]}', RecipeError, "/v1/chat/completions gives no answer in OpenAI's form"),
        (401, b"{}", RecipeError, "refuses the request: HTTP 401.*OPENAI_API_KEY"),
        (503, b"overloaded", TeacherError, "/v1/models fails: HTTP 503: overloaded"),
    ],
)
def test_a_server_that_is_not_openais_is_one_clear_line(
    hf: Path, status: int, body: bytes, kind: type[VistuneError], message: str
) -> None:
    with answering(status, body) as url, pytest.raises(kind, match=message) as caught:
        vistune.verify(hf, url)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_ends_with_5(hf: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    with pytest.raises(TeacherError, match=r"the server does not answer: .*start the server") as caught:
        vistune.verify(hf, f"http://127.0.0.1:{port}")
    assert caught.value.exit_code == 5


def test_programs_refuse_layouts_that_they_do_not_read(hf: Path, gguf: Path) -> None:
    with pytest.raises(RecipeError, match=r"llama.cpp does not read the layout llava-hf.*--layout gguf"):
        vistune.verify(hf, "llama.cpp")
    with pytest.raises(RecipeError, match=r"transformers does not read the layout gguf.*--with llama.cpp"):
        vistune.verify(gguf, "transformers")
    with pytest.raises(RecipeError, match="vistune does not read the layout gguf"):
        vistune.verify(gguf)


def test_a_gguf_folder_without_its_projector_is_named(gguf: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(gguf, tmp_path / "gguf")
    gguf_files(folder)[1].unlink()
    with pytest.raises(VistuneError, match="has 1 language models and 0 files mmproj"):
        vistune.verify(folder, "llama.cpp")
    assert (folder / FILE).is_file()
