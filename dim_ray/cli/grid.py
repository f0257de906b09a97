"""Find a stored generator, and run the students that measure it, in this process or over a cluster.

work = open_shared_session(config, "evaluate", check_evaluation, progress)
fingerprint = find_generator(work, uri)
num_new = run_missing(work, plan_evaluations(work, fingerprint), progress, is_local=True)
"""

from __future__ import annotations

from collections.abc import Sequence

from dim_ray.errors import DataError, DivergedError
from dim_ray.pipeline.evaluations import check_all_measured, evaluate_group
from dim_ray.pipeline.generators import stored_samples
from dim_ray.pipeline.local import ProgressReporter
from dim_ray.pipeline.rows import missing_rows
from dim_ray.pipeline.students import StudentPlan, group_students
from dim_ray.pipeline.workspace import Workspace, on_device
from dim_ray.progress import Progress
from dim_ray.store.artifacts import read_artifact
from dim_ray.store.reader import Reader
from dim_ray.store.schema import EVALUATION_TABLE

__all__ = ["find_generator", "run_missing"]


def find_generator(work: Workspace, uri: str | None) -> str:
    """Return a generator's fingerprint, by default of the storage's best; verify and copy one from elsewhere.

    Raises:
        DataError: The generator was made from other data.
        StorageError: There is no generator, or it can't be read.
    """
    artifacts, dataset = work.artifacts, work.dataset.name
    if uri is None:
        uri = artifacts.uri("generators", str(Reader(artifacts.root).best_cell(dataset=dataset)["generator"]))
    artifact = read_artifact(uri, kind="generators")
    theirs = artifact.card["dataset"]
    if theirs["digest"] != work.dataset.digest:
        raise DataError(
            f"The generator {uri} was made from {theirs['name']!r} with digest {theirs['digest']}, but --dataset "
            f"{work.config.data.dataset} is {work.dataset.name!r} with digest {work.dataset.digest}. Give the data "
            "and splits that it was made from."
        )
    fingerprint = str(artifact.card["fingerprint"])
    if not artifacts.exists("generators", fingerprint):
        files = {**artifact.files, **stored_samples(artifact)}
        artifacts.write("generators", fingerprint, files, artifact.card)
    return fingerprint


def run_missing(work: Workspace, planned: list[StudentPlan], progress: Progress, *, is_local: bool) -> int:
    """Run the planned students that have no row yet, in this process or over the cluster, and return their number.

    Raises:
        DivergedError: Students diverged; all others have their rows.
    """
    missing = missing_rows(work, EVALUATION_TABLE, planned)
    if missing and is_local:
        _run_here(work, missing, progress)
        check_all_measured(work, planned)
    elif missing:
        from dim_ray.distributed.cluster.joining import cluster
        from dim_ray.distributed.measure import run_evaluations

        with cluster(work.config, progress) as placement:
            run_evaluations(work, planned, placement, progress)
    return len(missing)


def _run_here(work: Workspace, plans: Sequence[StudentPlan], progress: Progress) -> None:
    work = on_device(work)
    progress.start("evaluation", len(plans), "students")
    progress.advance(0)
    num_seeds, device_type = work.config.evaluation.num_seeds, work.dataset.train.images.device.type
    done = 0
    for group in group_students(work, plans, num_seeds=num_seeds, device_type=device_type):
        try:
            rows = evaluate_group(work, group, ProgressReporter(progress, done, len(group)))
            outcome = f"{100 * rows[-1]['accuracy']:.1f} %"
        except DivergedError:  # reported once the others are trained
            outcome = "diverged"
        done += len(group)
        last = group[-1]
        progress.advance(done, f"{last.protocol}, IPC {last.images_per_class}: {outcome}")
