"""mkdocs hooks: build the navigation from the folders of docs/, and unlink what is not on the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(?:#[^)]*)?\)")
Entry = str | dict[str, Any]


def on_config(config: Any, **_: Any) -> Any:
    """Set the navigation from the folders of docs/ and the sections that mkdocs.yml names."""
    config["nav"] = navigation(Path(config["docs_dir"]), config["extra"]["sections"])
    return config


def navigation(docs: Path, sections: list[dict[str, Any]]) -> list[Entry]:
    """List the pages of each section and those directly in `docs`, in the order in which the site shows them."""
    by_folder = {section["folder"]: pages_of(docs, section) for section in sections}
    top = sorted(path.name for path in docs.glob("*.md") if path.name != "index.md")
    listed: list[Entry] = ["index.md"]
    for section in sections:
        if section["folder"] == "project":
            listed += top  # troubleshooting, before the pages about the project
        if pages := by_folder[section["folder"]]:
            listed.append({section["title"]: pages})
    return listed


def pages_of(docs: Path, section: dict[str, Any]) -> list[Entry]:
    """List a section's pages: its index and those named in `first`, its groups, then the others by file name."""
    folder = docs / section["folder"]
    order = ["index.md", *section.get("first", [])]
    paths = sorted(
        folder.rglob("*.md"),
        key=lambda path: (order.index(path.name) if path.name in order else len(order), path.as_posix()),
    )
    pages = [path.relative_to(docs).as_posix() for path in paths]
    groups: list[Entry] = []
    for title, names in section.get("groups", {}).items():
        named = [f"{section['folder']}/{name}.md" for name in names]
        groups.append({title: [page for page in named if page in pages]})
        pages = [page for page in pages if page not in named]
    return [*groups, *pages]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files outside docs/ into plain text; they work where the repository is browsed."""
    folder = posixpath.dirname(page.file.src_uri)

    def unlink(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[2]))
        return found[1] if target.startswith("../") and "://" not in found[2] else found[0]

    return LINK.sub(unlink, markdown)
