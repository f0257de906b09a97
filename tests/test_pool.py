"""The command that trains a pool."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dim_ray.cli.main import run_main
from dim_ray.pool import main
from dim_ray.store.artifacts import ArtifactStore

FLAGS = ["--local", "--architecture", "convnet3_w4", "mlp_w8", "--epochs", "1"]


def test_pool_is_trained_extended_and_named_for_the_distillation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(tmp_path)]
    main(["--size", "2", *FLAGS, *storage])
    assert "pool of 2 teachers: 2 trained, 0 stored before" in capsys.readouterr().out
    main(["--size", "3", *FLAGS, *storage])
    out = capsys.readouterr().out
    assert "pool of 3 teachers: 1 trained, 2 stored before" in out
    artifacts = ArtifactStore(str(tmp_path))
    cards = [artifacts.read_card("teachers", fingerprint) for fingerprint in artifacts.list("teachers")]
    assert sorted((card["number"], card["architecture"]) for card in cards) == [
        (0, "convnet3_w4"), (1, "mlp_w8"), (2, "convnet3_w4"),
    ]  # fmt: skip
    assert all(card["fingerprint"] in out for card in cards)
    next_command = out.split("next:")[1].strip()
    assert next_command.startswith("python -m dim_ray.distill --dataset digits --pool.size=3 --pool.epochs=1 ")
    assert "--networks.teachers convnet3_w4 mlp_w8" in next_command


def test_teachers_are_trained_whatever_is_matched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--size", "1", *FLAGS, "--matching.kind", "none", "--storage", str(tmp_path)])
    assert "1 trained" in capsys.readouterr().out


def test_recipe_of_few_images_trains_teachers_of_forty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = torch.randint(256, (40, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    for number, image in enumerate(pixels):
        folder = tmp_path / "few" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    main(["--size", "1", *FLAGS, "--dataset", f"folder:{tmp_path / 'few'}", "--storage", str(tmp_path / "storage")])
    said = capsys.readouterr()
    assert "recipe small for few, 40 grey images of 8 pixels" in said.err
    assert "1 trained" in said.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pool.kind", "online"], "pool.kind is 'online'"),
        (["--workers", "2", "--local"], "--local is one process, but --workers is 2"),
        (["--size", "0"], "pool.size is 0"),
    ],
)
def test_what_can_not_work_is_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(main, [*flags, "--storage", str(tmp_path / "none")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
