"""Train a Lightning module, on nothing but generated images.

python examples/lightning_module.py     after `python -m dim_ray.tune`, whose best generator it takes
"""

from __future__ import annotations

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import Normalize

import dim_ray


class Classifier(lightning.LightningModule):
    """A small network for 8x8 images."""

    def __init__(self, generator: dim_ray.StoredGenerator, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.network = nn.Sequential(
            Normalize(generator.mean, generator.std),
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 6 * 6, generator.num_classes),
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of the stream."""
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)


if __name__ == "__main__":
    generator = dim_ray.best_generator("dim_storage", dataset="digits", ipc=10)
    classifier = Classifier(generator, learning_rate=1e-3)
    loader = DataLoader(generator.stream(batch_size=64, images_per_epoch=6400, seed=0), batch_size=None)
    trainer = lightning.Trainer(max_epochs=5, logger=False, enable_checkpointing=False)
    trainer.fit(classifier, loader)
    network = classifier.network.cpu().eval()
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    accuracy = (network(images).argmax(1) == torch.tensor(digits.target)).float().mean()
    print(f"{100 * accuracy:.1f} % of the real digits, most of which the generator was made from")
