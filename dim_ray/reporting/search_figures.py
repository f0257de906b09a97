"""Figures of a search: pool scaling, importances, parallel coordinates, and accuracy against cost.

figure = pool_figure(study)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullLocator

from dim_ray.reporting.content import Figure, Table, number, percent
from dim_ray.reporting.drawing import GENERATED, INK, MUTED, PAPER, PUBLISHED, THIRD, draw, few_ticks, plain
from dim_ray.reporting.searches import Study, pool_scaling, thinned
from dim_ray.store.analysis.pareto import undominated
from tuning.importances import MOST_TRIALS, importances
from tuning.intervals import CONFIDENCE
from tuning.scaling import fit_pool_scaling, is_pool_scaling

__all__ = ["importance_figure", "parallel_figure", "pareto_figure", "pool_figure"]

_FEW_TRIALS = 50  # the best tenth is five of them
_MOST_LINES = 200
_MOST_POINTS = 1000
_MOST_TICKS = 6
_MOST_LISTED = 20
_LOGARITHMIC_FROM = 10.0
_ASIDE = 1.06  # factor that moves trials beside their mean


def pool_figure(study: Study) -> Figure | None:
    """Return the objective against pool size, or None if there is only one size."""
    scaling = pool_scaling(study.trials)
    if len(scaling) < 2:
        return None
    ended = thinned(study.trials, _MOST_POINTS, "objective")
    fit = fit_pool_scaling(study.trials) if is_pool_scaling(study.trials) else None

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        sizes, means, stds = scaling["pool_size"], 100 * scaling["mean"], 100 * scaling["std"].fillna(0.0)
        beside = ended["pool_size"] / _ASIDE
        axes.plot(beside, 100 * ended["objective"], "o", color=PUBLISHED, markersize=3.5, alpha=0.6)
        if fit is not None:
            lower, curve, upper = (100 * np.asarray(line) for line in (fit.lower, fit.curve, fit.upper))
            axes.fill_between(fit.sizes, lower, upper, color=GENERATED, alpha=0.15, lw=0)
            axes.plot(fit.sizes, curve, color=GENERATED, linewidth=1.2, alpha=0.7)
        line = "none" if fit is not None else "-"
        axes.errorbar(sizes, means, stds, color=GENERATED, marker="o", markersize=7, linestyle=line)
        for size, mean in zip(sizes, means, strict=True):
            axes.annotate(f"{mean:.1f}", (size, mean), (8, -4), textcoords="offset points", va="top", color=GENERATED)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(sizes), [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(sizes.min() / 1.3, sizes.max() * 1.5)
        axes.set_title("Accuracy against pool size")
        few_ticks(axes)
        axes.set_xlabel("teachers in the pool (logarithmic)")
        axes.set_ylabel("validation accuracy, %")

    about = "trials of one size also differ in their other parameters"
    if fit is not None:
        verdict = f"{fit.text[0].upper()}{fit.text[1:]}"
        about = f"the line is a fitted curve with its {100 * CONFIDENCE:.0f} % interval. {verdict}"
    rows = [
        (number(row["pool_size"]), percent(row["mean"], row["std"]), number(int(row["count"])))
        for row in scaling.to_dict("records")
    ]
    return Figure(
        name=f"pool-{study.name}",
        drawing=draw(paint, height=300),
        alt=f"Validation accuracy against pool size in study {study.name}: "
        + ", ".join(f"{accuracy} % with {size}" for size, accuracy, _ in rows)
        + " teachers.",
        caption=f"{study.name}: mean ± standard deviation of completed trials, in blue; each grey dot is a trial; "
        + f"{about}.",
        table=Table(
            caption=f"{study.objective}, in %, by pool size, in {study.name}",
            columns=("teachers", "accuracy", "trials"),
            rows=rows,
        ),
    )


def importance_figure(study: Study) -> Figure | None:
    """Return the importance of each parameter, or None if there are too few trials."""
    table = importances(study.parameters, study.trials["objective"])
    if table.empty:
        return None

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.grid(False)
        places = np.arange(len(table))
        axes.barh(places, 100 * table["fanova"], height=0.5, color=GENERATED, label="share of all variance (fANOVA)")
        label = "what tells the best tenth apart (PED-ANOVA)"
        axes.plot(100 * table["ped_anova"], places, "D", color=INK, markersize=6, label=label)
        canvas.legend(loc="outside lower left", fontsize=11)
        axes.set_yticks(places, [plain(name) for name in table["parameter"]])
        axes.tick_params(axis="y", colors=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_title("Which parameters decide")
        axes.set_xlabel("importance, %")

    few = " With so few trials it's only a hint." if len(study.trials) < _FEW_TRIALS else ""
    many = f" A random sample of {MOST_TRIALS:,} trials." if len(study.trials) > MOST_TRIALS else ""
    return Figure(
        name=f"importances-{study.name}",
        drawing=draw(paint, height=150 + 34 * len(table)),
        alt=f"Importance of each parameter in study {study.name}, by fANOVA: "
        + ", ".join(f"{row['parameter']} {100 * row['fanova']:.0f} %" for row in table.to_dict("records"))
        + ".",
        caption=f"{study.name}: Optuna's estimates from {len(study.trials):,} completed trials; each sums to 100 %."
        f"{few}{many}",
        table=Table(
            caption=f"Importance in %, in {study.name}",
            columns=("parameter", "fANOVA", "PED-ANOVA"),
            rows=[
                (row["parameter"], percent(row["fanova"]), percent(row["ped_anova"]))
                for row in table.to_dict("records")
            ],
        ),
    )


def parallel_figure(study: Study) -> Figure | None:
    """Return completed trials as parallel coordinates, or None if no parameter was searched."""
    if study.parameters.empty or not len(study.parameters.columns) or len(study.trials) < 2:
        return None
    trials = thinned(study.trials, _MOST_LINES, "objective")
    values = study.parameters.loc[trials.index].assign(objective=100 * trials["objective"])
    best = trials["objective"].rank(ascending=False, method="first") <= max(1, len(trials) // 10)

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.grid(False)
        axes.set_axis_off()
        scaled = []
        for place, name in enumerate(values.columns):
            column, ticks = _scaled(values[name])
            scaled.append(column)
            axes.plot([place, place], [0, 1], color=MUTED, linewidth=1)
            for height, text in ticks:
                is_last = place == len(values.columns) - 1
                axes.annotate(
                    plain(text), (place, height), (7 if is_last else -6, 0), textcoords="offset points",
                    ha="left" if is_last else "right", va="center", color=MUTED, fontsize=10,
                    bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
                )  # fmt: skip
            label = "validation\naccuracy, %" if name == "objective" else str(name).replace(".", ".\n", 1)
            axes.annotate("\n".join(map(plain, label.split("\n"))), (place, 1.06), ha="center", va="bottom", color=INK)
        heights = np.array(scaled).T  # (trials, axes)
        for is_best, colour, width, alpha in ((False, PUBLISHED, 0.9, 0.45), (True, GENERATED, 2.0, 0.9)):
            for line in heights[best.to_numpy() == is_best]:
                axes.plot(line, color=colour, linewidth=width, alpha=alpha, solid_joinstyle="round")
        axes.set_xlim(-0.4, len(values.columns) - 0.5)
        axes.set_ylim(-0.06, 1.28)
        axes.set_title("Trials, from parameters to accuracy")

    caption = f"{study.name}: each line is a completed trial"
    if len(trials) < len(study.trials):
        caption += f", {len(trials):,} of {len(study.trials):,}: the best half of these, and a sample of the others"
    order = trials.sort_values("objective", ascending=False).head(_MOST_LISTED)
    names = list(study.parameters.columns)
    return Figure(
        name=f"parallel-{study.name}",
        drawing=draw(paint, height=320, width=640),
        alt=f"Parallel coordinates of study {study.name}: completed trials as lines across "
        f"{', '.join(map(str, names))} to validation accuracy; the table has the best of them.",
        caption=f"{caption}. Blue: the best {int(best.sum())}.",
        table=Table(
            caption=f"The best {len(order)} of {len(study.trials):,} completed trials in {study.name}",
            columns=("trial", *map(str, names), "accuracy, %"),
            rows=[
                (number(trial), *map(_cell, chosen), percent(objective))
                for trial, objective, chosen in zip(
                    order["number"], order["objective"], study.parameters.loc[order.index].to_numpy(), strict=True
                )
            ],
        ),
        is_wide=True,
    )


def pareto_figure(points: pd.DataFrame, *, name: str, title: str, axis: str) -> Figure | None:
    """Return validation accuracy against a cost with the Pareto front, or None for fewer than two points.

    Points have the columns `label`, `cost` (above 0; `axis` is its label) and `accuracy`, in [0, 1].
    """
    points = points.dropna(subset=["cost", "accuracy"])
    if len(points) < 2:
        return None
    best = undominated(np.column_stack([points["cost"], -points["accuracy"]]))
    is_best = best & ~points.duplicated(["cost", "accuracy"])
    front = points[is_best].sort_values("cost")
    shown = thinned(points[~is_best], _MOST_POINTS, "accuracy")

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.plot(shown["cost"], 100 * shown["accuracy"], "o", color=PUBLISHED, markersize=4, alpha=0.6)
        axes.step(front["cost"], 100 * front["accuracy"], color=THIRD, where="post", linewidth=1.2, alpha=0.7)
        axes.plot(front["cost"], 100 * front["accuracy"], "o", color=THIRD, markersize=7)
        for point in (front.iloc[0], front.iloc[-1]) if len(front) > 1 else (front.iloc[0],):
            axes.annotate(
                plain(point["label"]), (point["cost"], 100 * point["accuracy"]), (0, 8), textcoords="offset points",
                ha="center", va="bottom", color=THIRD,
            )  # fmt: skip
        if points["cost"].max() >= _LOGARITHMIC_FROM * points["cost"].min() > 0:
            axes.set_xscale("log")
        axes.margins(0.14, 0.14)
        few_ticks(axes)
        axes.set_title(title)
        axes.set_xlabel(axis)
        axes.set_ylabel("validation accuracy, %")

    others = len(points) - len(front)
    few = f" {len(shown):,} of {others:,} others are drawn." if len(shown) < others else ""
    listed = front.tail(_MOST_LISTED)
    return Figure(
        name=name,
        drawing=draw(paint, height=300),
        alt=f"{title}: {len(front)} of {len(points):,} are undominated, from "
        f"{100 * front['accuracy'].iloc[0]:.1f} % at {front['cost'].iloc[0]:,.0f} {axis} to "
        f"{100 * front['accuracy'].iloc[-1]:.1f} % at {front['cost'].iloc[-1]:,.0f} {axis}.",
        caption=f"Green: nothing that costs as little is more accurate ({len(front)} of {len(points):,}).{few}",
        table=Table(
            caption=f"{title}: undominated{'' if len(listed) == len(front) else f', the last {len(listed)}'}",
            columns=("which", axis, "validation accuracy, %"),
            rows=[
                (row["label"], number(row["cost"], f"{row['cost']:,.0f}"), percent(row["accuracy"]))
                for row in listed.to_dict("records")
            ],
        ),
    )


def _scaled(column: pd.Series[Any]) -> tuple[npt.NDArray[np.float64], list[tuple[float, str]]]:
    """Return heights in [0, 1] and the ticks of an axis: few values have one each, many only at the ends."""
    if not pd.api.types.is_numeric_dtype(column):
        names = sorted({str(value) for value in column})
        step = 1 / max(1, len(names) - 1)
        ticks = [(rank * step, name) for rank, name in enumerate(names)]
        heights = np.array([names.index(str(value)) * step for value in column])
        return heights, ticks if len(ticks) <= _MOST_TICKS else [ticks[0], ticks[-1]]
    values = column.to_numpy(dtype=float)
    is_log = np.nanmin(values) > 0 and np.nanmax(values) >= _LOGARITHMIC_FROM * np.nanmin(values)
    bent = np.log(values) if is_log else values
    low, span = np.nanmin(bent), float(np.nanmax(bent) - np.nanmin(bent)) or 1.0
    distinct = np.unique(values[~np.isnan(values)])
    is_few = len(distinct) <= _MOST_TICKS and not pd.api.types.is_float_dtype(column)
    ends = distinct if is_few else distinct[[0, -1]]
    return (bent - low) / span, [(float(((np.log(e) if is_log else e) - low) / span), f"{e:.4g}") for e in ends]


def _cell(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return str(value)
    return number(float(value), f"{value:.4g}")
