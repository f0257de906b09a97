"""The loop that every stage shares: batches in a seeded order, checkpoints by time, reports by epoch and by time.

    stage = AdversarialTraining(pair, config, dataset, health, ports.collective)
    run_epochs(stage, dataset.train, ports)

A stage says what happens in a step. The loop decides which images a step sees, when the state is saved, and when
training has diverged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dim_ray.core.data.splits import Split
from dim_ray.core.training.ports import Checkpointer, Pace, Ports, State
from dim_ray.core.training.random import stream
from dim_ray.errors import DivergedError, StorageError

__all__ = ["Losses", "Stage", "run_epochs"]

Losses = Mapping[str, Tensor]
"""Detached scalars on the device, by name."""


class Stage(Protocol):
    """Training of one kind of network, step by step."""

    name: str
    """Used in messages and as part of the random streams."""
    epochs: int
    batch_size: int
    """Images per step, over all workers together."""
    seeds: Sequence[int]
    """Seeds of the order of the images: one, or one for each of S networks that are trained together."""
    patience: int = 1
    """Epochs in a row with a complaint of `check` that end the stage."""

    def step(self, number: int, indices: Tensor) -> Losses:
        """Train on step `number`.

        Args:
            number: Step, counted from 0 over all epochs.
            indices: This worker's images, int64 (batch_size / num_workers,); with S > 1 seeds (S, ...).
        """

    def state(self) -> Mapping[str, Tensor]:
        """Return everything that has to be saved."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""

    def is_shared(self) -> bool:
        """Return whether all workers have the same state after this step; after an epoch's last step they must."""
        return True

    def check(self) -> tuple[Mapping[str, float], str]:
        """Return measurements at the end of an epoch, and what is wrong: an empty string where nothing is."""
        return {}, ""

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        """Return measurements after `epoch` epochs; called again by a run that resumes from there."""
        return {}


def run_epochs(stage: Stage, split: Split, ports: Ports) -> None:
    """Run the steps of a stage that its checkpoint doesn't hold yet.

    An epoch is one permutation of the images, cut into full batches. Worker r takes its slice of each batch, so the
    global batches don't depend on the number of workers.

    The state is saved when the checkpointer says so, but never with a loss or weight that is not finite, or while
    `stage.check` complains. Training that diverges leaves the last good state. On a CPU, and on a GPU with
    `study.deterministic`, a resumed run has the same weights, bit for bit. With several workers, the state of worker 0
    stands for all of them.

    Raises:
        DivergedError: A loss or weight was not finite, or `stage.check` complained for `stage.patience` epochs.
        StorageError: The workers didn't find the same saved state.
    """
    reporter, checkpointer, collective = ports.reporter, ports.checkpointer, ports.collective
    steps_per_epoch = len(split) // stage.batch_size
    done = _resume(stage, ports, split.images.device)
    if done and done % steps_per_epoch == 0:
        epoch = done // steps_per_epoch
        reporter.report(epoch, stage.epochs, stage.after_epoch(epoch))
    good, complaints, pace = _GoodState(checkpointer, done), 0, Pace()
    share = stage.batch_size // collective.num_workers
    for epoch in range(done // steps_per_epoch, stage.epochs):
        order = _shuffled(stage, len(split), epoch, split.images.device)
        losses: Losses = {}
        for index in range(done % steps_per_epoch, steps_per_epoch):
            first = index * stage.batch_size + collective.rank * share
            losses = stage.step(done, order[..., first : first + share])
            done += 1
            if pace.is_due():  # on a GPU, these are the steps that it was given
                reporter.advance(done / steps_per_epoch, stage.epochs)
            is_due = index + 1 < steps_per_epoch and not complaints and checkpointer.due()
            if is_due and (collective.num_workers == 1 or stage.is_shared()):
                state = State(tensors=stage.state(), meta={"steps": done})
                if not _non_finite(losses, state.tensors):
                    good.replace(state, save=True)
        state = State(tensors=stage.state(), meta={"steps": done})
        health: Mapping[str, float] = {}
        complaint = _non_finite(losses, state.tensors)
        is_over = collective.any(bool(complaint))
        if not is_over:
            health, complaint = stage.check()
            complaints = complaints + 1 if collective.any(bool(complaint)) else 0
            is_over = complaints >= stage.patience
        if is_over:
            raise DivergedError(
                f"{stage.name} diverged by step {done} of {stage.epochs * steps_per_epoch}: "
                f"{complaint or 'on another worker'}. {good.keep()}Lower the learning rate or the loss weights."
            )
        if not complaints:
            good.replace(state, save=checkpointer.due())
        reporter.report(epoch + 1, stage.epochs, {**_values(losses), **health, **stage.after_epoch(epoch + 1)})


class _GoodState:
    """The last good state: saved, or in memory until training diverges."""

    def __init__(self, checkpointer: Checkpointer, steps: int) -> None:
        self._checkpointer = checkpointer
        self._steps = steps
        self._unsaved: State | None = None

    def replace(self, state: State, *, save: bool) -> None:
        self._steps = state.meta["steps"]
        if save:
            self._checkpointer.save(state)
            self._unsaved = None
        else:  # a copy, because training changes the tensors
            copied = {name: tensor.clone() for name, tensor in state.tensors.items()}
            self._unsaved = State(tensors=copied, meta=state.meta)

    def keep(self) -> str:
        """Save it if need be, and return a sentence about it for the error message."""
        if self._unsaved is not None:
            self._checkpointer.save(self._unsaved)
        return f"The last good state, of step {self._steps}, is kept. " if self._steps else ""


def _resume(stage: Stage, ports: Ports, device: torch.device) -> int:
    """Restore the saved state where there is one, and return the steps that it has done."""
    saved = ports.checkpointer.load()
    # Also a barrier: no worker may finish and clear the state before another has read it.
    if ports.collective.any(saved is None) and ports.collective.any(saved is not None):
        raise StorageError(
            f"some workers found a checkpoint of {stage.name} and others didn't; all of them have to see the same "
            "storage. Use a folder that every node shares, or an s3:// or gs:// URI. If another command builds the "
            "same at the moment, run this one again."
        )
    if saved is None:
        return 0
    steps = torch.tensor(int(saved.meta["steps"]), device=device)
    if any(int(other) != int(steps) for other in ports.collective.gather(steps)):
        raise StorageError(
            f"workers found different checkpoints of {stage.name}: another command builds the same. Run this one again."
        )
    stage.load_state(saved.tensors)
    return int(saved.meta["steps"])


def _shuffled(stage: Stage, num_images: int, epoch: int, device: torch.device) -> Tensor:
    """Return an epoch's order of the images: (N,) for one seed, (S, N) for several."""
    rngs = [stream(seed, stage.name, "order", step=epoch, device=device) for seed in stage.seeds]
    orders = [torch.randperm(num_images, generator=rng, device=device) for rng in rngs]
    return orders[0] if len(orders) == 1 else torch.stack(orders)


def _values(losses: Losses) -> dict[str, float]:
    return {name: float(loss) for name, loss in losses.items()}


def _non_finite(losses: Losses, tensors: Mapping[str, Tensor]) -> str:
    """Return what is not finite; an empty string if everything is."""
    # The losses are from before the step's update, so they say nothing about the weights.
    values = _values(losses)
    if all(map(math.isfinite, values.values())) and all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        return ""
    return ", ".join(f"{name} {value:g}" for name, value in values.items()) + ", or weights that are not finite numbers"
