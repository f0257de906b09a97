"""DiM on Ray: distil a labelled image dataset into a small conditional generator, and train on its images.

generator = dim_ray.best_generator("dim_storage", dataset="digits", ipc=10)
images = generator.sample(labels, seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dim_ray.reuse import StoredGenerator, best_generator, load_generator

__version__ = "0.1.0"

__all__ = ["StoredGenerator", "__version__", "best_generator", "load_generator"]

_FROM_REUSE = ("StoredGenerator", "best_generator", "load_generator")


def __getattr__(name: str) -> Any:
    # On first use, because torch takes seconds to import.
    if name in _FROM_REUSE:
        from dim_ray import reuse

        return getattr(reuse, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
