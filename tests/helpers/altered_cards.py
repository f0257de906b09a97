"""Cards as another version of the project may write them: changed, with a digest that fits again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dim_ray.store.artifacts import CARD_DIGEST, card_digest


def edit_card(folder: Path, edit: Callable[[dict[str, Any]], object], *, is_sealed: bool = True) -> None:
    """Changes the card of an artefact's folder in place; without `is_sealed` its digest stays."""
    path = folder / "card.json"
    card = json.loads(path.read_text())
    edit(card)
    if is_sealed:
        del card[CARD_DIGEST]
        card[CARD_DIGEST] = card_digest(card)
    path.write_text(json.dumps(card))
