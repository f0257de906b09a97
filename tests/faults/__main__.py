"""Harm studies on a cluster of this machine, and print what each harm costs.

    python -m tests.faults                 every scenario, one after the other
    python -m tests.faults workers node    some of them

It takes minutes, and exits with 1 if a study didn't finish, or a row was lost or doubled.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from tests.faults.scenarios import SCENARIOS
from tests.helpers.harmed_study import CHECKPOINT_SECONDS, Harm


def main(arguments: Sequence[str]) -> int:
    """Run ``python -m tests.faults``, and return its exit code."""
    parser = argparse.ArgumentParser(
        "python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    names = parser.parse_args(arguments).names or list(SCENARIOS)
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # through what ends the processes
    console = Console(width=120 if not sys.stdout.isatty() else None, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("what was done", "in", "again after", "work redone", "rows lost", "doubled", "command"):
        table.add_column(heading)
    table.add_column("finished")
    has_failed = False
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix="dim-faults-"))
        began = time.monotonic()
        try:
            for harm in SCENARIOS[name](folder):
                table.add_row(*_cells(harm))
                has_failed |= bool(harm.num_lost or harm.num_doubled or not harm.is_finished)
        except pytest.skip.Exception as reason:
            table.add_row(name, f"not here: {reason}")
        except Exception:
            traceback.print_exc()
            table.add_row(name, "", "", "", "", "", "", "FAILED")
            has_failed = True
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    console.print(table)
    console.print(
        f"A checkpoint every {CHECKPOINT_SECONDS:g} s; load {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores; Ray "
        f"{ray.__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}"
    )
    return int(has_failed)


def _cells(harm: Harm) -> list[str]:
    return [
        harm.what,
        harm.stage,
        f"{harm.again_seconds:.0f} s",
        f"{harm.redone_seconds:.1f} s, {harm.redone}",
        f"{harm.num_lost} of {harm.num_rows}",
        str(harm.num_doubled),
        "given again" if harm.by_command else "continues",
        "yes" if harm.is_finished else "NO",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
