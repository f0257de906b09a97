"""Write a generator's model card: metadata for the Hub, what it is, how to use it, students' accuracy by protocol.

text = model_card(generator.card, open_store(root).evaluations(dataset="digits"), address="hf://ORG/NAME")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from dim_ray.config import PROTOCOLS
from dim_ray.core.data.memorisation import memorisation_in
from dim_ray.export.hub_metadata import front_matter, model_metadata
from dim_ray.progress.stages import format_percent
from dim_ray.store.analysis.selection import summarise, terms

__all__ = ["model_card"]

_PROTOCOLS = {
    "on_the_fly": "new generated images in every epoch, DiM's own protocol",
    "fixed": "IPC generated images per class, drawn once, the field's usual protocol",
    "real_on_the_fly": "real images, as many draws as on the fly: the ceiling",
    "real_fixed": "a random real subset of IPC images per class: the floor",
    "real_full": "the whole real training split in every epoch",
}
_MAX_CLASSES = 20


def model_card(card: Mapping[str, Any], rows: pd.DataFrame, *, license: str | None = None, address: str = ".") -> str:
    """Return the model card for a generator's card; of the rows, its own and those of real images beside it count.

    The code in it loads the generator from an address: the folder that the card is in, or the Hub.
    """
    data, fingerprint = card["dataset"], card["fingerprint"]
    size, channels, names = data["image_size"], data["num_channels"], data["class_names"]
    shown = ", ".join(names[:_MAX_CLASSES]) + (
        f" and {len(names) - _MAX_CLASSES} more" if len(names) > _MAX_CLASSES else ""
    )
    weights = {name: stated["size_bytes"] for name, stated in card["files"].items() if name.endswith(".safetensors")}
    training, found = card["training"], memorisation_in(card)
    own = summarise(rows[rows["generator"] == fingerprint])
    return "\n".join(
        [
            front_matter(model_metadata(card, own, license)),
            f"# Distilled generator of {data['name']}, {fingerprint}",
            "",
            f"A conditional generator that replaces the training images of {data['name']}: networks trained only on "
            "its images classify real ones. Made with DiM on Ray, after DiM (Wang et al., arXiv 2303.04707).",
            "",
            "![images, one row per class](samples.png)",
            "",
            "| | |",
            "| --- | --- |",
            f"| images | {channels} x {size} x {size}, float32 in [0, 1] |",
            f"| classes | {len(names)}: {shown} |",
            f"| normalisation for classifiers | mean {_numbers(data['mean'])}, std {_numbers(data['std'])} |",
            *(f"| {name} | {count:,} bytes |" for name, count in sorted(weights.items())),
            f"| network | {card['generator']['capacity']} channels, latent length {card['generator']['latent_dim']} |",
            f"| matched against | teachers, {len(card['teachers'])}, of {', '.join(training['architectures'])} |",
            f"| data and splits | digest {data['digest']} |",
            f"| made by | dim_ray {card['code_version']}, {card['created_at']} |",
            "",
            "## Use",
            "",
            "```python",
            "import dim_ray",
            "import torch",
            "",
            f'generator = dim_ray.load_generator("{address}")',
            "images = generator.sample(torch.arange(generator.num_classes), seed=0)",
            "```",
            "",
            "With only PyTorch, in a copy of this folder, which has `sample.py`:",
            "",
            "```python",
            "import torch",
            "from sample import load",
            "",
            'generator = load(".")',
            "images = generator.sample(torch.arange(generator.num_classes), seed=0)",
            "```",
            "",
            "Both first compare weights, program and script with card.json. Classifiers were trained on images "
            "normalised by the mean and std above.",
            "",
            "## Memorisation",
            "",
            "Not measured." if found is None else f"{found.verdict()} {found.limits()}",
            "",
            "## Accuracy",
            "",
            *_accuracy(rows[(rows["generator"] == fingerprint) | _is_baseline(rows, fingerprint)]),
        ]
    )


def _is_baseline(rows: pd.DataFrame, fingerprint: str) -> pd.Series[bool]:
    """Return which rows are of real images, with the data and budgets of the generator's own rows."""
    own = rows[rows["generator"] == fingerprint]
    is_real = rows["generator"].isna() & rows["data_fingerprint"].isin(own["data_fingerprint"])
    is_sized = rows["budget_fingerprint"].isin(own["budget_fingerprint"]) & rows["ipc"].isin(own["ipc"])
    return is_real & rows["architecture"].isin(own["architecture"]) & (is_sized | (rows["protocol"] == "real_full"))


def _accuracy(rows: pd.DataFrame) -> Iterator[str]:
    if rows.empty:
        yield "Not measured yet.\n"
        return
    yield (
        "Students' accuracy on the real test split after the last epoch, in %, mean ± standard deviation over n seeds. "
        "Unless the terms say so, nothing was chosen on the test split. IPC is images per class; compare within a "
        "protocol, at equal IPC."
    )
    cells = summarise(rows)
    for protocol in PROTOCOLS:
        there = cells[cells["protocol"] == protocol].sort_values(["ipc", "architecture", "mean"])
        if there.empty:
            continue
        yield f"\n`{protocol}`: {_PROTOCOLS[protocol]}.\n"
        yield "| IPC | student | weights | on terms | steps | accuracy | n |"
        yield "| ---: | --- | --- | --- | ---: | ---: | ---: |"
        for cell in there.to_dict("records"):
            weights = cell["weights"] if isinstance(cell["weights"], str) else "-"
            yield (
                f"| {cell['ipc']} | {cell['architecture']} | {weights} | {terms(cell) or 'usual'} | "
                f"{cell['optimiser_steps']:,} | {format_percent(cell['mean'], cell['std'])} | {cell['n']} |"
            )
    yield ""


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
