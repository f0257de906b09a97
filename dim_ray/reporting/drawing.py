"""Draw figures as SVG and PNG, and adapt an SVG to a page that may be light or dark.

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
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

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
"""Names of the colours in the page's style sheet, which has others in dark mode."""

WIDTH = 400
_POINTS_PER_INCH = 72  # in matplotlib, whose SVGs have one unit per point
_PNG_DPI = 150
_LABEL_POINTS = 14  # between the baselines of two labels
_LABEL_SHIFT = 12  # points to the right
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, which can be searched and read aloud
    "svg.hashsalt": "dim_ray",  # the same figure gives the same file
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
    """Return what `paint` draws on an empty figure; sizes are in points, which are pixels of a wide page."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's font may have it
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
    """Lay a figure out once, for both files."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def themed(svg: str, prefix: str) -> str:
    """Return an SVG for a page: without background, with the page's colours, and a prefix before every id."""
    start = svg.index("<svg")
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<g id=\"patch_1\">.*?</g>\s*", "", svg[start:], flags=re.S, count=2)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg)
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)


def label_lines(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Label points (x, y, text, colour) on their right, moving apart labels that would overlap."""
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
    """Return the values in their order, moved as little as possible so that no two are closer than a gap."""
    if not values:
        return []
    order = np.argsort(values, kind="stable")
    spread = gap * np.arange(len(values))
    places = np.empty(len(values))
    places[order] = isotonic_regression(np.asarray(values)[order] - spread).x + spread
    return [float(place) for place in places]


def few_ticks(axes: Axes) -> None:
    """Mark an axis of accuracies at a few round numbers."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def plain(text: str) -> str:
    """Return a text without unprintable characters."""
    return "".join(character if character.isprintable() else " " for character in text)
