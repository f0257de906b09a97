"""Find files of a person's own that Python takes for modules that a command needs, such as a tuning.py.

refuse_shadows()     # before packages are imported
explain_failures()   # for every module there is, once one of them is missed

Python looks in the current folder and in PYTHONPATH before it looks where packages are installed. Nothing but `os`,
`sys` and `importlib` is imported here, because any other module may be the hidden one.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NEEDED", "explain_failures", "refuse_shadows"]

NEEDED = (
    *(
        "PIL",
        "argcomplete",
        "filelock",
        "fsspec",
        "jinja2",
        "jsonargparse",
        "matplotlib",
        "numpy",
        "optuna",
        "pandas",
        "pyarrow",
    ),
    *("ray", "rich", "safetensors", "scipy", "sklearn", "tensorboardX", "torch", "torchvision", "yaml"),
)
"""The packages that runs import."""

_OURS = ("dim_ray", "tuning")
_ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))


def refuse_shadows() -> None:
    """Raise a `UsageError` if Python would import a file or folder of a person's own instead of a package."""
    from dim_ray.errors import UsageError

    for name in (*_OURS, *NEEDED):
        spec = PathFinder.find_spec(name)
        place = spec and (spec.origin or next(iter(spec.submodule_search_locations or []), None))
        shadow = place and _shadow(name, place)
        if shadow:
            raise UsageError(_sentence(name, shadow))


def explain_failures() -> None:
    """End the process with a sentence and exit code 2, without a traceback, if a hidden module may be behind a bug."""

    def explain(kind: type[BaseException], error: BaseException, *trace: Any) -> None:
        loaded = [(name, module) for name, module in list(sys.modules.items()) if "." not in name]
        files = [(name, getattr(module, "__file__", None) or "") for name, module in loaded]
        for name, file in [*_ran(error), *files]:
            shadow = _shadow(name, file)
            if shadow:
                print(f"error: {_sentence(name, shadow, f' ({kind.__name__}: {error})')}", file=sys.stderr)
                raise SystemExit(2)
        before(kind, error, *trace)

    before, sys.excepthook = sys.excepthook, explain


def _ran(error: BaseException | None) -> list[tuple[str, str]]:
    """Return the modules and files of the code that ran into an error, and into those that led to it."""
    found = []
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            name = str(trace.tb_frame.f_globals.get("__name__"))
            found.append((name.partition(".")[0], trace.tb_frame.f_code.co_filename))
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return found


def _shadow(name: str, file: str) -> str | None:
    """Return what a person's own module is to them, a file or folder, if it hides another module, or None."""
    folders = _folders()
    for folder in folders - {os.path.dirname(os.path.realpath(os.__file__))}:
        for own in (os.path.join(folder, name), os.path.join(folder, f"{name}.py")):
            is_own = os.path.realpath(file) == own or os.path.realpath(file).startswith(own + os.sep)
            if is_own and os.path.exists(own) and _hides(name, folder, folders):
                return own
    return None


def _folders() -> set[str]:
    """Return the current folder and those of PYTHONPATH."""
    return {os.path.realpath(entry) for entry in (".", *os.environ.get("PYTHONPATH", "").split(os.pathsep)) if entry}


def _hides(name: str, folder: str, folders: set[str]) -> bool:
    """Return whether a module in one of a person's folders isn't the real one."""
    if name in sys.stdlib_module_names:
        return True
    if name in _OURS:
        return folder != _ROOT
    if any(entry.endswith(".dist-info") for entry in os.listdir(folder)):  # pip installed into it
        return False
    others = [entry for entry in sys.path if entry and os.path.realpath(entry) not in folders]
    return PathFinder.find_spec(name, others) is not None


def _sentence(name: str, shadow: str, failure: str = "") -> str:
    return (
        f"{shadow} hides the module {name} that this command needs{failure}: rename it, or run where neither the "
        "current folder nor PYTHONPATH has it."
    )
