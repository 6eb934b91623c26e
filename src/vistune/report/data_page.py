"""Pages about data: the report of a data set, and the result of a check.

The report has one section per file that the data folder contains: samples.json, generate.json, pictures.jsonl and
rejects.jsonl. It also works for a single data file.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from vistune.errors import DataError
from vistune.files import read_json_if_there, read_jsonl, write_atomic
from vistune.grounding.guessing import (
    QUESTION_TYPES,
    answer_pairs_of,
    conversations_of,
    measure_guessing,
    measure_pair_guessing,
    question_type,
)
from vistune.records import MARKER, RECORD_FIELDS, ImageFolders, columns_read, open_data, read_sample
from vistune.report import plots
from vistune.report.rendering import (
    Labels,
    Row,
    Values,
    drawn_label,
    drawn_text,
    labels_of,
    render,
    spread,
    thumbnail,
    thumbnails,
    write_page,
)

SAMPLES = 20  # on the page
LISTED_REJECTS = 20  # of each reason on the page of a check
LLAVA_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}


def write_data_report(
    data: Path,
    *,
    out: Path | None = None,
    images: Path | None = None,
    near_duplicates: Row | None = None,
    language: str = "en",
) -> Path:
    """Write the page of a folder that `generate` wrote (FOLDER/report.html) or of a data file (FILE.report.html).

    Args:
        images: The image folder of a data file.
        near_duplicates: The result of `vistune.data.find_near_duplicates`, as a dict.
    """
    labels = labels_of(language)
    records = read_records(data)
    folder = data if data.is_dir() else data.parent
    sections = {
        "counts": counts(data, records),
        "spent": spent_on(data),
        "lengths": length_plots(records, labels) if records else None,
        "questions": question_types(records) if records else None,
        "guessing": guessing(data, records) if records else None,
        "near_duplicates": near_duplicates,
        "samples": samples(folder, images, records) if records else None,
        "rejects": rejects(data / "rejects.jsonl") if data.is_dir() else None,
    }
    path = out or (data / "report.html" if data.is_dir() else data.with_name(f"{data.name}.report.html"))
    return write_page(path, "data.html.j2", data.resolve().name, labels["data_title"], language, sections)


def write_check_report(page: Path, report: Row, labelled_samples: Sequence[Row]) -> None:
    """Write the page of `vistune check`: faults and notes by reason, and samples with their supervised text marked.

    Args:
        report: `vistune.data.CheckReport` as a dict.
        labelled_samples: Samples as `vistune.data.show` gives them.
    """
    shown = [{**sample, "thumbnails": thumbnails(sample["pictures"])} for sample in labelled_samples]
    by_reason = {kind: _by_reason(report[kind], LISTED_REJECTS) for kind in ("faults", "notes")}
    write_atomic(page, render("check.html.j2", labels_of("en"), report=report, samples=shown, **by_reason))


def read_records(data: Path) -> list[Row] | None:
    """Read the records of a data file or folder in LLaVA's form; None if the folder has no samples.json.

    If a record names no language, the letters of its answers decide. Raises DataError for the first bad record.
    """
    path = data / "samples.json" if data.is_dir() else data
    if not path.is_file():
        if data.is_dir():
            return None
        raise DataError(f"{data}: no such file", "name a data file, a folder that `generate` wrote, or a run")
    file = open_data(path, columns_read())
    return [_in_llava_form(record.value, record.location, file.images) for record in file.records(RECORD_FIELDS)]


def _in_llava_form(value: object, location: str, inner_images: Path | None) -> Row:
    """Convert a record; `inner_images` is the folder of images that were inside the data file."""
    try:
        if isinstance(value, DataError):
            raise value
        if not isinstance(value, Mapping):
            raise DataError(f"{location}: a record must be an object", "see docs/reference/file-formats.md")
        sample = read_sample(value, location, ImageFolders(None), Counter())
    except DataError as error:
        raise DataError(error.message, "`vistune check` lists all faults") from None
    conversations = [
        {
            "from": LLAVA_ROLES[message.role],
            "value": "\n".join(part if isinstance(part, str) else MARKER for part in message.parts),
        }
        for message in sample.messages
    ]
    answers = " ".join(message.text for message in sample.messages if message.role == "assistant")
    language = value.get("language") or ("ko" if re.search("[가-힣]", answers) else "en" if answers.isascii() else "–")
    image = str(sample.images[0].source) if sample.images else None
    if image is not None and inner_images is not None and (inner_images / image).is_file():
        image = str(inner_images / image)
    pair = {} if sample.rejected is None else {"chosen": sample.messages[-1].text, "rejected": sample.rejected.text}
    return {
        **value,
        **pair,
        "kind": sample.kind or "–",
        "image": image,
        "language": language,
        "conversations": conversations,
    }


def counts(data: Path, records: Sequence[Row] | None) -> Values | None:
    """Count the samples by kind and language, from generate.json if it is there."""
    generated: Row | None = read_json_if_there(data / "generate.json") if data.is_dir() else None
    if generated is None and records is None:
        return None
    if generated is None:
        generated = {
            "counts": Counter(f"{record['kind']}/{record['language']}" for record in records or ()),
            "images": len({record["image"] for record in records or () if record.get("image")}),
        }
    table = {tuple(name.rpartition("/")[::2]): count for name, count in generated["counts"].items()}
    return {
        "table": table,
        "kinds": sorted({kind for kind, _ in table}),
        "languages": sorted({language for _, language in table}),
        "rows": generated.get("rows", sum(table.values())),
        "images": generated.get("images"),
        "rejects": sum((generated.get("rejects") or {}).values()),
    }


def spent_on(data: Path) -> Values | None:
    """Return the cost and speed of the remote teacher; None if there was none."""
    generated: Row = (read_json_if_there(data / "generate.json") if data.is_dir() else None) or {}
    spent = generated.get("spent") or {}
    return spent if spent.get("outcomes") else None


def _turns(records: Iterable[Row], role: str) -> Iterator[tuple[str, str]]:
    """Yield (language of the record, text) of each turn of a role."""
    for record in records:
        for turn in record["conversations"]:
            if turn["from"] == role:
                yield str(record.get("language", "–")), turn["value"]


def length_plots(records: Sequence[Row], labels: Labels) -> list[Markup]:
    """Draw a histogram of answer lengths for each language, all on the same scale."""
    by_language: dict[str, list[int]] = defaultdict(list)
    for language, answer in _turns(records, "gpt"):
        by_language[language].append(len(answer))
    limit = max((max(lengths) for lengths in by_language.values()), default=1)
    return [
        plots.histogram(
            lengths,
            title=drawn_text(language, labels, f"#{number}"),
            axis=drawn_label("characters", labels),
            median=drawn_label("median", labels),
            limit=limit,
        )
        for number, (language, lengths) in enumerate(sorted(by_language.items()), start=1)
    ]


def samples(folder: Path, images: Path | None, records: Sequence[Row]) -> list[Values]:
    """Choose samples of every kind and language, and load thumbnails of their images with the teacher's boxes."""
    listed: Row = read_json_if_there(folder / "images.json") or {}
    folders = [images] if images else [folder, *(folder / name for name in listed.get("folders", ()))]
    boxes_file = folder / "pictures.jsonl"
    boxes = {str(row["image"]): row["boxes"] for _, row in read_jsonl(boxes_file)} if boxes_file.is_file() else {}
    shown = []
    for record in spread(records, SAMPLES, group=lambda record: f"{record['kind']}/{record['language']}", seed=0):
        image = record.get("image")
        small = thumbnail(image, _image_paths(folders, image), boxes.get(image, ())) if image else None
        turns = [(turn["from"], turn["value"].replace("<image>", "").strip()) for turn in record["conversations"]]
        shown.append({**record, "thumbnail": small, "turns": turns})
    return shown


def _image_paths(folders: Sequence[Path], name: str) -> list[Path]:
    """Return the paths where an image may be. Names that lead out of the image folders are left out, as in training."""
    try:
        if Path(name).is_absolute():  # unpacked from the data file by vistune
            return [Path(name)]
        return [folder / name for folder in folders if (folder / name).resolve().is_relative_to(folder.resolve())]
    except (OSError, ValueError, RuntimeError):  # not a path, or a link to itself
        return []


def rejects(path: Path) -> list[tuple[str, int, Row]] | None:
    """Return (reason, count, first reject) from rejects.jsonl, the most frequent reason first."""
    if not path.is_file():
        return None
    return [(reason, count, first[0]) for reason, count, first in _by_reason([row for _, row in read_jsonl(path)], 1)]


def _by_reason(rejected: Iterable[Row], listed: int) -> list[tuple[str, int, list[Row]]]:
    """Return (reason, count, the first `listed` of them), the most frequent reason first."""
    first: dict[str, list[Row]] = defaultdict(list)
    reasons: Counter[str] = Counter()
    for reject in rejected:
        reason = str(reject["reason"])
        reasons[reason] += 1
        if len(first[reason]) < listed:
            first[reason].append(reject)
    return [(reason, count, first[reason]) for reason, count in reasons.most_common()]


def question_types(records: Iterable[Row]) -> dict[str, Counter[str]]:
    """Count the questions by type and language, with simple rules for English and Korean."""
    counted: dict[str, Counter[str]] = {name: Counter() for name in QUESTION_TYPES}
    for language, text in _turns(records, "human"):
        kind = question_type(text.replace("<image>", ""))
        if kind is not None:
            counted[kind][language] += 1
    return {name: by_language for name, by_language in counted.items() if by_language}


def guessing(data: Path, records: Sequence[Row]) -> list[Row]:
    """Return how many answers can be guessed without the image, from generate.json if it is there."""
    generated: Row = (read_json_if_there(data / "generate.json") if data.is_dir() else None) or {}
    if "guessing" in generated:
        return list(generated["guessing"])
    results = [*measure_guessing(conversations_of(records)), *measure_pair_guessing(answer_pairs_of(records))]
    return [result.to_dict() for result in results]
