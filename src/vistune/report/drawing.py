"""Draw diagrams: render an SVG template and write it as SVG and PNG.

matplotlib draws both files. Letters become paths, so that the SVG needs no font. The same values always give the same
bytes. A letter that no font has is an error instead of an empty box.

A template may use the elements rect, circle, polygon, polyline, path (M, L, C) and text. `data-room` is the width in
points that a text may take: a longer text is made smaller, and after that shortened in its middle.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from vistune.errors import RecipeError
from vistune.files import write_atomic
from vistune.report import plots
from vistune.report.rendering import Labels, render

PNG_DPI = 120
MIN_SCALE = 0.72  # of a text that is too wide
UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "K"))
ANCHORS = {"start": "left", "middle": "center", "end": "right"}


class Drawing:
    """A rendered template on a white figure; one SVG unit is a point."""

    def __init__(self, template: str, labels: Labels, **values: object) -> None:
        try:
            root = ElementTree.fromstring(render(template, labels, **values))  # noqa: S314  # nosec B314 - our template
        except ElementTree.ParseError:
            raise RecipeError("cannot draw a name with control characters", "use Latin or Korean letters") from None
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        self.figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self.texts: list[str] = []
        for element in root.iter():
            name = element.tag.rpartition("}")[2]
            if name != "svg":
                getattr(self, f"_{name}")(element.attrib, element.text or "")

    def save(self, folder: Path, name: str, title: str) -> list[Path]:
        """Write NAME.svg and NAME.png, inside `plots.svg_style()` as the drawing itself."""
        svg, png = io.StringIO(), io.BytesIO()
        self.figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        self.figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
        head, tag, rest = re.split(r"(<svg[^>]*)>\n?", svg.getvalue(), maxsplit=1)
        spoken = f"<title>{escape(title)}</title>\n<desc>{escape(' · '.join(self.texts))}</desc>\n"
        paths = [folder / f"{name}.svg", folder / f"{name}.png"]
        write_atomic(paths[0], f'{head}{tag} role="img">\n{spoken}{rest}')
        write_atomic(paths[1], png.getvalue())
        return paths

    def _rect(self, given: Mapping[str, str], _: str) -> None:
        x, y, width, height = (float(given[key]) for key in ("x", "y", "width", "height"))
        style: dict[str, Any] = {
            "facecolor": given["fill"],
            "edgecolor": given.get("stroke", "none"),
            "linewidth": float(given.get("stroke-width", 1.2)),
            "linestyle": (0, (4, 3)) if "stroke-dasharray" in given else "-",
        }
        if "rx" in given:
            corners = f"round,pad=0,rounding_size={given['rx']}"
            self.axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=corners, **style))
        else:
            self.axes.add_patch(Rectangle((x, y), width, height, **style))

    def _circle(self, given: Mapping[str, str], _: str) -> None:
        middle = float(given["cx"]), float(given["cy"])
        self.axes.add_patch(Circle(middle, float(given["r"]), facecolor=given["fill"], edgecolor="none"))

    def _polygon(self, given: Mapping[str, str], _: str) -> None:
        points = [tuple(map(float, point.split(","))) for point in given["points"].split()]
        self.axes.add_patch(Polygon(points, closed=True, facecolor=given["fill"], edgecolor="none"))

    def _polyline(self, given: Mapping[str, str], _: str) -> None:
        x, y = zip(*(map(float, point.split(",")) for point in given["points"].split()), strict=True)
        width = float(given["stroke-width"])
        self.axes.plot(x, y, color=given["stroke"], linewidth=width, solid_capstyle="round", solid_joinstyle="round")

    def _path(self, given: Mapping[str, str], _: str) -> None:
        points, codes = [], []
        for command, numbers in re.findall(r"([MLC])([^MLC]+)", given["d"]):
            values = list(map(float, numbers.split()))
            points += list(zip(values[::2], values[1::2], strict=True))
            codes += [{"M": Outline.MOVETO, "L": Outline.LINETO, "C": Outline.CURVE4}[command]] * (len(values) // 2)
        x, y, scale = map(float, re.findall(r"-?[\d.]+", given["transform"]))  # "translate(x y) scale(s)"
        outline = Outline(points, codes).transformed(Affine2D().scale(scale).translate(x, y))
        stroke, width = given.get("stroke", "none"), float(given.get("stroke-width", 0))
        self.axes.add_patch(
            PathPatch(outline, facecolor=given["fill"], edgecolor=stroke, linewidth=width, capstyle="round")
        )

    def _text(self, given: Mapping[str, str], text: str) -> None:
        refuse_undrawable(text)
        self.texts.append(text)
        size, bold = float(given["font-size"]), given.get("font-weight") == "bold"
        room = float(given.get("data-room", "inf"))
        width = width_of(text, size, bold)
        if width > room:
            size *= max(MIN_SCALE, room / width)
            text = shorten(text, room, size, bold)
        self.axes.text(
            float(given["x"]),
            float(given["y"]),
            text,
            fontsize=size,
            color=given["fill"],
            weight="bold" if bold else "normal",
            ha=ANCHORS[given.get("text-anchor", "start")],
            va="baseline",
        )


def refuse_undrawable(text: str) -> None:
    """Raise RecipeError if no font of this machine has a shape for a letter."""
    missing = [letter for letter in text if not plots.drawable(letter, "")]
    if not missing:
        return
    if all("ㄱ" <= letter <= "힣" for letter in missing):
        raise RecipeError(
            f"cannot draw {text!r}: no font with Korean letters is installed",
            f"install one (Debian: apt-get install fonts-nanum), remove {matplotlib.get_cachedir()}, draw again",
        )
    raise RecipeError(f"cannot draw {text!r}: no shape for {missing[0]!r}", "use Latin or Korean letters in names")


def short_count(count: int) -> str:
    """Format a count with four digits and a unit, such as 20.98 M; counts below a thousand stay as they are."""
    rounded = int(float(f"{count:.3e}"))
    for unit, letter in UNITS:
        if rounded >= unit:
            return f"{rounded / unit:.{4 - len(str(rounded // unit))}f} {letter}"
    return str(count)


def width_of(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a line in points, from the control points of its curves, which is exact enough and fast."""
    if not text.strip():
        return 0.0
    font = FontProperties(family=list(plots.fonts()), weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=size, prop=font, usetex=False).vertices[:, 0].max())


def shorten(text: str, room: float, size: float, bold: bool) -> str:
    """Replace the middle of a text by … as far as needed: both ends of a path matter."""
    kept, shortened = len(text), text
    while kept > 2 and width_of(shortened, size, bold) > room:
        kept -= 1
        shortened = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shortened


def wrap(text: str, room: float, size: float) -> list[str]:
    """Break a text into lines of at most `room` points; a longer word has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(joined, size) <= room:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
