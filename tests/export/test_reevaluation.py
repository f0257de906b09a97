"""An exported generator is measured again: new students against what its card says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dim_ray.cli.flags import DEFAULT_STUDY
from dim_ray.cli.main import run_main
from dim_ray.cli.settings import make_config, read_settings
from dim_ray.config import DataConfig, EvaluationConfig
from dim_ray.core.data.dataset import load_dataset
from dim_ray.core.training.checkpoint import dumps, loads
from dim_ray.errors import ArtifactError, DataError, StorageError, UsageError
from dim_ray.export.reevaluation import CELLS, Reevaluation, measured_cells, reevaluate
from dim_ray.pipeline.evaluations import evaluate_group, plan_evaluations
from dim_ray.pipeline.students import group_students
from dim_ray.results import main
from dim_ray.store.artifacts import CARD_DIGEST, CARD_FILE, read_artifact, seal_card
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers import tiny
from tests.helpers.altered_cards import edit_card
from tests.helpers.made_rows import evaluation
from tests.helpers.small import build_networks, distil, make_work

EVALUATION = EvaluationConfig(
    images_per_class=(2,),
    protocols=("on_the_fly", "fixed"),
    num_seeds=3,
    epochs=1,
    min_steps=5,
    num_test_points=1,
    augmentation="none",
    precision="float32",
)


def export(storage: Path, out: Path, **sections: Any) -> Path:
    """Makes a generator of digits, measures it and exports it."""
    small = {
        "pool": replace(tiny.POOL, batch_size=128, epochs=1, num_snapshots=1),
        "generator": replace(tiny.GENERATOR, latent_dim=16),
        "prior": replace(tiny.PRIOR, batch_size=128, epochs=1),
        "matching": replace(tiny.MATCHING, batch_size=128, epochs=1),
    }
    work = make_work(storage, dataset=load_dataset(DataConfig()), **{**small, **sections})
    build_networks(work)
    generator = distil(work)
    planned = plan_evaluations(work, generator)
    for group in group_students(work, planned, num_seeds=3, device_type="cpu"):
        evaluate_group(work, group)
    main(["export", generator, str(out), "--storage", str(storage)])
    return out


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return export(tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("out") / "digits", evaluation=EVALUATION)


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def lie(folder: Path, accuracy: float) -> None:
    """Raises what the card says of the students on the fly, whoever verifies its digest finds nothing."""

    def edit(card: dict[str, Any]) -> None:
        for cell in card[CELLS]:
            if cell["protocol"] == "on_the_fly":
                cell["accuracies"] = [own + accuracy for own in cell["accuracies"]]

    edit_card(folder, edit)


def test_card_has_the_recipe_the_seeds_and_the_accuracies_of_its_rows(exported: Path) -> None:
    artifact = read_artifact(str(exported))
    cells = artifact.card[CELLS]
    assert [(cell["protocol"], cell["ipc"], cell["seeds"]) for cell in cells] == [
        ("fixed", 2, [0, 1, 2]),
        ("on_the_fly", 2, [0, 1, 2]),
    ]
    for cell in cells:
        assert cell["architecture"] == tiny.ARCHITECTURE
        assert cell["recipe"]["min_steps"] == 5
        assert all(0 < accuracy < 1 for accuracy in cell["accuracies"])
    assert artifact.card["splits"] == {"validation_fraction": 0.1, "test_fraction": 0.2, "split_seed": 0}


def test_new_students_agree_with_the_card_and_the_command_says_match(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(main, ["verify", str(exported)]) == 0
    fixed, on_the_fly, summary = capsys.readouterr().out.splitlines()
    assert fixed.startswith(f"fixed, IPC 2, {tiny.ARCHITECTURE}: card ")
    assert "(n 3), now" in fixed
    assert "99.5 % interval" in fixed  # of two cells
    assert on_the_fly.endswith(": match")
    assert summary == f"match: 2 cells of {exported}, every file as its card says"


def test_card_that_says_too_much_is_a_mismatch_with_exit_code_1(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lie(copied, 0.5)
    assert run_main(main, ["verify", str(copied), "--seeds", "2"]) == 1
    captured = capsys.readouterr()
    fixed, on_the_fly = captured.out.splitlines()
    assert fixed.endswith(": match")
    assert on_the_fly.endswith(": MISMATCH")
    assert "now" in on_the_fly
    assert "(n 2); difference -" in on_the_fly
    found, error = captured.err.splitlines()
    assert found.startswith("digits: 10 classes")
    assert error.startswith(f"error: 1 of 2 cells of {copied}, named above, don't match its card")


def test_students_have_other_seeds_than_those_of_the_card(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def train(work: object, cells: list[Any], *arguments: object, **options: object) -> list[Any]:
        seeds.extend(cell.seed for cell in cells)
        raise StorageError("enough")

    monkeypatch.setattr("dim_ray.export.reevaluation.train_group", train)
    with pytest.raises(StorageError, match="enough"):
        next(reevaluate(str(exported)))
    assert seeds
    assert min(seeds) == 3


@pytest.mark.parametrize("file", ["generator.safetensors", "sample.py", "program.pt2"])
def test_tampered_file_is_refused_by_name_before_anything_is_trained(copied: Path, file: str) -> None:
    data = bytearray((copied / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / file).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{file} in .* was altered"):
        next(reevaluate(str(copied), dataset="folder:/nowhere"))


def test_edited_readme_is_measured_all_the_same(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "README.md").write_bytes(b"---\r\nlicense: mit\r\n---\r\n")
    (copied / "samples.png").unlink()
    assert run_main(main, ["verify", str(copied), "--protocol", "fixed"]) == 0
    assert "match: 1 cell of" in capsys.readouterr().out


def test_other_data_or_splits_are_refused(copied: Path) -> None:
    edit_card(copied, lambda card: card["splits"].update(split_seed=1))
    with pytest.raises(DataError, match=r"was made from 'digits' with digest .*--dataset"):
        next(reevaluate(str(copied)))
    edit_card(copied, lambda card: card["dataset"].update(name="faces"))
    with pytest.raises(UsageError, match="'faces', which is no known name; say with --dataset"):
        next(reevaluate(str(copied)))


def test_cells_are_chosen_and_what_isnt_there_is_said(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(main, ["verify", str(exported), "--protocol", "fixed", "--ipc", "2"]) == 0
    assert "match: 1 cell of" in capsys.readouterr().out
    with pytest.raises(StorageError, match=r"was never measured with .*'ipc': 5.*there is fixed, IPC 2"):
        next(reevaluate(str(exported), ipc=5))
    with pytest.raises(UsageError, match="--seeds is 1; allowed: 2 or more"):
        next(reevaluate(str(exported), num_seeds=1))
    with pytest.raises(UsageError, match="only for an exported folder"):
        main(["verify", "--seeds", "3"])


def test_generator_without_evaluations_says_what_to_do(copied: Path) -> None:
    edit_card(copied, lambda card: card.update({CELLS: []}))
    with pytest.raises(StorageError, match=r"measure the generator with python -m dim_ray\.evaluate, and export"):
        next(reevaluate(str(copied)))
    edit_card(copied, lambda card: card.update({CELLS: [{"protocol": "fixed", "recipe": {"new": 1}}]}))
    with pytest.raises(ArtifactError, match=r"aren't what this version of dim_ray reads \(there is no ipc"):
        next(reevaluate(str(copied)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda card: card[CELLS][0].update(recipe=[]), "no attribute 'items'"),
        (lambda card: card[CELLS][0].pop("weights"), "there is no weights"),
        (lambda card: card[CELLS][0].pop("preset"), "there is no preset"),
        (lambda card: card[CELLS][0].update(weights="other"), "weights are 'other'"),
        (lambda card: card[CELLS][0].update(seeds=["0", "1", "2"]), "seeds are"),
        (lambda card: card[CELLS][0].update(accuracies=[1.5, 0.5, 0.5]), "accuracies are"),
        (lambda card: card.update({CELLS: {"fixed": 1}}), "string indices must be integers"),
        (lambda card: card["dataset"].pop("name"), "there is no name"),
        (lambda card: card.pop("dataset"), "there is no dataset"),
    ],
)
def test_foreign_card_without_what_is_needed_is_an_error_that_says_what(
    copied: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    edit_card(copied, change)
    with pytest.raises(ArtifactError, match=says):
        next(reevaluate(str(copied)))


EXACT: dict[str, Any] = {"num_test": 1_000_000, "confidence": 0.95}


def test_honest_generator_is_seldom_a_mismatch_though_students_often_agree_by_chance() -> None:
    generator, num_test, num_folders = np.random.default_rng(0), 360, 6000
    drawn = generator.binomial(num_test, 0.97, size=(num_folders, 4)) / num_test  # one student of the card, three new
    alike = {"protocol": "fixed", "ipc": 1, "architecture": "a", "num_test": num_test, "confidence": 0.99}
    cells = [Reevaluation(stated=tuple(own[:1]), found=tuple(own[1:]), **alike) for own in drawn]
    assert sum(not cell.is_match for cell in cells) / num_folders <= 0.01
    third = Reevaluation(stated=(0.1 + 0.2,), found=(0.3,) * 3, **alike)
    one = Reevaluation(stated=(350 / 360,), found=(349 / 360,) * 3, **alike)
    sure = Reevaluation(stated=(1.0,), found=(1.0,) * 3, **alike)
    assert all(cell.is_match for cell in (third, one, sure))
    assert not Reevaluation(stated=(0.97,), found=(0.93,) * 3, **alike).is_match


def test_interval_is_that_of_the_pooled_t_test() -> None:
    stated, found = (0.71, 0.74, 0.69), (0.70, 0.66, 0.68, 0.69)
    cell = Reevaluation(protocol="fixed", ipc=1, architecture="a", stated=stated, found=found, **EXACT)
    expected = stats.ttest_ind(found, stated).confidence_interval(0.95)
    assert cell.interval == pytest.approx((expected.low, expected.high))
    assert cell.is_match == (expected.low <= 0 <= expected.high)
    one = Reevaluation(protocol="fixed", ipc=1, architecture="a", stated=(0.9,), found=found, **EXACT)
    assert one.interval[1] < 0  # the spread is that of the new students


def test_soft_labels_are_left_out_and_the_later_of_two_rows_counts(tmp_path: Path) -> None:
    own = {"generator": "aaaa", "dataset": "digits"}
    for changes in (
        {"seed": 0, "accuracy": 0.5},
        {"seed": 0, "accuracy": 0.6, "code_version": "0.2.0"},
        {"seed": 1, "accuracy": 0.7},
        {"seed": 2, "accuracy": 0.8, "labels": "soft", "labeller": "bbbb"},
        {"seed": 3, "accuracy": 0.9, "generator": "cccc"},
    ):
        Writer(str(tmp_path)).append_evaluations([evaluation(**{**own, **changes})])
    [cell] = measured_cells(Reader(str(tmp_path)).evaluations(), "aaaa")
    assert (cell["seeds"], cell["accuracies"]) == ([0, 1], [0.6, 0.7])


@pytest.mark.slow
def test_worse_generator_with_sums_that_fit_is_a_mismatch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good generator's card over its weights in another order."""
    torch.manual_seed(0)
    usual = make_config(read_settings(DEFAULT_STUDY))
    evaluation = replace(usual.evaluation, images_per_class=(10,), protocols=("on_the_fly",), num_seeds=3)
    folder = export(
        tmp_path / "storage",
        tmp_path / "out",
        generator=replace(usual.generator, capacity=16),
        prior=replace(usual.prior, epochs=8),
        evaluation=evaluation,
    )
    assert run_main(main, ["verify", str(folder)]) == 0

    artifact = read_artifact(str(folder))
    files = dict(artifact.files)
    for name in [name for name in files if name.endswith(".safetensors")]:
        tensors, _ = loads(files[name], origin=name)
        shuffled = {key: own.flatten()[torch.randperm(own.numel())].view_as(own) for key, own in tensors.items()}
        files[name] = dumps({key: own if tensors[key].dim() > 1 else tensors[key] for key, own in shuffled.items()})
        (folder / name).write_bytes(files[name])
    card = {key: value for key, value in artifact.card.items() if key not in (CARD_DIGEST, "files")}
    (folder / CARD_FILE).write_bytes(seal_card(card, files))
    read_artifact(str(folder))  # looks honest
    capsys.readouterr()
    assert run_main(main, ["verify", str(folder)]) == 1
    assert "MISMATCH" in capsys.readouterr().out
