"""DiM on Ray: distil a labelled image dataset into a small conditional generator, and train on its images.

generator = dim_ray.best_generator("dim_storage", dataset="digits", ipc=10)
images = generator.sample(labels, seed=0)
rows = dim_ray.open_store("dim_storage").evaluations(dataset="digits", ipc=[1, 10])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dim_ray.version import __version__

if TYPE_CHECKING:
    from dim_ray.api import StoredGenerator, best_generator, load_generator
    from dim_ray.store.reader import open_store

__all__ = ["StoredGenerator", "__version__", "best_generator", "load_generator", "open_store"]

_FROM_API = ("StoredGenerator", "best_generator", "load_generator")


def __getattr__(name: str) -> Any:
    # On first use, because torch takes seconds to import, and pandas half of one.
    if name in _FROM_API:
        from dim_ray import api

        return getattr(api, name)
    if name == "open_store":
        from dim_ray.store.reader import open_store

        return open_store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
