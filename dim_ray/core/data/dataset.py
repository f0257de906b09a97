"""Real images of any source as uint8 tensors on the device, in splits.

    dataset = load_dataset(DataConfig(dataset="digits"), device="cuda")
    dataset.normalisation.from_bytes(dataset.train.images[:64])

The splits depend only on the images, the fractions and the split seed, so every process that loads a data set gets the
same one, with the same `digest`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dim_ray.config import DataConfig, NormalisationKind
from dim_ray.core.data.splits import Source, Split, check_image_size, class_counts, hold_out
from dim_ray.core.training.random import stream
from dim_ray.errors import DataError, listed

__all__ = ["Dataset", "Normalisation", "Split", "describe", "load_dataset", "signed", "to_bytes"]

_BYTE_MAXIMUM = 255
# m and s in DiM's code, where CIFAR-10's s is the mean of the deviations within single images.
_DIM_NUMBERS = {
    "cifar10": ((0.491, 0.482, 0.447), (0.202, 0.199, 0.201)),
    "svhn": ((0.437, 0.444, 0.473), (0.198, 0.201, 0.197)),
    "fashion_mnist": ((0.286,), (0.353,)),
    "mnist": ((0.131,), (0.308,)),
}
_DIGEST_DIGITS = 16
_MIN_CLASSES = 2


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What classifiers see: (x - mean) / std, channel by channel."""

    mean: tuple[float, ...]
    """Mean of each channel of images in [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each channel of images in [0, 1]; above 0."""

    def from_other(self, images: Tensor, other: Normalisation) -> Tensor:
        """Normalise images (B, C, H, W) that were normalised by another."""
        if other == self:
            return images
        scale = tuple(theirs / ours for theirs, ours in zip(other.std, self.std, strict=True))
        shift = tuple((m - own) / s for m, own, s in zip(other.mean, self.mean, self.std, strict=True))
        return images * _per_channel(scale, images.device) + _per_channel(shift, images.device)

    def from_bytes(self, images: Tensor) -> Tensor:
        """Normalise stored images (B, C, H, W) uint8, to float32."""
        return self._affine(images.to(torch.float32), low=0, high=_BYTE_MAXIMUM)

    def from_signed(self, images: Tensor) -> Tensor:
        """Normalise a generator's images (B, C, H, W) in [-1, 1], to float32; gradients flow through."""
        return self._affine(images, low=-1, high=1)

    def _affine(self, images: Tensor, *, low: float, high: float) -> Tensor:
        scale = tuple(1 / ((high - low) * std) for std in self.std)
        shift = tuple(-low * s - mean / std for s, mean, std in zip(scale, self.mean, self.std, strict=True))
        return images * _per_channel(scale, images.device) + _per_channel(shift, images.device)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A labelled image data set in memory, on one device."""

    name: str
    """Name in the store's rows."""
    train: Split
    """Images that train teachers, generators and the real baselines."""
    validation: Split
    """Images that choose hyperparameters."""
    test: Split
    """Images for the reported accuracy, used once at the end."""
    class_names: tuple[str, ...]
    """Name of each class, by label."""
    normalisation: Normalisation
    """Normalisation by the training split."""
    digest: str
    """16 hexadecimal digits that stand for images, labels, splits and class names, whatever their source."""
    content_digest: str
    """As `digest`, but before splits were held out: it doesn't change with fractions and seed of the splits."""
    held_out: tuple[str, ...] = ()
    """Splits that the source doesn't have."""
    remarks: tuple[str, ...] = ()
    """What the reader left out or changed, for the person who runs the command."""

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)

    @property
    def num_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.train.images.shape[2]

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.train.images.device

    def normalised(self, kind: NormalisationKind) -> Dataset:
        """Return a data set, as it was loaded, with the normalisation of a kind; see `pool.normalisation`.

        Those of DiM are the measured ones where its code doesn't name the data set.
        """
        if kind == "measured":
            return self
        measured = self.normalisation
        mean, std = _DIM_NUMBERS.get(self.name, (measured.mean, measured.std))
        if len(mean) != self.num_channels:
            mean, std = measured.mean, measured.std
        if kind == "dim_signed":
            mean, std = tuple((1 + m) / 2 for m in mean), tuple(s / 2 for s in std)
        return replace(self, normalisation=Normalisation(mean=mean, std=std))

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data set on a device."""
        train, validation, test = (
            Split(images=split.images.to(device), labels=split.labels.to(device))
            for split in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test)


def describe(dataset: Dataset) -> str:
    """Return a line on splits, classes and images for the person who runs a command, with the reader's remarks."""
    counts = class_counts(dataset.train, dataset.num_classes)
    smallest, largest = (counts.index(edge(counts)) for edge in (min, max))
    classes = f"{counts[smallest]:,} a class"
    if smallest != largest:
        names = dataset.class_names
        classes = f"{counts[smallest]:,} ({names[smallest]}) to {counts[largest]:,} ({names[largest]}) a class"
    own = {"validation": dataset.validation, "test": dataset.test}
    splits = [f"{role} {len(split):,}" + " held out" * (role in dataset.held_out) for role, split in own.items()]
    colours = "grey" if dataset.num_channels == 1 else "colour"
    text = (
        f"{dataset.name}: {dataset.num_classes} classes ({listed(dataset.class_names, most=3)}), "
        f"{dataset.image_size}x{dataset.image_size} pixels, {colours}; "
        f"train {len(dataset.train):,} images, {classes}; {', '.join(splits)}."
    )
    return " ".join((text, *(f"{remark[0].upper()}{remark[1:]}." for remark in dataset.remarks)))


def signed(images: Tensor) -> Tensor:
    """Return stored images, (B, C, H, W) uint8, as float32 in [-1, 1], the generator's range."""
    return images.to(torch.float32) * (2 / _BYTE_MAXIMUM) - 1


def to_bytes(images: Tensor) -> Tensor:
    """Round images (B, C, H, W) in [-1, 1] to uint8: the inverse of `signed`."""
    return ((images + 1) * (_BYTE_MAXIMUM / 2)).round().clamp(0, _BYTE_MAXIMUM).to(torch.uint8)


def load_dataset(config: DataConfig, device: torch.device | str = "cpu", *, may_download: bool = True) -> Dataset:
    """Load a data set, and hold out the splits that its source doesn't have.

    Raises:
        DataError: The source is missing, can't be read or downloaded, or has unusable images, labels or classes.
    """
    source = _read(config, may_download=may_download)
    remarks = (*source.remarks, *_check(source, config))
    train, validation, test = source.train, source.validation, source.test
    sourced = {"train": train, "validation": validation, "test": test}
    if test is None:
        train, test = hold_out(train, config.test_fraction, stream(config.split_seed, "data", "test"))
    if validation is None:
        rng = stream(config.split_seed, "data", "validation")
        train, validation = hold_out(train, config.validation_fraction, rng)
    dataset = Dataset(
        name=config.label,
        train=train,
        validation=validation,
        test=test,
        class_names=source.class_names,
        normalisation=_measure(train.images),
        digest=_digest((train, validation, test), source.class_names),
        content_digest=_digest([split for split in sourced.values() if split is not None], source.class_names),
        held_out=tuple(name for name, split in sourced.items() if split is None),
        remarks=remarks,
    )
    return dataset.to(device)


def _read(config: DataConfig, *, may_download: bool) -> Source:
    # Imported here: with a Dataset at hand, torch is enough.
    prefix, separator, path = config.dataset.partition(":")
    if separator and prefix in ("parquet", "hf"):
        from dim_ray.core.data.parquet import read_parquet

        return read_parquet(path if prefix == "parquet" else config.dataset)
    if separator:
        from dim_ray.core.data.folder import read_folder

        return read_folder(path)
    from dim_ray.core.data.named import read_digits, read_torchvision

    if config.dataset == "digits":
        return read_digits()
    return read_torchvision(config.dataset, config.data_root, may_download=may_download)


def _check(source: Source, config: DataConfig) -> list[str]:
    """Refuse what can't be learnt from, and return remarks about what may be a mistake."""
    names = source.class_names
    if len(names) < _MIN_CLASSES:
        raise DataError(
            f"{config.dataset} has {len(names)} class ({', '.join(names)}); allowed: {_MIN_CLASSES} or more."
        )
    remarks = []
    for role, split in (("training", source.train), ("validation", source.validation), ("test", source.test)):
        if split is not None:
            height, width = split.images.shape[-2:]
            check_image_size((width, height), f"An image of {config.dataset}")
            remarks += _check_variety(split, role, config)
    held_out = [name for name, split in (("test", source.test), ("validation", source.validation)) if split is None]
    needed = 1 + len(held_out)
    for name, count in zip(names, class_counts(source.train, len(names)), strict=True):
        if count < needed:
            reason = f", because a {' and a '.join(held_out)} split are held out of it" if held_out else ""
            raise DataError(
                f"The class {name!r} of {config.dataset} has {count} images in the training split; needed: at least "
                f"{needed} of every class{reason}. Add images or leave the class out."
            )
    return remarks


def _check_variety(split: Split, role: str, config: DataConfig) -> list[str]:
    """Refuse a split of one class or of single-coloured images; return a remark if some have a single colour."""
    if len(split.labels.unique()) < _MIN_CLASSES:
        raise DataError(
            f"The {role} split of {config.dataset} has images of only one class; needed: {_MIN_CLASSES} or more. If "
            "its labels aren't known, leave the split out."
        )
    if bool((split.images == split.images[0]).all()):
        raise DataError(
            f"All {len(split):,} images of the {role} split of {config.dataset} are the same. Was it drawn in white "
            "on a transparent background? Such images are laid on white."
        )
    pixels = split.images.flatten(2)
    num_flat = int((pixels.amax(2) == pixels.amin(2)).all(1).sum())
    if num_flat == len(split):
        raise DataError(
            f"All {num_flat:,} images of the {role} split of {config.dataset} have a single colour. Do "
            "they hold what you think?"
        )
    return [f"single-coloured {role} images: {num_flat:,}"] if num_flat else []


def _measure(images: Tensor) -> Normalisation:
    """Return exact mean and standard deviation of (N, C, H, W) uint8, from a histogram."""
    values = torch.arange(_BYTE_MAXIMUM + 1, dtype=torch.float64) / _BYTE_MAXIMUM
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=len(values)).to(torch.float64) / channel.numel()
        mean = (share * values).sum()
        std = (share * (values - mean).square()).sum().sqrt()
        means.append(mean.item())
        stds.append(std.item() or 1.0)  # a constant channel carries nothing; 1 keeps it finite
    return Normalisation(mean=tuple(means), std=tuple(stds))


def _digest(splits: Sequence[Split], class_names: tuple[str, ...]) -> str:
    content = hashlib.sha256()
    for split in splits:
        for tensor in (split.images, split.labels):
            content.update(repr(tuple(tensor.shape)).encode())
            content.update(tensor.numpy().data)
    content.update(repr(class_names).encode())
    return content.hexdigest()[:_DIGEST_DIGITS]


@functools.lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return (1, C, 1, 1) float32, cached so that a training step copies nothing from the host."""
    # A cached tensor made in inference mode would break the next gradient that uses it.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).reshape(1, -1, 1, 1)
