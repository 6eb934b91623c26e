"""A model behind an endpoint: the scores of the local engine, one journal, refusals, cut replies, the budget."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from reference import Bench, make, save
from running_servers import Running, running, saying
from typer.testing import CliRunner

from vistune import api
from vistune.cli.app import app
from vistune.cli.log import in_language
from vistune.errors import BudgetError, RecipeError
from vistune.evaluation.endpoint import ANSWERED_FAULTS, labels_with_endpoints
from vistune.files import read_jsonl, write_jsonl
from vistune.llm_client import Endpoint
from vistune.scenes import write_world
from vistune.serving.api import Limits

URL = "http://127.0.0.1:1/v1"


@pytest.fixture(scope="module")
def bench(tiny_backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make("grouped heads", tiny_backbones, tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def local(bench: Bench, tiny_backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(bench, tiny_backbones, tmp_path_factory.mktemp("models") / "mine")


@pytest.fixture(scope="module")
def served(bench: Bench) -> Iterator[Running]:
    with running(bench, limits=Limits(slots=4)) as server:
        yield server


@pytest.fixture(scope="module")
def endpoint(served: Running) -> Endpoint:
    return Endpoint("tiny", base_url=f"{served.server.address}/v1", concurrency=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, count=1, seed=0, tests=3)
    return folder


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")


def texts(folder: Path) -> dict[tuple[str, str], str]:
    rows = [row for _, row in read_jsonl(folder / "scenes.predictions.jsonl")]
    return {(row["condition"], row["question_id"]): row["text"] for row in rows}


def test_a_served_model_has_the_scores_of_the_local_engine(
    tmp_path: Path, world: Path, local: Path, endpoint: Endpoint, served: Running
) -> None:
    here = api.evaluate(local, task="scenes", data=world, out=tmp_path / "local")
    there = api.evaluate(endpoint, task="scenes", data=world, out=tmp_path / "remote")
    assert texts(tmp_path / "local") == texts(tmp_path / "remote")
    for name in ("metrics", "without_image", "wrong_image", "intervals", "gap", "by_type", "by_language"):
        assert getattr(here, name) == getattr(there, name), name
    assert there.model == "tiny"
    assert there.asked_with["endpoint"] == {"model": "tiny", "base_url": endpoint.base_url}
    with saying(served, "never asked"):
        again = api.evaluate(endpoint, task="scenes", data=world, out=tmp_path / "remote")
        assert again.metrics == there.metrics
        (tmp_path / "remote" / "scenes.predictions.jsonl").unlink()
        (tmp_path / "remote" / "scenes.predictions.jsonl.asked.json").unlink()
        api.evaluate(endpoint, task="scenes", data=world, out=tmp_path / "remote")
    assert texts(tmp_path / "local") == texts(tmp_path / "remote"), "the journal answers what was paid for"


def test_a_dialogue_with_several_images_is_sent_as_it_is(tmp_path: Path, local: Path, endpoint: Endpoint) -> None:
    for name, colour in (("a.png", "red"), ("b.jpg", "blue"), ("c.webp", "green")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    turns = [("human", "<image>\nWhat?"), ("gpt", "Red."), ("human", "And <image> this?"), ("gpt", "Blue.")]
    said = [{"from": speaker, "value": value} for speaker, value in turns]
    records = [
        {"id": "1", "images": ["a.png", "b.jpg"], "system": "Be brief.", "conversations": said},
        {"id": "2", "images": ["c.webp", "a.png"], "conversations": said},
    ]
    write_jsonl(tmp_path / "d.jsonl", records)
    options = {"task": "file", "data": tmp_path / "d.jsonl", "match": "rouge-l"}
    here = api.evaluate(local, **options, out=tmp_path / "l")  # type: ignore[arg-type]
    there = api.evaluate(endpoint, **options, out=tmp_path / "r")  # type: ignore[arg-type]
    assert [a.text for a in here.answers["with_image"]] == [a.text for a in there.answers["with_image"]]
    assert here.count == there.count == 4


def test_again_asks_again(tmp_path: Path, world: Path, endpoint: Endpoint, served: Running) -> None:
    options = {"task": "scenes", "data": world, "out": tmp_path, "blind": False, "limit": 4}
    api.evaluate(endpoint, **options)  # type: ignore[arg-type]
    with saying(served, "red"):
        changed = api.evaluate(endpoint, **options, again=True)  # type: ignore[arg-type]
    assert {answer.text for answer in changed.answers["with_image"]} == {"red"}


def test_thoughts_are_removed_and_nothing_else(
    tmp_path: Path, world: Path, endpoint: Endpoint, served: Running
) -> None:
    options = {"task": "scenes", "data": world, "blind": False, "limit": 2}
    long = replace(endpoint, max_tokens=100)
    with saying(served, '<think>it is red</think>"Answer: red"'):
        result = api.evaluate(long, **options, out=tmp_path / "a")  # type: ignore[arg-type]
    assert {answer.text.strip() for answer in result.answers["with_image"]} == {'"Answer: red"'}


def test_a_reply_that_is_cut_off_while_thinking_is_wrong_and_reported(
    tmp_path: Path, world: Path, endpoint: Endpoint, served: Running
) -> None:
    words = ["evaluate", "--endpoint", endpoint.base_url, "--model", "tiny", "--max-tokens", "10", "--task", "scenes"]
    with saying(served, "<think>it is red and round and large"):
        words += ["--data", str(world), "--blind", "0", "--limit", "2", "--out", str(tmp_path)]
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    rows = [row for _, row in read_jsonl(tmp_path / "scenes.predictions.jsonl")]
    assert all((row["text"], row["finish_reason"], row["right"]) == ("", "length", 0) for row in rows)
    assert f"tiny: {len(rows)} replies were cut off and count as they are" in done.stderr
    with saying(served, "red"):
        done = CliRunner().invoke(app, [*words, "--again"])
    assert "replies in" in done.stderr
    assert "count as" not in done.stderr, "no reply has a fault"


def test_messages_about_faulty_replies_are_korean() -> None:
    for fault in ANSWERED_FAULTS.values():
        assert "답변 1,200개" in in_language(fault.message.format(model="tiny", count=1200), "ko")


def test_local_models_and_endpoints_are_in_one_table(
    tmp_path: Path, world: Path, local: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", str(local), "--endpoint", endpoint.base_url, "--model", "tiny", "--task", "scenes"]
    words += ["--data", str(world), "--out", str(tmp_path / "out"), "--blind", "0", "--limit", "6"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "mine" in done.stdout
    assert "tiny" in done.stdout
    assert "tiny: " in done.stderr
    assert "replies in" in done.stderr
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert compared["models"] == ["mine", "tiny"]
    assert texts(tmp_path / "out" / "mine") == texts(tmp_path / "out" / "tiny")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--endpoint", URL], "--endpoint: the name of the model is missing"),
        (["--model", "tiny", "MODEL"], "--model: only used with --endpoint"),
        (["--endpoint", URL, "--model", "tiny", "--dtype", "bf16"], "--dtype: only used with a model folder"),
        (
            ["--endpoint", URL, "--model", "tiny"],
            "--endpoint: needs a folder for the replies",
        ),
        (
            ["--endpoint", URL, "--model", "tiny", "--letters", "--out", "OUT"],
            "--letters: needs the probabilities",
        ),
    ],
)
def test_options_that_do_not_fit_together(
    tmp_path: Path, world: Path, local: Path, words: list[str], problem: str
) -> None:
    given = [{"OUT": str(tmp_path), "MODEL": str(local)}.get(word, word) for word in words]
    done = CliRunner().invoke(app, ["evaluate", *given, "--task", "scenes", "--data", str(world)])
    assert isinstance(done.exception, RecipeError)
    assert problem in str(done.exception)
    message, hint = in_language(str(done.exception), "ko").split(". 고치는 법: ")
    assert re.search("[가-힣]", message)
    assert re.search("[가-힣]", hint)


def test_the_budget_is_never_exceeded(tmp_path: Path, world: Path, endpoint: Endpoint) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("models:\n  tiny: {input: 100000, output: 100000, image_tokens: 1000}\n")
    poor = Endpoint("tiny", base_url=endpoint.base_url, prices=prices, budget=10.0)
    with pytest.raises(BudgetError):
        api.evaluate(poor, task="scenes", data=world, out=tmp_path / "out")


def test_names_of_models_are_names_of_folders() -> None:
    assert labels_with_endpoints([Path("runs/mine"), Endpoint("org/Model 7B")]) == ["mine", "org-Model-7B"]
    with pytest.raises(RecipeError, match="two models are called 'tiny'"):
        labels_with_endpoints([Path("tiny"), Endpoint("tiny")])
