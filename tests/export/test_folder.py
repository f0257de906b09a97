"""A generator leaves the project: its folder is complete, verified, and gives the same images without us."""

from __future__ import annotations

import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from packaging.requirements import Requirement

from dim_ray.api import load_generator
from dim_ray.cli.grid import find_generator
from dim_ray.cli.main import run_main
from dim_ray.errors import ArtifactError
from dim_ray.export.cards import model_card
from dim_ray.results import main
from dim_ray.store.artifacts import read_artifact
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.altered_cards import edit_card
from tests.helpers.made_rows import evaluation, real_evaluation
from tests.helpers.small import build_networks, distil, make_work

SEALED = {"card.json", "generator.safetensors", "program.pt2", "sample.py"}
FILES = SEALED | {"README.md", "samples.png"}
SAMPLE = """
import sys
sys.path[:0] = sys.argv[1:3]
import torch, safetensors.torch
from sample import load

torch.set_num_threads(1)
generator = load(sys.argv[2])
images = [generator.sample(torch.arange(n) % generator.num_classes, seed) for n, seed in ((1, 5), (3, 0), (701, 1))]
torch.save(images, sys.argv[3])
weights = safetensors.torch.load_file(f"{sys.argv[2]}/generator.safetensors")
print(generator.mean, len(weights) > 0, sorted({"numpy", "pandas", "ray", "dim_ray"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exporting")
    work = make_work(root)
    build_networks(work)
    fingerprint = distil(work)
    common = {"dataset": "tiny", "ipc": 10}
    rows = [evaluation(generator=fingerprint, seed=s, accuracy=a, **common) for s, a in enumerate([0.80, 0.82])]
    rows += [
        evaluation(
            generator=fingerprint, protocol="fixed", accuracy=0.7, quirks="best_of_tests", preset="custom", **common
        )
    ]
    rows += [real_evaluation(accuracy=0.55, **common), real_evaluation(accuracy=0.11, architecture="mlp", **common)]
    rows += [evaluation(generator="ffff000011112222", accuracy=0.22, **common)]
    Writer(str(root)).append_evaluations(rows)
    return root


@pytest.fixture(scope="module")
def exported(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    out = tmp_path_factory.mktemp("out") / "generator"
    [fingerprint] = [path.name for path in (storage / "generators").iterdir()]
    main(["export", fingerprint, str(out), "--storage", str(storage)])
    return out


def test_folder_has_everything_and_says_so(
    exported: Path, storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    average = {"average.safetensors"} if (exported / "average.safetensors").exists() else set()
    assert {path.name for path in exported.iterdir()} == FILES | average
    assert set(read_artifact(str(exported), kind="generators").card["files"]) == (SEALED | average) - {"card.json"}
    [folder] = (storage / "generators").iterdir()
    main(["export", str(folder), str(tmp_path / "again"), "--storage", str(storage)])
    assert capsys.readouterr().out == f"{folder.name} with 3 evaluations of it; in {tmp_path / 'again'}\n"


def test_loaded_by_us_it_is_the_same_generator(exported: Path, storage: Path) -> None:
    [folder] = (storage / "generators").iterdir()
    ours, theirs = load_generator(folder), load_generator(exported)
    labels = torch.arange(3)
    assert torch.equal(ours.sample(labels, seed=3), theirs.sample(labels, seed=3))
    assert theirs.fingerprint == folder.name


def test_environment_with_only_torch_and_safetensors_samples_identical_images(exported: Path, tmp_path: Path) -> None:
    packages = install(tmp_path / "packages", "torch", "safetensors")
    command = [sys.executable, "-I", "-S", "-c", SAMPLE, str(packages), str(exported), str(tmp_path / "images.pt")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[0.45] True []"
    sampled = torch.load(tmp_path / "images.pt", weights_only=True)
    generator = load_generator(exported)
    for (count, seed), images in zip(((1, 5), (3, 0), (701, 1)), sampled, strict=True):
        assert torch.equal(images, generator.sample(torch.arange(count) % 3, seed)), count


def install(folder: Path, *names: str) -> Path:
    """Makes a folder of packages, and of those that they need, and of no others."""
    folder.mkdir()
    wanted, done = list(names), set()
    while wanted:
        name = wanted.pop()
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # not needed on this machine
            continue
        needs = [Requirement(text) for text in distribution.requires or []]
        wanted += [
            r.name for r in needs if r.name not in done and (r.marker is None or r.marker.evaluate({"extra": ""}))
        ]
        done.add(name)
        for top in {file.parts[0] for file in distribution.files or []}:
            target = Path(str(distribution.locate_file(top)))
            if target.exists() and not (folder / top).exists():
                (folder / top).symlink_to(target.resolve())
    assert not (folder / "dim_ray").exists()
    assert not (folder / "numpy").exists()
    return folder


def test_script_of_the_folder_writes_images(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sample.py", "--ipc", "2", "--out", str(tmp_path / "images.pt")])
    runpy.run_path(str(exported / "sample.py"), run_name="__main__")
    written = torch.load(tmp_path / "images.pt", weights_only=True)
    assert written["images"].shape == (6, 1, 8, 8)
    assert written["labels"].tolist() == [0, 0, 1, 1, 2, 2]


def test_no_file_of_the_folder_has_a_pickle(exported: Path) -> None:
    with zipfile.ZipFile(exported / "program.pt2") as archive:
        entries = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert any("weights" in name for name in entries)
    assert not [name for name, size in entries.items() if name.endswith((".pkl", ".pt", ".pickle")) and size]


@pytest.mark.parametrize("name", sorted(SEALED))
def test_folder_with_one_changed_byte_is_refused_by_us_and_by_its_own_script(
    exported: Path, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ArtifactError):
        load_generator(copy)
    if name not in ("card.json", "program.pt2"):
        return  # the script looks at all of them in the same way
    with pytest.raises(ValueError, match=name):
        load_by_its_script(copy)


def load_by_its_script(folder: Path) -> None:
    """As a process without us does, of which there are some above."""
    runpy.run_path(str(folder / "sample.py"))["load"](str(folder))


def add_licence(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n{text}", encoding="utf-8")


def end_lines_as_windows_does(folder: Path) -> None:
    for name in ("README.md", "sample.py", "card.json"):
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n"))


def delete_prose(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "samples.png").unlink()


def add_what_the_hub_adds(folder: Path) -> None:
    for name in (".gitattributes", "LICENSE", ".cache/huggingface/.gitignore", ".cache/huggingface/download/card.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")


def link_into_a_hub_cache(folder: Path) -> None:
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / f"{number:040}")
        file.symlink_to(f"../blobs/{number:040}")


def write_protect(folder: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)


@pytest.mark.parametrize(
    "change",
    [
        add_licence,
        end_lines_as_windows_does,
        delete_prose,
        add_what_the_hub_adds,
        link_into_a_hub_cache,
        write_protect,
    ],
)
def test_what_people_and_the_hub_change_is_no_damage(
    exported: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    copy = tmp_path / "repository" / "copy"
    shutil.copytree(exported, copy)
    change(copy)
    labels = torch.arange(3)
    try:
        assert torch.equal(load_generator(copy).sample(labels, 0), load_generator(exported).sample(labels, 0))
        load_by_its_script(copy)
        main(["export", str(copy), str(tmp_path / "again"), "--storage", str(tmp_path / "nothing")])
        assert load_generator(tmp_path / "again").fingerprint == load_generator(exported).fingerprint
        assert (tmp_path / "again/samples.png").exists() == (copy / "samples.png").exists()
    finally:
        copy.chmod(0o755)


def test_generator_that_is_evaluated_elsewhere_keeps_its_picture(exported: Path, tmp_path: Path) -> None:
    work = make_work(tmp_path)
    fingerprint = find_generator(work, str(exported))
    copied = Path(work.artifacts.uri("generators", fingerprint), "samples.png")
    assert copied.read_bytes() == (exported / "samples.png").read_bytes()


def test_readme_that_an_earlier_export_sealed_may_be_edited_too(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    edit_card(copy, lambda card: card["files"].update({"README.md": {"sha256": "0" * 64, "size_bytes": 1}}))
    assert load_generator(copy).num_classes == 3


def test_pointer_of_git_lfs_says_how_to_get_the_file(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "generator.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ArtifactError, match=r"generator\.safetensors in .* is only a pointer of Git LFS"):
        load_generator(copy)


def test_model_card_has_a_table_for_each_protocol_with_mean_spread_and_n(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    on_the_fly, fixed, real = (
        text.split(f"\n`{name}`: ")[1].split("\n`")[0] for name in ("on_the_fly", "fixed", "real_fixed")
    )
    assert "| 10 | convnet3 | average | usual | 1,000 | 81.0 ± 1.4 | 2 |" in on_the_fly
    assert "| 10 | convnet3 | average | best_of_tests | 1,000 | 70.0 | 1 |" in fixed
    assert "| 10 | convnet3 | - | usual | 1,000 | 55.0 | 1 |" in real
    assert "11.0" not in text  # of an architecture that the generator wasn't measured with
    assert "22.0" not in text  # of another generator
    assert "mean 0.45, std 0.2 |" in text
    memorisation = text.split("## Memorisation\n\n")[1].split("\n")[0]
    assert memorisation.startswith(("No sign of memorisation: ", "Training images are memorised: "))
    assert memorisation.endswith("not a guarantee of privacy.")


def test_hub_reads_every_accuracy_out_of_the_model_card(
    exported: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    card = ModelCard.load(exported / "README.md")
    results = {result.metric_name: result for result in card.data.eval_results or []}
    assert {name: result.metric_value for name, result in results.items()} == {
        "Accuracy (on_the_fly, IPC 10, convnet3, n = 2)": pytest.approx(0.81),
        "Accuracy (fixed, IPC 10, convnet3, n = 1, best_of_tests)": pytest.approx(0.7),
    }
    stated, single = (result.metric_args or {} for result in results.values() if result.metric_args)
    stated, single = sorted((stated, single), key=lambda args: args["n"], reverse=True)
    assert stated == {
        **{"protocol": "on_the_fly", "ipc": 10, "architecture": "convnet3", "n": 2, "optimiser_steps": 1000},
        **{"weights": "average", "std": pytest.approx(0.02 / 2**0.5)},
    }
    assert "std" not in single
    assert single["terms"] == "best_of_tests"
    assert {(one.task_type, one.dataset_name, one.dataset_split) for one in results.values()} == {
        ("image-classification", "tiny", "test")
    }
    assert card.data.model_name == f"tiny-{load_generator(exported).fingerprint}"
    assert (card.data.library_name, card.data.pipeline_tag) == ("dim_ray", "unconditional-image-generation")
    assert (card.data.metrics, card.data.datasets, card.data.license) == (["accuracy"], None, None)
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()  # nothing is lost on its way through the parser
    assert [str(warning.message) for warning in recwarn] == []
    assert [record.message for record in caplog.records if record.name.startswith("huggingface_hub")] == []


def test_model_card_names_license_and_data_of_the_hub(storage: Path) -> None:
    [folder] = (storage / "generators").iterdir()
    card = read_artifact(str(folder)).card
    rows = Reader(str(storage)).evaluations()
    text = model_card({**card, "hub_dataset": "uoft-cs/cifar10"}, rows, license="cc-by-4.0")
    data = ModelCard(text).data
    assert (data.license, data.datasets) == ("cc-by-4.0", ["uoft-cs/cifar10"])
    assert {result.dataset_type for result in data.eval_results or []} == {"uoft-cs/cifar10"}


def test_code_in_the_model_card_runs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported)
    monkeypatch.syspath_prepend(str(exported))
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    images = []
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)
        images.append(names["images"])
    assert torch.equal(*images)
    assert images[0].shape == (3, 1, 8, 8)


def test_card_of_a_generator_that_was_not_measured_says_so(storage: Path, tmp_path: Path) -> None:
    [folder] = (storage / "generators").iterdir()
    main(["export", str(folder), str(tmp_path / "out"), "--storage", str(tmp_path / "nothing")])
    assert "Not measured yet." in (tmp_path / "out/README.md").read_text()
    assert ModelCard.load(tmp_path / "out/README.md").data.eval_results is None


def test_export_never_overwrites(exported: Path, storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (exported / "card.json").read_bytes()
    [folder] = (storage / "generators").iterdir()
    assert run_main(main, ["export", folder.name, str(exported), "--storage", str(storage)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (exported / "card.json").read_bytes() == before
