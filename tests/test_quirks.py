from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dim_ray import quirks
from dim_ray.config import PRESET_QUIRKS, PRESETS, QUIRKS, EvaluationConfig
from dim_ray.errors import UsageError
from dim_ray.quirks import BEGIN, END, effects, main, variants
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation

TINY = [
    "--local",
    *("--networks.teachers", "convnet3_w8", "--pool.size", "1", "--pool.epochs", "1"),
    *("--prior.epochs", "1", "--prior.batch_size", "256", "--matching.epochs", "1", "--matching.batch_size", "256"),
    *("--generator.capacity", "4", "--study.grace_epochs", "1"),
]
FEW = ["--architecture", "convnet3_w4", "--num-seeds", "2", "--ipc", "1"]
FEW_STEPS = ["--evaluation.epochs", "1", "--evaluation.min_steps", "1"]


def measured(variant: str, *accuracies: float, **changes: Any) -> list[dict[str, Any]]:
    return [
        evaluation(seed=seed, accuracy=accuracy, **changes) | {"variant": variant}
        for seed, accuracy in enumerate(accuracies)
    ]


def test_each_variant_is_corrected_with_one_quirk_alone() -> None:
    evaluation = EvaluationConfig(epochs=7, preset="reference", quirks=("train_mode_test",), optimizer="adam")
    found = variants(evaluation, 1)
    assert list(found) == ["corrected", *sorted(QUIRKS), "reference"]
    corrected = found["corrected"]
    assert (corrected.all_quirks, corrected.epochs, corrected.optimizer) == ((), 7, "adam")
    for quirk in QUIRKS:
        assert found[quirk] == replace(corrected, quirks=(quirk,))
    assert found["reference"].all_quirks == tuple(sorted(PRESET_QUIRKS["reference"]))
    assert all(getattr(found["reference"], name) == value for name, value in PRESETS["reference"].items())
    assert found["reference"].preset_name("on_the_fly", 1) == "reference"


def test_quirk_that_does_not_concern_the_data_is_not_measured() -> None:
    assert "half_normalised_test" not in variants(EvaluationConfig(), 3)


def test_difference_to_corrected_is_taken_seed_by_seed() -> None:
    rows = pd.DataFrame([*measured("corrected", 0.5, 0.7, 0.9), *measured("extra_batch", 0.6, 0.8, 0.97)])
    corrected, extra = effects(rows).to_dict("records")
    assert (extra["mean"], extra["n"]) == (pytest.approx(0.79), 3)
    assert extra["std"] == pytest.approx(pd.Series([0.6, 0.8, 0.97]).std())
    differences = pd.Series([0.1, 0.1, 0.07])
    assert extra["difference"] == pytest.approx(differences.mean())
    assert extra["error"] == pytest.approx(differences.std() / math.sqrt(3))
    assert extra["error"] < 0.02 < extra["std"]
    assert (corrected["difference"], corrected["error"]) == (0, 0)


def test_seed_that_is_missing_is_left_out_of_the_difference_and_a_single_one_has_no_error() -> None:
    rows = pd.DataFrame([*measured("corrected", 0.5, 0.7), *measured("reference", 0.4)])
    _, reference = effects(rows).to_dict("records")
    assert reference["difference"] == pytest.approx(-0.1)
    assert math.isnan(reference["error"])
    assert math.isnan(reference["std"])


def test_ipcs_and_architectures_are_told_apart() -> None:
    rows = [
        row
        for ipc in (10, 1)
        for architecture in ("resnet18", "convnet3")
        for row in (
            *measured("corrected", 0.5, ipc=ipc, architecture=architecture),
            *measured("extra_batch", 0.5 + ipc / 100, ipc=ipc, architecture=architecture, optimiser_steps=ipc),
        )
    ]
    found = effects(pd.DataFrame(rows))
    assert list(found["ipc"]) == [1] * 4 + [10] * 4
    assert list(found["architecture"][:4]) == ["convnet3"] * 2 + ["resnet18"] * 2
    assert list(found["difference"]) == pytest.approx([0, 0.01, 0, 0.01, 0, 0.1, 0, 0.1])
    assert list(found["optimiser_steps"][1::2]) == [1, 1, 10, 10]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Holds a generator of digits, made in seconds."""
    from dim_ray.distill import main as distill

    root = str(tmp_path_factory.mktemp("protocols"))
    distill([*TINY, "--storage", root, "--networks.students", "convnet3_w4", *FEW_STEPS])
    return root


def test_command_measures_every_switch_writes_the_table_and_finds_the_rows_again(
    storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(quirks.PRESETS["reference"], "epochs", 1)  # type: ignore[arg-type]
    file = tmp_path / "table.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    [generator] = ArtifactStore(storage).list("generators")
    uri = ArtifactStore(storage).uri("generators", generator)
    arguments = [uri, "--local", "--storage", storage, *FEW, *FEW_STEPS, "--write", str(file)]
    main(arguments)
    rows = Reader(storage).evaluations(generator=generator)
    assert set(rows["protocol"]) == {"on_the_fly"}
    assert len(rows) == 2 * 8
    assert set(rows["preset"]) == {"corrected", "custom", "reference"}
    assert set(rows["quirks"]) == {"none", *QUIRKS, "+".join(PRESET_QUIRKS["reference"])}
    dropped = rows[rows["quirks"] == "dropped_batches"]
    assert list(dropped["optimiser_steps"]) == [0, 0]  # 10 images in batches of 50
    text = file.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n| IPC |")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    for name in ("corrected", *QUIRKS, "reference"):
        assert f"| convnet3_w4 | {name} |" in text
    assert f"Generator {generator} on digits" in text
    assert "16 evaluations added" in capsys.readouterr().out
    main(arguments)
    assert "0 evaluations added" in capsys.readouterr().out
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "can't be read"),
        ("no markers", "needs the lines"),
        (f"{END}\n{BEGIN}\n", "needs the lines .*in this order"),
    ],
)
def test_file_that_cannot_take_the_table_is_refused_before_anything_is_measured(
    text: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "table.md"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=message):
        main(["--storage", str(tmp_path / "nothing"), "--write", str(file)])
    assert not (tmp_path / "nothing").exists()


def test_generator_is_the_best_of_the_storage_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writer(str(tmp_path)).append_evaluations([evaluation(dataset="mnist")])
    from dim_ray.errors import StorageError

    with pytest.raises(StorageError, match="no generator was evaluated on 'digits'"):
        main(["--local", "--storage", str(tmp_path), *FEW])
