"""What stage 2 makes small: distances between real and generated images, as a teacher f sees them.

    pairs = ImagePairs(real=real, generated=generated, labels=labels, num_classes=10)
    loss = DISTANCES[config.kind](teacher, pairs, config)

The two halves have the same labels in the same order, and the gradient goes through the generated one alone. In what
follows, p(x) = log_softmax(f(x) / temperature), where with `standardised` each image's logits f(x) are brought to mean
0 and variance 1 before (Sun et al., arXiv 2403.01427). Classes that a batch has no image of don't count.

Matching image by image asks of two different images of a class to have the same logits; the other kinds compare classes
or gradients, and leave the images of a class free to differ.

Not quite free: a batch has few images of a class, and the square of the difference of their means expects the square
that all images would give plus (variance of real + of generated) / n, which is smallest where all generated images of
a class are alike. With `unbiased`, that excess is estimated and subtracted (the unbiased estimate of the maximum mean
discrepancy with a linear kernel, Gretton et al., JMLR 13, 2012, lemma 6), and so the distance of a batch may be below
0.
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
_LEAST_NORM = 1e-6  # of gradients: one below it has hardly a direction, and none at 0 (a filter that never fires)

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
    """The same of the generated images, augmented in the same way."""
    labels: Tensor
    """(B,) int64 in [0, K), of both."""
    num_classes: int
    """K."""


Distance = Callable[[DrawnTeacher, ImagePairs, MatchingConfig], Tensor]
"""Returns a scalar. Unless `unbiased`, it's 0 or more, and 0 where both halves are the same."""


def logit_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Returns the mean over images and classes of (p(x) - p(G(z, y)))^2 (DiM, arXiv 2303.04707)."""
    real, generated = _log_shares(teacher, pairs, config)
    return F.mse_loss(generated, real)


def mean_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Returns the mean over classes and logits of (mean p(x) - mean p(G(z, y)))^2, with a class's mean over the batch.

    Means of classes are what distribution matching compares (Zhao and Bilen, arXiv 2110.04181), there of features.
    """
    classes = _Classes(pairs)
    real, generated = (classes.moments(shares) for shares in _log_shares(teacher, pairs, config))
    return classes.distance(real, generated, unbiased=config.unbiased)


def moment_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Returns `mean_distance` plus the same of the variances, over the classes with two images or more.

    `unbiased` corrects the means alone.
    """
    classes = _Classes(pairs)
    real, generated = (classes.moments(shares) for shares in _log_shares(teacher, pairs, config))
    variances = (generated.variances - real.variances).square()
    return classes.distance(real, generated, unbiased=config.unbiased) + classes.mean(variances, least_images=2)


def feature_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Returns the mean over layers, classes and features of (mean h(x) - mean h(G(z, y)))^2.

    h are the outputs of the teacher's non-linearities, whether modules or functions, in the order in which they are
    called. Every layer counts the same, whatever its number of features (layer-wise class means: CAFE, Wang et al.,
    arXiv 2203.01531, which adds the layers up).

    Raises:
        ConfigError: The teacher's network has no non-linearity that is known.
    """
    classes = _Classes(pairs)
    with torch.no_grad():
        real = _activation_moments(teacher, pairs.real, classes)
    generated = _activation_moments(teacher, pairs.generated, classes)
    layers = [classes.distance(a, b, unbiased=config.unbiased) for a, b in zip(real, generated, strict=True)]
    return torch.stack(layers).mean()


def gradient_distance(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> Tensor:
    """Returns the mean over layers and their outputs of 1 - cos between the gradients of the two halves' cross-entropy.

    A weight's gradient has a row for each output of its layer; biases and norms, with one number for each, are left
    out. DC (Zhao et al., arXiv 2006.05929, appendix) adds up rows and layers; with the mean, one weight of the loss
    fits every architecture. It's computed as |a / |a| - b / |b||^2 / 2, which is the same, and 0 where both are 0.
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
    """Compares by class; no class is looked at on the host."""

    def __init__(self, pairs: ImagePairs) -> None:
        self._labels = pairs.labels
        self._one_hot = F.one_hot(pairs.labels, pairs.num_classes).to(torch.float32)
        self._counts = self._one_hot.sum(dim=0)[:, None]

    def moments(self, features: Tensor) -> _Moments:
        """Takes (B, F)."""
        means = self._one_hot.T @ features / self._counts.clamp(min=1)
        squares = (features - means[self._labels]).square()
        variances = self._one_hot.T @ squares / (self._counts - 1).clamp(min=1)
        return _Moments(means=means, variances=variances)

    def distance(self, real: _Moments, generated: _Moments, *, unbiased: bool) -> Tensor:
        """Returns the mean over classes and features of the squared difference of the means.

        `unbiased` subtracts what it expects of that square where both halves are drawn alike, over the classes that
        have a variance.
        """
        squares = (generated.means - real.means).square()
        if not unbiased:
            return self.mean(squares)
        excess = (generated.variances + real.variances) / self._counts.clamp(min=1)
        return self.mean(squares - excess, least_images=2)

    def mean(self, values: Tensor, *, least_images: int = 1) -> Tensor:
        """Returns the mean of values (K, F) over the classes of so many images; 0 where there is none."""
        counted = (self._counts >= least_images).to(values.dtype)
        return (counted * values).mean(dim=1).sum() / counted.sum().clamp(min=1)


def _log_shares(teacher: DrawnTeacher, pairs: ImagePairs, config: MatchingConfig) -> tuple[Tensor, Tensor]:
    """Returns p of the real and of the generated half, (B, K) each."""

    def log_shares(images: Tensor) -> Tensor:
        logits = teacher(images)
        if config.standardised:
            logits = F.layer_norm(logits, logits.shape[1:], eps=_LEAST_VARIANCE)
        shares: Tensor = F.log_softmax(logits / config.temperature, dim=1)
        return shares

    with torch.no_grad():
        real = log_shares(pairs.real)
    return real, log_shares(pairs.generated)


def _activation_moments(teacher: DrawnTeacher, images: Tensor, classes: _Classes) -> list[_Moments]:
    """Returns the moments by class of every activation, in order."""
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
    """Takes the moments of every activation that is computed inside of it, at once: layers may work in place."""

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
