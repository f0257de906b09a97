"""The loop that every training stage shares: batches in a seeded order, checkpoints by time, reports by epoch.

A stage gives a function of (step, indices); the loop decides which images a step sees, when state is saved, and
when training is given up because it left the finite numbers.

    run_epochs(stage="prior", epochs=150, num_images=len(dataset.train), step=step, capture=pair.state, ...)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dim_ray.core.training.ports import Checkpointer, Collective, Reporter, State
from dim_ray.core.training.random import stream
from dim_ray.errors import DivergedError, StorageError

__all__ = ["Losses", "run_epochs"]

Losses = Mapping[str, Tensor]
"""Detached scalars on the device, by name."""


def run_epochs(
    *,
    stage: str,
    epochs: int,
    num_images: int,
    batch_size: int,
    seeds: Sequence[int],
    device: torch.device,
    step: Callable[[int, Tensor], Losses],
    capture: Callable[[], Mapping[str, Tensor]],
    restore: Callable[[Mapping[str, Tensor]], None],
    after_epoch: Callable[[int], Mapping[str, float]],
    reporter: Reporter,
    checkpointer: Checkpointer,
    collective: Collective,
    is_shared: Callable[[], bool] = lambda: True,
    check: Callable[[], tuple[Mapping[str, float], str]] = lambda: ({}, ""),
    patience: int = 1,
) -> None:
    """Runs the steps of a stage that a checkpoint does not hold yet.

    Every epoch is one permutation of the images, cut into full batches; worker r takes its slice of each batch, so
    the global batches do not depend on the number of workers. The state is saved when the checkpointer says it's
    due, and never when a loss or a weight is not finite, or while `check` complains. Training that diverged leaves the
    state of the last epoch that was good.

    A resumed run has the same weights, bit for bit. With several workers, the state of worker 0 stands for all of them.

    Args:
        stage: Name of the stage: part of its random streams.
        epochs: Passes over the images.
        num_images: Images in the training split.
        batch_size: Images of a step, over all workers together.
        seeds: Of the order of the images: one, or one for each of S networks that are trained together.
        device: Where the indices are made.
        step: Trains on step number and (batch_size / num_workers,) int64 indices of images, for several seeds (S, ...).
        capture: Returns everything that has to be saved.
        restore: Takes back what `capture` returned.
        after_epoch: Takes the number of epochs done and returns measurements for the report. On resume it is called
            again for the epoch that the checkpoint ends with, if it ends with one.
        reporter: Is told epochs done, their total, and measurements, once an epoch.
        checkpointer: Keeps the state.
        collective: The workers.
        is_shared: Whether all workers have the same state just now, behind a step; at the end of an epoch they have.
        check: Returns measurements for the report, and what is wrong at the end of an epoch: nothing where it's empty.
        patience: Epochs in a row after which a complaint of `check` ends the stage.

    Raises:
        DivergedError: A loss or a weight was not finite, or `check` complained for too long.
        StorageError: Some workers found a saved state and others didn't.
    """
    steps_per_epoch = num_images // batch_size
    saved = checkpointer.load()
    # Also a barrier: no worker goes on, ends and clears the state while another has yet to read it.
    if collective.any(saved is None) and collective.any(saved is not None):
        raise StorageError(
            f"some workers found a checkpoint of {stage} and others didn't; all of them have to see the same storage. "
            "Use a folder that every node shares, or an s3:// or gs:// URI."
        )
    done = 0
    if saved is not None:
        restore(saved.tensors)
        done = int(saved.meta["steps"])
        if done and done % steps_per_epoch == 0:
            epoch = done // steps_per_epoch
            reporter.report(epoch, epochs, after_epoch(epoch))
    good, complaints = _GoodState(checkpointer, done), 0
    share = batch_size // collective.num_workers
    first = share * collective.rank
    for epoch in range(done // steps_per_epoch, epochs):
        order = _shuffled(num_images, seeds, stage, epoch, device)
        losses: dict[str, Tensor] = {}
        for index in range(done % steps_per_epoch, steps_per_epoch):
            offset = index * batch_size + first
            losses = dict(step(done, order[..., offset : offset + share]))
            done += 1
            is_due = index + 1 < steps_per_epoch and not complaints and checkpointer.due()
            if is_due and (collective.num_workers == 1 or is_shared()):
                state = State(tensors=capture(), meta={"steps": done})
                if not _non_finite(losses, state.tensors):
                    good.replace(state, save=True)
        state = State(tensors=capture(), meta={"steps": done})
        health: Mapping[str, float] = {}
        complaint = _non_finite(losses, state.tensors)
        is_over = collective.any(bool(complaint))
        if not is_over:
            health, complaint = check()
            complaints = complaints + 1 if collective.any(bool(complaint)) else 0
            is_over = complaints >= patience
        if is_over:
            raise DivergedError(
                f"{stage} diverged by step {done} of {epochs * steps_per_epoch}: {complaint or 'on another worker'}. "
                f"{good.keep()}Lower the learning rate or the loss weights."
            )
        if not complaints:
            good.replace(state, save=checkpointer.due())
        reporter.report(epoch + 1, epochs, {**_values(losses), **health, **after_epoch(epoch + 1)})


class _GoodState:
    """The last state that was good: saved, or in memory until training diverges."""

    def __init__(self, checkpointer: Checkpointer, steps: int) -> None:
        self._checkpointer = checkpointer
        self._steps = steps
        self._unsaved: State | None = None

    def replace(self, state: State, *, save: bool) -> None:
        """Takes another; what isn't saved is copied, because training goes on to change its tensors."""
        self._steps = state.meta["steps"]
        if save:
            self._checkpointer.save(state)
        copied = {} if save else {name: tensor.clone() for name, tensor in state.tensors.items()}
        self._unsaved = None if save else State(tensors=copied, meta=state.meta)

    def keep(self) -> str:
        """Saves it, and returns a sentence about it; nothing where there was none."""
        if self._unsaved is not None:
            self._checkpointer.save(self._unsaved)
        return f"The last good state, of step {self._steps}, is kept. " if self._steps else ""


def _shuffled(num_images: int, seeds: Sequence[int], stage: str, epoch: int, device: torch.device) -> Tensor:
    """Returns an epoch's order of the images, (N,) for one seed, otherwise (S, N)."""
    rngs = [stream(seed, stage, "order", step=epoch, device=device) for seed in seeds]
    orders = [torch.randperm(num_images, generator=rng, device=device) for rng in rngs]
    return orders[0] if len(orders) == 1 else torch.stack(orders)


def _values(losses: Losses) -> dict[str, float]:
    return {name: float(loss) for name, loss in losses.items()}


def _non_finite(losses: Losses, tensors: Mapping[str, Tensor]) -> str:
    """Returns what is not finite, or nothing."""
    # The losses were measured before the step's update, so the weights have to be looked at, too.
    values = _values(losses)
    if all(map(math.isfinite, values.values())) and all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        return ""
    return ", ".join(f"{name} {value:g}" for name, value in values.items()) + ", or weights that are not finite numbers"
