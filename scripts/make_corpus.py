"""Bad input of every kind, each with the one outcome that is right: python scripts/make_corpus.py tests/corpus

Rows D and I of the reliability matrix: a folder each, with a data file (`data.json` or `data.jsonl`) for `vistune
check` and the pictures beside it. Rows C: recipes/NAME.yaml · K: models/NAME · H: requests/NAME.body (to be posted) and
.http (a whole request). `expected.json` says what each must come to. tests/data/test_corpus.py, test_recipe.py,
interop/test_damaged_folders.py and serving/test_bad_requests.py hold every outcome; they make each case as they need
it, so the folder is not kept by git. 20 MB on disk: what is 200 MB is a hole in a file.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from corpus_images import IMAGES, save
from corpus_models import MODELS
from corpus_recipes import RECIPES
from corpus_requests import BODIES, HEADS

Outcome = Literal["ok", "warn", "reject", "refuse"]  # refuse: the file as a whole, exit code 2
TOKENS_PER_ROW = 160  # of the recipe that checks them


@dataclass(frozen=True)
class Case:
    """`write` fills a folder and names the data file · `words`: a pattern that the message must meet.

    `line`: where the bad row stands · `good`: rows that must be read all the same.
    """

    outcome: Outcome
    words: str
    write: Callable[[Path], Path]
    line: int = 2
    good: int = 2


def turns(*said: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"from": speaker, "value": value} for speaker, value in said]


def row(**changes: Any) -> dict[str, Any]:
    """A good row of one picture and one turn, with changes; a field set to ... is left out."""
    made = {"id": "bad", "image": "good.png", "kind": "caption",
            "conversations": turns(("human", "<image>\nWhat colour?"), ("gpt", "red"))}  # fmt: skip
    return {name: value for name, value in (made | changes).items() if value is not ...}


def spoken(*said: tuple[str, Any]) -> dict[str, Any]:
    return row(conversations=turns(*said))


def around(*bad: Any, name: str = "data.jsonl", before: int = 1) -> Callable[[Path], Path]:
    """A file with the bad rows between good ones; text and bytes stand as they are."""

    def write(folder: Path) -> Path:
        save(folder, "good.png")
        good = [row(id=f"good {k}", conversations=turns(("human", f"<image>\n{k}?"), ("gpt", "red"))) for k in range(9)]
        rows = [*good[:before], *bad, *good[before : before + 1]]
        lines = [item if isinstance(item, bytes) else (item if isinstance(item, str) else json.dumps(item)).encode()
                 for item in rows]  # fmt: skip
        (folder / name).write_bytes(
            b"[\n" + b",\n".join(lines) + b"\n]\n" if name.endswith(".json") else b"\n".join(lines) + b"\n"
        )
        return folder / name

    return write


def whole(content: bytes, name: str = "data.json") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        save(folder, "good.png")
        (folder / name).write_bytes(content)
        return folder / name

    return write


def showing(name: str, prepare: Callable[[Path], None]) -> Callable[[Path], Path]:
    """A row whose picture `prepare` lays beside the data."""

    def write(folder: Path) -> Path:
        prepare(folder)
        return around(row(image=name))(folder)

    return write


def long_line(folder: Path) -> Path:
    """Good row, a line of 200 MB, good row: a hole, which takes no room on the disk."""
    path = around(name="data.jsonl")(folder)
    first, last = path.read_bytes().splitlines()
    with path.open("wb") as file:
        file.write(first + b'\n{"id": "')
        file.seek(200 * 2**20, os.SEEK_CUR)
        file.write(b'"}\n' + last + b"\n")
    return path


def link_out(folder: Path) -> None:
    outside = folder.with_name(folder.name + "-outside")
    outside.mkdir(exist_ok=True)
    save(outside, "secret.png")
    (folder / "link.png").symlink_to(outside / "secret.png")


def link_around(folder: Path) -> None:
    (folder / "loop.png").symlink_to(folder / "loop.png")


def many_missing(folder: Path) -> Path:
    """Pictures missing from seven folders: seven from the first, one from the last."""
    return around(*[row(image=f"part{k}/{n}.jpg") for k in range(7) for n in range(7 - k)])(folder)


def broken_list(folder: Path) -> Path:
    path = around(row(), name="data.json")(folder)
    path.write_bytes(path.read_bytes()[:-30])
    return path


def broken_lines(folder: Path) -> Path:
    path = around(name="data.jsonl")(folder)
    path.write_bytes(path.read_bytes()[:-30])
    return path


def changed_after(folder: Path) -> Path:
    """D33: a good file; the test changes it while it is in use."""
    return around()(folder)


NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999")
LONG = ("gpt", "red " * 200)
ASKED = ("human", "<image>\nWhat colour?")
TWO = '{{"id": "bad", "weight": {}, "image": "good.png", "conversations": []}}'
COMPOSED = unicodedata.normalize("NFC", "é.png")

ROWS: Mapping[str, Case] = {
    "D01-nothing": Case("refuse", "is empty", whole(b""), good=0),
    "D01-blank": Case("refuse", "is empty", whole(b"\n \n", "data.jsonl"), good=0),
    "D01-empty-list": Case("refuse", "has no records", whole(b"[]"), good=0),
    "D03-bom-list": Case("ok", "", whole(b"\xef\xbb\xbf" + json.dumps([row()]).encode()), good=1),
    "D03-bom-lines": Case("ok", "", whole(b"\xef\xbb\xbf" + json.dumps(row()).encode(), "data.jsonl"), good=1),
    "D05-not-utf8": Case("reject", r":7: not UTF-8", around(b'{"id": "\xff"}', before=6), line=7, good=7),
    "D05-not-utf8-in-a-list": Case("reject", r":7: not UTF-8",
                                   around(b'{"id": "\xff"}', name="data.json", before=5), line=7, good=6),
    "D06-lines": Case("reject", r":2: not JSON", broken_lines, good=1),
    "D06-list": Case("refuse", r":\d: .*(cut off|not JSON)", broken_list, good=0),
    "D08-long-line": Case("reject", r":2: larger than 16 MB", long_line),
    **{f"D10-{number}": Case("reject", rf":2: {number} is not JSON", around(TWO.format(number))) for number in NUMBERS},
    "D13-no-id": Case("ok", "no id", around(row(id=...)), good=3),
    "D13-null-id": Case("ok", "no id", around(row(id=None)), good=3),
    "D13-number": Case("ok", "", around(row(id=7)), good=3),
    "D13-list": Case("reject", ":2:id: ", around(row(id=["a"]))),
    "D14-surrogate": Case("reject", r":2:conversations\[1\]\.value: .*\\ud800",
                          around(spoken(ASKED, ("gpt", "\ud800")))),
    "D14-nul": Case("reject", r":2:conversations\[1\]\.value: .*\\x00", around(spoken(ASKED, ("gpt", "re\0d")))),
    "D14-in-id": Case("reject", r":2:id: ", around(row(id="\ud800"))),
    "D14-in-picture": Case("reject", r":2:image: ", around(row(image="a\0.png"))),
    "D16-conversations": Case("reject", r":2:conversations: ", around(row(conversations=[]))),
    "D16-messages": Case("reject", r":2:messages: ", around({"id": "bad", "messages": []})),
    "D17-gpt-first": Case("reject", r":2:conversations\[0\]: a turn of the assistant",
                          around(spoken(("gpt", "red"), ASKED, ("gpt", "red")))),
    "D18-two-questions": Case("reject", r":2:conversations\[1\]: a turn of the user",
                              around(spoken(ASKED, ("human", "?"), ("gpt", "red")))),
    "D19-unknown": Case("reject", r":2:conversations\[0\]\.from: .*'bot'.*human, gpt, system",
                        around(spoken(("bot", "?")))),
    "D20-number": Case("reject", r":2:conversations\[1\]\.value: expected text, got 5",
                       around(spoken(ASKED, ("gpt", 5)))),
    "D20-null": Case("reject", r":2:conversations\[1\]\.value: ", around(spoken(ASKED, ("gpt", None)))),
    "D20-list": Case("reject", r":2:conversations\[1\]\.value: ", around(spoken(ASKED, ("gpt", ["red"])))),
    "D21-empty": Case("reject", r":2:conversations\[1\]: an empty answer", around(spoken(ASKED, ("gpt", "")))),
    "D21-blank": Case("reject", r":2:conversations\[1\]: an empty answer", around(spoken(ASKED, ("gpt", " \n\u00a0")))),
    "D23-no-marker": Case("warn", "put at the start", around(spoken(("human", "What?"), ("gpt", "red"))), good=3),
    "D24-three-for-two": Case("reject", r":2:image: 3 <image> .* 2 images",
                              around(spoken(("human", "<image>" * 3), ("gpt", "?")) | {"image": ["good.png"] * 2})),
    "D27-cut": Case("warn", r":2: \d+ tokens do not fit a row of 160: 2 of 4 messages",
                    around(spoken(ASKED, ("gpt", "red"), ("human", "?"), LONG)), good=3),
    "D27-nothing-left": Case("reject", r":2: \d+ tokens do not fit a row of 160", around(spoken(ASKED, LONG)), good=3),
    "D28-question-alone": Case("reject", r":2:conversations: .* no answer", around(spoken(ASKED))),
    "D30-link-out": Case("reject", r":2:image: .*link out", showing("link.png", link_out)),
    "D30-link-around": Case("reject", r":2:image: ", showing("loop.png", link_around)),
    "D30-pipe": Case("reject", r":2:image: ", showing("pipe.png", lambda folder: os.mkfifo(folder / "pipe.png"))),
    "D30-folder": Case("reject", r":2:image: ", showing("folder.png", lambda folder: (folder / "folder.png").mkdir())),
    "D30-zeros": Case("reject", r":2:image: ",
                      showing("zero.png", lambda folder: (folder / "zero.png").symlink_to("/dev/zero"))),
    "D30-absolute": Case("reject", r":2:image: .*leaves the image folder", around(row(image="/etc/passwd"))),
    "D30-above": Case("reject", r":2:image: .*leaves the image folder", around(row(image="../good.png"))),
    "D31-missing": Case("reject", r":2:image: no image", many_missing),
    "D32-case": Case("reject", r":2:image: .*did you mean 'good\.png'", around(row(image="GOOD.PNG"))),
    "D32-accent": Case("warn", "are the same file",
                       showing(unicodedata.normalize("NFD", COMPOSED), lambda folder: save(folder, COMPOSED)), good=3),
    "D33-changed": Case("ok", "", changed_after),
}  # fmt: skip


def image_case(name: str) -> Case:
    """The same picture in a row of its own."""
    made = IMAGES[name]

    def write(folder: Path) -> Path:
        (folder / made.file).write_bytes(made.content())
        return around(row(image=made.file))(folder)

    return Case(made.outcome, made.words, write, good=3)


CASES: Mapping[str, Case] = {**ROWS, **{name: image_case(name) for name in IMAGES}}


def main(out: Path) -> None:
    for name, case in CASES.items():
        (out / name).mkdir(parents=True)
        case.write(out / name)
    expected = {name: {"outcome": case.outcome, "words": case.words} for name, case in CASES.items()}
    (out / "recipes").mkdir()
    for name, recipe in RECIPES.items():
        (out / "recipes" / f"{name}.yaml").write_text(recipe.text, encoding="utf-8")
        expected[f"recipes/{name}"] = {"outcome": "refuse", "words": recipe.words}
    for name, model in MODELS.items():
        model.write(out / "models" / name)
        expected[f"models/{name}"] = {"outcome": model.outcome, "words": model.words}
    (out / "requests").mkdir()
    for suffix, requests in (("body", BODIES), ("http", HEADS)):
        for name, request in requests.items():
            (out / "requests" / f"{name}.{suffix}").write_bytes(request.said)
            expected[f"requests/{name}.{suffix}"] = {"outcome": str(request.status), "words": request.words}
    (out / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
