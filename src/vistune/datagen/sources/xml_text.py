"""Parse XML of labelling tools. A document type is refused: its entities can read files or expand without limit."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from vistune.errors import DataError
from vistune.files import read_bytes


def read_xml(path: Path) -> Element:
    """The root element of a file. Raises DataError if it is not XML or has a document type."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        hint = "remove the line <!DOCTYPE …>; annotations need none"
        raise DataError(f"{path}:{parser.CurrentLineNumber}: a document type, which is not read", hint)

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_bytes(path), True)
    except LookupError as error:
        raise DataError(f"{path}: {error}", "save the file as UTF-8") from None
    except expat.ExpatError as error:
        problem = expat.errors.messages.get(error.code, "broken")
        raise DataError(f"{path}:{error.lineno}: not XML: {problem}", "correct the file or export it again") from None
    return builder.close()


def text_of(element: Element, name: str) -> str:
    """The text of a child; "" if there is none."""
    return (element.findtext(name) or "").strip()
