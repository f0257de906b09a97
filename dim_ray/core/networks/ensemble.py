"""Networks of one architecture that one step trains together, as a batched ensemble.

    members = stack([build_classifier("convnet3", ..., rng=stream(seed, "weights")) for seed in range(5)])
    optimizer = torch.optim.SGD(members.parameters, 0.01)
    losses = train_members(members, optimizer, images, labels, rngs, augmentation="none", precision="auto")      # (5,)

An ensemble's parameters have one more dimension, the members'. Optimisers work element by element, and gradients of the
losses' sum don't mix members, so each becomes what it would have become by itself, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from dim_ray.config import Precision
from dim_ray.core.data.augment import augment_parts
from dim_ray.core.networks.classifiers import label_loss
from dim_ray.core.training.checkpoint import restore_module
from dim_ray.core.training.precision import autocast, resolve_precision

__all__ = ["Members", "stack", "train_members"]


class Members(Protocol):
    """S networks of one architecture."""

    parameters: list[Tensor]
    buffers: list[Tensor]
    """Running statistics."""

    def set_mode(self, *, training: bool) -> None:
        """Put all members into training or eval mode."""

    def losses(self, images: Tensor, labels: Tensor, *, precision: Precision, temperature: float) -> Tensor:
        """Return each member's loss on its own images, (S,) float32; arguments as for `train_members`."""

    def logits(self, images: Tensor, precision: Precision = "float32") -> Tensor:
        """Pass the same normalised images (B, C, H, W) through every member, to (S, B, K)."""

    def are_finite(self) -> list[bool]:
        """Return for each member whether all of its parameters are finite."""

    def state(self) -> dict[str, Tensor]:
        """Return parameters and buffers of all members by name. They are no copies."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""

    def split(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Divide what `state` returned into each member's own, with a network's names."""


def stack(networks: Sequence[nn.Module]) -> Members:
    """Return networks of one architecture as members; a single one is trained as it is."""
    return _Single(networks[0]) if len(networks) == 1 else _Ensemble(networks)


def train_members(
    members: Members,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    rngs: Sequence[torch.Generator],
    *,
    augmentation: str,
    precision: Precision,
    temperature: float = 1.0,
) -> Tensor:
    """Make one step of S members in training mode, each on its own batch; return their losses, (S,) and detached.

    Member after member, images are (S x B, C, H, W) and normalised, and labels (S x B,) int64, or (S x B, K) float32
    probabilities, which have a temperature. Each stream, on the images' device, is of one member's augmentation.
    """
    augmented = augment_parts(images, augmentation, rngs)
    losses = members.losses(augmented, labels, precision=precision, temperature=temperature)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(losses.sum())
    optimizer.step()
    return losses.detach()


class _Single:
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

    def logits(self, images: Tensor, precision: Precision = "float32") -> Tensor:
        with autocast(precision, images.device):
            logits: Tensor = self._network(images)
        return logits[None]

    def are_finite(self) -> list[bool]:
        return [all(bool(tensor.isfinite().all()) for tensor in self.parameters)]

    def state(self) -> dict[str, Tensor]:
        return dict(self._network.state_dict())

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        restore_module(self._network, tensors)

    def split(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        return [dict(tensors)]


class _Ensemble:
    """Networks with stacked tensors and batched passes."""

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
        with _batched(precision, images.device):
            logits: Tensor = torch.vmap(self._call)(self._tensors, own_images)
        losses: Tensor = torch.vmap(label_loss, in_dims=(0, 0, None))(logits.float(), own_labels, temperature)
        return losses

    def logits(self, images: Tensor, precision: Precision = "float32") -> Tensor:
        # One by one: batched passes of large test batches took 1.2 to 2.1 times as long on a CPU.
        with autocast(precision, images.device):
            logits = [self._call(own, images) for own in self.split(self._tensors)]
        return torch.stack(logits)

    def are_finite(self) -> list[bool]:
        finite = torch.stack([tensor.isfinite().flatten(1).all(dim=1) for tensor in self.parameters])
        own: list[bool] = finite.all(dim=0).tolist()
        return own

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        for name, own in self.state().items():
            own.copy_(tensors[name])

    def split(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        return [{name: tensor[index] for name, tensor in tensors.items()} for index in range(self._num_members)]

    def _call(self, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(self._template, dict(tensors), (images,), strict=True)
        return logits


@contextmanager
def _batched(precision: Precision, device: torch.device) -> Iterator[None]:
    """Enter `autocast` and whatever passes under torch.vmap need beside it."""
    with ExitStack() as contexts:
        if device.type == "cpu":  # torch.vmap has no rule for the fused attention there
            contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
        if resolve_precision(precision, device) != "float32":
            contexts.enter_context(autocast(precision, device))
            contexts.enter_context(_Casts())
        yield


class _Casts(TorchFunctionMode):
    """Casts to bfloat16 for convolutions, and to float32 for batch norms.

    Under torch.vmap convolutions aren't on autocast's list, and batch norms need tensors of one type.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d:
            args = tuple(value.bfloat16() if isinstance(value, Tensor) else value for value in args)
        elif func is F.batch_norm:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))
