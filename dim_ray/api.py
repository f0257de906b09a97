"""The public API: stored generators in any training loop, with torch and without Ray.

generator = dim_ray.best_generator("dim_storage", dataset="digits", ipc=10)
images = generator.sample(labels, seed=0)                     # (N, C, H, W) in [0, 1]
loader = DataLoader(generator.fixed_dataset(ipc=10, seed=0), batch_size=32, shuffle=True)
for images, labels in generator.stream(batch_size=64, images_per_epoch=6400, seed=0): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike, fspath
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset, get_worker_info

from dim_ray.config import WEIGHTS, Weights
from dim_ray.config.names import is_name
from dim_ray.core.data.dataset import Normalisation
from dim_ray.core.generator.networks import Generator
from dim_ray.core.students.images import balanced_labels, choose
from dim_ray.core.teachers.soft_labels import Labeller
from dim_ray.core.training.random import derive_seed, stream
from dim_ray.errors import UsageError
from dim_ray.pipeline.generators import generator_from_artifact, stored_weights
from dim_ray.pipeline.soft_labels import stored_labeller, stored_matching
from dim_ray.store.artifacts import ArtifactStore, read_artifact
from dim_ray.store.reader import Reader

__all__ = ["GeneratedStream", "StoredGenerator", "best_generator", "load_generator", "named_generator"]

_BATCH = 500  # images generated at a time: bounds memory


class StoredGenerator:
    """A generator, in eval mode, with everything needed to train on its images."""

    def __init__(self, module: Generator, card: dict[str, Any], uri: str, weights: Weights = "raw") -> None:
        self.weights = weights
        self.module = module
        self.card = card
        self.uri = uri
        self._labeller: Labeller | None = None
        self.fingerprint: str = card["fingerprint"]
        self.class_names: tuple[str, ...] = tuple(card["dataset"]["class_names"])
        self.mean: tuple[float, ...] = tuple(card["dataset"]["mean"])
        """Mean of each channel of the real training images in [0, 1]."""
        self.std: tuple[float, ...] = tuple(card["dataset"]["std"])
        """Standard deviation of each channel of the real training images in [0, 1]."""

    def __repr__(self) -> str:
        dataset = self.card["dataset"]
        size = dataset["image_size"]
        return (
            f"StoredGenerator({dataset['name']}, {len(self.class_names)} classes, "
            f"{dataset['num_channels']}x{size}x{size}, {self.fingerprint})"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)

    def to(self, device: torch.device | str) -> StoredGenerator:
        """Move the network to a device, and return self."""
        self.module.to(device)
        self._labeller = None
        return self

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int | None = None, *, candidates: int = 1) -> Tensor:
        """Generate one image per label.

        Args:
            labels: (N,) integers in [0, K).
            seed: Seed of the images; None for new ones each time.
            candidates: Images generated for each that is returned, as `evaluation.candidates`; the generator's teachers
                choose, and have to be in its storage.

        Returns:
            (N, C, H, W) float32 in [0, 1], on the network's device. For a classifier, normalise with `mean`, `std`.

        Raises:
            UsageError: A label is not a class, or there are no teachers to choose.
        """
        _require_positive("candidates", candidates)
        labels = torch.as_tensor(labels)
        is_vector = labels.ndim == 1 and not labels.is_floating_point()
        if not is_vector or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes):
            raise UsageError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}; allowed: a vector of whole numbers "
                f"from 0 to {self.num_classes - 1}, one for each image."
            )
        device = self.module.to_image.weight.device
        labels = labels.to(device, torch.int64)
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        rng = stream(seed, "sample", device=device)
        parts = [self._draw(part, rng, candidates) for part in torch.split(labels, max(1, _BATCH // candidates))]
        return (torch.cat(parts) + 1) / 2

    def _draw(self, labels: Tensor, rng: torch.Generator, candidates: int) -> Tensor:
        images = self.module.sample(labels.repeat_interleave(candidates), rng)
        if candidates == 1:
            return images
        if self._labeller is None:
            self._labeller = stored_labeller(self.card, self.uri, labels.device)
        normalised = Normalisation(mean=self.mean, std=self.std).from_signed(images)
        return images[choose(self._labeller(normalised), labels)]

    def fixed_dataset(self, ipc: int, seed: int = 0, *, candidates: int = 1, latent_steps: int = 0) -> TensorDataset:
        """Return a map-style dataset of IPC images per class: (image (C, H, W) in [0, 1], label). See `sample`.

        With `latent_steps`, as `evaluation.latent_steps`, students learn more from as few images. That needs the
        generator's teachers in its storage, and the real images where they were.
        """
        _require_positive("ipc", ipc)
        if latent_steps < 0 or (latent_steps and candidates > 1):
            raise UsageError(f"latent_steps is {latent_steps}; allowed: 0 or more, and with candidates only 0.")
        labels = balanced_labels(self.num_classes, ipc)
        if not latent_steps:
            return TensorDataset(self.sample(labels, seed, candidates=candidates).cpu(), labels)
        device = self.module.to_image.weight.device
        own = labels.to(device)
        noise = self.module.noise(len(own), stream(seed, "sample", device=device))
        match = stored_matching(self.card, self.uri, device, steps=latent_steps)
        latents = match(self.module, noise, own, seed)
        with torch.no_grad():
            parts = [self.module(*part) for part in zip(latents.split(_BATCH), own.split(_BATCH), strict=True)]
        return TensorDataset((torch.cat(parts).cpu() + 1) / 2, labels)

    def stream(self, batch_size: int, images_per_epoch: int, seed: int = 0, *, candidates: int = 1) -> GeneratedStream:
        """Return an iterable dataset of batches, with fresh images in every epoch.

        It yields (images (B, C, H, W) in [0, 1], labels (B,)). In a DataLoader, use batch_size=None; one with
        workers needs a generator on the CPU.

        Args:
            batch_size: Images per batch.
            images_per_epoch: Images per pass; the last batch may be smaller.
            seed: Seed of all epochs; a DataLoader's workers mix torch's seed in.
            candidates: As for `sample`.
        """
        _require_positive("batch_size", batch_size)
        _require_positive("images_per_epoch", images_per_epoch)
        return GeneratedStream(self, batch_size, images_per_epoch, seed, candidates)


class GeneratedStream(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of fresh images; in an epoch, the numbers of images per class differ by at most one."""

    def __init__(
        self, generator: StoredGenerator, batch_size: int, images_per_epoch: int, seed: int, candidates: int = 1
    ) -> None:
        super().__init__()
        self._generator = generator
        self._batch_size = batch_size
        self._images_per_epoch = images_per_epoch
        self._seed = seed
        self._candidates = candidates
        self._epoch = 0

    def __len__(self) -> int:
        return -(-self._images_per_epoch // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self._epoch
        self._epoch += 1
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        # A DataLoader starts new workers for every epoch, which know it only by their seed.
        base = derive_seed(self._seed, "epoch", epoch, worker.seed - worker.id if worker else 0)
        order = torch.randperm(self._images_per_epoch, generator=stream(base, "labels")) % self._generator.num_classes
        for index, labels in enumerate(torch.split(order, self._batch_size)):
            if index % stride == first:
                seed = derive_seed(base, index)
                yield self._generator.sample(labels, seed, candidates=self._candidates), labels


def load_generator(
    path_or_uri: str | PathLike[str], device: torch.device | str = "cpu", *, weights: Weights = "average"
) -> StoredGenerator:
    """Load a generator.

    Args:
        path_or_uri: Its folder or a file in it, as a local path or a URI. On the Hugging Face Hub it's `hf://ORG/NAME`;
            `@REVISION` may follow.
        device: Device of the network.
        weights: The moving average of the weights, if there is one, or the `raw` ones.

    Raises:
        UsageError: `weights` is unknown, or an hf:// address can't be used.
        ArtifactError: It is not a generator, or is truncated, altered or of a newer format.
    """
    if weights not in WEIGHTS:
        raise UsageError(f"weights is {weights!r}; allowed: {' or '.join(WEIGHTS)}.")
    artifact = read_artifact(fspath(path_or_uri), kind="generators")
    module = generator_from_artifact(artifact, weights, device)
    return StoredGenerator(module, artifact.card, artifact.uri, stored_weights(artifact.card, weights))


def best_generator(
    storage: str | PathLike[str],
    *,
    dataset: str,
    ipc: int,
    architecture: str | None = None,
    protocol: str = "on_the_fly",
    max_bytes: int | None = None,
    max_device_seconds: float | None = None,
    device: torch.device | str = "cpu",
) -> StoredGenerator:
    """Load the generator whose students have the highest mean validation accuracy; the test split never chooses.

    Generators are compared on the data, budget and architecture that most of them were evaluated with.

    Args:
        storage: Root of the storage.
        dataset: Name in the rows.
        ipc: Images per class of the students.
        architecture: Architecture of the students. Default: the one that most generators were evaluated with.
        protocol: `on_the_fly` or `fixed`.
        max_bytes: Largest size of the generator's file, or for `fixed` of the images. Default: any.
        max_device_seconds: Largest cost of the generator's trial, as time x devices; generators that no trial made are
            left out. Default: any.
        device: Device of the network.

    Raises:
        DimError: Nothing fits; the message says what is there.
    """
    storage = fspath(storage)
    cell = Reader(storage).best_cell(
        dataset=dataset,
        ipc=ipc,
        architecture=architecture,
        protocol=protocol,
        max_bytes=max_bytes,
        max_device_seconds=max_device_seconds,
    )
    return load_generator(ArtifactStore(storage).uri("generators", cell["generator"]), device, weights=cell["weights"])


def named_generator(
    storage: str | PathLike[str], name: str | None, *, dataset: str | None = None, weights: Weights | None = None
) -> StoredGenerator:
    """Load the generator that a command line names by folder, URI or fingerprint.

    Without a name it's the storage's best for a data set, by default the only one that has evaluations, with the
    weights that it was chosen by.

    Raises:
        DimError: As `load_generator` and `best_generator`, or there are several data sets.
    """
    artifacts = ArtifactStore(fspath(storage))
    if name is None:
        cell = Reader(artifacts.root).best_cell(dataset=dataset)
        name, weights = str(cell["generator"]), weights or cell["weights"]
    if is_name(name) and artifacts.exists("generators", name):
        name = artifacts.uri("generators", name)
    return load_generator(name, weights=weights or "average")


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name} is {value}; allowed: 1 or more.")
