"""Generators and images go to the Hugging Face Hub and come back, over HTTP, through huggingface_hub."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import DatasetCard, constants

from dim_ray import generate, results
from dim_ray.api import load_generator
from dim_ray.cli.main import run_main
from dim_ray.config import DataConfig
from dim_ray.core.data.dataset import load_dataset
from dim_ray.errors import ArtifactError, ConfigError, DimError, StorageError, UsageError
from dim_ray.pipeline.dataset_names import keep_name
from tests.helpers.hub_server import READER, WRITER, HubServer, Repository
from tests.helpers.small import build_networks, distil, make_config, make_work
from tests.helpers.written_images import pixels, write_parquet

LABELS = torch.arange(3)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a generator in a storage."""
    work = make_work(tmp_path_factory.mktemp("hub"))
    build_networks(work)
    return Path(work.artifacts.uri("generators", distil(work)))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    with HubServer() as server:
        go_to(server.url, monkeypatch)
        yield server


def go_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does what HF_ENDPOINT would have done when huggingface_hub was imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def push(server: HubServer, stored: Path, tmp_path: Path) -> Callable[..., int]:
    """Exports the generator to `out`, or generates its images, and pushes them to org/name; returns the exit code."""

    def push(*flags: str, name: str = "org/name", out: str = "out", images: bool = False) -> int:
        to = ["--push-to-hub", name, *flags]
        if images:
            return run_main(generate.main, [str(stored), "--ipc", "2", "--out", str(tmp_path / out), *to])
        return run_main(results.main, ["export", str(stored), str(tmp_path / out), "--storage", str(tmp_path), *to])

    return push


def snapshot(tmp_path: Path) -> Path:
    [folder] = (tmp_path / "cache").glob("models--*/snapshots/*")
    return folder


@pytest.mark.parametrize("uses_lfs", [True, False])
def test_pushed_generator_comes_back_whole_and_then_without_network(
    push: Callable[..., int],
    server: HubServer,
    stored: Path,
    tmp_path: Path,
    uses_lfs: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.uses_lfs = uses_lfs
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", uses_lfs)  # the library's two ways to upload
    assert push() == 0
    pushed = server.repositories["models", "org/name"].files()
    assert pushed == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert any(name.startswith("dim_ray/") for agent in server.agents for name in agent.split("; "))
    expected = load_generator(stored).sample(LABELS, seed=3)
    assert torch.equal(load_generator("hf://org/name").sample(LABELS, seed=3), expected)
    line = capsys.readouterr().out.splitlines()[-1]
    commit = line.rpartition("@")[2].removesuffix("')")
    assert commit == server.repositories["models", "org/name"].branches["main"]
    server.requests.clear()
    assert torch.equal(load_generator(f"hf://org/name@{commit}").sample(LABELS, seed=3), expected)
    assert server.requests == []  # a commit that is there already needs no question
    server.is_down = True
    assert torch.equal(load_generator("hf://org/name").sample(LABELS, seed=3), expected)
    go_to("http://127.0.0.1:9", monkeypatch)
    assert torch.equal(load_generator("hf://org/name").sample(LABELS, seed=3), expected)
    again = ["export", "hf://org/name", str(tmp_path / "again"), "--storage", str(tmp_path)]
    assert run_main(results.main, again) == 0
    assert (tmp_path / "again/samples.png").read_bytes() == pushed["samples.png"]


@pytest.mark.parametrize("name", ["generator.safetensors", "program.pt2", "sample.py", "card.json"])
def test_file_that_was_altered_on_the_hub_is_refused_by_name(
    push: Callable[..., int], server: HubServer, name: str
) -> None:
    push()
    repository = server.repositories["models", "org/name"]
    data = bytearray(repository.files()[name])
    data[len(data) // 2] ^= 1
    repository.commit("main", {**repository.files(), name: bytes(data)})
    with pytest.raises(ArtifactError, match=rf"^hf://org/name: .*{name}"):
        load_generator("hf://org/name")


def test_file_that_was_altered_in_the_cache_is_refused_by_name(push: Callable[..., int], tmp_path: Path) -> None:
    push()
    load_generator("hf://org/name")
    (snapshot(tmp_path) / "generator.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"generator\.safetensors in .* is truncated: .* `hf cache rm`"):
        load_generator("hf://org/name")


def test_revisions_stay_apart(push: Callable[..., int], server: HubServer, tmp_path: Path) -> None:
    push()
    first = server.repositories["models", "org/name"].branches["main"]
    assert push("--license", "mit", name="org/name@v1/final", out="second") == 0
    repository = server.repositories["models", "org/name"]
    assert set(repository.branches) == {"main", "v1/final"}
    assert b"license: mit" in repository.files("v1/final")["README.md"]
    assert b'load_generator("hf://org/name@v1%2Ffinal")' in repository.files("v1/final")["README.md"]
    assert b"license" not in repository.files(first)["README.md"].partition(b"---\n#")[0]
    for revision in (f"@{first}", "@v1%2Ffinal", "@main", ""):
        assert load_generator(f"hf://org/name{revision}").num_classes == 3


def test_private_is_private_or_nothing_is_uploaded(
    push: Callable[..., int], server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push("--private") == 0
    assert server.repositories["models", "org/name"].is_private
    monkeypatch.setenv("HF_TOKEN", READER)
    assert load_generator("hf://org/name").num_classes == 3
    monkeypatch.setenv("HF_TOKEN", WRITER)
    server.repositories["models", "org/public"] = Repository()
    assert push("--private", name="org/public", out="public") == 2
    assert "org/public exists and is public, which --private doesn't change" in capsys.readouterr().err
    assert server.repositories["models", "org/public"].files() == {}


def refusal(call: Callable[[], Any], kind: type[DimError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_errors_of_loading_say_what_to_do(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(address: str, kind: type[DimError] = UsageError) -> str:
        return refusal(lambda: load_generator(address), kind)

    server.repositories["models", "org/private"] = Repository(is_private=True)
    server.repositories["models", "org/other"] = Repository()
    server.repositories["models", "org/other"].commit("main", {"README.md": b"# Something else"})
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    for name in ("private", "absent"):
        message = error(f"hf://org/{name}")
        assert "has no such repository, or doesn't show it to you" in message
        assert "`hf auth login`" in message
    assert "no such branch, tag or commit" in error("hf://org/other@v2")
    assert "has no card.json" in error("hf://org/other", ArtifactError)
    assert "is a dataset; allowed: hf://ORG/NAME" in error("hf://datasets/org/name")
    assert "allowed: hf://ORG/NAME" in error("hf://name")
    server.is_down = True
    assert "under maintenance" in error("hf://org/unseen", StorageError)
    go_to("http://127.0.0.1:9", monkeypatch)
    assert "Check the network" in error("hf://org/unseen", StorageError)


@pytest.mark.parametrize(
    ("token", "name", "flags", "code", "message"),
    [
        (None, "org/name", [], 2, "needs a token that may write. Run `hf auth login`, or set HF_TOKEN"),
        (READER, "org/name", [], 2, "refuses it (Invalid username or password). Give a token that may do it"),
        (WRITER, "others/name", [], 2, "refuses it (You don't have the rights"),
        (WRITER, "name", [], 2, "allowed: hf://ORG/NAME"),
        (WRITER, "org/name/folder", [], 2, "allowed: ORG/NAME or ORG/NAME@BRANCH"),
        (
            WRITER,
            "org/name",
            ["--license", "Apache 2.0"],
            2,
            "--license is 'Apache 2.0'; allowed: the Hub's identifiers",
        ),
        (WRITER, "org/name", ["--license", "apache-2"], 2, '"license" must be one of apache-2.0, cc-by-4.0, mit'),
    ],
)
def test_push_that_cannot_work_says_why(
    push: Callable[..., int],
    server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str | None,
    name: str,
    flags: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    monkeypatch.setenv("HF_TOKEN", token or "")
    assert push(*flags, name=name) == code
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not any("/commit/" in request for request in server.requests)


def test_push_without_network_keeps_the_folder(
    push: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go_to("http://127.0.0.1:9", monkeypatch)
    assert push() == 1
    assert f"{tmp_path / 'out'} is complete, but can't write hf://org/name" in capsys.readouterr().err
    assert load_generator(tmp_path / "out").num_classes == 3


def test_flags_that_need_others_are_refused(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(stored), "--out", str(tmp_path / "out")]
    for flags, message in (
        (["--private"], "--private is about the repository of --push-to-hub"),
        (["--license", "mit"], "given: folder"),
        (["--push-to-hub", "org/name", "--format", "npz"], "given: npz"),
    ):
        assert run_main(generate.main, [*command, *flags]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_extra_the_error_names_it(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    calls: list[Callable[[], Any]] = [
        lambda: load_generator("hf://org/name"),
        lambda: load_dataset(DataConfig(dataset="hf://datasets/org/name")),
        lambda: results.main(["export", str(stored), str(tmp_path / "out"), "--push-to-hub", "org/name"]),
    ]
    for call in calls:
        assert "pip install 'dim-ray[hub]'" in refusal(call, UsageError)
    results.main(["export", str(stored), str(tmp_path / "out"), "--storage", str(tmp_path)])
    assert load_generator(tmp_path / "out").num_classes == 3


def test_pushed_images_have_a_card_and_replace_those_before(
    push: Callable[..., int], server: HubServer, stored: Path, tmp_path: Path
) -> None:
    server.repositories["datasets", "org/name"] = repository = Repository()
    repository.commit("main", {"old/test.parquet": b"", "LICENSE": b"ours"})
    assert push("--license", "cc-by-4.0", images=True) == 0
    assert set(repository.files()) == {"README.md", "train.parquet", "LICENSE"}
    card = DatasetCard(repository.files()["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert card.data.size_categories == ["n<1K"]
    assert card.data["dataset_info"]["splits"] == [{"name": "train", "num_examples": 6}]
    for line in ("images per class (IPC) | 2 |", "protocol | `fixed`", f"generator | {stored.name}, raw weights |"):
        assert f"| {line}" in card.text
    assert 'load_dataset("org/name", split="train")' in card.text


@pytest.fixture
def flowers(server: HubServer, tmp_path: Path) -> Path:
    """A data set on the Hub, org/flowers, as a local folder."""
    folder = tmp_path / "flowers"
    for split, seed in (("train", 0), ("test", 1)):
        labels = torch.arange(24).numpy() % 3
        write_parquet(
            folder / f"data/{split}-00000-of-00001.parquet", pixels(24, seed=seed), labels, names=("a", "b", "c")
        )
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}
    server.repositories["datasets", "org/flowers"] = repository = Repository()
    repository.commit("main", {**files, "model.bin": b"not wanted"})
    return folder


def test_images_on_the_hub_are_read_as_from_a_folder_and_then_without_network(
    flowers: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_dataset(DataConfig(dataset=f"parquet:{flowers}"))
    config = DataConfig(dataset="hf://datasets/org/flowers@main")
    read = load_dataset(config)
    assert (read.name, read.digest) == ("flowers", expected.digest)
    assert not any("model.bin" in request for request in server.requests)
    go_to("http://127.0.0.1:9", monkeypatch)
    assert load_dataset(config).digest == expected.digest


@pytest.mark.parametrize(
    "dataset", ["hf://org/name", "hf://datasets/name", "hf:org/name", "hf://datasets/org/", "hf:datasets/org/name"]
)
def test_address_of_other_things_than_data_is_refused(dataset: str) -> None:
    with pytest.raises(ConfigError, match="allowed: hf://datasets/ORG/NAME"):
        DataConfig(dataset=dataset)


@pytest.mark.parametrize(
    ("dataset", "label", "hub_name"),
    [
        ("hf://datasets/org/flowers", "flowers", "org/flowers"),
        ("hf://datasets/org/flowers@refs/convert/parquet", "flowers", "org/flowers"),
        ("hf://datasets/org/svhn@v1#cropped_digits", "svhn_cropped_digits", "org/svhn"),
        ("hf://datasets/org/flowers/small", "small", "org/flowers"),
        ("cifar10", "cifar10", "uoft-cs/cifar10"),
        ("digits", "digits", None),
        ("folder:cifar10", "cifar10", None),
    ],
)
def test_rows_and_cards_have_the_name_of_the_repository(dataset: str, label: str, hub_name: str | None) -> None:
    config = DataConfig(dataset=dataset)
    assert (config.label, config.hub_name) == (label, hub_name)


def test_storage_knows_data_by_their_address(flowers: Path, tmp_path: Path) -> None:
    data = DataConfig(dataset="hf://datasets/org/flowers")
    config = make_config(tmp_path / "storage", data=data)
    keep_name(config, load_dataset(data))
    assert '"source": "hf://datasets/org/flowers"' in (tmp_path / "storage/datasets/flowers/card.json").read_text()
