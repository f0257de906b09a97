"""Take the READMEs into the site, where their links lead to its pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_READMES = {"README.md": "index.md", "cluster/README.md": "clusters.md"}
_ROOT = Path(__file__).parent.parent


def on_files(files: Files, *, config: Any) -> Files:
    """Add a page for each README."""
    for source, page in _READMES.items():
        files.append(File.generated(config, page, content=(_ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Turn links within the repository into links within the site, or into plain text where they leave it."""
    folder = next((Path(source).parent for source, own in _READMES.items() if own == page.file.src_uri), Path("docs"))

    def linked(match: re.Match[str]) -> str:
        text, path, anchor = match.groups()
        target = (_ROOT / folder / path).resolve().relative_to(_ROOT).as_posix()
        target = f"{target}/README.md" if f"{target}/README.md" in _READMES else target
        inside = _READMES.get(target, target.removeprefix("docs/"))
        is_outside = inside not in files.src_uris and (_ROOT / target).exists()
        return text if is_outside else f"[{text}]({inside}{anchor})"

    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*|)\)", linked, markdown)
