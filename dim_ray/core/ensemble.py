"""Networks of one architecture side by side, so that one step trains them all: alone, or stacked as one ensemble.

    members = gather([build_classifier("convnet3", ..., rng=stream(seed, "weights")) for seed in range(5)])
    optimizer = torch.optim.SGD(members.parameters, 0.01)
    losses = members.losses(images, labels, precision="float32", temperature=1.0)      # (5,)
    torch.autograd.backward(losses.sum())

An ensemble's parameters have one more dimension, the members'. Optimisers and gradients of the losses' sum treat every
member as if it were alone, so each becomes what it would have become by itself, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from dim_ray.config import Precision, check_architecture
from dim_ray.core.labels import label_loss
from dim_ray.core.precision import autocast, resolve_precision

__all__ = ["Members", "ensemble_pays", "gather"]

# How many times as fast an ensemble of three is as its members one by one: whole steps on one core of an AMD EPYC with
# AVX-512, PyTorch 2.15, in turns; medians of 5 to 9. They vary by a tenth or two from run to run. Ensembles of five of
# the fast ones were faster still, 1.2 to 2.0 times in float32.
#
#   architecture    pixels    batch    float32    bfloat16
#   mlp                  8       10       1.19        1.26
#   mlp                 28       10       0.99        1.35
#   mlp                 28      100       1.05        1.21
#   lenet                8       10       1.07        1.12
#   lenet               28       10       1.16        1.23
#   lenet               28      100       0.68        0.90
#   convnet3             8       10       1.12        1.27
#   convnet3_bn          8       10       1.17        1.01
#   convnet3_w32         8       10       1.66        1.35
#   convnet3             8       20       1.01        1.16
#   convnet3             8       50       0.78        0.96
#   convnet3            28       10       0.79        0.85
#   convnet3            28      100       0.58        0.36
#   resnet10_w16         8       10       1.26        1.20
#   resnet10_w16        28       10       0.98        0.85
#   resnet10             8       10       0.73        0.81
#   vit_tiny             8       10       0.71        0.82
#   vit_tiny            28       10       0.46        0.60
#
# An ensemble saves what PyTorch spends on each operation beside its arithmetic, and loses by the arithmetic itself:
# its convolutions are those in groups, and its attention isn't the fused one.
_FASTER_ON_CPU = {  # by family: up to which width, batch and image size
    "convnet3": (128, 10, 8),
    "lenet": (0, 10, 28),
    "mlp": (128, 100, 28),
    "resnet10": (16, 10, 8),
}


class Members(Protocol):
    """S networks of one architecture."""

    parameters: list[Tensor]
    """What an optimiser steps."""
    buffers: list[Tensor]
    """Running statistics."""

    def set_mode(self, *, training: bool) -> None:
        """Puts all members into training or eval mode."""

    def losses(self, images: Tensor, labels: Tensor, *, precision: Precision, temperature: float) -> Tensor:
        """Returns the loss of each member on images of its own, (S,) float32.

        Args:
            images: (S x B, C, H, W) normalised; member after member.
            labels: (S x B,) int64, or (S x B, K) float32 probabilities.
            precision: Of the passes through the networks.
            temperature: Of soft labels.
        """

    def logits(self, images: Tensor) -> Tensor:
        """Takes the same normalised images (B, C, H, W) through every member, to (S, B, K) float32."""

    def are_finite(self) -> list[bool]:
        """Whether all parameters of each member are finite numbers."""


def gather(networks: Sequence[nn.Module]) -> Members:
    """Returns networks of one architecture as members; a single one is trained as it is."""
    return _Alone(networks[0]) if len(networks) == 1 else _Ensemble(networks)


def ensemble_pays(architecture: str, device_type: str, *, batch_size: int, image_size: int) -> bool:
    """Whether an ensemble of students is known to take less time than its members one by one.

    On a CPU where it was measured to, on one core. On any other device always, which is NOT measured yet: it is
    expected because a small network's step waits there for the start of its kernels, and an ensemble starts hardly more
    of them than one student does.

    Args:
        architecture: Name in the registry.
        device_type: Such as ``cpu`` or ``cuda``.
        batch_size: Images of one student's step.
        image_size: Their height and width, in pixels.
    """
    if device_type != "cpu":
        return True
    known = check_architecture(architecture)
    if known.family not in _FASTER_ON_CPU:
        return False
    width, largest_batch, largest_image = _FASTER_ON_CPU[known.family]
    return known.width <= width and batch_size <= largest_batch and image_size <= largest_image


class _Alone:
    """One network: the slow reference of an ensemble."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.parameters: list[Tensor] = list(network.parameters())
        self.buffers: list[Tensor] = list(network.buffers())

    def set_mode(self, *, training: bool) -> None:
        self._network.train(training)

    def losses(self, images: Tensor, labels: Tensor, *, precision: Precision, temperature: float) -> Tensor:
        with autocast(precision, images.device):
            logits = self._network(images)
        return label_loss(logits.float(), labels, temperature)[None]

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self._network(images)
        return logits[None]

    def are_finite(self) -> list[bool]:
        return [all(bool(tensor.isfinite().all()) for tensor in self.parameters)]


class _Ensemble:
    """Several networks, whose tensors are stacked and whose passes are batched."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._num_members = len(networks)
        self._template = networks[0]
        parameters, buffers = torch.func.stack_module_state(list(networks))
        self._tensors: Mapping[str, Tensor] = {**parameters, **buffers}
        self.parameters: list[Tensor] = list(parameters.values())
        self.buffers: list[Tensor] = list(buffers.values())

    def set_mode(self, *, training: bool) -> None:
        self._template.train(training)

    def losses(self, images: Tensor, labels: Tensor, *, precision: Precision, temperature: float) -> Tensor:
        own_images, own_labels = (whole.unflatten(0, (self._num_members, -1)) for whole in (images, labels))
        with _batched_autocast(precision, images.device), _batched_attention(images.device):
            logits: Tensor = torch.vmap(self._call)(self._tensors, own_images)
        losses: Tensor = torch.vmap(label_loss, in_dims=(0, 0, None))(logits.float(), own_labels, temperature)
        return losses

    def logits(self, images: Tensor) -> Tensor:
        # One after the other: tests come in large batches, which took 1.2 to 2.1 times as long in one pass on a CPU.
        own = ({name: tensor[index] for name, tensor in self._tensors.items()} for index in range(self._num_members))
        return torch.stack([self._call(tensors, images) for tensors in own])

    def are_finite(self) -> list[bool]:
        finite = torch.stack([tensor.isfinite().flatten(1).all(dim=1) for tensor in self.parameters])
        own: list[bool] = finite.all(dim=0).tolist()
        return own

    def _call(self, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(self._template, dict(tensors), (images,), strict=True)
        return logits


@contextmanager
def _batched_attention(device: torch.device) -> Iterator[None]:
    """Computes attention on a CPU by plain products: torch.vmap has no rule for the fused kernel there."""
    if device.type != "cpu":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _batched_autocast(precision: Precision, device: torch.device) -> Iterator[None]:
    """As `autocast`, with the casts that it leaves out under torch.vmap."""
    if resolve_precision(precision, device) == "float32":
        yield
        return
    with autocast(precision, device), _Casts():
        yield


class _Casts(TorchFunctionMode):
    """Gives convolutions bfloat16, and batch norms float32.

    torch.vmap makes convolutions that aren't on autocast's list, and batch norms that take no two types.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d:
            args = tuple(value.bfloat16() if isinstance(value, Tensor) else value for value in args)
        elif func is F.batch_norm:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))
