"""A sheet of paper and a pen: shapes and words, placed in points, saved as SVG and PNG.

words and shapes -> Pen -> NAME.svg (letters as paths, the words as title and description) + NAME.png
The same drawing always gives the same bytes. No letter is ever drawn as an empty box: a missing one is an error.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from vistune.errors import RecipeError
from vistune.files import write_atomic
from vistune.report import plots

INK, MUTED, RULE = plots.PALETTE["ink"], plots.PALETTE["muted"], plots.PALETTE["rule"]
TINTS = {  # what a box is: edge, face
    "vision": ("#0b65ad", "#e9f2fa"),
    "projector": ("#d9730d", "#fdf1e3"),
    "language": ("#1b7f5c", "#e7f5ee"),
    "frozen": ("#86b9de", "#eef6fc"),
    "learns": ("#e8590c", "#fff1e4"),
    "said": ("#dfe2e6", "#f6f7f8"),
}
UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "K"))
ICE, FIRE, EMBER = "#2b8fd0", "#e8590c", "#ffc53d"
PNG_DPI = 120
SMALLEST = 0.72  # words that do not fit shrink to this share of their size, and are cut in the middle after that
# A flame in a unit square, tip up: x, y of cubic Bézier curves, the first point and then three for each curve.
FLAME = (
    (0.52, 1.0), (0.58, 0.78), (0.92, 0.62), (0.92, 0.34), (0.92, 0.12), (0.73, 0.0), (0.5, 0.0), (0.27, 0.0),
    (0.08, 0.12), (0.08, 0.34), (0.08, 0.48), (0.17, 0.58), (0.24, 0.72), (0.28, 0.62), (0.31, 0.57), (0.36, 0.54),
    (0.42, 0.68), (0.40, 0.86), (0.52, 1.0),
)  # fmt: skip
KERNEL = (
    (0.52, 0.52), (0.55, 0.40), (0.72, 0.34), (0.72, 0.20), (0.72, 0.07), (0.62, 0.01), (0.5, 0.01), (0.38, 0.01),
    (0.28, 0.07), (0.28, 0.20), (0.28, 0.30), (0.44, 0.36), (0.52, 0.52),
)  # fmt: skip


class Pen:
    """Draws on a white sheet of `width` x `height` points, y upwards, and keeps every word for screen readers."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()
        self.said: list[str] = []

    def words(
        self,
        at: tuple[float, float],
        text: str,
        size: float = 9,
        *,
        color: str = INK,
        bold: bool = False,
        align: str = "left",
        room: float = math.inf,
    ) -> None:
        """Text on the baseline `at`, at most `room` points wide. Raises RecipeError for a letter without a shape."""
        refuse_undrawable(text)
        self.said.append(text)
        wide = width_of(text, size, bold)
        if wide > room:
            shrunk = max(SMALLEST, room / wide)
            size, text = size * shrunk, cut(text, room, size * shrunk, bold)
        weight = "bold" if bold else "normal"
        self.axes.text(*at, text, fontsize=size, color=color, weight=weight, ha=align, va="baseline")

    def head(self, title: str, aim: str) -> None:
        """The sheet's title and, below it, what it is about."""
        wide, high = self.figure.get_size_inches() * 72
        self.words((28, high - 38), title, 18, bold=True, room=wide - 280)
        self.words((28, high - 60), aim, 11, color=MUTED, room=wide - 280)

    def count(self, at: tuple[float, float], number: int, exact: str, room: float) -> None:
        """A number at the foot of a box, `at` the box's lower edge: short and large, `exact` and small below it."""
        self.words((at[0], at[1] + 25), short(number), 14, bold=True, room=room)
        self.words((at[0], at[1] + 11), exact, 8.5, color=MUTED, room=room)

    def box(
        self, at: tuple[float, float], size: tuple[float, float], *, face: str, edge: str, thick: float = 1.2,
        dashed: bool = False, round_: float = 8,
    ) -> None:  # fmt: skip
        """A box with round corners, `at` its lower left corner."""
        style = f"round,pad=0,rounding_size={round_}"
        line = (0, (4, 3)) if dashed else "-"
        self.axes.add_patch(
            FancyBboxPatch(at, *size, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=thick, linestyle=line)
        )

    def line(self, points: Sequence[tuple[float, float]], *, color: str = MUTED, thick: float = 1.5) -> None:
        x, y = zip(*points, strict=True)
        self.axes.plot(x, y, color=color, linewidth=thick, solid_capstyle="round", solid_joinstyle="round")

    def arrow(self, *points: tuple[float, float], color: str = MUTED) -> None:
        """A line through the points with a head at the last."""
        (x0, y0), (x1, y1) = points[-2:]
        length = math.hypot(x1 - x0, y1 - y0)
        along, across = ((x1 - x0) / length, (y1 - y0) / length), ((y0 - y1) / length, (x1 - x0) / length)
        foot = (x1 - 7 * along[0], y1 - 7 * along[1])
        self.line([*points[:-1], foot], color=color)
        wings = [(foot[0] + side * across[0], foot[1] + side * across[1]) for side in (-4, 4)]
        self.polygon([(x1, y1), *wings], color)

    def polygon(self, points: Sequence[tuple[float, float]], color: str) -> None:
        self.axes.add_patch(Polygon(points, closed=True, facecolor=color, edgecolor="none"))

    def disc(self, at: tuple[float, float], radius: float, color: str) -> None:
        self.axes.add_patch(Circle(at, radius, facecolor=color, edgecolor="none"))

    def flame(self, at: tuple[float, float], size: float) -> None:
        """It learns; `at` the middle."""
        for shape, color in ((FLAME, FIRE), (KERNEL, EMBER)):
            points = [(at[0] + (x - 0.5) * size, at[1] + (y - 0.5) * size) for x, y in shape]
            codes = [Outline.MOVETO, *[Outline.CURVE4] * (len(points) - 1)]
            self.axes.add_patch(PathPatch(Outline(points, codes), facecolor=color, edgecolor="none"))

    def snowflake(self, at: tuple[float, float], size: float) -> None:
        """It is frozen; `at` the middle."""
        for turn in range(6):
            angle = math.pi / 6 + turn * math.pi / 3
            tip = _polar(at, angle, size / 2)
            fork = _polar(at, angle, size * 0.29)
            self.line([at, tip], color=ICE, thick=size / 11)
            for lean in (-0.9, 0.9):
                self.line([fork, _polar(fork, angle + lean, size * 0.17)], color=ICE, thick=size / 11)

    def save(self, folder: Path, name: str, title: str) -> list[Path]:
        """Write NAME.svg and NAME.png, inside `style()` as all drawing."""
        svg, png = io.StringIO(), io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        self.figure.savefig(svg, format="svg", metadata=nothing)
        self.figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
        spoken = f"<title>{escape(title)}</title>\n<desc>{escape(' · '.join(self.said))}</desc>\n"
        head, tag, rest = re.split(r"(<svg[^>]*)>\n?", svg.getvalue(), maxsplit=1)
        text = f'{head}{tag} role="img">\n{spoken}{rest}'
        paths = [folder / f"{name}.svg", folder / f"{name}.png"]
        write_atomic(paths[0], text)
        write_atomic(paths[1], png.getvalue())
        return paths


@contextmanager
def style() -> Iterator[None]:
    """Letters as paths, dollar signs as they are, the same ids every time."""
    settings = {
        "svg.fonttype": "path",
        "svg.hashsalt": "vistune",
        "text.parse_math": False,
        "font.family": list(plots.fonts()),
    }
    with plots.quiet_fonts(), matplotlib.rc_context(settings):
        yield


def refuse_undrawable(text: str) -> None:
    """Raise RecipeError where a letter has no shape in any font of this machine."""
    missing = [letter for letter in text if not plots.drawable(letter, "")]
    if not missing:
        return
    if all("ㄱ" <= letter <= "힣" for letter in missing):
        raise RecipeError(
            f"cannot draw {text!r}: no font with Korean letters is installed",
            f"install one (Debian: apt-get install fonts-nanum), remove {matplotlib.get_cachedir()}, draw again",
        )
    raise RecipeError(f"cannot draw {text!r}: no shape for {missing[0]!r}", "use Latin or Korean letters in names")


def short(count: int) -> str:
    """Four digits and a unit: 20,979,712 is 20.98 M; numbers below a thousand stand as they are."""
    rounded = int(float(f"{count:.3e}"))
    for unit, letter in UNITS:
        if rounded >= unit:
            return f"{rounded / unit:.{4 - len(str(rounded // unit))}f} {letter}"
    return str(count)


def width_of(text: str, size: float, bold: bool) -> float:
    """Points that a line takes, by the control points of its curves: their hull is a hair wider, and quick to find."""
    font = FontProperties(family=list(plots.fonts()), weight="bold" if bold else "normal")
    return (
        float(TextPath((0, 0), text, size=size, prop=font, usetex=False).vertices[:, 0].max()) if text.strip() else 0.0
    )


def cut(text: str, room: float, size: float, bold: bool) -> str:
    """The text with as much of its middle replaced by … as needed: a path's end says as much as its beginning."""
    kept, short = len(text), text
    while kept > 2 and width_of(short, size, bold) > room:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short


def _polar(at: tuple[float, float], angle: float, radius: float) -> tuple[float, float]:
    return at[0] + radius * math.cos(angle), at[1] + radius * math.sin(angle)


def wrap(text: str, room: float, size: float) -> list[str]:
    """The text in lines of at most `room` points; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(joined, size, False) <= room:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
