"""Write a generator's images as files that other tools read.

    python -m dim_ray.generate --out digits_10                            10 images per class, of the storage's best
    python -m dim_ray.generate GENERATOR --ipc 50 --format parquet --out digits_50
    python -m dim_ray.generate GENERATOR --format torch --seed 1 --out digits_10
    python -m dim_ray.generate GENERATOR --ipc 50 --out digits_50 --push-to-hub ORG/NAME

GENERATOR is a folder, a URI, or a fingerprint in --storage. The same seed gives the same images, namely those of
`dim_ray.load_generator(GENERATOR).fixed_dataset(ipc, seed)`, rounded to bytes except for torch. With --candidates, the
generator's teachers choose them; with --latent-steps, their latents are moved until the teachers see them as they see
real images, which is worth the most for few images. Contents of --out:

    folder    <class>/<number>.png           for torchvision's ImageFolder, and --dataset folder:OUT
    npz       images.npz                     images (N, H, W, C) uint8, labels, class_names, mean, std
    parquet   train.parquet, README.md       for datasets.load_dataset(OUT), --dataset parquet:OUT, the Hugging Face Hub
    torch     images.pt                      for dataset condensation's tools: torch.load(path)["data"][-1] is (images,
                                             labels), images float32 normalised by mean and std
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dim_ray.cli.parser import Parser
from dim_ray.cli.uploads import find_target, upload
from dim_ray.config import WEIGHTS, StudyConfig
from dim_ray.errors import UsageError
from dim_ray.export.outputs import check_absent, write_folder
from dim_ray.hub import SCHEME

__all__ = ["main"]

_FORMATS = ("folder", "npz", "parquet", "torch")


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.generate`` with the given arguments."""
    parser = _parser()
    parser.refuse_unknown_flags(argv)
    arguments = parser.parse_args(argv)
    least = {"ipc": 1, "candidates": 1, "latent_steps": 0}
    for name, number in least.items():
        if getattr(arguments, name) < number:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is {getattr(arguments, name)}; allowed: {number} or more.")
    if arguments.latent_steps and arguments.candidates > 1:
        raise UsageError("--latent-steps and --candidates choose images in two ways; give one of them.")
    out, is_pushed = Path(arguments.out), arguments.push_to_hub is not None
    form = arguments.format or ("parquet" if is_pushed else "folder")
    if form != "parquet" and (is_pushed or arguments.license):
        raise UsageError(f"--push-to-hub and --license are for --format parquet, which has a README.md; given: {form}.")
    target = find_target(arguments.push_to_hub, "dataset", is_private=arguments.private, license=arguments.license)
    check_absent(out)
    from dim_ray.api import named_generator
    from dim_ray.export.cards import README_FILE, images_card
    from dim_ray.export.image_files import FORMATS, ImageSet

    generator = named_generator(
        arguments.storage, arguments.generator, dataset=arguments.dataset, weights=arguments.weights
    )
    images, labels = generator.fixed_dataset(
        arguments.ipc, arguments.seed, candidates=arguments.candidates, latent_steps=arguments.latent_steps
    ).tensors
    files = FORMATS[form](
        ImageSet(
            images=images,
            labels=labels,
            class_names=generator.class_names,
            mean=generator.mean,
            std=generator.std,
        )
    )
    if form == "parquet":
        files[README_FILE] = images_card(
            generator,
            ipc=arguments.ipc,
            seed=arguments.seed,
            candidates=arguments.candidates,
            latent_steps=arguments.latent_steps,
            source=arguments.generator if str(arguments.generator).startswith(SCHEME) else None,
            license=arguments.license,
            name=target.name if target else out.name,
        ).encode()
    write_folder(out, files)
    print(f"{len(labels)} images, {arguments.ipc} of each of {generator.num_classes} classes, of {generator.uri}")
    print(f"seed {arguments.seed}, {generator.weights} weights; in {out}")
    if target:
        written = upload(target, out, replaced=("*.parquet",))
        given = f"{written.name!r}, revision={written.revision!r}, split='train'"
        print(f"load them in Python:\n  import datasets; images = datasets.load_dataset({given})")


def _parser() -> Parser:
    parser = Parser("python -m dim_ray.generate", __doc__ or "")
    parser.add_argument(
        "generator", nargs="?", metavar="GENERATOR", help="folder, URI or fingerprint (default: the storage's best)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the files")
    parser.add_argument(
        "--ipc",
        type=int,
        default=StudyConfig().selection_images_per_class[0],
        metavar="N",
        help="images per class (default: %(default)s)",
    )
    parser.add_argument("--format", choices=_FORMATS, help="file format (default: folder; to the Hub parquet)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the images (default: %(default)s)")
    parser.add_argument(
        "--candidates",
        type=int,
        default=1,
        metavar="N",
        help="images generated for each one, of which the generator's teachers choose (default: %(default)s)",
    )
    parser.add_argument(
        "--latent-steps",
        type=int,
        default=0,
        metavar="N",
        help="steps that match the latents to real images; try 300 (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="average: their moving average, or raw (default: the ones that validation chose)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="dataset of the storage's best (default: the only one)")
    parser.add_storage()
    parser.add_hub()
    return parser


if __name__ == "__main__":
    from dim_ray.cli.main import run_main

    sys.exit(run_main(main))
