"""All commands under one name: `dim-ray tune` is `python -m dim_ray.tune`.

dim-ray                                 what one can do, in the order in which one does it
dim-ray tune --dataset mnist            a command with its flags
eval "$(dim-ray completion bash)"       lets the shell complete commands and flags; also zsh, fish
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from dim_ray.cli.completion import SHELLS, complete, is_asked, next_word, script
from dim_ray.cli.main import run_main
from dim_ray.cli.parser import Parser
from dim_ray.errors import UsageError, nearest
from dim_ray.version import __version__

__all__ = ["COMMANDS", "main", "run"]

COMMANDS = {
    "doctor": "check the machines of a cluster",
    "tune": "search for the best generator of a dataset, and measure it: start here",
    "pool": "train teachers ahead of time",
    "distill": "make one generator, without a search",
    "evaluate": "measure a generator with new students",
    "quirks": "measure what the reference implementation's quirks do",
    "results": "list, compare, export and look after what is stored",
    "report": "write an HTML page about it",
    "generate": "write a generator's images as files",
}
"""The commands, in the order in which one needs them; each is a module of this package."""


def run() -> int:
    """Run the console script, and return its exit code."""
    return run_main(main)


def main(argv: Sequence[str]) -> None:
    """Run ``dim-ray`` with the given arguments."""
    if is_asked():
        argv = next_word(COMMANDS)
        if not argv:
            complete(_names_parser())
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_overview())
    elif name == "--version":
        print(__version__)
    elif name == "completion":
        print(_completion(rest))
    elif name in COMMANDS:
        importlib.import_module(f"dim_ray.{name}").main(rest)
    else:
        raise UsageError(f"there is no command {name!r}; {nearest(name, [*COMMANDS, 'completion'])}")


def _overview() -> str:
    lines = [f"  {name:<12}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"dim-ray {__version__}: distil a labelled image dataset into a small generator",
            "",
            "usage: dim-ray COMMAND [flags]",
            "",
            *lines,
            f"  {'completion':<12}print a script that lets a shell complete all of these: {', '.join(SHELLS)}",
            "",
            "`dim-ray COMMAND --help` explains a command; `python -m dim_ray.COMMAND` runs it, too.",
        ]
    )


def _completion(arguments: Sequence[str]) -> str:
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise UsageError(f"completion takes one shell of {', '.join(SHELLS)}; given: {' '.join(arguments) or 'none'}.")
    return script(arguments[0])


def _names_parser() -> Parser:
    parser = Parser("dim-ray", "")
    parser.add_argument("command", choices=[*COMMANDS, "completion"])
    return parser


if __name__ == "__main__":
    sys.exit(run())
