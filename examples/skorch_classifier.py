"""Train a skorch classifier, on nothing but generated images, and use it as any of scikit-learn's.

python examples/skorch_classifier.py    after `python -m dim_ray.tune`, whose best generator it takes
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn
from torchvision.transforms import Normalize

import dim_ray


def train(generator: dim_ray.StoredGenerator, *, num_epochs: int, learning_rate: float) -> NeuralNetClassifier:
    """Return a classifier that has seen fresh images in every epoch."""
    network = nn.Sequential(
        Normalize(generator.mean, generator.std),
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 6 * 6, generator.num_classes),
    )
    classifier = NeuralNetClassifier(
        network,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=learning_rate,
        max_epochs=num_epochs,
        classes=range(generator.num_classes),
        train_split=None,  # there is nothing to hold out: every epoch is new
        iterator_train__batch_size=None,  # the stream makes the batches
    )
    return classifier.fit(generator.stream(batch_size=64, images_per_epoch=6400, seed=0), y=None)


if __name__ == "__main__":
    generator = dim_ray.best_generator("dim_storage", dataset="digits", ipc=10)
    network = train(generator, num_epochs=5, learning_rate=1e-3)
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype("float32")
    accuracy = network.score(images, digits.target)
    print(f"{100 * accuracy:.1f} % of the real digits, most of which the generator was made from")
