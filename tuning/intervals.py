"""Student's t intervals of differences between accuracies.

paired_interval([0.012, 0.004, 0.009]).points()      # "0.8 [-0.2, 1.8]"
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

__all__ = ["CONFIDENCE", "Interval", "paired_interval", "t_interval"]

CONFIDENCE = 0.95
"""Of all intervals, two-sided."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Interval of a difference of accuracies, which are in [0, 1]."""

    mean: float
    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is; one without width, from a few equal differences, isn't."""
        return 0 < self.low < self.high

    def points(self) -> str:
        """Return the interval in percentage points: 0.8 [-0.2, 1.8]."""
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def t_interval(mean: float, standard_error: float, degrees_of_freedom: int) -> Interval:
    """Return the interval of a mean with an estimated standard error."""
    margin = standard_error * float(stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2))
    return Interval(mean=mean, low=mean - margin, high=mean + margin)


def paired_interval(differences: Sequence[float]) -> Interval:
    """Return the interval of the mean of at least two differences."""
    n = len(differences)
    return t_interval(statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(n), n - 1)
