"""Train a network in a plain loop, on nothing but generated images.

python examples/plain_loop.py       after `python -m dim_ray.tune`, whose best generator it takes
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torchvision.transforms import Normalize

import dim_ray


def train(generator: dim_ray.StoredGenerator, *, num_epochs: int, learning_rate: float) -> nn.Module:
    """Return a network that has seen fresh images in every epoch."""
    network = nn.Sequential(
        Normalize(generator.mean, generator.std),
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(generator.num_classes),
    )
    stream = generator.stream(batch_size=64, images_per_epoch=6400, seed=0)
    network(next(iter(stream))[0])  # gives the lazy layer its size
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    for _ in range(num_epochs):
        for images, labels in stream:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


if __name__ == "__main__":
    generator = dim_ray.best_generator("dim_storage", dataset="digits", ipc=10)
    network = train(generator, num_epochs=5, learning_rate=1e-3)
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    accuracy = (network(images).argmax(1) == torch.tensor(digits.target)).float().mean()
    print(f"{100 * accuracy:.1f} % of the real digits, most of which the generator was made from")
