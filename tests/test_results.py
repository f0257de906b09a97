from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dim_ray.cli.flags import DEFAULT_STUDY, EVALUATE_FLAGS, add_generator
from dim_ray.cli.grid import find_generator
from dim_ray.cli.main import parse, run_main
from dim_ray.config import Config, EvaluationConfig, to_dict
from dim_ray.errors import StorageError, UsageError
from dim_ray.pipeline.workspace import dataset_card
from dim_ray.results import main
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation, real_evaluation, trial
from tests.helpers.small import make_work

BEST = "feed000011112222"


@pytest.fixture
def storage(tmp_path: Path) -> str:
    root = str(tmp_path / "storage")
    writer = Writer(root)
    writer.append_evaluations([evaluation(seed=s, accuracy=a) for s, a in enumerate([0.90, 0.92, 0.94])])
    writer.append_evaluations(
        [
            evaluation(generator=BEST, validation_accuracy=0.95, accuracy=0.85),
            evaluation(generator=BEST, ipc=50, accuracy=0.97),
            evaluation(generator=BEST, protocol="fixed", accuracy=0.77),
            real_evaluation(accuracy=0.66),
        ]
    )
    for number, state in enumerate(["completed", "completed", "stopped"]):
        writer.append_trial(trial(number=number, state=state))
    ArtifactStore(root).write("generators", BEST, {"generator.safetensors": b"x"}, {})
    return root


def _rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_raw_weights_are_told_from_the_average_of_the_same_generator(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    better = [evaluation(generator=BEST, weights="raw", validation_accuracy=0.99, accuracy=0.88)]
    Writer(storage).append_evaluations([*better, evaluation(generator="eeee000011112222", weights="raw", ipc=7)])
    main(["list", "--storage", storage])
    rows = _rows(capsys.readouterr().out)
    assert ["digits", "on_the_fly", "convnet3", "feed0000,", "raw", "10", "1000", "88.00", "(1)"] in rows
    assert ["digits", "on_the_fly", "convnet3", "feed0000", "10", "1000", "85.00", "(1)"] in rows
    assert ["digits", "on_the_fly", "convnet3", "eeee0000", "7", "1000", "90.00", "(1)"] in rows
    main(["best", "--storage", storage, "--ipc", "10"])
    assert f"load_generator('{storage}/generators/{BEST}', weights='raw')" in capsys.readouterr().out


def test_list_shows_mean_spread_and_n_of_every_cell_and_counts_trials(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["list", "--storage", storage])
    output = capsys.readouterr().out
    rows = _rows(output)
    assert ["digits", "on_the_fly", "convnet3", "aaaa0000", "10", "1000", "92.00", "±", "2.00", "(3)"] in rows
    assert ["digits", "on_the_fly", "convnet3", "feed0000", "50", "1000", "97.00", "(1)"] in rows
    assert ["digits", "real_fixed", "convnet3", "-", "10", "1000", "66.00", "(1)"] in rows
    assert f"evaluations: 7; studies: 1; trials: 3 (2 completed, 1 stopped); under {storage}" in output


def test_pareto_shows_the_trials_that_no_other_one_of_the_study_beats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = str(tmp_path)
    for number, (accuracy, size_bytes, seconds) in enumerate(
        [(0.9, 40_000, 70.0), (0.8, 9_000, 60.0), (0.7, 9_000, 50.0)]
    ):
        values = {"objective": accuracy, "generator_bytes": size_bytes, "alone_device_seconds": seconds}
        Writer(storage).append_trial(trial(number=number, capacity=8 + number, generator=f"{number:016x}", **values))
    main(["pareto", "--storage", storage])
    rows = _rows(capsys.readouterr().out)
    assert ["0", "8", "4", "90.0", "40,000", "70", f"{0:016x}"] in rows
    assert ["2", "10", "4", "70.0", "9,000", "50", f"{2:016x}"] in rows
    main(["pareto", "--storage", storage, "--study", "digits-small", "--objectives", "accuracy", "generator_bytes"])
    output = capsys.readouterr().out
    assert "Pareto set of accuracy, generator_bytes" in output
    assert ["1", "9", "4", "80.0", "9,000", "60", f"{1:016x}"] in _rows(output)
    assert ["2", "10", "4", "70.0", "9,000", "50", f"{2:016x}"] not in _rows(output)
    with pytest.raises(StorageError, match=r"no trials of a study 'digits'.*did you mean 'digits-small'"):
        main(["pareto", "--storage", storage, "--study", "digits"])
    with pytest.raises(StorageError, match=r"no trials of a study .*run python -m dim_ray.tune"):
        main(["pareto", "--storage", str(tmp_path / "empty")])
    Writer(storage).append_trial(trial(study="other"))
    with pytest.raises(UsageError, match=r"several studies; choose one with --study: digits-small, other"):
        main(["pareto", "--storage", storage])


def test_list_narrows_to_what_is_asked(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--storage", storage, "--ipc", "10", "--protocol", "fixed"])
    output = capsys.readouterr().out
    assert "77.00" in output
    assert "66.00" not in output
    assert "97.00" not in output


def test_list_counts_trials_only_where_nothing_is_left_out(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    Writer(storage).append_evaluations([evaluation(dataset="mnist")])
    main(["list", "--storage", storage, "--dataset", "mnist"])
    assert f"\nevaluations: 1; under {storage}\n" in capsys.readouterr().out


def test_list_of_something_absent_says_what_is_there(storage: str) -> None:
    with pytest.raises(StorageError, match=r"dataset digit .*did you mean 'digits'"):
        main(["list", "--storage", storage, "--dataset", "digit"])


@pytest.mark.parametrize("command", ["list", "best", "ranking"])
def test_empty_storage_says_what_to_run(tmp_path: Path, command: str) -> None:
    with pytest.raises(StorageError, match=r"run python -m dim_ray.tune, or"):
        main([command, "--storage", str(tmp_path / "nothing")])


def test_best_shows_fingerprint_path_accuracies_and_the_line_that_loads_it(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["best", "--storage", storage])
    output = capsys.readouterr().out
    path = f"{storage}/generators/{BEST}"
    assert f"fingerprint  {BEST}\n" in output
    assert f"path         {path}\n" in output
    assert f"  import dim_ray; generator = dim_ray.load_generator('{path}')\n" in output
    assert [row[-2:] for row in _rows(output) if row[:1] == ["digits"]] == [
        ["85.00", "(1)"],
        ["97.00", "(1)"],
        ["77.00", "(1)"],
    ]


def test_best_shows_the_validation_accuracy_that_chose_and_not_one_of_another_budget(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = evaluation(generator=BEST, validation_accuracy=0.99, budget_fingerprint="long", optimiser_steps=40_000)
    Writer(storage).append_evaluations([longer])
    main(["best", "--storage", storage])
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "best generator of digits at IPC 10, on_the_fly, convnet3: mean validation accuracy 95.00 %"


def test_best_says_so_when_the_generator_is_gone(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    ArtifactStore(storage).delete(f"generators/{BEST}/card.json")
    main(["best", "--storage", storage, "--ipc", "50"])
    output = capsys.readouterr().out
    assert "only its rows are left" in output
    assert "load_generator" not in output


def test_best_of_several_data_sets_asks_which(storage: str) -> None:
    Writer(storage).append_evaluations([evaluation(dataset="mnist")])
    with pytest.raises(UsageError, match="choose one with --dataset: digits, mnist"):
        main(["best", "--storage", storage])


@pytest.mark.parametrize(
    "arguments",
    [
        ["lst"],
        [],
        ["list", "--ipc", "ten"],
        ["list", "--architectur", "x"],
        ["best", "--protocol", "often"],
        ["best", "--ipc", "0"],
    ],
)
def test_wrong_arguments_exit_with_an_error_and_no_traceback(
    storage: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_main(main, [*arguments, "--storage", storage])
    captured = capsys.readouterr()
    assert code in (1, 2)
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err


def test_wrong_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(main, ["list", "--storag", "x"]) == 2
    assert capsys.readouterr().err == "error: unknown flag --storag; did you mean --storage? See --help.\n"


@pytest.mark.parametrize("ipcs", [(1,), (1, 10, 50), (50, 1)])
def test_evaluate_without_a_path_takes_the_generator_that_best_shows(
    ipcs: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(tmp_path)  # its own IPCs are 1 and 2
    for name, at_one, at_more in (("a" * 16, 0.9, 0.7), ("b" * 16, 0.8, 0.95)):
        work.artifacts.write("generators", name, {}, {"dataset": dataset_card(work.dataset)})
        rows = [
            evaluation(dataset="tiny", ipc=ipc, generator=name, validation_accuracy=at_one if ipc == 1 else at_more)
            for ipc in ipcs
        ]
        Writer(str(tmp_path)).append_evaluations(rows)
    main(["best", "--storage", str(tmp_path)])
    assert f"fingerprint  {find_generator(work, None)}\n" in capsys.readouterr().out


def test_command_runs_as_a_module_and_imports_neither_torch_nor_ray(storage: str) -> None:
    command = (
        "import runpy, sys; sys.argv = ['results', 'list', '--storage', sys.argv[1]]\n"
        "try: runpy.run_module('dim_ray.results', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", command, storage], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "0 []"
    assert "92.00 ± 2.00 (3)" in run.stdout


def test_help_needs_neither_pandas_nor_pyarrow() -> None:
    command = (
        "import sys; from dim_ray.results import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'pandas', 'pyarrow', 'rich', 'torch'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
    assert "--architecture" in run.stdout


# Ranking


def ranked_rows() -> list[dict[str, object]]:
    recipe = to_dict(EvaluationConfig(epochs=7, augmentation="color").recipe("fixed", 1))
    common = {"recipe_json": json.dumps(recipe), "augmentation": "color", "budget_fingerprint": "cccc"}
    return [
        evaluation(protocol="fixed", generator=BEST, accuracy=0.7, **common),
        real_evaluation(protocol="real_fixed", accuracy=0.5, **common),
    ]


def test_ranking_shows_scores_and_the_commands_that_make_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "my storage")
    Writer(root).append_evaluations(ranked_rows())
    main(["ranking", "--storage", root])
    output = capsys.readouterr().out
    assert ["feed0000", "convnet3", "color", "1", "-", "20.0", "-", "-"] in _rows(output)
    commands = [shlex.split(line) for line in output.splitlines() if line.startswith("  python")]
    made = [evaluate_flags(command) for command in commands]
    assert [config.evaluation.protocols for config, _ in made] == [("fixed",), ("real_fixed",), ("real_full",)]
    for config, uri in made:
        assert uri == f"{root}/generators/{BEST}"
        assert config.storage.root == root
        assert config.networks.students == ("convnet3",)
        wanted = EvaluationConfig(
            epochs=7, augmentation="color" if "real_full" in config.evaluation.protocols else "none"
        )
        protocol = config.evaluation.protocols[0]
        assert config.evaluation.recipe(protocol, 1) == wanted.recipe(protocol, 1)


def evaluate_flags(command: list[str]) -> tuple[Config, str]:
    assert command[:3] == ["python", "-m", "dim_ray.evaluate"]
    config, extras = parse(
        command[3:],
        program="evaluate",
        description="",
        flags=EVALUATE_FLAGS,
        defaults=DEFAULT_STUDY,
        extra=add_generator,
    )
    return config, extras.generator


def test_ranking_with_every_row_has_scores_and_no_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = real_evaluation(protocol="real_full", accuracy=0.9, ipc=100)
    Writer(str(tmp_path)).append_evaluations([*ranked_rows(), whole])
    main(["ranking", "--storage", str(tmp_path), "--ipc", "10", "--label-weight", "1"])
    output = capsys.readouterr().out
    [row] = [row for row in _rows(output) if row[:1] == ["feed0000"]]
    assert row[4:7] == ["20.0", "20.0", "36.3"]  # (e^0.2 - e^-1) / (e - e^-1)


def test_ranking_without_fixed_sets_says_what_to_run(storage: str) -> None:
    with pytest.raises(StorageError, match=r"protocol fixed in .*--protocol fixed real_fixed --ipc 1\."):
        main(["ranking", "--storage", storage, "--ipc", "1"])
    with pytest.raises(UsageError, match="--protocol is 'on_the_fly'"):
        main(["ranking", "--storage", storage, "--protocol", "on_the_fly"])


def test_list_tells_quirks_and_soft_labels_apart(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--storage", storage])
    assert "quirks, labels" not in capsys.readouterr().out
    soft = {"labels": "soft", "labeller": "eeee000011112222"}
    Writer(storage).append_evaluations(
        [
            evaluation(accuracy=0.11, quirks="best_of_tests", preset="custom"),
            evaluation(accuracy=0.22, quirks="best_of_tests+extra_batch", preset="reference", **soft),
        ]
    )
    main(["list", "--storage", storage])
    output = capsys.readouterr().out
    assert "quirks, labels" in output
    lines = {line.split()[-2]: line for line in output.splitlines() if " convnet3 " in line}
    assert " best_of_tests " in lines["11.00"]
    assert " reference, soft labels " in lines["22.00"]
