"""Measures a stored generator: students over a grid of protocol x IPC x architecture x seed, a row for each.

    python -m dim_ray.evaluate                              the storage's best generator of digits
    python -m dim_ray.evaluate dim_storage/generators/0123456789abcdef --ipc 1 10 50
    python -m dim_ray.evaluate PATH --architecture convnet3 resnet18 --protocol on_the_fly --num-seeds 5
    python -m dim_ray.evaluate PATH --local                 in this process alone: needs no Ray

Rows that are there already are not measured again. The baselines on real images, at the same budgets, come by
themselves with the default protocols.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dim_ray.cli import parse, run_main
from dim_ray.errors import DataError
from dim_ray.flags import DEFAULT_STUDY, EVALUATE_FLAGS
from dim_ray.progress import Progress, make_progress

if TYPE_CHECKING:
    from dim_ray.pipeline.students import Evaluation
    from dim_ray.pipeline.workspace import Workspace

__all__ = ["main"]

_STUDY = "evaluate"


def main(argv: Sequence[str]) -> None:
    """Runs ``python -m dim_ray.evaluate``.

    Args:
        argv: Arguments without the program's name.

    Raises:
        DimError: With a sentence for the person who typed the command.
    """
    config, extras = parse(
        argv,
        program="python -m dim_ray.evaluate",
        description=__doc__ or "",
        flags=EVALUATE_FLAGS,
        defaults=DEFAULT_STUDY,
        extra=_add_arguments,
    )
    with make_progress() as progress:
        from dim_ray.core.checks import check_evaluation
        from dim_ray.pipeline.evaluations import missing_evaluations, plan_evaluations
        from dim_ray.session import open_shared_session

        work = open_shared_session(config, _STUDY, check_evaluation)
        identity = _find(work, extras.generator)
        planned = plan_evaluations(work, identity)
        missing = missing_evaluations(work, planned)
        if missing and extras.local:
            _evaluate_here(work, missing, progress)
        elif missing:
            _evaluate_with_ray(work, planned, progress)
    _print(work, identity, planned, len(missing))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "generator", nargs="?", help="folder or URI of a generator (default: the storage's best by validation accuracy)"
    )
    parser.add_argument("--local", action="store_true", help="in this process alone: needs no Ray")


def _find(work: Workspace, uri: str | None) -> str:
    """Returns the generator's fingerprint; one from elsewhere is verified and copied into the storage."""
    from dim_ray.store.artifacts import read_artifact
    from dim_ray.store.reader import Reader, usual_ipc

    artifacts, dataset = work.artifacts, work.dataset.name
    if uri is None:
        reader = Reader(artifacts.root)
        ipc = usual_ipc(reader.evaluations(dataset=dataset), dataset=dataset)
        identity = reader.best_generator(dataset=dataset, ipc=ipc)
        uri = artifacts.uri("generators", identity)
    artifact = read_artifact(uri, kind="generators")
    theirs = artifact.card["dataset"]
    if theirs["digest"] != work.dataset.digest:
        raise DataError(
            f"the generator {uri} was made from the data set {theirs['name']!r} with digest {theirs['digest']}, and "
            f"--dataset {work.config.data.dataset} is {work.dataset.name!r} with digest {work.dataset.digest}; give "
            "the data and the splits that it was made from."
        )
    identity = str(artifact.card["fingerprint"])
    if not artifacts.exists("generators", identity):
        artifacts.write("generators", identity, artifact.files, artifact.card)
    return identity


def _evaluate_here(work: Workspace, cells: Sequence[Evaluation], progress: Progress) -> None:
    from dim_ray.pipeline.evaluations import evaluate
    from dim_ray.pipeline.workspace import on_device

    work = on_device(work)
    progress.start("evaluation", len(cells), "students")
    progress.advance(0)
    for done, cell in enumerate(cells):
        row = evaluate(work, cell)
        progress.advance(done + 1, f"{cell.protocol}, IPC {cell.images_per_class}: {100 * row['accuracy']:.1f} %")


def _evaluate_with_ray(work: Workspace, planned: list[Evaluation], progress: Progress) -> None:
    from dim_ray.distributed.build import run_evaluations
    from dim_ray.distributed.resources import cluster

    with cluster(work.config, progress) as placement:
        run_evaluations(work, planned, placement, progress)


def _print(work: Workspace, identity: str, planned: Sequence[Evaluation], num_new: int) -> None:
    from dim_ray.pipeline.evaluations import read_evaluations
    from dim_ray.summary import accuracy_table, make_console, print_places

    console = make_console()
    console.print(
        f"generator {identity} on {work.dataset.name}: {num_new} evaluations added, "
        f"{len(planned) - num_new} were there\n",
        markup=False,
        soft_wrap=True,
    )
    console.print(accuracy_table(read_evaluations(work, planned)))
    print_places(console, work, identity, work.config.evaluation.images_per_class)


if __name__ == "__main__":
    sys.exit(run_main(main))
