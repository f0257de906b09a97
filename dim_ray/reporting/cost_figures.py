"""What studies cost: a bar each, of networks, trials, contenders and evaluations, and beside it what reuse saved.

figure = cost_figure(costs(artifacts, trials, evaluations, validations))
"""

from __future__ import annotations

import json
from contextlib import suppress

import pandas as pd
from matplotlib.figure import Figure as Canvas

from dim_ray.errors import StorageError
from dim_ray.reporting.content import Cell, Column, Figure, Table, number
from dim_ray.reporting.drawing import GENERATED, INK, MUTED, PAPER, PUBLISHED, REAL, THIRD, draw, plain
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.files.filesystem import is_name

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
    """Returns device seconds by study, the dearest first.

    Args:
        artifacts: Has the lists of networks that studies built, and their cards.
        trials: Rows.
        evaluations: Rows; of a student its share of the wall time, on one device.
        validations: Rows, of the students that decided between a study's best trials; likewise.

    Returns:
        Columns `study`, `networks`, `trials`, `contenders`, `evaluations`, `saved`, `total` and `num_trials`; those
        that took over another's result aren't counted.
    """
    ran = (
        trials.assign(ran=trials["reused_trial"].isna())
        .groupby("study")
        .agg(trials=("device_seconds", "sum"), alone=("saved_device_seconds", "sum"), num_trials=("ran", "sum"))
    )
    tested, decided = (
        rows.assign(study=rows["study"].fillna(_NO_STUDY)).groupby("study")["wall_seconds"].sum()
        for rows in (evaluations, validations)
    )
    table = ran.join([tested.rename("evaluations"), decided.rename("contenders")], how="outer").fillna(0.0)
    table["networks"] = [_networks_seconds(artifacts, str(name)) for name in table.index]
    table["saved"] = (table["alone"] - table["networks"]).clip(lower=0.0)
    table["total"] = sum(table[name] for name, _, _ in _PARTS)
    table = table.rename_axis("study").reset_index().sort_values("total", ascending=False, ignore_index=True)
    return table.astype({"study": str, "num_trials": int}).drop(columns="alone")


def cost_figure(table: pd.DataFrame) -> Figure:
    """Returns the dearest studies as bars.

    Args:
        table: As from `costs`; at least one row.
    """
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

    rows: list[list[Cell]] = [
        [
            row["study"],
            number(row["num_trials"]),
            *(number(row[name], f"{row[name]:,.0f}") for name in _SHOWN),
        ]
        for row in table.to_dict("records")
    ]
    first = shown.iloc[0]
    more = f" The {len(shown)} dearest of {len(table):,} are drawn." if len(shown) < len(table) else ""
    return Figure(
        name="cost",
        drawing=draw(paint, height=140 + 32 * len(shown)),
        alt=f"Device time by study. The dearest, {first['study']}: {first['networks']:,.0f} s for teachers and priors, "
        f"{first['trials']:,.0f} s for trials, {first['contenders']:,.0f} s for deciding between the best, "
        f"{first['evaluations']:,.0f} s for final evaluations; reuse saved {first['saved']:,.0f} s.",
        caption="Time x devices. Teachers and priors count for the study that built them; dashed is what its trials "
        f"would have taken besides, had each built its own.{more}",
        table=Table(
            caption="Device seconds by study",
            columns=(
                Column("study"),
                *(
                    Column(name, is_number=True)
                    for name in ("trials run", "teachers and priors", "trials", "contenders", "evaluations", "saved")
                ),
            ),
            rows=rows[:_MOST_ROWS],
        ),
    )


def _networks_seconds(artifacts: ArtifactStore, study: str) -> float:
    """Returns what the teachers and priors that a study noted as its own took; those that are gone count nothing.

    Where its list or a card is damaged, none of them counts: `verify` is what names damage.
    """
    if not is_name(study):
        return 0.0
    total = 0.0
    try:
        for key in json.loads(artifacts.read_bytes(f"studies/{study}/networks.json") or b"[]"):
            kind, _, identity = key.partition("/")
            with suppress(StorageError):
                card = artifacts.read_card(kind, identity)
                total += float(card["wall_seconds"]) * card.get("num_workers", 1)
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0.0
    return total


def _short(name: str) -> str:
    name = plain(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
