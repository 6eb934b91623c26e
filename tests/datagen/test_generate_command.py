"""The command `vistune generate`: the dry run, the summary at the end, and one line for each mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_teacher import TEXTS, Behaviour, FakeTeacher, completion
from PIL import Image
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.datagen.held_out import choose_held_out, questions_about
from vistune.errors import VistuneError
from vistune.types import AnnotatedImage, Box

PRICE = "models: {m: {input: 10, output: 100, batch_factor: 0.5}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images with an English caption and a box, and prices of the model `m`."""
    rows = []
    for k in range(4):
        Image.new("RGB", (40, 40), (50 * k, 0, 0)).save(tmp_path / f"{k}.jpg")
        rows.append({"image": f"{k}.jpg", "captions": [f"Scene {k}."], "boxes": [["dog", 0.1, 0.1, 0.5, 0.9]]})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "prices.yaml").write_text(PRICE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def teacher() -> Iterator[FakeTeacher]:
    fake = FakeTeacher()
    yield fake
    fake.close()


def generate(folder: Path, *more: str, source: str = "mine.jsonl") -> str:
    """Return the printed text on one line."""
    done = CliRunner().invoke(app, ["generate", str(folder / source), "--out", str(folder / "out"), *more])
    if done.exception is not None:
        raise done.exception
    return " ".join(done.stdout.split())


def paid(folder: Path, *more: str, teacher: FakeTeacher | None = None) -> list[str]:
    url = ["--base-url", teacher.url] if teacher else []
    return ["--teacher", "openai", "--model", "m", "--prices", str(folder / "prices.yaml"), *url, *more]


def test_a_dry_run_is_a_few_lines_and_the_requests_are_in_its_json(folder: Path) -> None:
    arguments = ["generate", str(folder / "mine.jsonl"), "--out", str(folder / "out"), *paid(folder, "--dry-run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "12 requests (4 conversation, 4 detail, 4 reasoning)"
    assert len(lines) <= 6
    assert "messages" not in done.stdout
    plan = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert len(plan["examples"]) == 3
    assert plan["examples"][0]["messages"][0]["role"] == "system"
    assert not (folder / "out").exists()


def test_a_dry_run_says_whether_the_budget_is_enough(folder: Path) -> None:
    plan = json.loads(generate(folder, *paid(folder, "--dry-run", "--json")))
    assert 0 < plan["dollars"] < plan["dollars_at_most"]
    for budget, words in [
        (plan["dollars_at_most"] + 0.01, "the maximum cost fits"),
        ((plan["dollars"] + plan["dollars_at_most"]) / 2, "the expected cost fits"),
        (plan["dollars"] / 2, "too low"),
    ]:
        assert f"--budget ${budget:.2f}: {words}" in generate(
            folder, *paid(folder, "--dry-run", "--budget", str(budget))
        )
    batch = json.loads(generate(folder, *paid(folder, "--dry-run", "--json", "--batch")))
    assert batch["dollars"] == pytest.approx(plan["dollars"] / 2)


def test_a_dry_run_without_a_price_says_how_to_give_one(folder: Path) -> None:
    asked = ["--teacher", "openai", "--model", "unheard-of", "--dry-run"]
    said = generate(folder, *asked)
    assert "cost unknown: write 'models: {unheard-of: {input: 2.5, output: 10}}'" in said
    assert "$" not in said
    with pytest.raises(VistuneError, match=r"--budget: no price is known for the model 'unheard-of'.*--prices"):
        generate(folder, *asked, "--budget", "5")


def test_a_dry_run_names_the_captions_that_would_be_paid_for(folder: Path) -> None:
    """Images with English captions have no Korean caption of their own, also with --mix."""
    mixed = paid(folder, "--dry-run", "--language", "ko", "--mix", "1:1:2")
    said = generate(folder, *mixed)
    assert said.startswith("8 requests (")
    assert "4 caption" in said
    assert "remove caption from --kinds" in said
    without = generate(folder, *mixed, "--kinds", "conversation, detail, reasoning")
    assert without.startswith("4 requests (")
    assert "caption" not in without
    english = generate(folder, *paid(folder, "--dry-run", "--mix", "1:1:2"))
    assert english.startswith("4 requests (")


def test_the_summary_has_rejects_by_reason_and_the_cost(folder: Path, teacher: FakeTeacher) -> None:
    sorry = completion("I'm sorry, I cannot see the image.")
    teacher.behave = lambda request: Behaviour(
        body=sorry if "Scene 1." in request.body.decode() else completion(TEXTS["en"]["detail"])
    )
    said = generate(folder, *paid(folder, "--kinds", "detail", "--tries", "1", teacher=teacher))
    assert "out: 3 samples, 1 rejected (1 refusal; see rejects.jsonl)" in said
    assert "fake-1: 3,600 prompt tokens, 480 completion tokens; $0.08" in said
    again = generate(folder, *paid(folder, "--kinds", "detail", "--tries", "1", teacher=teacher))
    assert again == said, "the same command again"
    assert len(teacher.asked) == 4


def test_the_summary_has_no_dollars_without_a_known_price(
    folder: Path, teacher: FakeTeacher, capfd: pytest.CaptureFixture[str]
) -> None:
    said = generate(folder, "--teacher", "openai", "--model", "other", "--base-url", teacher.url, "--kinds", "detail")
    assert "cost unknown (add the model's price with --prices)" in said
    assert "$" not in said + capfd.readouterr().err


def test_the_rule_teacher_gives_reasons_and_does_not_overwrite_its_data(folder: Path) -> None:
    assert "out: 4 samples, 0 rejected report:" in generate(folder, "--kinds", " detail , detail")
    with pytest.raises(VistuneError, match=r"out: already has samples.json"):
        generate(folder, "--kinds", "detail")
    (folder / "out" / "samples.json").unlink()  # what a killed run leaves: everything but the last file
    assert "4 samples" in generate(folder, "--kinds", "detail")


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        (
            "mine.xlsx",
            (),
            r"mine.xlsx: cannot be read as a table.*save it as CSV UTF-8",
        ),
        ("nowhere.jsonl", (), r"nowhere.jsonl: no such file or folder. Fix: check the path"),
        ("nowhere", (), r"nowhere: no such file or folder. Fix: check the path"),
        ("mine.jsonl", ("--boxes-as", "nonsense"), r"--boxes-as 'nonsense': no such form of boxes.*pixels \(corners\)"),
        ("mine.jsonl", ("--teacher", "openai"), r"--teacher openai needs a model. Fix: add --model"),
        ("mine.jsonl", ("--model", "m"), r"--model m: the rule teacher uses no model. Fix: add --teacher openai"),
        ("mine.jsonl", ("--budget", "5"), r"--budget: only used with --teacher openai"),
        ("mine.jsonl", ("--kinds", "detail,x"), r"unknown kind 'x'"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(folder: Path, source: str, more: tuple[str, ...], words: str) -> None:
    (folder / "mine.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(VistuneError, match=words) as caught:
        generate(folder, *more, source=source)
    assert "None" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_check_counts_one_fault_as_one(folder: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": ""}]
    row = {"id": "1", "image": "0.jpg", "kind": "detail", "conversations": turns}
    (folder / "bad.json").write_text(json.dumps([row]), encoding="utf-8")
    done = CliRunner().invoke(app, ["check", str(folder / "bad.json")])
    assert done.exit_code == 2
    assert "1 record, " in done.stdout
    assert done.stdout.rstrip().endswith("; 1 fault")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["generate", "mine.jsonl", "--out", "o", "--see", "--batch"], "--see, --batch: only used with --teacher"),
        (["generate", "mine.jsonl", "--out", "o", "--temperature", "0"], "--temperature: only used with --teacher"),
        (["check", "mine.jsonl", "--images", ".", "--no-images"], "--images: not used with --no-images"),
        (["train", "quickstart", "--dry-run", "--resume"], "--resume: not used by --dry-run"),
        (["evaluate", "--list", "--task", "pope", "--letters"], "--task, --letters: not used by --list"),
        (["export", "m", "o", "--layout", "llava-hf", "--base", "b"], "--base: for --layout peft, not for llava-hf"),
    ],
)
def test_an_option_without_effect_is_refused(folder: Path, command: list[str], words: str) -> None:
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, VistuneError)
    assert str(done.exception).startswith(words)


def test_a_caption_in_another_language_is_named_as_the_reason(folder: Path) -> None:
    rows = [{"image": "0.jpg", "captions": ["A dog runs."]}, {"image": "1.jpg", "captions": ["개가 달린다."]}]
    (folder / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    generate(folder, "--language", "ko", "--kinds", "caption", source="two.jsonl")
    [reject] = [json.loads(line) for line in (folder / "out" / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert "its captions are not in 'ko', and the rule teacher does not translate" in reject["detail"]


def test_held_out_images_are_in_files_of_their_own(tmp_path: Path) -> None:
    labels = ("dog", "cat", "car", "bird")
    rows = []
    for k in range(60):
        Image.new("RGB", (40, 40), (4 * k, 0, 0)).save(tmp_path / f"{k}.jpg")
        boxes = [[labels[(k + n) % 4], 0.5 * n, 0.1, 0.5 * n + 0.3, 0.4] for n in range(1 + k % 2)]
        rows.append({"image": f"{k}.jpg", "captions": [f"Scene {k}."], "boxes": boxes})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    printed = generate(tmp_path, "--held-out", "0.25", "--language", "en,ko")
    out = tmp_path / "out"
    trained, held = (json.loads((out / name).read_text()) for name in ("samples.json", "held_out.json"))
    questions = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert f"held out: {len(held)} samples (held_out.json), {len(questions)} questions (questions.jsonl)" in printed
    images = {row["image"] for row in held}
    assert len(images) == 15
    assert not images & {row["image"] for row in trained}
    assert {Path(each["image"]).name for each in questions} <= images
    [folder] = json.loads((out / "images.json").read_text())["folders"]
    assert all((out / folder / each["image"]).is_file() for each in questions)
    assert {each["language"] for each in questions} == {"en", "ko"}
    assert {"existence", "position"} <= {each["type"] for each in questions}


@pytest.mark.parametrize(
    ("share", "message"), [("0.1", "0 of 4 images would be held out"), ("1.5", "must be between 0 and 1")]
)
def test_a_share_that_cannot_be_held_out_is_refused_before_anything_is_written(
    folder: Path, share: str, message: str
) -> None:
    with pytest.raises(VistuneError, match=message):
        generate(folder, "--held-out", share)
    with pytest.raises(VistuneError, match=message):
        generate(folder, "--held-out", share, *paid(folder, "--dry-run"))
    assert not (folder / "out").exists()


def test_held_out_questions_are_asked_in_english_and_korean_only() -> None:
    boxes = [(Box(label, 0.1, 0.1, 0.4, 0.4),) for label in ("dog", "cat")]
    images = [AnnotatedImage(str(k), Path(f"{k}.jpg"), (), boxes[k % 2]) for k in range(20)]
    names = {image.path: image.path.name for image in images}
    assert not list(questions_about(images, names, ("ja",), 0))
    assert {each["language"] for each in questions_about(images, names, ("ja", "ko"), 0)} == {"ko"}


def test_images_of_one_name_in_two_folders_are_held_out_alike_in_any_order() -> None:
    images = [AnnotatedImage(f"{d}/{k}", Path(f"{d}/{k}.jpg")) for d in "ab" for k in range(20)]
    chosen = choose_held_out(images, 0.5, 0)
    assert chosen == choose_held_out(images[::-1], 0.5, 0)
    assert len(chosen) == 20
