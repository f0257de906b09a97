"""Costs of studies, and what reuse saved.

figure = cost_figure(costs(artifacts, trials, evaluations, validations))
"""

from __future__ import annotations

import json
from contextlib import suppress

import pandas as pd
from matplotlib.figure import Figure as Canvas

from dim_ray.config.names import is_name
from dim_ray.errors import StorageError
from dim_ray.reporting.content import Figure, Table, number
from dim_ray.reporting.drawing import GENERATED, INK, MUTED, PAPER, PUBLISHED, REAL, THIRD, draw, plain
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["cost_figure", "costs"]

_NO_STUDY = "outside of studies"
_MOST_BARS = 12
_MOST_ROWS = 200
_LONGEST_NAME = 26
_PARTS = (
    ("networks", "teachers and priors", THIRD),
    ("trials", "trials", GENERATED),
    ("contenders", "deciding between the best", REAL),
    ("evaluations", "final evaluations", PUBLISHED),
)
_SHOWN = (*(name for name, _, _ in _PARTS), "saved")
_UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def costs(
    artifacts: ArtifactStore, trials: pd.DataFrame, evaluations: pd.DataFrame, validations: pd.DataFrame
) -> pd.DataFrame:
    """Return device seconds by study, highest first.

    The columns are `study`, `networks`, `trials`, `contenders`, `evaluations`, `saved`, `total` and `num_trials`, which
    leaves out trials that reused another's result.
    """
    ran = (
        trials.assign(ran=trials["reused_trial"].isna())
        .groupby("study")
        .agg(trials=("device_seconds", "sum"), reused=("saved_device_seconds", "sum"), num_trials=("ran", "sum"))
    )
    tested, decided = (
        rows.assign(study=rows["study"].fillna(_NO_STUDY)).groupby("study")["wall_seconds"].sum()
        for rows in (evaluations, validations)
    )
    table = ran.join([tested.rename("evaluations"), decided.rename("contenders")], how="outer").fillna(0.0)
    table["networks"] = [_networks_seconds(artifacts, str(name)) for name in table.index]
    table["saved"] = (table["reused"] - table["networks"]).clip(lower=0.0)
    table["total"] = sum(table[name] for name, _, _ in _PARTS)
    table = table.rename_axis("study").reset_index().sort_values("total", ascending=False, ignore_index=True)
    return table.astype({"study": str, "num_trials": int}).drop(columns="reused")


def cost_figure(table: pd.DataFrame) -> Figure:
    """Return a bar chart of the most expensive studies, from at least one row of `costs`."""
    shown = table.head(_MOST_BARS)
    seconds, unit = next((u for u in _UNITS if (shown["total"] + shown["saved"]).max() >= 2 * u[0]), _UNITS[-1])

    def paint(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.grid(False)
        start = pd.Series(0.0, index=shown.index)
        for name, label, colour in _PARTS:
            axes.barh(shown.index, shown[name] / seconds, left=start, height=0.5, color=colour, label=label)
            start = start + shown[name] / seconds
        axes.barh(
            shown.index, shown["saved"] / seconds, left=start, height=0.5, facecolor=PAPER, edgecolor=MUTED,
            linestyle=(0, (2, 2)), linewidth=1, label="saved by reuse",
        )  # fmt: skip
        axes.set_yticks(shown.index, [_short(name) for name in shown["study"]])
        axes.tick_params(axis="y", colors=INK)
        axes.invert_yaxis()
        axes.set_title("Device time by study")
        axes.set_xlabel(f"device {unit}")
        canvas.legend(loc="outside lower left", ncols=2, fontsize=11)

    first = shown.iloc[0]
    more = f" Drawn: the first {len(shown)} of {len(table):,}." if len(shown) < len(table) else ""
    return Figure(
        name="cost",
        drawing=draw(paint, height=140 + 32 * len(shown)),
        alt=f"Device time by study. The most expensive, {first['study']}: {first['networks']:,.0f} s for teachers and "
        f"priors, {first['trials']:,.0f} s for trials, {first['contenders']:,.0f} s for deciding between the best, "
        f"{first['evaluations']:,.0f} s for final evaluations; reuse saved {first['saved']:,.0f} s.",
        caption="Time x devices. Teachers and priors count for the study that built them; dashed is the extra cost if "
        f"each trial had built its own.{more}",
        table=Table(
            caption="Device seconds by study",
            columns=("study", "trials run", "teachers and priors", "trials", "contenders", "evaluations", "saved"),
            rows=[
                [row["study"], number(row["num_trials"]), *(number(row[name], f"{row[name]:,.0f}") for name in _SHOWN)]
                for row in table.head(_MOST_ROWS).to_dict("records")
            ],
        ),
    )


def _networks_seconds(artifacts: ArtifactStore, study: str) -> float:
    """Return the cost of the teachers and priors that a study built and that still exist; 0 if anything is damaged."""
    if not is_name(study):
        return 0.0
    total = 0.0
    try:
        for key in json.loads(artifacts.read_bytes(f"studies/{study}/networks.json") or b"[]"):
            kind, _, fingerprint = key.partition("/")
            with suppress(StorageError):
                card = artifacts.read_card(kind, fingerprint)
                total += float(card["wall_seconds"]) * card.get("num_workers", 1)
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0.0
    return total


def _short(name: str) -> str:
    name = plain(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
