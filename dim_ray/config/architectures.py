"""The names of classifiers: a family, then its options, in one spelling.

    architecture = check_architecture("convnet4_bn_w64")
    architecture.family, architecture.norm, architecture.width      # "convnet4", "bn", 64

A name is `<family>[_ap][_<norm>][_w<width>]`. Rows are grouped by name, so each network has exactly one: options have
this order, and a family's default norm and width are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dim_ray.errors import ConfigError, nearest

__all__ = ["ARCHITECTURES", "NUM_GROUPS", "Architecture", "Norm", "check_architecture"]

Norm = Literal["bn", "in", "ln", "gn", "nonorm"]
"""Batch, instance, layer or group norm, or none."""

NUM_GROUPS = 4  # of group norm, as in the field's code
_CONVNET_DEPTHS = range(1, 7)
_RESNET_DEPTHS = (10, 18, 34, 50)
_POOLED = "ap"
_WIDTH = re.compile(r"w([0-9]+)\Z")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The parts of a name."""

    family: str
    """One of `ARCHITECTURES`."""
    pooled: bool
    """Whether average pooling replaces strided convolutions."""
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
    """Parse an architecture's name.

    Args:
        name: Name, such as ``convnet3``, ``resnet18_ap_w32`` or ``convnet4_bn_w64``.
        where: Field with the name, for the error message.

    Raises:
        ConfigError: The family or an option of it is unknown, or the same network has a plainer name.
    """
    family = next((known for known in ARCHITECTURES if name == known or name.startswith(f"{known}_")), None)
    if family is None:
        head = name.split("_")[0]
        raise ConfigError(f"{where} has the unknown architecture {name!r}; {nearest(head, ARCHITECTURES)}")
    options = name[len(family) + 1 :].split("_") if name != family else []
    architecture = _read(family, options, f"{where} has {name!r}")
    plain = _spell(architecture)
    if name != plain:
        raise ConfigError(
            f"{where} has {name!r}. Write it as {plain!r}: rows are grouped by name, so each network has only one."
        )
    return architecture


def _read(family: str, options: list[str], received: str) -> Architecture:
    takes = _FAMILIES[family]
    refusal = f"{received}; {family} takes {_describe(takes)}."
    pooled: list[bool] = []
    norms: list[Norm] = []
    widths: list[int] = []
    for option in options:
        match, norm = _WIDTH.match(option), next((norm for norm in takes.norms if norm == option), None)
        if option == _POOLED and takes.can_pool:
            pooled.append(True)
        elif norm is not None:
            norms.append(norm)
        elif match and takes.width:
            widths.append(int(match.group(1)))
        else:
            raise ConfigError(refusal)
    if max(len(pooled), len(norms), len(widths)) > 1:
        raise ConfigError(refusal)
    norm, width = norms[0] if norms else takes.norms[0], widths[0] if widths else takes.width
    multiple = NUM_GROUPS if norm == "gn" else takes.multiple
    if takes.width and (width < 1 or width % multiple):
        raise ConfigError(f"{received}; allowed widths: {multiple}, {2 * multiple}, {3 * multiple}, ...")
    return Architecture(family=family, pooled=bool(pooled), norm=norm, width=width)


def _spell(architecture: Architecture) -> str:
    takes = _FAMILIES[architecture.family]
    name = architecture.family
    if architecture.pooled:
        name += f"_{_POOLED}"
    if architecture.norm != takes.norms[0]:
        name += f"_{architecture.norm}"
    if architecture.width != takes.width:
        name += f"_w{architecture.width}"
    return name


def _describe(takes: _Family) -> str:
    options = [f"_{_POOLED}"] if takes.can_pool else []
    if len(takes.norms) > 1:
        options.append(" or ".join(f"_{norm}" for norm in takes.norms[1:]))
    if takes.width:
        options.append(f"_w and a width (default: {takes.width})")
    return ", then ".join(options) or "no options"
