from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dim_ray.cli import clusters
from dim_ray.cli.flags import EVALUATE_FLAGS, TUNE_FLAGS, add_generator
from dim_ray.cli.main import parse
from dim_ray.distributed.remote.jobs import Request
from dim_ray.errors import UsageError

ON_AWS = "cluster_name: dim\nmax_workers: 4\nprovider:\n  type: aws\n"
ON_PREMISES = "cluster_name: dim\nprovider:\n  type: local\n  head_ip: 192.0.2.1\n"
S3 = ("--storage", "s3://bucket/dim")


class Head:
    """Notes what is asked for, in the head's place."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.files: list[Path] = []
        self.code = 0

    def __call__(self, request: Request, cluster_file: Path) -> int:
        self.requests.append(request)
        self.files.append(cluster_file)
        return self.code


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    fake = Head()
    monkeypatch.setattr(clusters, "call_head", fake)
    return fake


@pytest.fixture
def aws(tmp_path: Path) -> str:
    path = tmp_path / "cluster.yaml"
    path.write_text(ON_AWS)
    return str(path)


@pytest.fixture
def on_premises(tmp_path: Path) -> str:
    path = tmp_path / "on_prem.yaml"
    path.write_text(ON_PREMISES)
    return str(path)


def tune(*argv: str) -> int:
    """Returns the exit code of a command that isn't run here."""
    with pytest.raises(SystemExit) as end:
        parse(argv, program="python -m dim_ray.tune", description="", flags=TUNE_FLAGS, defaults=None)
    assert isinstance(end.value.code, int)
    return end.value.code


def refusal(argv: Sequence[str]) -> str:
    with pytest.raises(UsageError) as error:
        parse(argv, program="python -m dim_ray.tune", description="", flags=TUNE_FLAGS, defaults=None)
    return str(error.value)


def test_command_goes_to_the_head_without_the_flags_that_sent_it(head: Head, aws: str) -> None:
    argv = ("--num-trials", "4", "--cluster", aws, "--ipc", "1", "10", *S3, "--study=mine")
    assert tune(*argv) == 0
    assert head.files == [Path(aws)]
    [request] = head.requests
    assert (request.action, request.module, request.config_text) == ("run", "dim_ray.tune", None)
    assert request.arguments == ("--num-trials", "4", "--ipc", "1", "10", *S3, "--study=mine")


def test_flag_may_be_written_with_an_equals_sign(head: Head, aws: str) -> None:
    tune(f"--cluster={aws}", *S3)
    assert head.requests[0].arguments == S3


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_jobs_exit_code_is_the_commands(head: Head, aws: str, code: int) -> None:
    head.code = code
    assert tune("--cluster", aws, *S3) == code


@pytest.mark.parametrize("flag", ["--config", "--study-file"])
def test_configuration_file_goes_along_as_text(head: Head, aws: str, tmp_path: Path, flag: str) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("pool:\n  size: 5  # five\n")
    tune(flag, str(own), "--cluster", aws, *S3, f"{flag}={own}")
    assert head.requests[0].config_text == own.read_text()
    assert head.requests[0].arguments == S3


def test_shipped_configuration_goes_along_by_its_text(head: Head, aws: str) -> None:
    tune("--config", "mnist_cpu", "--cluster", aws, *S3)
    assert "dataset: mnist" in str(head.requests[0].config_text)


def test_value_is_refused_before_the_head_is_asked(head: Head, aws: str) -> None:
    assert "--num-trials" in refusal(["--cluster", aws, *S3, "--num-trials", "many"])
    assert not head.requests


def test_same_study_has_the_same_fingerprint_however_many_trials_are_asked_for(head: Head, aws: str) -> None:
    tune("--cluster", aws, *S3)
    tune("--cluster", aws, *S3, "--num-trials", "40", "--max-concurrent", "2")
    tune("--cluster", aws, *S3, "--pool.epochs", "9")
    tune("--cluster", aws, "--storage", "s3://other/dim")
    tune("--cluster", aws, *S3, "--study", "mine")
    tune("--cluster", aws, *S3, "--study", "mine", "--pool.epochs", "9")
    first, more, longer, elsewhere, named, named_again = (request.name for request in head.requests)
    assert first == more
    assert named == named_again  # a study continues with no other configuration, and says so itself
    assert len({first, longer, elsewhere, named}) == 4


def test_other_generators_are_other_evaluations(head: Head, aws: str) -> None:
    for generator in ("s3://bucket/a", "s3://bucket/b", "s3://bucket/b"):
        with pytest.raises(SystemExit):
            parse(
                [generator, "--cluster", aws, *S3],
                program="python -m dim_ray.evaluate",
                description="",
                flags=EVALUATE_FLAGS,
                defaults=None,
                extra=add_generator,
            )
    a, b, again = head.requests
    assert a.module == "dim_ray.evaluate"
    assert a.arguments == ("s3://bucket/a", *S3)
    assert a.name.startswith("evaluate-")
    assert a.name != b.name
    assert b.name == again.name


@pytest.mark.parametrize("action", ["attach", "stop"])
def test_job_is_followed_or_stopped(head: Head, aws: str, action: str) -> None:
    tune("--cluster", aws, f"--{action}")
    tune("--cluster", aws, f"--{action}", "tune-3f2a91bc-1")
    tune("--cluster", aws, *S3)
    tune("--cluster", aws, *S3, f"--{action}")
    any_job, named, run, of_the_study = head.requests
    assert (any_job.action, any_job.job, any_job.name) == (action, None, "tune")
    assert (named.action, named.job, named.name) == (action, "tune-3f2a91bc-1", "tune")
    assert re.fullmatch("tune-[0-9a-f]{8}", run.name)
    assert (of_the_study.action, of_the_study.name) == (action, run.name)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--attach"], "--attach and --stop are about a job on a cluster; name its file with --cluster"),
        (["--stop", "tune-1"], "--attach and --stop are about a job on a cluster"),
        (["--cluster", "AWS", "--address", "auto"], "--address: not allowed with argument --cluster"),
        (["--cluster", "AWS", "--attach", "--stop"], "--stop: not allowed with argument --attach"),
        (["--cluster", "missing.yaml"], "'missing.yaml', which describes no Ray cluster ([Errno 2] No such file"),
    ],
)
def test_contradiction_is_refused(head: Head, aws: str, argv: list[str], words: str) -> None:
    assert words in refusal([aws if word == "AWS" else word for word in argv])
    assert not head.requests


@pytest.mark.parametrize("text", ["just text", "study:\n  num_trials: 3\n", "a: [", "provider: aws\n"])
def test_file_that_describes_no_cluster_is_refused(head: Head, tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(text)
    assert "--cluster is" in refusal(["--cluster", str(path), *S3])
    assert not head.requests


def test_every_data_sets_folder_is_checked(head: Head, on_premises: str) -> None:
    argv = ["--cluster", on_premises, "--storage", "/shared/dim", "--dataset", "folder:/shared/birds", "folder:fish"]
    assert "--dataset is 'fish', which is relative to a folder of this machine" in refusal(argv)
    assert not head.requests


@pytest.mark.parametrize("storage", [None, "results", "./results", "../results"])
def test_storage_relative_to_this_machine_is_refused_with_the_reason(
    head: Head, on_premises: str, storage: str | None
) -> None:
    text = refusal(["--cluster", on_premises, *([] if storage is None else ["--storage", storage])])
    assert f"--storage is {storage or './dim_storage'!r}, which is relative to a folder of this machine" in text
    assert "s3://" in text
    assert not head.requests


@pytest.mark.parametrize(
    "flags", [("--dataset", "folder:images"), ("--dataset", "parquet:data/faces"), ("--data-root", "data")]
)
def test_data_relative_to_this_machine_are_refused(head: Head, on_premises: str, flags: tuple[str, str]) -> None:
    assert f"{flags[0]} is" in refusal(["--cluster", on_premises, *S3, *flags])
    assert not head.requests


@pytest.mark.parametrize("storage", ["/data/dim", "~/dim", "file:///data/dim"])
def test_folder_is_refused_where_the_nodes_of_a_cloud_share_none(head: Head, aws: str, storage: str) -> None:
    text = refusal(["--cluster", aws, f"--storage={storage}"])
    assert f"--storage is {storage!r}, a folder, which the nodes" in text
    assert "provider aws, max_workers 4" in text
    assert not head.requests


@pytest.mark.parametrize("storage", ["/data/dim", "~/dim", "s3://bucket/dim"])
def test_folder_that_machines_of_ones_own_may_share_is_left_to_the_preflight(
    head: Head, on_premises: str, storage: str
) -> None:
    assert (
        tune("--cluster", on_premises, f"--storage={storage}", "--dataset", "folder:/data/images", "hf://datasets/a/b")
        == 0
    )


def test_folder_is_fine_where_there_is_only_a_head(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(ON_AWS.replace("max_workers: 4", "max_workers: 0"))
    assert tune("--cluster", str(path), "--storage", "/data/dim") == 0


def test_address_is_the_one_that_ray_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    options = {"program": "python -m dim_ray.tune", "description": "", "flags": TUNE_FLAGS, "defaults": None}
    _, extras = parse([], **options)  # type: ignore[arg-type]
    assert (os.environ["RAY_ADDRESS"], {*vars(extras)}) == ("192.0.2.1:6379", {"datasets", "recipe", "configs"})
    parse(["--address", "auto"], **options)  # type: ignore[arg-type]
    assert os.environ["RAY_ADDRESS"] == "auto"  # the flag wins


def test_torch_and_ray_are_not_imported_for_it(aws: str) -> None:
    code = (
        "import sys\n"
        "from dim_ray import tune\n"
        "from dim_ray.cli import clusters\n"
        "clusters.call_head = lambda request, file: 7\n"
        "try:\n"
        "    tune.main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    print(end.code, [name for name in ('torch', 'ray', 'pyarrow') if name in sys.modules])\n"
    )
    argv = [sys.executable, "-c", code, "--cluster", aws, *S3]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout == "7 []\n"
