from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest

from dim_ray.config import EvaluationConfig, fingerprint, join_quirks, to_dict
from dim_ray.errors import UsageError
from dim_ray.store.analysis.ranking import Missing, ranking
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation

ACCURACIES = {"syn": 0.7, "random": 0.5, "whole": 0.9, "bare": 0.6, "bare random": 0.45}


def recipe_of(protocol: str, **changes: Any) -> dict[str, Any]:
    recipe = to_dict(EvaluationConfig(**{"epochs": 40, **changes}).recipe(protocol, 1))  # type: ignore[arg-type]
    return {name: value for name, value in recipe.items() if name not in ("images_per_class", "num_seeds", "seed")}


def row(protocol: str, accuracy: float, *, seed: int = 0, generator: str = "aaaa", **changes: Any) -> dict[str, Any]:
    fields = {name: changes.pop(name) for name in list(changes) if name in EvaluationConfig.__dataclass_fields__}
    recipe = recipe_of(protocol, **fields)
    return (
        evaluation(
            protocol=protocol,
            accuracy=accuracy,
            seed=seed,
            generator=None if protocol.startswith("real_") else generator,
            labels=recipe["labels"],
            quirks=join_quirks(recipe["quirks"]),
            preset="custom" if recipe["quirks"] else "corrected",
            augmentation=recipe["augmentation"],
            recipe_json=json.dumps(recipe),
            budget_fingerprint=fingerprint(recipe),
            labeller="eeee" if recipe["labels"] == "soft" else None,
        )
        | changes
    )


def every_row(**changes: Any) -> list[dict[str, Any]]:
    return [
        row("fixed", 0.7, **changes),
        row("real_fixed", 0.5, **changes),
        row("real_full", 0.9, ipc=100, **changes),
        row("fixed", 0.6, augmentation="none", **changes),
        row("real_fixed", 0.45, augmentation="none", **changes),
    ]


def read(root: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    Writer(root).append_evaluations(rows)
    return Reader(root).evaluations()


def rank(root: str, rows: list[dict[str, Any]], **options: Any) -> list[dict[Any, Any]]:
    return ranking(read(root, rows), dataset="digits", ipc=10, **options).to_dict("records")


def normalised(value: float) -> float:
    return (math.exp(value) - 1 / math.e) / (math.e - 1 / math.e)


def test_scores_are_those_of_the_paper(root: str) -> None:
    with_augmentation, without = rank(root, every_row())
    assert with_augmentation["hlr"] == pytest.approx(0.9 - 0.7)
    assert with_augmentation["ior"] == pytest.approx(0.7 - 0.5)
    assert with_augmentation["lrs"] == pytest.approx(normalised(0.5 * 0.2 - 0.5 * 0.2))
    assert with_augmentation["ars"] == pytest.approx(normalised(0.5 * 0.2 + 0.5 * 0.15))
    assert with_augmentation["missing"] == ()
    # The students without augmentation are a recipe of their own, which has no ARS
    assert without["lrs"] == pytest.approx(normalised(0.5 * 0.15 - 0.5 * 0.3))
    assert math.isnan(without["ars"])
    assert without["missing"] == ()


def test_weights_move_the_scores_between_their_halves(root: str) -> None:
    score, _ = rank(root, every_row(), label_weight=1.0, augmentation_weight=0.0)
    assert score["lrs"] == pytest.approx(normalised(0.2))
    assert score["ars"] == pytest.approx(normalised(0.15))
    score, _ = rank(root, [], label_weight=0.0, augmentation_weight=1.0)
    assert score["lrs"] == pytest.approx(normalised(-0.2))
    assert score["ars"] == pytest.approx(normalised(0.2))


def test_scores_run_from_0_to_1() -> None:
    worst = [row("fixed", 0.0), row("real_fixed", 1.0), row("real_full", 1.0, ipc=100)]
    best = [row("fixed", 1.0), row("real_fixed", 0.0), row("real_full", 0.0, ipc=100)]
    for rows, lrs in ((worst, 0.0), (best, 1.0)):
        (score,) = ranking(pd.DataFrame(rows), dataset="digits", ipc=10).to_dict("records")
        assert score["lrs"] == pytest.approx(lrs)


def test_accuracies_are_means_over_seeds(root: str) -> None:
    rows = [row("fixed", accuracy, seed=seed) for seed, accuracy in enumerate((0.6, 0.8))]
    score, _ = rank(root, [*every_row(), *rows])
    assert (score["n"], score["syn_any"]) == (2, pytest.approx(0.7))


def test_soft_labels_count_in_ior_and_hard_ones_in_hlr(root: str) -> None:
    soft = {"labels": "soft", "soft_label_temperature": 4.0}
    rows = [*every_row(), row("fixed", 0.85, **soft), row("real_fixed", 0.8, **soft)]
    score = next(score for score in rank(root, rows) if score["labels"] == "soft")
    assert score["syn_hard"] == 0.7
    assert score["hlr"] == pytest.approx(0.9 - 0.7)
    assert score["ior"] == pytest.approx(0.85 - 0.8)


def test_chosen_images_have_the_plain_baseline_and_are_their_own_hard_labels(root: str) -> None:
    rows = [*every_row(), row("fixed", 0.8, candidates=4, labeller="eeee")]
    score = next(score for score in rank(root, rows) if score["labeller"] == "eeee")
    assert score["syn_hard"] == 0.8
    assert score["ior"] == pytest.approx(0.8 - 0.5)


def test_random_images_with_other_teachers_are_no_baseline(root: str) -> None:
    soft = {"labels": "soft"}
    rows = [*every_row(), row("fixed", 0.85, **soft), row("real_fixed", 0.8, labeller="ffff", **soft)]
    score = next(score for score in rank(root, rows) if score["labels"] == "soft")
    assert math.isnan(score["ior"])
    assert [missing.protocol for missing in score["missing"]] == ["real_fixed", "fixed", "real_fixed"]


@pytest.mark.parametrize(
    ("absent", "missing", "undefined"),
    [
        (1, [("real_fixed", "color+crop")], {"ior", "lrs", "ars"}),
        (2, [("real_full", "color+crop")], {"hlr", "lrs"}),
        (3, [("fixed", "none")], {"ars"}),
        (4, [("real_fixed", "none")], {"ars"}),
    ],
)
def test_what_a_score_lacks_is_named_and_nothing_stands_in_for_it(
    root: str, absent: int, missing: list[tuple[str, str]], undefined: set[str]
) -> None:
    rows = every_row()
    del rows[absent]
    scores = rank(root, rows)
    score = next(score for score in scores if score["augmentation"] == "color+crop")
    assert [(lack.protocol, lack.recipe["augmentation"]) for lack in score["missing"]] == missing
    assert {name for name in ("hlr", "ior", "lrs", "ars") if math.isnan(score[name])} == undefined


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("quirks", [(), ("extra_batch", "train_mode_test")])
def test_rows_that_are_made_as_they_are_missing_complete_the_scores(
    root: str, quirks: tuple[str, ...], labels: str
) -> None:
    (score,) = rank(root, [row("fixed", 0.7, quirks=quirks, labels=labels)])
    assert len(score["missing"]) == (5 if labels == "soft" else 4)
    made = []
    for missing in score["missing"]:
        tuples = {name: tuple(missing.recipe[name]) for name in ("quirks", "decay_points", "protocols")}
        made.append(
            row(missing.protocol, 0.5, ipc=100 if missing.protocol == "real_full" else 10, **missing.recipe | tuples)
        )
    complete = next(
        score for score in rank(root, made) if (score["labels"], score["augmentation"]) == (labels, "color+crop")
    )
    assert complete["missing"] == ()
    assert not math.isnan(complete["lrs"] + complete["ars"])


def test_real_on_the_fly_is_not_training_on_all_real_images(root: str) -> None:
    rows = [row("fixed", 0.7), row("real_fixed", 0.5), row("real_on_the_fly", 0.95)]
    (score,) = rank(root, rows)
    assert math.isnan(score["hlr"])
    assert score["missing"][-1] == Missing(protocol="real_full", recipe=recipe_of("fixed"))


def test_longest_training_on_all_real_images_counts_without_quirks_and_soft_labels(root: str) -> None:
    others = [
        row("real_full", 0.95, ipc=100, optimiser_steps=9000, epochs=400),
        row("real_full", 0.98, ipc=100, optimiser_steps=90_000, labels="soft"),
        row("real_full", 0.99, ipc=100, optimiser_steps=90_000, quirks=("best_of_tests",)),
        row("real_full", 0.97, ipc=100, optimiser_steps=90_000, architecture="resnet18"),
    ]
    score, _ = rank(root, [*every_row(), *others], architecture="convnet3")
    assert score["real_hard"] == 0.95


def test_other_data_budgets_and_architectures_are_not_mixed(root: str) -> None:
    rows = [
        *every_row(),
        row("real_fixed", 0.1, data_fingerprint="other"),
        row("real_fixed", 0.1, architecture="resnet18"),
        row("real_fixed", 0.1, learning_rate=0.5),
        row("real_fixed", 0.1, ipc=50),
        row("real_fixed", 0.1, dataset="mnist"),
        row("real_fixed", 0.1, quirks=("extra_batch",)),
    ]
    score, _ = rank(root, rows)
    assert score["rdm_any"] == 0.5


def test_best_score_comes_first_and_unknown_ones_last(root: str) -> None:
    more = [row("fixed", 0.8, generator="bbbb"), row("fixed", 0.9, generator="cccc", learning_rate=0.5)]
    scores = rank(root, [*every_row()[:3], *more])
    assert [score["generator"] for score in scores] == ["bbbb", "aaaa", "cccc"]


def test_no_rows_give_no_scores(root: str) -> None:
    scores = ranking(Reader(root).evaluations(), dataset="digits", ipc=10)
    assert scores.empty
    assert {"generator", "lrs", "ars", "missing"} <= set(scores.columns)


@pytest.mark.parametrize("weights", [{"label_weight": 1.5}, {"augmentation_weight": -0.1}, {"label_weight": math.nan}])
def test_weight_out_of_range_is_refused(root: str, weights: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"weight is .*; allowed: 0 to 1"):
        ranking(Reader(root).evaluations(), dataset="digits", ipc=10, **weights)
