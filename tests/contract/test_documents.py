"""Documents: every command block is run, parsed against the program, or says why not; both READMEs say the same.

A block that needs a GPU, a network, real weights or someone who waits stands behind `<!-- not run: why -->`.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

import joint_folders
import language_table
import pytest
import tower_kinds
import yaml
from script_modules import load_script
from source_messages import source_messages
from typer.main import get_command

import vistune
from vistune.cli.app import app
from vistune.recipe import load_recipe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md")) if path.parent.name != "decisions"]
PAGES = ["README.md", "README.ko.md", *(f"docs/{page}" for page in SITE)]
BLOCK = re.compile(
    r"(?: *<!-- not run: (?P<why>[^\n]*?) -->\n+)?^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
SHELL = ("bash", "sh", "shell", "console")
PROGRAM: Any = get_command(app)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *kinds: str) -> list[tuple[int, str, str | None]]:
    """(line, text, why it is not run) of a page's blocks of some kinds."""
    text = read(page)
    return [
        (text[: found.start("kind")].count("\n") + 1, dedent(found["text"]), found["why"])
        for found in BLOCK.finditer(text)
        if found["kind"] in kinds
    ]


def commands(text: str) -> list[list[str]]:
    """The words of each command; settings before it and what is behind `|`, `&` or `>` left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        ends = [k for k, word in enumerate(words) if word in ("|", "&", "&&", ">", "2>")]
        if words := words[: ends[0]] if ends else words:
            found.append(words)
    return found


def refuse(words: list[str]) -> str | None:
    """What is wrong with a command, as far as the project can tell; None where nothing is."""
    name, *rest = words
    if name == "torchrun" and "vistune" in rest:
        name, rest = "vistune", rest[rest.index("vistune") + 1 :]
    if Path(name).name == "vistune":
        return refuse_verb(rest)
    if name == "make":
        targets = re.findall(r"^([\w-]+):", read("Makefile"), flags=re.MULTILINE)
        wrong = [word for word in rest if "=" not in word and word not in targets]
        return f"no target {wrong}" if wrong else None
    if Path(name).name in ("python", "pytest"):
        files = [word for word in rest if "/" in word and not word.startswith("-")]
        wrong = [word for word in files if not (ROOT / word).exists()]
        return f"no file {wrong}" if wrong or not files else None
    if words == [".", ".venv/bin/activate"]:  # the environment that `make install` creates
        return None
    if words[:2] == ["pip", "install"]:
        extras = set(tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"])
        wanted = {extra for word in rest for found in re.findall(r"\[([\w,-]+)\]", word) for extra in found.split(",")}
        return f"no extra {sorted(wanted - extras)}" if wanted - extras else None
    return f"{name} is not the project's: put `<!-- not run: why -->` before the block"


def refuse_verb(words: list[str]) -> str | None:
    """Parse a command with the program itself; nothing is run."""
    if words and words[0] == "--lang":
        words = words[2:]
    verb, *rest = words
    if verb not in PROGRAM.commands:
        return None if verb == "--help" else f"no verb {verb}"
    if "--help" in rest:
        return None
    try:
        PROGRAM.commands[verb].make_context(verb, list(rest))
    except Exception as error:
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"
    if verb in ("train", "plan", "selftest", "draw") and not rest[0].startswith("-"):  # `--resume RUN` names a run
        load_recipe(rest[0], [word for word in rest[1:] if "=" in word and not word.startswith("-")])
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_parsed_or_marked(page: str) -> None:
    for line, text, why in blocks(page, *SHELL):
        for words in commands(text) if why is None else ():
            assert (wrong := refuse(words)) is None, f"{page}:{line}: {' '.join(words)}: {wrong}"


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_overlooked(page: str) -> None:
    fences = re.findall(r"^ *```", read(page), flags=re.MULTILINE)
    assert len(fences) == 2 * len(BLOCK.findall(read(page)))
    assert not re.findall(r"^ {4,}(?:\w+=\S+ )?(?:pytest|python|vistune|make|pip) .*", read(page), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_compiles_and_names_what_is_there(page: str) -> None:
    for line, text, why in blocks(page, "python"):
        if why is None:
            compile(text, f"{page}:{line}", "exec")
            for name in re.findall(r"\bvistune\.(\w+)\(", text):
                assert name in vistune.__all__, f"{page}:{line}: vistune.{name}"


@pytest.mark.parametrize("page", PAGES)
def test_a_mark_gives_a_reason_and_stands_before_a_block(page: str) -> None:
    marks = re.findall(r"<!-- not run[^\n]*-->", read(page))
    reasons = [found["why"] for found in BLOCK.finditer(read(page)) if found["why"]]
    assert len(marks) == len([why for why in reasons if len(why) > 10])


def test_both_readmes_say_the_same() -> None:
    """Commands, figures and pictures are the same in both; each links to the other."""
    english, korean = "README.md", "README.ko.md"
    for kinds in (SHELL, ("python",)):
        said = [
            [commands(text) if kinds is SHELL else text for _, text, _ in blocks(page, *kinds)]
            for page in (english, korean)
        ]
        assert said[0] == said[1], "bring README.ko.md up to README.md"
    assert [text for _, text, _ in blocks(english, "text")] == [text for _, text, _ in blocks(korean, "text")]
    images = [re.findall(r"!\[[^\]]*\]\(([^)]+)\)", read(page)) for page in (english, korean)]
    assert images[0] == images[1]
    assert f"]({english})" in read(korean)
    assert all(len(read(page).splitlines()) <= 150 for page in (english, korean))


def pages_in(entries: list[Any]) -> list[str]:
    """The pages of a navigation, in its groups too."""
    return [
        page
        for entry in entries
        for page in ([entry] if isinstance(entry, str) else pages_in(next(iter(entry.values()))))
    ]


def test_the_sites_navigation_lists_every_page_once() -> None:
    hooks = load_script("docs_hooks")
    sections = yaml.safe_load(read("mkdocs.yml"))["extra"]["sections"]
    listed = pages_in(hooks.navigation(DOCS, sections))
    assert sorted(listed) == sorted(SITE)


def test_every_decision_is_in_the_table() -> None:
    listed = re.findall(r"\]\(\.\./decisions/([^)]+)\)", read("docs/project/decisions.md"))
    assert listed == sorted(path.name for path in (DOCS / "decisions").glob("*.md"))


def test_the_recipe_reference_is_current() -> None:
    writer = load_script("write_recipe_docs")
    assert writer.PAGE.read_text(encoding="utf-8") == writer.page(), "run: python scripts/write_recipe_docs.py"


@pytest.mark.soak
def test_the_supported_models_are_those_that_the_tests_run() -> None:
    writer = load_script("write_model_docs")
    assert writer.PAGE.read_text(encoding="utf-8") == writer.page(), "run: python scripts/write_model_docs.py"


def test_the_supported_models_page_names_every_model_of_the_tests() -> None:
    tables = [*language_table.ACCEPTED.values(), *(kind for kind, _ in language_table.REFUSED.values())]
    cells = [f"| {kind.names} | `{kind.architecture}` |" for kind in tables]
    cells += [f"| {tower_kinds.NAMES[kind]} | `{kind}` |" for kind in tower_kinds.KINDS]
    cells += [f"| {names} | `{kind}` |" for kind, (names, _) in tower_kinds.REFUSED.items()]
    cells += [f"| `{kind}` |" for kind in (*joint_folders.KINDS, *joint_folders.REFUSED)]
    page = read("docs/reference/models.md")
    assert [cell for cell in cells if cell not in page] == [], "run: python scripts/write_model_docs.py"


def test_troubleshooting_quotes_messages_that_exist() -> None:
    quoted = re.findall(r"^### `(.+)`$", read("docs/troubleshooting.md"), flags=re.MULTILINE)
    strange = []
    for message in quoted:
        pieces = [re.escape(piece) for piece in re.split(r"[…]", message) if piece.strip(" :,")]
        if not any(re.search(".*".join(pieces), text, flags=re.DOTALL) for text in source_messages()):
            strange.append(message)
    assert not strange, f"docs/troubleshooting.md quotes messages that are not in the source: {strange}"
    assert len(quoted) >= 40


def test_the_korean_troubleshooting_has_the_same_messages() -> None:
    """Both pages list the same messages, and the quoted Korean messages are those that the program prints."""
    english, korean = (
        re.findall(r"^### .+$", read(page), flags=re.MULTILINE)
        for page in ("docs/troubleshooting.md", "docs/ko/troubleshooting.md")
    )
    assert english == korean
    translations = list(json.loads((ROOT / "src" / "vistune" / "ko.json").read_text(encoding="utf-8")).values())
    quoted = re.findall(r"^한국어: `(.+)`$", read("docs/ko/troubleshooting.md"), flags=re.MULTILINE)
    for message in quoted:
        pattern = ".*".join(re.escape(piece) for piece in message.split("…"))
        assert any(re.search(pattern, text) for text in translations), message
    assert len(quoted) >= 20


@pytest.mark.parametrize("english", ["start/*.md", "tutorials/*.md"])
def test_korean_pages_have_the_commands_of_the_english_ones(english: str) -> None:
    """A Korean page may add commands and `--lang ko`."""
    for path in sorted(DOCS.glob(english)):
        pages = (f"docs/{path.relative_to(DOCS).as_posix()}", f"docs/ko/{path.name}")
        here, there = (
            [
                " ".join(words).replace(" --lang ko", "")
                for _, text, _ in blocks(page, *SHELL)
                for words in commands(text)
            ]
            for page in pages
        )
        assert [words for words in here if words not in there] == [], f"bring docs/ko/{path.name} up to {pages[0]}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"`[^`\n]*`", "", read(page))):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


@pytest.mark.soak
def test_the_steps_of_the_readme_run_as_they_stand(tmp_path: Path) -> None:
    """The README's own block, one command after the other; fewer scenes and steps, nothing else changed."""
    (text,) = [text for _, text, _ in blocks("README.md", "bash") if text.startswith("vistune scenes world")]
    for words in commands(text):
        # The held-out pictures are numbered behind those that are learnt from.
        words = ["60" if word == "1000" else word.replace("000000001001", "000000000061") for word in words]
        if words[1] == "train":
            words += ["stages.align.steps=2", "stages.tune.steps=2"]
        if words[1] == "evaluate":
            words += ["--limit", "20"]
        found = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            input="그림에 무엇이 있나요?\n",
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert found.returncode == 0, f"{words}: {found.stderr}"
        assert found.stdout
