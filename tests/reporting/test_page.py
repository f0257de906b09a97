"""One page of a storage that has everything, and hostile text in all that is free text."""

from __future__ import annotations

import io
import itertools
import json
import re
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

from dim_ray.reporting.drawing import VARIABLES
from dim_ray.reporting.page import Page, make_page
from dim_ray.reporting.sections import make_report
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.html import Element, parse
from tests.helpers.made_rows import evaluation, real_evaluation, trial, validation

HOSTILE = "<script>alert(1)</script>&$x$"
GENERATORS = ("feed000011112222", "beef000011112222")
SECTIONS = ["leaderboard", "ipc", "search", "pareto", "cost", "failures"]


def write_storage(root: str) -> None:
    writer, artifacts = Writer(root), ArtifactStore(root)
    for dataset in ("cifar10", "digits"):
        for ipc in (1, 10):
            for seed in range(2):
                common = {"dataset": dataset, "ipc": ipc, "seed": seed}
                accuracy = 0.5 + ipc / 100 + seed / 50
                for number, generator in enumerate(GENERATORS):
                    own = {"generator": generator, "accuracy": accuracy, "validation_accuracy": accuracy - number / 10}
                    writer.append_evaluations(
                        [
                            evaluation(**common, **own, stored_bytes=9000 - 3000 * number),
                            evaluation(**common, **own, protocol="fixed", architecture="<i>mlp</i>"),
                            evaluation(**common, **own, protocol="fixed"),
                        ]
                    )
                for protocol in ("real_on_the_fly", "real_fixed"):
                    writer.append_evaluations([real_evaluation(**common, protocol=protocol, accuracy=accuracy + 0.1)])
    writer.append_evaluations([real_evaluation(ipc=140, protocol="real_full", accuracy=0.99)])
    for number in range(12):
        params = {
            "generator.capacity": 16 * (1 + number % 2),
            "matching.kind": f"{HOSTILE}{number % 3}",
            "pool.size": 2 ** (number % 3),
        }
        state = ("completed", "completed", "completed", "failed")[number % 4]
        writer.append_trial(
            trial(
                number=number,
                pool_size=params["pool.size"],
                params_json=json.dumps(params),
                state=state,
                objective=None if state == "failed" else 0.8 + number / 100,
                device_seconds=20.0 - number,
                error=HOSTILE if state == "failed" else None,
                host=HOSTILE,
                generator=GENERATORS[number % 2],
            )
        )
    writer.append_trial(trial(number=12, reused_trial=0, device_seconds=0.0, saved_device_seconds=0.0))
    writer.append_validations([validation(seed=seed) for seed in range(4)])
    picture = io.BytesIO()
    Image.new("RGB", (1500, 400), "red").save(picture, format="PNG")
    for number, generator in enumerate(GENERATORS):
        files = {"generator.safetensors": bytes(5000 + number), "samples.png": picture.getvalue()}
        artifacts.write("generators", generator, files, {})
    artifacts.write("teachers", "a" * 16, {"x": b"1"}, {"wall_seconds": 7.0, "num_workers": 2})
    keys = ["teachers/" + "a" * 16, "priors/" + "b" * 16]
    artifacts.write_bytes("studies/digits-small/networks.json", json.dumps(keys).encode())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    root = str(tmp_path_factory.mktemp("storage"))
    write_storage(root)
    report = make_report(Reader(root), ArtifactStore(root), {})
    return make_page(report, made_at=datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture(scope="module")
def elements(page: Page) -> list[Element]:
    return parse(page.html)


def of(elements: list[Element], tag: str) -> list[Element]:
    return [element for element in elements if element.tag == tag]


def table_of(elements: list[Element], caption: str) -> list[list[str]]:
    """Returns the text of the one table whose caption begins so, its head first."""
    start = next(
        place
        for place, element in enumerate(elements)
        if element.tag == "table" and element.attributes["aria-label"].startswith(caption)
    )
    depth = len(elements[start].path)
    rows: list[list[str]] = []
    for element in elements[start + 1 :]:
        if len(element.path) <= depth:
            break
        if element.tag == "tr":
            rows.append([])
        elif element.tag in ("th", "td"):
            rows[-1].append(element.text)
    return rows


def test_every_section_is_there_and_the_answer_comes_before_them(elements: list[Element]) -> None:
    names = [element.attributes["aria-labelledby"] for element in of(elements, "section")]
    assert names == ["best", *SECTIONS]
    answers = of(elements, "article")
    assert [answer.text.split()[0] for answer in answers] == ["cifar10", "digits"]
    assert "61.0 %" in answers[1].text
    assert "Real images at the same budget reach 71.0 ± 1.4 %: 10.0 points more." in answers[1].text
    assert "best by validation accuracy of 2 generators" in answers[1].text
    assert f"/generators/{GENERATORS[0]}')" in answers[1].text


def test_generated_and_real_images_stand_side_by_side_and_protocols_in_tables_of_their_own(
    elements: list[Element],
) -> None:
    for caption in ("On the fly", "Fixed"):
        head, *rows = table_of(elements, caption)
        first = next(dict(zip(head, row, strict=True)) for row in rows if row[:3] == ["digits", "10", "convnet3"])
        assert first["generated"] == "61.0 ± 1.4"
        assert next(value for name, value in first.items() if name.startswith("real")) == "71.0 ± 1.4"
        assert first["difference"] == "\N{MINUS SIGN}10.0"
        assert (first["seeds"], first["steps"], first["images drawn"]) == ("2", "1,000", "100,000")
        assert first["best in training"] == "91.0"
        assert first["generator"] == "feed0000"


def test_published_figures_are_named_as_such_and_stand_only_beside_their_own_protocol(elements: list[Element]) -> None:
    on_the_fly = table_of(elements, "Test accuracy in % on cifar10, on the fly")
    fixed = table_of(elements, "Test accuracy in % on cifar10, fixed")
    assert ["DiM, ConvNet-3", "ConvNet-3", "10", "72.6", *["\N{EN DASH}"] * 2, "published, its own paper"] in on_the_fly
    assert ["MTT", "ConvNet-3", "10", "65.3", *["\N{EN DASH}"] * 2, "published, NCFM's paper"] in fixed
    assert not {row[0] for row in on_the_fly} & {"MTT", "DC", "IDC"}
    assert not [row for row in fixed if row[0].startswith("DiM")]
    assert {row[-1] for row in table_of(elements, "Test accuracy in % on digits, fixed")} == {"source", "measured here"}


def test_cost_has_networks_trials_contenders_evaluations_and_what_reuse_saved(elements: list[Element]) -> None:
    _, row, other = table_of(elements, "Device seconds by study")
    ran, saved = sum(20.0 - number for number in range(12)), 12 * 30.0
    assert row == ["digits-small", "12", "14", f"{ran:.0f}", "10", f"{48 * 2.5:.0f}", f"{saved - 14:.0f}"]
    assert other[0] == "outside of studies"


def test_failures_are_there_and_each_error_once(elements: list[Element]) -> None:
    head, *rows = table_of(elements, "Errors of failed and diverged trials")
    assert head == ["study", "state", "trials", "newest", "host of the newest", "error"]
    assert rows == [["digits-small", "failed", "3", "11", HOSTILE, HOSTILE]]
    assert table_of(elements, "Trials by how they ended")[1] == ["digits-small", "10", "3"]


def test_steps_stand_beside_each_ipc_because_budgets_differ(elements: list[Element]) -> None:
    head, *rows = table_of(elements, "Test accuracy in % on digits, on the fly")
    assert {row[head.index("steps")] for row in rows if row[-1] == "measured here"} == {"1,000"}


def test_leaderboard_leaves_rows_with_terms_out_of_what_it_says_of_accuracy(page: Page) -> None:
    assert "which chose nothing, unless a row&#x27;s terms say otherwise" in page.html.replace("&#39;", "&#x27;")


def test_text_out_of_rows_is_never_markup(page: Page, elements: list[Element]) -> None:
    assert not of(elements, "script")
    assert not of(elements, "i")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;$x$" in page.html
    assert all(b"<script" not in data for name, data in page.files.items() if name.endswith(".svg"))


def test_the_page_needs_nothing_else_and_its_policy_forbids_scripts(page: Page, elements: list[Element]) -> None:
    assert re.findall(r'(?:src|href)="(?!#|data:image/png)', page.html) == []
    assert "url(http" not in page.html
    assert "@import" not in page.html
    policy = next(e.attributes["content"] for e in of(elements, "meta") if "http-equiv" in e.attributes)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_a_screen_reader_finds_its_way(elements: list[Element]) -> None:
    assert of(elements, "html")[0].attributes["lang"] == "en"
    assert {"header", "main", "nav", "footer"} <= {element.tag for element in elements}
    levels = [int(element.tag[1]) for element in elements if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    names = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert len(names) == len(set(names))
    labelled = [
        element.attributes["aria-labelledby"] for element in elements if "aria-labelledby" in element.attributes
    ]
    assert set(labelled) <= set(names)
    links = [element.attributes["href"][1:] for element in of(elements, "a")]
    assert set(links) <= set(names)
    captions = [element.attributes["aria-label"] for element in of(elements, "table")]
    assert len(captions) == len(set(captions))


def test_every_figure_has_a_text_and_a_table(elements: list[Element]) -> None:
    figures, drawings = of(elements, "figure"), [e for e in elements if e.attributes.get("role") == "img"]
    pictures = of(elements, "img")
    assert len(drawings) + len(pictures) == len(figures)
    assert len(drawings) > 10
    assert all(len(drawing.attributes["aria-label"]) > 40 for drawing in drawings)
    assert all(len(picture.attributes["alt"]) > 40 for picture in pictures)
    tables = [table for table in of(elements, "table") if "details" in table.path]
    assert len(tables) == len(drawings)
    heads = [head for head in of(elements, "th") if "scope" not in head.attributes]
    assert heads == []


def test_every_figure_is_there_as_png_and_svg(page: Page, elements: list[Element]) -> None:
    svgs = {name[:-4] for name in page.files if name.endswith(".svg")}
    pngs = {name[:-4] for name in page.files if name.endswith(".png")}
    assert pngs - svgs == {"figures/images-cifar10", "figures/images-digits"}
    assert svgs < pngs
    assert len(svgs) == len(of(elements, "svg"))
    assert all(re.fullmatch(r"figures/[a-z0-9-]+", name) for name in pngs)
    assert Image.open(io.BytesIO(page.files["figures/images-digits.png"])).width <= 700


def test_of_many_data_sets_some_are_drawn_and_the_page_says_so(tmp_path: Path) -> None:
    Writer(str(tmp_path)).append_evaluations([evaluation(dataset=f"set{number}") for number in range(8)])
    report = make_report(Reader(str(tmp_path)), ArtifactStore(str(tmp_path)), {})
    html = make_page(report, made_at=datetime(2026, 1, 2, tzinfo=UTC)).html
    assert "These are the 6 datasets of 8 with the most rows" in html
    assert len(table_of(parse(html), "On the fly")) == 9


def test_one_row_makes_a_page(tmp_path: Path) -> None:
    Writer(str(tmp_path)).append_evaluations([evaluation()])
    report = make_report(Reader(str(tmp_path)), ArtifactStore(str(tmp_path)), {})
    elements = parse(make_page(report, made_at=datetime(2026, 1, 2, tzinfo=UTC)).html)
    answer = of(elements, "article")[0]
    assert "90.0 %" in answer.text
    assert "Real images weren't measured at this budget" in answer.text
    assert "aaaa000011112222, are gone" in answer.text
    assert [e.attributes["aria-labelledby"] for e in of(elements, "section")] == ["best", "leaderboard", "ipc", "cost"]


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_only_trials_make_a_page_that_says_what_to_do(tmp_path: Path, state: str) -> None:
    Writer(str(tmp_path)).append_trial(
        trial(state=state, objective=None if state == "failed" else 0.9, device_seconds=None, generator=None)
    )
    report = make_report(Reader(str(tmp_path)), ArtifactStore(str(tmp_path)), {})
    html = make_page(report, made_at=datetime(2026, 1, 2, tzinfo=UTC)).html
    parse(html)
    assert "No generator was evaluated yet." in html


def test_only_real_images_make_a_page(tmp_path: Path) -> None:
    Writer(str(tmp_path)).append_evaluations([real_evaluation(), real_evaluation(protocol="real_full", ipc=100)])
    report = make_report(Reader(str(tmp_path)), ArtifactStore(str(tmp_path)), {})
    elements = parse(make_page(report, made_at=datetime(2026, 1, 2, tzinfo=UTC)).html)
    head, row = table_of(elements, "Fixed")
    assert dict(zip(head, row, strict=True))["real, a random subset"] == "90.0"
    assert table_of(elements, "All real training images")[1][:4] == ["digits", "convnet3", "usual", "90.0"]


def test_real_images_stand_in_the_leaderboard_where_no_generator_was_measured(tmp_path: Path) -> None:
    real = {"protocol": "real_on_the_fly"}
    Writer(str(tmp_path)).append_evaluations(
        [evaluation(), *(real_evaluation(**real, **own) for own in ({}, {"ipc": 50}, {"dataset": "mnist"}))]
    )
    report = make_report(Reader(str(tmp_path)), ArtifactStore(str(tmp_path)), {})
    _, *rows = table_of(parse(make_page(report, made_at=datetime(2026, 1, 2, tzinfo=UTC)).html), "On the fly")
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("digits", "10", "aaaa0000"),
        ("digits", "50", "none"),
        ("mnist", "10", "none"),
    ]


@pytest.mark.parametrize("place", [0, 1], ids=["light", "dark"])
def test_text_of_every_colour_can_be_read_on_a_light_and_on_a_dark_page(place: int) -> None:
    style = resources.files("dim_ray.reporting").joinpath("page.css").read_text()
    blocks = [dict(re.findall(r"--(\w+): #(\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    colours = blocks[place]
    assert {name: f"#{colours[name]}" for name in VARIABLES.values()} == {
        name: colour if place == 0 else f"#{colours[name]}" for colour, name in VARIABLES.items()
    }
    paper = _luminance(colours["paper"])
    for name in ("ink", "muted", "generated", "real", "third", "published"):
        light, dark = sorted((_luminance(colours[name]), paper), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name


def _luminance(colour: str) -> float:
    """Returns WCAG's relative luminance of six hexadecimal digits."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
