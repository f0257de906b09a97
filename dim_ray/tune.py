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
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from dim_ray.cli.main import TUNE_FLAGS, parse, run_main, show_progress, start_logging
from dim_ray.config import Config
from dim_ray.errors import UsageError

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.tune`` with the given arguments."""
    started = time.monotonic()
    config, arguments = parse(
        argv, program="python -m dim_ray.tune", description=__doc__, flags=TUNE_FLAGS, extra=_add_dry_run
    )
    configs = _one_each(config, arguments.datasets)
    with show_progress() as progress:
        # Imported after the display is shown, because torch takes seconds.
        from dim_ray.cli.session import log_path, open_session
        from dim_ray.core.data.checks import check_evaluation, check_training
        from tuning.loggers import check_loggers
        from tuning.record import study_name
        from tuning.search.space import check_search
        from tuning.study import run_studies
        from tuning.warm_start import check_warm_start

        checks = [check_training, check_evaluation, check_search, check_warm_start, check_loggers]
        works = [open_session(own, study_name, checks, progress) for own in configs]
        if arguments.dry_run:
            from tuning.dry_run.plan import plan_study

            lines, begins = [], datetime.now()
            for work in works:
                plan, begins = plan_study(work, progress, begins)  # each begins when the one before has ended
                lines += plan
            lines.append("nothing was started; leave --dry-run out to start it")
        else:
            outcomes = run_studies(works, progress, on_begin=lambda work: start_logging(log_path(work)))
    if arguments.dry_run:
        print("\n".join(lines))
        return
    from dim_ray.cli.outcomes import print_outcomes

    print_outcomes(works, outcomes, time.monotonic() - started)


def _one_each(config: Config, datasets: Sequence[str]) -> list[Config]:
    """Return each dataset's configuration; a study's name becomes NAME-mnist, NAME-svhn, ..."""
    if len(datasets) < 2:
        return [config]
    if config.data.name is not None:
        raise UsageError(
            f"data.name is {config.data.name!r}, which names one dataset, but --dataset has {len(datasets)}; leave one "
            "of them out."
        )
    configs = [replace(config, data=replace(config.data, dataset=dataset)) for dataset in datasets]
    labels = [own.data.label for own in configs]
    if len(set(labels)) < len(labels):
        raise UsageError(
            f"--dataset is {' '.join(datasets)}, whose names {' '.join(labels)} aren't different; run them one after "
            "the other with --data.name."
        )
    if config.study.name is None:
        return configs
    return [replace(own, study=replace(own.study, name=f"{own.study.name}-{own.data.label}")) for own in configs]


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print what the study would cost, and stop")


if __name__ == "__main__":
    sys.exit(run_main(main))
