from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dim_ray.cli.main import run_main
from dim_ray.results import main
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.altered_cards import edit_card
from tests.helpers.made_rows import evaluation, trial

GENERATOR = evaluation()["generator"]


@pytest.fixture
def storage(tmp_path: Path) -> str:
    root = str(tmp_path / "storage")
    Writer(root).append_evaluations([evaluation(seed=seed, accuracy=seed / 10) for seed in range(4)])
    Writer(root).append_trial(trial())
    ArtifactStore(root).write("generators", GENERATOR, {"generator.safetensors": b"x"}, {})
    return root


def test_verify_of_a_sound_storage_counts_and_exits_with_0(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(main, ["verify", "--storage", storage]) == 0
    assert capsys.readouterr().out == f"files of rows: 5; rows: 5; artefacts: 1; in {storage}\n"


def test_verify_names_each_problem_on_a_line_and_exits_with_1(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(Path(storage, "evaluations").rglob("*.parquet"))
    row.write_bytes(b"")
    weights = Path(storage, "generators", GENERATOR, "generator.safetensors")
    weights.unlink()
    assert run_main(main, ["verify", "--storage", storage]) == 1
    captured = capsys.readouterr()
    damaged, missing, _ = captured.out.splitlines()
    assert damaged.startswith(f"{row} is damaged")
    assert "generator.safetensors is missing in" in missing
    assert captured.err == f"error: 2 problems in {storage}, named above.\n"


def test_compact_says_how_many_files_are_left(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compact", "--storage", storage])
    assert capsys.readouterr().out == f"4 rows packed; files of rows: 5 before, 2 now; in {storage}\n"
    main(["list", "--storage", storage])
    assert "evaluations: 4; studies: 1; trials: 1" in capsys.readouterr().out


def test_merge_copies_and_then_names_conflicts_with_exit_code_1(
    storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = str(tmp_path / "theirs")
    Writer(theirs).append_evaluations([evaluation(seed=0, accuracy=0.77), evaluation(seed=9)])
    assert run_main(main, ["merge", storage, theirs]) == 1
    captured = capsys.readouterr()
    conflict, summary = captured.out.splitlines()
    assert "accuracy is 0.0 here and 0.77 there; ours stays." in conflict
    assert summary == f"1 row and 0 artefacts copied into {storage}"
    assert "1 conflict between" in captured.err
    assert sorted(Reader(storage).evaluations()["seed"]) == [0, 1, 2, 3, 9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", "one"], "merge takes OURS THEIRS; given: one."),
        (["sql"], "sql takes QUERY; given: nothing."),
        (["verify", "one", "two"], "verify takes [DIR]; given: one two."),
        (["list", "more"], "list takes only flags; given: more."),
    ],
)
def test_wrong_number_of_operands_says_what_follows_the_command(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(main, arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_sql_without_duckdb_says_what_to_install(
    storage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert run_main(main, ["sql", "select 1", "--storage", storage]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: SQL needs duckdb, which isn't installed: pip install 'dim-ray[sql]'.")


def test_sql_sees_each_row_once_in_both_tables(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compact", "--storage", storage])
    Writer(storage).append_evaluations([evaluation(seed=3, accuracy=0.9)])
    text = "select e.ipc, count(*) as n, max(accuracy) as top, any_value(t.state) as state from evaluations e "
    main(["sql", "--storage", storage, f"{text} join trials t using (generator) group by e.ipc"])
    capsys.readouterr()
    frame = Reader(storage).sql(f"{text} join trials t using (generator) group by e.ipc")
    assert len(Reader(storage).sql("select created_at from evaluations")) == 4
    assert frame.to_dict("records") == [{"ipc": 10, "n": 4, "top": 0.9, "state": "completed"}]


@pytest.mark.parametrize("text", ["select no_such_column from evaluations", "selekt", ""])
def test_sql_that_cannot_be_answered_is_an_error_of_one_line(
    storage: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(main, ["sql", text, "--storage", storage]) == 2
    assert capsys.readouterr().err.startswith("error: the SQL ")


def test_prune_names_what_would_go_and_deletes_it_only_when_told_to(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unnamed = Path(storage, "generators", "ffff000011112222")
    ArtifactStore(storage).write("generators", unnamed.name, {"generator.safetensors": b"x"}, {})
    edit_card(unnamed, lambda card: card.update(created_at="2026-01-01T00:00:00+00:00"))
    main(["prune", "--storage", storage])
    named, summary = capsys.readouterr().out.splitlines()
    assert named.startswith(f"generators/{unnamed.name}  ")
    assert summary.startswith("1 artefact would be deleted, with --delete; ")
    assert unnamed.exists()
    main(["prune", "--storage", storage, "--delete"])
    assert "\n1 artefact deleted; " in capsys.readouterr().out
    assert not unnamed.exists()
    assert Path(storage, "generators", GENERATOR).exists()


def test_quota_that_cannot_be_kept_exits_with_1(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(main, ["prune", "--quota", "10", "--storage", storage]) == 1
    assert capsys.readouterr().err.startswith("error: --quota is 10 bytes, but ")
