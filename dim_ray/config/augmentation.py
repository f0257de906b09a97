"""The language of augmentations: which differentiable operations change an image, in which order, how often.

    parse_augmentation("flip+color+crop|scale|rotate+cutout@0.5", "pool.augmentation")

`none`, or steps joined by `+`, all applied in the order written. A step is an operation, or operations joined by `|`,
of which one is drawn. `@p` behind a step applies it to an image with probability p.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from dim_ray.errors import ConfigError, nearest

__all__ = ["DSA_OPERATIONS", "AugmentationStep", "parse_augmentation"]

DSA_OPERATIONS = ("color", "crop", "cutout", "flip", "rotate", "scale")


@dataclass(frozen=True, kw_only=True)
class AugmentationStep:
    """One step of an augmentation."""

    operations: tuple[str, ...]
    """Names of the operations, of which one is drawn."""
    probability: float
    """Probability that the step is applied, in (0, 1]."""


@lru_cache(maxsize=64)
def parse_augmentation(text: str, where: str) -> tuple[AugmentationStep, ...]:
    """Return the steps of an augmentation in their order, or refuse what the field `where` has."""
    if text == "none":
        return ()
    return tuple(_parse_step(step, text, where) for step in text.split("+"))


def _parse_step(step: str, text: str, where: str) -> AugmentationStep:
    names, mark, share = step.partition("@")
    operations = tuple(names.split("|"))
    for name in operations:
        if name not in DSA_OPERATIONS:
            raise ConfigError(
                f"{where} is {text!r}, with the unknown operation {name!r}; {nearest(name, DSA_OPERATIONS)} Join with "
                "'+' what is applied in turn and with '|' that of which one is drawn, or write 'none'."
            )
    try:
        probability = float(share) if mark else 1.0
    except ValueError:
        probability = 0.0
    if not 0 < probability <= 1:
        raise ConfigError(
            f"{where} is {text!r}, with the probability {share!r}; allowed: above 0, up to 1, as in 'cutout@0.5'."
        )
    return AugmentationStep(operations=operations, probability=probability)
