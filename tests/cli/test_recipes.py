"""Which shipped recipe a command without --config takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dim_ray.cli import recipes
from dim_ray.cli.flags import DISTILL_FLAGS, TUNE_FLAGS, add_local, shipped_studies
from dim_ray.cli.main import parse, run_main
from dim_ray.cli.recipes import choose_recipe, find_device, find_images, list_studies, open_dataset, read_shipped
from dim_ray.cli.settings import read_settings, read_study
from dim_ray.config import Config, DataConfig, StudyConfig
from dim_ray.config.suits import KNOWN_IMAGES, Device, Images, Suits
from dim_ray.core.data.dataset import load_dataset
from dim_ray.distributed.cluster import joining
from dim_ray.errors import ConfigError, UsageError
from tests.helpers.written_images import write_folder

KNOWN = {
    ("digits", "cpu"): "digits", ("digits", "gpu"): "digits",
    ("mnist", "cpu"): "mnist_cpu", ("mnist", "gpu"): "gpu",
    ("fashion_mnist", "cpu"): "fashion_cpu", ("fashion_mnist", "gpu"): "gpu",
    ("svhn", "cpu"): "cifar_cpu", ("svhn", "gpu"): "gpu",
    ("cifar10", "cpu"): "cifar_cpu", ("cifar10", "gpu"): "gpu",
    ("cifar100", "cpu"): "cifar_cpu", ("cifar100", "gpu"): "gpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Device]]:
    """The devices that commands find: CPUs, until a test says otherwise."""
    found: list[Device] = ["cpu"]
    monkeypatch.setattr("dim_ray.cli.main.find_device", lambda config, is_local: found[0])
    yield found
    recipes._opened.clear()


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """300 colour images of 48 pixels."""
    rng = np.random.default_rng(0)
    return write_folder(
        tmp_path / "pets", {name: rng.integers(0, 255, (150, 3, 48, 48), dtype=np.uint8) for name in ("cat", "dog")}
    )


def command(*argv: str) -> tuple[Config, Any]:
    return parse(argv, program="python -m dim_ray.tune", description="", flags=TUNE_FLAGS)


def only_parse(argv: list[str]) -> None:
    command(*argv)


def own(number: int, num_channels: int, pixels: int) -> Images:
    return Images(dataset="folder:/own", number=number, num_channels=num_channels, pixels=pixels)


@pytest.mark.parametrize(("case", "name"), KNOWN.items(), ids=str)
def test_known_dataset_takes_the_recipe_for_its_images_and_devices(
    case: tuple[str, Device], name: str, device: list[Device], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, device[0] = case
    config, extras = command("--dataset", dataset)
    assert (extras.recipe.name, config.data.dataset) == (name, dataset)
    line = capsys.readouterr().err
    assert line.startswith(f"recipe {name} for {dataset}, {KNOWN_IMAGES[dataset].number:,} ")
    assert line.endswith("; --config for another\n")
    assert "; about " in line


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_own_data_of_any_size_have_one_recipe_and_never_that_of_the_digits(kind: Device) -> None:
    offers = [suits for name in shipped_studies() if (suits := read_shipped(name)[1]).automatic]
    numbers = (50, 60, 300, 1797, 9_999, 10_000, 60_000, 100_000)
    for shape in itertools.product(numbers, (1, 3), (8, 9, 20, 28, 33, 64)):
        images = own(*shape)
        [suits] = [suits for suits in offers if suits.fits(images, kind)]
        assert not suits.datasets, images
        assert suits.duration("tune", images), images


def test_copy_of_the_digits_does_not_have_the_recipe_of_the_digits(tmp_path: Path) -> None:
    digits = load_dataset(DataConfig()).train
    by_class = {str(label): digits.images[digits.labels == label].numpy() for label in range(10)}
    _, extras = command("--dataset", f"folder:{write_folder(tmp_path / 'digits', by_class)}")
    assert extras.recipe.name == "small"


def test_own_data_are_read_once_for_the_recipe_and_the_run(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[DataConfig] = []

    def read(data: DataConfig) -> Any:
        reads.append(data)
        return load_dataset(data)

    monkeypatch.setattr("dim_ray.core.data.dataset.load_dataset", read)
    config, extras = command("--dataset", f"folder:{pets}", "--data.validation_fraction", "0.2")
    assert extras.recipe.reason.startswith("recipe small for pets, 300 colour images of 48 pixels on CPUs; about ")
    dataset = open_dataset(config.data)
    assert (len(dataset.validation), reads) == (48, [config.data])
    assert open_dataset(config.data) is not dataset  # a later run may find other files
    assert len(reads) == 2


def test_images_of_known_names_are_as_they_are() -> None:
    digits = load_dataset(DataConfig())
    held_out = len(digits.validation) + len(digits.test)
    known = find_images(DataConfig())
    assert (known.number, known.num_channels, known.pixels) == (len(digits.train) + held_out, 1, digits.image_size)


def test_printed_configuration_begins_with_the_reason_and_is_read_back(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--dataset", f"folder:{pets}", "--pool.epochs", "3"]
    with pytest.raises(SystemExit):
        command(*argv, "--print-config")
    out, err = capsys.readouterr()
    assert out.startswith("# recipe small for pets, 300 colour images of 48 pixels on CPUs; about ")
    assert err == ""
    (tmp_path / "own.yaml").write_text(out)
    assert command("--config", str(tmp_path / "own.yaml"))[0] == command(*argv)[0]


def test_each_of_several_datasets_has_its_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    config, extras = command("--dataset", "mnist", "cifar10", "--pool.epochs", "3")
    assert extras.configs[0] == config
    assert [(own.data.dataset, own.prior.epochs, own.pool.epochs) for own in extras.configs] == [
        ("mnist", 8, 3),
        ("cifar10", 24, 3),
    ]
    assert capsys.readouterr().err.count("recipe ") == 2
    assert run_main(only_parse, ["--dataset", "mnist", "cifar10", "--print-config"]) == 2
    assert "mnist_cpu and cifar_cpu; give one --dataset" in capsys.readouterr().err
    _, extras = command("--dataset", "mnist", "cifar10", "--config", "small")
    assert [own.data.dataset for own in extras.configs] == ["mnist", "cifar10"]


@pytest.mark.parametrize("images", [own(200_000, 3, 64), own(20, 1, 8)], ids=str)
def test_data_that_no_recipe_suits_are_refused_with_what_is_shipped(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "find_images", lambda data: images)
    with pytest.raises(UsageError) as error:
        choose_recipe(DataConfig(dataset="folder:/own"), lambda: "cpu", command="tune")
    message = str(error.value)
    assert message.startswith(f"No shipped recipe suits own, {images} on CPUs. There are ")
    assert "small for 30 to 9,999 images of 8 to 64 pixels. Take " in message
    assert "pool_scaling" not in message
    assert error.value.exit_code == 2


def test_recipe_of_a_job_elsewhere_is_chosen_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster.yaml").write_text("max_workers: 4\nprovider:\n  type: aws\n")
    monkeypatch.setattr("dim_ray.cli.clusters.call_head", lambda request, file: 7)
    monkeypatch.setattr("dim_ray.cli.main.choose_recipe", lambda *args, **options: pytest.fail("chosen here"))
    argv = ["--cluster", str(tmp_path / "cluster.yaml"), "--dataset", "folder:/there", "--storage", "s3://b/dim"]
    with pytest.raises(SystemExit, match="7"):
        command(*argv)
    with pytest.raises(UsageError, match="whose devices decide; give --config"):
        command(*argv, "--print-config")
    with pytest.raises(SystemExit):
        command(*argv, "--print-config", "--config", "gpu")


@pytest.mark.parametrize(
    ("has_gpu", "gpus_per_worker", "is_local", "expected"),
    [
        (True, None, False, "gpu"),
        (True, 0.0, False, "cpu"),
        (True, 0.0, True, "gpu"),
        (False, None, False, "cpu"),
        (False, None, True, "cpu"),
    ],
)
def test_device_is_the_one_that_the_run_will_use(
    has_gpu: bool, gpus_per_worker: float | None, is_local: bool, expected: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    config = Config(study=StudyConfig(gpus_per_worker=gpus_per_worker))
    assert find_device(config, is_local=is_local) == expected


@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_devices_of_a_joined_cluster_are_asked_for(gpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def cluster(config: Config, progress: Any) -> Iterator[Any]:
        yield SimpleNamespace(gpus_per_worker=gpus)

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(joining, "cluster", cluster)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not gpus)
    assert find_device(Config(), is_local=False) == ("gpu" if gpus else "cpu")
    assert find_device(Config(), is_local=True) == ("cpu" if gpus else "gpu")


def test_address_is_known_when_the_devices_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    joins: list[bool] = []
    monkeypatch.setattr(
        "dim_ray.cli.main.find_device", lambda config, is_local: joins.append(joining.joins_a_cluster()) or "gpu"
    )
    command("--dataset", "mnist", "--address", "auto")
    assert joins == [True]


def test_local_run_and_workers_that_only_the_recipe_allows_are_understood() -> None:
    argv = ("--dataset", "mnist", "--local", "--prior.batch_size", "96", "--matching.batch_size", "96")
    options: dict[str, Any] = {"program": "x.distill", "description": "", "flags": DISTILL_FLAGS, "extra": add_local}
    config, extras = parse([*argv, "--workers", "3"], **options)  # three don't share the default batches
    assert (extras.recipe.name, config.study.workers_per_trial) == ("mnist_cpu", 3)


def test_time_is_in_proportion_to_images_and_pixels() -> None:
    suits = Suits(device="gpu", minutes={"tune": 60}, measured_on=(1000, 32))
    assert suits.duration("tune", own(1000, 3, 32)) == "about 1 h on one GPU"
    assert suits.duration("tune", own(4000, 3, 64)) == "about 16 h on one GPU"
    assert suits.duration("tune", own(100, 3, 16)) == "about 2 min on one GPU"
    assert suits.duration("pool", own(100, 3, 16)) == ""


def test_list_says_what_each_study_suits() -> None:
    text = list_studies()
    assert "for digits; tune about 3 min on two cores" in text
    assert "for digits, with --config" in text
    assert "for 10,000 to 100,000 grey images of 8 to 64 pixels on CPUs" in text


# ------------------------------------------------------------------------------------------------ the file's keys


def read(tmp_path: Path, text: str) -> tuple[Any, Any]:
    (tmp_path / "own.yaml").write_text(text)
    return read_study(tmp_path / "own.yaml")


def test_base_comes_before_the_files_own_fields(tmp_path: Path) -> None:
    settings, suits = read(tmp_path, "pool:\n  size: 77\nbase: digits\n")
    digits = read_settings(shipped_studies()["digits"])
    assert [own.field for own in settings] == [*(own.field for own in digits), "pool.size"]
    assert not suits  # what digits suits isn't what this suits
    assert command("--config", str(tmp_path / "own.yaml"))[0].pool.size == 77


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: digit", r":1: base is 'digit', which is no shipped study; did you mean 'digits'"),
        ("base: [digits]", r":1: base is \['digits'\], which is no shipped study"),
        ("base: digits\nbase: small", r":2: base is repeated"),
    ],
)
def test_mistake_in_base_names_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"own\.yaml{message}"):
        read(tmp_path, text)
