"""What a run is made of: frozen configuration, checked when it is made, and its fingerprint.

    config = Config(data=DataConfig(dataset="mnist"), generator=GeneratorConfig(capacity=64))
    fingerprint(config.pool)

The defaults are the paper's (arXiv 2303.04707) where it names a value. Small studies are files that override
them: tuning/studies/digits.yaml is what `python -m dim_ray.tune` runs. Fields marked `place` say where or how fast
a run happens and not what comes out: they don't enter a fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from dim_ray.errors import ConfigError, nearest

__all__ = [
    "ARCHITECTURES",
    "DATASETS",
    "DSA_OPERATIONS",
    "IMAGE_SIZES",
    "PROTOCOLS",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "GeneratorConfig",
    "MatchingConfig",
    "NetworksConfig",
    "PoolConfig",
    "Precision",
    "PriorConfig",
    "Protocol",
    "StorageConfig",
    "StudyConfig",
    "check_architecture",
    "fingerprint",
    "to_dict",
]

DATASETS = ("digits", "mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")
DATASET_PREFIXES = ("parquet:", "folder:")
ARCHITECTURES = ("convnet3", "resnet10", "resnet18")
DSA_OPERATIONS = ("color", "crop", "cutout", "flip", "rotate", "scale")
IMAGE_SIZES = range(8, 65)

Protocol = Literal["on_the_fly", "fixed", "real_on_the_fly", "real_fixed"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
Precision = Literal["float32", "bfloat16", "auto"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

_FINGERPRINT_VERSION = 1  # raise it when the same configuration begins to give another result
_FINGERPRINT_DIGITS = 16
_ARCHITECTURE_WIDTH = re.compile(r"_w([1-9][0-9]*)\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Real images: where they come from and how they are split."""

    dataset: str = "digits"
    """A known name (digits, mnist, fashion_mnist, svhn, cifar10, cifar100), parquet:PATH or folder:PATH."""
    name: str | None = None
    """What the rows call it. By default the known name, or the last part of PATH."""
    data_root: str | None = field(default=None, metadata={"place": True})
    """Folder that has (or receives) the files of torchvision's data sets. Default: ~/.cache/dim_ray."""
    validation_fraction: float = 0.1
    """Share of every class of the training split that is held out to choose hyperparameters, in (0, 0.5]."""
    test_fraction: float = 0.2
    """Share of every class that becomes the test split where a source has no test split of its own."""
    split_seed: int = 0
    """Seed of those splits."""

    def __post_init__(self) -> None:
        prefix, separator, path = self.dataset.partition(":")
        if separator:
            if f"{prefix}:" not in DATASET_PREFIXES:
                raise ConfigError(
                    f"data.dataset has the unknown prefix {prefix!r}: {nearest(f'{prefix}:', DATASET_PREFIXES)}"
                )
            _require(bool(path), "data.dataset", self.dataset, f"a path behind {prefix!r}:")
        elif self.dataset not in DATASETS:
            known = [*DATASETS, "parquet:PATH", "folder:PATH"]
            raise ConfigError(f"data.dataset is {self.dataset!r}, which is unknown; {nearest(self.dataset, known)}")
        if self.name is not None:
            _require_name("data.name", self.name)
        _require(0 < self.validation_fraction <= 0.5, "data.validation_fraction", self.validation_fraction, "(0, 0.5]")
        _require(0 < self.test_fraction <= 0.5, "data.test_fraction", self.test_fraction, "(0, 0.5]")
        _require_seed("data.split_seed", self.split_seed)

    @property
    def label(self) -> str:
        """The name under which rows are stored."""
        if self.name:
            return self.name
        prefix, separator, path = self.dataset.partition(":")
        last = PurePosixPath(path.rstrip("/")).name if separator else prefix
        return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip("._-") or "data"  # as `name` may be


@dataclass(frozen=True, kw_only=True)
class NetworksConfig:
    """Which classifiers teach and which are trained to measure a generator."""

    teachers: tuple[str, ...] = ("convnet3",)
    """Architectures of the pool, dealt to teachers in turn: convnet3, resnet10, resnet18; _w64 sets the width."""
    students: tuple[str, ...] = ("convnet3",)
    """Architectures of the students that are evaluated. The first one chooses hyperparameters."""

    def __post_init__(self) -> None:
        for where, names in (("networks.teachers", self.teachers), ("networks.students", self.students)):
            _require(len(names) > 0, where, names, "at least one architecture")
            if where == "networks.students":
                _require_distinct(where, names)
            for name in names:
                check_architecture(name, where)


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """The teachers that distillation matches against."""

    size: int = 8
    """Number of teachers. A pool of 8 is the first 8 teachers of a pool of 64."""
    epochs: int = 50
    """Epochs that each teacher is trained on real images."""
    num_snapshots: int = 4
    """Snapshots kept of each teacher, spaced logarithmically over its steps, the last step included."""
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
    precision: Precision = "float32"
    """Of the passes through the networks: float32, bfloat16 (mixed), or auto: bfloat16 where the device has it."""
    seed: int = 0
    """Seed of the pool; teacher i has a seed derived from it and i."""

    def __post_init__(self) -> None:
        _require_positive("pool", self, "size", "epochs", "num_snapshots", "batch_size", "learning_rate")
        _require_sgd("pool", self.momentum, self.weight_decay)
        _require_augmentation("pool.augmentation", self.augmentation)
        _require_precision("pool.precision", self.precision)
        _require_seed("pool.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Size of the generator and of its discriminator."""

    capacity: int = 196
    """Channels C of every layer of the generator (paper: 196)."""
    discriminator_capacity: int | None = None
    """Channels of the discriminator. Default: capacity."""
    latent_dim: int = 100
    """Length of z; its first K entries are replaced by the one-hot label of K classes."""
    refinements: tuple[int, ...] = (3, 1)
    """3x3 convolutions after the first, second, ... doubling of the size."""
    source_head: Literal["plain", "projection"] = "plain"
    """How the discriminator tells real from generated: from the image alone (paper), or also from its label."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights, which is then the generator that is kept; 0 for none."""

    def __post_init__(self) -> None:
        _require_positive("generator", self, "capacity", "latent_dim")
        if self.discriminator_capacity is not None:
            _require_positive("generator", self, "discriminator_capacity")
        heads = ("plain", "projection")
        _require(self.source_head in heads, "generator.source_head", self.source_head, " or ".join(heads))
        _require(0 <= self.ema_decay < 1, "generator.ema_decay", self.ema_decay, "[0, 1)")
        _require(all(n >= 0 for n in self.refinements), "generator.refinements", self.refinements, "numbers >= 0")


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Stage 1: adversarial training (Wasserstein with gradient penalty, plus class cross-entropy)."""

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
    gradient_penalty_weight: float = 10.0
    """Weight of the gradient penalty."""
    gradient_penalty_every: int = 1
    """Discriminator steps from one with the penalty, at this many times its weight, to the next (paper: 1)."""
    class_weight: float = 1.0
    """Weight of the class cross-entropy in both losses."""
    discriminator_steps: int = 1
    """Discriminator steps for each generator step."""
    seed: int = 0
    """Seed of initial weights, noise and data order."""

    def __post_init__(self) -> None:
        _require_positive(
            "prior", self, "epochs", "batch_size", "learning_rate", "discriminator_steps", "gradient_penalty_every"
        )
        _require_not_negative("prior", self, "gradient_penalty_weight", "class_weight")
        _require(0 <= self.beta1 < 1, "prior.beta1", self.beta1, "[0, 1)")
        _require(0 <= self.beta2 < 1, "prior.beta2", self.beta2, "[0, 1)")
        _require_seed("prior.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """Stage 2: the prior goes on, matching the pool's logits. Other optimiser settings are stage 1's."""

    kind: Literal["logits", "none"] = "logits"
    """What is matched: logits of paired images, or nothing (the GAN-only baseline)."""
    weight: float = 0.01
    """Weight of the matching loss."""
    adversarial_weight: float = 1.0
    """Weight of the generator's adversarial and class losses."""
    epochs: int = 100
    """Epochs over the training split."""
    batch_size: int = 64
    """Real images a step, over all workers together."""
    learning_rate: float = 5e-6
    """Of Adam, for generator and discriminator."""
    augmentation: str = "color_crop_cutout_flip_scale_rotate"
    """DSA operations, drawn once a batch and the same for real and generated images; written as for the pool."""
    seed: int = 0
    """Seed of noise, data order and the draws from the pool."""

    def __post_init__(self) -> None:
        _require(self.kind in ("logits", "none"), "matching.kind", self.kind, "logits or none")
        _require_positive("matching", self, "epochs", "batch_size", "learning_rate")
        _require_not_negative("matching", self, "weight", "adversarial_weight")
        _require(
            self.adversarial_weight > 0 or (self.weight > 0 and self.kind != "none"),
            "matching.weight and matching.adversarial_weight",
            (self.weight, self.adversarial_weight),
            "at least one above 0: with both at 0 the generator would not train",
        )
        _require_augmentation("matching.augmentation", self.augmentation)
        _require_seed("matching.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Students: their images and their budget. An epoch is IPC x classes images."""

    images_per_class: tuple[int, ...] = (1, 10, 50)
    """IPCs to evaluate."""
    protocols: tuple[Protocol, ...] = ("on_the_fly", "fixed", "real_on_the_fly", "real_fixed")
    """How students get their images; the real_ ones are the baselines at the same budget."""
    num_seeds: int = 3
    """Students for each cell of the grid."""
    epochs: int = 1000
    """Epochs of IPC x classes images."""
    min_steps: int = 1
    """Small IPCs repeat epochs until at least this many optimiser steps."""
    batch_size: int = 128
    """Images a step; an epoch of fewer images is one batch."""
    learning_rate: float = 0.01
    """Of SGD, at the start."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes on."""
    momentum: float = 0.9
    """Of SGD, in [0, 1)."""
    weight_decay: float = 5e-4
    """Of SGD."""
    augmentation: str = "color_crop"
    """DSA operations on the students' images, drawn for each image; written as for the pool."""
    num_test_points: int = 5
    """Evenly spaced tests during training that give best_test_accuracy; the last is the headline."""
    precision: Precision = "float32"
    """Of the passes through the networks: float32, bfloat16 (mixed), or auto: bfloat16 where the device has it."""
    seed: int = 0
    """Seed of the first student; the others count up from it."""

    def __post_init__(self) -> None:
        where = "evaluation"
        _require(len(self.images_per_class) > 0, f"{where}.images_per_class", self.images_per_class, "at least one IPC")
        _require(
            min(self.images_per_class) > 0, f"{where}.images_per_class", self.images_per_class, "IPCs of 1 or more"
        )
        _require_distinct(f"{where}.images_per_class", self.images_per_class)
        _require_distinct(f"{where}.protocols", self.protocols)
        _require(len(self.protocols) > 0, f"{where}.protocols", self.protocols, "at least one protocol")
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise ConfigError(f"{where}.protocols has the unknown {protocol!r}; {nearest(protocol, PROTOCOLS)}")
        _require_positive(
            where, self, "num_seeds", "epochs", "min_steps", "batch_size", "learning_rate", "num_test_points"
        )
        _require_sgd(where, self.momentum, self.weight_decay)
        _require(self.schedule in ("constant", "cosine"), f"{where}.schedule", self.schedule, "constant or cosine")
        _require_augmentation(f"{where}.augmentation", self.augmentation)
        _require_precision("evaluation.precision", self.precision)
        _require_seed(f"{where}.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The search: its space, its rungs and what a trial may use."""

    name: str | None = field(default=None, metadata={"place": True})
    """Name of the study. By default the data set's name and the configuration's fingerprint."""
    num_trials: int = field(default=16, metadata={"place": True})
    """Trials in all; a larger number extends a study."""
    pool_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Pool sizes to choose from."""
    capacities: tuple[int, ...] = (64, 128, 196)
    """Generator capacities to choose from."""
    matching_weights: tuple[float, float] = (1e-3, 1.0)
    """Lowest and highest matching weight, searched on a logarithmic scale."""
    adversarial_weights: tuple[float, float] = (0.1, 10.0)
    """Lowest and highest adversarial weight, searched on a logarithmic scale."""
    selection_images_per_class: int = 10
    """IPC of the on-the-fly student whose validation accuracy is the objective."""
    selection_seeds: int = 1
    """Students whose validation accuracies are averaged at each rung."""
    grace_epochs: int = 1
    """Matching epochs before the first rung of ASHA."""
    reduction_factor: int = 3
    """Of ASHA: one trial in this many goes on from each rung."""
    seed: int = 0
    """Of the sampler."""
    workers_per_trial: int = 1
    """Workers that share one distillation; above 1 they run under Ray Train."""
    cpus_per_worker: int = field(default=1, metadata={"place": True})
    """CPU cores of one worker."""
    gpus_per_worker: float | None = field(default=None, metadata={"place": True})
    """GPUs of one worker. Default: 1 where the cluster has GPUs, otherwise 0."""
    max_concurrent: int | None = field(default=None, metadata={"place": True})
    """Trials at a time. Default: as many as the resources hold."""
    max_failures: int = field(default=1, metadata={"place": True})
    """How often a trial whose process died goes on from its last checkpoint before it counts as failed."""

    def __post_init__(self) -> None:
        if self.name is not None:
            _require_name("study.name", self.name)
        _require_positive(
            "study", self, "num_trials", "selection_images_per_class", "selection_seeds", "grace_epochs",
            "workers_per_trial", "cpus_per_worker",
        )  # fmt: skip
        _require(self.max_failures >= 0, "study.max_failures", self.max_failures, "0 or more")
        if self.max_concurrent is not None:
            _require_positive("study", self, "max_concurrent")
        _require(self.reduction_factor >= 2, "study.reduction_factor", self.reduction_factor, "2 or more")
        gpus = self.gpus_per_worker
        _require(
            gpus is None or (_finite(gpus) and gpus >= 0 and (gpus <= 1 or float(gpus).is_integer())),
            "study.gpus_per_worker",
            gpus,
            "0 or more, and above 1 a whole number",
        )
        for where, values in (("study.pool_sizes", self.pool_sizes), ("study.capacities", self.capacities)):
            _require(len(values) > 0 and min(values) > 0, where, values, "at least one number, all above 0")
        _require_range("study.matching_weights", self.matching_weights)
        _require_range("study.adversarial_weights", self.adversarial_weights)
        _require_seed("study.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Where everything is kept."""

    root: str = field(default="./dim_storage", metadata={"place": True})
    """Folder, s3:// or gs:// URI."""
    checkpoint_seconds: float = field(default=60.0, metadata={"place": True})
    """Seconds between checkpoints of a running stage."""

    def __post_init__(self) -> None:
        _require(bool(self.root.strip()), "storage.root", self.root, "a folder or a URI")
        _require_not_negative("storage", self, "checkpoint_seconds")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One resolved run."""

    data: DataConfig = field(default_factory=DataConfig)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        workers = self.study.workers_per_trial
        for where, batch in (("prior", self.prior.batch_size), ("matching", self.matching.batch_size)):
            _require(
                batch % workers == 0,
                f"{where}.batch_size",
                batch,
                f"a multiple of study.workers_per_trial ({workers}), which share the batch equally",
            )
            _require(
                batch // workers > 1,
                f"{where}.batch_size",
                batch,
                f"at least {2 * workers}: the generator's BatchNorm needs two images for each of "
                f"study.workers_per_trial ({workers})",
            )
        _require(
            self.study.grace_epochs <= self.matching.epochs,
            "study.grace_epochs",
            self.study.grace_epochs,
            f"at most matching.epochs ({self.matching.epochs})",
        )

    def with_trial(self, *, pool_size: int, capacity: int, matching_weight: float, adversarial_weight: float) -> Config:
        """Returns the configuration of one trial of the search."""
        return replace(
            self,
            pool=replace(self.pool, size=pool_size),
            generator=replace(self.generator, capacity=capacity),
            matching=replace(self.matching, weight=matching_weight, adversarial_weight=adversarial_weight),
        )

    def with_seed(self, seed: int) -> Config:
        """Returns the configuration with every seed, but that of the data split, set to `seed`."""
        return replace(
            self,
            **{
                section: replace(getattr(self, section), seed=seed)
                for section in ("pool", "prior", "matching", "evaluation", "study")
            },
        )


def check_architecture(name: str, where: str = "architecture") -> tuple[str, int | None]:
    """Splits an architecture's name into its family and width.

    Args:
        name: For example ``convnet3`` or ``resnet18_w32``.
        where: The field that it came from, for the error message.

    Returns:
        Family, and width in channels or None for the family's own.

    Raises:
        ConfigError: The family is unknown.
    """
    match = _ARCHITECTURE_WIDTH.search(name)
    family = name[: match.start()] if match else name
    if family not in ARCHITECTURES:
        raise ConfigError(f"{where} has the unknown architecture {name!r}; {nearest(family, ARCHITECTURES)}")
    return family, int(match.group(1)) if match else None


def fingerprint(*parts: Any) -> str:
    """Returns 16 hexadecimal digits that identify configurations and plain values by what they lead to.

    The same in every process, version of Python and order of keys. 1 and 1.0 are the same; fields marked
    `place` are left out.
    """
    text = json.dumps(
        [_FINGERPRINT_VERSION, *map(_canonical, parts)], sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_DIGITS]


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def _canonical(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _canonical(getattr(value, f.name)) for f in fields(value) if not f.metadata.get("place")}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (set, frozenset)):
        raise TypeError("A set has no order that is the same in every process; give fingerprint() a sorted list.")
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_canonical(item) for item in value]
    return value


def _require(condition: bool, where: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{where} is {value!r}; allowed: {allowed}.")


def _require_positive(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(_finite(value) and value > 0, f"{section}.{name}", value, "a number above 0")


def _require_not_negative(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(_finite(value) and value >= 0, f"{section}.{name}", value, "0 or more")


def _require_sgd(section: str, momentum: float, weight_decay: float) -> None:
    _require(0 <= momentum < 1, f"{section}.momentum", momentum, "[0, 1)")
    _require(_finite(weight_decay) and weight_decay >= 0, f"{section}.weight_decay", weight_decay, "0 or more")


def _require_range(where: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    _require(_finite(low) and _finite(high) and 0 < low <= high, where, bounds, "two numbers, 0 < lowest <= highest")


def _require_precision(where: str, value: str) -> None:
    _require(value in PRECISIONS, where, value, " or ".join(PRECISIONS))


def _require_seed(where: str, seed: int) -> None:
    _require(seed >= 0, where, seed, "a whole number of 0 or more")


def _require_distinct(where: str, values: tuple[object, ...]) -> None:
    _require(len(set(values)) == len(values), where, values, "each value once")


def _require_name(where: str, name: str) -> None:
    _require(_NAME.fullmatch(name) is not None, where, name, "letters, digits, '.', '_' and '-', the first not a sign")


def _require_augmentation(where: str, strategy: str) -> None:
    if strategy == "none":
        return
    for operation in strategy.split("+" if "+" in strategy else "_"):
        if operation not in DSA_OPERATIONS:
            raise ConfigError(
                f"{where} is {strategy!r}, with the unknown operation {operation!r}; "
                f"{nearest(operation, DSA_OPERATIONS)} Join several with '_' (one of them is drawn) "
                "or '+' (all are applied), or write 'none'."
            )


def _finite(value: float) -> bool:
    return math.isfinite(value)
