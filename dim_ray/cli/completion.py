"""Complete command lines for a shell, with argcomplete.

eval "$(dim-ray completion bash)"       the shell now starts dim-ray at each <TAB>, and asks by environment variables
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection

from dim_ray.start.script import SCRIPT

__all__ = ["SHELLS", "complete", "is_asked", "next_word", "script"]

SHELLS = ("bash", "zsh", "fish")

_FIRST_WORD = "_ARGCOMPLETE"  # argcomplete's: the place of the program in the line, from 1


def script(shell: str) -> str:
    """Return the script that a shell evaluates."""
    from argcomplete.shell_integration import shellcode

    return shellcode([SCRIPT], shell=shell)


def is_asked() -> bool:
    """Return whether a shell asks how its line may be continued."""
    return _FIRST_WORD in os.environ


def next_word(known: Collection[str]) -> list[str]:
    """Return the word after the program, if it is complete and known, and let it be the program for `complete`."""
    _, words = _split()
    first = int(os.environ[_FIRST_WORD])
    found = [word for word in words[first : first + 1] if word in known]
    os.environ[_FIRST_WORD] = str(first + len(found))
    return found


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and end the process. A field's own flag, such as --pool.size, is offered from its point on."""
    import argcomplete

    argcomplete.autocomplete(parser, print_suppressed="." in _split()[0])


def _split() -> tuple[str, list[str]]:
    """Return the part of a word before the cursor, and the words before it."""
    from argcomplete.lexers import split_line

    _, prefix, _, words, _ = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    return prefix, words
