"""What a report consists of: sections of figures, pictures and tables, before anything is HTML.

Table(caption="Cost", columns=(Column("study"), Column("seconds", is_number=True)), rows=(("digits", number(12)),))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "Answer",
    "Cell",
    "Column",
    "Drawing",
    "Figure",
    "Number",
    "Picture",
    "Section",
    "Table",
    "number",
    "percent",
]

_DASH = "\N{EN DASH}"


class Number(NamedTuple):
    """A number as it's shown, and as it's sorted."""

    text: str
    value: float


Cell = str | Number


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    is_number: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text and numbers, with what they are in the caption."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    is_searched: bool = False
    """Whether a person may want to sort and filter it."""


class Drawing(NamedTuple):
    """A figure as two files."""

    svg: str
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing, the text that stands for it, and the numbers behind it."""

    name: str
    """Of its files; several may have the same."""
    drawing: Drawing
    alt: str
    caption: str
    table: Table
    is_wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG of pixels."""

    name: str
    png: bytes
    alt: str
    caption: str
    size: tuple[int, int]
    """Width and height in pixels."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The first thing that a person sees of a dataset."""

    dataset: str
    headline: str
    """The best generator's accuracy."""
    sentence: str
    """What that number is."""
    comparison: str
    """What real images reach at the same budget."""
    generator: str
    """Its fingerprint."""
    load: str
    """A line of Python that loads it; "" where its files are gone."""
    figure: Figure
    picture: Picture | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """One heading and what is below."""

    key: str
    title: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def number(value: Any, text: str | None = None) -> Number:
    """Returns a number, or a dash where there is none (None or NaN); shown with thousands apart."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Number(_DASH, -math.inf)
    return Number(f"{value:,}" if text is None else text, float(value))


def percent(mean: float, std: float = math.nan) -> Number:
    """Returns a fraction as a percentage, with its standard deviation where there is one."""
    spread = "" if math.isnan(std) else f" ± {100 * std:.1f}"
    return number(mean, None if math.isnan(mean) else f"{100 * mean:.1f}{spread}")
