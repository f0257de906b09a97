"""Write an HTML page about everything in a storage, and its figures as PNG and SVG.

python -m dim_ray.report                                        ./dim_storage into ./dim_report/report.html
python -m dim_ray.report --storage s3://bucket/dim --output digits_report --dataset digits
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from dim_ray.cli.parser import Parser
from dim_ray.config import PROTOCOLS
from dim_ray.errors import StorageError, UsageError

__all__ = ["PAGE_FILE", "main", "parse_arguments"]

PAGE_FILE = "report.html"
_FILTERS = ("dataset", "ipc", "architecture", "protocol")


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.report`` with the given arguments."""
    arguments = parse_arguments(argv)
    from dim_ray.store.artifacts import ArtifactStore
    from dim_ray.store.files.filesystem import open_root
    from dim_ray.store.reader import Reader

    folder = Path(arguments.output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output is {arguments.output}, which is a file; give a folder.")
    try:
        root = open_root(arguments.output)
    except StorageError as error:
        raise UsageError(f"--output: {error}") from error
    from dim_ray.reporting.page import FIGURES_FOLDER, make_page
    from dim_ray.reporting.sections import make_report

    filters = {name: value for name in _FILTERS if (value := getattr(arguments, name)) is not None}
    report = make_report(
        Reader(arguments.storage),
        ArtifactStore(arguments.storage),
        filters,
        data_root=arguments.data_root,
        shows_own=arguments.own_images,
    )
    page = make_page(report, made_at=datetime.now(UTC))
    try:
        for name, data in {**page.files, PAGE_FILE: page.html.encode()}.items():
            root.write(name, data)
    except StorageError as error:  # whose message names --storage
        raise StorageError(str(error).replace("--storage", "--output")) from error
    print(
        f"{root.uri_of(PAGE_FILE)}, {len(page.html) / 1e6:.1f} MB; {len(page.files)} figures in "
        f"{root.uri_of(FIGURES_FOLDER)}"
    )


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, or raise a `UsageError`."""
    parser = Parser("python -m dim_ray.report", __doc__ or "")
    parser.add_storage()
    parser.add_argument(
        "--output",
        default="dim_report",
        metavar="DIR",
        help="folder or URI of the page and its figures (default: %(default)s)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="only this dataset")
    parser.add_argument("--ipc", type=int, metavar="N", help="only this number of images per class")
    parser.add_argument("--architecture", metavar="NAME", help="only these students, for example convnet3")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="only this protocol, with its real images beside it")
    parser.add_argument("--data-root", metavar="DIR", help="folder of torchvision's files, for the gallery")
    parser.add_argument(
        "--own-images",
        action="store_true",
        help="gallery: also show training images of your own data, beside the generated ones nearest to them",
    )
    parser.refuse_unknown_flags(argv)
    return parser.parse_args(argv)


if __name__ == "__main__":
    from dim_ray.cli.main import run_main

    sys.exit(run_main(main))
