"""Draw plots as SVG text for a page.

Letters are paths. Colours are CSS variables of the page, so that dark mode changes them. A figure is as wide as a
phone: a page puts several side by side, and the letters stay large enough to read.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 4.6  # inches
BAR = 0.16  # inches per bar
PALETTE: Mapping[str, str] = {  # of the page's light theme; blue and orange are safe for colour-blind readers
    "ink": "#1b1d20",
    "muted": "#6a7078",
    "rule": "#dfe2e6",
    "blue": "#0b65ad",
    "orange": "#d9730d",
    "grey": "#a7adb5",
    "green": "#1b7f4b",
    "purple": "#7b4bc4",
    "pink": "#c2338b",
}
PLOT_STYLE = {
    "font.size": 9,
    "axes.unicode_minus": False,
    "text.color": PALETTE["ink"],
    "axes.edgecolor": PALETTE["muted"],
    "axes.labelcolor": PALETTE["muted"],
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
}
SERIES_COLORS = ("blue", "orange", "green", "purple", "pink", "grey")  # of curves, in this order
HANGUL_FONTS = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "NanumBarunGothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "AppleGothic",
    "UnDotum",
    "Baekmuk Dotum",
    "Noto Sans CJK JP",  # the same Hangul; the one face of Noto's collection that older matplotlibs list
)


@dataclass(frozen=True, slots=True)
class Series:
    """One bar of every group."""

    name: str
    color: str  # in PALETTE
    hollow: bool = False  # drawn as an outline


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over steps."""

    steps: Sequence[int]
    values: Sequence[float]
    color: str  # in PALETTE


@cache
def fonts() -> tuple[str, ...]:
    """Return the font families to draw with: matplotlib's own, and the first Korean one on this machine."""
    return ("DejaVu Sans", *(_korean_families() or _korean_families(search=True))[:1])


def _korean_families(*, search: bool = False) -> list[str]:
    """Return the Korean families in matplotlib's cached list of fonts; `search` adds fonts installed since."""
    listed = font_manager.fontManager.ttflist
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in listed} if search else ():
        with suppress(OSError, RuntimeError):  # not a readable font
            font_manager.fontManager.addfont(path)
    known = {entry.name for entry in listed}
    return [name for name in HANGUL_FONTS if name in known]


@cache
def _letters() -> frozenset[int]:
    """Return the characters that the font families can draw."""
    paths = [font_manager.findfont(family, fallback_to_default=False) for family in fonts()]
    return frozenset(code for path in paths for code in font_manager.get_font(path).get_charmap())


def drawable(text: str, fallback: str) -> str:
    """Return `text`, or `fallback` if a letter has no shape in the fonts and would be drawn as a box."""
    return text if all(ord(letter) in _letters() for letter in text) else fallback


def missing_font(language: str) -> str | None:
    """Return a warning if no font of this machine has the letters of a language; else None."""
    if language != "ko" or drawable("가", ""):
        return None
    return (
        "no font with Korean letters is installed, so the plots are in English. Fix: install one (Debian: apt-get "
        "install fonts-nanum) and write the report again"
    )


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Silence matplotlib's warning that a Korean font names its bold weight "semibold"."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def smooth(values: Sequence[float]) -> np.ndarray:
    """Return a centred moving mean over a twentieth of the steps, without values that are not numbers."""
    raw = np.asarray(values, dtype=float)
    window = np.ones(2 * (len(raw) // 40) + 1)
    finite = np.isfinite(raw)
    sums = np.convolve(np.where(finite, raw, 0.0), window, "same")[: len(raw)]
    counts = np.convolve(finite, window, "same")[: len(raw)]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def loss_panel(
    steps: Sequence[int],
    losses: Sequence[float],
    *,
    title: str,
    axis: str,
    validation: Sequence[tuple[int, float]] = (),
) -> Markup:
    """Draw the loss of a stage: every step thin, the moving mean thick, validation losses as dots."""
    with svg_style(**PLOT_STYLE):
        figure, axes = _panel(2.5, title)
        raw, mean = np.asarray(losses, dtype=float), smooth(losses)
        axes.plot(steps, np.where(np.isfinite(raw), raw, np.nan), color=PALETTE["grey"], linewidth=0.7)
        axes.plot(steps, mean, color=PALETTE["blue"], linewidth=1.8)
        if validation:
            axes.plot(*zip(*validation, strict=True), color=PALETTE["orange"], linewidth=1, marker="o", markersize=4)
        _last_value(axes, steps[-1], mean[-1], "blue")
        _curves(axes, axis)
        return _svg(figure)


def lines_panel(curves: Sequence[Curve], *, title: str, axis: str) -> Markup:
    """Draw curves over the steps; a single curve with its last value. The curves may have different steps."""
    with svg_style(**PLOT_STYLE):
        figure, axes = _panel(2.5, title)
        for curve in curves:
            color = PALETTE[curve.color]
            axes.plot(curve.steps, curve.values, color=color, linewidth=1.6)
            axes.plot(curve.steps[-1:], curve.values[-1:], color=color, marker="o", markersize=3)  # a single step
        if len(curves) == 1:
            _last_value(axes, curves[0].steps[-1], curves[0].values[-1], curves[0].color)
        _curves(axes, axis)
        return _svg(figure)


def _last_value(axes: Axes, step: int, value: float, color: str) -> None:
    if np.isfinite(value):
        axes.annotate(
            f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}",
            (step, value),
            xytext=(4, 0),
            textcoords="offset points",
            color=PALETTE[color],
            va="center",
            weight="bold",
            annotation_clip=False,
        )


def _curves(axes: Axes, axis: str) -> None:
    """Set up axes and grid for curves over steps."""
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.grid(axis="y", color=PALETTE["rule"], linewidth=0.6)
    axes.set_xlabel(axis)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))


def grouped_bars(
    groups: Sequence[tuple[str, Sequence[float | None]]], series: Sequence[Series], *, title: str
) -> Markup:
    """Draw horizontal bars: a row per group, a bar per series. Shares of 0-1 are written in per cent."""
    with svg_style(**PLOT_STYLE):
        step = BAR * len(series) + 0.14
        figure, axes = _panel(0.35 + step * len(groups), title)
        for row, (_, shares) in enumerate(groups):
            for index, (kind, share) in enumerate(zip(series, shares, strict=True)):
                if share is None:
                    continue
                height = row * step + index * BAR
                color = PALETTE[kind.color]
                face = "none" if kind.hollow else color
                axes.barh(height, share, BAR * 0.82, facecolor=face, edgecolor=color, linewidth=0.7)
                axes.annotate(
                    f"{100 * share:.0f}",
                    (share, height),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center_baseline",
                    fontsize=7.5,
                    color=PALETTE["ink"] if index == 0 else PALETTE["muted"],
                    weight="bold" if index == 0 else "normal",
                )
        middle = BAR * (len(series) - 1) / 2
        axes.set_yticks([row * step + middle for row in range(len(groups))], [name for name, _ in groups])
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
        axes.set_xticks([])
        axes.set_xlim(0, 1.06)
        axes.set_ylim(len(groups) * step - 0.14 - BAR / 2, -BAR / 2 - 0.02)
        axes.spines["bottom"].set_visible(False)
        axes.spines["left"].set_visible(True)
        return _svg(figure)


def histogram(values: Sequence[int], *, title: str, axis: str, median: str, limit: int) -> Markup:
    """Draw a histogram of lengths from 1 to `limit` on a log scale, with the median."""
    with svg_style(**PLOT_STYLE):
        figure, axes = _panel(2.2, title)
        # Edges are between whole numbers, so that every bin contains a length.
        edges = np.unique(np.round(np.geomspace(1, limit + 1, 31))) - 0.5
        axes.hist(np.maximum(values, 1), bins=edges.tolist(), color=PALETTE["blue"], rwidth=0.86)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.minorticks_off()
        middle = float(np.median(values))
        left = middle < limit**0.6
        axes.axvline(middle, color=PALETTE["orange"], linewidth=1.4)
        axes.annotate(
            f"{median} {middle:.0f}",
            (max(middle, 1), 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2) if left else (-4, -2),
            textcoords="offset points",
            ha="left" if left else "right",
            va="top",
            color=PALETTE["orange"],
            weight="bold",
        )
        axes.set_ylim(0, axes.get_ylim()[1] * 1.12)  # room for the median's name above the bars
        axes.set_xlabel(axis)
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=True))
        axes.grid(axis="y", color=PALETTE["rule"], linewidth=0.6)
        return _svg(figure)


@contextmanager
def svg_style(**more: object) -> Iterator[None]:
    """Set matplotlib for SVG: letters as paths, dollar signs as they are, the same ids every time."""
    settings = {
        "svg.fonttype": "path",
        "svg.hashsalt": "vistune",  # the same numbers draw the same bytes
        "text.parse_math": False,  # names come from users: a dollar sign is a dollar sign
        "font.family": list(fonts()),
    }
    with _quiet_fonts(), matplotlib.rc_context({**settings, **more}):
        yield


def _panel(height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10, weight="bold", color=PALETTE["ink"])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> Markup:
    """Return the bare <svg> element, without a size, with theme colours as CSS variables."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = re.sub(r"<!--.*?-->\s*", "", buffer.getvalue()[buffer.getvalue().index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for name, color in PALETTE.items():
        text = text.replace(color, f"var(--{name})")
    # Safe as markup: matplotlib wrote it, and its letters are paths.
    return Markup(text)  # noqa: S704  # nosec B704
