"""What people call the splits of a data set: the Hugging Face hub's keywords, in any case.

role_of("Testing") == "test"
roles_in("mnist_train.parquet") == {"train"}
"""

from __future__ import annotations

import re

__all__ = ["ROLES", "SPLIT_WORDS", "role_of", "roles_in"]

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
ROLES = tuple(SPLIT_WORDS)

_BETWEEN = "[-._= 0-9]"  # the Hub's, and the sign of a partition such as split=train
_ANYWHERE = {
    role: re.compile(f"(.*{_BETWEEN})?({'|'.join(words)})({_BETWEEN}.*)?", re.IGNORECASE | re.DOTALL)
    for role, words in SPLIT_WORDS.items()
}


def role_of(name: str) -> str | None:
    """Return the split that a name is a word for: train, validation, test, or None."""
    return next((role for role, words in SPLIT_WORDS.items() if name.casefold() in words), None)


def roles_in(name: str) -> set[str]:
    """Return the splits that a name has a word of, apart from its other parts by one of `-._= ` or a digit."""
    return {role for role, pattern in _ANYWHERE.items() if pattern.fullmatch(name)}
