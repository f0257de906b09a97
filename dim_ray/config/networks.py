"""The sections `networks` and `generator`: architectures and sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dim_ray.config.architectures import check_architecture
from dim_ray.config.checks import require, require_below_one, require_distinct, require_known, require_positive

__all__ = ["GeneratorConfig", "NetworksConfig"]

_LATENT_DIM = 100  # the paper's
_LEAST_NOISE = 50  # least number of random entries of z, unless latent_dim is set


@dataclass(frozen=True, kw_only=True)
class NetworksConfig:
    """Architectures of teachers and students."""

    teachers: tuple[str, ...] = ("convnet3",)
    """Architectures of the pool, assigned to teachers in turn. A family: alexnet, convnet1 to convnet6, densenet121,
    lenet, mlp, resnet10, resnet18, resnet34, resnet50, vgg11, vit_tiny; then options in this order: _ap (resnet:
    average pooling instead of strides), a norm (convnet: _bn, _ln, _gn, _nonorm; resnet, vgg11: _in), and a width such
    as _w64 (all but lenet). For example convnet4_bn_w64. Instead of norm and width, _dim (convnet3, resnet10, resnet18,
    densenet121) stands for the network of DiM's code, and _dim7 (resnet10, resnet18) for that with a 7x7 stem, which
    the code takes for MNIST, Fashion-MNIST and SVHN. For example resnet18_ap_dim."""
    students: tuple[str, ...] = ("convnet3",)
    """Architectures of the students, as for teachers. The search uses only the first one."""

    def __post_init__(self) -> None:
        for where, names in (("networks.teachers", self.teachers), ("networks.students", self.students)):
            require(len(names) > 0, where, names, "at least one architecture")
            if where == "networks.students":
                require_distinct(where, names)
            for name in names:
                check_architecture(name, where)


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Generator and discriminator."""

    family: Literal["paper", "residual"] = field(default="paper", metadata={"added": True})
    """Layers of both: the paper's, or residual blocks with class-conditional batch norm."""
    capacity: int = 196
    """Channels of every layer of the generator (paper: 196), or residual: of its largest maps, twice as many at half
    of their size and four times below; multiples of 16 suit GPUs."""
    discriminator_capacity: int | None = None
    """Channels of the discriminator. Default: capacity."""
    latent_dim: int | None = None
    """Length of z, which begins with the label's entries. Default: 100 (paper), or at least 50 more than those."""
    upsampling: int = field(default=1, metadata={"added": True})
    """Factor by which images are enlarged after the last layer, bicubically; the discriminator sees all images reduced
    by it. With 2, steps take little more than a third of the time, and the finest detail is lost."""
    refinements: tuple[int, ...] = (3, 1)
    """3x3 convolutions after the first, second, ... doubling of the size (paper: 3 and 1). Residual: always 2."""
    label_embedding: int | None = None
    """Length of a learned embedding of the label. Default: one-hot label (paper)."""
    discriminator_norm: Literal["layer", "spectral", "none"] = "layer"
    """Norm of the discriminator: layer norm (paper), spectral norm of its weights, or none."""
    source_head: Literal["plain", "projection"] = "plain"
    """Adversarial head of the discriminator: plain uses only the image (paper), projection also its label."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights, stored beside the raw ones; 0 for none."""

    def __post_init__(self) -> None:
        require_positive(
            "generator", self, "capacity", "discriminator_capacity", "latent_dim", "label_embedding", "upsampling"
        )  # fmt: skip
        require_known("generator", self)
        require_below_one("generator", self, "ema_decay")
        require(all(n >= 0 for n in self.refinements), "generator.refinements", self.refinements, "numbers >= 0")

    def label_entries(self, num_classes: int) -> int:
        """Return the number of entries of z that are the label's."""
        return self.label_embedding or num_classes

    def resolve_latent_dim(self, num_classes: int) -> int:
        """Return the length of z."""
        return self.latent_dim or max(_LATENT_DIM, self.label_entries(num_classes) + _LEAST_NOISE)
