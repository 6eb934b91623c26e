"""Every form in which people keep conversations is read, or refused by the name of what is not read."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.data import all_samples, check, select_records
from vistune.data.show import ShownSample, show
from vistune.errors import DataError
from vistune.recipe import DataSource
from vistune.records import ImageFolders, RecordError, read_sample
from vistune.types import ImageRef, Sample

ASK, SAY = {"from": "human", "value": "What?"}, {"from": "gpt", "value": "A."}
USER, ASSISTANT = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "A."}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("p1.jpg", "p2.jpg"):
        Image.new("RGB", (8, 8), "red" if name == "p1.jpg" else "blue").save(tmp_path / name)
    return tmp_path


def sample_of(folder: Path, record: dict[str, Any]) -> Sample:
    return read_sample(record, "data.jsonl:1", ImageFolders([folder]), Counter())


def names_of(sample: Sample) -> list[str]:
    return [Path(str(image.source)).name for image in sample.images]


def write_lines(folder: Path, *records: dict[str, Any], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("turns", [{"conversations": [ASK, SAY]}, {"messages": [USER, ASSISTANT]}])
@pytest.mark.parametrize(
    ("images", "names"),
    [
        ({"image": "p1.jpg"}, ["p1.jpg"]),
        ({"images": ["p1.jpg"]}, ["p1.jpg"]),
        ({"images": "p1.jpg"}, ["p1.jpg"]),
        ({"image": ["p2.jpg", "p1.jpg"]}, ["p2.jpg", "p1.jpg"]),
        ({"images": [{"path": "p1.jpg", "bytes": None}]}, ["p1.jpg"]),
        ({"image": {"path": "p2.jpg"}, "images": None}, ["p2.jpg"]),
        ({"image": "", "images": []}, []),
        ({"image": None}, []),
        ({"images": [None]}, []),
        ({"images": [""]}, []),
    ],
)
def test_either_form_names_its_images_by_image_or_images(
    folder: Path, turns: dict[str, Any], images: dict[str, Any], names: list[str]
) -> None:
    warnings: Counter[str] = Counter()
    sample = read_sample({"id": "1", **turns, **images}, "x:1", ImageFolders([folder]), warnings)
    assert names_of(sample) == names
    assert bool(warnings) == bool(names)  # put at the start, which is told; a record of text alone is no warning


REFUSED = {
    "both image fields": ({"image": "p1.jpg", "images": ["p2.jpg"], "messages": [USER, ASSISTANT]}, "both `image`"),
    "videos": ({"videos": ["v/1.mp4"], "messages": [USER, ASSISTANT]}, r":1:videos: videos and audio"),
    "video": ({"video": "1.mp4", "conversations": [ASK, SAY]}, r":1:video: videos and audio"),
    "audios": ({"audios": ["1.wav"], "messages": [USER, ASSISTANT]}, r":1:audios: "),
    "image_path": ({"image_path": "p1.jpg", "messages": [USER, ASSISTANT]}, r":1:image_path: .*rename `image_path`"),
    "img": ({"img": ["p1.jpg"], "conversations": [ASK, SAY]}, r":1:img: .*by `image` or `images`"),
    "bytes as text": ({"images": [{"bytes": "aGk="}], "messages": [USER, ASSISTANT]}, r":1:images: .*bytes as text"),
    "misspelt": ({"id": 1, "conversatons": [ASK]}, r"the record has id, conversatons.*meant to be `conversations`"),
    "weight between": ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, r":1:messages\[1\]\.weight: .*0\.5"),
    "supervised question": ({"messages": [{**USER, "train": True}, ASSISTANT]}, r"\[0\]\.train: a turn of the user"),
    "loss and weight": ({"messages": [USER, {**ASSISTANT, "loss": True, "weight": 0}]}, r"loss and weight disagree"),
    "nothing supervised": ({"messages": [USER, {**ASSISTANT, "loss": False}]}, r":1:messages: no answer is trained"),
    "two systems": (
        {"system": "Be brief.", "messages": [{"role": "system", "content": "Be long."}, USER, ASSISTANT]},
        r":1:system: ",
    ),
    "two texts of one turn": ({"conversations": [ASK, {"from": "gpt", "value": "A.", "content": "B."}]}, "they differ"),
    "two users": ({"messages": [USER, USER, ASSISTANT]}, r"messages\[1\]: a turn of the user .*two questions in a row"),
    "assistant first": ({"messages": [ASSISTANT, USER]}, r"messages\[0\]: .*Fix: begin with the user"),
    "a tool's turn": ({"messages": [USER, {"role": "tool", "content": "x"}]}, r"\[1\]\.role: unknown speaker 'tool'"),
    "a video part": (
        {"messages": [{"role": "user", "content": [{"type": "video", "video": "1.mp4"}]}, ASSISTANT]},
        r"content\[0\]\.type: only text and images",
    ),
    "image in an answer": (
        {"image": "p1.jpg", "conversations": [ASK, {"from": "gpt", "value": "<image>"}]},
        r"an image in a turn of the assistant.*\\<image>",
    ),
    "a captions table": ({"image": "p1.jpg", "caption": "a dog"}, "vistune generate"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_its_name(folder: Path, name: str) -> None:
    record, words = REFUSED[name]
    with pytest.raises(RecordError, match=words) as caught:
        sample_of(folder, record)
    assert caught.value.hint


@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_empty_fields_of_other_media_mean_nothing(folder: Path, empty: Any) -> None:
    assert sample_of(folder, {"videos": empty, "audio": empty, "messages": [USER, ASSISTANT]}).messages[1].text == "A."


@pytest.mark.parametrize(
    ("user", "assistant"), [("human", "gpt"), ("user", "assistant"), ("Human", "GPT"), ("USER ", "model")]
)  # fmt: skip
@pytest.mark.parametrize("form", ["conversations", "messages"])
@pytest.mark.parametrize(("speaker", "said"), [("from", "value"), ("role", "content")])
def test_unambiguous_spellings_of_speakers_are_read(
    folder: Path, form: str, speaker: str, said: str, user: str, assistant: str
) -> None:
    turns = [{speaker: user, said: "What?"}, {speaker: assistant, said: "A."}]
    sample = sample_of(folder, {form: turns})
    assert [(message.role, message.text) for message in sample.messages] == [("user", "What?"), ("assistant", "A.")]


@pytest.mark.parametrize("content", [
    [{"type": "image", "image": "p1.jpg"}, {"type": "text", "text": "What?"}],
    [{"image": "p1.jpg"}, {"text": "What?"}],
    [{"type": "image_url", "image_url": {"url": "p1.jpg", "detail": "low"}}, {"type": "text", "text": "What?"}],
    [{"type": "image_url", "image_url": "p1.jpg"}, "What?"],
    [{"type": "image", "path": "p1.jpg", "text": None}, {"type": "text", "text": "What?", "image": None}],
    [{"type": "image", "url": "p1.jpg"}, {"type": "text", "text": "What?"}],
])  # fmt: skip
def test_parts_name_their_image_in_every_usual_way(folder: Path, content: list[Any]) -> None:
    sample = sample_of(folder, {"messages": [{"role": "user", "content": content}, ASSISTANT]})
    assert [type(part) for part in sample.messages[0].parts] == [ImageRef, str]


def test_qwens_first_form_is_read_at_its_place(folder: Path) -> None:
    said = "Picture 1: <img>p1.jpg</img>\nPicture 2: <img>p2.jpg</img>\nWhich is red?"
    sample = sample_of(
        folder, {"conversations": [{"from": "user", "value": said}, {"from": "assistant", "value": "1"}]}
    )
    assert names_of(sample) == ["p1.jpg", "p2.jpg"]
    assert sample.messages[0].text == "Which is red?"


def test_texts_with_images_are_read_as_finevision_has_them(folder: Path) -> None:
    pairs = [{"user": "What?", "assistant": "A.", "source": "x"}, {"user": "And?", "assistant": "B."}]
    unread: Counter[str] = Counter()
    record = {"texts": pairs, "images": ["p1.jpg"], "source": "x", "relevance_min": 3}
    sample = read_sample(record, "x:1", ImageFolders([folder]), Counter(), unread)
    assert [message.text for message in sample.messages] == ["What?", "A.", "And?", "B."]
    assert names_of(sample) == ["p1.jpg"]
    assert unread == {"source": 1, "relevance_min": 1, "texts[].source": 1}


@pytest.mark.parametrize("form", ["texts", "conversations", "messages"])
def test_hub_style_parquet_with_images_inside_is_read(folder: Path, form: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    content = (folder / "p1.jpg").read_bytes()
    turns = {
        "texts": [{"user": "What?", "assistant": "A."}],
        "conversations": [ASK, SAY],
        "messages": [USER, ASSISTANT],
    }
    good = {"images": [{"bytes": content, "path": "p1.jpg"}], form: turns[form], "difficulty": 3}
    bad = {"images": [{"bytes": content, "path": None}], form: [], "difficulty": None}
    parquet.write_table(pyarrow.Table.from_pylist([good, bad]), folder / "hub.parquet")
    report = check([DataSource(file=folder / "hub.parquet")], None)
    assert (report.samples, report.images) == (1, 1)
    assert report.faults[0].origin == f"{folder / 'hub.parquet'}:2"
    assert [(field.file, field.field, field.count) for field in report.unread_fields] == [
        (str(folder / "hub.parquet"), "difficulty", 2)
    ]
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()  # images of the record's own are found whatever the image folder is
    assert check([DataSource(file=folder / "hub.parquet", images=elsewhere)], None).samples == 1


def test_turns_say_whether_they_are_trained_on(folder: Path) -> None:
    for name in ("loss", "loss_mask", "train", "weight"):
        turns = [USER, {**ASSISTANT, name: 0}, {**USER, name: 0}, {**ASSISTANT, name: 1}, USER, ASSISTANT]
        sample = sample_of(folder, {"messages": turns})
        assert [m.supervised for m in sample.messages if m.role == "assistant"] == [False, True, True]
    turns = [
        USER,
        {"role": "assistant", "content": "bad", "loss": False},
        USER,
        {"role": "assistant", "content": "good"},
    ]
    path = write_lines(folder, {"id": "1", "messages": turns})
    for template in ("v0", "v1", "llama_2", "plain"):
        [seen] = show(DataSource(file=path), template=template)
        learnt = _supervised_text(seen)
        assert "good" in learnt
        assert "bad" not in learnt


def _supervised_text(seen: ShownSample) -> str:
    from vistune.processor import load_tokenizer
    from vistune.recipe import source_of

    ids = [token for token, label in zip(seen.input_ids, seen.labels, strict=True) if label != -100]
    return str(load_tokenizer(source_of("builtin", "language")).decode(ids))


def test_a_record_has_its_own_system_prompt(folder: Path) -> None:
    sample = sample_of(folder, {"system": "Answer in one word.", "messages": [USER, ASSISTANT]})
    assert (sample.messages[0].role, sample.messages[0].text) == ("system", "Answer in one word.")
    path = write_lines(folder, {"id": "1", "system": "Answer in one word.", "conversations": [ASK, SAY]})
    from vistune.processor import load_tokenizer
    from vistune.recipe import source_of

    [seen] = show(DataSource(file=path))
    text = load_tokenizer(source_of("builtin", "language")).decode([k for k in seen.input_ids if k >= 0])
    assert text.replace("<s>", "").strip().startswith("Answer in one word. USER:")
    assert sample_of(folder, {"system": "", "messages": [USER, ASSISTANT]}).messages[0].role == "user"


def test_the_marker_itself_can_be_written_in_an_answer(folder: Path) -> None:
    said = r"Write \<image> where the image goes."
    sample = sample_of(folder, {"image": "p1.jpg", "conversations": [
        {"from": "human", "value": "<image>\nHow?"}, {"from": "gpt", "value": said}]})  # fmt: skip
    assert sample.messages[1].parts == ("Write <image> where the image goes.",)
    path = write_lines(folder, {"id": "1", "conversations": [ASK, {"from": "gpt", "value": said}]})
    [seen] = show(DataSource(file=path))
    assert -200 not in seen.input_ids  # seven characters, not an image
    assert "Write <image> where" in _supervised_text(seen)


@pytest.mark.parametrize(
    "marker", ["<image 1>", "<Image>", "<image_placeholder>", "<ImageHere>", "<|image_pad|>", "[IMG]", "<video>"]
)
def test_what_looks_like_a_marker_is_named(folder: Path, marker: str) -> None:
    path = write_lines(folder, {"id": "1", "conversations": [{"from": "human", "value": f"{marker} What?"}, SAY]})
    report = check([DataSource(file=path)], None)
    [note] = report.notes
    assert repr(marker) in note.detail
    assert note.detail.startswith(f"{path}:1:conversations[0].value: ")


def test_ordinary_text_with_angle_brackets_is_no_marker(folder: Path) -> None:
    said = "If x < y > z, then <b>bold</b>, list[int] and <images of cats> are text."
    path = write_lines(folder, {"id": "1", "conversations": [{"from": "human", "value": said}, SAY]})
    assert check([DataSource(file=path)], None).notes == []


def test_a_number_as_pandas_writes_it_is_the_same_id(folder: Path) -> None:
    assert sample_of(folder, {"id": 1.0, "messages": [USER, ASSISTANT]}).id == "1"
    assert sample_of(folder, {"id": 7, "messages": [USER, ASSISTANT]}).id == "7"


RECORD = {"id": "1", "conversations": [ASK, SAY]}
WRAPPED = {
    "data": json.dumps({"data": [RECORD, RECORD]}),
    "data, indented": json.dumps({"version": 1, "data": [RECORD, RECORD]}, indent=2),
    "one record, indented": json.dumps(RECORD, indent=2),
    "one record on one line": json.dumps(RECORD),
    "a list in a line of its own": '{"data": [\n' + json.dumps(RECORD) + ",\n" + json.dumps(RECORD) + "\n]}\n",
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".json.gz", ".jsonl.gz"])
def test_wrapped_lists_and_gzipped_text_are_read(folder: Path, name: str, suffix: str) -> None:
    text = WRAPPED[name].encode()
    path = folder / f"data{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
    samples = list(all_samples(DataSource(file=path)))
    assert len(samples) == (1 if "one record" in name else 2)
    assert all(sample.origin.startswith(f"{path}:") for sample in samples)
    unread = check([DataSource(file=path)], None).unread_fields
    assert [field.field for field in unread] == (["version"] if "indented" in name and "data" in name else [])


def test_an_object_without_a_list_of_records_is_one_error_not_one_per_line(folder: Path) -> None:
    (folder / "data.json").write_text(json.dumps({"info": {"a": 1}, "rows": ["x"]}, indent=2), encoding="utf-8")
    report = check([DataSource(file=folder / "data.json")], None)
    assert len(report.faults) == 1
    assert "one JSON object (info, rows)" in report.faults[0].detail
    (folder / "two.json").write_text(json.dumps({"train": [RECORD], "val": [RECORD]}, indent=2), encoding="utf-8")
    [fault] = check([DataSource(file=folder / "two.json")], None).faults
    assert "2 lists of records (train, val)" in fault.detail
    (folder / "cut.json").write_text(json.dumps({"data": [RECORD]}, indent=2)[:-20], encoding="utf-8")
    [fault] = check([DataSource(file=folder / "cut.json")], None).faults
    assert "not JSON" in fault.detail


@pytest.mark.parametrize("name", ["a.xlsx", "a.arrow", "a.zip", "a.pkl"])
def test_files_of_other_kinds_are_refused_with_what_to_do(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"PK\3\4")
    [fault] = check([DataSource(file=folder / name)], None).faults
    assert f"{Path(name).suffix} files are not read" in fault.detail
    assert "Fix: " in fault.detail


def test_a_gzipped_file_that_is_cut_off_is_named(folder: Path) -> None:
    content = gzip.compress(json.dumps(RECORD).encode() * 50)
    (folder / "data.jsonl.gz").write_bytes(content[: len(content) // 2])
    [fault] = check([DataSource(file=folder / "data.jsonl.gz")], None).faults
    assert f"{folder / 'data.jsonl.gz'}: " in fault.detail
    assert "unpacked" in fault.detail


def test_a_second_process_reads_the_unpacked_records_of_the_first(folder: Path, tiny_processor: Any) -> None:
    write_lines(folder, {"image": "p1.jpg", **RECORD}, name="data.jsonl")
    packed = folder / "data.jsonl.gz"
    packed.write_bytes(gzip.compress((folder / "data.jsonl").read_bytes()))
    for _ in range(2):
        chosen = select_records(DataSource(file=packed), tiny_processor)
        assert chosen.index.sample(0).origin == f"{packed}:1"


@pytest.fixture(scope="module")
def tiny_processor(tiny_backbones: Path) -> Any:
    from vistune.model import read_spec
    from vistune.processor import Processor, load_tokenizer
    from vistune.recipe import Model

    model = Model(vision=str(tiny_backbones / "vision"), language=str(tiny_backbones / "language"))
    return Processor(load_tokenizer(tiny_backbones / "language"), read_spec(model))


def test_an_image_field_of_bytes_alone_is_read_from_parquet(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "green").save(buffer, "PNG")
    parquet.write_table(
        pyarrow.Table.from_pylist([{"image": buffer.getvalue(), "conversations": [ASK, SAY]}]), folder / "a.parquet"
    )
    [sample] = all_samples(DataSource(file=folder / "a.parquet"))
    assert Path(str(sample.images[0].source)).read_bytes() == buffer.getvalue()


def test_a_damaged_parquet_file_is_named_as_the_user_named_it(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    (folder / "bad.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(DataError, match=r"bad\.parquet: cannot be read as parquet"):
        all_samples(DataSource(file=folder / "bad.parquet"))


def test_a_lone_record_with_a_misspelt_field_is_not_taken_for_a_wrapped_list(folder: Path) -> None:
    path = write_lines(folder, {"id": 1, "conversatons": [ASK, SAY]})
    report = check([DataSource(file=path)], None)
    [fault] = report.faults
    assert "the record has id, conversatons" in fault.detail
    assert not report.unread_fields


def test_a_part_may_name_its_image_by_index(folder: Path) -> None:
    def of(*content: dict[str, Any]) -> dict[str, Any]:
        return {"images": ["p1.jpg", "p2.jpg"], "messages": [{"role": "user", "content": list(content)}, ASSISTANT]}

    text = {"type": "text", "text": "Which is red?", "index": None}
    first, second = ({"type": "image", "index": k, "text": None} for k in (0, 1))
    assert names_of(sample_of(folder, of(second, first, text))) == ["p2.jpg", "p1.jpg"]
    for wrong in (
        {"type": "image", "index": 2},
        {"type": "image", "index": True},
        {"type": "image", "index": 0, "image": "p2.jpg"},
    ):
        with pytest.raises(RecordError, match=r"content\[0\]\.index: "):
            sample_of(folder, of(wrong, text))
    with pytest.raises(RecordError, match="1 images"):
        sample_of(folder, of(first, text))


def test_the_kept_index_of_one_parquet_file_says_nothing_of_another(folder: Path, tiny_processor: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [{"texts": [{"user": "What?", "assistant": "A."}]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "plain.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([{**row, "difficulty": 3} for row in rows]), folder / "more.parquet")
    for name, fields in (("plain", []), ("more", ["difficulty"]), ("plain", [])):
        source = DataSource(file=folder / f"{name}.parquet")
        chosen = select_records(source, tiny_processor)
        assert [field.field for field in chosen.index.unread_fields] == fields


def test_a_file_is_unpacked_anew_under_a_name_of_another_kind(folder: Path) -> None:
    import tarfile

    record = json.dumps({"conversations": [ASK, SAY]}).encode()
    with tarfile.open(folder / "wrong.jsonl.gz", "w:gz") as tar:
        info = tarfile.TarInfo("k.json")
        info.size = len(record)
        tar.addfile(info, io.BytesIO(record))
    assert check([DataSource(file=folder / "wrong.jsonl.gz")], None).faults
    (folder / "wrong.jsonl.gz").rename(folder / "right.tar.gz")
    assert check([DataSource(file=folder / "right.tar.gz")], None).samples == 1


def test_numbers_that_json_cannot_hold_do_not_spoil_a_parquet_row(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    turns = [{**USER, "score": float("nan")}, {**ASSISTANT, "score": float("inf")}]
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": turns}]), folder / "a.parquet")
    report = check([DataSource(file=folder / "a.parquet")], None)
    assert (report.samples, report.faults) == (1, [])
    assert [field.field for field in report.unread_fields] == ["messages[].score"]


@pytest.mark.parametrize("name", ["Image", "IMAGES", "imgae", "image1", "image_0", "images_list", "Photo", "img_2"])
def test_images_under_another_name_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(RecordError, match=f":1:{name}: is not read"):
        sample_of(folder, {name: "p1.jpg", "messages": [USER, ASSISTANT]})
    with pytest.raises(RecordError, match=rf"messages\[0\]\.{name}: an image in a field of a turn"):
        sample_of(folder, {"messages": [{**USER, name: "p1.jpg"}, ASSISTANT]})


def test_a_record_with_images_may_have_others_for_information_but_no_second_one(folder: Path) -> None:
    unread: Counter[str] = Counter()
    record = {"image": "p1.jpg", "image_url": "http://x/p1.jpg", "messages": [USER, ASSISTANT]}
    read_sample(record, "x:1", ImageFolders([folder]), Counter(), unread)
    assert unread == {"image_url": 1}
    with pytest.raises(RecordError, match=":image_2: is not read"):
        sample_of(folder, {"image": "p1.jpg", "image_2": "p2.jpg", "messages": [USER, ASSISTANT]})


@pytest.mark.parametrize("marker", ["<start_of_image>", "<image:1>", "＜image＞", "&lt;image&gt;", "![x](p1.jpg)"])
def test_markers_of_other_models_and_documents_are_named(folder: Path, marker: str) -> None:
    path = write_lines(folder, {"id": "1", "conversations": [{"from": "human", "value": f"{marker} What?"}, SAY]})
    [note] = check([DataSource(file=path)], None).notes
    assert repr(marker) in note.detail


def test_an_image_as_base64_is_named_as_such(folder: Path) -> None:
    with pytest.raises(RecordError, match=r"too long for the name of a file.*base64") as caught:
        sample_of(folder, {"image": "/9j/4AAQ" * 400, "messages": [USER, ASSISTANT]})
    assert len(caught.value.message) < 200


def test_suggestions_name_fields_that_are_read(folder: Path) -> None:
    turns = [{**USER, "Loss": False}, ASSISTANT]
    path = write_lines(folder, {"id": "1", "messages": turns, "image_width": 5, "knd": "detail"})
    near = {field.field: field.near for field in check([DataSource(file=path)], None).unread_fields}
    assert near == {"image_width": "", "knd": "kind", "messages[].Loss": "loss"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_the_digest_of_an_index_is_that_of_the_users_file(folder: Path, tiny_processor: Any, name: str) -> None:
    """`vistune why` compares it with the file, to say whether the data changed since the training."""
    from vistune.files import sha256_of

    record = {"texts": [{"user": "What?", "assistant": "A."}]}
    path = write_lines(folder, record, name="a.jsonl")
    if name.endswith(".gz"):
        path = folder / name
        path.write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()))
    elif name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        path = folder / name
        parquet.write_table(pyarrow.Table.from_pylist([record]), path)
    for _ in range(2):  # unpacked, then from the cache
        chosen = select_records(DataSource(file=path), tiny_processor)
        assert chosen.index.digest == sha256_of(chosen.index.path) == sha256_of(path)


def test_an_empty_entry_among_images_is_refused(folder: Path) -> None:
    for empty in (None, ""):
        with pytest.raises(RecordError, match=":1:images: 1 of 2 entries name no image"):
            sample_of(folder, {"images": ["p1.jpg", empty], "messages": [USER, ASSISTANT]})
