"""Search for the best generator of a dataset: teachers, priors, trials and the final evaluation.

    python -m dim_ray.tune                                  digits, minutes on two CPU cores
    python -m dim_ray.tune --dataset folder:PATH --num-trials 16
    python -m dim_ray.tune --dataset mnist fashion_mnist    a study for each, and one table
    python -m dim_ray.tune --config my_study.yaml --storage s3://bucket/dim
    python -m dim_ray.tune --cluster cluster.yaml --storage s3://bucket/dim     on the cluster that `ray up` made

Run the same command again to continue after an interruption. It starts Ray for the run, or joins the cluster of
--address or RAY_ADDRESS.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from dim_ray.cli.main import TUNE_FLAGS, parse, run_main, show_progress
from dim_ray.config import Config
from dim_ray.errors import UsageError

if TYPE_CHECKING:
    from dim_ray.core.data.dataset import Dataset
    from dim_ray.pipeline.workspace import Workspace

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.tune`` with the given arguments."""
    started = time.monotonic()
    config, arguments = parse(
        argv, program="python -m dim_ray.tune", description=__doc__, flags=TUNE_FLAGS, extra=_add_dry_run
    )
    configs = arguments.configs
    _check_name(configs)
    with show_progress() as progress:
        # Imported after the display is shown, because torch takes seconds.
        from dim_ray.cli.session import begin_log, open_session
        from dim_ray.core.data.checks import check_evaluation, check_training
        from tuning.loggers import check_loggers
        from tuning.record import study_name
        from tuning.search.space import check_search
        from tuning.study import run_studies
        from tuning.warm_start import check_warm_start

        checks = [check_training, check_evaluation, check_search, check_warm_start, check_loggers]
        name = study_name if len(configs) == 1 or config.study.name is None else _joined_name
        works = [open_session(own, name, checks, progress, writes_rows=not arguments.dry_run) for own in configs]
        _check_different(works)
        if arguments.dry_run:
            from tuning.dry_run.plan import plan_study

            lines, begins = [], datetime.now()
            for work in works:
                plan, begins = plan_study(work, progress, begins)  # each begins when the one before has ended
                lines += plan
            lines.append("the study wasn't started; leave --dry-run out to start it")
        else:
            outcomes = run_studies(works, progress, on_begin=begin_log)
    if arguments.dry_run:
        print("\n".join(lines))
        return
    from dim_ray.cli.outcomes import print_outcomes

    print_outcomes(works, outcomes, time.monotonic() - started)


def _check_name(configs: Sequence[Config]) -> None:
    name = configs[0].data.name
    if len(configs) > 1 and name is not None:
        raise UsageError(
            f"data.name is {name!r}, which names one dataset, but --dataset has {len(configs)}; leave one of them out."
        )


def _joined_name(config: Config, dataset: Dataset) -> str:
    """Return the name of one of several studies: NAME-mnist, NAME-svhn, ..."""
    return f"{config.study.name}-{dataset.name}"


def _check_different(works: Sequence[Workspace]) -> None:
    """Refuse the same data twice."""
    for first, second in itertools.combinations(works, 2):
        if (first.dataset.name, first.dataset.content_digest) == (second.dataset.name, second.dataset.content_digest):
            raise UsageError(
                f"--dataset has {first.config.data.dataset} and {second.config.data.dataset}, which are the same data. "
                "Leave one of them out."
            )


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print what the study would cost, and stop")


if __name__ == "__main__":
    sys.exit(run_main(main))
