from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

from dim_ray.reporting.drawing import GENERATED, INK, VARIABLES, apart, draw, themed


def _paint(canvas: Figure) -> None:
    axes = canvas.subplots()
    axes.plot([1, 2], [3, 4], color=GENERATED, marker="o")
    axes.set_title("<b>$x$ & co</b>", color=INK)


def test_both_files_show_the_same_figure_and_are_the_same_each_time() -> None:
    first, second = draw(_paint, height=200), draw(_paint, height=200)
    assert first == second
    width, height = Image.open(io.BytesIO(first.png)).size
    root = ElementTree.fromstring(first.svg)
    assert root.get("viewBox") == "0 0 400 200"
    assert width / height == pytest.approx(2, abs=0.01)


def test_text_stays_text_and_is_no_markup() -> None:
    svg = draw(_paint, height=200).svg
    assert "&lt;b&gt;$x$ &amp; co&lt;/b&gt;" in svg
    assert "<b>" not in svg


def test_a_themed_figure_has_the_pages_colours_and_names_of_its_own() -> None:
    svg = themed(draw(_paint, height=200).svg, "f7-")
    assert svg.startswith("<svg viewBox=")
    ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert "var(--generated)" in svg
    assert "var(--ink)" in svg
    assert not any(colour in svg for colour in VARIABLES)
    names = set(re.findall(r'\bid="([^"]+)"', svg))
    assert names
    assert all(name.startswith("f7-") for name in names)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= names


def test_labels_that_would_lie_on_each_other_are_moved_apart_in_order() -> None:
    places = apart([5.0, 1.0, 1.1, 1.2, 9.0], gap=1.0)
    assert places[0] == 5.0
    assert places[4] == 9.0
    assert sorted(places) == [places[1], places[2], places[3], places[0], places[4]]
    gaps = [b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)]
    assert min(gaps) >= 1.0 - 1e-9
    assert sum(places[1:4]) == pytest.approx(sum([1.0, 1.1, 1.2]))


def test_labels_that_are_far_enough_stay() -> None:
    assert apart([3.0, 1.0, 2.0], gap=1.0) == [3.0, 1.0, 2.0]
    assert apart([], gap=1.0) == []
