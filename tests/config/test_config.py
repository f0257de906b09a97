from __future__ import annotations

import ast
import inspect
import itertools
import json
from dataclasses import Field, FrozenInstanceError, fields, replace
from typing import Any, get_type_hints

import pytest

from dim_ray.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    GeneratorConfig,
    HealthConfig,
    MatchingConfig,
    NetworksConfig,
    PoolConfig,
    PriorConfig,
    StorageConfig,
    StudyConfig,
    fingerprint,
    to_dict,
)
from dim_ray.errors import ConfigError, UsageError

SECTIONS: dict[str, type] = get_type_hints(Config)
FIELDS = [(section, field) for section, cls in SECTIONS.items() for field in fields(cls)]
PLACE_FIELDS = {
    "data.data_root",
    "evaluation.students_at_once",
    "health.min_diversity",
    "health.min_source_loss",
    "health.max_source_gap",
    "health.patience",
    "pool.teachers_at_once",
    "pool.device_memory_gib",
    "study.name",
    "study.num_trials",
    "study.contenders",
    "study.contender_seeds",
    "study.control",
    "study.loggers",
    "study.max_failures",
    "study.deterministic",
    "study.cpus_per_worker",
    "study.gpus_per_worker",
    "study.max_concurrent",
    "study.time_budget",
    "storage.root",
    "storage.checkpoint_seconds",
}

# Another valid value, for the fields where one can't be made from the default.
OTHER_VALUES: dict[str, Any] = {
    "data.dataset": "mnist",
    "evaluation.students_at_once": 5,
    "study.sampler": "gp",
    "study.scheduler": "median",
    "study.loggers": (),
    "study.objectives": ("accuracy", "generator_bytes"),
    "study.space": {"matching.kind": ["logits", "features"]},
    "study.max_generator_bytes": 1_000_000,
    "study.warm_start": ("digits",),
    "study.time_budget": "30m",
    "generator.ema_decay": 0.5,
    "generator.label_embedding": 16,
    "generator.discriminator_norm": "spectral",
    "generator.family": "residual",
    "generator.source_head": "projection",
    "data.name": "renamed",
    "data.data_root": "/elsewhere",
    "networks.teachers": ("convnet3", "resnet10"),
    "networks.students": ("resnet18_w32",),
    "pool.kind": "online",
    "pool.teachers_at_once": 3,
    "pool.snapshot_spacing": "logarithmic",
    "pool.augmentation": "none",
    "pool.precision": "bfloat16",
    "pool.online_order": "reshuffled",
    "pool.online_mode": "train",
    "pool.normalisation": "dim_signed",
    "pool.device_memory_gib": 1.5,
    "generator.discriminator_capacity": 32,
    "generator.latent_dim": 64,
    "prior.loss": "hinge",
    "prior.augmentation": "crop+cutout",
    "prior.gradient_penalty_weight": 3.0,
    "prior.precision": "float32",
    "prior.class_loss_on": "both",
    "prior.discriminator_rate": 0.5,
    "prior.first": "generator",
    "prior.uniform_labels": "discriminator",
    "prior.beta1": 0.5,
    "prior.beta2": 0.99,
    "matching.kind": "none",
    "matching.adam_state": "prior",
    "matching.weight_unit": "absolute",
    "matching.standardised": True,
    "matching.unbiased": True,
    "matching.augmentation": "flip+crop",
    "matching.precision": "float32",
    "evaluation.protocols": ("fixed",),
    "evaluation.preset": "reference",
    "evaluation.quirks": ("train_mode_test",),
    "evaluation.labels": "soft",
    "evaluation.normalisation": "dim",
    "evaluation.optimizer": "adamw",
    "evaluation.schedule": "cosine",
    "evaluation.weights": "raw",
    "evaluation.decay_points": (0.25, 0.75),
    "evaluation.augmentation": "color",
    "evaluation.precision": "float32",
    "study.control": False,
    "study.name": "renamed",
    "study.gpus_per_worker": 0.5,
    "study.max_concurrent": 2,
    "storage.root": "s3://bucket/folder",
}


def other_value(section: str, field: Field[Any]) -> Any:
    value = getattr(getattr(Config(), section), field.name)
    name = f"{section}.{field.name}"
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] * 2)
    if isinstance(value, float):
        return value / 2
    if isinstance(value, int):
        return value * 2 if value else 7
    raise AssertionError(f"Give OTHER_VALUES another value of {name}.")


def changed(section: str, field: Field[Any], config: Config) -> Config:
    return replace(config, **{section: replace(getattr(config, section), **{field.name: other_value(section, field)})})


IMPOSSIBLE: list[tuple[type, dict[str, Any], str]] = [
    (DataConfig, {"dataset": "/"}, "unknown; for the images of that folder write folder:/, for Parquet parquet:/"),
    (DataConfig, {"dataset": "minst"}, "data.dataset is 'minst'.*did you mean 'mnist'"),
    (DataConfig, {"dataset": "parqet:x"}, "unknown prefix 'parqet'.*did you mean 'parquet:'"),
    (DataConfig, {"dataset": "folder:"}, "data.dataset is 'folder:'.*a path"),
    (DataConfig, {"dataset": ""}, "data.dataset is ''"),
    (PoolConfig, {"augmentation": "color_crop"}, "unknown operation 'color_crop'.*did you mean 'color'"),
    *((PoolConfig, {"augmentation": f"cutout@{p}"}, f"with the probability '{p}'") for p in ("", "0", "2", "half")),
    (DataConfig, {"name": "a/b"}, "data.name is 'a/b'"),
    (DataConfig, {"name": "../up"}, "data.name"),
    (DataConfig, {"name": ""}, "data.name"),
    (DataConfig, {"validation_fraction": 0.0}, "data.validation_fraction is 0.0"),
    (DataConfig, {"validation_fraction": 0.51}, "data.validation_fraction is 0.51"),
    (DataConfig, {"validation_fraction": float("nan")}, "data.validation_fraction is nan"),
    (DataConfig, {"test_fraction": 0.0}, "data.test_fraction"),
    (DataConfig, {"test_fraction": 0.6}, "data.test_fraction"),
    (DataConfig, {"split_seed": -1}, "data.split_seed is -1"),
    (NetworksConfig, {"teachers": ()}, "networks.teachers.*at least one"),
    (NetworksConfig, {"students": ()}, "networks.students.*at least one"),
    (NetworksConfig, {"teachers": ("convnet",)}, "networks.teachers.*'convnet'.*did you mean 'convnet6'"),
    (NetworksConfig, {"students": ("convnet3", "resnet99")}, "networks.students.*'resnet99'"),
    *[(PoolConfig, {name: 0}, f"pool.{name} is 0") for name in ("size", "epochs", "num_snapshots", "learning_rate")],
    *[
        (section, {"batch_size": batch_size}, rf"{name}\.batch_size is {batch_size}; allowed: 2 or more: BatchNorm")
        for section, name in ((PoolConfig, "pool"), (EvaluationConfig, "evaluation"))
        for batch_size in (-2, 0, 1)
    ],
    (PoolConfig, {"kind": "offline"}, "pool.kind is 'offline'; allowed: stored or online"),
    (PoolConfig, {"snapshot_spacing": "log"}, "pool.snapshot_spacing is 'log'; allowed: logarithmic or linear"),
    (PoolConfig, {"online_steps": -1}, "pool.online_steps is -1; allowed: 0 or more"),
    (PoolConfig, {"learning_rate": float("inf")}, "pool.learning_rate is inf"),
    *[
        (section, {"precision": "float16"}, rf"{name}\.precision is 'float16'; allowed: float32 or bfloat16 or auto")
        for section, name in ((PoolConfig, "pool"), (MatchingConfig, "matching"), (EvaluationConfig, "evaluation"))
    ],
    (PoolConfig, {"learning_rate": float("nan")}, "pool.learning_rate is nan"),
    (PoolConfig, {"momentum": 1.0}, "pool.momentum is 1.0"),
    (PoolConfig, {"momentum": -0.1}, "pool.momentum is -0.1"),
    (PoolConfig, {"weight_decay": -1e-4}, "pool.weight_decay is -0.0001"),
    (PoolConfig, {"augmentation": "colour"}, "pool.augmentation.*'colour'.*did you mean 'color'"),
    (PoolConfig, {"augmentation": ""}, "pool.augmentation"),
    (PoolConfig, {"augmentation": "flip+"}, "pool.augmentation"),
    (PoolConfig, {"seed": -1}, "pool.seed is -1"),
    (PoolConfig, {"device_memory_gib": -0.5}, "pool.device_memory_gib is -0.5; allowed: 0 or more"),
    (GeneratorConfig, {"capacity": 0}, "generator.capacity is 0"),
    (GeneratorConfig, {"latent_dim": 0}, "generator.latent_dim is 0"),
    (GeneratorConfig, {"latent_dim": -1}, "generator.latent_dim is -1"),
    (GeneratorConfig, {"discriminator_capacity": 0}, "generator.discriminator_capacity is 0"),
    (GeneratorConfig, {"refinements": (3, -1)}, "generator.refinements"),
    (GeneratorConfig, {"source_head": "projecting"}, "generator.source_head is 'projecting'; allowed: plain or proj"),
    (GeneratorConfig, {"ema_decay": 1.0}, "generator.ema_decay is 1.0"),
    (StudyConfig, {"max_failures": -1}, "study.max_failures is -1"),
    (EvaluationConfig, {"images_per_class": (1, 1)}, "evaluation.images_per_class.*each value once"),
    (EvaluationConfig, {"protocols": ("fixed", "fixed")}, "evaluation.protocols.*each value once"),
    (NetworksConfig, {"students": ("convnet3", "convnet3")}, "networks.students.*each value once"),
    *[
        (PriorConfig, {name: 0}, f"prior.{name} is 0")
        for name in ("epochs", "batch_size", "learning_rate", "discriminator_steps")
    ],
    (PriorConfig, {"beta1": 1.0}, "prior.beta1 is 1.0"),
    (PriorConfig, {"beta2": -0.5}, "prior.beta2 is -0.5"),
    (PriorConfig, {"loss": "relu"}, "prior.loss is 'relu'; allowed: wasserstein or hinge"),
    (PriorConfig, {"augmentation": "blur"}, "prior.augmentation is 'blur'"),
    (PriorConfig, {"precision": "half"}, "prior.precision is 'half'"),
    (GeneratorConfig, {"discriminator_norm": "batch"}, "generator.discriminator_norm is 'batch'"),
    (GeneratorConfig, {"label_embedding": 0}, "generator.label_embedding is 0"),
    (MatchingConfig, {"epochs": -1}, "matching.epochs is -1; allowed: 0 or more"),
    (HealthConfig, {"min_diversity": -0.1}, "health.min_diversity is -0.1"),
    (HealthConfig, {"min_source_loss": float("nan")}, "health.min_source_loss is nan"),
    (HealthConfig, {"max_source_gap": 0.0}, "health.max_source_gap is 0.0"),
    (HealthConfig, {"patience": 0}, "health.patience is 0"),
    (PriorConfig, {"gradient_penalty_weight": -1.0}, "prior.gradient_penalty_weight is -1.0"),
    (PriorConfig, {"class_weight": float("nan")}, "prior.class_weight is nan"),
    (PriorConfig, {"seed": -3}, "prior.seed is -3"),
    (MatchingConfig, {"kind": "logit"}, "matching.kind is 'logit'; allowed: logits or .* or none"),
    *[
        (MatchingConfig, {name: 0}, f"matching.{name} is 0")
        for name in ("batch_size", "learning_rate", "temperature", "teachers_per_step")
    ],
    (MatchingConfig, {"temperature": float("nan")}, "matching.temperature is nan"),
    (MatchingConfig, {"weight": -0.1}, "matching.weight is -0.1"),
    (MatchingConfig, {"adversarial_weight": -0.1}, "matching.adversarial_weight is -0.1"),
    (MatchingConfig, {"weight": 0.0, "adversarial_weight": 0.0}, "would not train"),
    (MatchingConfig, {"kind": "none", "adversarial_weight": 0.0}, "would not train"),
    (MatchingConfig, {"augmentation": "spin"}, "matching.augmentation.*'spin'"),
    (MatchingConfig, {"seed": -1}, "matching.seed is -1"),
    (EvaluationConfig, {"images_per_class": ()}, "evaluation.images_per_class"),
    (EvaluationConfig, {"images_per_class": (10, 0)}, "evaluation.images_per_class"),
    (EvaluationConfig, {"protocols": ()}, "evaluation.protocols"),
    (EvaluationConfig, {"protocols": ("fixd",)}, "evaluation.protocols.*'fixd'.*did you mean 'fixed'"),
    *[
        (EvaluationConfig, {name: 0}, f"evaluation.{name} is 0")
        for name in ("num_seeds", "epochs", "min_steps", "learning_rate", "num_test_points", "students_at_once")
    ],
    (EvaluationConfig, {"momentum": 2.0}, "evaluation.momentum is 2.0"),
    (EvaluationConfig, {"weight_decay": float("inf")}, "evaluation.weight_decay is inf"),
    (EvaluationConfig, {"schedule": "linear"}, "evaluation.schedule is 'linear'; allowed: constant or cosine or step"),
    (EvaluationConfig, {"optimizer": "lion"}, "evaluation.optimizer is 'lion'; allowed: sgd or adam or adamw"),
    (EvaluationConfig, {"labels": "firm"}, "evaluation.labels is 'firm'; allowed: hard or soft"),
    (EvaluationConfig, {"preset": "paper"}, "evaluation.preset is 'paper'; allowed: corrected or reference"),
    (EvaluationConfig, {"beta1": 1.0}, "evaluation.beta1 is 1.0"),
    (EvaluationConfig, {"beta2": -0.1}, "evaluation.beta2 is -0.1"),
    (EvaluationConfig, {"soft_label_temperature": 0.0}, "evaluation.soft_label_temperature is 0.0"),
    (EvaluationConfig, {"decay_factor": 0.0}, "evaluation.decay_factor is 0.0"),
    *[
        (EvaluationConfig, {"decay_points": points}, "evaluation.decay_points is .*share of training")
        for points in ((), (0.0,), (1.0,), (0.5, 0.5), (0.6, 0.3), (float("nan"),))
    ],
    (
        EvaluationConfig,
        {"quirks": ("extra",)},
        "evaluation.quirks.*'extra', which is unknown; did you mean 'extra_batch'",
    ),
    (EvaluationConfig, {"quirks": ("extra_batch", "extra_batch")}, "evaluation.quirks.*each value once"),
    (
        EvaluationConfig,
        {"quirks": ("extra_batch", "dropped_batches")},
        r"evaluation.quirks.*one of dropped_batches and extra_batch.*'corrected', with the quirks none",
    ),
    (
        EvaluationConfig,
        {"quirks": ("dropped_batches",), "preset": "reference"},
        r"evaluation.quirks.*two lengths; evaluation.preset is 'reference', with the quirks best_of_tests, extra_batch",
    ),
    (EvaluationConfig, {"augmentation": "none_flip"}, "evaluation.augmentation.*'none'"),
    (EvaluationConfig, {"seed": -1}, "evaluation.seed is -1"),
    (StudyConfig, {"name": "my study"}, "study.name is 'my study'"),
    (StudyConfig, {"name": "-x"}, "study.name is '-x'"),
    *[
        (StudyConfig, {name: 0}, f"study.{name} is 0")
        for name in (
            "num_trials",
            "selection_seeds",
            "grace_epochs",
            "workers_per_trial",
            "cpus_per_worker",
            "max_concurrent",
            "grid_points",
            "warm_start_trials",
            "contenders",
        )
    ],
    (StudyConfig, {"contender_seeds": 1}, "study.contender_seeds is 1; allowed: 2 or more"),
    (StudyConfig, {"reduction_factor": 1}, "study.reduction_factor is 1"),
    (StudyConfig, {"gpus_per_worker": -1.0}, "study.gpus_per_worker is -1.0"),
    (StudyConfig, {"gpus_per_worker": float("inf")}, "study.gpus_per_worker is inf"),
    (StudyConfig, {"selection_images_per_class": ()}, "study.selection_images_per_class"),
    (StudyConfig, {"selection_images_per_class": (1, 0)}, "study.selection_images_per_class"),
    (StudyConfig, {"selection_images_per_class": (1, 1)}, "study.selection_images_per_class.*each value once"),
    (StudyConfig, {"objectives": ()}, "study.objectives is .*allowed: accuracy"),
    (StudyConfig, {"objectives": ("generator_bytes",)}, "study.objectives is .*allowed: accuracy"),
    (StudyConfig, {"objectives": ("accuracy", "accuracy")}, "study.objectives"),
    (StudyConfig, {"loggers": ("tensorbord",)}, "study.loggers has 'tensorbord'.*did you mean 'tensorboard'"),
    (StudyConfig, {"loggers": ("wandb", "wandb")}, "study.loggers.*each value once"),
    (StudyConfig, {"objectives": ("accuracy", "bytes")}, "study.objectives has 'bytes', which is unknown"),
    (
        StudyConfig,
        {"objectives": ("accuracy", "generator_bytes")},
        "study.scheduler is 'asha', but study.objectives is accuracy generator_bytes.*--study.scheduler none",
    ),
    (StudyConfig, {"seed": -1}, "study.seed is -1"),
    (
        StudyConfig,
        {"space": {"matching.seed": [0, 1]}},
        "study.space has matching.seed, but study.sampler is 'tpe': .*lucky seeds. Set --study.sampler grid, or leave",
    ),
    (StudyConfig, {"sampler": "tp"}, "study.sampler is 'tp'; allowed: tpe or gp"),
    (StudyConfig, {"scheduler": "ash"}, "study.scheduler is 'ash'; allowed: asha or"),
    (StudyConfig, {"sampler": "grid", "grid_points": 1}, "study.grid_points is 1, but study.space has a range"),
    (StudyConfig, {"sampler": "grid", "num_trials": 136}, "study.num_trials is 136, but the grid has 135 trials"),
    (StudyConfig, {"sampler": "grid", "warm_start": ("digits",)}, "study.warm_start is digits"),
    (StudyConfig, {"warm_start": ("a b",)}, "study.warm_start is 'a b'"),
    *(
        (StudyConfig, {"time_budget": text}, f"study.time_budget is '{text}'")
        for text in ("30", "m", "0s", "1d", "-1s")
    ),
    (StorageConfig, {"root": " "}, "storage.root"),
    (StorageConfig, {"checkpoint_seconds": -1.0}, "storage.checkpoint_seconds is -1.0"),
    (StorageConfig, {"checkpoint_seconds": float("nan")}, "storage.checkpoint_seconds is nan"),
]


@pytest.mark.parametrize(("section", "values", "message"), IMPOSSIBLE, ids=lambda value: str(value)[:50])
def test_impossible_value_is_refused_with_its_field_and_value(
    section: type, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        section(**values)


@pytest.mark.parametrize("section", ["prior", "matching"])
def test_batch_that_workers_cannot_share_equally_is_refused(section: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.batch_size is 65.*study\.workers_per_trial \(2\)"):
        Config(
            **{section: replace(getattr(Config(), section), batch_size=65), "study": StudyConfig(workers_per_trial=2)}
        )


def test_impossible_configuration_is_a_mistake_in_the_call() -> None:
    assert issubclass(ConfigError, UsageError)
    assert ConfigError.exit_code == 2


def test_values_at_the_edge_of_what_is_allowed_are_taken() -> None:
    DataConfig(validation_fraction=0.5, test_fraction=0.5)
    PoolConfig(momentum=0.0, weight_decay=0.0, num_snapshots=1, batch_size=2, online_steps=0)
    EvaluationConfig(batch_size=2)
    GeneratorConfig(refinements=(), latent_dim=1)
    PriorConfig(gradient_penalty_weight=0.0, class_weight=0.0)
    MatchingConfig(weight=0.0)
    MatchingConfig(epochs=0)
    MatchingConfig(adversarial_weight=0.0)
    StudyConfig(gpus_per_worker=0.0, space={})
    StorageConfig(checkpoint_seconds=0.0)


def test_penalty_is_the_papers_with_the_wasserstein_loss_and_none_with_the_hinge_loss() -> None:
    assert PriorConfig().penalty_weight == 10.0
    assert PriorConfig(loss="hinge").penalty_weight == 0.0
    assert PriorConfig(loss="hinge", gradient_penalty_weight=2.0).penalty_weight == 2.0


def test_configuration_cannot_be_changed_once_made() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().pool.size = 3  # type: ignore[misc]


@pytest.mark.parametrize("section", SECTIONS.values(), ids=lambda section: section.__name__)
def test_every_field_is_documented(section: type) -> None:
    [tree] = ast.parse(inspect.getsource(section)).body
    assert isinstance(tree, ast.ClassDef)
    documented = [
        ast.unparse(before.target)
        for before, after in itertools.pairwise(tree.body)
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    ]
    assert documented == [field.name for field in fields(section)]


@pytest.mark.parametrize(
    ("dataset", "name", "label"),
    [
        ("digits", None, "digits"),
        ("mnist", "other", "other"),
        ("parquet:../data/mnist", None, "mnist"),
        ("folder:/data/my cats/", None, "my_cats"),
        ("parquet:s3://bucket/faces", None, "faces"),
        ("folder:.", None, "data"),
        ("folder:..", None, "data"),
        ("folder:/data/_.hidden", None, "hidden"),
    ],
)
def test_label_is_the_name_or_the_last_part_of_the_path(dataset: str, name: str | None, label: str) -> None:
    assert DataConfig(dataset=dataset, name=name).label == label


# ------------------------------------------------------------------------------------------------ fingerprint


def test_the_fields_that_say_where_or_how_fast_are_marked() -> None:
    assert {f"{section}.{field.name}" for section, field in FIELDS if field.metadata.get("place")} == PLACE_FIELDS


@pytest.mark.parametrize(("section", "field"), FIELDS, ids=[f"{section}.{field.name}" for section, field in FIELDS])
def test_fingerprint_changes_with_exactly_the_fields_that_change_the_result(section: str, field: Field[Any]) -> None:
    usual = Config(study=StudyConfig(scheduler="none")) if field.name == "objectives" else Config()
    config = changed(section, field, usual)
    assert config != usual
    is_same = f"{section}.{field.name}" in PLACE_FIELDS
    assert (fingerprint(config) == fingerprint(usual)) is is_same
    assert (fingerprint(getattr(config, section)) == fingerprint(getattr(usual, section))) is is_same


# ------------------------------------------------------------------------------------------------ derived


def test_trial_sets_its_fields_and_nothing_else() -> None:
    config = Config(data=DataConfig(dataset="mnist"))
    trial = config.with_fields({"pool.size": 3, "matching.weight": 0.5, "matching.seed": 7})
    assert (trial.pool.size, trial.matching.weight, trial.matching.seed) == (3, 0.5, 7)
    own = {"pool.size": config.pool.size, "matching.weight": config.matching.weight, "matching.seed": 0}
    assert trial.with_fields(own) == config


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("30m", 1800.0), ("1.5h", 5400.0), (None, None)])
def test_time_budget_is_read_with_its_unit(text: str | None, seconds: float | None) -> None:
    assert StudyConfig(time_budget=text).time_budget_seconds == seconds


def test_trials_of_a_grid_are_the_product_of_its_values() -> None:
    weight = {"low": 0.1, "high": 1.0, "log": True}
    space = {"pool.size": [1, 2], "generator.capacity": [8], "matching.weight": weight, "matching.seed": [3, 5]}
    study = StudyConfig(space=space, grid_points=4, sampler="grid")
    assert study.num_grid_trials == 2 * 1 * 4 * 2


def test_trial_with_an_impossible_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pool\.size is 0"):
        Config().with_fields({"pool.size": 0, "matching.weight": 0.5})


def test_seed_reaches_every_section_that_has_one_but_not_the_split() -> None:
    config = Config().with_seed(41)
    seeded = {section for section, field in FIELDS if field.name == "seed"}
    assert seeded == {section for section in SECTIONS if getattr(getattr(config, section), "seed", None) == 41}
    assert config.data == DataConfig()
    assert config.with_seed(0) == Config()


@pytest.mark.parametrize(
    ("kind", "unused"),
    [
        (
            "stored",
            {
                "size": 1,
                "online_steps": 3,
                "online_order": "reshuffled",
                "online_mode": "train",
                "device_memory_gib": 1.0,
                "teachers_at_once": 2,
            },
        ),
        (
            "online",
            {
                "size": 1,
                "epochs": 3,
                "num_snapshots": 1,
                "snapshot_spacing": "logarithmic",
                "device_memory_gib": 1.0,
                "teachers_at_once": 2,
            },
        ),
    ],
)
def test_recipe_of_a_teacher_has_what_its_kind_uses(kind: str, unused: dict[str, Any]) -> None:
    config = PoolConfig(kind=kind)  # type: ignore[arg-type]
    assert replace(config, **unused).recipe() == config.recipe()
    used = {field.name for field in fields(PoolConfig)} - {"kind", *unused}
    for name in used:
        [field] = [field for field in fields(PoolConfig) if field.name == name]
        assert replace(config, **{name: other_value("pool", field)}).recipe() != config.recipe(), name


@pytest.mark.parametrize(
    ("latent_dim", "num_classes", "expected"),
    [(None, 2, 100), (None, 50, 100), (None, 51, 101), (None, 100, 150), (None, 1000, 1050), (7, 2, 7), (7, 100, 7)],
)
def test_latent_vector_has_the_papers_length_or_50_more_than_classes(
    latent_dim: int | None, num_classes: int, expected: int
) -> None:
    assert GeneratorConfig(latent_dim=latent_dim).resolve_latent_dim(num_classes) == expected


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed is -1"):
        Config().with_seed(-1)


def test_dictionary_survives_json_and_makes_the_same_configuration() -> None:
    config = changed("networks", next(field for section, field in FIELDS if field.name == "teachers"), Config())
    values = json.loads(json.dumps(to_dict(config)))
    assert values == to_dict(config)
    tuples = {
        section: {name: tuple(value) if isinstance(value, list) else value for name, value in values[section].items()}
        for section in values
    }
    assert Config(**{section: cls(**tuples[section]) for section, cls in SECTIONS.items()}) == config
