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
    """Length of z, of which the one-hot label takes the first K entries. Default: 100 (paper), or K + 50 if more."""
    refinements: tuple[int, ...] = (3, 1)
    """3x3 convolutions after the first, second, ... doubling of the size."""
    source_head: Literal["plain", "projection"] = "plain"
    """How the discriminator tells real from generated: from the image alone (paper), or also from its label."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights, which is then the generator that is kept; 0 for none."""

    def __post_init__(self) -> None:
        optional = [name for name in ("discriminator_capacity", "latent_dim") if getattr(self, name) is not None]
        require_positive("generator", self, "capacity", *optional)
        heads = ("plain", "projection")
        require(self.source_head in heads, "generator.source_head", self.source_head, " or ".join(heads))
        require_below_one("generator", self, "ema_decay")
        require(all(n >= 0 for n in self.refinements), "generator.refinements", self.refinements, "numbers >= 0")

    def resolve_latent_dim(self, num_classes: int) -> int:
        """Returns the length of z for a number of classes."""
        return self.latent_dim or max(_LATENT_DIM, num_classes + _LEAST_NOISE)
