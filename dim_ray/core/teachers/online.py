"""The pool whose teachers are trained while the generator is, as in the method's reference implementation.

    pool = OnlinePool(config, ("convnet3", "resnet10"), dataset, steps_per_epoch=703, rank=0)
    [drawn] = pool.draw(step, 1, rng)

Every epoch of the distillation begins with a fresh network of a random architecture. Before every step of the generator
it is trained on some batches of real images. Matched, it is in eval mode, like stored teachers, so that an image's
logits don't depend on the images beside it; unless `pool.online_mode` is train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dim_ray.config import PoolConfig
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.networks.ensemble import stack
from dim_ray.core.teachers.pool import DrawnTeacher, TeacherPool
from dim_ray.core.teachers.teacher import make_optimizer, train_step
from dim_ray.core.training.checkpoint import optimizer_tensors, restore_optimizer, with_prefix, without_prefix
from dim_ray.core.training.random import derive_seed, stream

__all__ = ["OnlinePool"]


class OnlinePool(TeacherPool):
    """A TeacherPool of the worker `rank`, which holds as many networks as a step draws and trains each of them.

    Their architectures are drawn uniformly. `steps_per_epoch` is of the distillation.
    """

    weight = 1.0

    def __init__(
        self, config: PoolConfig, architectures: Sequence[str], dataset: Dataset, *, steps_per_epoch: int, rank: int
    ) -> None:
        self._config = config
        self._architectures = architectures
        self._dataset = dataset
        self._steps_per_epoch = steps_per_epoch
        self._rank = rank
        self._teachers: list[_OnlineTeacher] = []
        self._saved: Mapping[str, Tensor] = {}
        self._epoch: int | None = None
        self._next_step = 0

    def draw(self, step: int, count: int, rng: torch.Generator) -> Sequence[DrawnTeacher]:
        """Train this epoch's networks further and return them; `rng` is not used."""
        epoch, index = divmod(step, self._steps_per_epoch)
        if epoch != self._epoch:
            self._begin(epoch, count)
        self._next_step = step + 1
        for teacher in self._teachers:
            teacher.train(index * self._config.online_steps)
        return [teacher.drawn() for teacher in self._teachers]

    def state(self) -> Mapping[str, Tensor]:
        if self._next_step % self._steps_per_epoch == 0:  # the next epoch has new networks
            return {}
        return {
            name: tensor
            for number, teacher in enumerate(self._teachers)
            for name, tensor in with_prefix(str(number), teacher.state()).items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors until the next draw says which networks they belong to."""
        self._saved, self._epoch = tensors, None

    def _begin(self, epoch: int, count: int) -> None:
        seeds = [derive_seed(self._config.seed, "online", self._rank, epoch, number) for number in range(count)]
        self._teachers = [_OnlineTeacher(self._config, self._architectures, self._dataset, seed) for seed in seeds]
        if self._saved:
            for number, teacher in enumerate(self._teachers):
                teacher.load_state(without_prefix(str(number), self._saved))
        self._saved, self._epoch = {}, epoch


class _OnlineTeacher:
    """One network in training, for one epoch of the distillation."""

    def __init__(self, config: PoolConfig, architectures: Sequence[str], dataset: Dataset, seed: int) -> None:
        self._config = config
        self._dataset = dataset
        self._seed = seed
        self._device = dataset.device
        number = int(torch.randint(len(architectures), (), generator=stream(seed, "architecture")))
        self._network = build_network(architectures[number], dataset, stream(seed, "weights", device=self._device))
        self._members = stack([self._network])
        self._members.set_mode(training=False)
        self._optimizer = make_optimizer(config, self._members.parameters)
        self._pass: tuple[int, Tensor] | None = None

    def train(self, done: int) -> None:
        """Take the steps that precede one of the generator's; `done` were taken before."""
        self._members.set_mode(training=True)
        for number in range(done, done + self._config.online_steps):
            rng = stream(self._seed, "augment", step=number, device=self._device)
            train_step(self._config, self._members, self._optimizer, self._dataset, self._batch(number), [rng])
        self._members.set_mode(training=self._config.online_mode == "train")

    def drawn(self) -> DrawnTeacher:
        return DrawnTeacher(network=self._network, tensors=self._members.state())

    def state(self) -> dict[str, Tensor]:
        return {
            **with_prefix("network", self._members.state()),
            **with_prefix("optimizer", optimizer_tensors(self._optimizer)),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._members.load_state(without_prefix("network", tensors))
        restore_optimizer(self._optimizer, without_prefix("optimizer", tensors))

    def _batch(self, number: int) -> Tensor:
        """Return the indices (B,) of a step's images; every pass or generator step has its own order."""
        num_images, batch_size = len(self._dataset.train), self._config.batch_size
        steps_per_pass = num_images // batch_size
        which, index = divmod(number, steps_per_pass)
        if self._config.online_order == "reshuffled":
            turn, done = divmod(number, self._config.online_steps)
            which, index = divmod(done, steps_per_pass)
            which += turn * math.ceil(self._config.online_steps / steps_per_pass)
        if self._pass is None or self._pass[0] != which:
            rng = stream(self._seed, "order", step=which, device=self._device)
            self._pass = which, torch.randperm(num_images, generator=rng, device=self._device)
        return self._pass[1][index * batch_size :][:batch_size]
