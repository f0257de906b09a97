from __future__ import annotations

import argparse
import ast
import inspect
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from dim_ray.cli.flags import shipped_studies
from dim_ray.cli.main import COMMON_FLAGS, TUNE_FLAGS, Flag, parse, run_main
from dim_ray.cli.settings import known_fields, section_types, to_yaml
from dim_ray.config import Config, PoolConfig
from dim_ray.errors import ConfigError, UsageError

PROGRAM = "python -m dim_ray.tune"


def run_parse(
    *argv: str, defaults: Path | None = None, flags: Sequence[Flag] = TUNE_FLAGS
) -> tuple[Config, argparse.Namespace]:
    return parse(argv, program=PROGRAM, description="Searches.", flags=flags, defaults=defaults, extra=add_local)


def only_parse(argv: Sequence[str]) -> None:
    run_parse(*argv)


def add_local(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--local", action="store_true", help="without Ray, 100 %% here")
    parser.add_argument("--rows", type=int, default=3, help="rows to show")


def config_of(*argv: str, defaults: Path | None = None) -> Config:
    return run_parse(*argv, defaults=defaults)[0]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    return write(tmp_path / "study.yaml", "pool:\n  size: 4\n  epochs: 7\nevaluation:\n  images_per_class: [2, 3]\n")


@pytest.fixture(autouse=True)
def _no_warning_reaches_a_user() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ------------------------------------------------------------------------------------------------ precedence


def test_without_anything_the_configuration_is_the_default() -> None:
    config, extras = run_parse()
    assert config == Config()
    own = vars(extras)
    assert own == {"local": False, "rows": 3, "datasets": (), "recipe": own["recipe"], "configs": [config]}


def test_study_file_is_under_the_flags(study_file: Path) -> None:
    config = config_of("--pool.size", "9", defaults=study_file)
    assert config.pool == PoolConfig(size=9, epochs=7)
    assert config.evaluation.images_per_class == (2, 3)


def test_config_file_takes_the_place_of_the_study_file(study_file: Path, tmp_path: Path) -> None:
    own = write(tmp_path / "own.yaml", "pool:\n  size: 5\n")
    assert config_of("--config", str(own), defaults=study_file) == Config(pool=PoolConfig(size=5))


def test_configuration_that_is_shipped_is_read_by_its_name_unless_a_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_of("--config", "mnist_cpu").data.dataset == "mnist"
    assert config_of("--study-file", "mnist_cpu") == config_of("--config", "mnist_cpu")
    (tmp_path / "mnist_cpu").write_text("pool:\n  size: 77\n")
    assert config_of("--config", "mnist_cpu").pool.size == 77


def test_flags_win_over_the_config_file_wherever_they_stand(tmp_path: Path) -> None:
    own = write(tmp_path / "own.yaml", "study:\n  num_trials: 5\n")
    assert config_of("--num-trials", "6", "--config", str(own)).study.num_trials == 6
    assert config_of("--config", str(own), "--study.num_trials=7").study.num_trials == 7


def test_last_of_two_flags_for_the_same_field_counts() -> None:
    assert config_of("--ipc", "1", "--evaluation.images_per_class", "2").evaluation.images_per_class == (2,)
    assert config_of("--evaluation.images_per_class", "2", "--ipc", "1").evaluation.images_per_class == (1,)


@pytest.mark.parametrize(
    "argv", [["--ipc", "1", "10", "50"], ["--ipc", "1,10,50"], ["--ipc=[1, 10, 50]"], ["--ipc", "1", "10,", "50"]]
)
def test_several_values_can_be_written_in_every_usual_way(argv: list[str]) -> None:
    assert config_of(*argv).evaluation.images_per_class == (1, 10, 50)


def test_first_of_several_data_sets_is_the_configurations_and_all_of_them_come_back() -> None:
    config, extras = run_parse("--dataset", "mnist", "folder:/a, b", "--data.dataset", "svhn")
    assert config.data.dataset == "svhn"
    assert extras.datasets == ("mnist", "folder:/a, b")
    assert config_of("--dataset", "mnist", "digits").data.dataset == "mnist"


@pytest.mark.parametrize("flag", TUNE_FLAGS, ids=lambda flag: flag.name)
def test_every_everyday_flag_sets_its_field(flag: Flag) -> None:
    text = {"data.dataset": "mnist", "study.time_budget": "2h"}.get(flag.field, "2")
    section, _, name = flag.field.partition(".")
    value = getattr(getattr(config_of(flag.name, text), section), name)
    assert value in (text, 2, (2,), (text,))
    assert value != getattr(getattr(Config(), section), name)


def test_every_field_is_a_flag_that_takes_what_print_config_shows() -> None:
    shown = yaml.safe_load(to_yaml(Config()))
    values = {f"{section}.{name}": value for section, own in shown.items() for name, value in own.items()}
    assert values.keys() == known_fields().keys()
    texts = {field: "null" if value is None else str(value).replace("'", "") for field, value in values.items()}
    assert config_of(*(f"--{field}={text}" for field, text in texts.items())) == Config()


def test_fields_keep_their_types() -> None:
    config = config_of(
        "--study", "123", "--pool.learning_rate", "5e-6", "--prior.class_weight", "2", "--study.gpus_per_worker", "0.5",
        "--networks.teachers", "convnet3", "resnet10", "--dataset", "parquet:s3://bucket/my faces,2",
    )  # fmt: skip
    assert config.study.name == "123"
    assert config.pool.learning_rate == 5e-6
    assert config.prior.class_weight == 2.0
    assert isinstance(config.prior.class_weight, float)
    assert config.study.gpus_per_worker == 0.5
    assert config.networks.teachers == ("convnet3", "resnet10")
    assert config.data.dataset == "parquet:s3://bucket/my faces,2"


def test_number_in_a_file_may_use_an_exponent_without_a_point(tmp_path: Path) -> None:
    own = write(tmp_path / "own.yaml", "pool:\n  learning_rate: 5e-6\n")
    assert config_of("--config", str(own)).pool.learning_rate == 5e-6


def test_file_may_hold_empty_sections_whole_names_and_nothing(tmp_path: Path) -> None:
    own = write(tmp_path / "own.yaml", "# nothing\n")
    assert config_of("--config", str(own)) == Config()
    own = write(tmp_path / "own.yaml", "pool:\n")
    assert config_of("--config", str(own)) == Config()
    own = write(tmp_path / "own.yaml", "pool.size: 5\ndata:\n")
    assert config_of("--config", str(own)) == Config(pool=PoolConfig(size=5))


def test_seed_sets_every_seed_over_the_file_but_not_those_given_by_flag(tmp_path: Path) -> None:
    own = write(tmp_path / "own.yaml", "pool:\n  seed: 1\n  size: 5\n")
    config = config_of("--prior.seed", "8", "--config", str(own), "--seed", "3")
    expected = Config(pool=PoolConfig(size=5)).with_seed(3)
    assert config == replace(expected, prior=replace(expected.prior, seed=8))


def test_extra_arguments_come_back_with_their_types() -> None:
    _, extras = run_parse("--rows", "12", "--local", "--num-trials", "3")
    assert (extras.local, extras.rows, extras.datasets) == (True, 12, ())


def test_command_may_take_an_argument_without_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    def extra(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("what", choices=["list", "best"])

    def run(*argv: str) -> argparse.Namespace:
        return parse(argv, program="results", description="", flags=COMMON_FLAGS, defaults=None, extra=extra)[1]

    assert run("best", "--dataset", "mnist").what == "best"
    assert run("--dataset", "mnist", "list").what == "list"
    with pytest.raises(UsageError, match="invalid choice: 'lst'"):
        run("lst")
    with pytest.raises(UsageError, match="required: what"):
        run()
    with pytest.raises(SystemExit):
        run("--help")
    assert "usage: results what [flags]" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dataste", "mnist"], "unknown flag --dataste; did you mean --dataset? See --help."),
        (["--num_trials=3"], "unknown flag --num_trials; did you mean --num-trials? See --help."),
        (["--pool.siez", "3"], "unknown flag --pool.siez; did you mean --pool.size? See --help."),
        (["--lokal"], "unknown flag --lokal; did you mean --local? See --help."),
        (["--zzz"], "unknown flag --zzz. See --help."),
        (["-q"], "unknown flag -q. See --help."),
        (["--num-trial", "3"], "unknown flag --num-trial; did you mean --num-trials? See --help."),
        (["mnist"], "unexpected arguments: mnist. See --help."),
        (["--data-root", "here", "there"], "unexpected arguments: there. See --help."),
        (["--dataset"], "--dataset: expected at least one argument. See --help."),
        (["--ipc", "--dataset", "mnist"], "--ipc: expected at least one argument. See --help."),
        (["--num-trials", "many"], "--num-trials is 'many'; expected a whole number."),
        (["--num-trials=1.5"], "--num-trials is '1.5'; expected a whole number."),
        (["--num-trials=true"], "--num-trials is 'true'; expected a whole number."),
        (["--num-trials=null"], "--num-trials is 'null'; expected a whole number."),
        (["--pool.learning_rate", "fast"], "--pool.learning_rate is 'fast'; expected a number."),
        (["--ipc", "1", "x"], "--ipc is '1 x'; expected a list of whole numbers."),
        (["--pool.kind", "offline"], "--pool.kind is 'offline'; expected one of stored, online."),
        (["--matching.standardised", "maybe"], "--matching.standardised is 'maybe'; expected true or false."),
        (
            ["--evaluation.protocols", "fixd"],
            "--evaluation.protocols is 'fixd'; expected a list of names out of on_the_fly, fixed, real_on_the_fly, "
            "real_fixed, real_full.",
        ),
        (
            ["--study.space", "[1]"],
            "--study.space is '[1]'; expected fields with their values, such as {pool.size: [1, 2, 4]}.",
        ),
        (["--study.space", "{pool.size: [0]}"], "--study.space: pool.size is 0; allowed: a number above 0."),
        (["--max-concurrent", "x"], "--max-concurrent is 'x'; expected a whole number, or null."),
        (["--seed", "x"], "--seed: 'x' is not a whole number of 0 or more. See --help."),
        (["--seed", "-1"], "--seed: '-1' is not a whole number of 0 or more. See --help."),
        (["--config"], "--config: expected one argument. See --help."),
        (["--config", "nowhere.yaml"], "There is no configuration file nowhere.yaml."),
        (
            ["--config", "mnst"],
            "There is no configuration file and no study mnst; did you mean 'mnist_cpu'? "
            f"Known: {', '.join(shipped_studies())}.",
        ),
        (["--rows", "x"], "--rows: invalid int value: 'x'. See --help."),
        # What follows the flag are Config's own messages.
        (["--num-trials", "0"], "--num-trials: study.num_trials is 0; allowed: a number above 0."),
        (["--pool.size", "0"], "--pool.size is 0; allowed: a number above 0."),
        (["--matching.weight", "-1"], "--matching.weight is -1.0; allowed: 0 or more."),
        (
            ["--ipc", "1", "1", "--evaluation.images_per_class", "2,2"],
            "--evaluation.images_per_class is (2, 2); allowed: each value once.",
        ),
        (
            ["--workers-per-trial", "3"],
            "--workers-per-trial: prior.batch_size is 128; allowed: a multiple of study.workers_per_trial (3), which "
            "share the batch equally, and at least 6: the generator's BatchNorm needs two images on each worker.",
        ),
        (
            ["--workers-per-trial", "2", "--prior.batch_size", "33"],
            "--prior.batch_size is 33; allowed: a multiple of study.workers_per_trial (2), which "
            "share the batch equally, and at least 4: the generator's BatchNorm needs two images on each worker.",
        ),
    ],
)
def test_mistake_in_the_flags_gives_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(only_parse, argv) == 2
    output = capsys.readouterr()
    assert output.err == f"error: {message}\n"
    assert output.out == ""


POOL_FIELDS = ", ".join(field.name for field in fields(PoolConfig))
TEXT = "text (in quotes if it looks like something else)"
SECTIONS = "data, networks, pool, generator, prior, matching, health, evaluation, study, storage"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "pool:\n  epochs: 3\n  siez: 4\n",
            f":3: pool.siez is not a known field; did you mean pool.size? Fields of pool: {POOL_FIELDS}.",
        ),
        (
            "pool: {capacity: 4}",
            f":1: pool.capacity is not a known field; did you mean generator.capacity? Fields of pool: {POOL_FIELDS}.",
        ),
        ("pol:\n  size: 4\n", f":1: pol is not a known section; did you mean pool? Sections: {SECTIONS}."),
        ("dataset: mnist", f":1: dataset is not a known section; did you mean data.dataset? Sections: {SECTIONS}."),
        (
            "pool.siez: 3",
            f":1: pool.siez is not a known field; did you mean pool.size? Fields of pool: {POOL_FIELDS}.",
        ),
        ("3: 4", f":1: 3 is not a known section; Sections: {SECTIONS}."),
        ("pool:\n  size: many\n", ":2: pool.size is 'many'; expected a whole number."),
        ("pool:\n  size: 4.5\n", ":2: pool.size is 4.5; expected a whole number."),
        ("pool:\n  size: yes\n", ":2: pool.size is True; expected a whole number."),
        ("pool:\n  size:\n", ":2: pool.size is null; expected a whole number."),
        ("pool:\n  size: {a: 1}\n", ":2: pool.size is {'a': 1}; expected a whole number."),
        (
            "data:\n  dataset: null",
            f":2: data.dataset is null; expected {TEXT}.",
        ),
        (
            "study:\n  name: 12",
            f":2: study.name is 12; expected {TEXT}, or null.",
        ),
        (
            "evaluation:\n  images_per_class: 10",
            ":2: evaluation.images_per_class is 10; expected a list of whole numbers.",
        ),
        ("matching:\n  weight: -1\n", ":2: matching.weight is -1.0; allowed: 0 or more."),
        (
            "networks:\n  teachers: [convnet]\n",
            ":2: networks.teachers has the unknown architecture 'convnet'; did you mean 'convnet6'? Known: alexnet, "
            "convnet1, convnet2, convnet3, convnet4, convnet5, convnet6, densenet121, lenet, mlp, resnet10, resnet18, "
            "resnet34, resnet50, vgg11, vit_tiny.",
        ),
        ("pool:\n  size: 4\n  size: 5\n", ":3: pool.size is repeated; keep one of them."),
        ("pool:\n  size: 4\npool.size: 5\n", ":3: pool.size is repeated; keep one of them."),
        (
            "pool:\n  size: 4\npool:\n  epochs: 5\n",
            ":3: pool is repeated; write what it has at one of them.",
        ),
        ("pool: 5", ":1: pool is 5; expected names with values, such as 'pool:' and below it '  size: 8'."),
        ("- pool", ": the file is ['pool']; expected names with values, such as 'pool:' and below it '  size: 8'."),
        ("pool:\n  size: [4\nstudy:", ":3:6: not valid YAML: expected ',' or ']', but got ':'."),
        ("pool:\n\tsize: 4", ":2:1: not valid YAML: found character '\\t' that cannot start any token."),
        ("pool:\n  size: *four", ":2:9: not valid YAML: found undefined alias 'four'."),
        ("pool:\n  size: 4\n---\nprior:\n", ":3:1: not valid YAML: but found another document."),
    ],
)
def test_mistake_in_a_file_gives_its_line_and_exit_code_2(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "own.yaml", text)
    assert run_main(only_parse, ["--config", str(path)]) == 2
    assert capsys.readouterr().err == f"error: {path}{message}\n"


def test_python_object_in_a_file_is_refused_and_not_made(tmp_path: Path) -> None:
    trace = tmp_path / "made"
    own = write(tmp_path / "own.yaml", f"pool:\n  size: !!python/object/apply:os.mkdir ['{trace}']\n")
    with pytest.raises(ConfigError, match=r"own\.yaml:2:9: not valid YAML: could not determine a constructor"):
        config_of("--config", str(own))
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\xfa", b"pool:\x00"])
def test_file_that_is_not_text_is_refused(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    assert run_main(only_parse, ["--config", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert str(path) in lines[0]


def test_folder_in_the_place_of_a_config_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't be read: .*directory"):
        config_of("--config", str(tmp_path))


def test_mistake_in_the_study_file_names_it_too(tmp_path: Path) -> None:
    path = write(tmp_path / "digits.yaml", "pool:\n  siez: 4\n")
    with pytest.raises(ConfigError, match=r"digits\.yaml:2: pool\.siez is not a known field"):
        config_of(defaults=path)


def test_value_of_a_flag_that_does_not_go_with_one_of_the_file_is_reported_at_the_flag(tmp_path: Path) -> None:
    own = write(tmp_path / "own.yaml", "prior:\n  batch_size: 33\n")
    message = (
        r"^--workers-per-trial: prior\.batch_size is 33; allowed: a multiple of study\.workers_per_trial \(2\), .*$"
    )
    with pytest.raises(ConfigError, match=message):
        config_of("--config", str(own), "--workers-per-trial", "2")


# ------------------------------------------------------------------------------------------------ help, printing


def help_text(capsys: pytest.CaptureFixture[str], *argv: str, defaults: Path | None = None) -> str:
    with pytest.raises(SystemExit) as stop:
        run_parse(*argv, defaults=defaults)
    assert stop.value.code == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_everyday_flags_with_their_defaults_and_fits_a_screen(
    flag: str, study_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_text(capsys, flag, defaults=study_file)
    assert text.startswith(f"usage: {PROGRAM} [flags]\n\nSearches.\n")
    for name in [flag.name for flag in TUNE_FLAGS] + ["--seed", "--config FILE", "--print-config", "--local"]:
        assert f"  {name}" in text
    words = " ".join(text.split())
    assert "folder:PATH; several get a study each (default: digits)" in words
    assert "one or more (default: 2 3)" in words
    assert "instead of the recipe that suits" in words
    assert "100 % here" in text
    assert "--pool.*        The teacher pool that distillation matches against\n" in text
    assert "--pool.size N" not in text
    assert "--help-all" in text
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 80


def test_help_comes_even_when_something_else_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert "usage:" in help_text(capsys, "--dataste", "mnist", "--help")


def test_help_all_shows_every_field_with_docstring_type_and_default(
    study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_text(capsys, "--help-all", defaults=study_file)
    for field in known_fields():
        assert f"  --{field} " in text
    words = " ".join(text.split())
    for cls in section_types().values():
        (definition,) = ast.parse(inspect.getsource(cls)).body
        assert isinstance(definition, ast.ClassDef)
        docstrings = [node.value.value for node in definition.body if isinstance(node, ast.Expr)]
        assert len(docstrings) == 1 + len(fields(cls))
        for docstring in docstrings[1:]:
            assert f"{' '.join(docstring.split())} (type: " in words
    size = "Number of teachers. A pool of 8 is the first 8 teachers of a pool of 64. Online pools ignore it."
    assert f"{size} (type: int, default: 4)" in words
    assert "--pool CONFIG" not in text


def test_help_all_leaves_no_trace_in_what_is_parsed_afterwards(
    study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    help_text(capsys, "--help-all", defaults=study_file)
    assert config_of() == Config()
    assert "default: 8)" in help_text(capsys, "--help-all")


def test_printed_configuration_is_read_back_to_the_same(
    study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--seed", "5", "--pool.learning_rate", "5e-6", "--study", "12", "--dataset", "folder:/tmp/a b: #c"]
    printed = write(tmp_path / "printed.yaml", help_text(capsys, *argv, "--print-config", defaults=study_file))
    assert config_of("--config", str(printed)) == config_of(*argv, defaults=study_file)
    assert "  images_per_class: [2, 3]\n" in printed.read_text()


def test_shipped_studies_are_listed_with_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_text(capsys, "--list-studies").splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(shipped_studies())
    assert any(line.startswith("digits ") and "The default study" in line for line in lines)
    assert all(len(line.split()) > 3 and "#" not in line for line in lines)
    assert all(line.split()[0] == "for" for line in lines[1::2])


def test_print_config_refuses_what_a_run_would_refuse() -> None:
    with pytest.raises(ConfigError, match=r"pool\.size is 0"):
        config_of("--print-config", "--pool.size", "0")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from dim_ray.cli.main import *\n"
        "heavy = {'torch', 'ray', 'optuna', 'pandas', 'pyarrow', 'jsonargparse', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "try:\n"
        "    parse(['--help'], program='x', description='', flags=TUNE_FLAGS, defaults=None)\n"
        "finally:\n"
        "    assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)
