"""What stage 2 makes small: distances between real and generated images, as a teacher f sees them.

    pairs = ImagePairs(real=real, generated=generated, labels=labels, num_classes=10)
    loss = DISTANCES[config.kind](teacher, pairs, config)

Both halves have the same labels in the same order, and the gradient flows through the generated one only. Below,
p(x) = log_softmax(f(x) / temperature); with `standardised`, each image's logits f(x) are first brought to mean 0 and
variance 1 (Sun et al., arXiv 2403.01427). Classes without an image in the batch don't count.

With `unbiased`, distances of means subtract what they expect of a batch whose halves are drawn alike: docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from dim_ray.config import MatchingConfig, MatchingKind
from dim_ray.core.teachers.pool import DrawnTeacher
from dim_ray.errors import ConfigError

__all__ = [
    "DISTANCES",
    "Distance",
    "ImagePairs",
    "feature_distance",
    "gradient_distance",
    "logit_distance",
    "mean_distance",
    "moment_distance",
]

_LEAST_VARIANCE = 1e-12  # of logits: added, so that equal ones stay finite
_LEAST_NORM = 1e-6  # of gradients: a smaller one hardly has a direction, and one of 0 (a filter that never fires) none

# What may stand between two layers, as a module or a function; the softmax of an attention is no activation.
_NON_LINEARITIES = frozenset(
    {
        F.celu, F.elu, F.gelu, F.hardswish, F.hardtanh, F.leaky_relu, F.mish, F.prelu, F.relu, F.relu6, F.selu, F.silu,
        F.softplus, torch.relu, torch.relu_, torch.sigmoid, torch.tanh, Tensor.relu, Tensor.relu_, Tensor.sigmoid,
        Tensor.tanh,
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImagePairs:
    """Real images, and images that were generated for their labels."""

    real: Tensor
    """(B, C, H, W) float32, normalised and augmented."""
    generated: Tensor
    """(B, C, H, W) float32, normalised and augmented in the same way."""
    labels: Tensor
    """(B,) int64 in [0, K), of both."""
    num_classes: int
    """K."""


Distance = Callable[[DrawnTeacher, ImagePairs, MatchingConfig], Tensor]
"""Returns a scalar. Unless `unbiased`, it's 0 or more, and 0 where both halves are the same."""


def logit_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Return the mean over images and classes of (p(x) - p(G(z, y)))^2 (DiM, arXiv 2303.04707)."""
    real, generated = _log_shares(teacher, pairs, config)
    return F.mse_loss(generated, real)


def mean_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Return the mean over classes and logits of (mean p(x) - mean p(G(z, y)))^2, with means over a class's images.

    Distribution matching compares such means of features (Zhao and Bilen, arXiv 2110.04181).
    """
    classes = _Classes(pairs)
    real, generated = (classes.moments(shares) for shares in _log_shares(teacher, pairs, config))
    return classes.distance(real, generated, unbiased=config.unbiased)


def moment_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Return `mean_distance` plus the same of the variances, over the classes with two images or more.

    `unbiased` only corrects the means.
    """
    classes = _Classes(pairs)
    real, generated = (classes.moments(shares) for shares in _log_shares(teacher, pairs, config))
    variances = (generated.variances - real.variances).square()
    return classes.distance(real, generated, unbiased=config.unbiased) + classes.mean(variances, least_images=2)


def feature_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Return the mean over layers, classes and features of (mean h(x) - mean h(G(z, y)))^2.

    h are the outputs of the teacher's non-linearities, in call order. Every layer counts the same, whatever its number
    of features; CAFE (Wang et al., arXiv 2203.01531) adds the layers up.

    Raises:
        ConfigError: The teacher's network has no known non-linearity.
    """
    classes = _Classes(pairs)
    with torch.no_grad():
        real = _activation_moments(teacher, pairs.real, classes)
    generated = _activation_moments(teacher, pairs.generated, classes)
    layers = [classes.distance(a, b, unbiased=config.unbiased) for a, b in zip(real, generated, strict=True)]
    return torch.stack(layers).mean()


def gradient_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Return the mean over layers and their outputs of 1 - cos between the gradients of the halves' cross-entropy.

    Biases and norms are left out. DC (Zhao et al., arXiv 2006.05929, appendix) adds up outputs and layers; with the
    mean, one weight of the loss fits every architecture. 1 - cos is computed as |a / |a| - b / |b||^2 / 2, which is
    0 where both are 0.
    """
    names = [name for name, parameter in teacher.network.named_parameters() if parameter.ndim > 1]
    weights = {name: teacher.tensors[name].detach().requires_grad_() for name in names}
    teacher = replace(teacher, tensors={**teacher.tensors, **weights})

    def directions(images: Tensor, *, create_graph: bool) -> list[Tensor]:
        loss = F.cross_entropy(teacher(images), pairs.labels)
        found = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph, materialize_grads=True)
        return [F.normalize(gradient.flatten(1), dim=1, eps=_LEAST_NORM) for gradient in found]

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        real = directions(pairs.real.detach(), create_graph=False)
        generated = directions(pairs.generated, create_graph=True)
    layers = [(a - b).square().sum(dim=1).mean() / 2 for a, b in zip(generated, real, strict=True)]
    return torch.stack(layers).mean()


DISTANCES: Mapping[MatchingKind, Distance] = {
    "logits": logit_distance,
    "logit_means": mean_distance,
    "logit_moments": moment_distance,
    "features": feature_distance,
    "gradients": gradient_distance,
}
"""By `matching.kind`; `none` has none."""


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """Of the features of each class's images in a batch."""

    means: Tensor
    """(K, F); zeros for absent classes."""
    variances: Tensor
    """(K, F), unbiased; zeros for classes of fewer than two images."""


class _Classes:
    """Compares by class, entirely on the device."""

    def __init__(self, pairs: ImagePairs) -> None:
        self._labels = pairs.labels
        self._one_hot = F.one_hot(pairs.labels, pairs.num_classes).to(torch.float32)
        self._counts = self._one_hot.sum(dim=0)[:, None]

    def moments(self, features: Tensor) -> _Moments:
        """Return the moments of features (B, F)."""
        means = self._one_hot.T @ features / self._counts.clamp(min=1)
        squares = (features - means[self._labels]).square()
        variances = self._one_hot.T @ squares / (self._counts - 1).clamp(min=1)
        return _Moments(means=means, variances=variances)

    def distance(self, real: _Moments, generated: _Moments, *, unbiased: bool) -> Tensor:
        """Return the mean over classes and features of the squared difference of the means.

        `unbiased` subtracts the expectation of that square where both halves are drawn alike, over the classes with a
        variance.
        """
        squares = (generated.means - real.means).square()
        if not unbiased:
            return self.mean(squares)
        excess = (generated.variances + real.variances) / self._counts.clamp(min=1)
        return self.mean(squares - excess, least_images=2)

    def mean(self, values: Tensor, *, least_images: int = 1) -> Tensor:
        """Return the mean of values (K, F) over the classes with at least so many images; 0 if there are none."""
        counted = (self._counts >= least_images).to(values.dtype)
        return (counted * values).mean(dim=1).sum() / counted.sum().clamp(min=1)


def _log_shares(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> tuple[Tensor, Tensor]:
    """Return p of the real and of the generated half, (B, K) each."""

    def log_shares(images: Tensor) -> Tensor:
        logits = teacher(images)
        if config.standardised:
            logits = F.layer_norm(logits, logits.shape[1:], eps=_LEAST_VARIANCE)
        return F.log_softmax(logits / config.temperature, dim=1)

    with torch.no_grad():
        real = log_shares(pairs.real)
    return real, log_shares(pairs.generated)


def _activation_moments(teacher: DrawnTeacher, images: Tensor, classes: _Classes) -> list[_Moments]:
    """Return the moments by class of every activation, in order."""
    activations = _Activations(classes)
    with activations:
        teacher(images)
    if not activations.moments:
        raise ConfigError(
            f"matching.kind is 'features', but a {type(teacher.network).__name__} calls none of the non-linearities "
            "that are known; choose another matching.kind, or another architecture in networks.teachers."
        )
    return activations.moments


class _Activations(TorchFunctionMode):
    """Takes the moments of every activation as soon as it is computed, because layers may work in place."""

    def __init__(self, classes: _Classes) -> None:
        super().__init__()
        self.moments: list[_Moments] = []
        self._classes = classes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _NON_LINEARITIES:
            self.moments.append(self._classes.moments(result.flatten(1).float()))
        return result
