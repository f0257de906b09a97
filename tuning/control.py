"""What matching brought a generator: students of it beside those of its control, by their seeds.

    comparison = compare_rows(reader.validations(), generator, control_of(card))
    comparison.text()

The control has the same prior, epochs and learning rate, without matching: see `dim_ray.pipeline.controls`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dim_ray.config import MatchingConfig, fingerprint
from dim_ray.errors import DimError
from tuning.intervals import Interval, paired_interval

__all__ = ["Comparison", "compare_rows", "control_of"]

_TERMS = ["dataset", "data_fingerprint", "ipc", "architecture", "budget_fingerprint", "weights", "code_version", "seed"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A generator's gain in validation accuracy over its control, paired by the students' seeds."""

    control: str
    """Fingerprint of the control."""
    accuracy: float
    """Mean of the control's students, in [0, 1]."""
    ipcs: tuple[int, ...]
    num_seeds: int
    gain: Interval

    def text(self) -> str:
        """Return it as a sentence: matching brought 1.2 [0.3, 2.1] points of validation accuracy at IPC 10, ..."""
        points, ipcs = self.gain.points(), ", ".join(map(str, self.ipcs))
        if self.gain.is_above_zero:
            verdict = f"matching brought {points} points"
        elif self.gain.high < 0:
            verdict = f"matching did harm: {points} points"
        else:
            verdict = f"it isn't certain that matching brought anything: {points} points"
        return (
            f"{verdict} of validation accuracy at IPC {ipcs}, n = {self.num_seeds} pairs of students; the control, the "
            f"same prior and epochs without matching, has {100 * self.accuracy:.1f} %"
        )


def control_of(card: Mapping[str, Any]) -> str | None:
    """Return the fingerprint of the control of the generator with this card; None if another version wrote it."""
    try:
        matching = MatchingConfig(**card["training"]["matching"])
        return fingerprint("distilled", card["prior"], [], matching.control())
    except (DimError, KeyError, TypeError):
        return None


def compare_rows(rows: pd.DataFrame, generator: str, control: str) -> Comparison | None:
    """Compare two generators by rows of validations; None without two seeds that both have on the same terms."""
    both = rows[rows["generator"].isin([generator, control])]
    table = both.pivot_table(index=_TERMS, columns="generator", values="accuracy", observed=True)
    table = table.reindex(columns=[generator, control]).dropna()
    by_seed = table.groupby("seed").mean()
    if len(by_seed) < 2:
        return None
    return Comparison(
        control=control,
        accuracy=statistics.fmean(by_seed[control]),
        ipcs=tuple(sorted({int(ipc) for ipc in table.index.get_level_values("ipc")})),
        num_seeds=len(by_seed),
        gain=paired_interval((by_seed[generator] - by_seed[control]).to_list()),
    )
