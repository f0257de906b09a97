"""Refuse files of a person's own that Python would take for packages that a command needs, such as a tuning.py.

refuse_shadows()     # before packages are imported

Python looks in the current folder and in PYTHONPATH before it looks where packages are installed.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder

from dim_ray.errors import UsageError

__all__ = ["NEEDED", "refuse_shadows"]

NEEDED = (
    *("PIL", "argcomplete", "filelock", "fsspec", "jinja2", "jsonargparse", "matplotlib", "numpy", "optuna", "pandas"),
    *("pyarrow", "ray", "rich", "safetensors", "scipy", "sklearn", "tensorboardX", "torch", "torchvision", "yaml"),
)
"""The packages that runs import."""

_OURS = ("dim_ray", "tuning")
_ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))


def refuse_shadows() -> None:
    """Raise a `UsageError` if Python would import a file or folder of a person's own instead of a package."""
    own = {os.path.realpath(entry) for entry in (".", *os.environ.get("PYTHONPATH", "").split(os.pathsep)) if entry}
    others = [entry for entry in sys.path if entry and os.path.realpath(entry) not in own]
    for name in (*_OURS, *NEEDED):
        spec = PathFinder.find_spec(name)
        if spec is None:
            continue
        place = os.path.realpath(spec.origin or next(iter(spec.submodule_search_locations or [])))
        shadow = os.path.dirname(place) if os.path.basename(place) == "__init__.py" else place
        folder = os.path.dirname(shadow)
        if folder in own and _is_foreign(name, folder, others):
            raise UsageError(
                f"{shadow} hides the module {name} that this command needs: rename it, or run where neither the "
                "current folder nor PYTHONPATH has it."
            )


def _is_foreign(name: str, folder: str, others: list[str]) -> bool:
    """Return whether a module in one of a person's folders isn't the real one."""
    if name in _OURS:
        return folder != _ROOT
    if any(entry.endswith(".dist-info") for entry in os.listdir(folder)):  # pip installed into it
        return False
    return PathFinder.find_spec(name, others) is not None
