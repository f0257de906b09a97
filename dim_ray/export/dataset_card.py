"""Write the README.md beside generated images in Parquet: metadata for the Hub, how they were made, how to load them.

text = dataset_card(generator, ipc=10, seed=0, candidates=1, name="ORG/NAME")
"""

from __future__ import annotations

from dim_ray.api import StoredGenerator
from dim_ray.export.hub_metadata import dataset_metadata, front_matter
from dim_ray.export.image_files import PARQUET_FILE
from dim_ray.version import __version__

__all__ = ["dataset_card"]


def dataset_card(
    generator: StoredGenerator,
    *,
    ipc: int,
    seed: int,
    candidates: int,
    latent_steps: int = 0,
    source: str | None = None,
    license: str | None = None,
    name: str,
) -> str:
    """Return the card of a fixed set of a generator's images.

    Args:
        generator: Generator of the images.
        ipc: Images per class.
        seed: Seed of the images.
        candidates: Images generated for each one.
        latent_steps: Steps that moved the latents.
        source: Address on the Hub that the generator was loaded from; None if it was elsewhere.
        license: The Hub's identifier of a license.
        name: What `datasets.load_dataset` takes: a repository or a folder.
    """
    data, num_images = generator.card["dataset"], ipc * generator.num_classes
    size = data["image_size"]
    title = f"{data['name']}, distilled: {ipc} generated images per class"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (generator.mean, generator.std))
    metadata = dataset_metadata(title, generator.class_names, num_images, license, PARQUET_FILE)
    return "\n".join(
        [
            front_matter(metadata),
            f"# {title}",
            "",
            f"Images of a generator that was distilled from {data['name']}, to train classifiers on. Made with DiM on "
            "Ray, after DiM (Wang et al., arXiv 2303.04707).",
            "",
            "| | |",
            "| --- | --- |",
            f"| images | {num_images:,} of {data['num_channels']} x {size} x {size} |",
            f"| images per class (IPC) | {ipc} |",
            "| protocol | `fixed`: a student sees no other images |",
            f"| generator | {generator.fingerprint}, {generator.weights} weights{f', {source}' if source else ''} |",
            f"| seed | {seed} |",
            *([f"| chosen | by the generator's teachers, one of {candidates} each |"] if candidates > 1 else []),
            *([f"| latents | moved in {latent_steps} steps, to match real images |"] if latent_steps else []),
            f"| normalisation for classifiers | mean {mean}, std {std} |",
            f"| made by | dim_ray {__version__} |",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            f'images = load_dataset("{name}", split="train")',
            "```",
            "",
        ]
    )
