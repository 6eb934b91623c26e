"""MMBench: published figures of real files, all replies of the matcher table, the upload, unusual releases."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vistune.errors import DataError
from vistune.evaluation import EvaluationRequest, ModelOptions, score
from vistune.evaluation.models import evaluate_models
from vistune.evaluation.parsing import first_character, lenient_letter, matched, yes_or_no
from vistune.evaluation.predictions import read_sheet
from vistune.evaluation.task import Reply
from vistune.evaluation.tasks.mmbench import MMBench, MMBenchCn
from vistune.progress import no_progress

HEADER = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\tl2-category\timage\n"


@pytest.fixture(scope="session")
def vectors(shared: Path) -> Path:
    return shared / "vectors" / "mmbench" / "open"


def test_llava_1_5_13b_has_its_published_figure(vectors: Path) -> None:
    name = "mmbench_dev_20230712_half_even_llava13b.tsv"
    wanted = json.loads((vectors / "expected.json").read_text())[name]
    found = score("mmbench", MMBench(vectors / name), vectors / "llava-v1.5-13b_answers_half_even.jsonl")
    assert found.scored.metrics == pytest.approx(
        {"Overall": wanted["circular_acc"], "vanilla_acc": wanted["vanilla_acc"], "row_acc": wanted["row_acc"]},
        rel=1e-12,
    )
    assert (found.scored.count, found.scored.unparsed, found.scored.missing) == (wanted["rows"], 0, 0)
    assert found.scored.tables == {}  # this file has no categories
    assert found.other is None  # single letters are read alike by both rules


@pytest.mark.parametrize("language", ["en", "cn"])
def test_every_reply_of_the_matcher_table(vectors: Path, language: str) -> None:
    name = f"freeform_{language}_synthetic.jsonl"
    wanted = json.loads((vectors / "expected.json").read_text())[name]
    rows = [json.loads(line) for line in (vectors / name).read_text().splitlines()]
    read = [matched(row["prediction"], row["options"]) for row in rows]
    assert read == wanted["can_infer"]
    assert sum(answer is None for answer in read) == wanted["unresolved_rows"]
    groups: dict[int, list[bool]] = {}
    for row, answer in zip(rows, read, strict=True):
        groups.setdefault(row["index"] % 1_000_000, []).append(answer == row["answer"])
    assert len(groups) == wanted["groups"]
    assert sum(map(all, groups.values())) == wanted["circular_correct_exact_matching"]


def write(folder: Path, *rows: str, name: str = "mmbench_dev_en.tsv") -> Path:
    (folder / name).write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return folder


def answers(folder: Path, **texts: str) -> Path:
    path = folder / "said.jsonl"
    path.write_text("".join(json.dumps({"question_id": int(k[1:]), "text": v}) + "\n" for k, v in texts.items()))
    return path


ROWS = (
    "7\tWhat?\tnan\tcat\tdog\tNone\t\tA\tc1\tL\t",
    "1000007\tWhat?\tnan\tdog\tcat\tNone\t\tB\tc1\tL\t",
    '8\t"Two\tlines\n""here"""\tLook.\tred\tblue\tall above\t\tC\tc2\tL\t',
)


def test_one_wrong_rotation_makes_the_question_wrong(tmp_path: Path) -> None:
    write(tmp_path, *ROWS)
    found = score("mmbench", MMBench(tmp_path), answers(tmp_path, q7="A", q1000007="A", q8="C"))
    assert found.scored.metrics == pytest.approx({"Overall": 50.0, "vanilla_acc": 100.0, "row_acc": 200 / 3})
    assert found.scored.tables == {"l2-category": {"L": (50.0, 2)}, "category": {"c1": (0.0, 1), "c2": (100.0, 1)}}
    found = score("mmbench", MMBench(tmp_path), answers(tmp_path, q7="A", q8="C"))
    assert (found.scored.metrics["Overall"], found.scored.missing) == (50.0, 1)


def test_the_prompt_is_llavas(tmp_path: Path) -> None:
    first, _, last = MMBench(write(tmp_path, *ROWS)).questions()
    suffix = "\nAnswer with the option's letter from the given choices directly."
    assert first.sample.messages[0].text == f"What?\nA. cat\nB. dog{suffix}"
    assert last.sample.messages[0].text == f'Look.\nTwo\tlines\n"here"\nA. red\nB. blue\nC. all above{suffix}'


def test_images_lie_in_the_table_or_in_another_row(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, "PNG")
    cell = base64.b64encode(file.getvalue()).decode()
    write(tmp_path, f"7\tWhat?\t\tcat\tdog\t\t\tA\t\t\t{cell}", "1000007\tWhat?\t\tdog\tcat\t\t\tB\t\t\t7")
    first, second = (question.sample.images[0].source for question in MMBench(tmp_path).questions())
    assert first == second
    assert Image.open(first).getpixel((3, 3)) == (200, 30, 30)
    write(tmp_path, "7\tWhat?\t\tcat\tdog\t\t\tA\t\t\t%%%" + "x" * 80)
    with pytest.raises(DataError, match=r"mmbench_dev_en\.tsv:2:image"):
        MMBench(tmp_path).questions()


def test_unpacked_images_outlive_the_asking(tmp_path: Path, model: Path) -> None:
    """The comparison page shows them, where the data folder takes no files too."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, "PNG")
    cell = base64.b64encode(file.getvalue()).decode()
    write(tmp_path, f"7\tWhat?\t\tcat\tdog\t\t\tA\t\t\t{cell}")
    (tmp_path / "mmbench_dev_en.pictures").touch()  # no folder can be made of that name
    request = EvaluationRequest("mmbench", tmp_path)
    [[result]] = evaluate_models([model], lambda _: [request], ModelOptions("cpu"), no_progress)
    [row] = result.answers["with_image"]
    assert Path(str(row.question.sample.images[0].source)).is_file()


def test_the_upload_is_what_the_server_reads(tmp_path: Path) -> None:
    task = MMBench(write(tmp_path, *ROWS))
    texts = ["A", "=1+1\x07", None]
    name, content = task.submission([Reply(q, text) for q, text in zip(task.questions(), texts, strict=True)])
    (tmp_path / name).write_bytes(content)
    rows = [row for _, row in read_sheet(tmp_path / name)]
    assert list(rows[0]) == ["index", "question", "A", "B", "C", "D", "prediction", "answer"]
    assert [(row["index"], row["prediction"]) for row in rows] == [(7, "A"), (1000007, "=1+1"), (8, None)]
    found = score("mmbench", task, tmp_path / name)  # VLMEvalKit keeps its predictions in such a table
    assert found.scored.metrics["row_acc"] == pytest.approx(100 / 3)


def test_a_split_without_answers_has_no_figure(tmp_path: Path) -> None:
    write(tmp_path, "7\tWhat?\t\tcat\tdog\t\t\t\tc1\tL\t")
    found = score("mmbench", MMBench(tmp_path), answers(tmp_path, q7="A"))
    assert (dict(found.scored.metrics), found.scored.tables) == ({}, {})


def test_the_language_chooses_among_several_tables(tmp_path: Path) -> None:
    write(tmp_path, ROWS[0], name="MMBench_DEV_EN.tsv")
    write(tmp_path, *ROWS, name="MMBench_DEV_CN.tsv")
    assert len(MMBench(tmp_path).questions()) == 1
    assert MMBenchCn(tmp_path).questions()[0].sample.messages[0].text.endswith("\n请直接回答选项字母。")
    (tmp_path / "MMBench_DEV_EN.tsv").unlink()
    with pytest.raises(DataError, match=r"not found; there is only MMBench_DEV_CN\.tsv, in another language"):
        MMBench(tmp_path).questions()
    write(tmp_path, ROWS[0], name="MMBench_DEV_EN.tsv")
    write(tmp_path, ROWS[0], name="mmbench_v11_en.tsv")
    with pytest.raises(DataError, match="2 files match"):
        MMBench(tmp_path).questions()
    with pytest.raises(DataError, match="no such file"):
        MMBench(tmp_path / "elsewhere").questions()


def test_predictions_for_another_release_are_refused(tmp_path: Path) -> None:
    write(tmp_path, *ROWS)
    path = tmp_path / "said.jsonl"
    path.write_text('{"question_id": 7, "prompt": "Which?\\nA. cat\\nB. dog", "text": "A"}\n')
    with pytest.raises(DataError, match=r"said\.jsonl:1:prompt"):
        score("mmbench", MMBench(tmp_path), path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x7\tq\t\ta\tb\t\t\tA\t\t\t", "tsv:2:index"),
        ("7\tq\t\ta\tb\t\t\tA\t\t\t\t\t\textra", "tsv:2: 14 cells in 11 columns"),
        ("7\tq\t\ta\tb\t\t\tA", "tsv:2: 8 cells in 11 columns"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        MMBench(write(tmp_path, row)).questions()


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("정답은 B입니다", "B"),
        ("정답은 **B**입니다.", "B"),
        ("②", "B"),
        ("정답: ③", "C"),
        ("정답은 2번입니다.", "B"),
        ("Ｂ", "B"),
        ("B번", "B"),
        ("B. 친구", "B"),
        ("A가 아니라 B입니다", "B"),
        ("이미지를 보면 A와 C는 아닙니다.\n\n**D**", "D"),
        ("사진에는 차가 있습니다. 따라서 정답은 다음과 같습니다.\n\nD", "D"),
        ("答案是A", "A"),
        ("B。", "B"),
        ("A cat lies on the sofa", "C"),
        ("정답은 A 또는 B입니다", None),
        ("정답은 A가 아닙니다", None),
        ("A와 B", None),
        ("2개가 보입니다", None),
        ("정답을 알 수 없습니다.", None),
        ("", None),
    ],
)
def test_what_people_write_is_understood_or_left_alone(reply: str, letter: str | None) -> None:
    assert lenient_letter(reply, {"A": "a dog", "B": "friends", "C": "a cat lies on the sofa", "D": "wood"}) == letter


@pytest.mark.parametrize(
    ("reply", "letter"), [(" b) dog", "B"), ("Because A", "B"), ("", None), ("②", None), ("ß", None), ("5", None)]
)
def test_the_first_character_decides_whatever_follows(reply: str, letter: str | None) -> None:
    assert first_character(reply) == letter


PIECES = st.sampled_from(
    [*"ABCDEZ", *"①②５Ｂ", "정답", "답은", "입니다", "아니", "예", "네", "없", " ", "\n", "*", ".", "2번"]
)


@settings(max_examples=2000, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=30).map("".join)))
def test_no_reply_breaks_a_parser(reply: str) -> None:
    options = {"A": "cat", "B": "dog", "C": ""}
    assert matched(reply, options) in (None, "A", "B", "C", "Z")
    assert lenient_letter(reply, options) in (None, "A", "B", "C", "Z")
    assert yes_or_no(reply) in (None, "yes", "no")
