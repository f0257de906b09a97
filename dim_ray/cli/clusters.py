"""Where a command runs: on this machine, on a Ray cluster that is joined, or as a job on the head of one elsewhere.

    python -m dim_ray.tune                                           here, with a Ray of its own
    python -m dim_ray.tune --address auto                            on the cluster that this machine belongs to
    python -m dim_ray.tune --cluster cluster.yaml --storage s3://b   on the cluster that `ray up cluster.yaml` made
    python -m dim_ray.tune --cluster cluster.yaml --attach           back to what runs there

What can't work elsewhere is refused before anything is asked over the network.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dim_ray.config import Config, fingerprint
from dim_ray.distributed.remote.jobs import Action, Request, call_head
from dim_ray.errors import UsageError

__all__ = ["add_cluster_flags", "go_to_cluster"]

_FLAGS = ("address", "cluster", "attach", "stop")
_STAY_HERE = ("--cluster", "--config", "--study-file")  # flags with a value that the head isn't given
_ABOUT_JOBS = {"--cluster", "--attach", "--stop"}
_STUDY_DIGITS = 8


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where a command runs."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--address", help="Ray cluster to join: auto, HOST:PORT or local")
    where.add_argument("--cluster", metavar="FILE", help="run as a job on the cluster of `ray up FILE`")
    job = parser.add_mutually_exclusive_group()
    job.add_argument(
        "--attach", nargs="?", const="", metavar="JOB", help="with --cluster: follow its job, or its last one"
    )
    job.add_argument("--stop", nargs="?", const="", metavar="JOB", help="with --cluster: stop its job")


def go_to_cluster(
    namespace: argparse.Namespace,
    argv: Sequence[str],
    *,
    module: str,
    make: Callable[[], Config],
    config_file: Path | None,
) -> None:
    """Run the command on a cluster elsewhere if it has --cluster, and remove the flags that say where it runs.

    `make` returns the configuration; without a file, the head chooses a recipe by its own devices.

    Raises:
        UsageError: The flags contradict each other, the cluster's file can't be used, or a path means another place
            there.
        SystemExit: With the job's exit code, if the command ran on a cluster elsewhere.
    """
    address, cluster, attach, stop = (vars(namespace).pop(name) for name in _FLAGS)
    if cluster is None:
        if attach is not None or stop is not None:
            raise UsageError("--attach and --stop are about a job on a cluster; name its file with --cluster FILE.")
        if address is not None:
            os.environ["RAY_ADDRESS"] = address  # Ray's own name for it, which its processes read, too
        return
    action: Action = "attach" if attach is not None else "stop" if stop is not None else "run"
    name, config = module.rpartition(".")[2], make()
    if action == "run":
        datasets = getattr(namespace, "datasets", ()) or (config.data.dataset,)
        paths = [
            ("--storage", config.storage.root),
            ("--data-root", config.data.data_root),
            *(("--dataset", name if "://" in name else name.partition(":")[2]) for name in datasets),
            ("GENERATOR", getattr(namespace, "generator", None)),
            ("--write", getattr(namespace, "write", None)),
        ]
        _check_paths(config, [(flag, str(path)) for flag, path in paths if path], cluster)
    if action == "run" or {word.partition("=")[0] for word in argv if word.startswith("--")} - _ABOUT_JOBS:
        study = config.study.name or config
        name += f"-{fingerprint(module, config.storage.root, study, vars(namespace))[:_STUDY_DIGITS]}"
    request = Request(
        action=action,
        module=module,
        name=name,
        arguments=_without(argv, _STAY_HERE),
        config_text=config_file.read_text(encoding="utf-8") if config_file else None,
        job=attach or stop or None,
    )
    raise SystemExit(call_head(request, Path(cluster)))


def _without(argv: Sequence[str], flags: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments but these flags and their values."""
    return tuple(
        word
        for before, word in zip(("", *argv), argv, strict=False)
        if before not in flags and word.partition("=")[0] not in flags
    )


def _check_paths(config: Config, paths: Sequence[tuple[str, str]], cluster: str) -> None:
    """Refuse paths that mean another place on the head, and a storage that the nodes can't share."""
    import yaml

    try:
        description = yaml.safe_load(Path(cluster).read_text(encoding="utf-8"))
        provider, num_workers = description["provider"]["type"], description.get("max_workers")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError) as error:
        raise UsageError(
            f"--cluster is {cluster!r}, which describes no Ray cluster ({error}). Give the one of `ray up`."
        ) from error
    for flag, path in paths:
        if _is_folder(path) and not path.startswith(("/", "~", "file:")):
            raise UsageError(
                f"{flag} is {path!r}, which is relative to a folder of this machine, and the command runs on the head "
                f"of {cluster}. Give an s3:// or gs:// URI, or the absolute path of a folder that all nodes share."
            )
    if _is_folder(config.storage.root) and provider != "local" and num_workers != 0:
        raise UsageError(
            f"--storage is {config.storage.root!r}, a folder, which the nodes of {cluster} (provider {provider}, "
            f"max_workers {num_workers}) don't share. Give an s3:// or gs:// URI."
        )


def _is_folder(path: str) -> bool:
    return "://" not in path or path.startswith("file:")
