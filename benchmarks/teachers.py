"""What N teachers bring the students of one stored generator, by soft labels or by choosing among candidates.

    python -m dim_ray.pool --size 8 --dataset parquet:PATH --storage STORAGE     first; pools are nested
    python -m benchmarks.teachers STORAGE/generators/NAME --labels soft --teachers 1 2 4 8

Students of a line have the seeds of those of every other line. Gains are in points of test accuracy, as means with
their 95 % intervals over pairs of the same seed; seconds are of this process's processor, for one student.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dim_ray.cli.settings import make_config, read_settings
from dim_ray.config import Config, EvaluationConfig
from dim_ray.core.students.student import finished
from dim_ray.pipeline.evaluations import load_generators, weights_in_use
from dim_ray.pipeline.stored_data import stored_data
from dim_ray.pipeline.students import StudentPlan, train_group
from dim_ray.pipeline.teachers import teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.artifacts import ArtifactStore
from tuning.intervals import paired_interval

__all__ = ["accuracies", "main"]


def accuracies(
    work: Workspace, generator: str, recipe: EvaluationConfig, teachers: tuple[str, ...], ipc: int, students: int
) -> tuple[list[float], float]:
    """Return the test accuracies of students on the fly, in [0, 1], and the processor's seconds for one."""
    weights, [architecture, *_] = weights_in_use(work, generator), work.config.networks.students
    plans = [
        StudentPlan(
            protocol="on_the_fly", images_per_class=ipc, architecture=architecture, seed=seed, generator=generator,
            recipe=recipe, preset="corrected", weights=weights, teachers=teachers,
        )
        for seed in range(students)
    ]  # fmt: skip
    started = time.process_time()
    results = finished(train_group(work, plans, load_generators(work, plans), test=True))
    return [result.accuracy for result in results], (time.process_time() - started) / students


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m benchmarks.teachers``."""
    parser = argparse.ArgumentParser("python -m benchmarks.teachers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("generator", help="folder of a stored generator")
    parser.add_argument("--labels", choices=("hard", "soft"), default="hard", help="(default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=1, metavar="C", help="(default: %(default)s)")
    parser.add_argument("--teachers", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="(default: 1 2 4 8)")
    parser.add_argument("--students", type=int, default=3, metavar="S", help="of each line (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=200, metavar="E", help="of a student (default: %(default)s)")
    parser.add_argument("--control-epochs", type=int, metavar="E", help="of those without teachers (default: the same)")
    parser.add_argument("--ipc", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--recipe", default="cifar_cpu", help="shipped study (default: %(default)s)")
    options = parser.parse_args(argv)
    folder = Path(options.generator)
    artifacts = ArtifactStore(str(folder.parent.parent))
    config = make_config(read_settings(Path("tuning", "studies", f"{options.recipe}.yaml")))
    config = replace(config, storage=replace(config.storage, root=artifacts.root))
    dataset = stored_data(artifacts, artifacts.read_card("generators", folder.name), data_root=None)
    if dataset is None:
        sys.exit(f"the real images of {folder} aren't where {artifacts.root} says")
    work = Workspace(config=config, dataset=dataset, study="teachers")
    names = tuple(teacher_fingerprint(work, number) for number in range(max(options.teachers)))
    before: dict[int, list[float]] = {}
    for count in (0, *options.teachers):
        recipe = _recipe(config, options, dataset.num_channels, with_teachers=count > 0)
        measured, seconds = accuracies(work, folder.name, recipe, names[:count], options.ipc, options.students)
        line = f"{count} teachers: {_percent(measured)}, {seconds:.0f} s"
        for fewer in (0, 1):
            if fewer in before and options.students > 1:
                gain = paired_interval([own - other for own, other in zip(measured, before[fewer], strict=True)])
                line += f"; over {fewer} {gain.points()}"
        print(line, flush=True)
        before[count] = measured


def _recipe(config: Config, options: argparse.Namespace, num_channels: int, *, with_teachers: bool) -> EvaluationConfig:
    labels, candidates, epochs = options.labels, options.candidates, options.epochs
    if not with_teachers:
        labels, candidates, epochs = "hard", 1, options.control_epochs or epochs
    own = replace(config.evaluation, labels=labels, candidates=candidates, epochs=epochs, num_test_points=1)
    return own.recipe("on_the_fly", num_channels)


def _percent(measured: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(measured):.1f}" if len(measured) > 1 else ""
    return f"{100 * statistics.fmean(measured):.1f}{spread} % (n = {len(measured)})"


if __name__ == "__main__":
    main()
