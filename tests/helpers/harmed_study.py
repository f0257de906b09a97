"""A small study that is harmed while it runs, and what the harm cost: what its checkpoints and rows say."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dim_ray.core.training.checkpoint import loads
from tests.helpers.ray_cluster import RayCluster
from tests.helpers.runs import Run, evaluations, space, trials

CHECKPOINT_SECONDS = 3.0
REFUSED_SECONDS = 20.0
"""For which a storage refuses."""
CELLS = 3
"""Evaluations of a study."""
FLAGS: Mapping[str, str] = {
    "--pool.epochs": "150",
    "--prior.epochs": "40",
    "--matching.epochs": "45",
    "--study.grace_epochs": "45",  # no trial is stopped
    "--study.space": space({"pool.size": [1]}),
    "--study.selection_images_per_class": "1",
    "--study.contenders": "1",
    "--max-concurrent": "1",  # whatever trains is the only one that does
    "--ipc": "1",
    "--evaluation.protocols": "on_the_fly",
    "--evaluation.num_seeds": str(CELLS),
    "--evaluation.epochs": "1000",
    "--evaluation.students_at_once": "1",
    "--storage.checkpoint_seconds": str(CHECKPOINT_SECONDS),
}
"""Stages of some ten seconds on a core that nobody else uses."""
_SLACK_SECONDS = 2.0  # a step, and the writing of a checkpoint, on a machine that does other things
_DYING_SECONDS = 0.2  # what a killed process had begun to write is there, or never comes
_GOING_ON = 0.4  # of the rate before; a stage that waited would have a fifth of it
_INTERVAL_PART = 0.7  # of an interval has passed since a checkpoint when the harm is done


@dataclass(kw_only=True)
class Harm:
    """What was done to a study, and what it cost."""

    what: str
    stage: str
    again_seconds: float
    """From the harm, or the command that was given again, until a process trained again."""
    redone_seconds: float
    """Of training that was done twice."""
    redone: str
    """The same in steps of all steps, or in students."""
    by_command: bool = False
    """Whether the command had to be given again."""
    num_rows: int = -1
    """Rows that were there when it was done."""
    num_lost: int = -1
    """Of those, the ones that weren't there at the end, or not the same."""
    num_doubled: int = -1
    """Rows of all the study that are there twice, or that nobody asked for."""
    is_finished: bool = False


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file with a stage's state."""

    steps: int
    seconds: float
    """That the stage had taken, in all of its processes."""
    written_at: float
    """Time of the clock."""


class HarmedStudy:
    """A study on a cluster, harmed at chosen moments.

    Args:
        storage: Its root.
        num_trials: In all.
        changes: Flags beside or instead of `FLAGS`.
    """

    def __init__(self, storage: Path, num_trials: int, changes: Mapping[str, str] | None = None) -> None:
        self.storage = storage
        self._flags = {**FLAGS, "--num-trials": str(num_trials), **(changes or {})}
        self._num_trials = num_trials
        self._harms: list[tuple[Harm, dict[Path, bytes]]] = []
        self.run: Run

    def start(self, cluster: RayCluster) -> None:
        """Gives the command: always the same, with the address of the cluster that is there."""
        self._commanded_at = time.time()
        self.run = Run(self.storage, self._flags, address=cluster.address)

    def harm_training(
        self, stages: Sequence[str], what: str, harm: Callable[[], None], *, by_command: bool = False
    ) -> None:
        """Harms stages that train, in between two checkpoints, and waits until they train again.

        Args:
            stages: prior, teacher, or trial with its number.
            what: Is done.
            harm: Does it, and whatever a person does to get the study going again.
            by_command: Whether that is the same command.
        """
        for stage in stages:
            self._wait(lambda stage=stage: self._checkpoint(stage), f"a checkpoint of the {stage}")
        time.sleep(_INTERVAL_PART * CHECKPOINT_SECONDS)
        rows = self._rows()
        harmed_at = time.time()
        harm()
        time.sleep(_DYING_SECONDS)
        harmed = {stage: self._checkpoint(stage) for stage in stages}
        for stage, before in harmed.items():
            assert before is not None, f"the {stage} ended before it was harmed"
            resumed = self._next_checkpoint(stage, before.written_at)
            # A process that began anew would have counted its own time alone.
            own_seconds = resumed.seconds - before.seconds
            assert own_seconds >= CHECKPOINT_SECONDS - 0.01, f"the {stage} began anew: {before}, then {resumed}"
            assert resumed.steps > before.steps, (before, resumed)
            redone_seconds = max(0.0, harmed_at - before.written_at)
            assert redone_seconds <= CHECKPOINT_SECONDS + _SLACK_SECONDS, (before, harmed_at)
            steps = round(redone_seconds * before.steps / before.seconds)
            cost = Harm(
                what=what,
                stage=stage,
                again_seconds=resumed.written_at - own_seconds - (self._commanded_at if by_command else harmed_at),
                redone_seconds=redone_seconds,
                redone=f"{steps} steps",
                by_command=by_command,
            )
            self._harms.append((cost, rows))

    def harm_evaluation(self, what: str, harm: Callable[[], None], is_running: Callable[[], object]) -> None:
        """Harms the training of the last student, which begins after the rows of others, and waits for its row."""
        self._wait(is_running, "the last student")
        running_since = time.time()
        time.sleep(_INTERVAL_PART * CHECKPOINT_SECONDS)
        rows = self._rows()
        harmed_at = time.time()
        harm()
        self._wait(lambda: len(self._rows("evaluations")) >= CELLS, "all evaluations' rows")
        path, data = max(self._rows("evaluations").items(), key=lambda row: row[0].stat().st_mtime)
        began_at = path.stat().st_mtime - pd.read_parquet(io.BytesIO(data))["wall_seconds"].sum()
        assert began_at > harmed_at, "the last student ended before it was harmed"
        cost = Harm(
            what=what,
            stage="evaluation",
            again_seconds=began_at - harmed_at,
            redone_seconds=harmed_at - running_since,
            redone="1 student",
        )
        self._harms.append((cost, rows))

    def harm_storage(self, stage: str, what: str, harm: Callable[[], None], mend: Callable[[], None]) -> None:
        """Lets the storage refuse for some time while a trial trains, and waits for its next checkpoint."""
        self._wait(lambda: self._checkpoint(stage), f"a checkpoint of {stage}")
        rows = self._rows()
        harm()
        harmed_at, before = time.time(), self._checkpoint(stage)
        assert before is not None, f"{stage} ended before its storage was harmed"
        time.sleep(REFUSED_SECONDS)
        kept = self._checkpoint(stage)
        assert kept == before, f"the storage took a checkpoint while it refused: {before}, then {kept}"
        mend()
        after = self._next_checkpoint(stage, harmed_at + REFUSED_SECONDS)
        # Where it had waited for the storage, its steps would have been few.
        rate = (after.steps - before.steps) / (after.seconds - before.seconds)
        assert rate > _GOING_ON * before.steps / before.seconds, f"{stage} waited: {before}, then {after}"
        cost = Harm(what=what, stage=stage, again_seconds=0.0, redone_seconds=0.0, redone="0 steps")
        self._harms.append((cost, rows))

    def finish(self) -> list[Harm]:
        """Waits for the end, and returns what was done, with the rows that it cost."""
        self.run.end()
        is_finished = self.run.returncode == 0
        rows, cells = trials(self.storage), evaluations(self.storage)
        is_finished &= rows["state"].tolist() == ["completed"] * self._num_trials and len(cells) >= CELLS
        num_doubled = int(rows["number"].duplicated().sum()) + int(cells["id"].duplicated().sum())
        num_doubled += max(0, len(cells) - CELLS)
        present = self._rows()
        for harm, before in self._harms:
            harm.num_rows = len(before)
            harm.num_lost = sum(present.get(path) != data for path, data in before.items())
            harm.num_doubled = num_doubled
            harm.is_finished = is_finished
        output = f"{self.run.stdout}\n{self.run.stderr}\n{self.run.log()}"
        assert is_finished, output
        assert "Traceback" not in self.run.stdout + self.run.stderr, output
        return [harm for harm, _ in self._harms]

    def clear(self) -> None:
        """Kills what is left of the command."""
        if hasattr(self, "run"):
            self.run.clear()

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        self.run.wait_for(condition, what)

    def _next_checkpoint(self, stage: str, not_before: float) -> Checkpoint:
        """Waits for a checkpoint that was written after a time of the clock."""
        found: list[Checkpoint] = []

        def look() -> bool:
            checkpoint = self._checkpoint(stage)
            if checkpoint is not None and checkpoint.written_at > not_before:
                found.append(checkpoint)
            return bool(found)

        self._wait(look, f"the next checkpoint of {stage}")
        return found[0]

    def _checkpoint(self, stage: str) -> Checkpoint | None:
        """Returns a stage's checkpoint; there is one of each at a time."""
        # Looked at before the file, which is gone before the next trial begins.
        trials_begun = re.findall(r"Trial (\d+) began", self.run.log())
        for path in self.storage.glob("studies/*/checkpoints/[!.]*"):
            try:
                with path.open("rb") as file:
                    written_at, data = os.fstat(file.fileno()).st_mtime, file.read()
            except FileNotFoundError:  # its stage ended
                continue
            tensors, meta = loads(data, path.name)
            if any(name.startswith(("network.", "snapshots.")) for name in tensors):
                of = "teacher"
            else:
                of = f"trial {trials_begun[-1]}" if trials_begun else "prior"
            if of == stage:
                steps, seconds = int(meta["stage"]["steps"]), float(meta["seconds"])
                return Checkpoint(steps=steps, seconds=seconds, written_at=written_at)
        return None

    def _rows(self, kind: str = "*") -> dict[Path, bytes]:
        """Returns the files of rows: whoever wrote one was told that it is there."""
        return {
            path: path.read_bytes()
            for path in self.storage.glob(f"{kind}/**/*.parquet")
            if path.relative_to(self.storage).parts[0] in ("trials", "evaluations") and not path.name.startswith(".")
        }
