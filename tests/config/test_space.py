"""`study.space`: what a person may write, and what it comes to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.cli.flags import TUNE_FLAGS
from dim_ray.cli.main import parse
from dim_ray.config import Choice, Config, MatchingConfig, StudyConfig, as_parameter, assignments
from dim_ray.config.space import read_space
from dim_ray.errors import ConfigError

SPACE = {
    "matching.temperature": {"values": [1.0, 4.0], "when": {"matching.kind": ["logits", "logit_means"]}},
    "matching.kind": ["logits", "logit_means", "features"],
    "matching.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}
YAML = """
study:
  space:
    matching.kind: [logits, features]
    matching.learning_rate: {low: 1e-4, high: 1e-2, log: true}
    matching.temperature: {values: [1, 4], when: {matching.kind: [logits]}}
    generator.refinements: [[3, 1], [1]]
    generator.label_embedding: [null, 8]
"""


def read(*argv: str) -> Config:
    return parse(argv, program="python -m dim_ray.tune", description="", flags=TUNE_FLAGS, defaults=None)[0]


def with_space(space: dict[str, Any], **sections: Any) -> Config:
    return Config(study=StudyConfig(space=space), **sections)


def by_field(space: dict[str, Any]) -> dict[str, Choice]:
    return {choice.field: choice for choice in read_space(space)}


def test_choices_come_with_their_conditions_last() -> None:
    choices = by_field(SPACE)
    assert list(choices) == ["matching.kind", "matching.learning_rate", "matching.temperature"]
    assert choices["matching.kind"].values == ("logits", "logit_means", "features")
    rate = choices["matching.learning_rate"]
    assert (rate.low, rate.high, rate.log) == (1e-4, 1e-2, True)
    assert choices["matching.temperature"].is_open({"matching.kind": "logits"})
    assert not choices["matching.temperature"].is_open({"matching.kind": "features"})
    assert not choices["matching.temperature"].is_open({})


def test_combinations_have_a_conditional_field_only_where_it_is_chosen() -> None:
    space = {name: choice for name, choice in SPACE.items() if name != "matching.learning_rate"}
    found = list(assignments(read_space(space), lambda choice: choice.values))
    assert len(found) == 5
    assert {"matching.kind": "features"} in found
    assert {"matching.kind": "logits", "matching.temperature": 4.0} in found


def test_points_of_a_range_have_both_ends_and_its_scale() -> None:
    choices = by_field(SPACE | {"matching.temperature": {"low": 1, "high": 3}})
    assert choices["matching.learning_rate"].points(3) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert choices["matching.temperature"].points(3) == [1.0, 2.0, 3.0]


def test_space_of_a_file_gets_the_types_of_its_fields_and_is_printed_as_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(YAML)
    config = read("--config", str(file))
    assert config.study.space["matching.learning_rate"] == {"low": 1e-4, "high": 1e-2, "log": True}
    choices = {choice.field: choice for choice in config.study.choices}
    assert choices["matching.temperature"].values == (1.0, 4.0)
    assert choices["generator.refinements"].values == ("[3, 1]", "[1]")
    assert choices["generator.label_embedding"].values == (None, 8)
    with pytest.raises(SystemExit):
        read("--config", str(file), "--print-config")
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert read("--config", str(printed)) == config


def test_space_is_a_flag_too() -> None:
    config = read("--study.space", "{matching.kind: [logits, none], matching.learning_rate: {low: 1e-4, high: 1e-2}}")
    assert [choice.field for choice in config.study.choices] == ["matching.kind", "matching.learning_rate"]
    config = read('--study.space={"prior.learning_rate": [0.1, 0.2]}')
    assert config.study.choices[0].values == (0.1, 0.2)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{matching.knd: [logits]}", "'matching.knd', which is not a known field; did you mean 'matching.kind'"),
        (
            "{mtching.kind: [logits]}",
            "'mtching.kind', which is not a known field; did you mean 'matching.kind'\\? Known: networks",
        ),
        ("{1: [2]}", "not a known field"),
        ("{pool_size: [1, 2]}", "'pool_size', which is not a known field; did you mean 'pool.size'"),
        ("{capacity: [8]}", "'capacity', which is not a known field; did you mean 'generator.capacity'"),
        ("{pool.size: [1, 0]}", r"study\.space: pool\.size is 0; allowed: a number above 0"),
        ("{pool.size: {low: 1, high: 4}}", "pool.size is a range, and every trial would need new teachers"),
        ("{matching.seed: [8]}", r"a search must not hunt for lucky seeds\. Set --study\.sampler grid"),
        ("{prior.seed: [8]}", "can't be searched: a search must not hunt for lucky seeds"),
        (
            "{matching.weight: [0, 1], matching.adversarial_weight: [1, 0]}",
            r"study\.space: matching\.weight and matching\.adversarial_weight is \(0\.0, 0\.0\)",
        ),
        ("{matching.epochs: [8]}", "can't be searched: trials are compared at the same rungs"),
        ("{data.dataset: [mnist]}", "can't be searched: trials on other data"),
        ("{evaluation.epochs: [8]}", "can't be searched: every trial has to be measured alike"),
        ("{networks.students: [[mlp]]}", "can't be searched: every trial has to be measured alike"),
        ("{study.seed: [8]}", "can't be searched: it's about the search itself"),
        ("{storage.root: [a]}", "can't be searched: it doesn't change what comes out"),
        ("{health.patience: [3]}", "can't be searched: it doesn't change what comes out"),
        ("{pool.teachers_at_once: [3]}", "can't be searched: it doesn't change what comes out"),
        ("{matching.kind: [logit]}", "matching.kind is 'logit'; expected one of"),
        ("{matching.learning_rate: [0.1, -1]}", r"study\.space: matching\.learning_rate is -1\.0; allowed"),
        ("{matching.learning_rate: {low: -1, high: 1}}", r"study\.space: matching\.learning_rate is -1\.0; allowed"),
        ("{matching.augmentation: [flop]}", "unknown operation 'flop'; did you mean 'flip'"),
        ("{matching.batch_size: [64, 63]}", r"study\.space: matching\.batch_size is 63; allowed: a multiple"),
        ("{matching.kind: logits}", "matching.kind is 'logits'; allowed: a list of values, {values"),
        ("{matching.kind: []}", "at least one value"),
        ("{matching.kind: [logits, logits]}", "each value once"),
        ("{matching.temperature: {values: [1], high: 3}}", "has 'high' beside values"),
        ("{matching.temperature: {low: 1}}", "allowed: a list of values, {values"),
        ("{matching.temperature: {low: 3, high: 1}}", "low < high"),
        ("{matching.temperature: {low: 0, high: 1, log: true}}", "with log: true both above 0"),
        ("{matching.temperature: {low: 1, high: 2, log: 3}}", "log is 3; allowed: true or false"),
        ("{matching.teachers_per_step: {low: 1, high: 3}}", "can.t be a fraction. List its values"),
        ("{prior.learning_rate: {low: 1, high: 3}}", "every trial would need new teachers or a new prior. List"),
        ("{networks.teachers: [convnet3]}", "networks.teachers is 'convnet3'; expected a list of names"),
        ("{matching.temperature: {values: [1], when: 3}}", "when is 3; allowed: fields of study.space"),
        (
            "{matching.temperature: {values: [1], when: {matching.kind: [logits]}}}",
            "when has 'matching.kind', which study.space doesn't search; it has no field",
        ),
        (
            "{matching.kind: [logits], matching.temperature: {values: [1], when: {matching.kind: [features]}}}",
            "when has 'matching.kind' at 'features', which isn't among its values; Known: logits",
        ),
        (
            "{matching.learning_rate: {low: 1, high: 2}, "
            "matching.temperature: {values: [1], when: {matching.learning_rate: [1]}}}",
            "'matching.learning_rate', which is a range",
        ),
        (
            "{matching.kind: [logits, none], matching.temperature: {values: [1], when: {matching.kind: [logits]}}, "
            "matching.unbiased: {values: [true], when: {matching.temperature: [1]}}}",
            "'matching.temperature', which has a condition itself",
        ),
    ],
)
def test_what_can_not_be_searched_is_refused_with_the_reason(space: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read("--study.space", space, "--workers-per-trial", "2")


def test_wrong_value_is_reported_where_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("study:\n  num_trials: 3\n  space:\n    matching.learning_rate: [0]\n")
    with pytest.raises(ConfigError, match=rf"^{file}:3: study\.space: matching\.learning_rate is 0\.0"):
        read("--config", str(file))


def test_fields_get_values_and_lists_also_as_their_parameters_have_them() -> None:
    config = Config().with_fields({"matching.kind": "features", "generator.refinements": "[1]", "pool.epochs": 3})
    assert (config.matching, config.pool.epochs) == (replace(MatchingConfig(), kind="features"), 3)
    assert config.generator.refinements == (1,)
    assert as_parameter(config.generator.refinements) == "[1]"
    assert config.with_fields({"networks.teachers": ["mlp"]}).networks.teachers == ("mlp",)


def test_grid_counts_each_combination_of_a_conditional_space_once() -> None:
    study = StudyConfig(space=SPACE)
    assert replace(study, grid_points=4).num_grid_trials == 5 * 4
    with pytest.raises(ConfigError, match="the grid has 15 trials"):
        replace(study, sampler="grid", num_trials=16)
    with pytest.raises(ConfigError, match=r"study\.grid_points is 1, but study\.space has a range"):
        replace(study, sampler="grid", num_trials=1, grid_points=1)


def test_kind_of_matching_is_checked_together_with_the_searched_weights() -> None:
    space = {"matching.kind": ["none", "logits"]}
    matching = MatchingConfig(adversarial_weight=0.0)
    with pytest.raises(ConfigError, match="would not train"):
        with_space(space, matching=matching)
    with_space(space | {"matching.adversarial_weight": {"low": 0.5, "high": 1.0}}, matching=matching)


def test_grid_may_list_seeds_of_matching() -> None:
    study = StudyConfig(space={"matching.seed": [0, 1]}, sampler="grid", num_trials=2)
    assert study.num_grid_trials == 2
