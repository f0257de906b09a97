"""Render a report as one HTML page that needs nothing else, with its figures as files.

page = make_page(report, made_at=datetime.now(UTC))
page.html, page.files["figures/cost.svg"]
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dim_ray.config.names import plain_name
from dim_ray.reporting.content import Figure, Picture
from dim_ray.reporting.drawing import themed
from dim_ray.reporting.sections import Report
from dim_ray.version import __version__

__all__ = ["FIGURES_FOLDER", "Page", "make_page"]

FIGURES_FOLDER = "figures"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page and its files."""

    html: str
    files: dict[str, bytes]
    """Contents of the figures by path beside the page."""


def make_page(report: Report, *, made_at: datetime) -> Page:
    """Return the page and its files. Text from rows is escaped."""
    files: dict[str, bytes] = {}
    prefixes: dict[int, str] = {}
    for number, item in enumerate(_items(report)):
        name = _free_name(item.name, files)
        prefixes[id(item)] = f"f{number}-"
        if isinstance(item, Picture):
            files[f"{name}.png"] = item.png
        else:
            files |= {f"{name}.svg": item.drawing.svg.encode(), f"{name}.png": item.drawing.png}
    loader = PackageLoader("dim_ray.reporting", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("page.html").render(
        report=report,
        made_at=made_at,
        version=__version__,
        style=Markup(resources.files("dim_ray.reporting").joinpath("page.css").read_text(encoding="utf-8")),
        svg=lambda figure: Markup(themed(figure.drawing.svg, prefixes[id(figure)])),  # matplotlib has escaped its text
        data_uri=lambda picture: f"data:image/png;base64,{base64.b64encode(picture.png).decode()}",
    )
    return Page(html=html, files=files)


def _items(report: Report) -> Iterator[Figure | Picture]:
    for answer in report.answers:
        yield answer.figure
        if answer.picture is not None:
            yield answer.picture
    for section in report.sections:
        yield from section.figures
        yield from section.pictures


def _free_name(name: str, files: dict[str, bytes]) -> str:
    """Return an unused path without extension, of letters, digits and hyphens."""
    plain = re.sub(r"[._-]+", "-", plain_name(name.lower(), "figure")).strip("-")
    path, count = f"{FIGURES_FOLDER}/{plain}", 1
    while f"{path}.png" in files:
        count += 1
        path = f"{FIGURES_FOLDER}/{plain}-{count}"
    return path
