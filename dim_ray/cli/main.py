"""Parse the command line into a `Config`, run commands with their exit codes, and write the log file.

    def main(argv: Sequence[str]) -> None:
        config, extras = parse(argv, program="python -m dim_ray.tune", description=__doc__, flags=TUNE_FLAGS)

    if __name__ == "__main__":
        sys.exit(run_main(main))

Every field of the configuration is a flag (`--pool.size 8`); the everyday ones have a short name (`--dataset mnist`).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from dim_ray.cli.clusters import go_to_cluster
from dim_ray.cli.flags import COMMON_FLAGS, DEFAULT_STUDY, TUNE_FLAGS, Flag, shipped_studies
from dim_ray.cli.parser import FlagParser
from dim_ray.cli.recipes import Recipe, choose_recipe, find_device, list_studies
from dim_ray.cli.settings import Setting, make_config, read_settings, to_yaml
from dim_ray.config import Config
from dim_ray.errors import DimError, StorageError, UsageError, cut_words, nearest
from dim_ray.progress import Progress, make_progress
from dim_ray.progress.notices import told
from dim_ray.start.script import as_typed
from dim_ray.start.shadows import refuse_shadows
from dim_ray.start.streams import close_broken, prepare_output, say
from dim_ray.start.threads import share_cores

__all__ = ["COMMON_FLAGS", "TUNE_FLAGS", "Flag", "parse", "run_main", "show_progress", "start_logging"]

_EXIT_INTERRUPTED = 130  # as shells report SIGINT
_EXIT_TERMINATED = 143  # as shells report SIGTERM
_EXIT_BROKEN_PIPE = 141  # as shells report SIGPIPE
_LOGGERS = ("dim_ray", "tuning")
_NO_HOME = "/nonexistent"  # as Debian has it for users without one


def parse(
    argv: Sequence[str],
    *,
    program: str,
    description: str | None,
    flags: Sequence[Flag],
    defaults: Path | None = DEFAULT_STUDY,
    extra: Callable[[argparse.ArgumentParser], None] | None = None,
) -> tuple[Config, argparse.Namespace]:
    """Return a command's configuration and the values of its extra arguments.

    Flags override the YAML file, which overrides the dataclasses' defaults. Without --config, the file is the shipped
    recipe that suits the images and the devices; a line on stderr says which. Beside the extra arguments there is
    `recipe`, the first dataset's, and `configs`, one for each dataset.

    The program is the command as the user types it, such as ``python -m dim_ray.tune``. `defaults` is the file of a
    command without --config; `DEFAULT_STUDY` stands for the recipe that suits. `extra` adds arguments of its own.

    Raises:
        UsageError: An argument, the file or a value can't be used.
        DataError: The data, by which a recipe is chosen, can't be read.
        SystemExit: With 0 after --help, --help-all, --list-studies or --print-config; with the job's exit code after
            --cluster.
    """
    shipped = read_settings(defaults) if defaults else []
    parser = FlagParser(program, description or "", flags, extra, shipped, defaults)
    _answer(parser, argv, shipped)
    parser.refuse_unknown_flags(argv)
    namespace = parser.parse_args(argv)
    is_printed, is_elsewhere = namespace.print_config, namespace.cluster is not None
    given = _take_configuration(namespace, shipped)
    is_automatic = given.file is None and defaults == DEFAULT_STUDY
    if not (is_printed and is_elsewhere):
        module = program.rpartition(" ")[2]
        make = functools.partial(given.configure, given.usual)
        go_to_cluster(namespace, argv, module=module, make=make, config_file=given.file)
    elif is_automatic:
        raise UsageError("--print-config can't know the recipe of --cluster, whose devices decide; give --config, too.")
    recipes = _choose_recipes(namespace, given, program.rpartition(".")[2]) if is_automatic else [given.usual]
    configs = [given.configure(recipe) for recipe in recipes]
    if is_printed:
        _print_config(configs, recipes)
    for recipe in recipes if is_automatic else []:
        say(recipe.reason)
    named = zip(itertools.cycle(configs), _several(namespace), strict=False)
    several = [replace(config, data=replace(config.data, dataset=name)) for config, name in named]
    namespace.recipe, namespace.configs = recipes[0], several or configs
    return configs[0], namespace


def run_main(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command, print a `DimError` as one line on stderr, and return the exit code.

    That is 0, the `DimError`'s own (2 if the call can't work, else 1), 130 after Ctrl-C, 143 after SIGTERM, or 141 if
    the reader of stdout has gone. Any other exception is a bug and keeps its traceback.
    """
    terminated, code = False, 0

    def terminate(number: int, frame: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt  # end as after Ctrl-C

    prepare_output()
    share_cores()
    before = signal.signal(signal.SIGTERM, terminate)
    if os.path.expanduser("~") == "~":  # no HOME, and no name for the user's id: Ray Train can't be imported then
        os.environ["HOME"] = _NO_HOME
    try:
        main(_readable(sys.argv[1:] if argv is None else argv))
    except DimError as error:
        logging.getLogger("dim_ray").info("The command ended with an error.", exc_info=True)
        say(as_typed(cut_words(f"error: {error}")))
        code = error.exit_code
    except KeyboardInterrupt:
        say("interrupted; run the same command again to continue")
        code = _EXIT_TERMINATED if terminated else _EXIT_INTERRUPTED
    except BrokenPipeError:
        code = _EXIT_BROKEN_PIPE
    finally:
        with suppress(KeyboardInterrupt):
            _end_logging()
        signal.signal(signal.SIGTERM, before)
    close_broken(sys.stderr)
    unwritten = close_broken(sys.stdout)
    if unwritten is None:
        return code
    if isinstance(unwritten, BrokenPipeError):
        return code or _EXIT_BROKEN_PIPE
    say(f"error: stdout can't be written: {unwritten.strerror}; what the command stored is there.")
    return code or 1


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Yield the display of a run, which also shows warnings about the storage, before its packages are imported."""
    refuse_shadows()
    with make_progress() as progress, told(progress.message):
        yield progress


def start_logging(path: Path, copying: AbstractContextManager[object] | None = None) -> None:
    """Send our log and all libraries' warnings to a file instead of the one before; raises a `StorageError`.

    `copying` is entered now, and left when the file is closed: at the end of `run_main`, or with the next file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, copying or nullcontext())
    except OSError as error:
        raise StorageError(f"The log file {path} can't be written: {error.strerror}.") from error
    handler.set_name(__name__)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    _end_logging()
    logging.getLogger().addHandler(handler)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(True)


def _end_logging() -> None:
    root = logging.getLogger()
    for handler in [own for own in root.handlers if own.get_name() == __name__]:
        root.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """A log file that ignores a full disk, which `dim_ray.progress.notices` reports."""

    def __init__(self, path: Path, copying: AbstractContextManager[object]) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._copying = ExitStack()
        self._copying.enter_context(copying)

    def close(self) -> None:
        super().close()
        self._copying.close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's own name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _readable(argv: Sequence[str]) -> Sequence[str]:
    for argument in argv:
        if argument != argument.encode(errors="replace").decode():
            raise UsageError(
                f"the argument {argument} has bytes that aren't text in this locale; rename the file or, if its name "
                "is UTF-8, set PYTHONUTF8=1."
            )
    return argv


def _show(text: str) -> NoReturn:
    print(text.rstrip("\n"), flush=True)  # so that run_main handles a broken pipe
    raise SystemExit(0)


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What a command line says about the configuration."""

    settings: Sequence[Setting]
    seed: int | None
    file: Path | None
    """File of --config."""
    usual: Recipe
    """That file's settings, or the defaults."""

    def configure(self, recipe: Recipe) -> Config:
        """Return the configuration of a recipe with the flags over it."""
        config = make_config([*recipe.settings, *self.settings])
        if self.seed is None:
            return config
        fields = (setting.field for setting in self.settings)  # those with a flag of their own keep their seed
        sections = {field.removesuffix(".seed") for field in fields if field.endswith(".seed")}
        return replace(config.with_seed(self.seed), **{section: getattr(config, section) for section in sections})


def _answer(parser: FlagParser, argv: Sequence[str], shipped: Sequence[Setting]) -> None:
    """Print what is asked for instead of a run, and end."""
    if "--help-all" in argv:
        _show(parser.format_help_all(shipped))
    if "--help" in argv or "-h" in argv:
        _show(parser.format_help())
    if "--list-studies" in argv:
        _show(list_studies())


def _take_configuration(namespace: argparse.Namespace, shipped: Sequence[Setting]) -> _Given:
    """Move what is about the configuration out of the arguments, which keep the command's own."""
    taken = {name: vars(namespace).pop(name) for name in ("settings", "seed", "config", "list_studies", "print_config")}
    file = _find(taken["config"]) if taken["config"] else None
    usual = Recipe(name=taken["config"] or "", settings=read_settings(file) if file else shipped)
    return _Given(settings=taken["settings"], seed=taken["seed"], file=file, usual=usual)


def _several(namespace: argparse.Namespace) -> Sequence[str]:
    """Return the datasets of a command line if there are several."""
    names: Sequence[str] = getattr(namespace, "datasets", ())
    return names if len(names) > 1 else ()


def _choose_recipes(namespace: argparse.Namespace, given: _Given, command: str) -> list[Recipe]:
    """Return the shipped recipe that suits each dataset and the devices."""
    refuse_shadows()
    few = make_config(setting for setting in given.settings if setting.field != "study.space")
    device = functools.cache(lambda: find_device(few, is_local=getattr(namespace, "local", False)))
    data = [replace(few.data, dataset=name) for name in _several(namespace)] or [few.data]
    return [choose_recipe(own, device, command=command) for own in data]


def _print_config(configs: Sequence[Config], recipes: Sequence[Recipe]) -> NoReturn:
    if len({recipe.name for recipe in recipes}) > 1:
        names = " and ".join(recipe.name for recipe in recipes)
        raise UsageError(f"--print-config shows one recipe, and these datasets have {names}; give one --dataset.")
    reason = f"# {recipes[0].reason}\n" if recipes[0].reason else ""
    _show(reason + to_yaml(configs[0]))


def _find(name: str) -> Path:
    """Return the file of a path, or of a shipped study's name."""
    shipped = shipped_studies()
    if os.path.exists(name) or Path(name).name != name or Path(name).suffix:
        return Path(name)
    if name not in shipped:
        raise UsageError(f"There is no configuration file and no study {name}; {nearest(name, shipped)}")
    return shipped[name]
