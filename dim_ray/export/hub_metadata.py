"""The YAML at the top of a README.md, which the Hugging Face Hub reads: of a generator, and of a set of its images.

    text = front_matter(model_metadata(generator.card, summarise(rows), license="apache-2.0")) + "# My generator"

Source: the Hub's documentation, "Model Cards" and "Dataset Cards".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import yaml

from dim_ray.store.analysis.selection import terms

__all__ = ["README_FILE", "dataset_metadata", "front_matter", "model_metadata"]

README_FILE = "README.md"

_TAGS = ["dataset-distillation", "arxiv:2303.04707"]
_TASK = "image-classification"
_SIZES = (("n<1K", 1_000), ("1K<n<10K", 10_000), ("10K<n<100K", 100_000), ("100K<n<1M", 1_000_000))


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Return metadata as the first lines of a README.md."""
    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)}---\n"


def model_metadata(card: Mapping[str, Any], cells: pd.DataFrame, license: str | None) -> dict[str, Any]:
    """Return the metadata of a generator from its card and, as of `summarise`, its own evaluations."""
    name = card["dataset"]["name"]
    on_hub = card.get("hub_dataset")  # older cards have none
    results = {
        "task": {"type": _TASK, "name": "Train on generated images, test on real ones"},
        "dataset": {"type": on_hub or name, "name": name, "split": "test"},
        "metrics": [_metric(cell) for cell in cells.to_dict("records")],
    }
    return {
        **_license(license),
        "library_name": "dim_ray",
        "pipeline_tag": "unconditional-image-generation",
        "tags": _TAGS,
        **({"datasets": [on_hub]} if on_hub else {}),
        "metrics": ["accuracy"],
        **({"model-index": [{"name": f"{name}-{card['fingerprint']}", "results": [results]}]} if len(cells) else {}),
    }


def dataset_metadata(
    name: str, class_names: Sequence[str], num_images: int, license: str | None, file: str
) -> dict[str, Any]:
    """Return the metadata of generated images in a Parquet file with the columns image and label."""
    label = {"class_label": {"names": {str(number): name for number, name in enumerate(class_names)}}}
    return {
        **_license(license),
        "pretty_name": name,
        "task_categories": [_TASK],
        "size_categories": [next((size for size, limit in _SIZES if num_images < limit), "n>1M")],
        "annotations_creators": ["machine-generated"],
        "tags": _TAGS,
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": file}]}],
        "dataset_info": {
            "features": [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": label}],
            "splits": [{"name": "train", "num_examples": num_images}],
        },
    }


def _license(license: str | None) -> dict[str, str]:
    return {"license": license} if license else {}


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
