"""The sections `pool`, `prior`, `matching` and `health`: training of teachers and generators."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from dim_ray.config.augmentation import parse_augmentation
from dim_ray.config.checks import (
    NormalisationKind,
    Precision,
    require,
    require_batch,
    require_below_one,
    require_known,
    require_not_negative,
    require_positive,
    require_seed,
)

__all__ = ["HealthConfig", "MatchingConfig", "MatchingKind", "PoolConfig", "PriorConfig", "SnapshotSpacing"]

PoolKind = Literal["stored", "online"]
SnapshotSpacing = Literal["logarithmic", "linear"]
MatchingKind = Literal["logits", "logit_means", "logit_moments", "features", "gradients", "none"]

_PLACE = ("size", "teachers_at_once", "device_memory_gib")  # fields that don't affect a teacher
_PENALTIES = {"wasserstein": 10.0, "hinge": 0.0, "relativistic": 0.05}  # the papers'


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """The teacher pool that distillation matches against."""

    kind: PoolKind = "stored"
    """stored: teachers are trained once; online: they start afresh every matching epoch and train during it."""
    size: int = 8
    """Number of teachers. A pool of 8 is the first 8 teachers of a pool of 64. Online pools ignore it."""
    epochs: int = 50
    """Epochs of each stored teacher on real images."""
    num_snapshots: int = 4
    """Snapshots of each stored teacher, from early to the last step; 1 keeps only the last."""
    snapshot_spacing: SnapshotSpacing = "linear"
    """Spacing of a stored teacher's snapshots over its steps: linear, or logarithmic, with most of them early, where
    teachers know little."""
    online_steps: int = 16
    """Training batches of an online teacher before each generator step; at 0 its weights stay random."""
    online_order: Literal["passes", "reshuffled"] = field(default="passes", metadata={"added": True})
    """passes: no image repeats before all were seen; reshuffled (DiM): each generator step begins a new order."""
    online_mode: Literal["eval", "train"] = field(default="eval", metadata={"added": True})
    """Mode in which online teachers are matched; in train mode (DiM) BatchNorm uses each half's own statistics."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 0.01
    """Constant learning rate of SGD."""
    momentum: float = 0.9
    """Momentum of SGD, in [0, 1)."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    normalisation: NormalisationKind = field(default="measured", metadata={"added": True})
    """(x - m) / s of x in [0, 1] with measured m and s, or with those in DiM's code (dim); dim_signed: the latter, of x
    in [-1, 1], as DiM's teachers see it."""
    augmentation: str = "flip+color+crop|scale|rotate+cutout"
    """DSA operations on real images: a+b applies all in turn, a|b draws one, a@0.5 is applied to half; or none."""
    precision: Precision = "auto"
    """Precision of passes through networks: float32, bfloat16 (mixed), or auto: bfloat16 if the device has it."""
    seed: int = 0
    """Seed of the pool; teacher i has a seed derived from it and i."""
    teachers_at_once: int | None = field(default=None, metadata={"place": True})
    """Largest batched ensemble of stored teachers of one architecture. Default: up to 4 if that is faster on the
    device, otherwise 1."""
    device_memory_gib: float | None = field(default=None, metadata={"place": True})
    """Limit on a worker's GPU memory for snapshots, in GiB; the others stay in host memory and are copied ahead of
    their step. Default: half of the free memory."""

    def __post_init__(self) -> None:
        require_known("pool", self)
        require_positive("pool", self, "size", "epochs", "num_snapshots", "learning_rate", "teachers_at_once")
        require_not_negative("pool", self, "online_steps", "weight_decay", "device_memory_gib")
        require_batch("pool.batch_size", self.batch_size)
        require_below_one("pool", self, "momentum")
        parse_augmentation(self.augmentation, "pool.augmentation")
        require_seed("pool.seed", self.seed)

    def recipe(self) -> PoolConfig:
        """Return the recipe of one teacher: fields that don't affect it have their defaults."""
        online = ("online_steps", "online_order", "online_mode")
        unused = online if self.kind == "stored" else ("epochs", "num_snapshots", "snapshot_spacing")
        default = PoolConfig(kind=self.kind)
        return replace(self, **{name: getattr(default, name) for name in (*_PLACE, *unused)})


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Stage 1: adversarial training of a generator and a discriminator with a class head.

    The paper uses the Wasserstein loss with a gradient penalty. The alternative needs no second derivative: the hinge
    loss with `generator.discriminator_norm: spectral`.
    """

    epochs: int = 150
    """Epochs over the training split. A stored prior with fewer, and all else alike, is trained further."""
    batch_size: int = 128
    """Real images per step, over all workers together."""
    learning_rate: float = 1e-4
    """Learning rate of Adam, for generator and discriminator."""
    discriminator_rate: float = field(default=1.0, metadata={"added": True})
    """Learning rate of the discriminator, as a multiple of the generator's, in both stages."""
    beta1: float = 0.0
    """beta1 of Adam, in [0, 1)."""
    beta2: float = 0.9
    """beta2 of Adam, in [0, 1)."""
    loss: Literal["wasserstein", "hinge", "relativistic"] = "wasserstein"
    """Adversarial loss: the paper's, hinge, or relativistic (R3GAN)."""
    augmentation: str = "none"
    """DSA operations on all images that the discriminator sees, drawn for each image; syntax as for the pool."""
    gradient_penalty_weight: float | None = None
    """Weight of the gradient penalty. Default: 10 (paper) with the Wasserstein loss, 0 with hinge, and 0.05 with the
    relativistic loss, whose penalty is zero-centred."""
    gradient_penalty_every: int = 1
    """Discriminator steps per gradient penalty, whose weight is multiplied by it (paper: 1)."""
    class_weight: float = 1.0
    """Weight of the class cross-entropy in both losses."""
    class_loss_on: Literal["real", "both"] = field(default="real", metadata={"added": True})
    """Images from which the discriminator learns classes: real ones, or both real and generated ones (DiM)."""
    first: Literal["discriminator", "generator"] = field(default="discriminator", metadata={"added": True})
    """Network that takes its steps first, in both stages (DiM: generator)."""
    uniform_labels: Literal["generator", "discriminator"] = field(default="generator", metadata={"added": True})
    """Network (DiM: discriminator) whose generated images have uniform labels, while those of the other have the real
    batch's. In stage 2 the generator's always have the real batch's."""
    discriminator_steps: int = 1
    """Discriminator steps per generator step."""
    precision: Precision = "auto"
    """Precision of passes through generator and discriminator, in both stages; as for the pool."""
    seed: int = 0
    """Seed of initial weights, noise and data order."""

    def __post_init__(self) -> None:
        require_positive(
            "prior", self, "epochs", "batch_size", "learning_rate", "discriminator_rate", "discriminator_steps",
            "gradient_penalty_every",
        )  # fmt: skip
        require_known("prior", self)
        require_not_negative("prior", self, "gradient_penalty_weight", "class_weight")
        require_below_one("prior", self, "beta1", "beta2")
        parse_augmentation(self.augmentation, "prior.augmentation")
        require_seed("prior.seed", self.seed)

    @property
    def penalty_weight(self) -> float:
        """Weight of the gradient penalty, resolved."""
        if self.gradient_penalty_weight is not None:
            return self.gradient_penalty_weight
        return _PENALTIES[self.loss]


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """Stage 2: the prior continues, matching real images through the pool. Other settings are those of stage 1."""

    kind: MatchingKind = "logits"
    """What is matched: logits of pairs, their class means or moments, features, gradients; or none (GAN only)."""
    weight: float = 0.3
    """Weight of the matching loss, in `weight_unit`."""
    weight_unit: Literal["relative", "absolute"] = "relative"
    """relative: at 1 the gradient of any kind is as large as the adversarial loss's, when stage 2 starts; absolute: a
    factor of the kind's own distance (DiM's code: 0.01)."""
    temperature: float = 1.0
    """Divisor of logits before the softmax, in the kinds that begin with logit."""
    standardised: bool = False
    """Whether each image's logits are first scaled to mean 0 and variance 1, in the same kinds."""
    unbiased: bool = False
    """Whether the excess distance of class means from small batches, which pulls images of a class together, is
    removed; in logit_means, logit_moments and features."""
    teachers_per_step: int = 1
    """Teachers that each worker draws per step, each with its own augmentation; their losses are averaged."""
    adversarial_weight: float = 1.0
    """Weight of the generator's adversarial and class losses."""
    epochs: int = 100
    """Epochs over the training split; 0 keeps the prior as it is, to measure it."""
    batch_size: int = 64
    """Real images per step, over all workers together."""
    learning_rate: float = 5e-6
    """Learning rate of Adam, for generator and discriminator."""
    adam_state: Literal["fresh", "prior"] = field(default="fresh", metadata={"added": True})
    """Adam's moments at the start: fresh, or those at the end of stage 1 (prior, as in DiM)."""
    augmentation: str = "flip+color+crop|scale|rotate+cutout"
    """DSA operations, drawn for each teacher of a step, the same for real and generated; syntax as for the pool."""
    precision: Precision = "auto"
    """Precision of passes through teachers, as for the pool; generator and discriminator use prior.precision."""
    seed: int = 0
    """Seed of noise, data order and the draws from the pool."""

    def __post_init__(self) -> None:
        require_known("matching", self)
        require_positive("matching", self, "temperature", "teachers_per_step", "batch_size", "learning_rate")
        require_not_negative("matching", self, "epochs", "weight", "adversarial_weight")
        require(
            self.adversarial_weight > 0 or (self.weight > 0 and self.kind != "none"),
            "matching.weight and matching.adversarial_weight",
            (self.weight, self.adversarial_weight),
            "at least one above 0: with both at 0 the generator would not train",
        )
        parse_augmentation(self.augmentation, "matching.augmentation")
        require_seed("matching.seed", self.seed)

    def control(self) -> MatchingConfig:
        """Return the same stage without matching: fields that then have no effect have their defaults.

        The adversarial weight is one of them, because Adam's steps don't depend on the size of the only loss.
        """
        used = ("epochs", "batch_size", "learning_rate", "seed")
        return MatchingConfig(kind="none", **{name: getattr(self, name) for name in used})


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """Limits beyond which adversarial training, in both stages, counts as diverged; checked after every epoch.

    They decide when training is given up but not its result, so they aren't part of a fingerprint.
    """

    min_diversity: float = field(default=0.02, metadata={"place": True})
    """Least spread of a class's generated images, as a share of real ones' (median over classes); 0: no limit."""
    min_source_loss: float = field(default=0.001, metadata={"place": True})
    """Least hinge or relativistic loss, below which the discriminator has nothing left to learn; 0: no limit."""
    max_source_gap: float = field(default=10.0, metadata={"place": True})
    """With the Wasserstein loss, largest gap between scores of real and generated images, in largest possible distances
    between two images: a critic of slope 1 can't exceed 1."""
    patience: int = field(default=5, metadata={"place": True})
    """Consecutive epochs beyond one of these limits."""

    def __post_init__(self) -> None:
        require_not_negative("health", self, "min_diversity", "min_source_loss")
        require_positive("health", self, "max_source_gap", "patience")
