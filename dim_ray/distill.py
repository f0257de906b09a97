"""Distil one generator with one configuration: teachers, prior, matching.

    python -m dim_ray.distill                               digits, over the machine's cores with Ray
    python -m dim_ray.distill --local                       in this process, without Ray
    python -m dim_ray.distill --dataset folder:PATH --capacity 64 --pool-size 8
    python -m dim_ray.distill --workers 2                   shared by two workers of Ray Train

Run the same command again to continue after an interruption. It does nothing if the generator is stored already.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dim_ray.cli.flags import DISTILL_FLAGS, add_local, check_local
from dim_ray.cli.main import parse, run_main, show_progress
from dim_ray.progress import Progress

if TYPE_CHECKING:
    from dim_ray.pipeline.workspace import Workspace

__all__ = ["main"]

_STUDY = "distill"


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.distill`` with the given arguments."""
    config, extras = parse(
        argv, program="python -m dim_ray.distill", description=__doc__, flags=DISTILL_FLAGS, extra=add_local
    )
    check_local(config, is_local=extras.local)
    with show_progress() as progress:
        from dim_ray.cli.session import open_shared_session
        from dim_ray.core.data.checks import check_training
        from dim_ray.pipeline.generators import generator_fingerprint

        work = open_shared_session(config, _STUDY, check_training, progress)
        fingerprint = generator_fingerprint(work)
        is_new = not work.artifacts.exists("generators", fingerprint)
        if is_new and extras.local:
            _distill_here(work, progress)
        elif is_new:
            _distill_with_ray(work, progress)
    _print(work, fingerprint, is_new)


def _distill_here(work: Workspace, progress: Progress) -> None:
    from dim_ray.core.training.ports import SingleWorker
    from dim_ray.pipeline.generators import distill_generator
    from dim_ray.pipeline.local import ProgressReporter, train_pool
    from dim_ray.pipeline.priors import build_prior, prior_is_settled
    from dim_ray.pipeline.workspace import on_device

    work = on_device(work)
    train_pool(work, progress)
    if not prior_is_settled(work):
        epochs = work.config.prior.epochs
        progress.start("prior", epochs, "epochs")
        build_prior(work, ProgressReporter(progress, size=epochs), SingleWorker())
    epochs = max(1, work.config.matching.epochs)
    progress.start("distillation", epochs, "epochs")
    distill_generator(work, ProgressReporter(progress, size=epochs), SingleWorker(), rungs=work)


def _distill_with_ray(work: Workspace, progress: Progress) -> None:
    from dim_ray.distributed.build import build_networks, distill_one
    from dim_ray.distributed.cluster.joining import cluster
    from dim_ray.distributed.preflight.check import check_nodes

    with cluster(work.config, progress) as placement:
        check_nodes(work, placement, progress, num_trials=1)
        build_networks(work, [work.config], placement, progress)
        distill_one(work, placement, progress)


def _print(work: Workspace, fingerprint: str, is_new: bool) -> None:
    from dim_ray.cli.summary import command, data_flags, literal, make_console, print_lines
    from dim_ray.pipeline.generators import stored_weights, weights_file

    card = work.artifacts.read_card("generators", fingerprint)
    validation = card["validation"]
    ipcs = ", ".join(map(str, validation["images_per_class"]))
    size_bytes = card["files"][weights_file(stored_weights(card, validation["weights"]))]["size_bytes"]
    uri = work.artifacts.uri("generators", fingerprint)
    print_lines(
        make_console(),
        f"generator {fingerprint} {'' if is_new else 'is stored already; nothing was done'}".rstrip(),
        f"validation accuracy {100 * validation['validation_accuracy']:.1f} % "
        f"(on_the_fly, IPC {ipcs}), {size_bytes:,} bytes",
        f"in {uri}",
        "",
        "next:",
        command("-m", "dim_ray.evaluate", uri, *data_flags(work.config.data), "--storage", work.config.storage.root),
        command("-c", f"import dim_ray; print(dim_ray.load_generator({literal(uri)}))"),
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
