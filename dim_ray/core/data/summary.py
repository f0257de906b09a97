"""One line about a data set, for the person who runs a command.

summarise(load_dataset(DataConfig()))
# "digits: 10 classes (0, 1, 2 and 7 more), 8x8 pixels, grey; train 1,295 images, 125 (8) to 131 (1) a class; ..."
"""

from __future__ import annotations

from dim_ray.core.data.dataset import Dataset
from dim_ray.core.data.splits import class_counts
from dim_ray.errors import listed

__all__ = ["summarise"]


def summarise(dataset: Dataset) -> str:
    """Return the splits, classes and images of a data set, and the reader's remarks."""
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
