"""The files of the web page and its sample images, which need no API key."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from vistune.grounding import Scene, ask
from vistune.scenes import render, scenes_of
from vistune.serving.api.run_samples import RunSample
from vistune.translations import catalogue

FOLDER = Path(__file__).parents[1] / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
FILES = {"/": "index.html", **{f"/page/{path.name}": path.name for path in FOLDER.iterdir() if path.suffix in TYPES}}
SAMPLE_SCENES = {3: "colour", 10: "count", 0: "detail"}  # number of the scene -> kind of its question
DETAIL = {"en": "Describe the picture in detail.", "ko": "이 그림을 빠짐없이 설명해 주세요."}
SAMPLES = "/page/samples.json"
SAMPLE_IMAGES = tuple(f"/page/sample-{number}.png" for number in range(len(SAMPLE_SCENES)))
KOREAN = "/page/words.ko.json"  # made from the catalogue
PATHS = frozenset({*FILES, KOREAN, SAMPLES, *SAMPLE_IMAGES})
SIDE = 384  # pixels; scenes are drawn small, and a browser would blur them
SEED = 8
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


@cache
def contents(own: tuple[RunSample, ...] | None = None) -> Mapping[str, tuple[str, bytes]]:
    """Return the content type and the bytes of every path.

    Args:
        own: For a model that knows the built-in scenes only: the samples that it answered correctly.
    """
    files = {path: (TYPES[Path(name).suffix], (FOLDER / name).read_bytes()) for path, name in FILES.items()}
    korean = json.dumps(catalogue("serving/page/words", "ko"), ensure_ascii=False).encode()
    return {**files, KOREAN: (TYPES[".json"], korean), **(_samples() if own is None else _own_samples(own))}


def _own_samples(own: Sequence[RunSample]) -> dict[str, tuple[str, bytes]]:
    """Return the files of a run's samples."""
    files = {path: ("image/png", sample.png) for path, sample in zip(SAMPLE_IMAGES, own, strict=False)}
    questions = {path: sample.questions for path, sample in zip(files, own, strict=True)}
    return {**files, SAMPLES: _listing(questions, scenes_only=True)}


def _listing(questions: Mapping[str, Mapping[str, str]], *, scenes_only: bool) -> tuple[str, bytes]:
    """Return the list of samples as JSON. `questions`: by the path of the image, and by language."""
    rows = [{"picture": path, "questions": dict(by_language)} for path, by_language in questions.items()]
    listing = {"scenes_only": scenes_only, "samples": rows}
    return "application/json", json.dumps(listing, ensure_ascii=False).encode()


def _samples() -> dict[str, tuple[str, bytes]]:
    """Draw held-out scenes, and write their list with a question about each."""
    listed: dict[str, Mapping[str, str]] = {}
    files: dict[str, tuple[str, bytes]] = {}
    scenes = list(scenes_of("heldout", max(SAMPLE_SCENES) + 1, SEED))
    for (number, kind), path in zip(SAMPLE_SCENES.items(), SAMPLE_IMAGES, strict=True):
        scene = Scene(scenes[number].boxes())
        questions = DETAIL if kind == "detail" else _questions(scene, kind)
        buffer = io.BytesIO()
        drawn = Image.fromarray(render(scenes[number]))
        drawn.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(buffer, "PNG")
        files[path] = "image/png", buffer.getvalue()
        listed[path] = questions
    files[SAMPLES] = _listing(listed, scenes_only=False)
    return files


def _questions(scene: Scene, kind: str) -> dict[str, str]:
    """Return a question about the scene in each language."""
    asked = {language: ask(scene, kind, language, random.Random(SEED)) for language in DETAIL}
    return {language: claim.question for language, claim in asked.items() if claim is not None}
