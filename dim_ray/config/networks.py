"""The sections `networks` and `generator`: architectures, by name, and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dim_ray.config.architectures import check_architecture
from dim_ray.config.checks import require, require_below_one, require_distinct, require_positive

__all__ = ["GeneratorConfig", "NetworksConfig"]

_LATENT_DIM = 100  # the paper's
_LEAST_NOISE = 50  # entries of z that stay random, unless latent_dim says otherwise


@dataclass(frozen=True, kw_only=True)
class NetworksConfig:
    """Which classifiers teach and which are trained to measure a generator."""

    teachers: tuple[str, ...] = ("convnet3",)
    """Architectures of the pool, dealt to teachers in turn. A family: alexnet, convnet1 to convnet6, densenet121,
    lenet, mlp, resnet10, resnet18, resnet34, resnet50, vgg11, vit_tiny; then options in this order: _ap (resnet:
    average pooling instead of strides), a norm (convnet: _bn, _ln, _gn, _nonorm; resnet, vgg11: _in), and a width such
    as _w64 (all but lenet). For example convnet4_bn_w64."""
    students: tuple[str, ...] = ("convnet3",)
    """Architectures of the students that are evaluated, by name as for teachers. The first one chooses
    hyperparameters."""

    def __post_init__(self) -> None:
        for where, names in (("networks.teachers", self.teachers), ("networks.students", self.students)):
            require(len(names) > 0, where, names, "at least one architecture")
            if where == "networks.students":
                require_distinct(where, names)
            for name in names:
                check_architecture(name, where)


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Size of the generator and of its discriminator."""

    capacity: int = 196
    """Channels C of every layer of the generator (paper: 196)."""
    discriminator_capacity: int | None = None
    """Channels of the discriminator. Default: capacity."""
    latent_dim: int | None = None
    """Length of z, of which the label takes the first entries: K of a one-hot one. Default: 100 (paper), or 50 more
    than the label takes."""
    refinements: tuple[int, ...] = (3, 1)
    """Depth: 3x3 convolutions after the first, second, ... doubling of the size (paper: 3 and 1)."""
    label_embedding: int | None = None
    """Length of a learned vector of the label, in place of the one-hot label. Default: one-hot (paper)."""
    discriminator_norm: Literal["layer", "spectral"] = "layer"
    """What keeps the discriminator's scale: layer norm (paper), or spectral norm of its weights, and no layers."""
    source_head: Literal["plain", "projection"] = "plain"
    """How the discriminator tells real from generated: from the image alone (paper), or also from its label."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights, kept beside the raw ones; 0 for none."""

    def __post_init__(self) -> None:
        may_be_none = ("discriminator_capacity", "latent_dim", "label_embedding")
        optional = [name for name in may_be_none if getattr(self, name) is not None]
        require_positive("generator", self, "capacity", *optional)
        for name, allowed in (("source_head", ("plain", "projection")), ("discriminator_norm", ("layer", "spectral"))):
            value = getattr(self, name)
            require(value in allowed, f"generator.{name}", value, " or ".join(allowed))
        require_below_one("generator", self, "ema_decay")
        require(all(n >= 0 for n in self.refinements), "generator.refinements", self.refinements, "numbers >= 0")

    def label_entries(self, num_classes: int) -> int:
        """Returns how many entries of z the label takes."""
        return self.label_embedding or num_classes

    def resolve_latent_dim(self, num_classes: int) -> int:
        """Returns the length of z for a number of classes."""
        return self.latent_dim or max(_LATENT_DIM, self.label_entries(num_classes) + _LEAST_NOISE)
