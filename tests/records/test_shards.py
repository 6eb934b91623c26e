"""webdataset shards: the record's names decide which image is which, and everything in the tar is used or named."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.data import all_samples, check
from vistune.errors import DataError
from vistune.recipe import DataSource
from vistune.records import RecordError, read_records

TURNS = [{"from": "human", "value": "<image><image>?"}, {"from": "gpt", "value": "A."}]
ONE = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A."}]


def image(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def write(path: Path, members: dict[str, bytes | dict[str, Any] | str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else (
                content if isinstance(content, str) else json.dumps(content)).encode()  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def colours(path: Path) -> list[tuple[int, int, int]]:
    [sample] = all_samples(DataSource(file=path))
    return [Image.open(str(image.source)).convert("RGB").getpixel((0, 0)) for image in sample.images]  # type: ignore[misc]


RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize("names", [
    {"image": ["a.png", "b.png"]}, {"images": ["a.png", "b.png"]}, {"images": ["k1.a.png", "k1.b.png"]},
    {"images": ["some/folder/a.png", "b.png"]}, {"images": [{"path": "a.png"}, {"path": "b.png"}]},
])  # fmt: skip
def test_the_records_names_decide_the_order(tmp_path: Path, names: dict[str, Any]) -> None:
    record = {**names, "conversations": TURNS}
    path = write(tmp_path / "s.tar", {"k1.b.png": image("blue"), "k1.a.png": image("red"), "k1.json": record})
    assert colours(path) == [RED, BLUE]


def test_without_names_images_are_in_natural_order(tmp_path: Path) -> None:
    members = {"k1.10.png": image("blue"), "k1.2.png": image("red"), "k1.json": {"conversations": TURNS}}
    assert colours(write(tmp_path / "s.tar", members)) == [RED, BLUE]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"image": ["a.png", "c.png"], "conversations": TURNS}, r":k1:image: the image 'c\.png' is not in the shard"),
        (
            {"image": ["a.png"], "conversations": ONE},
            r":k1:image: the image 'k1\.b\.png' is in the shard but not named",
        ),
        ({"image": "a.png", "images": ["b.png"], "conversations": ONE}, ":k1:images: both"),
    ],
)
def test_a_name_that_does_not_fit_is_a_fault_of_its_record_alone(
    tmp_path: Path, record: dict[str, Any], words: str
) -> None:
    members = {"k1.a.png": image("red"), "k1.b.png": image("blue"), "k1.json": record,
               "k2.png": image("red"), "k2.json": {"conversations": ONE}}  # fmt: skip
    path = write(tmp_path / "s.tar", members)
    report = check([DataSource(file=path)], None)
    assert report.samples == 1
    [fault] = report.faults
    assert pytest.importorskip("re").search(words, fault.detail)
    assert fault.origin == f"{path}:k1"
    [bad, good] = read_records(path)
    assert isinstance(bad.value, RecordError)
    assert good.location == f"{path}:k2"


def test_the_one_image_of_a_sample_may_have_another_name_in_its_record(tmp_path: Path) -> None:
    record = {"image": "GCC_train_000.jpg", "conversations": ONE}
    assert colours(write(tmp_path / "s.tar", {"000.png": image("red"), "000.json": record})) == [RED]


def test_members_of_other_kinds_and_unread_fields_are_named(tmp_path: Path) -> None:
    members = {"k1.png": image("red"), "k1.npy": b"x", "k1.cls": "3",
               "k1.json": {"conversations": ONE, "similarity": 0.3}, "._k1.png": b"mac"}  # fmt: skip
    path = write(tmp_path / "s.tar", members)
    unread: Counter[str] = Counter()
    assert len(list(read_records(path, unread=unread))) == 1
    assert unread == {"*.npy": 1, "*.cls": 1}
    found = {field.field: field.count for field in check([DataSource(file=path)], None).unread_fields}
    assert found == {"*.npy": 1, "*.cls": 1, "similarity": 1}


def test_a_caption_is_the_answer_to_its_image(tmp_path: Path) -> None:
    members = {
        "a.png": image("red"),
        "a.txt": "a red square\n",
        "b.png": image("blue"),
        "b.json": {"caption": "a blue one"},
    }
    first, second = all_samples(DataSource(file=write(tmp_path / "s.tar", members)))
    assert [m.text for m in (*first.messages, *second.messages)] == ["", "a red square", "", "a blue one"]
    assert (first.id, second.id) == ("a", "b")


def test_a_link_in_a_shard_is_its_target_and_never_a_file_outside(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tar", {"a.png": image("red"), "a.json": {"conversations": ONE}})
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        with tarfile.open(path, "a") as tar:
            info = tarfile.TarInfo(f"k{kind.decode()}.png")
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
            data = json.dumps({"conversations": ONE}).encode()
            record = tarfile.TarInfo(f"k{kind.decode()}.json")
            record.size = len(data)
            tar.addfile(record, io.BytesIO(data))
    samples = all_samples(DataSource(file=path))
    assert [len(sample.images) for sample in samples] == [1, 1, 1]
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("out.png")
        info.type, info.linkname = tarfile.SYMTYPE, "../../etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match=r"out\.png: links to .*which is not in the tar"):
        list(read_records(path))


def test_one_bad_record_leaves_the_rest_of_its_shard(tmp_path: Path) -> None:
    members = {"k1.json": "{broken", "k1.png": image("red"), "k2.png": image("red"), "k2.json": {"conversations": ONE}}
    report = check([DataSource(file=write(tmp_path / "s.tar", members))], None)
    assert (report.samples, len(report.faults)) == (1, 1)
    assert f"{tmp_path / 's.tar'}:k1.json: cannot be read" in report.faults[0].detail


def test_a_second_caption_that_says_something_else_is_counted(tmp_path: Path) -> None:
    members = {"a.png": image("red"), "a.json": {"caption": "red"}, "a.txt": "red\n",
               "b.png": image("red"), "b.json": {"caption": "red"}, "b.txt": "crimson"}  # fmt: skip
    unread: Counter[str] = Counter()
    found = [record.value["caption"] for record in read_records(write(tmp_path / "s.tar", members), unread=unread)]
    assert found == ["red", "red"]
    assert unread == {"*.txt": 1}


def test_a_shard_that_moved_is_named_where_it_is_now(tmp_path: Path) -> None:
    record = {"image": ["none.png"], "conversations": ONE}
    first = write(tmp_path / "first.tar", {"k.png": image("red"), "k.a.png": image("red"), "k.json": record})
    assert check([DataSource(file=first)], None).faults
    moved = tmp_path / "moved.tar"
    first.rename(moved)
    [fault] = check([DataSource(file=moved)], None).faults
    assert fault.detail.startswith(f"{moved}:k:image: the image 'none.png' is not in the shard")
