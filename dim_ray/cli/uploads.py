"""What --push-to-hub, --private and --license do, for every command that has them.

target = find_target("ORG/NAME", "model", is_private=False, license=None)
if target:
    written = upload(target, Path("digits_generator"))
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dim_ray import hub
from dim_ray.errors import DimError, UsageError

__all__ = ["find_target", "upload"]


def find_target(name: str | None, kind: hub.Kind, *, is_private: bool, license: str | None) -> hub.Target | None:
    """Return the repository to write, None if none is asked for.

    Raises:
        UsageError: A flag can't be followed; see `dim_ray.hub.find_target`, too.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UsageError(
            f"--license is {license!r}; allowed: the Hub's identifiers, such as cc-by-4.0, which are listed at "
            "https://huggingface.co/docs/hub/repositories-licenses."
        )
    if name is not None:
        return hub.find_target(name, kind, is_private=is_private)
    if is_private:
        raise UsageError("--private is about the repository of --push-to-hub ORG/NAME; give both or neither.")
    return None


def upload(target: hub.Target, folder: Path, *, replaced: Sequence[str] = ()) -> hub.Target:
    """Push a complete folder, say so, and return what was written, at its commit; raises as `Target.push`."""
    try:
        written = target.push(folder, replaced=replaced)
    except DimError as error:
        raise type(error)(f"{folder} is complete, but {error}") from error
    print(f"pushed to {written.address}")
    return written
