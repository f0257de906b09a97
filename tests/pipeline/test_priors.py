from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dim_ray.config import HealthConfig, StorageConfig
from dim_ray.core.generator.adversarial import AdversarialTraining
from dim_ray.core.training.checkpoint import dumps
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Collective, Ports, SilentReporter, SingleWorker, State
from dim_ray.errors import ArtifactError, DivergedError
from dim_ray.pipeline import priors
from dim_ray.pipeline.checkpoints import StoredCheckpointer
from dim_ray.pipeline.generators import distill_generator
from dim_ray.pipeline.priors import build_prior, load_prior, prior_fingerprint, prior_is_settled
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.gloo_workers import workers
from tests.helpers.small import file_bytes, make_work
from tests.helpers.tiny import InterruptedStageError, RecordingReporter, equal_states, make_pair


def with_capacity(work: Workspace, capacity: int) -> Workspace:
    config = work.config
    return replace(work, config=replace(config, generator=replace(config.generator, capacity=capacity)))


def test_there_is_one_prior_for_each_capacity(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    build_prior(work, SilentReporter(), SingleWorker())
    assert prior_is_settled(work)
    assert not prior_is_settled(with_capacity(work, 7))


def test_prior_is_not_trained_again_for_another_pool_or_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path)
    build_prior(work, SilentReporter(), SingleWorker())
    monkeypatch.setattr(priors, "run_epochs", lambda *args: pytest.fail("was trained again"))
    config = work.config.with_fields({"pool.size": 1, "matching.weight": 0.9, "matching.adversarial_weight": 1.9})
    build_prior(replace(work, config=config, study="another"), SilentReporter(), SingleWorker())


def test_prior_is_another_one_for_other_data_recipe_or_number_of_workers(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    config = work.config
    others = [
        replace(work, dataset=replace(work.dataset, digest="1" * 16)),
        with_capacity(work, 7),
        replace(work, config=replace(config, prior=replace(config.prior, seed=9))),
        replace(work, config=replace(config, prior=replace(config.prior, gradient_penalty_weight=1.0))),
        replace(work, config=replace(config, study=replace(config.study, workers_per_trial=2))),
    ]
    fingerprints = {prior_fingerprint(w) for w in (work, *others)}
    assert len(fingerprints) == 1 + len(others)


def test_loaded_prior_is_what_training_left(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    build_prior(work, SilentReporter(), SingleWorker())
    pair = make_pair(work.dataset, seed=work.config.prior.seed)
    stage = AdversarialTraining(pair, work.config.prior, work.dataset, work.config.health, SingleWorker())
    run_epochs(stage, work.dataset.train, Ports())
    assert equal_states(load_prior(work), pair.state())


def test_prior_without_adams_state_is_refused_by_name_only_where_it_is_asked_for(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    pair = make_pair(work.dataset)
    name = prior_fingerprint(work)
    uri = work.artifacts.write("priors", name, {"pair.safetensors": dumps(pair.weights())}, {})
    asking = replace(work, config=work.config.with_fields({"matching.adam_state": "prior"}))
    assert prior_fingerprint(asking) == name
    assert equal_states(load_prior(work), pair.weights())
    with pytest.raises(ArtifactError, match=r"adam_state is 'prior'.*Delete this folder") as refusal:
        load_prior(asking)
    assert uri in str(refusal.value)
    work.artifacts.remove("priors", name)
    build_prior(work, SilentReporter(), SingleWorker())
    assert load_prior(asking)


@pytest.mark.parametrize("num_saves", [1, 4])
def test_prior_killed_after_a_save_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_saves: int
) -> None:
    whole = make_work(tmp_path / "whole")
    build_prior(whole, SilentReporter(), SingleWorker())
    halved = make_work(
        tmp_path / "halved", storage=StorageConfig(root=str(tmp_path / "halved"), checkpoint_seconds=0.0)
    )
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
            build_prior(halved, SilentReporter(), SingleWorker())
    assert not prior_is_settled(halved)
    reporter = RecordingReporter()
    build_prior(halved, reporter, SingleWorker())
    assert reporter.steps == ([1, 2] if num_saves == 1 else [2])
    assert file_bytes(halved, "priors") == file_bytes(whole, "priors")


def test_state_of_a_finished_prior_is_deleted(tmp_path: Path) -> None:
    work = make_work(tmp_path, storage=StorageConfig(root=str(tmp_path), checkpoint_seconds=0.0))
    with pytest.raises(InterruptedStageError):
        build_prior(work, RecordingReporter(stop_at=1), SingleWorker())
    assert len(list((tmp_path / "studies").rglob("*.safetensors"))) == 1
    build_prior(work, SilentReporter(), SingleWorker())
    assert not list((tmp_path / "studies").rglob("*.safetensors"))


def test_truncated_prior_is_named_and_not_loaded(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    build_prior(work, SilentReporter(), SingleWorker())
    file = next((tmp_path / "priors").rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=rf"{file.name} in .*{prior_fingerprint(work)} is truncated"):
        load_prior(work)


def diverging(root: Path) -> Workspace:
    work = make_work(root)
    return replace(work, config=replace(work.config, prior=replace(work.config.prior, learning_rate=1e30)))


def test_prior_that_diverged_is_an_outcome_that_every_distillation_from_it_is_told(tmp_path: Path) -> None:
    work = diverging(tmp_path)
    build_prior(work, SilentReporter(), SingleWorker())
    assert not list((tmp_path / "priors").rglob("*.safetensors"))
    assert prior_is_settled(work)
    for load in (load_prior, lambda work: distill_generator(work, SilentReporter(), SingleWorker())):
        with pytest.raises(DivergedError, match=r"^prior diverged by step 3 of 6"):
            load(work)
    other = with_capacity(work, 7)
    assert not prior_is_settled(other)


def test_prior_that_diverged_is_trained_again_under_other_limits_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = diverging(tmp_path)
    build_prior(work, SilentReporter(), SingleWorker())
    calls = []
    monkeypatch.setattr(priors, "run_epochs", lambda stage, *args: calls.append(stage.patience))
    build_prior(work, SilentReporter(), SingleWorker())
    assert calls == []
    patient = replace(work, config=replace(work.config, health=HealthConfig(patience=50)))
    assert not prior_is_settled(patient)
    build_prior(patient, SilentReporter(), SingleWorker())
    assert calls == [50]


def test_prior_that_is_stored_counts_whatever_an_earlier_attempt_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = diverging(tmp_path)
    build_prior(work, SilentReporter(), SingleWorker())
    patient = replace(work, config=replace(work.config, health=HealthConfig(patience=50)))
    with monkeypatch.context() as patch:
        patch.setattr(priors, "run_epochs", lambda *args: None)
        build_prior(patient, SilentReporter(), SingleWorker())
    assert load_prior(patient)
    assert load_prior(work)


def build_on_worker(collective: Collective, root: Path, epochs: int) -> list[int]:
    reporter = RecordingReporter()
    build_prior(with_epochs(root, epochs, **{"study.workers_per_trial": collective.num_workers}), reporter, collective)
    return reporter.steps


def with_epochs(root: Path, epochs: int, **fields: int) -> Workspace:
    work = make_work(root)
    return replace(work, config=work.config.with_fields({"prior.epochs": epochs, **fields}))


def test_longer_prior_continues_from_the_longest_shorter_one_to_the_same_bits(tmp_path: Path) -> None:
    whole = with_epochs(tmp_path / "whole", 4)
    build_prior(whole, SilentReporter(), SingleWorker())
    for epochs, fields in ((1, {}), (2, {}), (3, {"prior.seed": 5})):
        build_prior(with_epochs(tmp_path / "parts", epochs, **fields), SilentReporter(), SingleWorker())
    longer, reporter = with_epochs(tmp_path / "parts", 4), RecordingReporter()
    build_prior(longer, reporter, SingleWorker())
    assert reporter.steps == [2, 3, 4], "2 is reported again, as by a run that resumes"
    assert file_bytes(whole, "priors").popitem()[1] in file_bytes(longer, "priors").values()
    before, after = (
        own.artifacts.read_card("priors", prior_fingerprint(own))["wall_seconds"]
        for own in (with_epochs(tmp_path / "parts", 2), longer)
    )
    assert before < after
    assert not list((tmp_path / "parts" / "studies").rglob("*.safetensors"))


def test_all_workers_continue_from_a_shorter_prior(tmp_path: Path) -> None:
    assert workers().run(2, build_on_worker, tmp_path, 1) == [[1], [1]]
    assert workers().run(2, build_on_worker, tmp_path, 2) == [[1, 2], [1, 2]]
    workers().run(2, build_on_worker, tmp_path / "whole", 2)
    parts, whole = ({*file_bytes(make_work(root), "priors").values()} for root in (tmp_path, tmp_path / "whole"))
    assert whole <= parts


def test_prior_of_an_older_version_without_adams_state_is_no_beginning(tmp_path: Path) -> None:
    work, older = make_work(tmp_path), with_epochs(tmp_path, 1)
    weights = {"pair.safetensors": dumps(make_pair(work.dataset).weights())}
    older.artifacts.write("priors", prior_fingerprint(older), weights, {})
    reporter = RecordingReporter()
    build_prior(work, reporter, SingleWorker())
    assert reporter.steps == [1, 2]
