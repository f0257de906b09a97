"""Stage 2: distillation. The generator continues from its prior and learns to look real to the teacher pool.

To the generator's adversarial loss it adds a distance d between real images x and images generated for their labels, as
seen by a teacher f that is drawn from the pool (DiM, arXiv 2303.04707: d is that of paired logits, and its code has
s w_match = 0.01):

    w_adv L_G + s w_match mean d(f, A(x), A(G(z, y)))

The kinds of d differ in size by orders of magnitude. So s is measured once, at the start: with it, a w_match of 1 gives
a gradient of the generator's weights that is as large as that of L_G.

A is differentiable siamese augmentation, with the same parameters for both halves. The mean is over the teachers that a
step draws, each with an augmentation of its own. The kinds of d are in `dim_ray.core.generator.distances`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dim_ray.config import HealthConfig, MatchingConfig, PriorConfig
from dim_ray.core.data.augment import Augmentation, draw_augmentation
from dim_ray.core.data.dataset import Dataset, signed
from dim_ray.core.generator.adversarial import discriminator_steps, generator_loss, generator_step, in_turn
from dim_ray.core.generator.distances import DISTANCES, ImagePairs
from dim_ray.core.generator.health import HealthCheck
from dim_ray.core.generator.pair import Pair
from dim_ray.core.networks.batch_norm import share_batch_norm
from dim_ray.core.teachers.pool import DrawnTeacher, TeacherPool
from dim_ray.core.training.checkpoint import with_prefix, without_prefix
from dim_ray.core.training.loop import Losses, Stage
from dim_ray.core.training.ports import Collective
from dim_ray.core.training.random import stream
from dim_ray.errors import ConfigError

__all__ = ["Distillation", "matching_loss"]

_POOL_STATE, _SCALE_STATE = "pool", "matching_scale"
_SCALE_BATCHES = 8  # whose gradients s compares


class Distillation(Stage):
    """Stage 2, which trains the prior `pair` in place.

    `pool` has this worker's teachers; it's None where nothing is matched, or its shard is empty. `dataset` has the
    teachers' normalisation. `measure` measures the generator, and takes the number of epochs done.
    """

    name = "matching"

    def __init__(
        self,
        pair: Pair,
        pool: TeacherPool | None,
        config: MatchingConfig,
        prior_config: PriorConfig,
        dataset: Dataset,
        *,
        health: HealthConfig,
        collective: Collective,
        measure: Callable[[int], Mapping[str, float]],
    ) -> None:
        self.epochs, self.batch_size, self.seeds = config.epochs, config.batch_size, [config.seed]
        self.patience = health.patience
        self._pair = pair
        self._pool = pool
        self._config = config
        self._prior_config = prior_config
        self._dataset = dataset
        self._collective = collective
        self._measure = measure
        self._check = HealthCheck(health, prior_config, dataset)
        self._is_relative = config.kind != "none" and config.weight > 0 and config.weight_unit == "relative"
        self._scale: Tensor | None = None
        share_batch_norm(pair.generator, collective)

    @property
    def scale(self) -> float | None:
        """s, once it is measured; None where it isn't needed."""
        return None if self._scale is None else float(self._scale)

    def step(self, number: int, indices: Tensor) -> Losses:
        """Take the discriminator's steps down L_D, and one of the generator down w_adv L_G + s w_match mean d."""
        pair, config, prior_config = self._pair, self._config, self._prior_config
        pair.generator.train()  # `measure` leaves it in eval mode
        if self._is_relative and self._scale is None:
            self._scale = self._measure_scale(len(indices))
        rng = stream(config.seed, "matching", self._collective.rank, step=number, device=indices.device)
        images, labels = self._dataset.train.images[indices], self._dataset.train.labels[indices]

        def judge() -> Tensor:
            return discriminator_steps(pair, prior_config, signed(images), labels, rng, self._collective, step=number)

        def generate() -> Losses:
            adversarial, fake = generator_loss(pair, prior_config, labels, rng, (signed(images), labels))
            loss = config.adversarial_weight * adversarial
            losses = {"generator_loss": adversarial.detach()}
            if self._pool is not None:
                drawn = self._draw(self._pool, number)
                distance = matching_loss(drawn, config, self._dataset, images, fake, labels)
                scale = 1.0 if self._scale is None else self._scale
                loss = loss + config.weight * scale * self._pool.weight * distance
                losses["matching_loss"] = distance.detach()
            generator_step(pair, loss, self._collective)
            return losses

        return in_turn(prior_config, judge, generate)

    def state(self) -> Mapping[str, Tensor]:
        pool = {} if self._pool is None else self._pool.state()
        scale = {} if self._scale is None else {_SCALE_STATE: self._scale}
        return {**self._pair.state(), **with_prefix(_POOL_STATE, pool), **scale}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self._pair.load_state(tensors)
        if self._is_relative:
            self._scale = tensors[_SCALE_STATE].to(self._dataset.device)
        if self._pool is not None:
            self._pool.load_state(without_prefix(_POOL_STATE, tensors))

    def is_shared(self) -> bool:
        return self._pool is None or not self._pool.state()

    def check(self) -> tuple[Mapping[str, float], str]:
        return self._check(self._pair)

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        return self._measure(epoch)

    def _measure_scale(self, batch: int) -> Tensor:
        """Return s, a scalar that is the same on all workers, and leave networks and pool as they are.

        It is the ratio of the mean sizes of both gradients, over a few batches of a stream of their own. Online
        teachers are trained along, as in the first steps.
        """
        pair, config, train = self._pair, self._config, self._dataset.train
        kept = {name: tensor.clone() for name, tensor in pair.weights().items()}
        parameters = list(pair.generator.parameters())
        sizes = torch.zeros(2, device=train.images.device)
        for number in range(_SCALE_BATCHES):
            rng = stream(config.seed, "scale", self._collective.rank, step=number, device=sizes.device)
            indices = torch.randint(len(train), (batch,), generator=rng, device=sizes.device)
            images, labels = train.images[indices], train.labels[indices]
            adversarial, fake = generator_loss(pair, self._prior_config, labels, rng, (signed(images), labels))
            matched = fake.sum() * 0  # a worker without teachers takes part: workers share their batch norms
            if self._pool is not None:
                drawn = self._draw(self._pool, number)
                matched = self._pool.weight * matching_loss(drawn, config, self._dataset, images, fake, labels)
            for place, loss in enumerate((adversarial, matched)):
                gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
                sizes[place] += torch.linalg.vector_norm(torch.stack([g.float().norm() for g in gradients]))
        pair.load_weights(kept)
        if self._pool is not None:
            self._pool.load_state({})
        adversarial, matched = torch.stack(self._collective.gather(sizes)).sum(dim=0)
        if not bool(adversarial > 0) or not bool(matched > 0):
            raise ConfigError(
                f"matching.kind {config.kind!r} can't be weighed against the adversarial loss at the start of stage 2: "
                f"their gradients have the sizes {float(matched):g} and {float(adversarial):g}. Set "
                "--matching.weight_unit absolute, or choose another matching.kind."
            )
        scale: Tensor = adversarial / matched
        return scale

    def _draw(self, pool: TeacherPool, number: int) -> list[tuple[DrawnTeacher, Augmentation]]:
        """Return the teachers f of a step, each with its A, and let the pool prepare those of the next step."""
        augmentations, rng = self._draw_augmentations(number)
        teachers = pool.draw(number, len(augmentations), rng)
        pool.prefetch(len(augmentations), lambda: self._draw_augmentations(number + 1)[1])
        precision = self._config.precision
        return [(replace(f, precision=precision), a) for f, a in zip(teachers, augmentations, strict=True)]

    def _draw_augmentations(self, number: int) -> tuple[list[Augmentation], torch.Generator]:
        """Return the augmentations of a step, and the stream on the host of which its teachers are drawn next."""
        config, device = self._config, self._dataset.device
        rng = stream(config.seed, "pool", self._collective.rank, step=number)
        # Augmentations are drawn on the images' device, so that none waits for a copy; a CPU draws all from one stream.
        own = rng
        if device.type != "cpu":
            own = stream(config.seed, "pool", self._collective.rank, step=number, device=device)
        augmentations = [draw_augmentation(config.augmentation, own) for _ in range(config.teachers_per_step)]
        return augmentations, rng


def matching_loss(
    drawn: Sequence[tuple[DrawnTeacher, Augmentation]],
    config: MatchingConfig,
    dataset: Dataset,
    images: Tensor,
    fake: Tensor,
    labels: Tensor,
) -> Tensor:
    """Return the mean of d(f, A(x), A(G(z, y))) over the drawn teachers f, each with its augmentation A.

    `images` are x, (B, C, H, W) uint8, and `fake` G(z, y), (B, C, H, W) in [-1, 1]; the gradient flows through these.
    """
    d = DISTANCES[config.kind]
    real, generated = dataset.normalisation.from_bytes(images), dataset.normalisation.from_signed(fake)
    distances = []
    for teacher, augment in drawn:
        pairs = ImagePairs(
            real=augment(real), generated=augment(generated), labels=labels, num_classes=dataset.num_classes
        )
        distances.append(d(teacher, pairs, config))
    return torch.stack(distances).mean()
