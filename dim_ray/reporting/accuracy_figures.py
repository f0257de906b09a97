"""Figures of accuracy: the best generator beside real images, and accuracy against images per class.

figure = answer_figure(cells, best)
figures = ipc_figures(cells, best)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullLocator

from dim_ray.reporting.cells import REAL, Best, curve, whole_set
from dim_ray.reporting.content import DASH, Figure, Table, number, percent
from dim_ray.reporting.drawing import (
    GENERATED,
    INK,
    PAPER,
    PUBLISHED,
    RULE,
    draw,
    few_ticks,
    label_lines,
    plain,
    settle,
)
from dim_ray.reporting.drawing import REAL as ORANGE
from dim_ray.reporting.published import published

__all__ = ["answer_figure", "ipc_figures"]

_PROTOCOLS: Mapping[str, str] = {
    "on_the_fly": "on the fly: new images in every epoch",
    "fixed": "fixed: the same images in every epoch",
}
_ROW_POINTS = 46
_HEAD_POINTS = 40
_CURVE_POINTS = 340
_LETTER_POINTS = 7  # approximate width
_WHOLE = "all real images"
_SERIES = (("real_", "real", ORANGE, "D", PAPER), ("", "generated", GENERATED, "o", GENERATED))
"""Prefix of the columns, word, colour, marker and fill of real and generated images."""


def answer_figure(cells: pd.DataFrame, best: Best) -> Figure:
    """Return a dot plot of generated and real images, by protocol and IPC, with standard deviations."""
    curves = {protocol: curve(cells, best, protocol) for protocol in REAL}
    curves = {protocol: points for protocol, points in curves.items() if len(points)}
    counts = [len(points) for points in curves.values()]

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots(len(curves), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
        for place, (protocol, points) in zip(axes, curves.items(), strict=True):
            _dots(place, points, _PROTOCOLS[protocol])
        for place in axes[:-1]:  # all have the scale of the last one
            place.tick_params(axis="x", bottom=False)
            place.spines["bottom"].set_visible(False)
        axes[-1].set_xlabel("accuracy on real test images, %")
        low, high = axes[0].get_xlim()
        space = 0.08 * max(high - low, 4.0)  # for the labels of the outermost dots
        axes[0].set_xlim(max(0.0, low - space), min(102.0, high + space))

    rows = [
        [
            protocol.replace("_", " "),
            number(point["ipc"]),
            percent(point["mean"], point["std"]),
            percent(point["real_mean"], point["real_std"]),
            number(point["n"]),
            number(point["optimiser_steps"]),
            number(point["images_drawn"]),
        ]
        for protocol, points in curves.items()
        for point in points.to_dict("records")
    ]
    accuracies = [
        f"{protocol}, {ipc} images per class: generated {_in_words(mean)}, real {_in_words(real_mean)}"
        for protocol, ipc, mean, real_mean, *_ in rows
    ]
    return Figure(
        name=f"best-{best.dataset}",
        drawing=draw(paint, height=_HEAD_POINTS * (1 + len(curves)) + _ROW_POINTS * sum(counts)),
        alt=f"Test accuracy of students on {best.dataset}, generated beside real images at the same budget: "
        f"{'; '.join(accuracies)}.",
        caption=f"{best.architecture} students, mean ± standard deviation over seeds. Real images have the same "
        "budget: as many draws if images are new in every epoch, a random subset of the same size if they are fixed.",
        table=Table(
            caption=f"Test accuracy in % on {best.dataset}, {best.architecture}",
            columns=("protocol", "images per class", "generated", "real", "seeds", "steps", "images drawn"),
            rows=rows,
        ),
    )


def ipc_figures(cells: pd.DataFrame, best: Best) -> list[Figure]:
    """Return a figure of accuracy against IPC per protocol, with published accuracies."""
    whole = whole_set(cells, best)
    curves = {protocol: curve(cells, best, protocol) for protocol in REAL}
    return [_ipc_figure(points, best, protocol, whole) for protocol, points in curves.items() if len(points)]


def _dots(axes: Axes, points: pd.DataFrame, title: str) -> None:
    """Draw a row per IPC: the generator's value above its dot, that of real images below."""
    axes.set_title(title)
    axes.grid(False)
    places = range(len(points))
    axes.hlines(places, 0, 1, transform=axes.get_yaxis_transform(), color=RULE, linewidth=0.8, zorder=0)
    for place, point in zip(places, points.to_dict("records"), strict=True):
        for prefix, word, colour, marker, face in _SERIES:
            mean, std = 100 * point[f"{prefix}mean"], 100 * point[f"{prefix}std"]
            if math.isnan(mean):
                continue
            if not math.isnan(std):
                axes.plot([mean - std, mean + std], [place, place], color=colour, linewidth=2)
            axes.plot([mean], [place], marker, color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.8)
            text = f"{mean:.1f}" if place else f"{word} {mean:.1f}"
            shift, align = (-8, "top") if prefix else (8, "bottom")
            axes.annotate(
                text, (mean, place), (0, shift), textcoords="offset points", ha="center", va=align, color=colour
            )
    first, *others = (int(ipc) for ipc in points["ipc"])
    texts = [f"{first:,} {'image' if first == 1 else 'images'} per class", *(f"{ipc:,} per class" for ipc in others)]
    axes.set_yticks(list(places), texts)
    axes.tick_params(axis="y", colors=INK)
    axes.set_ylim(len(points) - 0.35, -0.65)


def _ipc_figure(points: pd.DataFrame, best: Best, protocol: str, whole: Mapping[Any, Any] | None) -> Figure:
    others = published(best.dataset, protocol)

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.set_title(plain(f"{best.dataset}, {protocol.replace('_', ' ')}"))
        few_ticks(axes)
        labels = []
        for line in others:
            ipcs, values = list(line.accuracies), [100 * value for value in line.accuracies.values()]
            axes.plot(ipcs, values, color=PUBLISHED, linewidth=0.9, marker="s", markersize=3, alpha=0.75)
            labels.append((float(ipcs[-1]), values[-1], line.method, PUBLISHED))
        for prefix, word, colour, marker, face in _SERIES:
            there = points[points[f"{prefix}mean"].notna()]
            if there.empty:
                continue
            means, stds = 100 * there[f"{prefix}mean"], 100 * there[f"{prefix}std"].fillna(0.0)
            axes.errorbar(there["ipc"], means, stds, color=colour, marker=marker, markerfacecolor=face, markersize=6)
            labels.append((float(there["ipc"].iloc[-1]), float(means.iloc[-1]), word, colour))
        if whole is not None:
            height = 100 * float(whole["mean"])
            axes.axhline(height, color=ORANGE, linewidth=1, linestyle=(0, (1, 2)))
            transform = axes.get_yaxis_transform()
            axes.annotate(_WHOLE, (0.01, height), (0, 3), transform, "offset points", va="bottom", color=ORANGE)
        ticks = sorted({*(int(ipc) for ipc in points["ipc"]), *(ipc for line in others for ipc in line.accuracies)})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
        axes.set_xlabel("images per class (logarithmic)")
        axes.set_ylabel("test accuracy, %")
        _label_ends(canvas, axes, labels, ticks[-1])

    return Figure(
        name=f"ipc-{best.dataset}-{protocol}",
        drawing=draw(paint, height=_CURVE_POINTS + 9 * max(0, len(others) - 6)),
        alt=_ipc_alt(points, best, protocol, len(others)),
        caption=_ipc_caption(best, protocol, len(others)),
        table=_ipc_table(points, best, protocol, whole),
    )


def _label_ends(canvas: Canvas, axes: Axes, labels: Sequence[tuple[float, float, str, str]], last: int) -> None:
    """Label lines where they end: those that reach the last IPC at the right edge, others at their last point."""
    longest = max(len(text) for _, _, text, _ in labels)
    share = min(0.4, (_LETTER_POINTS * longest + 14) / (canvas.get_figwidth() * 72))
    canvas.set_layout_engine("constrained", rect=(0, 0, 1 - share, 1))
    settle(canvas)
    edge = axes.get_xlim()[1]
    label_lines(axes, [(edge, y, text, colour) for x, y, text, colour in labels if x == last])
    label_lines(axes, [label for label in labels if label[0] != last])


def _ipc_alt(points: pd.DataFrame, best: Best, protocol: str, num_others: int) -> str:
    first, last = points.iloc[0], points.iloc[-1]
    text = (
        f"Test accuracy against images per class on {best.dataset}, {protocol.replace('_', ' ')}: generated images "
        f"from {100 * first['mean']:.1f} % at {first['ipc']}"
    )
    text += f" to {100 * last['mean']:.1f} % at {last['ipc']}" if len(points) > 1 else ""
    text += f"; real ones {100 * last['real_mean']:.1f} % at {last['ipc']}" if pd.notna(last["real_mean"]) else ""
    return f"{text}; beside {num_others} published lines." if num_others else f"{text}."


def _ipc_caption(best: Best, protocol: str, num_others: int) -> str:
    own = f"{best.dataset}, {_PROTOCOLS[protocol]}. {best.architecture}; bars are standard deviations over seeds."
    if not num_others:
        return f"{own} This report knows no published accuracies on {best.dataset} under this protocol."
    if protocol == "fixed":
        return (
            f"{own} Grey lines are from papers, with ConvNet-3 and other budgets, most of them the best of "
            "several tests on the test split; the table names their sources."
        )
    return f"{own} Grey squares are from DiM's paper, with another budget."


def _ipc_table(points: pd.DataFrame, best: Best, protocol: str, whole: Mapping[Any, Any] | None) -> Table:
    rows = []
    here, none = "measured here", number(None)
    for prefix, word, *_ in reversed(_SERIES):
        for point in points.to_dict("records"):
            if pd.notna(point[f"{prefix}mean"]):
                value = percent(point[f"{prefix}mean"], point[f"{prefix}std"])
                n = number(point[f"{prefix}n"], f"{point[f'{prefix}n']:.0f}")
                steps = number(point["optimiser_steps"])
                rows.append([word, best.architecture, number(point["ipc"]), value, n, steps, here])
    if whole is not None:
        value = percent(whole["mean"], whole["std"])
        rows.append(
            [_WHOLE, best.architecture, none, value, number(whole["n"]), number(whole["optimiser_steps"]), here]
        )
    for line in published(best.dataset, protocol):
        for ipc, accuracy in line.accuracies.items():
            source = f"published, {line.source}"
            rows.append([line.method, line.architecture, number(ipc), percent(accuracy), none, none, source])
    return Table(
        caption=f"Test accuracy in % on {best.dataset}, {protocol.replace('_', ' ')}",
        columns=("images", "student", "images per class", "accuracy", "seeds", "steps", "source"),
        rows=rows,
    )


def _in_words(accuracy: str) -> str:
    return "not measured" if accuracy == DASH else f"{accuracy} %"
