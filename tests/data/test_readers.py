"""Rows become Samples or an error that names file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.data import Index, all_samples, index
from vistune.errors import DataError
from vistune.recipe import DataSource
from vistune.types import ImageRef, Sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    return tmp_path


def good(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": "1",
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}],
    }
    return {**row, **changes}


def write(folder: Path, *rows: Any) -> DataSource:
    """A JSON list, a row a line: row k begins on line k + 2."""
    body = ",\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / "data.json").write_text(f"[\n{body}\n]\n", encoding="utf-8")
    return DataSource(file=folder / "data.json", images=folder / "images")


def read(source: DataSource) -> Index:
    assert source.images is not None
    return index(source.file, [source.images], None)


def samples(made: Index) -> list[Sample]:
    return [made.sample(k) for k in range(len(made))]


def turns(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"from": speaker, "value": value} for speaker, value in pairs]


def test_markers_become_parts_and_their_newline_goes_with_them(folder: Path) -> None:
    after = good(conversations=turns(("human", "What?\n<image>"), ("gpt", "red"), ("human", "And?"), ("gpt", "no")))
    a, b = all_samples(write(folder, good(), after))
    image = ImageRef((folder / "images" / "a.jpg").resolve())
    assert a.messages[0].parts == (image, "What?")
    assert b.messages[0].parts == ("What?", image)
    assert (a.origin, b.origin) == (f"{folder / 'data.json'}:2", f"{folder / 'data.json'}:3")


def test_messages_jsonl_reads_to_the_same_sample(folder: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    row = {"id": "1", "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "red"}]}
    (folder / "m.jsonl").write_text(json.dumps({**row, "images": ["a.jpg"]}) + "\n\n", encoding="utf-8")
    ours = all_samples(DataSource(file=folder / "m.jsonl", images=folder / "images"))[0]
    llava = all_samples(write(folder, good()))[0]
    assert ours.messages == llava.messages


IMAGE_ANSWER = {"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "red"}]}
SPOKEN = {"id": "1", "conversations": turns(("human", "hi"), ("gpt", "yo"))}

BAD = {
    "marker without picture": (good(image=[]), r"data\.json:3:image: 1 <image> .* 0 images"),
    "three markers, two pictures": (
        good(image=["a.jpg", "b.jpg"], conversations=turns(("human", "<image><image><image>?"), ("gpt", "x"))),
        r":3:image: 3 <image> .* 2 images",
    ),
    "missing picture": (good(image="c.jpg"), r":3:image: no image 'c\.jpg'"),
    "path out of the folder": (good(image="../data.json"), r":3:image: .*leaves"),
    "absolute path": (good(image="/etc/passwd"), r":3:image: .*leaves"),
    "first turn gpt": (
        good(image=[], conversations=turns(("gpt", "hi"))),
        r":3:conversations\[0\]: a turn of the assistant",
    ),
    "two human in a row": (
        good(conversations=turns(("human", "<image>a"), ("human", "b"), ("gpt", "c"))),
        r":3:conversations\[1\]: a turn of the user",
    ),
    "unknown speaker": (good(conversations=turns(("bot", "<image>a"))), r":3:conversations\[0\]\.from: .*'bot'"),
    "value not text": (
        good(conversations=turns(("human", 5), ("gpt", "x"))),
        r":3:conversations\[0\]\.value: expected text",
    ),
    "empty answer": (
        good(conversations=turns(("human", "<image>a"), ("gpt", " "))),
        r":3:conversations\[1\]: an empty",
    ),
    "no answer": (good(conversations=turns(("human", "<image>a"))), r":3:conversations: the last question"),
    "empty list": (good(conversations=[]), r":3:conversations: expected a list"),
    "lone surrogate": (good(conversations=turns(("human", "<image>\ud800"), ("gpt", "x"))), r":3:.*not text"),
    "nul": (good(conversations=turns(("human", "<image>\0"), ("gpt", "x"))), r":3:.*not text"),
    "picture in an answer": (
        good(conversations=turns(("human", "a"), ("gpt", "<image>"))),
        r":3:conversations\[1\]: an image",
    ),
    "speaker not text": (good(conversations=[{"from": ["human"], "value": "a"}]), r":3:conversations\[0\]\.from"),
    "turn not an object": (good(conversations=["hi"]), r":3:conversations\[0\]: expected an object"),
    "id not text": (good(id={"a": 1}), r":3:id: expected text"),
    "id of a lone surrogate": (good(id="\ud800"), r":3:id: .*not text"),
    "kind not text": (good(kind=["caption"]), r":3:kind: expected text"),
    "nul in a path": (good(image="x\0y/a.jpg"), r":3:image: .*not text"),
    "surrogate in a path": (good(image="\ud800/a.jpg"), r":3:image: .*not text"),
    "path of nothing": (good(image=""), r":3:image: 1 <image> in the turns but 0 images"),
    "NaN": ('{"id": "1", "w": NaN}', r":3: NaN is not JSON"),
    "not an object": ("5", r":3: a record must be an object"),
    "no turns at all": ({"id": "x"}, r":3: neither"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_by_file_line_and_field(folder: Path, name: str) -> None:
    row, pattern = BAD[name]
    source = write(folder, good(), row)
    with pytest.raises(DataError, match=pattern) as caught:
        all_samples(source)
    assert caught.value.hint
    made = read(source)
    assert len(made) == 1
    assert made.faults[0].reject.origin.endswith(":3")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("", r"data\.json: is empty"),
        ("[]", r"data\.json: has no records"),
        ('[\n{"id": 1,\n  "conversations": [}\n]', r"data\.json:3: not JSON"),
        ('[\n{"id": "1"', r"data\.json:2: not JSON"),
        ("[\n", r"data\.json:2: the list is cut off"),
        (f"[\n{json.dumps(SPOKEN)}\n{json.dumps(SPOKEN)}]", r"data\.json:3: .*a comma"),
        (f"[\n{json.dumps(SPOKEN)},\n]", r"data\.json:3: not JSON"),
        (f"[\n{json.dumps(SPOKEN)}]\n\n[]", r"data\.json:4: more text after the end"),
        (f"{json.dumps(SPOKEN)} {{}}", r"data\.json:1: .*more text"),
        ("[\n" + "[" * 100_000, r"data\.json:2: not JSON"),
        ('[\n{"id": ' + "1" * 5000 + "}]", r"data\.json:2: not JSON"),
        ('{"id": NaN}', r"data\.json:1: NaN"),
    ],
)
def test_a_bad_file_is_named_with_its_line(folder: Path, text: str, pattern: str) -> None:
    (folder / "data.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=pattern):
        all_samples(DataSource(file=folder / "data.json"))


def test_invalid_utf8_names_the_line(folder: Path) -> None:
    (folder / "data.json").write_bytes(b'[\n{"id": "\xff"}\n]')
    with pytest.raises(DataError, match=r"data\.json:2: not UTF-8"):
        all_samples(DataSource(file=folder / "data.json"))


def test_a_picture_without_marker_is_put_first_and_counted(folder: Path) -> None:
    made = read(write(folder, good(conversations=turns(("human", "What?"), ("gpt", "red")))))
    assert isinstance(made.sample(0).messages[0].parts[0], ImageRef)
    assert sum(made.warnings.values()) == 1


def test_a_near_miss_of_a_picture_name_is_suggested(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        all_samples(write(folder, good(image="a.jpeg")))
    assert "a.jpg" in caught.value.hint


def test_an_image_that_is_not_in_its_folder_is_named_with_the_record(folder: Path, tmp_path: Path) -> None:
    source = DataSource(file=write(folder, good()).file, images=tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=r"data\.json:2:image: no image"):
        all_samples(source)


def test_pictures_of_the_gpt4_samples_may_be_elsewhere(shared: Path, tmp_path: Path) -> None:
    source = DataSource(file=shared / "data" / "llava-coco30" / "gpt4_qa.llava.json", images=tmp_path)
    with pytest.raises(DataError, match=r"gpt4_qa\.llava\.json:2:image: no image"):
        all_samples(source)


def chat(question: Any, **changes: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "red"}]
    return {"id": "1", "messages": turns, **changes}


def write_lines(folder: Path, *rows: Any) -> DataSource:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return DataSource(file=folder / "m.jsonl", images=folder / "images")


@pytest.mark.parametrize(
    ("question", "images"),
    [
        ("<image>\nWhat?", ["a.jpg"]),
        ("What?", ["a.jpg"]),
        ([{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What?"}], None),
        ([{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What?"}], ["a.jpg"]),
        ([{"type": "text", "text": "<image>\nWhat?"}], ["a.jpg"]),
    ],
    ids=["marker", "listed only", "named", "named and listed", "marker in a part"],
)
def test_messages_may_place_a_picture_in_any_of_these_ways(folder: Path, question: Any, images: Any) -> None:
    (sample,) = all_samples(write_lines(folder, chat(question, images=images)))
    assert sample.messages[0].parts == (ImageRef((folder / "images" / "a.jpg").resolve()), "What?")


BAD_CHAT = {
    "marker without picture": (chat("<image>\nWhat?"), r":2:images: 1 <image> .* 0 images"),
    "one marker, two pictures": (chat("<image>?", images=["a.jpg", "b.jpg"]), r":2:images: 1 <image> .* 2 images"),
    "picture in an answer": (
        {"id": "1", "images": ["a.jpg"], "messages": [*chat("?")["messages"][:1], IMAGE_ANSWER]},
        r":2:messages\[1\]: an image",
    ),
    "named but missing": (chat([{"type": "image", "image": "c.jpg"}]), r":2:messages\[0\]: no image 'c\.jpg'"),
    "unknown part": (chat([{"type": "audio"}]), r":2:messages\[0\]\.content\[0\]\.type: only text and images"),
    "unknown role": ({"id": "1", "messages": [{"role": "tool", "content": "x"}]}, r":2:messages\[0\]\.role: .*'tool'"),
    "torn line": ('{"id": "1", "messages": [', r":2: not JSON at column"),
}


@pytest.mark.parametrize("name", BAD_CHAT)
def test_a_bad_line_is_named_and_the_next_ones_are_read(folder: Path, name: str) -> None:
    row, pattern = BAD_CHAT[name]
    source = write_lines(folder, chat("hi"), row, chat("hi"))
    with pytest.raises(DataError, match=pattern):
        all_samples(source)
    made = read(source)
    assert len(made) == 2
    assert [fault.reject.origin.rsplit(":", 1)[1] for fault in made.faults] == ["2"]


def test_rows_over_many_lines_keep_the_line_on_which_they_begin(folder: Path) -> None:
    (folder / "data.json").write_text("\n" + json.dumps([good(), SPOKEN, good(image="c.jpg")], indent=2))
    made = read(DataSource(file=folder / "data.json", images=folder / "images"))
    lines = (folder / "data.json").read_text().split("\n")
    begun = [number for number, line in enumerate(lines, start=1) if line == "  {"]
    origins = [sample.origin for sample in samples(made)] + [fault.reject.origin for fault in made.faults]
    assert [int(origin.rsplit(":", 1)[1]) for origin in origins] == begun


def test_a_picture_goes_to_the_first_question_not_to_the_system(folder: Path) -> None:
    row = good(conversations=turns(("system", "Be brief."), ("human", "What?"), ("gpt", "red")))
    made = read(write(folder, row))
    assert made.sample(0).messages[0].parts == ("Be brief.",)
    assert len(made.sample(0).messages[1].images) == 1
    assert sum(made.warnings.values()) == 1


def test_a_row_without_id_is_called_by_its_line(folder: Path) -> None:
    assert [sample.id for sample in all_samples(write(folder, SPOKEN, {**SPOKEN, "id": None}))] == ["1", "3"]


def test_rows_of_one_line_are_told_apart_by_their_number(folder: Path) -> None:
    nameless = {**SPOKEN, "id": None}
    bad = good(image="c.jpg", id="bad")
    source = write(folder, SPOKEN)
    text = json.dumps([nameless, bad, nameless, bad])
    source.file.write_text("\n" + text[:-1] + ",\n" + text[1:-1] + "]", encoding="utf-8")
    made = read(source)
    assert [sample.id for sample in samples(made)] == ["2", "2[2]", "3", "3[6]"]
    assert [fault.reject.origin.rsplit(":", 1)[1] for fault in made.faults] == ["2[1]", "2[3]", "3[5]", "3[7]"]
    with pytest.raises(DataError, match=r"data\.json:2\[1\]:image: no image"):
        all_samples(source)


def test_a_link_out_of_the_picture_folder_is_refused(folder: Path) -> None:
    (folder / "secret.jpg").write_bytes(b"x")
    (folder / "images" / "link.jpg").symlink_to(folder / "secret.jpg")
    (folder / "images" / "inside.jpg").symlink_to(folder / "images" / "a.jpg")
    assert list(all_samples(write(folder, good(image="inside.jpg"))))
    with pytest.raises(DataError, match="link out of the image folder"):
        all_samples(write(folder, good(image="link.jpg")))


@pytest.mark.parametrize("content", ['{"folders": [1]}', '{"folders": "images"}', "[]"])
def test_a_bad_images_json_is_named(folder: Path, content: str) -> None:
    source = write(folder, good())
    (folder / "images.json").write_text(content)
    with pytest.raises(DataError, match=r"images\.json: folders"):
        all_samples(source.model_copy(update={"images": None}))
