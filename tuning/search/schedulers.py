"""Ray Tune's schedulers by name: what stops weak trials at rungs.

    make_scheduler(config, len(dataset.train))

They count matching epochs: Tune's own iteration starts again with every process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from dim_ray.config import Config
from dim_ray.pipeline.generators import first_rung, rung_epochs

__all__ = ["METRIC", "METRIC_STD", "TIME_ATTRIBUTE", "make_scheduler"]

METRIC = "validation_accuracy"
METRIC_STD = "validation_std"
"""Standard deviation over students, if there are several."""
TIME_ATTRIBUTE = "epoch"


def make_scheduler(config: Config, num_images: int) -> TrialScheduler:
    """Return the scheduler that the study names, with the rungs of so many training images."""
    return _SCHEDULERS[config.study.scheduler](config, num_images)


def _asha(config: Config, num_images: int, *, brackets: int = 1) -> TrialScheduler:
    return ASHAScheduler(
        time_attr=TIME_ATTRIBUTE,
        metric=METRIC,
        mode="max",
        max_t=config.matching.epochs,
        grace_period=_grace_epochs(config, num_images),
        reduction_factor=config.study.reduction_factor,
        brackets=brackets,
    )


def _hyperband(config: Config, num_images: int) -> TrialScheduler:
    # The asynchronous one: the synchronous one pauses trials to wait for the slowest of a bracket.
    return _asha(config, num_images, brackets=len(rung_epochs(config, num_images)))


def _median(config: Config, num_images: int) -> TrialScheduler:
    return MedianStoppingRule(
        time_attr=TIME_ATTRIBUTE,
        metric=METRIC,
        mode="max",
        grace_period=_grace_epochs(config, num_images),
        min_time_slice=math.inf,  # otherwise it would pause the first trials for those that wait
    )


def _grace_epochs(config: Config, num_images: int) -> int:
    return min(first_rung(config, num_images), config.matching.epochs)


_SCHEDULERS: Mapping[str, Callable[[Config, int], TrialScheduler]] = {
    "asha": _asha,
    "hyperband": _hyperband,
    "median": _median,
    "none": lambda config, num_images: FIFOScheduler(),
}
