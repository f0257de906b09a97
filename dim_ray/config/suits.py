"""What a shipped study suits: its key `suits`, by which a command without --config finds a recipe for its images.

    Suits(device="cpu", colours="grey", images=(10_000, 100_000)).fits(images, "cpu")

"Images" in the limits are those of the training split, before validation and test splits are held out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dim_ray.config.data import IMAGE_SIZES

__all__ = ["KNOWN_IMAGES", "Device", "Images", "Suits"]

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class Images:
    """What decides on the recipe for a dataset."""

    dataset: str
    """As in data.dataset."""
    number: int
    """Images for training, before splits are held out."""
    num_channels: int
    """1 for grey images, 3 for colour."""
    pixels: int
    """Height and width."""

    def __str__(self) -> str:
        return f"{self.number:,} {_colours(self.num_channels)} images of {self.pixels} pixels"


KNOWN_IMAGES: Mapping[str, Images] = {
    name: Images(dataset=name, number=number, num_channels=num_channels, pixels=pixels)
    for name, number, num_channels, pixels in (
        ("digits", 1797, 1, 8),
        ("mnist", 60_000, 1, 28),
        ("fashion_mnist", 60_000, 1, 28),
        ("svhn", 73_257, 3, 32),
        ("cifar10", 50_000, 3, 32),
        ("cifar100", 50_000, 3, 32),
    )
}
"""The datasets with a name of their own."""


@dataclass(frozen=True, kw_only=True)
class Suits:
    """Limits of what a shipped study suits."""

    device: Literal["cpu", "gpu", "any"] = "any"
    """Devices that train."""
    colours: Literal["grey", "colour", "any"] = "any"
    """Images of one channel or of three."""
    pixels: tuple[int, int] = (IMAGE_SIZES[0], IMAGE_SIZES[-1])
    """Smallest and largest size."""
    images: tuple[int, int] = (1, 10_000_000)
    """Fewest and most images for training."""
    datasets: tuple[str, ...] = ()
    """Known names, if it suits no others; it then comes before recipes that suit any."""
    automatic: bool = True
    """Whether a command without --config takes it."""
    minutes: Mapping[str, float] = field(default_factory=dict)
    """What `tune` and `distill` take on two CPU cores or one GPU, for `measured_on`."""
    measured_on: tuple[int, int] = (1, 1)
    """Number of images and their pixels."""

    def fits(self, images: Images, device: Device) -> bool:
        """Return whether it suits these images on this kind of device."""
        return (
            self.device in (device, "any")
            and self.colours in (_colours(images.num_channels), "any")
            and self.pixels[0] <= images.pixels <= self.pixels[1]
            and self.images[0] <= images.number <= self.images[1]
            and (not self.datasets or images.dataset in self.datasets)
        )

    def duration(self, command: str, images: Images) -> str:
        """Return about how long a command takes, in proportion to images and pixels; nothing if it isn't known."""
        if command not in self.minutes:
            return ""
        number, pixels = self.measured_on
        minutes = self.minutes[command] * images.number / number * (images.pixels / pixels) ** 2
        machine = "one GPU" if self.device == "gpu" else "two cores"
        return f"about {_rounded(minutes)} on {machine}"

    def __str__(self) -> str:
        if self.datasets:
            return f"{' and '.join(self.datasets)}{_devices(self.device)}"
        fewest, most = self.images
        colours = "" if self.colours == "any" else f" {self.colours}"
        return (
            f"{fewest:,} to {most:,}{colours} images of {self.pixels[0]} to {self.pixels[1]} pixels"
            f"{_devices(self.device)}"
        )


def _colours(num_channels: int) -> str:
    return "grey" if num_channels == 1 else "colour"


def _devices(device: str) -> str:
    return "" if device == "any" else f" on {device.upper()}s"


def _rounded(minutes: float) -> str:
    if minutes < 55:
        return f"{max(1, round(minutes))} min"
    hours = minutes / 60
    return f"{round(hours, 1):g} h" if hours < 3 else f"{round(hours)} h"
