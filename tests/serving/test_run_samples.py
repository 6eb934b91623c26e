"""The page of a quickstart model: it says what the model knows, and asks what the model answered correctly."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference import Bench
from running_servers import running

from vistune.files import write_jsonl
from vistune.serving.api.run_samples import samples_of_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A quickstart run whose model answered some questions about five scenes correctly."""
    (tmp_path / "world" / "heldout").mkdir(parents=True)
    write_jsonl(tmp_path / "world" / "questions_heldout.jsonl", [])
    (tmp_path / "evals").mkdir()
    lines = []
    for k in range(5):
        Image.new("RGB", (96, 96), (40 * k, 9, 9)).save(tmp_path / "world" / "heldout" / f"{k}.jpg")
        for language, kind in (("en", ("colour", "count", "colour", "size", "shape")[k]), ("ko", "shape")):
            for condition in ("with_image", "without_image"):
                is_right = k != 1 and condition == "with_image"
                image = f"/elsewhere/world/heldout/{k}.jpg"  # the run was moved
                line = {"prompt": f"{kind} {k} {language}?", "right": float(is_right), "condition": condition}
                lines.append({**line, "image": image, "type": kind, "language": language})
    write_jsonl(tmp_path / "evals" / "scenes.predictions.jsonl", lines)
    return tmp_path


def test_the_samples_were_answered_correctly_and_differ_in_type(run: Path) -> None:
    samples = samples_of_run(run)
    assert samples is not None
    assert [sample.questions for sample in samples] == [
        {"en": f"{kind} {k} en?", "ko": f"shape {k} ko?"} for k, kind in ((0, "colour"), (3, "size"), (4, "shape"))
    ]
    drawn = np.asarray(Image.open(run / "world" / "heldout" / "3.jpg"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(samples[1].png))), drawn)
    checkpoint = run / "checkpoints" / "2-tune-000540"
    checkpoint.mkdir(parents=True)
    assert len(samples_of_run(checkpoint) or ()) == 3


def test_other_models_have_the_builtin_samples(tmp_path: Path, run: Path) -> None:
    assert samples_of_run(tmp_path / "nothere") is None
    (run / "evals" / "scenes.predictions.jsonl").unlink()
    assert samples_of_run(run) == (), "a model that was not evaluated has no sample, but knows scenes only"


def test_the_page_says_that_the_model_knows_scenes_only(bench: Bench, run: Path) -> None:
    with running(bench) as found:
        assert found.http.get("/page/samples.json").json()["scenes_only"] is False
        found.service.samples = (samples_of_run(run) or ())[:2]
        listing = found.http.get("/page/samples.json").json()
        assert listing["scenes_only"] is True
        assert [row["questions"]["ko"] for row in listing["samples"]] == ["shape 0 ko?", "shape 3 ko?"]
        assert found.http.get("/page/sample-1.png").content == found.service.samples[1].png
        assert found.http.get("/page/sample-2.png").status_code == 404
        guide = found.http.get("/page/photographs.html").text
        assert "vistune quickstart --data FOLDER" in guide
        assert "docs/ko/my-photographs.md" in guide


def test_files_of_the_page_are_logged_only_in_debug_mode(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with running(bench) as found:
        for level, expected in (("INFO", ["/health"]), ("DEBUG", ["/page/page.js", "/health"])):
            caplog.clear()
            with caplog.at_level(level, logger="vistune.serving"):
                found.http.get("/page/page.js")
                found.http.get("/health")
            assert [record.getMessage().split()[2] for record in caplog.records] == expected
