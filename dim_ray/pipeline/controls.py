"""Controls: what a generator would be without matching, all else equal.

    config = control_config(trial_config)
    measure_control(work, generator, config, reporter)     # then the rows are in the table `validations`

A control continues from the same prior for as many epochs, with the same learning rate, batches and seed. Students on
the validation split, with the same seeds for both, say what matching brought.
"""

from __future__ import annotations

from dataclasses import replace

from dim_ray.config import Config
from dim_ray.core.training.ports import Reporter, SingleWorker
from dim_ray.errors import DivergedError
from dim_ray.pipeline.contenders import plan_validations, validate_group
from dim_ray.pipeline.generators import distill_generator, generator_fingerprint
from dim_ray.pipeline.rows import missing_rows
from dim_ray.pipeline.students import StudentPlan, group_students
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.schema import VALIDATION_TABLE

__all__ = ["control_config", "has_diverged", "measure_control", "missing_students", "note_divergence"]


def control_config(config: Config) -> Config:
    """Return the configuration of a generator's control."""
    return replace(config, matching=config.matching.control())


def missing_students(work: Workspace, generator: str, config: Config) -> list[StudentPlan]:
    """Return the students without a row that compare a generator, given by fingerprint, with its control.

    None are missing where there is nothing to compare: somebody deleted the generator, or the control diverged.
    """
    control = replace(work, config=config)
    name = generator_fingerprint(control)
    own = missing_rows(work, VALIDATION_TABLE, plan_validations(work, [generator]))
    if has_diverged(control) or (own and not work.artifacts.exists("generators", generator)):
        return []
    return own + missing_rows(work, VALIDATION_TABLE, plan_validations(control, [name]))


def measure_control(work: Workspace, generator: str, config: Config, reporter: Reporter) -> None:
    """Distil a generator's control, and train the missing students that compare the two."""
    control = replace(work, config=config)
    if not work.artifacts.exists("generators", generator_fingerprint(control)):
        try:
            distill_generator(control, reporter, SingleWorker())
        except DivergedError as error:
            note_divergence(control, error)
    plans = missing_students(work, generator, config)
    for group in group_students(work, plans, num_seeds=work.config.study.contender_seeds):
        validate_group(work, group)


def note_divergence(control: Workspace, error: DivergedError) -> None:
    """Record that a control diverged, which is an outcome."""
    control.artifacts.write_bytes(_divergence_key(control), str(error).encode())


def has_diverged(control: Workspace) -> bool:
    """Return whether that is recorded."""
    return control.artifacts.read_bytes(_divergence_key(control)) is not None


def _divergence_key(control: Workspace) -> str:
    return f"studies/{control.study}/diverged/{generator_fingerprint(control)}.txt"
