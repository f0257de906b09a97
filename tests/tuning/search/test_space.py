from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from dim_ray.config import Config, StudyConfig, to_dict
from dim_ray.errors import ConfigError
from dim_ray.pipeline.generators import generator_bytes
from tests.helpers.small import SEARCHED, make_config
from tests.helpers.tiny import make_dataset
from tuning.search.space import (
    check_search,
    configure,
    decoded,
    describe,
    draw,
    encoded,
    open_names,
    search_space,
)

SPACE = {
    **SEARCHED,
    "matching.kind": ["logits", "features"],
    "matching.temperature": {"low": 1.0, "high": 4.0, "when": {"matching.kind": ["logits"]}},
    "generator.refinements": [[1], [2, 1]],
}
PARAMETERS_OF_A_TRIAL = {
    "pool.size": 2, "generator.capacity": 8, "matching.weight": 0.25, "matching.adversarial_weight": 1.5
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path)


def with_study(config: Config, **changes: Any) -> Config:
    return replace(config, study=replace(config.study, **changes))


def test_space_has_the_names_and_bounds_of_the_configuration() -> None:
    study = StudyConfig(space={"pool.size": [1, 4], "matching.weight": {"low": 0.01, "high": 2.0, "log": True}})
    space: dict[str, Any] = search_space(study)
    assert list(space) == ["pool.size", "matching.weight"]
    assert (space["pool.size"].low, space["pool.size"].high) == (0, 1)  # positions: their order counts
    weight = space["matching.weight"]
    assert (weight.low, weight.high, weight.log, weight.step) == (0.01, 2.0, True, None)


def test_numbers_of_a_list_keep_their_order_for_optuna_and_names_have_none() -> None:
    lists = {"pool.size": [4, 1, 2], "matching.unbiased": [False, True], "matching.kind": ["logits", "features"]}
    study = StudyConfig(space=lists)
    parameters = {"pool.size": 4, "matching.unbiased": True, "matching.kind": "logits"}
    assert encoded(study, parameters) == {**parameters, "pool.size": 2}
    assert decoded(study, encoded(study, parameters)) == parameters
    kinds = {name: type(distribution).__name__ for name, distribution in search_space(study).items()}
    assert kinds == {
        "pool.size": "IntDistribution",
        "matching.unbiased": "CategoricalDistribution",
        "matching.kind": "CategoricalDistribution",
    }


def test_every_draw_from_the_space_is_a_configuration(config: Config) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        parameters = draw(study.ask(), config.study)
        trial = configure(config, parameters)
        assert trial.pool.size in (1, 2)
        assert trial.generator.capacity in (6, 8)
        assert 0.1 <= trial.matching.weight <= 1.0
        assert 0.5 <= trial.matching.adversarial_weight <= 2.0


def test_trial_differs_from_its_study_only_by_its_parameters(config: Config) -> None:
    trial = configure(config, PARAMETERS_OF_A_TRIAL)
    assert (trial.pool.size, trial.generator.capacity) == (2, 8)
    assert (trial.matching.weight, trial.matching.adversarial_weight) == (0.25, 1.5)
    back = replace(
        trial,
        pool=replace(trial.pool, size=config.pool.size),
        generator=replace(trial.generator, capacity=config.generator.capacity),
        matching=replace(
            trial.matching, weight=config.matching.weight, adversarial_weight=config.matching.adversarial_weight
        ),
    )
    assert to_dict(back) == to_dict(config)


def test_parameters_that_are_not_all_there_are_refused(config: Config) -> None:
    with pytest.raises(KeyError, match=r"generator\.capacity"):
        configure(config, {"pool.size": 2, "matching.weight": 0.25, "matching.adversarial_weight": 1.5})


def test_several_sizes_of_a_pool_that_has_none_are_refused(config: Config) -> None:
    dataset = make_dataset()
    check_search(config, dataset)
    online = replace(config, pool=replace(config.pool, kind="online"))
    with pytest.raises(ConfigError, match=r"study\.space has 2 values of pool\.size, but pool\.kind is 'online'"):
        check_search(online, dataset)
    check_search(with_study(online, space={**SEARCHED, "pool.size": [1]}), dataset)


def test_space_without_fields_is_refused_for_several_trials(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"study\.space is empty, so all 3 trials would be the same.*--num-trials 1"):
        check_search(with_study(config, space={}), make_dataset())
    single = with_study(config, space={}, num_trials=1)
    check_search(single, make_dataset())
    assert configure(single, {}) == single


def test_search_over_no_epochs_is_refused(config: Config) -> None:
    none = replace(config, matching=replace(config.matching, epochs=0))
    with pytest.raises(ConfigError, match=r"matching\.epochs is 0.*--matching\.epochs to 1"):
        check_search(none, make_dataset())


def test_every_draw_of_a_conditional_space_is_a_configuration_and_is_without_what_does_not_apply(
    config: Config,
) -> None:
    config = with_study(config, space=SPACE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    kinds = set()
    for _ in range(20):
        trial = study.ask()
        drawn = draw(trial, config.study)
        assert decoded(config.study, trial.params) == drawn
        assert list(drawn) == open_names(config.study, drawn)
        assert ("matching.temperature" in drawn) == (drawn["matching.kind"] == "logits")
        made = configure(config, drawn)
        assert made.matching.kind == drawn["matching.kind"]
        assert made.matching.temperature == drawn.get("matching.temperature", config.matching.temperature)
        assert made.generator.refinements in ((1,), (2, 1))
        kinds.add(made.matching.kind)
    assert kinds == {"logits", "features"}


def test_value_of_a_field_whose_condition_does_not_hold_is_the_configurations_own(config: Config) -> None:
    config = with_study(config, space=SPACE)
    chosen = {**PARAMETERS_OF_A_TRIAL, "matching.kind": "features", "generator.refinements": "[1]"}
    assert configure(config, {**chosen, "matching.temperature": 3.0}) == configure(config, chosen)
    assert configure(config, chosen).matching.temperature == config.matching.temperature


def test_parameters_are_described_for_a_person() -> None:
    chosen = {"pool.size": 2, "matching.kind": "features", "matching.learning_rate": 0.00012345}
    assert describe(chosen) == "pool.size 2, matching.kind features, matching.learning_rate 0.000123"


def test_pool_that_is_online_in_some_trials_may_have_several_sizes_in_others(config: Config) -> None:
    check_search(with_study(config, space={**SEARCHED, "pool.kind": ["stored", "online"]}), make_dataset())
    with pytest.raises(ConfigError, match=r"study\.space has 2 values of pool\.size"):
        check_search(with_study(config, space={**SEARCHED, "pool.kind": ["online"]}), make_dataset())


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"matching.batch_size": [4, 4000]}, r"study\.space: matching\.batch_size is 4000, but the training split"),
        ({"prior.batch_size": [4000]}, r"study\.space: prior\.batch_size is 4000"),
        (
            {"generator.label_embedding": [8, 20], "generator.latent_dim": [16, 32]},
            r"study\.space: generator\.latent_dim is 16.*its first 20 entries",
        ),
    ],
)
def test_value_that_does_not_fit_the_data_is_refused(config: Config, space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_search(with_study(config, space=space), make_dataset())


def test_soft_labels_of_trials_that_would_have_no_teachers_are_refused_before_the_first(config: Config) -> None:
    soft = replace(config, evaluation=replace(config.evaluation, labels="soft"))
    check_search(with_study(soft, space={"matching.kind": ["logits", "features"]}), make_dataset())
    with pytest.raises(ConfigError, match=r"evaluation\.labels is 'soft', but no generator would be matched"):
        check_search(with_study(soft, space={"pool.kind": ["stored", "online"]}), make_dataset())


def test_limit_that_no_generator_keeps_is_refused_and_so_is_one_that_a_grid_does_not(config: Config) -> None:
    dataset = make_dataset()
    sizes = [generator_bytes(replace(config.generator, capacity=capacity), dataset) for capacity in (6, 8)]
    text = rf"max_generator_bytes is 99, .* {sizes[0]:,} .capacity 6., {sizes[1]:,} .capacity 8. bytes"
    with pytest.raises(ConfigError, match=text):
        check_search(with_study(config, max_generator_bytes=99), dataset)
    check_search(with_study(config, max_generator_bytes=sizes[0]), dataset)
    with pytest.raises(ConfigError, match=r"1 of the 2 generators.*A grid runs all"):
        check_search(with_study(config, max_generator_bytes=sizes[0], sampler="grid"), dataset)
    check_search(with_study(config, max_generator_bytes=sizes[1], sampler="grid"), dataset)
