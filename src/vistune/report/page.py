"""One HTML file from a folder: it needs no network and no script, and reads on a phone.

data folder -> sections, each from its own file if that is there -> data.html.j2 -> DATA/report.html
sections + a template that builds on page.html.j2 -> any page
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistune.errors import DataError
from vistune.files import write_atomic
from vistune.report.data_sections import counts, length_plots, read_rows, rejects, samples, spent_on
from vistune.report.labels import labels_of
from vistune.report.rendering import render
from vistune.report.wording import question_types, verb_nouns

Row = Mapping[str, Any]


def write_data_report(
    data: Path,
    *,
    out: Path | None = None,
    images: Path | None = None,
    likeness: Row | None = None,
    language: str = "en",
) -> Path:
    """The page of a folder that `generate` wrote (FOLDER/report.html), or of any file of samples (FILE.report.html).

    How many and how long, how it asks, samples with their pictures, what was set aside, and with `likeness` which
    pictures are nearly the same or in evaluation sets.
    """
    labels = labels_of(language)
    folder = data if data.is_dir() else data.parent
    rows = read_rows(data)
    sections = {
        "counts": counts(data, rows),
        "spent": spent_on(data),
        "lengths": length_plots(rows, labels) if rows else None,
        "questions": question_types(rows) if rows else None,
        "verb_nouns": verb_nouns(rows) if rows else None,
        "likeness": likeness,
        "samples": samples(folder, images, rows) if rows else None,
        "rejects": rejects(data / "rejects.jsonl") if data.is_dir() else None,
    }
    path = out or (data / "report.html" if data.is_dir() else data.with_name(f"{data.name}.report.html"))
    return write_page(path, "data.html.j2", data.resolve().name, labels["data_title"], language, sections)


def write_page(path: Path, template: str, name: str, title: str, language: str, sections: Mapping[str, Any]) -> Path:
    """Fill a template; `sections` that are empty leave none on the page, and a page without any says so."""
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder", "name the folder that train, quickstart or generate wrote")
    labels = labels_of(language)
    page = render(template, labels, sections=sections, language=language, title=title, name=name)
    write_atomic(path, page)
    return path
