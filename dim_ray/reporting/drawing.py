"""Figures as SVG and PNG, and the SVG once more as a part of a page that may be light or dark.

drawing = draw(lambda figure: figure.add_subplot().plot([1, 2], [3, 4], color=GENERATED), height=300)
html = themed(drawing.svg, prefix="f1-")
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dim_ray.reporting.content import Drawing

__all__ = [
    "GENERATED",
    "INK",
    "MUTED",
    "PAPER",
    "PUBLISHED",
    "REAL",
    "RULE",
    "THIRD",
    "VARIABLES",
    "apart",
    "draw",
    "few_ticks",
    "label_lines",
    "plain",
    "settle",
    "themed",
]

# Okabe and Ito's blue, vermilion and green, darkened until text in them has a contrast of 4.5 to 1 on white.
INK, MUTED, RULE, PAPER = "#1b1f24", "#59626c", "#d5dae0", "#ffffff"
GENERATED, REAL, THIRD, PUBLISHED = "#0062ad", "#b84a00", "#00785f", "#6b7580"

VARIABLES: Mapping[str, str] = {
    INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", GENERATED: "generated", REAL: "real", THIRD: "third",
    PUBLISHED: "published",
}  # fmt: skip
"""Names of the colours in the page's style sheet, which has others for a dark page."""

WIDTH = 400
_POINTS_PER_INCH = 72  # matplotlib's; an SVG of its has one unit a point
_PNG_DPI = 150
_LABEL_POINTS = 14  # between the baselines of two labels
_LABEL_SHIFT = 12  # points to the right
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the page's font, found by a search, read aloud
    "svg.hashsalt": "dim_ray",  # the same figure is the same file
    "text.parse_math": False,  # a $ in a study's name is a dollar
    "font.family": "sans-serif",
    "font.size": 12,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
    "text.color": INK,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def draw(paint: Callable[[Figure], None], *, height: float, width: float = WIDTH) -> Drawing:
    """Returns what `paint` puts on an empty figure.

    Args:
        paint: Adds axes to the figure, and draws.
        height: In points; one is a pixel of the page, where there is room for all of them.
        width: In points.
    """
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name; the page's font may have it
        figure = Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained")
        paint(figure)
        settle(figure)
        files = []
        for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": _PNG_DPI})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, **options)
            files.append(buffer.getvalue())
    return Drawing(svg=files[0].decode(), png=files[1])


def settle(figure: Figure) -> None:
    """Lays a figure out once, for both files and for what has to know where things are."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def themed(svg: str, prefix: str) -> str:
    """Returns an SVG for a page: no background, colours that follow the page's, and names that no other figure has.

    Args:
        svg: A figure's file.
        prefix: Put before every id.
    """
    start = svg.index("<svg")
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<g id=\"patch_1\">.*?</g>\s*", "", svg[start:], flags=re.S, count=2)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg)
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)


def label_lines(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes labels to the right of points, moved apart where they would lie on each other.

    Args:
        axes: With limits that stay.
        labels: x, y, text and colour of each.
    """
    low, high = axes.get_ylim()
    points = axes.get_window_extent().height / axes.get_figure().dpi * _POINTS_PER_INCH  # type: ignore[union-attr]
    gap = _LABEL_POINTS * (high - low) / max(points, 1.0)
    for (x, y, text, colour), place in zip(labels, apart([y for _, y, _, _ in labels], gap), strict=True):
        style: dict[str, Any] = {"color": colour, "va": "center", "annotation_clip": False}
        if abs(place - y) > gap / 4:
            style["arrowprops"] = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
        shift = (place - y) / gap * _LABEL_POINTS
        label = axes.annotate(plain(text), (x, y), (_LABEL_SHIFT, shift), textcoords="offset points", **style)
        label.set_in_layout(False)


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Returns the values, moved as little as need be until no two are closer than a gap; their order stays."""
    groups: list[list[int]] = []
    for index in sorted(range(len(values)), key=lambda index: values[index]):
        groups.append([index])
        while len(groups) > 1 and _start(values, groups[-1], gap) - _end(values, groups[-2], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(values)
    for group in groups:
        for rank, index in enumerate(group):
            places[index] = _start(values, group, gap) + rank * gap
    return places


def few_ticks(axes: Axes) -> None:
    """Has an axis of accuracies marked at a handful of round numbers."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def plain(text: str) -> str:
    """Returns a text without characters that no picture can show."""
    return "".join(character if character.isprintable() else " " for character in text)


def _start(values: Sequence[float], group: list[int], gap: float) -> float:
    """Returns where the lowest label of a group is, whose labels lie around their mean."""
    return sum(values[index] for index in group) / len(group) - (len(group) - 1) * gap / 2


def _end(values: Sequence[float], group: list[int], gap: float) -> float:
    return _start(values, group, gap) + (len(group) - 1) * gap
