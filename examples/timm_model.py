"""Train a model of timm, on nothing but generated images.

python examples/timm_model.py       after `python -m dim_ray.tune`, whose best generator it takes
"""

from __future__ import annotations

import timm
import torch
from sklearn.datasets import load_digits
from torch import nn
from torchvision.transforms import Normalize

import dim_ray


def train(generator: dim_ray.StoredGenerator, *, name: str, num_epochs: int, learning_rate: float) -> nn.Module:
    """Return a model that has seen fresh images in every epoch."""
    model = timm.create_model(name, in_chans=1, num_classes=generator.num_classes)
    network = nn.Sequential(Normalize(generator.mean, generator.std), model)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate)
    stream = generator.stream(batch_size=64, images_per_epoch=3200, seed=0)
    for _ in range(num_epochs):
        for images, labels in stream:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


if __name__ == "__main__":
    generator = dim_ray.best_generator("dim_storage", dataset="digits", ipc=10)
    network = train(generator, name="resnet10t", num_epochs=2, learning_rate=1e-3)
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    with torch.no_grad():
        accuracy = (network(images).argmax(1) == torch.tensor(digits.target)).float().mean()
    print(f"{100 * accuracy:.1f} % of the real digits, most of which the generator was made from")
