"""Name commands as the person who started this process types them.

as_typed("run python -m dim_ray.tune")      # "run dim-ray tune" under the script dim-ray, else unchanged
"""

from __future__ import annotations

import os
import re
import sys

__all__ = ["SCRIPT", "as_typed"]

SCRIPT = "dim-ray"
"""Name of the console script."""


def as_typed(text: str) -> str:
    """Return a text whose commands are those of the console script, if it started this process."""
    if os.path.basename("".join(sys.argv[:1])) != SCRIPT:
        return text
    return re.sub(r"python -m dim_ray\.(\w+)", rf"{SCRIPT} \1", text)
