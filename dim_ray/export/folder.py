"""Export a generator as a folder that needs only PyTorch.

export_generator(generator, rows, Path("digits_generator"))

| file | contents |
| --- | --- |
| generator.safetensors, average.safetensors | weights, as in the storage |
| program.pt2 | torch.export program: noise and labels to images in [0, 1] |
| sample.py | script that samples images |
| README.md | model card with its students' accuracy by protocol |
| samples.png | grid of images |
| card.json | the generator's card, its students' recipes, seeds and accuracies, and SHA-256s |

`dim_ray.load_generator` loads the folder, and refuses altered weights, programs and cards. README.md and samples.png
are for people, who may change them and add files.
"""

from __future__ import annotations

import inspect
import io
import warnings
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from dim_ray.api import StoredGenerator
from dim_ray.core.generator.networks import Generator
from dim_ray.export import standalone
from dim_ray.export.cards import README_FILE, model_card
from dim_ray.export.outputs import write_folder
from dim_ray.export.reevaluation import CELLS, measured_cells
from dim_ray.pipeline.generators import stored_samples
from dim_ray.store.artifacts import CARD_FILE, read_artifact, seal_card

__all__ = ["SCRIPT_FILE", "export_generator"]

SCRIPT_FILE = "sample.py"
_EXAMPLE_IMAGES = 3  # not 0 or 1, which torch.export would take for a constant


def export_generator(
    generator: StoredGenerator,
    rows: pd.DataFrame,
    folder: Path,
    *,
    license: str | None = None,
    address: str = ".",
) -> None:
    """Write a generator, which is on the CPU, with evaluations of it and of real images at the same budgets.

    The model card has the license, if there is one, and loads the generator from an address.

    Raises as `read_artifact` and `write_folder`.
    """
    stored = read_artifact(generator.uri, kind="generators")
    sealed = {
        **{name: data for name, data in stored.files.items() if name.endswith(".safetensors")},
        standalone.PROGRAM_FILE: _program(generator.module),
        SCRIPT_FILE: inspect.getsource(standalone).encode(),
    }
    text = model_card(stored.card, rows, license=license, address=address)
    prose = {README_FILE: text.encode(), **stored_samples(stored)}
    cells = measured_cells(rows, generator.fingerprint)
    card = {**stored.card, "program_weights": generator.weights, CELLS: cells}
    write_folder(folder, {**sealed, **prose, CARD_FILE: seal_card(card, sealed)})


class _UnitImages(nn.Module):
    """Generator with images in [0, 1]."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = (self.generator(noise, labels) + 1) / 2
        return images


def _program(generator: Generator) -> bytes:
    noise = torch.zeros(_EXAMPLE_IMAGES, generator.latent_dim)
    labels = torch.zeros(_EXAMPLE_IMAGES, dtype=torch.int64)
    batch = torch.export.Dim("batch")
    shapes = {"noise": {0: batch}, "labels": {0: batch}}
    program = torch.export.export(_UnitImages(generator).eval(), (noise, labels), dynamic_shapes=shapes)
    program.example_inputs = None  # they would be stored as a pickle
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # about weights in channels last
        warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
        torch.export.save(program, buffer)
    return buffer.getvalue()
