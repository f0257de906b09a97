"""Write README.md for people and the Hugging Face Hub: of a generator, and of a set of its images.

    text = model_card(generator.card, open_store(root).evaluations(dataset="digits"), address="hf://ORG/NAME")

The templates model_card.md and images_card.md have the text. The YAML at the top is as the Hub's documentation says,
in "Model Cards" and "Dataset Cards".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from dim_ray.api import StoredGenerator
from dim_ray.config import PROTOCOLS
from dim_ray.core.data.memorisation import memorisation_in
from dim_ray.errors import listed
from dim_ray.export.image_files import PARQUET_FILE
from dim_ray.progress.stages import format_percent
from dim_ray.store.analysis.selection import summarise, terms
from dim_ray.version import __version__

__all__ = ["README_FILE", "images_card", "model_card"]

README_FILE = "README.md"

_TAGS = ["dataset-distillation", "arxiv:2303.04707"]
_TASK = "image-classification"
_SIZES = (("n<1K", 1_000), ("1K<n<10K", 10_000), ("10K<n<100K", 100_000), ("100K<n<1M", 1_000_000))
_PROTOCOLS = {
    "on_the_fly": "new generated images in every epoch, DiM's own protocol",
    "fixed": "IPC generated images per class, drawn once, the field's usual protocol",
    "real_on_the_fly": "real images, as many draws as on the fly: the ceiling",
    "real_fixed": "a random real subset of IPC images per class: the floor",
    "real_full": "the whole real training split in every epoch",
}


def model_card(card: Mapping[str, Any], rows: pd.DataFrame, *, license: str | None = None, address: str = ".") -> str:
    """Return the model card for a generator's card; of the rows, its own and those of real images beside it count.

    The code in it loads the generator from an address: the folder that the card is in, or the Hub.
    """
    is_own = rows["generator"] == card["fingerprint"]
    cells = summarise(rows[is_own | _is_baseline(rows, rows[is_own])]).sort_values(["ipc", "architecture", "mean"])
    measured = [(name, _PROTOCOLS[name], cells[cells["protocol"] == name].to_dict("records")) for name in PROTOCOLS]
    found = memorisation_in(card)
    return _render(
        "model_card.md",
        _model_metadata(card, summarise(rows[is_own])),
        license,
        card=card,
        data=card["dataset"],
        address=address,
        memorisation="Not measured." if found is None else f"{found.verdict()} {found.limits()}",
        measured=[part for part in measured if part[2]],
    )


def images_card(
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

    `source` is the address on the Hub that the generator was loaded from, if it was, and `name` is what
    `datasets.load_dataset` takes: a repository or a folder.
    """
    data, num_images = generator.card["dataset"], ipc * generator.num_classes
    title = f"{data['name']}, distilled: {ipc} generated images per class"
    return _render(
        "images_card.md",
        _images_metadata(title, generator.class_names, num_images),
        license,
        title=title,
        data=data,
        num_images=num_images,
        generator=generator,
        ipc=ipc,
        seed=seed,
        candidates=candidates,
        latent_steps=latent_steps,
        source=source,
        name=name,
        version=__version__,
    )


def _render(template: str, metadata: Mapping[str, Any], license: str | None, **values: Any) -> str:
    top = yaml.safe_dump({**({"license": license} if license else {}), **metadata}, sort_keys=False, allow_unicode=True)
    environment = Environment(
        loader=PackageLoader("dim_ray.export", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "listed": listed,
        "numbers": lambda numbers: ", ".join(f"{number:.4g}" for number in numbers),
        "percent": format_percent,
        "terms": terms,
    }
    return environment.get_template(template).render(metadata=f"---\n{top}---\n", **values)


def _is_baseline(rows: pd.DataFrame, own: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are of real images, with the data and budgets of the generator's own rows."""
    is_real = rows["generator"].isna() & rows["data_fingerprint"].isin(own["data_fingerprint"])
    is_sized = rows["budget_fingerprint"].isin(own["budget_fingerprint"]) & rows["ipc"].isin(own["ipc"])
    return is_real & rows["architecture"].isin(own["architecture"]) & (is_sized | (rows["protocol"] == "real_full"))


def _model_metadata(card: Mapping[str, Any], cells: pd.DataFrame) -> dict[str, Any]:
    name = card["dataset"]["name"]
    on_hub = card.get("hub_dataset")  # older cards have none
    results = {
        "task": {"type": _TASK, "name": "Train on generated images, test on real ones"},
        "dataset": {"type": on_hub or name, "name": name, "split": "test"},
        "metrics": [_metric(cell) for cell in cells.to_dict("records")],
    }
    return {
        "library_name": "dim_ray",
        "pipeline_tag": "unconditional-image-generation",
        "tags": _TAGS,
        **({"datasets": [on_hub]} if on_hub else {}),
        "metrics": ["accuracy"],
        **({"model-index": [{"name": f"{name}-{card['fingerprint']}", "results": [results]}]} if len(cells) else {}),
    }


def _images_metadata(title: str, class_names: Sequence[str], num_images: int) -> dict[str, Any]:
    label = {"class_label": {"names": {str(number): name for number, name in enumerate(class_names)}}}
    return {
        "pretty_name": title,
        "task_categories": [_TASK],
        "size_categories": [next((size for size, limit in _SIZES if num_images < limit), "n>1M")],
        "annotations_creators": ["machine-generated"],
        "tags": _TAGS,
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": PARQUET_FILE}]}],
        "dataset_info": {
            "features": [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": label}],
            "splits": [{"name": "train", "num_examples": num_images}],
        },
    }


def _metric(cell: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the mean test accuracy of a cell's students, with what it depends on."""
    args: dict[str, Any] = {
        "protocol": cell["protocol"],
        "ipc": int(cell["ipc"]),
        "architecture": cell["architecture"],
        "n": int(cell["n"]),
        "optimiser_steps": int(cell["optimiser_steps"]),
        "weights": cell["weights"],
    }
    if cell["n"] > 1:
        args["std"] = float(cell["std"])
    if own := terms(cell):
        args["terms"] = own
    shown = [f"{args['protocol']}", f"IPC {args['ipc']}", args["architecture"], f"n = {args['n']}"]
    if args["weights"] == "raw":
        shown.append("raw weights")
    return {
        "type": "accuracy",
        "value": float(cell["mean"]),
        "name": f"Accuracy ({', '.join([*shown, *([own] if own else [])])})",
        "args": args,
    }
