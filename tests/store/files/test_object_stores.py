"""The storage on an object store, over HTTP, while its network and its server misbehave."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dim_ray.cli.main import run_main
from dim_ray.errors import ArtifactError, StorageError
from dim_ray.results import main
from dim_ray.store.artifacts import ArtifactStore, read_artifact
from dim_ray.store.files import faults, object_stores
from dim_ray.store.files.faults import PAUSES_SECONDS, patiently
from dim_ray.store.files.filesystem import open_root, probe
from dim_ray.store.reader import Reader
from dim_ray.store.schema import EVALUATION_TABLE
from dim_ray.store.upkeep.compaction import compact
from dim_ray.store.upkeep.merging import merge
from dim_ray.store.upkeep.verification import verify
from dim_ray.store.writer import Writer
from tests.helpers import s3
from tests.helpers.made_rows import evaluation, trial
from tests.helpers.s3 import Does, Fault, Proxy

SHORT = (0.1,) * 100
LONG = (60.0,)  # a test that pauses once has failed
SMALL, LARGE = b"1" * 1000, b"2" * 12_000_000  # one put, and an upload in parts
FILES = {"generator.safetensors": b"3" * 5000, "samples.png": b"4" * 100}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name, value in s3.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with Proxy() as proxy:
        yield proxy


@pytest.fixture
def uri(proxy: Proxy) -> str:
    return proxy.uri(f"{s3.new_bucket()}/store")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is tried once, so that tests of lasting faults don't wait for the library's own pauses."""
    monkeypatch.setattr(object_stores, "_ATTEMPTS", 1)


def fill(uri: str) -> None:
    Writer(uri).append_evaluations([evaluation(seed=seed) for seed in range(3)])
    Writer(uri).append_trial(trial())
    ArtifactStore(uri).write("generators", evaluation()["generator"], FILES, {"is": "whole"})


def test_small_file_is_one_request_so_that_nothing_unfinished_can_be_left(proxy: Proxy, uri: str) -> None:
    open_root(uri).write("a/b", SMALL)
    assert [request.method for request in proxy.requests] == ["PUT"]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("before", [None, b"what was there"])
@pytest.mark.parametrize(
    ("data", "method", "about"), [(SMALL, "PUT", ""), (LARGE, "PUT", "partNumber=2"), (LARGE, "POST", "uploadId")]
)
def test_interrupted_upload_leaves_what_was_there_and_its_retry_writes_the_file(
    proxy: Proxy, uri: str, before: bytes | None, data: bytes, method: str, about: str
) -> None:
    root = open_root(uri)
    if before is not None:
        root.write("a/b", before)
    with (
        proxy.doing(Fault("cut", method, about=about)),
        pytest.raises(StorageError, match=r"can't write .*/a/b.*doesn't answer .*run the command again"),
    ):
        root.write("a/b", data)
    assert root.read("a/b") == before
    assert root.is_file("a/b") == (before is not None)
    assert [info.base_name for info in root.children("a")] == ([] if before is None else ["b"])
    root.write("a/b", data)
    assert root.read("a/b") == data


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("does", "data", "about"),
    [
        *((does, SMALL, "") for does in ("refuse", "fail", "cut", "lose")),
        *((does, LARGE, "partNumber") for does in ("refuse", "lose")),
        *((does, LARGE, "uploadId") for does in ("fail", "cut")),
    ],
)
def test_upload_that_fails_for_a_while_is_there_in_the_end(
    proxy: Proxy, uri: str, does: Does, data: bytes, about: str
) -> None:
    root = open_root(uri, SHORT)
    with proxy.doing(Fault(does, "PUT", 3, about), Fault(does, "POST", 3, about)):
        root.write("a/b", data)
    assert proxy.requests
    assert root.read("a/b") == data


def test_throttled_requests_are_tried_again_though_nobody_is_patient(proxy: Proxy, uri: str) -> None:
    root = open_root(uri)
    with proxy.doing(*(Fault("refuse", method, 1) for method in ("PUT", "GET", "HEAD", "DELETE"))):
        root.write("a", SMALL)
        assert root.read("a") == SMALL
        assert root.is_file("a")
        root.delete("a")
        assert proxy.num_faults() == 4
    assert root.read("a") is None


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("does", ["refuse", "fail", "cut", "lose"])
def test_rows_are_there_exactly_once_after_retries(
    proxy: Proxy, uri: str, does: Does, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    writer = Writer(uri, SHORT)
    rows = [evaluation(seed=seed) for seed in range(6)]
    with proxy.doing(Fault(does, "PUT", 9)), ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda row: writer.append_evaluations([row]), [*rows, *rows]))
        writer.append_trial(trial())
        assert proxy.num_faults() == 9
    assert sorted(Reader(uri).evaluations()["seed"]) == list(range(6))
    assert len(Reader(uri).trials()) == 1
    assert "works again" in caplog.text
    assert not [problem for problem in verify(uri).problems if "generators/" not in problem]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("does", ["refuse", "cut", "lose"])
def test_artifact_whose_upload_is_interrupted_isnt_there_until_it_is_whole(proxy: Proxy, uri: str, does: Does) -> None:
    store = ArtifactStore(uri, ())
    for about in (*FILES, "card.json"):
        with proxy.doing(Fault(does, "PUT", about=about)), pytest.raises(StorageError):
            store.write("priors", "aa", FILES, {"is": "whole"})
        if (does, about) != ("lose", "card.json"):  # the card is there, and nobody was told
            assert not store.exists("priors", "aa")
            assert store.list("priors") == []
    store.write("priors", "aa", FILES, {"is": "whole"})
    assert store.read("priors", "aa").files == FILES


@pytest.mark.usefixtures("hasty")
def test_download_that_is_cut_short_or_wrong_is_never_loaded(proxy: Proxy, uri: str) -> None:
    fill(uri)
    generator = evaluation()["generator"]
    place = ArtifactStore(uri).uri("generators", generator)
    weights = Fault("truncate", "GET", about="generator.safetensors")
    with proxy.doing(weights), pytest.raises(StorageError, match="doesn't answer"):
        read_artifact(place)
    with proxy.doing(Fault("falsify", "GET", about="generator.safetensors")):
        with pytest.raises(ArtifactError, match=r"generator.safetensors in .* (is truncated|was altered)"):
            read_artifact(place)
        [problem] = verify(uri).problems
        assert "generator.safetensors" in problem
    with proxy.doing(Fault("falsify", "GET", about="card.json")), pytest.raises(ArtifactError, match=r"card\.json of"):
        read_artifact(place)
    with proxy.doing(Fault("falsify", "GET", about=".parquet")), pytest.raises(StorageError, match="is damaged"):
        Reader(uri).evaluations()
    assert read_artifact(place).files == FILES
    assert len(Reader(uri).evaluations()) == 3


def test_file_that_goes_between_the_question_for_its_size_and_its_bytes_is_gone_and_no_error(
    proxy: Proxy, uri: str
) -> None:
    fill(uri)
    root = open_root(uri)
    root.write("a", SMALL)
    with proxy.doing(Fault("vanish", "GET", 1, "/a")):
        assert root.read("a") is None
        assert proxy.num_faults() == 1
    for code in ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND"):
        assert faults.is_gone(OSError(f"When reading 'a': AWS Error {code} during GetObject operation: none"))
    with proxy.doing(Fault("vanish", "GET", 1, ".parquet")):  # as if by compaction: the reader lists again
        assert len(Reader(uri).evaluations()) == 3
        assert proxy.num_faults() == 1


def test_folder_of_more_files_than_a_listing_has_is_read_whole(proxy: Proxy, uri: str) -> None:
    opened = open_root(uri)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: opened.write(f"many/{number:04}", b""), range(1005)))
    with proxy.doing(Fault("refuse", "GET", 1, "continuation-token")):
        assert [info.base_name for info in opened.children("many")] == [f"{number:04}" for number in range(1005)]
        assert proxy.num_faults() == 1


def test_ids_of_many_rows_are_found_with_few_requests(proxy: Proxy, uri: str) -> None:
    root, places = open_root(uri), [f"evaluations/dataset=digits/ipc={ipc}" for ipc in (1, 10)]
    ids = [f"{number:016x}" for number in range(1100)]
    with ThreadPoolExecutor(8) as threads:  # what is in the files isn't looked at
        list(threads.map(lambda own: root.write(f"{places[int(own, 16) % 2]}/{own}.parquet", b""), ids))
    proxy.requests.clear()
    assert Reader(uri).ids(EVALUATION_TABLE, dataset="digits", id=ids) == set(ids)
    assert len(proxy.requests) <= len(ids) / 100


def test_compaction_merging_and_every_command_work_beside_faults(
    proxy: Proxy, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = proxy.uri(f"{s3.new_bucket()}/store")
    fill(uri)
    Writer(theirs).append_evaluations([evaluation(seed=seed) for seed in range(2, 5)])
    every = [Fault(does, method, 1) for does in ("refuse", "lose") for method in ("GET", "PUT", "HEAD", "DELETE")]
    with proxy.doing(*every):
        assert merge(uri, theirs).num_rows == 2
        assert compact(uri, settled_seconds=0).num_rows == 5
        assert proxy.num_faults() == len(every)
    generator = evaluation()["generator"]
    for words, shown in (
        (["list"], "evaluations: 5; studies: 1; trials: 1"),
        (["best", "--ipc", "10"], f"dim_ray.load_generator('{ArtifactStore(uri).uri('generators', generator)}')"),
        (["sql", "select count(*) as there from evaluations"], "5"),
        (["verify"], "rows: 6; artefacts: 1"),
        (["compact"], "0 rows packed"),
        (["prune"], "0 artefacts would be deleted"),
    ):
        assert run_main(main, [*words, "--storage", uri]) == 0
        assert shown in capsys.readouterr().out


@pytest.mark.usefixtures("hasty")
def test_storage_that_is_down_is_one_sentence_with_what_to_do(
    proxy: Proxy, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for does, text in (("cut", "doesn't answer"), ("refuse", "refuses requests at the moment")):
        with proxy.doing(*(Fault(does, method) for method in ("GET", "HEAD", "PUT"))):  # type: ignore[arg-type]
            for command in ("list", "best", "sql"):
                operands = ["select 1"] if command == "sql" else []
                assert run_main(main, [command, *operands, "--storage", uri]) == 1
                [error] = capsys.readouterr().err.splitlines()
                assert error.startswith("error: can't list s3://")
                assert text in error
            with pytest.raises(StorageError, match=text):
                probe(uri)


def test_server_that_isnt_there_is_an_error_within_half_a_minute(proxy: Proxy) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and doesn't listen
        began = time.monotonic()
        with pytest.raises(
            StorageError, match=r"can't list .*doesn't answer .*Check the network and the root's address"
        ):
            Reader(s3.uri_at(taken.getsockname()[1], "bucket/store")).evaluations()
    assert time.monotonic() - began < 30


@pytest.mark.slow
@pytest.mark.long
def test_server_that_never_answers_is_an_error_within_a_minute(proxy: Proxy, uri: str) -> None:
    fill(uri)
    with proxy.doing(*(Fault("hang", method) for method in ("GET", "HEAD", "PUT"))):
        for call in (lambda: Reader(uri).evaluations(), lambda: open_root(uri).write("a", SMALL), lambda: probe(uri)):
            began = time.monotonic()
            with pytest.raises(StorageError, match="doesn't answer"):
                call()
            assert time.monotonic() - began < 60
    assert len(Reader(uri).evaluations()) == 3


def test_patience_ends_by_the_clock_where_every_try_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now, try_seconds = 0.0, 20.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def hang() -> None:
        sleep(try_seconds)
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(faults.time, "monotonic", lambda: now)
    monkeypatch.setattr(faults.time, "sleep", sleep)
    with pytest.raises(TimeoutError):
        patiently(hang, PAUSES_SECONDS, "write a")
    assert sum(PAUSES_SECONDS) <= now <= sum(PAUSES_SECONDS) + 20.0 + max(PAUSES_SECONDS)
    now, try_seconds = 0.0, 100.0  # a large file over a slow network
    with pytest.raises(TimeoutError):
        patiently(hang, PAUSES_SECONDS, "write a")
    assert now == 3 * try_seconds + sum(PAUSES_SECONDS[:2])


@pytest.mark.parametrize(
    ("does", "text"), [("deny", "denies access .*Check the credentials"), ("forget", "there is no such bucket")]
)
def test_what_stays_as_it_is_is_an_error_at_once(proxy: Proxy, uri: str, does: Does, text: str) -> None:
    root = open_root(uri, LONG)
    with proxy.doing(Fault(does, "PUT")), pytest.raises(StorageError, match=text):
        root.write("a", SMALL)
