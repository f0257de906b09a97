"""Find the shipped recipe that suits a dataset and the devices that will train on it.

    recipe = choose_recipe(config.data, lambda: "cpu", command="tune")
    make_config(recipe.settings)

Images of a known name are known without reading them. Other data are read, once: `open_dataset` returns the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dim_ray.cli.flags import shipped_studies
from dim_ray.cli.settings import Setting, read_study
from dim_ray.config import Config, DataConfig
from dim_ray.config.suits import KNOWN_IMAGES, Device, Images, Suits
from dim_ray.errors import UsageError
from dim_ray.progress import Progress

if TYPE_CHECKING:
    from dim_ray.core.data.dataset import Dataset

__all__ = ["Recipe", "choose_recipe", "find_device", "find_images", "list_studies", "open_dataset", "read_shipped"]

_WIDTH_OF_NAME = 14

_opened: dict[DataConfig, Dataset] = {}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A shipped recipe, or a file of --config."""

    name: str
    settings: Sequence[Setting]
    reason: str = ""
    """Why it was chosen and what it takes; empty for a file."""


def read_shipped(name: str) -> tuple[list[Setting], Suits]:
    """Return the settings of a shipped study, and what it suits."""
    settings, suits = read_study(shipped_studies()[name])
    fields: dict[str, Any] = {key: tuple(own) if isinstance(own, list) else own for key, own in suits.items()}
    return settings, Suits(**fields)


def choose_recipe(data: DataConfig, find_device: Callable[[], Device], *, command: str) -> Recipe:
    """Return the shipped recipe for a dataset and a command such as ``tune``, or raise a UsageError if none suits.

    It asks for the device only if that matters.
    """
    images = find_images(data)
    studies = {name: read_shipped(name) for name in shipped_studies()}
    offered = {name: suits for name, (_, suits) in studies.items() if suits.automatic}
    fitting = [name for name, suits in offered.items() if images.dataset in suits.datasets]
    device = ""
    if not fitting or any(offered[name].device != "any" for name in fitting):
        kind = find_device()
        device = f" on {kind.upper()}s"
        own = [name for name in fitting if offered[name].fits(images, kind)]
        fitting = own or [name for name, suits in offered.items() if suits.fits(images, kind)]
    if not fitting:
        shipped = "; ".join(f"{name} for {suits}" for name, suits in offered.items())
        raise UsageError(
            f"No shipped recipe suits {data.label}, {images}{device}. There are {shipped}. Take one of them with "
            "--config NAME, or write a file with `base: NAME` and what differs."
        )
    name = fitting[0]
    settings, _ = studies[name]
    what = [f"recipe {name} for {data.label}, {images}{device}", offered[name].duration(command, images)]
    return Recipe(name=name, settings=settings, reason="; ".join([*filter(None, what), "--config for another"]))


def find_device(config: Config, *, is_local: bool) -> Device:
    """Return the kind of device that a run will train on: in this process, on this machine, or on a joined cluster."""
    from dim_ray.distributed.cluster.joining import cluster, joins_a_cluster

    if joins_a_cluster() and not is_local:
        with cluster(config, _OnlyMessages()) as placement:
            return "gpu" if placement.gpus_per_worker else "cpu"
    import torch

    may_use_gpu = is_local or config.study.gpus_per_worker != 0
    return "gpu" if may_use_gpu and torch.cuda.is_available() else "cpu"


def find_images(data: DataConfig) -> Images:
    """Return number, size and colours of a dataset's images; loads data without a known name."""
    if data.dataset in KNOWN_IMAGES:
        return KNOWN_IMAGES[data.dataset]
    from dim_ray.core.data.dataset import load_dataset

    dataset = _opened[data] = _opened.get(data) or load_dataset(data)
    held_out = sum(len(getattr(dataset, split)) for split in dataset.held_out)
    return Images(
        dataset=data.dataset,
        number=len(dataset.train) + held_out,
        num_channels=dataset.num_channels,
        pixels=dataset.image_size,
    )


def open_dataset(data: DataConfig) -> Dataset:
    """Load a dataset, or return the one that `find_images` loaded and forget it."""
    from dim_ray.core.data.dataset import load_dataset

    return _opened.pop(data, None) or load_dataset(data)


def list_studies() -> str:
    """Return the shipped studies: name, first comment of the file, and what it suits."""
    lines = []
    for name, path in shipped_studies().items():
        title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        _, suits = read_shipped(name)
        lines += [f"{name:<{_WIDTH_OF_NAME}}{title}", f"{'':<{_WIDTH_OF_NAME}}{_offer(suits)}"]
    return "\n".join(lines)


def _offer(suits: Suits) -> str:
    number, pixels = suits.measured_on
    measured = Images(dataset="", number=number, num_channels=1, pixels=pixels)
    times = [f"{command} {time}" for command in suits.minutes if (time := suits.duration(command, measured))]
    on = f" for {number:,} images of {pixels} pixels" if times and not suits.datasets else ""
    return f"for {suits}{'' if suits.automatic else ', with --config'}{'; ' if times else ''}{', '.join(times)}{on}"


class _OnlyMessages(Progress):
    """Shows what a person has to know before the run's display begins."""

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
