"""Train a pool of teachers for later distillations on the same data and storage.

    python -m dim_ray.pool --size 16                        digits, over the machine's cores with Ray
    python -m dim_ray.pool --size 64 --workers 8            eight workers of Ray Train, over the nodes of a cluster
    python -m dim_ray.pool --dataset cifar10 --architecture convnet3 resnet18 --epochs 50
    python -m dim_ray.pool --local                          in this process, without Ray

Pools are nested: the first 8 teachers of 64 are a pool of 8. Each teacher is stored when it is finished, so the same
command, with any number of workers, trains only missing ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from dim_ray.cli.flags import POOL_FLAGS, add_local, check_local
from dim_ray.cli.main import parse, run_main, show_progress
from dim_ray.cli.recipes import Recipe
from dim_ray.cli.settings import make_config
from dim_ray.config import Config, MatchingConfig
from dim_ray.errors import UsageError

if TYPE_CHECKING:
    from dim_ray.pipeline.workspace import Workspace

__all__ = ["main"]

_STUDY = "pool"


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.pool`` with the given arguments."""
    config, extras = parse(
        argv, program="python -m dim_ray.pool", description=__doc__, flags=POOL_FLAGS, extra=add_local
    )
    if config.pool.kind == "online":
        raise UsageError(
            "pool.kind is 'online', whose teachers aren't stored; only 'stored' ones can be trained ahead."
        )
    # A pool doesn't depend on how it's matched; the batch size is only compared with the data.
    config = replace(config, matching=MatchingConfig(batch_size=config.matching.batch_size))
    check_local(config, is_local=extras.local)
    with show_progress() as progress:
        from dim_ray.cli.session import open_shared_session
        from dim_ray.core.data.checks import check_training
        from dim_ray.pipeline.local import train_pool
        from dim_ray.pipeline.teachers import missing_teachers
        from dim_ray.pipeline.workspace import on_device

        work = open_shared_session(config, _STUDY, check_training, progress)
        missing = missing_teachers(work)
        if missing and extras.local:
            train_pool(on_device(work), progress)
        elif missing:
            from dim_ray.distributed.build import build_networks
            from dim_ray.distributed.cluster.joining import cluster
            from dim_ray.distributed.preflight.check import check_nodes

            with cluster(work.config, progress) as placement:
                check_nodes(work, placement, progress, num_trials=1)
                build_networks(work, [work.config], placement, progress, with_priors=False)
    _print(work, len(missing), extras.recipe)


def _print(work: Workspace, num_trained: int, recipe: Recipe) -> None:
    from dim_ray.cli.summary import command, data_flags, make_console, pool_table, print_lines
    from dim_ray.pipeline.teachers import teacher_fingerprint

    console, size = make_console(), work.config.pool.size
    cards = [work.artifacts.read_card("teachers", teacher_fingerprint(work, number)) for number in range(size)]
    print_lines(console, f"pool of {size} teachers: {num_trained} trained, {size - num_trained} stored before", "")
    console.print(pool_table(cards))
    flags = [*data_flags(work.config.data), *_recipe_flags(work.config, recipe), "--storage", work.config.storage.root]
    print_lines(console, "next:", command("-m", "dim_ray.distill", *flags))


def _recipe_flags(config: Config, recipe: Recipe) -> list[str]:
    """Return the flags that select these teachers: the file of --config, and what differs from the recipe."""
    usual = make_config(recipe.settings)
    changed = [f.name for f in fields(config.pool) if getattr(config.pool, f.name) != getattr(usual.pool, f.name)]
    flags = [] if recipe.reason else ["--config", recipe.name]
    flags += [f"--pool.{name}={getattr(config.pool, name)}" for name in changed]
    if config.networks.teachers != usual.networks.teachers:
        flags += ["--networks.teachers", *config.networks.teachers]
    return flags


if __name__ == "__main__":
    sys.exit(run_main(main))
