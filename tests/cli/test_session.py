from __future__ import annotations

import gzip
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from dim_ray.cli import session
from dim_ray.cli.main import run_main
from dim_ray.cli.session import begin_log, log_address, open_session, open_shared_session
from dim_ray.cli.settings import make_config as config_of
from dim_ray.cli.settings import read_settings
from dim_ray.config import Config, DataConfig, fingerprint
from dim_ray.core.data.checks import check_evaluation, check_training
from dim_ray.errors import ConfigError, DataError, StorageError
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import SilentProgress
from dim_ray.store.files.filesystem import open_root
from tests.helpers.logs import closed_logs  # noqa: F401  # a fixture
from tests.helpers.small import make_config, make_work
from tests.helpers.written_images import pixels, write_folder
from tests.store.conftest import closed_folder, object_store  # noqa: F401  # fixtures


class Told(SilentProgress):
    """A display that keeps its messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def make_data(tmp_path: Path) -> DataConfig:
    classes = {name: pixels(20, seed=seed) for seed, name in enumerate(("cat", "dog"))}
    return DataConfig(dataset=f"folder:{write_folder(tmp_path / 'pets', classes)}")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path / "storage", data=make_data(tmp_path))


def open_named(config: Config) -> Workspace:
    return open_session(config, lambda config, dataset: f"{dataset.name}-study", [check_training], SilentProgress())


def test_session_has_data_an_absolute_root_and_a_name(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(config, storage=replace(config.storage, root="relative/storage"))
    work = open_named(config)
    assert work.config.storage.root == str(tmp_path / "relative/storage")
    assert work.study == "pets-study"
    assert work.dataset.class_names == ("cat", "dog")
    assert replace(work.config, storage=config.storage) == config


def test_a_session_says_what_it_found_before_it_checks_budgets(config: Config) -> None:
    told: list[str] = []

    class Told(SilentProgress):
        def message(self, text: str) -> None:
            told.append(text)

    config = replace(config, pool=replace(config.pool, batch_size=1000))
    with pytest.raises(ConfigError):
        open_session(config, lambda config, dataset: "study", [check_training], Told())
    assert told == [
        "pets: 2 classes (cat, dog), 8x8 pixels, grey; train 28 images, 14 a class; "
        "validation 4 held out, test 8 held out."
    ]


def test_shared_study_keeps_the_configuration_of_every_run_to_be_read_back(config: Config, tmp_path: Path) -> None:
    other = replace(config, evaluation=replace(config.evaluation, learning_rate=0.123))
    for given in (config, other, config):
        work = open_shared_session(given, "evaluate", check_evaluation, SilentProgress())
        assert work.study == "evaluate"
        file = tmp_path / f"storage/studies/evaluate/config-{fingerprint(given)}.yaml"
        assert config_of(read_settings(file)) == work.config
    assert len(list((tmp_path / "storage/studies/evaluate").glob("config-*.yaml"))) == 2


def test_shared_study_takes_the_name_that_was_given(config: Config, tmp_path: Path) -> None:
    config = replace(config, study=replace(config.study, name="mine"))
    assert open_shared_session(config, "evaluate", check_evaluation, SilentProgress()).study == "mine"
    assert list((tmp_path / "storage/studies/mine").glob("config-*.yaml"))


@pytest.mark.parametrize(("given", "name"), [("20240501", "study-20240501"), ("数据", "数据"), ("nan", "study-nan")])
def test_given_name_of_a_study_is_one_that_other_programs_read(
    config: Config, tmp_path: Path, given: str, name: str
) -> None:
    config = replace(config, study=replace(config.study, name=given))
    for _ in range(2):
        progress = Told()
        work = open_shared_session(config, "evaluate", check_evaluation, progress)
        assert (work.study, work.config.study.name) == (name, name)
        sentence = f"study.name is {given!r}, which other programs would misread; in rows and paths it is {name}"
        assert (sentence in progress.texts) == (given != name)
    assert list((tmp_path / f"storage/studies/{name}").glob("config-*.yaml"))


def test_only_commands_that_write_rows_take_the_datas_name_and_only_if_they_begin(
    config: Config, tmp_path: Path
) -> None:
    open_named(config)
    wrong = replace(config, pool=replace(config.pool, batch_size=1000))
    with pytest.raises(ConfigError):
        open_shared_session(wrong, "distill", check_training, Told())
    assert not (tmp_path / "storage/datasets").exists()
    open_shared_session(config, "evaluate", check_evaluation, Told())
    assert (tmp_path / "storage/datasets/pets/card.json").is_file()


def test_other_data_of_the_same_name_have_another_in_the_session(config: Config, tmp_path: Path) -> None:
    open_shared_session(config, "evaluate", check_evaluation, Told())
    classes = {name: pixels(20, seed=seed) for seed, name in enumerate(("eel", "fox"))}
    other = DataConfig(dataset=f"folder:{write_folder(tmp_path / 'other/pets', classes)}")
    progress = Told()
    work = open_shared_session(replace(config, data=other), "evaluate", check_evaluation, progress)
    assert work.dataset.name == work.config.data.name == f"pets-{work.dataset.content_digest[:8]}"
    assert "pets is the name of other data" in progress.texts[0]
    assert progress.texts[1].startswith(f"{work.dataset.name}: 2 classes")


def test_messages_and_warnings_go_to_the_studys_log_file(
    config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = open_named(config)
    logging.getLogger("dim_ray.here").info("began")
    logging.getLogger("other.library").warning("careful")
    logging.getLogger("other.library").info("too much detail")
    text = (tmp_path / "storage/studies/pets-study/study.log").read_text()
    assert log_address(work) == f"{tmp_path}/storage/studies/pets-study/study.log"
    assert "dim_ray.here: began" in text
    assert "careful" in text
    assert "too much detail" not in text
    assert capfd.readouterr() == ("", "")


def test_log_of_a_study_on_an_object_store_is_there_in_the_end_with_the_error(object_store: str) -> None:  # noqa: F811
    work = make_work(object_store)

    def main(argv: object) -> None:
        begin_log(work)
        logging.getLogger("dim_ray.here").info("began")
        raise StorageError("the disk is full")

    assert run_main(main, []) == 1
    root = open_root(object_store)
    [log] = root.children("studies/tiny")
    assert log_address(work) == root.uri_of(root.key_of(log.path))
    text = gzip.decompress(root.read(root.key_of(log.path)) or b"").decode()
    assert "dim_ray.here: began" in text
    assert "StorageError: the disk is full" in text


def test_storage_that_cannot_be_written_is_refused_before_data_are_read(
    config: Config,
    closed_folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "open_dataset", lambda data: pytest.fail("data were read"))
    with pytest.raises(StorageError, match="closed"):
        open_named(replace(config, storage=replace(config.storage, root=str(closed_folder / "storage"))))


def test_budget_that_does_not_fit_the_data_is_refused_by_the_commands_that_use_it(config: Config) -> None:
    config = replace(config, pool=replace(config.pool, batch_size=1000))
    with pytest.raises(ConfigError, match=r"pool\.batch_size"):
        open_named(config)
    open_shared_session(config, "evaluate", check_evaluation, SilentProgress())  # trains no teacher


def test_data_that_are_not_there_are_refused_and_leave_no_study(config: Config, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        open_named(replace(config, data=DataConfig(dataset=f"folder:{tmp_path / 'nowhere'}")))
    assert not (tmp_path / "storage/studies").exists()
