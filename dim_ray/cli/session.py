"""Prepare a command: probe the storage, load the data, check the budgets, and open the log file.

work = open_session(config, study_name, [check_training], progress)     # a study of one configuration
work = open_shared_session(config, "evaluate", check_evaluation, progress)      # one that any configurations share
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from dim_ray.cli.main import start_logging
from dim_ray.cli.recipes import open_dataset
from dim_ray.cli.settings import to_yaml
from dim_ray.config import Config, fingerprint
from dim_ray.config.names import path_name
from dim_ray.core.data.checks import Check
from dim_ray.core.data.dataset import Dataset, describe
from dim_ray.pipeline.dataset_names import keep_name, with_own_name
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.store.files.copies import Copy
from dim_ray.store.files.filesystem import Root, open_root, probe

__all__ = ["begin_log", "log_address", "open_session", "open_shared_session"]


def open_session(
    config: Config,
    name: Callable[[Config, Dataset], str],
    checks: Iterable[Check],
    progress: Progress,
    *,
    writes_rows: bool = False,
) -> Workspace:
    """Return the workspace of a command, or refuse what can't work before anything runs.

    With `writes_rows` the data's name is going to be in rows and artefacts, so from now on it belongs to them.
    """
    root = open_root(config.storage.root)
    probe(root.uri)
    # An absolute root, because workers have other working directories.
    config = replace(config, storage=replace(config.storage, root=root.uri))
    config, dataset = with_own_name(config, open_dataset(config.data), progress.message)
    progress.message(describe(dataset))
    config, study = _named(config, name(config, dataset), progress)
    for check in checks:
        check(config, dataset)
    if writes_rows:
        keep_name(config, dataset)
    work = Workspace(config=config, dataset=dataset, study=study)
    begin_log(work)
    return work


def open_shared_session(config: Config, study: str, check: Check, progress: Progress) -> Workspace:
    """Return the workspace of a study that configurations share, and store this configuration beside the others.

    A name in the configuration comes before `study`. Raises as `open_session`.
    """
    work = open_session(config, lambda config, dataset: config.study.name or study, [check], progress, writes_rows=True)
    key = f"studies/{work.study}/config-{fingerprint(work.config)}.yaml"
    work.artifacts.write_bytes(key, to_yaml(work.config).encode())
    return work


def _named(config: Config, study: str, progress: Progress) -> tuple[Config, str]:
    """Return a study's name as it stands in paths, and the configuration with it if it was given."""
    name = path_name(study, "study")
    if config.study.name is None:
        return config, name
    if name != study:
        progress.message(f"study.name is {study!r}, which other programs would misread; in rows and paths it is {name}")
    return replace(config, study=replace(config.study, name=name)), name


def begin_log(work: Workspace) -> None:
    """Write the log to the study's folder; on an object store to a temporary file, of which that folder has a copy."""
    root, key = _log_place(work)
    if root.is_local:
        start_logging(Path(root.path_of(key)))
        return
    path = Path(_temporary_folder(), f"{work.study}.log")
    start_logging(path, Copy(path, root, key))


def log_address(work: Workspace) -> str:
    """Return the address of the log in the study's folder."""
    root, key = _log_place(work)
    return root.uri_of(key)


def _log_place(work: Workspace) -> tuple[Root, str]:
    """Return the storage and the log's key there; on an object store, which can't append, each run has a log."""
    root = open_root(work.config.storage.root)
    name = "study.log" if root.is_local else f"{Path(_temporary_folder()).name}.log.gz"
    return root, f"studies/{work.study}/{name}"


@cache
def _temporary_folder() -> str:
    """Return a folder of this process, whose name begins with the time and is like no other."""
    return tempfile.mkdtemp(prefix=f"study-{datetime.now(UTC):%Y%m%d-%H%M%S}-")
