"""What a report consists of, before anything is HTML: sections of figures, pictures and tables.

Table(caption="Cost", columns=("study", "seconds"), rows=[("digits", number(12))])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dim_ray.progress.stages import format_percent

__all__ = ["DASH", "Answer", "Drawing", "Figure", "Number", "Picture", "Section", "Table", "number", "percent"]

DASH = "\N{EN DASH}"
"""Stands for a missing number."""


class Number(str):
    """A number as text; its column is aligned to the right."""

    is_number = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """At least one; numbers are `Number`."""


class Drawing(NamedTuple):
    """A figure as two files."""

    svg: str
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing, the text that describes it, and its numbers."""

    name: str
    """Name of its files; figures may share one."""
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
    """The best generator of a dataset, at the top of the page."""

    dataset: str
    headline: str
    """Accuracy of the generator."""
    sentence: str
    """Meaning of that number."""
    comparison: str
    """Accuracy of real images at the same budget."""
    generator: str
    """Fingerprint of the generator."""
    load: str
    """Line of Python that loads the generator; "" if its files are gone."""
    figure: Figure
    picture: Picture | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what is below it."""

    key: str
    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


def number(value: Any, text: str | None = None) -> Number:
    """Return a number, by default with thousands separators; a dash for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Number(DASH)
    return Number(f"{value:,}" if text is None else text)


def percent(mean: float, std: float = math.nan) -> Number:
    """Return a fraction as a percentage, with its standard deviation if there is one."""
    return number(mean, format_percent(mean, std))
