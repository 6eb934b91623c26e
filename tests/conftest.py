"""What every room's tests share: the fixtures folder, a real tiny tokenizer, real tiny backbones, a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tiny_tokenizer import make_tokenizer

# No test is timed: on a loaded machine making examples up takes as long as it takes.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

SHARED = Path(__file__).parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """A machine's GPU is for `-m gpu` alone: all other tests run as they do where there is none."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures beside the project; what needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent: fixtures of real photographs and official files are not here")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep nothing in the user's cache; what a test starts as a process of its own shares it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Llama tokenizer that is trained here."""
    from small_llama import save_small_llama

    folder = tmp_path_factory.mktemp("small_llama")
    save_small_llama(folder)
    return folder


@pytest.fixture(scope="session", params=["small", "Llama 2"])
def llama(request: pytest.FixtureRequest) -> Path:
    """The folder of a Llama tokenizer: a small one that is trained here, and Llama 2's own, which ../shared holds."""
    if request.param == "small":
        return request.getfixturevalue("small_llama")
    return request.getfixturevalue("shared") / "data" / "llama-tokenizer"


@pytest.fixture(scope="session", params=["small", "of ../shared"])
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with known numbers: small ones by transformers' classes, and those that ../shared holds."""
    from small_golden import save_golden

    if request.param != "small":
        return request.getfixturevalue("shared") / "golden"
    folder = tmp_path_factory.mktemp("golden")
    save_golden(folder)
    return folder


@pytest.fixture(scope="session", params=["drawn", "photographs"])
def coco_mini(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in COCO's layout: drawn images with invented captions, and the photographs that ../shared holds."""
    from drawn_coco import save_drawn_coco

    if request.param == "drawn":
        return save_drawn_coco(tmp_path_factory.mktemp("coco") / "coco-mini")
    return request.getfixturevalue("shared") / "data" / "coco-mini"


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vision/` (CLIP, 32x32 pixels, patch 16: 4 slots) and `language/` (Llama and its tokenizer), random weights."""
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=16
    )
    CLIPVisionModel(vision).save_pretrained(folder / "vision")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder / "vision"
    )
    language = LlamaConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=400,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(language).save_pretrained(folder / "language")
    make_tokenizer(folder / "language")
    return folder


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clip/ joint_clip/ siglip/ joint_siglip/ naflex/`, random weights: see tiny_towers."""
    from tiny_towers import save_towers

    folder = tmp_path_factory.mktemp("towers")
    save_towers(folder)
    return folder


@pytest.fixture(
    scope="module"
)  # not longer: while playwright runs, this thread has an event loop that others would meet
def chromium() -> Iterator[Any]:
    """Debian's Chromium; what needs it is skipped where it, or playwright, is absent."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is absent: pip install playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is absent: apt-get install chromium fonts-noto-cjk")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
