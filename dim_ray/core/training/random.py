"""Random numbers as a function of (seed, purpose, step).

    rng = stream(0, "adversarial", "noise", step=1000)
    torch.randn(64, 100, generator=rng)

No stage carries a random state: step 1,000 draws the same numbers in whatever process and on however many workers the
steps before it ran. That is what makes a resumed run bit-identical.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive_seed", "stream"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed in [0, 2^63) of its own for every seed and purpose."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *purpose: str | int, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the random stream of one purpose at one step, on `device`."""
    rng = torch.Generator(device=device)
    rng.manual_seed(derive_seed(seed, *purpose, step))
    return rng
