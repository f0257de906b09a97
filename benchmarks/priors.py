"""Compare priors that were trained for the same time, by students of their images.

    python -m benchmarks.priors --dataset parquet:PATH --seconds 600      an hour on a thread
    python -m benchmarks.priors --dataset digits --recipe digits --seconds 20 --only half "half, residual"

Each is the recipe (--recipe) with other networks or another loss, trained for as many seconds of this
process's processor. Its students count on the validation split, on the fly at IPC 10.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dim_ray.cli.settings import make_config, read_settings
from dim_ray.config import Config, DataConfig
from dim_ray.core.data.dataset import Dataset, load_dataset
from dim_ray.core.generator.adversarial import AdversarialTraining
from dim_ray.core.generator.pair import Pair, build_pair
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Ports, SilentReporter, SingleWorker
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.workspace import Workspace

__all__ = ["VARIANTS", "main", "train_for"]

_HINGE = {"generator.discriminator_norm": "spectral", "prior.loss": "hinge", "prior.gradient_penalty_weight": None}
_PAPER = {**_HINGE, "generator.family": "paper", "generator.capacity": 48}
_RELATIVISTIC = {
    "generator.discriminator_norm": "none",
    "prior.loss": "relativistic",
    "prior.gradient_penalty_weight": 0.5,
    "prior.gradient_penalty_every": 4,
}
VARIANTS: Mapping[str, Mapping[str, object]] = {
    "whole": {**_PAPER, "generator.upsampling": 1},
    "half": {**_PAPER, "generator.upsampling": 2},
    "half, relativistic": {**_PAPER, **_RELATIVISTIC, "generator.upsampling": 2},
    "half, residual": {
        **_RELATIVISTIC,
        "generator.family": "residual",
        "generator.capacity": 24,
        "generator.upsampling": 2,
    },
}
"""Fields by name."""


class _OverError(Exception):
    """The time is over."""


class _Clock(SilentReporter):
    """Ends the training after so many seconds of the processor."""

    def __init__(self, seconds: float) -> None:
        self._end = time.process_time() + seconds
        self.epochs = 0.0

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.advance(step, total)

    def advance(self, done: float, total: int, note: str = "") -> None:
        self.epochs = done
        if time.process_time() > self._end:
            raise _OverError


def train_for(config: Config, dataset: Dataset, seconds: float) -> tuple[Pair, float]:
    """Return the pair of a prior after so many seconds of the processor, and the epochs that it saw.

    Raises:
        DivergedError: The prior diverged.
    """
    prior = replace(config.prior, epochs=10**6)
    pair = build_pair(config.generator, prior, dataset, learning_rate=prior.learning_rate, seed=prior.seed)
    stage = AdversarialTraining(pair, prior, dataset, config.health, SingleWorker())
    clock = _Clock(seconds)
    with suppress(_OverError):
        run_epochs(stage, dataset.train, Ports(reporter=clock))
    return pair, clock.epochs


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m benchmarks.priors``."""
    parser = argparse.ArgumentParser("python -m benchmarks.priors", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--dataset", required=True, help="as of python -m dim_ray.tune")
    parser.add_argument("--recipe", default="cifar_cpu", help="shipped study (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600, metavar="S", help="for each (default: %(default)g)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="priors of each (default: %(default)s)")
    parser.add_argument("--students", type=int, default=2, metavar="N", help="of each prior (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=200, metavar="N", help="of a student (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    options = parser.parse_args(argv)
    base = make_config(read_settings(Path("tuning", "studies", f"{options.recipe}.yaml")))
    base = replace(
        base,
        data=DataConfig(dataset=options.dataset),
        evaluation=replace(base.evaluation, epochs=options.epochs),
        study=replace(base.study, selection_seeds=options.students, selection_images_per_class=(10,)),
    )
    dataset = load_dataset(base.data)
    for name, seed in itertools.product(options.only, range(options.seeds)):
        config = base.with_fields({**VARIANTS[name], "prior.seed": seed})
        pair, epochs = train_for(config, dataset, options.seconds)
        accuracy = validate(Workspace(config=config, dataset=dataset, study="priors"), pair.average.eval())
        mean, spread = (100 * accuracy.get(key, 0.0) for key in ("validation_accuracy", "validation_std"))
        print(f"{name:<20}seed {seed}  {epochs:6.2f} epochs  {mean:.1f} ± {spread:.1f} (n = {options.students})")


if __name__ == "__main__":
    main()
