"""A workspace on tiny data, where every stage takes a tenth of a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dim_ray.config import Config, EvaluationConfig, NetworksConfig, StorageConfig, StudyConfig
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.training.ports import Collective, Reporter, SilentReporter, SingleWorker
from dim_ray.pipeline.evaluations import evaluate_group
from dim_ray.pipeline.generators import distill_generator
from dim_ray.pipeline.priors import build_prior
from dim_ray.pipeline.students import StudentPlan
from dim_ray.pipeline.teachers import build_teachers, missing_teachers
from dim_ray.pipeline.workspace import Workspace
from tests.helpers import tiny

EVALUATION = EvaluationConfig(
    images_per_class=(1, 2),
    num_seeds=2,
    epochs=2,
    batch_size=4,
    num_test_points=1,
    augmentation="none",
    precision="float32",
)
SEARCHED: dict[str, Any] = {
    "pool.size": [1, 2],
    "generator.capacity": [6, 8],
    "matching.weight": {"low": 0.1, "high": 1.0, "log": True},
    "matching.adversarial_weight": {"low": 0.5, "high": 2.0, "log": True},
}
STUDY = StudyConfig(num_trials=3, space=SEARCHED, selection_images_per_class=(2,), control=False)


def make_config(root: Path | str, **sections: Any) -> Config:
    """Returns a configuration of tiny stages; a section is given whole."""
    config = Config(
        networks=NetworksConfig(teachers=(tiny.ARCHITECTURE,), students=(tiny.ARCHITECTURE,)),
        pool=tiny.POOL,
        generator=tiny.GENERATOR,
        prior=tiny.PRIOR,
        matching=tiny.MATCHING,
        evaluation=EVALUATION,
        study=STUDY,
        storage=StorageConfig(root=str(root)),
    )
    return replace(config, **sections)


def make_work(root: Path | str, *, dataset: Dataset | None = None, study: str = "tiny", **sections: Any) -> Workspace:
    """Returns a workspace below `root`."""
    return Workspace(config=make_config(root, **sections), dataset=dataset or tiny.make_dataset(), study=study)


def build_networks(work: Workspace) -> None:
    """Builds the teachers and the prior of a workspace."""
    for number in missing_teachers(work):
        build_teachers(work, [number], SilentReporter())
    build_prior(work, SilentReporter(), SingleWorker())


def distil(work: Workspace, reporter: Reporter | None = None, collective: Collective | None = None) -> str:
    """Distils a generator whose teachers and prior are there, and returns its fingerprint."""
    return distill_generator(work, reporter or SilentReporter(), collective or SingleWorker(), rungs=work)


def evaluate(work: Workspace, plan: StudentPlan) -> dict[str, Any]:
    """Train and test one student, and return its row."""
    [row] = evaluate_group(work, [plan])
    return row


def file_bytes(work: Workspace, kind: str) -> dict[str, bytes]:
    """Returns the tensor files of all artefacts of a kind, by path."""
    root = Path(work.artifacts.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in (root / kind).rglob("*.safetensors")}


def undistilled(work: Workspace) -> Workspace:
    """Returns the same teachers and prior with a generator that isn't there yet."""
    return with_matching(work, seed=work.config.matching.seed + 1)


def with_matching(work: Workspace, **changes: Any) -> Workspace:
    """Returns a workspace with another recipe of matching."""
    return replace(work, config=replace(work.config, matching=replace(work.config.matching, **changes)))
