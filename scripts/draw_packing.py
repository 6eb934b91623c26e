"""Draw docs/images/packing.svg: three conversations in one packed row, their labels, and what each token attends to.

python scripts/draw_packing.py
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "images" / "packing.svg"
CELL = 24
# One letter per token: t text, i image slot, a answer.
DOCUMENTS = ("tiiittaaa", "tiiita", "ttaataa")
COLOURS = ("#4c78a8", "#e07b39", "#7a5ba6")
PALE = ("#dbe6f1", "#fbe5d6", "#e6def0")
SUPERVISED, IGNORED = "#2f9e62", "#eeeeee"


def main() -> None:
    PAGE.write_text(drawing(), encoding="utf-8")


def drawing() -> str:
    tokens = [(number, kind) for number, document in enumerate(DOCUMENTS) for kind in document]
    width = len(tokens) * CELL
    parts = padded(30, 50, width) + packed(tokens, 30, 210) + attention(tokens, 30 + width + 70, 50)
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1170 600" font-family="sans-serif" font-size="14"'
            ' role="img" aria-label="Padded batch, packed row with labels, and the attention mask of the packed row">',
            '<rect width="1170" height="600" rx="8" fill="#ffffff"/>',
            *parts,
            *legend(30, 440),
            "</svg>",
            "",
        ]
    )


def padded(x: int, y: int, width: int) -> list[str]:
    """The same conversations as a padded batch, for comparison."""
    longest = max(map(len, DOCUMENTS))
    parts = [text(x, y - 14, "A padded batch: one row per conversation", bold=True)]
    for number, document in enumerate(DOCUMENTS):
        for column in range(longest):
            inside = column < len(document)
            fill = fill_of(number, document[column]) if inside else "#ffffff"
            label = "img" if inside and document[column] == "i" else ""
            parts.append(cell(x + column * CELL, y + number * (CELL + 4), fill, label=label, dashed=not inside))
    parts.append(text(x + longest * CELL + 14, y + 2 * (CELL + 4) + 17, "dashed: padding, wasted work"))
    return parts


def packed(tokens: list[tuple[int, str]], x: int, y: int) -> list[str]:
    """The packed row, where its documents start, its positions and its labels."""
    parts = [text(x, y - 14, "A packed row: the conversations one after another, no padding", bold=True)]
    start = 0
    for number, document in enumerate(DOCUMENTS):
        for offset, kind in enumerate(document):
            column = x + (start + offset) * CELL
            parts.append(cell(column, y, fill_of(number, kind), label="img" if kind == "i" else ""))
            parts.append(text(column + CELL / 2, y + 62, str(offset), middle=True, size=11))
            parts.append(cell(column, y + 112, SUPERVISED if kind == "a" else IGNORED))
        parts.append(
            f'<path d="M{x + start * CELL} {y - 4} v{CELL + 8}" stroke="#222222" stroke-width="3" fill="none"/>'
        )
        parts.append(text(x + start * CELL + 4, y + 40, f"starts: {start}", size=11))
        start += len(document)
    parts.append(text(x, y + 82, "positions restart at 0 in each conversation", size=12))
    parts.append(text(x, y + 106, "labels", size=12))
    parts.append(text(x, y + 156, "green: supervised, the loss uses it; grey: label -100", size=12))
    return parts


def attention(tokens: list[tuple[int, str]], x: int, y: int) -> list[str]:
    """The attention mask: causal within a document, nothing across documents."""
    side = 23
    parts = [text(x, y - 14, "Attention: which token (row) reads which (column)", bold=True)]
    for row, (own, _) in enumerate(tokens):
        for column, (other, _) in enumerate(tokens):
            allowed = own == other and column <= row
            fill = COLOURS[own] if allowed else "#f7f7f7"
            parts.append(
                f'<rect x="{x + column * side}" y="{y + row * side}" width="{side}" height="{side}" fill="{fill}"'
                ' stroke="#ffffff"/>'
            )
    size = len(tokens) * side
    parts.append(f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="none" stroke="#888888"/>')
    parts.append(
        text(x, y + size + 24, "Each conversation is a separate block: no token reads another conversation.", size=12)
    )
    return parts


def legend(x: int, y: int) -> list[str]:
    """What the colours mean."""
    entries = (
        (PALE, "text that is not supervised: system prompt, question"),
        (COLOURS, "answer"),
    )
    parts = []
    for line, (fills, meaning) in enumerate(entries):
        for number, fill in enumerate(fills):
            parts.append(cell(x + number * (CELL + 2), y + line * 34, fill))
        parts.append(text(x + 3 * (CELL + 2) + 10, y + line * 34 + 17, meaning))
    image = "image slot: one token per patch of the image (576 in LLaVA-1.5)"
    parts.append(cell(x, y + 68, PALE[0], label="img"))
    parts.append(text(x + 3 * (CELL + 2) + 10, y + 85, image))
    parts.append(text(x, y + 136, "Each colour is one conversation, also called a document."))
    return parts


def fill_of(number: int, kind: str) -> str:
    return COLOURS[number] if kind == "a" else PALE[number]


def cell(x: float, y: float, fill: str, *, label: str = "", dashed: bool = False) -> str:
    border = ' stroke="#bbbbbb" stroke-dasharray="3 3"' if dashed else ' stroke="#ffffff"'
    box = f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="3" fill="{fill}"{border}/>'
    return box + (text(x + CELL / 2, y + 16, label, middle=True, size=10) if label else "")


def text(x: float, y: float, content: str, *, bold: bool = False, middle: bool = False, size: int = 14) -> str:
    anchor = ' text-anchor="middle"' if middle else ""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}"{weight}{anchor} fill="#222222">{content}</text>'


if __name__ == "__main__":
    main()
