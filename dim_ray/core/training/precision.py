"""The number format of a training step's passes; weights and optimisers are always float32.

with autocast("auto", images.device):
    logits = network(images)
logits = call(network, "auto", images)      # the same, with all weights cast at once
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dim_ray.config import Precision

__all__ = ["autocast", "call", "prepare_cuda", "resolve_precision", "stated_precision"]

_CAST = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)  # the modules whose weights autocast would cast, one by one
_ALIGNMENT = 64  # of tensors in a buffer, in numbers: kernels want whole lines of memory


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return PyTorch's mixed-precision context, switched off for float32."""
    # Without the cache of cast weights: one that was cast under `no_grad` would be used again, without its gradient.
    return torch.autocast(
        device.type, torch.bfloat16, resolve_precision(precision, device) == "bfloat16", cache_enabled=False
    )


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Return what `auto` means on a device: bfloat16 where products in it are faster, otherwise float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        capabilities = torch.cpu.get_capabilities()
        # Intel's AVX-512 multiplies bfloat16 at half the rate of float32, AMD's at twice that rate.
        is_intel = "Intel" in str(capabilities.get("cpu_name", ""))
        has_bfloat16 = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16")[is_intel:])
    return "bfloat16" if has_bfloat16 else "float32"


def stated_precision(precision: Precision, device: torch.device) -> str:
    """Return what rows say: tf32 where PyTorch rounds the factors of float32's convolutions to TF32."""
    resolved = resolve_precision(precision, device)
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32" if resolved == "float32" and has_tf32 and torch.backends.cudnn.allow_tf32 else resolved


def prepare_cuda(*, deterministic: bool) -> None:
    """Let this process use the fastest algorithm for each shape, or only those that always give the same bits.

    PyTorch warns of an operation that has none of these.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    if torch.are_deterministic_algorithms_enabled() is not deterministic:  # the call imports PyTorch's compiler
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic


def call(network: nn.Module, precision: Precision, *inputs: Tensor) -> Any:
    """Call a network under `autocast`, which finds the weights of linear layers and convolutions cast already."""
    device = inputs[0].device
    if resolve_precision(precision, device) == "float32":
        return network(*inputs)
    with autocast(precision, device):
        weights = {
            f"{name}.{own}": weight
            for name, module in network.named_modules()
            if isinstance(module, _CAST)
            for own, weight in module.named_parameters(recurse=False)
        }
        cast = dict(zip(weights, _Cast.apply(*weights.values()), strict=True))
        return torch.func.functional_call(network, cast, inputs, tie_weights=False)


class _Cast(torch.autograd.Function):
    """Casts weights to bfloat16, and their gradients to float32."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.weights = weights
        return _copies(weights, weights, torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        weights = [weight for weight, own in zip(ctx.weights, gradients, strict=True) if own is not None]
        copies = iter(_copies(weights, [own for own in gradients if own is not None], torch.float32))
        return tuple(None if own is None else next(copies) for own in gradients)


def _copies(weights: Sequence[Tensor], values: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return copies of the values, with the weights' layout in memory, as parts of one buffer."""
    sizes = [-(-weight.numel() // _ALIGNMENT) * _ALIGNMENT for weight in weights]
    parts = torch.empty(sum(sizes), dtype=dtype, device=weights[0].device).split(sizes)
    copies = [part.as_strided(w.shape, w.stride()) for part, w in zip(parts, weights, strict=True)]
    torch._foreach_copy_(copies, list(values))
    return tuple(copies)
