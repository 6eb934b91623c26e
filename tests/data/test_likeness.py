"""Pictures that are nearly the same are found and others are not; overlap is named by name and by look."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vistune.cli.app import app
from vistune.data import find_near_duplicates
from vistune.data.near_duplicates import NEAR_BITS, group_near_duplicates, image_hash, image_key
from vistune.errors import DataError


@pytest.fixture
def photographs(coco_mini: Path) -> list[Path]:
    return sorted(coco_mini.rglob("*.jpg"))


def test_real_photographs_are_told_apart_and_copies_are_found(photographs: list[Path], tmp_path: Path) -> None:
    """Saved again at quality 40, at half the size as PNG, or brighter, a photograph is still the same one."""
    assert len(photographs) in (20, 120), "drawn, or photographs"
    images: dict[str, Path | None] = {path.name: path for path in photographs}
    for path in photographs[:10]:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        changed = {
            "q40.jpg": image,
            "half.png": image.resize((image.width // 2, image.height // 2)),
            "bright.jpg": image.point(lambda value: min(255, int(value * 1.1))),
        }
        for suffix, copy in changed.items():
            images[f"{path.stem}-{suffix}"] = tmp_path / f"{path.stem}-{suffix}"
            copy.save(tmp_path / f"{path.stem}-{suffix}", quality=40)
    groups = find_near_duplicates(images).groups
    assert len(groups) == 10
    assert sum(map(len, groups)) >= 39  # of 40: one in fifty copies is too far
    assert all({name[:12] for name in group} == {group[0][:12]} for group in groups)


def test_groups_are_those_of_a_comparison_of_all_pairs() -> None:
    """Random hashes with near copies, against every pair compared."""
    rng = np.random.default_rng(0)
    hashes = {}
    for number in range(300):
        value = int.from_bytes(rng.bytes(16), "big")
        for copy in range(rng.integers(1, 4)):
            flipped = value
            for bit in rng.integers(0, 128, size=rng.integers(0, 9)):
                flipped ^= 1 << int(bit)
            hashes[f"{number}-{copy}"] = flipped
    near = {name: {name} for name in hashes}
    names = list(hashes)
    for k, one in enumerate(names):
        for other in names[k + 1 :]:
            if (hashes[one] ^ hashes[other]).bit_count() <= NEAR_BITS and near[one] is not near[other]:
                near[one] |= near[other]
                for name in near[one]:
                    near[name] = near[one]
    wanted = {tuple(sorted(group)) for group in near.values() if len(group) > 1}
    assert set(group_near_duplicates(hashes)) == wanted


def test_what_cannot_be_compared_is_not_alike(tmp_path: Path) -> None:
    for name in ("white.png", "white2.png"):
        Image.new("RGB", (50, 50), "white").save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    assert [image_hash(tmp_path / name) for name in ("white.png", "broken.jpg", "absent.png")] == [None] * 3
    found = find_near_duplicates(
        {"white.png": tmp_path / "white.png", "white2.png": tmp_path / "white2.png", "absent.jpg": None}
    )
    assert (found.named, found.seen, found.groups) == (3, 0, ())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("COCO_val2014_000000000042.jpg", "000000000042.jpg", True),
        ("train2017/000000000042.jpg", "COCO_train2014_000000000042.png", True),
        ("a/Photo.JPG", "photo.png", True),
        ("42.jpg", "000000000042.jpg", False),
        ("VizWiz_val_00000001.jpg", "00000001.jpg", False),
    ],
)
def test_names_by_which_a_picture_is_known(one: str, other: str, same: bool) -> None:
    assert (image_key(one) == image_key(other)) == same


def test_overlap_by_name_in_every_form_of_file(tmp_path: Path) -> None:
    images: dict[str, Path | None] = {"COCO_train2014_000000000001.jpg": None, "b.jpg": None, "c.jpg": None}
    lines = '{"question_id": 1, "image": "000000000001.jpg"}\n{"image": "x.jpg"}\n{"image": "x.jpg"}\n'
    (tmp_path / "pope.json").write_text(lines)  # JSON lines under .json, as POPE's are
    (tmp_path / "vqa.json").write_text(json.dumps({"questions": [{"image_id": 1, "question": "b.jpg?"}]}))
    (tmp_path / "bench.tsv").write_text("index\timage\tanswer\n1\tsub/b.png\tA\n")
    (tmp_path / "vet.json").write_text(json.dumps({"v1_0": {"imagename": "c.webp"}}))
    named = [tmp_path / name for name in ("pope.json", "vqa.json", "bench.tsv", "vet.json")]
    found = {overlap.name: (overlap.images, overlap.shared) for overlap in find_near_duplicates(images, named).overlaps}
    assert found == {
        "pope.json": (2, ("COCO_train2014_000000000001.jpg",)),
        "vqa.json": (1, ("COCO_train2014_000000000001.jpg",)),
        "bench.tsv": (1, ("b.jpg",)),
        "vet.json": (1, ("c.jpg",)),
    }
    folder = find_near_duplicates(images, [tmp_path]).overlaps[0]
    assert folder.shared == ("COCO_train2014_000000000001.jpg", "b.jpg", "c.jpg")
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="names no images and contains none"):
        find_near_duplicates(images, [tmp_path / "other"])
    with pytest.raises(DataError, match="no such file"):
        find_near_duplicates(images, [tmp_path / "nothing.json"])


def test_overlap_by_look_in_folders_and_in_cells(photographs: list[Path], tmp_path: Path) -> None:
    """A photograph under another name, saved again, in a folder and as base64 in a TSV cell as MMBench's."""
    (tmp_path / "set").mkdir()
    with Image.open(photographs[3]) as image:
        image.convert("RGB").save(tmp_path / "set" / "q1.jpg", quality=60)
    cell = base64.b64encode(photographs[5].read_bytes()).decode()
    (tmp_path / "bench.tsv").write_text(f"index\timage\n1\t{cell}\n")
    images: dict[str, Path | None] = {path.name: path for path in photographs[:20]}
    overlaps = find_near_duplicates(images, [tmp_path / "set", tmp_path / "bench.tsv"]).overlaps
    assert [overlap.shared for overlap in overlaps] == [(photographs[3].name,), (photographs[5].name,)]


def test_the_report_names_the_benchmark_that_shows_the_same_images(tmp_path: Path) -> None:
    """Image names of COCO val2014: check accepts the file, the page says what it shares with POPE's questions."""
    names = [f"COCO_val2014_{number:012d}.jpg" for number in (11, 12, 13)]
    rows = [
        {
            "id": name,
            "image": name,
            "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}],
        }
        for name in names[:2]
    ]
    data, page, pope = tmp_path / "data.json", tmp_path / "page.html", tmp_path / "llava_pope_test.jsonl"
    data.write_text(json.dumps(rows))
    asked = [{"question_id": k, "image": name, "text": "Is there a dog?"} for k, name in enumerate(names[1:])]
    pope.write_text("".join(json.dumps(row) + "\n" for row in asked))
    runner = CliRunner()
    checked = runner.invoke(app, ["check", "--no-images", str(data)])
    assert checked.exit_code == 0, checked.output
    done = runner.invoke(app, ["report", str(data), "--out", str(page), "--against", str(pope)])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "LLaVA-Bench (COCO)" in text
    assert names[1] in text
    assert runner.invoke(app, ["report", str(data), "--out", str(page), "--lang", "ko"]).exit_code == 0
    assert "평가 데이터와 겹치는 이미지" in page.read_text(encoding="utf-8")


def test_the_report_of_any_file_names_them(shared: Path, tmp_path: Path) -> None:
    """The real GPT-4 samples of 30 COCO pictures: check accepts them, the page says what they share with POPE."""
    data = shared / "data" / "llava-coco30" / "gpt4_qa.llava.json"
    runner = CliRunner()
    checked = runner.invoke(app, ["check", "--no-images", str(data)])
    assert checked.exit_code == 0, checked.output
    page = tmp_path / "page.html"
    pope = shared / "vectors" / "pope" / "shared" / "llava_pope_test.jsonl"
    done = runner.invoke(app, ["report", str(data), "--out", str(page), "--against", str(pope)])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "LLaVA-Bench (COCO)" in text
    assert "COCO_val2014_000000506483.jpg" in text
    assert runner.invoke(app, ["report", str(data), "--out", str(page), "--lang", "ko"]).exit_code == 0
    assert "평가 데이터와 겹치는 이미지" in page.read_text(encoding="utf-8")


def test_the_report_of_messages(tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "a.png")
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "b.jpg")
    rows = [
        {
            "id": str(number),
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "무엇이 보이나요?"}]},
                {"role": "assistant", "content": "점점 밝아지는 무늬가 보입니다."},
            ],
            "images": [name],
        }
        for number, name in enumerate(("a.png", "b.jpg"))
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    done = CliRunner().invoke(app, ["report", str(data)])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "rows.jsonl.report.html").read_text(encoding="utf-8")
    assert "a.png · b.jpg" in text
    assert "점점 밝아지는" in text
    assert text.count("data:image/jpeg;base64,") == 2
