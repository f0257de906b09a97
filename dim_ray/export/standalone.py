"""Sample images of this generator with only PyTorch.

    python sample.py --ipc 10 --seed 0 --out images.pt      # a dictionary: images, labels, class_names

or, in Python, from this folder:

    from sample import load
    generator = load("path/of/this/folder")
    images = generator.sample(torch.arange(generator.num_classes), seed=0)  # (N, C, H, W) float32 in [0, 1]

Weights, program and script are first compared with the SHA-256s in card.json. The images are those of dim_ray's
`load_generator(folder).sample(labels, seed)` on the same kind of machine, bit by bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PROGRAM_FILE = "program.pt2"

_BATCH = 500  # as in dim_ray: another batch size may round differently


class Program:
    """An exported generator.

    Args:
        folder: Exported folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.card = _checked_card(Path(folder))
        self.class_names: list[str] = self.card["dataset"]["class_names"]
        self.mean: list[float] = self.card["dataset"]["mean"]
        self.std: list[float] = self.card["dataset"]["std"]
        self._network = torch.export.load(Path(folder) / PROGRAM_FILE).module()

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int) -> Tensor:
        """Return an image (C, H, W) in [0, 1] per label (N,) in [0, K); the seed decides the images."""
        rng = torch.Generator()
        digest = hashlib.sha256(f"{seed}/sample/0".encode()).digest()
        rng.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        latent_dim = self.card["generator"]["latent_dim"]
        parts = []
        for part in torch.split(labels.to(torch.int64), _BATCH):
            noise = torch.randn(len(part), latent_dim, generator=rng)
            parts.append(self._network(noise, part))
        return torch.cat(parts)


def load(folder: str | Path) -> Program:
    """Load an exported generator; raise a `ValueError` if a file was altered."""
    return Program(folder)


def main() -> None:
    """Write images of every class to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ipc", type=int, default=10, help="images per class (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--out", required=True, help="file that torch.load reads")
    options = parser.parse_args()
    generator = load(Path(__file__).parent)
    labels = torch.arange(generator.num_classes).repeat_interleave(options.ipc)
    images = generator.sample(labels, options.seed)
    torch.save({"images": images, "labels": labels, "class_names": generator.class_names}, options.out)


def _checked_card(folder: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads((folder / "card.json").read_bytes())
    except ValueError as error:
        raise ValueError(f"card.json of {folder} was altered: it isn't JSON ({error}).") from error
    digest = card.pop("card_sha256", None)
    if digest != hashlib.sha256(json.dumps(card, sort_keys=True, allow_nan=False).encode()).hexdigest():
        raise ValueError(f"card.json of {folder} was altered: it doesn't fit its own card_sha256.")
    for name, stated in card["files"].items():
        path = folder / name
        data = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".py":
            data = data.replace(b"\r\n", b"\n")  # as a checkout on Windows has it
        if hashlib.sha256(data).hexdigest() != stated["sha256"]:
            raise ValueError(f"{path} is missing or was altered: its SHA-256 isn't the one in card.json.")
    return card


if __name__ == "__main__":
    main()
