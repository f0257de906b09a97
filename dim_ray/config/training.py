"""The sections `pool`, `prior` and `matching`: how teachers and generators are trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from dim_ray.config.checks import (
    Precision,
    require,
    require_augmentation,
    require_batch,
    require_below_one,
    require_not_negative,
    require_positive,
    require_precision,
    require_seed,
)

__all__ = ["HealthConfig", "MatchingConfig", "MatchingKind", "PoolConfig", "PriorConfig", "SnapshotSpacing"]

PoolKind = Literal["stored", "online"]
SnapshotSpacing = Literal["logarithmic", "linear"]
MatchingKind = Literal["logits", "logit_means", "logit_moments", "features", "gradients", "none"]

_PLACE = ("size", "teachers_at_once", "device_memory_gib")  # fields of a pool that aren't its teachers'
_WASSERSTEIN_PENALTY = 10.0  # the paper's


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """The teachers that distillation matches against."""

    kind: PoolKind = "stored"
    """Where teachers are from: stored (trained once), or online (fresh every matching epoch, trained as it goes on)."""
    size: int = 8
    """Number of teachers. A pool of 8 is the first 8 teachers of a pool of 64. An online pool ignores it."""
    epochs: int = 50
    """Epochs that each stored teacher is trained on real images."""
    num_snapshots: int = 4
    """Snapshots kept of each stored teacher, from early to its last step, which alone is kept by 1."""
    snapshot_spacing: SnapshotSpacing = "logarithmic"
    """How a stored teacher's snapshots are spaced over its steps: logarithmic (most of them early) or linear."""
    online_steps: int = 16
    """Batches that an online teacher is trained on before each generator step; at 0 its weights stay random."""
    batch_size: int = 128
    """Images a step."""
    learning_rate: float = 0.01
    """Of SGD, constant."""
    momentum: float = 0.9
    """Of SGD, in [0, 1)."""
    weight_decay: float = 5e-4
    """Of SGD."""
    augmentation: str = "color_crop_cutout_flip_scale_rotate"
    """DSA operations, drawn for each real image: a_b draws one of them, a+b applies all, 'none' none."""
    precision: Precision = "auto"
    """Of the passes through the networks: float32, bfloat16 (mixed), or auto: bfloat16 where the device has it."""
    seed: int = 0
    """Seed of the pool; teacher i has a seed derived from it and i."""
    teachers_at_once: int | None = field(default=None, metadata={"place": True})
    """Most stored teachers of one architecture that are trained as one batched ensemble. Default: up to 4 where that
    is faster on the device, otherwise 1."""
    device_memory_gib: float | None = field(default=None, metadata={"place": True})
    """GiB of a worker's GPU that snapshots may take; the others wait in the host's memory, and cross over ahead of
    their step. Default: half of what is free. Without a GPU nothing crosses over."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("kind", self.kind, get_args(PoolKind)),
            ("snapshot_spacing", self.snapshot_spacing, get_args(SnapshotSpacing)),
        ):
            require(value in allowed, f"pool.{name}", value, " or ".join(allowed))
        require_positive("pool", self, "size", "epochs", "num_snapshots", "learning_rate")
        require_not_negative("pool", self, "online_steps")
        require_batch("pool", self)
        require_below_one("pool", self, "momentum")
        require_not_negative("pool", self, "weight_decay")
        require_augmentation("pool.augmentation", self.augmentation)
        require_precision("pool.precision", self.precision)
        require_seed("pool.seed", self.seed)
        if self.teachers_at_once is not None:
            require_positive("pool", self, "teachers_at_once")
        if self.device_memory_gib is not None:
            require_not_negative("pool", self, "device_memory_gib")

    def recipe(self) -> PoolConfig:
        """Returns what makes one teacher of this kind what it is: every other field has its default."""
        unused = ("online_steps",) if self.kind == "stored" else ("epochs", "num_snapshots", "snapshot_spacing")
        default = PoolConfig(kind=self.kind)
        return replace(self, **{name: getattr(default, name) for name in (*_PLACE, *unused)})


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Stage 1: adversarial training of a generator and a discriminator with a class head.

    The paper's is the Wasserstein loss with a gradient penalty. The alternative needs no second derivative: the hinge
    loss with `generator.discriminator_norm: spectral`.
    """

    epochs: int = 150
    """Epochs over the training split."""
    batch_size: int = 128
    """Real images a step, over all workers together."""
    learning_rate: float = 1e-4
    """Of Adam, for generator and discriminator."""
    beta1: float = 0.0
    """Of Adam, in [0, 1)."""
    beta2: float = 0.9
    """Of Adam, in [0, 1)."""
    loss: Literal["wasserstein", "hinge"] = "wasserstein"
    """How the discriminator's source scores are judged."""
    augmentation: str = "none"
    """DSA operations on all images that the discriminator sees, drawn for each; written as for the pool."""
    gradient_penalty_weight: float | None = None
    """Weight of the gradient penalty. Default: 10 (paper) with the Wasserstein loss, 0 with the hinge loss."""
    gradient_penalty_every: int = 1
    """Discriminator steps from one with the penalty, at this many times its weight, to the next (paper: 1)."""
    class_weight: float = 1.0
    """Weight of the class cross-entropy in both losses."""
    discriminator_steps: int = 1
    """Discriminator steps for each generator step."""
    precision: Precision = "auto"
    """Of the passes through generator and discriminator, in stage 2 as well; as for the pool."""
    seed: int = 0
    """Seed of initial weights, noise and data order."""

    def __post_init__(self) -> None:
        require_positive(
            "prior", self, "epochs", "batch_size", "learning_rate", "discriminator_steps", "gradient_penalty_every"
        )
        require(self.loss in ("wasserstein", "hinge"), "prior.loss", self.loss, "wasserstein or hinge")
        if self.gradient_penalty_weight is not None:
            require_not_negative("prior", self, "gradient_penalty_weight")
        require_not_negative("prior", self, "class_weight")
        require_below_one("prior", self, "beta1", "beta2")
        require_augmentation("prior.augmentation", self.augmentation)
        require_precision("prior.precision", self.precision)
        require_seed("prior.seed", self.seed)

    @property
    def penalty_weight(self) -> float:
        """Weight of the gradient penalty, resolved."""
        if self.gradient_penalty_weight is not None:
            return self.gradient_penalty_weight
        return _WASSERSTEIN_PENALTY if self.loss == "wasserstein" else 0.0


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """Stage 2: the prior goes on, matching what the pool sees. Other optimiser settings are stage 1's."""

    kind: MatchingKind = "logits"
    """What is matched: logits of pairs, their class means or moments, features, gradients; or none (GAN only)."""
    weight: float = 0.01
    """Weight of the matching loss."""
    temperature: float = 1.0
    """Divides logits before the softmax, in the kinds that begin with logit."""
    standardised: bool = False
    """Whether an image's logits are first brought to mean 0 and variance 1, in the same kinds."""
    unbiased: bool = False
    """Whether class means are compared without the excess that a batch's few images of a class bring, which asks of
    them to be alike; in logit_means, logit_moments and features."""
    teachers_per_step: int = 1
    """Teachers that each worker draws for a step, each with an augmentation of its own; their losses are averaged."""
    adversarial_weight: float = 1.0
    """Weight of the generator's adversarial and class losses."""
    epochs: int = 100
    """Epochs over the training split; 0 keeps the prior as it is, to measure it alone."""
    batch_size: int = 64
    """Real images a step, over all workers together."""
    learning_rate: float = 5e-6
    """Of Adam, for generator and discriminator."""
    augmentation: str = "color_crop_cutout_flip_scale_rotate"
    """DSA operations, drawn for each teacher of a step, the same for real and generated; written as for the pool."""
    precision: Precision = "auto"
    """Of the passes through the teachers, as for the pool; prior.precision is that of generator and discriminator."""
    seed: int = 0
    """Seed of noise, data order and the draws from the pool."""

    def __post_init__(self) -> None:
        kinds = get_args(MatchingKind)
        require(self.kind in kinds, "matching.kind", self.kind, " or ".join(kinds))
        require_positive("matching", self, "temperature", "teachers_per_step", "batch_size", "learning_rate")
        require_not_negative("matching", self, "epochs", "weight", "adversarial_weight")
        require(
            self.adversarial_weight > 0 or (self.weight > 0 and self.kind != "none"),
            "matching.weight and matching.adversarial_weight",
            (self.weight, self.adversarial_weight),
            "at least one above 0: with both at 0 the generator would not train",
        )
        require_augmentation("matching.augmentation", self.augmentation)
        require_precision("matching.precision", self.precision)
        require_seed("matching.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """When adversarial training, in both stages, counts as diverged. Looked at after every epoch.

    What training leads to doesn't depend on it, only when it's given up, so it isn't part of a fingerprint.
    """

    min_diversity: float = field(default=0.02, metadata={"place": True})
    """Least spread of a class's generated images, as a share of real ones' (median over classes); 0: any."""
    min_source_loss: float = field(default=0.001, metadata={"place": True})
    """Least hinge loss of the discriminator's source scores: below it, it has nothing left to learn; 0: any."""
    max_source_gap: float = field(default=10.0, metadata={"place": True})
    """With the Wasserstein loss, the most that real images may be scored above generated ones, in largest possible
    distances between two images: a critic of slope 1 can't exceed 1."""
    patience: int = field(default=5, metadata={"place": True})
    """Epochs in a row that one of these limits has to be passed."""

    def __post_init__(self) -> None:
        require_not_negative("health", self, "min_diversity", "min_source_loss")
        require_positive("health", self, "max_source_gap", "patience")
