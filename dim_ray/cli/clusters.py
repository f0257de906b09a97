"""Where a command runs: on this machine, on a Ray cluster that is joined, or as a job on the head of one elsewhere.

    python -m dim_ray.tune                                           here, with a Ray of its own
    python -m dim_ray.tune --address auto                            on the cluster that this machine belongs to
    python -m dim_ray.tune --cluster cluster.yaml --storage s3://b   on the cluster that `ray up cluster.yaml` made
    python -m dim_ray.tune --cluster cluster.yaml --attach           back to what runs there

What can't work elsewhere is refused here, before anything is asked over the network.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dim_ray.config import Config, fingerprint
from dim_ray.distributed.remote.laptop import Request, call_head
from dim_ray.errors import UsageError

__all__ = ["add_cluster_flags", "go_to_cluster"]

_LATEST = ""  # --attach and --stop without a job's name
_FLAGS = ("address", "cluster", "attach", "stop")
_WITH_VALUE = ("--cluster", "--config", "--study-file")
_ON_PREMISES = "local"  # Ray's name of the provider whose machines are given by their addresses
_STUDY_DIGITS = 8


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where a command runs."""
    parser.add_argument(
        "--address",
        help="Ray cluster to join: auto, HOST:PORT; local: none",
    )
    parser.add_argument("--cluster", metavar="FILE", help="run there, as a job: what `ray up` was given")
    for name, help_text in (
        ("--attach", "with --cluster: follow its job, or its last one"),
        ("--stop", "with --cluster: stop its job"),
    ):
        parser.add_argument(name, nargs="?", const=_LATEST, metavar="JOB", help=help_text)


def go_to_cluster(
    namespace: argparse.Namespace, argv: Sequence[str], *, module: str, config: Config, config_file: Path | None
) -> None:
    """Settles where the command runs, and takes those flags out of the namespace.

    Args:
        namespace: Of the command's arguments.
        argv: As they were typed.
        module: Of the command, for example dim_ray.tune.
        config: What the arguments came to.
        config_file: That was given with --config; its text goes along.

    Raises:
        UsageError: The flags contradict each other, the cluster's file can't be used, or a path means another place
            there.
        SystemExit: With the job's exit code, where the command ran on a cluster elsewhere.
    """
    address, cluster, attach, stop = (getattr(namespace, name) for name in _FLAGS)
    for name in _FLAGS:
        delattr(namespace, name)
    if cluster is None:
        for flag, value in (("--attach", attach), ("--stop", stop)):
            if value is not None:
                raise UsageError(f"{flag} is about a job on a cluster; name its file with --cluster FILE.")
        if address is not None:
            os.environ["RAY_ADDRESS"] = address  # Ray's own name for it, which its processes read, too
        return
    if address is not None:
        raise UsageError(
            "--address joins a cluster from one of its machines, --cluster reaches one elsewhere; leave one out."
        )
    if attach is not None and stop is not None:
        raise UsageError("--attach follows a job and --stop ends it; leave one of them out.")
    description = _read_cluster(Path(cluster))
    arguments = _arguments(argv)
    study = fingerprint(module, config.storage.root, config.study.name or config, vars(namespace))[:_STUDY_DIGITS]
    if attach is not None or stop is not None:
        job = stop if attach is None else attach
        # Beside a study's own flags, its job is meant; alone, any of this command.
        request = Request(
            action="attach" if stop is None else "stop",
            module=module,
            study=study if _names_a_study(argv) and not job else None,
            job=job or None,
        )
    else:
        datasets = getattr(namespace, "datasets", ()) or (config.data.dataset,)
        _check_paths(config, datasets, cluster, description)
        request = Request(
            action="run",
            module=module,
            arguments=tuple(arguments),
            config_text=None if config_file is None else config_file.read_text(encoding="utf-8"),
            study=study,
        )
    raise SystemExit(call_head(request, Path(cluster)))


def _read_cluster(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"--cluster is {str(path)!r}, which can't be read ({error}); give the file that `ray up` was given."
        ) from error
    if not isinstance(description, dict) or not isinstance(description.get("provider"), dict):
        raise UsageError(
            f"--cluster is {str(path)!r}, which describes no Ray cluster: it has no section 'provider'; give the file "
            "that `ray up` was given."
        )
    return description


def _arguments(argv: Sequence[str]) -> list[str]:
    """Returns what the head is to be given: all but the flags that are settled here."""
    kept, is_value = [], False
    for word in argv:
        if is_value:
            is_value = False
        elif word in _WITH_VALUE:
            is_value = True
        elif word.partition("=")[0] not in _WITH_VALUE:
            kept.append(word)
    return kept


def _names_a_study(argv: Sequence[str]) -> bool:
    """Whether there is a flag of a study beside those of the cluster."""
    names = {word.partition("=")[0] for word in argv if word.startswith("-")}
    return bool(names - {f"--{name}" for name in _FLAGS})


def _check_paths(config: Config, datasets: Sequence[str], cluster: str, description: Mapping[str, Any]) -> None:
    """Refuses paths that mean another place on the head, and a storage that the nodes can't share."""
    for flag, path in (
        ("--storage", config.storage.root),
        ("--data-root", config.data.data_root),
        *(("--dataset", dataset.partition(":")[2]) for dataset in datasets),
    ):
        if path and _is_folder(path) and not path.startswith(("/", "~", "file:")):
            raise UsageError(
                f"{flag} is {path!r}, which is relative to a folder of this machine, and the command runs on the head "
                f"of {cluster}; give an s3:// or gs:// URI, or the absolute path of a folder that all nodes share."
            )
    provider, num_workers = description["provider"].get("type"), description.get("max_workers")
    if _is_folder(config.storage.root) and provider != _ON_PREMISES and num_workers != 0:
        raise UsageError(
            f"--storage is {config.storage.root!r}, a folder, and the nodes of {cluster} (provider {provider}, "
            f"max_workers {num_workers}) share none: each would write to a disk of its own, which goes with it. Give "
            "an s3:// or gs:// URI."
        )


def _is_folder(path: str) -> bool:
    return "://" not in path or path.startswith("file:")
