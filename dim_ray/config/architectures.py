"""The names of classifiers: a family, then its options, in one spelling.

    architecture = check_architecture("convnet4_bn_w64")
    architecture.family, architecture.norm, architecture.width      # "convnet4", "bn", 64

A name is `<family>[_ap][_<norm>][_w<width>]`, or `<family>[_ap]_dim` or `<family>[_ap]_dim7` for a network of DiM's
code, whose norm and width are fixed. Rows are grouped by name, so each network has exactly one: options have this
order, and a family's default norm and width are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from dim_ray.errors import ConfigError, nearest

__all__ = ["ARCHITECTURES", "NUM_GROUPS", "Architecture", "Norm", "Variant", "check_architecture"]

Norm = Literal["bn", "in", "ln", "gn", "nonorm"]
"""Batch, instance, layer or group norm, or none."""

Variant = Literal["", "dim", "dim7"]
"""A network of DiM's code, with its 3x3 or its 7x7 stem, or empty for any other.

A ResNet there chooses its stem by the data set's name, not by the size of its images: 3x3 for CIFAR, and 7x7 for the
rest, though MNIST and Fashion-MNIST have 28 pixels and SVHN has 32.
"""

NUM_GROUPS = 4  # of group norm, as in the field's code
_CONVNET_DEPTHS = range(1, 7)
_RESNET_DEPTHS = (10, 18, 34, 50)
_VARIANT_WIDTHS: dict[str, dict[str, int]] = {  # channels of the first layer
    "convnet3": {"dim": 128},
    "densenet121": {"dim": 24},
    "resnet10": {"dim": 32, "dim7": 64},
    "resnet18": {"dim": 32, "dim7": 64},
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The parts of a name."""

    family: str
    """One of `ARCHITECTURES`."""
    pooled: bool
    """Whether average pooling replaces strided convolutions."""
    variant: Variant
    """Whether it's a network of DiM's code."""
    norm: Norm
    """Normalisation of hidden layers."""
    width: int
    """Channels of the first layer; 0 for a family with fixed sizes."""


@dataclass(frozen=True, kw_only=True)
class _Family:
    """The options of a family."""

    norms: tuple[Norm, ...] = ("nonorm",)  # the default first
    width: int = 0  # the default; 0 if it's fixed
    multiple: int = 1  # widths have to be divisible by it
    can_pool: bool = False  # whether it takes _ap


_FAMILIES: dict[str, _Family] = {
    "alexnet": _Family(width=128, multiple=2),
    **{f"convnet{n}": _Family(norms=("in", "bn", "ln", "gn", "nonorm"), width=128) for n in _CONVNET_DEPTHS},
    "densenet121": _Family(norms=("bn",), width=64, multiple=2),
    "lenet": _Family(),
    "mlp": _Family(width=128),
    **{f"resnet{n}": _Family(norms=("bn", "in"), width=64, can_pool=True) for n in _RESNET_DEPTHS},
    "vgg11": _Family(norms=("bn", "in"), width=64),
    "vit_tiny": _Family(norms=("ln",), width=192, multiple=3),
}

ARCHITECTURES = tuple(_FAMILIES)


def check_architecture(name: str, where: str = "architecture") -> Architecture:
    """Parse an architecture's name, such as ``resnet18_ap_dim``, or refuse what the field `where` has."""
    family = next((known for known in ARCHITECTURES if name == known or name.startswith(f"{known}_")), None)
    if family is None:
        head = name.split("_")[0]
        raise ConfigError(f"{where} has the unknown architecture {name!r}; {nearest(head, ARCHITECTURES)}")
    takes, variants = _FAMILIES[family], _VARIANT_WIDTHS.get(family, {})
    default, *norms = takes.norms
    options = r"(_ap)?(?:_(dim7?)|(?:_([a-z]+))?(?:_w(0|[1-9][0-9]*))?)"
    match = re.fullmatch(options, name[len(family) :])
    pooled, variant, norm, width = match.groups() if match else (None, None, None, None)
    if (
        match is None
        or (pooled and not takes.can_pool)
        or (variant and variant not in variants)
        or (norm and norm not in norms)
        or (width and (not takes.width or int(width) == takes.width))
    ):
        raise ConfigError(f"{where} has {name!r}; {family} takes {_describe(family)}. Leave defaults out.")
    if name == "densenet121_w24":
        raise ConfigError(f"{where} has {name!r}; the name of this network is densenet121_dim.")
    chosen: Any = norm or default
    channels = variants[variant] if variant else int(width or takes.width)
    multiple = NUM_GROUPS if chosen == "gn" else takes.multiple
    if takes.width and (channels < 1 or channels % multiple):
        raise ConfigError(f"{where} has {name!r}; allowed widths: {multiple}, {2 * multiple}, {3 * multiple}, ...")
    whose: Any = variant or ""
    return Architecture(family=family, pooled=pooled is not None, variant=whose, norm=chosen, width=channels)


def _describe(family: str) -> str:
    takes = _FAMILIES[family]
    options = ["_ap"] if takes.can_pool else []
    if len(takes.norms) > 1:
        options.append(" or ".join(f"_{norm}" for norm in takes.norms[1:]))
    if takes.width:
        options.append(f"_w and a width (default: {takes.width})")
    described = ", then ".join(options) or "no options"
    variants = [f"_{variant}" for variant in _VARIANT_WIDTHS.get(family, {})]
    return f"{described}; {' or '.join(variants)} instead of norm and width" if variants else described
