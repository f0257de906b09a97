"""A small study that is harmed while it runs, and what the harm cost: what its checkpoints and rows say."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dim_ray.core.checkpoint import loads
from dim_ray.errors import ArtifactError
from tests.faults.cluster import RayCluster
from tests.tuning.runs import Run, evaluations, trials

CHECKPOINT_SECONDS = 3.0
CELLS = 3
"""Evaluations of a study."""
FLAGS: Mapping[str, str] = {
    "--pool.epochs": "150",
    "--prior.epochs": "40",
    "--matching.epochs": "45",
    "--study.grace_epochs": "45",  # no trial is stopped
    "--study.pool_sizes": "1",
    "--study.selection_images_per_class": "1",
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
_INTERVAL_PART = 0.7  # of an interval has passed since a checkpoint when the harm is done


@dataclass(kw_only=True)
class Harm:
    """What was done to a study, and what it cost."""

    what: str
    stage: str
    again_seconds: float
    """From the harm until a process trained again."""
    redone_seconds: float
    """Of training that was done twice."""
    redone: str
    """The same in steps of all steps, or in students."""
    by_command: bool = False
    """Whether the command had to be given again."""
    notes: list[str] = field(default_factory=list)
    num_lost: int = -1
    """Rows that were there before, and weren't at the end, or not the same."""
    num_doubled: int = -1
    is_finished: bool = False


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file with a stage's state."""

    name: str
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
        self.run = Run(self.storage, self._flags, address=cluster.address)

    def wait_for_stage(self, stage: str) -> None:
        """Waits until a stage trains."""
        self._wait(lambda: self._is_in(stage, None), f"the {stage}")

    def harm_training(
        self, stage: str, what: str, harm: Callable[[], None], *, by_command: bool = False, trial: int | None = None
    ) -> None:
        """Harms a stage that trains, in between two checkpoints, and waits until it trains again.

        Args:
            stage: prior, teacher or trial.
            what: Is done.
            harm: Does it, and whatever a person does to get the study going again.
            by_command: Whether that is the same command.
            trial: Its number, where it is one.
        """
        self._wait(lambda: self._is_in(stage, trial) and self._checkpoint(), f"a checkpoint of the {stage}")
        time.sleep(_INTERVAL_PART * CHECKPOINT_SECONDS)
        rows = self._rows()
        harmed_at = time.time()
        harm()
        before = self._checkpoint(until=harmed_at + _SLACK_SECONDS)
        assert before is not None, f"the {stage} ended before it was harmed"

        def resumed() -> Checkpoint | None:
            found = self._checkpoint(before.name)
            return found if found is not None and found.written_at > harmed_at + _SLACK_SECONDS else None

        self._wait(resumed, f"the next checkpoint of the {stage}")
        after = resumed()
        assert after is not None
        # A process that began anew would have counted its own time alone.
        own_seconds = after.seconds - before.seconds
        assert own_seconds >= CHECKPOINT_SECONDS - 0.01, f"the {stage} began anew: {before}, then {after}"
        assert after.steps > before.steps, (before, after)
        redone_seconds = max(0.0, harmed_at - before.written_at)
        assert redone_seconds <= CHECKPOINT_SECONDS + _SLACK_SECONDS, (before, harmed_at)
        steps = round(redone_seconds * before.steps / before.seconds)
        self._note(
            Harm(
                what=what,
                stage=stage,
                again_seconds=after.written_at - own_seconds - harmed_at,
                redone_seconds=redone_seconds,
                redone=f"{steps} steps",
                by_command=by_command,
            ),
            rows,
        )

    def harm_evaluation(self, what: str, harm: Callable[[], None]) -> None:
        """Harms the training of the second student, and waits for its row."""
        self._wait(lambda: len(self._rows("evaluations")) >= 1, "an evaluation's row")
        time.sleep(1.0)
        rows = self._rows()
        began_at = max(path.stat().st_mtime for path in rows if "evaluations" in path.parts)
        harmed_at = time.time()
        harm()
        time.sleep(0.2)
        known = set(self._rows("evaluations"))

        def begun() -> list[float]:
            new = {path: data for path, data in self._rows("evaluations").items() if path not in known}
            return [
                path.stat().st_mtime - pd.read_parquet(io.BytesIO(data))["wall_seconds"].sum()
                for path, data in new.items()
            ]

        self._wait(begun, "the next evaluation's row")
        self._note(
            Harm(
                what=what,
                stage="evaluation",
                again_seconds=min(begun()) - harmed_at,
                redone_seconds=harmed_at - began_at,
                redone="1 student",
            ),
            rows,
        )

    def harm_storage(self, what: str, harm: Callable[[], None], mend: Callable[[], None], seconds: float) -> None:
        """Lets the storage refuse for some time while a trial trains, which goes on without its checkpoints."""
        self._wait(lambda: self._is_in("trial", None) and self._checkpoint(), "a checkpoint of the trial")
        rows = self._rows()
        harm()
        before = self._checkpoint()
        assert before is not None
        time.sleep(seconds)
        mend()
        mended_at = time.time()

        def resumed() -> object:
            found = self._checkpoint(before.name)
            return found is None or found.written_at > mended_at

        self._wait(resumed, "the next checkpoint of the trial, or its end")
        self._note(
            Harm(what=what, stage="trial", again_seconds=0.0, redone_seconds=0.0, redone="0 steps"), rows
        )

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

    def _note(self, harm: Harm, rows: dict[Path, bytes]) -> None:
        self._harms.append((harm, rows))

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        self.run.wait_for(condition, what)

    def _is_in(self, stage: str, trial: int | None) -> bool:
        has = {kind: any(self.storage.glob(f"{kind}/*/card.json")) for kind in ("priors", "teachers")}
        if stage == "prior":
            return not has["priors"]
        if stage == "teacher":
            return not has["teachers"] and has["priors"]
        return f"Trial {trial or 0} began" in self.run.log()

    def _checkpoint(self, name: str | None = None, until: float | None = None) -> Checkpoint | None:
        """Returns the latest checkpoint: there is one at a time."""
        found = [
            path
            for path in self.storage.glob("studies/*/checkpoints/*.safetensors")
            if not path.name.startswith(".") and name in (None, path.name)
        ]
        for path in found:
            try:
                with path.open("rb") as file:
                    written_at, data = path.stat().st_mtime, file.read()
                _, meta = loads(data, path.name)
            except (FileNotFoundError, ArtifactError):
                continue
            if until is None or written_at <= until:
                steps = int(meta["stage"]["steps"])
                return Checkpoint(name=path.name, steps=steps, seconds=float(meta["seconds"]), written_at=written_at)
        return None

    def _rows(self, kind: str = "*") -> dict[Path, bytes]:
        """Returns the files of rows: whoever wrote one was told that it is there."""
        return {
            path: path.read_bytes()
            for path in self.storage.glob(f"{kind}/**/*.parquet")
            if path.relative_to(self.storage).parts[0] in ("trials", "evaluations") and not path.name.startswith(".")
        }
