"""The number format of a training step's passes; weights and optimisers are always float32.

with autocast("auto", images.device):
    logits = network(images)
"""

from __future__ import annotations

import torch

from dim_ray.config import Precision

__all__ = ["autocast", "resolve_precision"]


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
