from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from dim_ray.config import Config, HealthConfig, NetworksConfig, StorageConfig, Weights
from dim_ray.core.data.memorisation import memorisation_in
from dim_ray.core.generator.matching import Distillation
from dim_ray.core.generator.networks import Generator
from dim_ray.core.generator.pair import Pair, build_pair
from dim_ray.core.teachers.pool import StoredPool
from dim_ray.core.training.checkpoint import without_prefix
from dim_ray.core.training.loop import Stage, run_epochs
from dim_ray.core.training.ports import Ports, Reporter, SilentReporter, SingleWorker, State
from dim_ray.pipeline import generators, teachers, validation
from dim_ray.pipeline.checkpoints import StoredCheckpointer
from dim_ray.pipeline.generators import (
    GENERATOR_FILE,
    SAMPLES_FILE,
    generator_fingerprint,
    load_module,
    rung_epochs,
    stored_weights,
)
from dim_ray.pipeline.priors import build_prior, load_prior, prior_fingerprint
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.teachers import missing_teachers, read_teacher, teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace
from tests.helpers import tiny
from tests.helpers.small import build_networks, distil, file_bytes, make_work, undistilled, with_matching
from tests.helpers.tiny import ARCHITECTURE, InterruptedStageError, OneOfSeveral, RecordingReporter, equal_states


def with_pool(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, pool=replace(work.config.pool, **changes)))


def test_generator_is_another_one_for_everything_that_makes_it(built: Workspace) -> None:
    config = built.config
    changed = [
        with_matching(built, weight=0.4),
        with_matching(built, epochs=3),
        with_matching(built, kind="none"),
        with_matching(built, kind="features"),
        with_matching(built, temperature=2.0),
        with_matching(built, standardised=True),
        with_matching(built, unbiased=True),
        with_matching(built, teachers_per_step=2),
        with_matching(built, precision="bfloat16"),
        with_pool(built, kind="online"),
        replace(built, dataset=replace(built.dataset, digest="1" * 16)),
        with_pool(built, size=1),
        with_pool(built, epochs=9),
        with_pool(built, snapshot_spacing="logarithmic"),
        replace(built, config=replace(config, prior=replace(config.prior, epochs=9))),
        replace(built, config=replace(config, generator=replace(config.generator, ema_decay=0.5))),
        replace(built, config=replace(config, study=replace(config.study, workers_per_trial=2))),
    ]
    fingerprints = {generator_fingerprint(work) for work in (built, *changed)}
    assert len(fingerprints) == 1 + len(changed)


@pytest.mark.parametrize(
    "unused", [{"size": 1}, {"epochs": 9}, {"num_snapshots": 1}, {"snapshot_spacing": "logarithmic"}], ids=str
)
def test_online_generator_does_not_depend_on_what_stored_teachers_need(
    built: Workspace, unused: dict[str, Any]
) -> None:
    work = with_pool(built, kind="online")
    assert generator_fingerprint(with_pool(work, **unused)) == generator_fingerprint(work)


def test_online_generator_is_another_one_for_everything_that_makes_its_teachers(built: Workspace) -> None:
    work = with_pool(built, kind="online")
    changed = [
        with_pool(work, online_steps=3),
        with_pool(work, batch_size=4),
        with_pool(work, learning_rate=0.2),
        with_pool(work, augmentation="none"),
        with_pool(work, seed=9),
        replace(work, config=replace(work.config, networks=NetworksConfig(teachers=("convnet3_w4",)))),
    ]
    assert len({generator_fingerprint(other) for other in (work, *changed)}) == 1 + len(changed)


def test_generator_of_stored_teachers_does_not_depend_on_what_online_ones_need(built: Workspace) -> None:
    assert generator_fingerprint(with_pool(built, online_steps=3)) == generator_fingerprint(built)


def test_online_generator_needs_no_stored_teachers_and_its_card_names_the_architectures(tmp_path: Path) -> None:
    work = with_pool(make_work(tmp_path), kind="online", online_steps=2)
    build_networks(work)
    reporter = RecordingReporter()
    card = work.artifacts.read_card("generators", distil(work, reporter))
    assert all(loss > 0 for loss in reporter.losses("matching_loss"))
    assert card["teachers"] == []
    assert card["training"]["architectures"] == [ARCHITECTURE]
    assert (card["training"]["pool"]["kind"], card["training"]["pool"]["online_steps"]) == ("online", 2)
    assert not (tmp_path / "teachers").exists()


def test_generator_that_matches_nothing_does_not_depend_on_the_pool(built: Workspace) -> None:
    work = with_matching(built, kind="none")
    for change in ({"size": 1, "epochs": 9}, {"kind": "online"}):
        assert generator_fingerprint(with_pool(work, **change)) == generator_fingerprint(work)
    for file in Path(built.artifacts.root, "teachers").rglob("*.safetensors"):
        file.unlink()
    work.artifacts.read("generators", distil(work))  # read needs no teacher


def test_generator_that_matches_nothing_needs_no_teachers(tmp_path: Path) -> None:
    work = with_matching(make_work(tmp_path), kind="none")
    assert missing_teachers(work) == []
    build_prior(work, SilentReporter(), SingleWorker())
    card = work.artifacts.read_card("generators", distil(work))
    assert card["teachers"] == []
    assert not (tmp_path / "teachers").exists()


# ------------------------------------------------------------------------------------------------ wiring


def averaging(work: Workspace) -> Workspace:
    """Returns a workspace in which a moving average, and a learning rate of its own for matching, make a difference.

    Its teachers and prior are built.
    """
    config: Config = replace(
        work.config,
        generator=replace(work.config.generator, ema_decay=0.6),
        matching=replace(work.config.matching, learning_rate=3e-3, adversarial_weight=0.4),
        pool=replace(work.config.pool, size=3),
    )
    work = replace(work, config=config)
    build_networks(work)
    return work


def test_stored_generator_is_what_distillation_makes_of_the_stored_prior_and_teachers(built: Workspace) -> None:
    work = averaging(built)
    config = work.config
    stored = load_module(work, distil(work))
    pair = build_pair(
        config.generator, config.prior, work.dataset, learning_rate=config.matching.learning_rate, seed=77
    )
    pair.load_weights(load_prior(work))
    assert not equal_states(stored.state_dict(), pair.average.state_dict())
    stage = Distillation(
        pair,
        StoredPool(
            [read_teacher(work.artifacts, teacher_fingerprint(work, number)) for number in range(3)], work.dataset
        ),
        config.matching,
        config.prior,
        work.dataset,
        health=HealthConfig(),
        collective=SingleWorker(),
        measure=lambda epoch: {},
    )
    run_epochs(stage, work.dataset.train, Ports())
    assert equal_states(stored.state_dict(), pair.average.state_dict())
    assert not equal_states(stored.state_dict(), pair.generator.state_dict())


@pytest.mark.parametrize(
    ("num_teachers", "rank", "num_workers", "numbers", "weight"),
    [
        (3, 0, 1, [0, 1, 2], 1.0),
        (3, 0, 2, [0, 2], 4 / 3),
        (3, 1, 2, [1], 2 / 3),
        (1, 1, 2, None, None),
    ],
)
def test_each_worker_distils_with_its_own_shard_and_the_weight_of_it(
    built: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    num_teachers: int,
    rank: int,
    num_workers: int,
    numbers: list[int] | None,
    weight: float | None,
) -> None:
    work = averaging(built)
    config = work.config
    work = replace(work, config=replace(config, pool=replace(config.pool, size=num_teachers)))
    collective = OneOfSeveral(rank, num_workers)
    calls: list[dict[str, Any]] = []

    def record(pair: Pair, pool: SimpleNamespace | None, *sections: Any, **options: Any) -> None:
        calls.append({"pair": pair, "pool": pool, "sections": sections, **options})

    monkeypatch.setattr(
        teachers, "StoredPool", lambda held, *_, weight, **__: SimpleNamespace(teachers=list(held), weight=weight)
    )
    monkeypatch.setattr(generators, "Distillation", record)
    ports: list[Ports] = []
    monkeypatch.setattr(generators, "run_epochs", lambda stage, split, given: ports.append(given))
    reporter = RecordingReporter()
    distil(work, reporter, collective)
    [call] = calls
    if numbers is None:
        assert call["pool"] is None
    else:
        held = call["pool"].teachers
        expected = [read_teacher(work.artifacts, teacher_fingerprint(work, number)) for number in numbers]
        assert len(held) == len(expected)
        for teacher, own in zip(held, expected, strict=True):
            assert equal_states(teacher.snapshots[-1], own.snapshots[-1])
        assert call["pool"].weight == pytest.approx(weight)
    assert call["sections"] == (work.config.matching, work.config.prior, work.dataset)
    assert call["collective"] is collective
    assert [(given.collective, given.reporter) for given in ports] == [(collective, reporter)]
    prior = load_prior(work)
    assert equal_states(call["pair"].weights(), {name: prior[name] for name in call["pair"].weights()})
    for optimizer in (call["pair"].generator_optimizer, call["pair"].discriminator_optimizer):
        assert [group["lr"] for group in optimizer.param_groups] == [work.config.matching.learning_rate]


@pytest.mark.parametrize("adam_state", ["fresh", "prior"])
@pytest.mark.parametrize("kind", ["stored", "online"])
def test_distillation_begins_with_adams_state_and_normalisation_that_are_asked_for(
    built: Workspace, kind: str, adam_state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalisation = "dim_signed" if kind == "online" else "measured"
    asked = with_pool(with_matching(built, adam_state=adam_state), kind=kind, normalisation=normalisation)
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(generators, "Distillation", lambda *given, **options: seen.append(given))
    monkeypatch.setattr(generators, "run_epochs", lambda *given: None)
    distil(undistilled(asked))
    [(pair, pool, _, _, dataset)] = seen
    prior, found = load_prior(asked), pair.state()
    steps = {name for name in found if name.endswith(".step")}
    if adam_state == "prior":
        assert equal_states(found, prior)
        assert {float(found[name]) for name in steps} == {tiny.NUM_STEPS}
    else:
        assert not steps
        assert prior.keys() > found.keys()
    for optimizer in (pair.generator_optimizer, pair.discriminator_optimizer):
        assert optimizer.param_groups[0]["lr"] == asked.config.matching.learning_rate
    expected = built.dataset.normalised(normalisation).normalisation  # type: ignore[arg-type]
    assert dataset.normalisation == expected
    assert kind == "stored" or pool._dataset.normalisation == expected


def test_generator_that_is_measured_is_the_moving_average_that_is_stored(
    built: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = averaging(built)
    pairs: list[Pair] = []
    measured: list[Generator] = []

    def watch_distillation(pair: Pair, *args: Any, **options: Any) -> Stage:
        pairs.append(pair)
        return Distillation(pair, *args, **options)

    def watch_validate(work: Workspace, generator: Generator, reporter: Reporter) -> Mapping[str, float]:
        measured.append(generator)
        return validate(work, generator, reporter)

    monkeypatch.setattr(generators, "Distillation", watch_distillation)
    monkeypatch.setattr(validation, "validate", watch_validate)
    distil(work)
    [pair] = pairs
    assert len(measured) == len(rung_epochs(work.config, 24))
    assert all(module is pair.average for module in measured)
    assert pair.average is not pair.generator


# ------------------------------------------------------------------------------------------------ the artefact


def test_study_and_evaluation_do_not_change_a_generator(built: Workspace) -> None:
    config = built.config
    other = replace(
        built,
        study="another",
        config=replace(
            config,
            evaluation=replace(config.evaluation, epochs=9),
            study=replace(config.study, num_trials=9, space={"pool.size": [4]}),
        ),
    )
    assert generator_fingerprint(other) == generator_fingerprint(built)


def test_card_says_all_that_a_user_needs(built: Workspace) -> None:
    card = built.artifacts.read_card("generators", generator_fingerprint(built))
    dataset = built.dataset
    assert card["dataset"] == {
        "name": "tiny",
        "digest": dataset.digest,
        "class_names": list(dataset.class_names),
        "num_channels": 1,
        "image_size": 8,
        "mean": [0.45],
        "std": [0.2],
    }
    assert card["value_range"] == [-1.0, 1.0]
    assert card["prior"] == prior_fingerprint(built)
    assert card["teachers"] == [teacher_fingerprint(built, number) for number in range(2)]
    assert card["generator"]["capacity"] == built.config.generator.capacity
    assert card["generator"]["latent_dim"] == built.config.generator.latent_dim
    assert card["training"]["matching"]["weight"] == built.config.matching.weight
    assert 0 <= card["validation"]["validation_accuracy"] <= 1
    memorisation = memorisation_in(card)
    assert memorisation is not None
    assert (memorisation.num_generated, memorisation.num_held_out) == (1000, len(dataset.validation))
    assert card["validation"]["images_per_class"] == list(built.config.study.selection_images_per_class)
    assert card["wall_seconds"] > 0
    json.dumps(card, allow_nan=False)


def test_card_has_the_length_of_the_latent_vector_when_the_configuration_leaves_it_open(tmp_path: Path) -> None:
    work = with_matching(make_work(tmp_path), kind="none", epochs=1)
    config = work.config
    work = replace(work, config=replace(config, generator=replace(config.generator, latent_dim=None)))
    build_prior(work, SilentReporter(), SingleWorker())
    identity = distil(work)
    latent_dim = work.artifacts.read_card("generators", identity)["generator"]["latent_dim"]
    assert (latent_dim, type(latent_dim)) == (100, int)
    assert load_module(work, identity).latent_dim == 100


def test_distillation_of_no_epochs_stores_the_prior_as_it_is(tmp_path: Path) -> None:
    work = with_matching(make_work(tmp_path), epochs=0)
    assert missing_teachers(work) == []
    build_prior(work, SilentReporter(), SingleWorker())
    reporter = RecordingReporter()
    stored = load_module(work, distil(work, reporter))
    assert equal_states(stored.state_dict(), without_prefix("generator", load_prior(work)))
    assert reporter.steps == [1]
    assert 0 <= reporter.losses("validation_accuracy")[0] <= 1


def test_picture_has_a_row_for_each_class(built: Workspace) -> None:
    artifact = built.artifacts.read("generators", generator_fingerprint(built))
    file = Path(built.artifacts.root, "generators", artifact.card["fingerprint"], SAMPLES_FILE)
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 3 * 8


@pytest.mark.parametrize("weights", ["average", "raw"])
def test_average_is_kept_beside_the_raw_weights_and_either_can_be_measured(built: Workspace, weights: Weights) -> None:
    config = replace(built.config, generator=replace(built.config.generator, ema_decay=0.9))
    work = replace(built, config=replace(config, evaluation=replace(config.evaluation, weights=weights)))
    build_networks(work)
    reporter = RecordingReporter()
    seed = config.matching.seed + (7 if weights == "raw" else 8)  # a generator that isn't there yet
    work = with_matching(work, seed=seed)
    identity = distil(work, reporter)
    loaded = {name: load_module(work, identity, name) for name in ("average", "raw")}
    assert validate(work, loaded[weights])["validation_accuracy"] == reporter.reports[-1][2]["validation_accuracy"]
    assert not equal_states(loaded["average"].state_dict(), loaded["raw"].state_dict())
    assert work.artifacts.read_card("generators", identity)["validation"]["weights"] == weights


def test_generator_without_an_average_has_raw_weights_alone(built: Workspace) -> None:
    card = built.artifacts.read_card("generators", generator_fingerprint(built))
    assert set(card["files"]) == {GENERATOR_FILE, SAMPLES_FILE}
    assert stored_weights(card, "average") == "raw"


def test_generator_is_stored_before_its_last_report(built: Workspace) -> None:
    """A scheduler may end the process on that report."""
    storage = StorageConfig(root=built.config.storage.root, checkpoint_seconds=0.0)
    work = undistilled(replace(built, config=replace(built.config, storage=storage)))
    identity = generator_fingerprint(work)
    with pytest.raises(InterruptedStageError):
        distil(work, RecordingReporter(stop_at=2))
    assert work.artifacts.read("generators", identity).card["fingerprint"] == identity
    assert not list(Path(work.artifacts.root, "studies").rglob("*.safetensors"))


def test_generator_is_not_stored_before_its_last_epoch(built: Workspace) -> None:
    work = undistilled(built)
    with pytest.raises(InterruptedStageError):
        distil(work, RecordingReporter(stop_at=1))
    assert not work.artifacts.exists("generators", generator_fingerprint(work))


def test_generator_that_is_there_is_measured_and_not_trained_again(
    built: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file_bytes(built, "generators")
    monkeypatch.setattr(generators, "run_epochs", lambda *args, **options: pytest.fail("was trained again"))
    reporter = RecordingReporter()
    distil(built, reporter)
    card = built.artifacts.read_card("generators", generator_fingerprint(built))
    assert reporter.reports == [
        (2, 2, {"validated_epoch": 2, "validation_accuracy": card["validation"]["validation_accuracy"]})
    ]
    assert file_bytes(built, "generators") == before


def test_every_worker_reports_a_generator_that_is_there(built: Workspace) -> None:
    """Ray Train waits until all workers have reported: one that stays silent would stop the others for ever."""
    reporter = RecordingReporter()
    # Worker 0 has measured it, as its third answer says.
    distil(built, reporter, OneOfSeveral(1, 2, flagged=lambda call: call == 3))
    assert reporter.reports == [(2, 2, {"validated_epoch": 2})]


def test_worker_that_does_not_see_the_generator_yet_follows_the_one_that_does(
    built: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "run_epochs", lambda *args, **options: pytest.fail("was trained"))
    reporter = RecordingReporter()

    # Worker 0 says: it is there; no student diverged; it is measured.
    distil(undistilled(built), reporter, OneOfSeveral(1, 2, flagged=lambda call: call in (1, 3)))
    assert reporter.steps == [2]


@pytest.mark.parametrize("pool_kind", ["stored", "online"])
@pytest.mark.parametrize("num_saves", [1, 3, 4])
def test_distillation_killed_after_a_save_goes_on_to_the_same_bits(
    built: Workspace, monkeypatch: pytest.MonkeyPatch, num_saves: int, pool_kind: str
) -> None:
    storage = StorageConfig(root=built.config.storage.root, checkpoint_seconds=0.0)
    work = undistilled(replace(built, config=replace(built.config, storage=storage)))
    work = with_pool(work, kind=pool_kind, online_steps=2)
    saved: list[State] = []

    def save_and_die(self: StoredCheckpointer, state: State) -> None:
        save(self, state)
        saved.append(state)
        if len(saved) == num_saves:
            raise InterruptedStageError

    save = StoredCheckpointer.save
    with monkeypatch.context() as patch:
        patch.setattr(StoredCheckpointer, "save", save_and_die)
        with pytest.raises(InterruptedStageError):
            distil(work)
    identity = distil(work)
    resumed = work.artifacts.read("generators", identity)
    for path in Path(work.artifacts.root, "generators", identity).iterdir():
        path.unlink()
    distil(work)
    whole = work.artifacts.read("generators", identity)
    assert resumed.files == whole.files  # weights and picture
    assert resumed.card["validation"] == whole.card["validation"]
    assert not list(Path(work.artifacts.root, "studies").rglob("*.safetensors"))


def test_test_split_is_not_used_in_distillation(built: Workspace) -> None:
    work = undistilled(built)
    poisoned = replace(work.dataset, test=replace(work.dataset.test, images=torch.zeros(0, 1, 8, 8, dtype=torch.uint8)))
    with_test, without_test = RecordingReporter(), RecordingReporter()
    identity = distil(work, with_test)
    for path in Path(work.artifacts.root, "generators", identity).iterdir():
        path.unlink()
    distil(replace(work, dataset=poisoned), without_test)
    told = [
        [(step, {name: value for name, value in metrics.items() if name != "wall_seconds"}) for step, _, metrics in own]
        for own in (without_test.reports, with_test.reports)
    ]
    assert told[0] == told[1]


def test_file_of_a_generator_is_the_one_that_the_card_vouches_for(built: Workspace) -> None:
    identity = generator_fingerprint(built)
    card = built.artifacts.read_card("generators", identity)
    size = Path(built.artifacts.root, "generators", identity, GENERATOR_FILE).stat().st_size
    assert card["files"][GENERATOR_FILE]["size_bytes"] == size
