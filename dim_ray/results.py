"""Show the contents of the storage, and look after it.

python -m dim_ray.results list --dataset digits                 evaluations, one line per cell of the grid
python -m dim_ray.results best --dataset digits --ipc 10        the best generator, and the line that loads it
python -m dim_ray.results ranking --dataset digits --ipc 10     DD-Ranking's scores, or what they lack
python -m dim_ray.results pareto --study NAME                   the trials of the study that no other beats
python -m dim_ray.results sql "select ipc, avg(accuracy) from evaluations group by ipc"
python -m dim_ray.results export GENERATOR DIR                  a generator as a folder that needs only PyTorch
python -m dim_ray.results verify                                all damage and contradictions
python -m dim_ray.results verify DIR                            an exported generator, with new students
python -m dim_ray.results compact                               pack many small files into few
python -m dim_ray.results merge OURS THEIRS                     copy what ours lacks from theirs
python -m dim_ray.results prune --quota 1000000000              name artefacts to delete, or --delete them
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dim_ray.cli.parser import Parser
from dim_ray.cli.upkeep import UPKEEP
from dim_ray.config import OBJECTIVES, PROTOCOLS, StudyConfig
from dim_ray.errors import StorageError, UsageError, listed
from dim_ray.progress.stages import format_percent

if TYPE_CHECKING:  # --help doesn't wait for these
    import pandas as pd
    from rich.table import Table

    from dim_ray.store.analysis.ranking import Missing
    from dim_ray.store.reader import Reader

__all__ = ["main", "parse_arguments"]

_FINGERPRINT_SHOWN = 8


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.results`` with the given arguments."""
    arguments = parse_arguments(argv)
    if arguments.command in UPKEEP:
        command = UPKEEP[arguments.command]
        command.run(
            arguments.storage, *arguments.operands, **{name: getattr(arguments, name) for name in command.flags}
        )
        return
    from dim_ray.store.reader import Reader

    _SHOWN[arguments.command](Reader(arguments.storage), arguments)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return `command`, `operands` and the flags, or raise a `UsageError`."""
    parser = _parser()
    parser.refuse_unknown_flags(argv)
    arguments = parser.parse_intermixed_args(argv)
    command, given = arguments.command, arguments.operands
    wanted, optional = (UPKEEP[command].operands, UPKEEP[command].optional) if command in UPKEEP else ((), ())
    if not len(wanted) <= len(given) <= len(wanted) + len(optional):
        shown = " ".join([*wanted, *(f"[{name}]" for name in optional)])
        raise UsageError(f"{command} takes {shown or 'only flags'}; given: {listed(given, between=' ') or 'nothing'}.")
    return arguments


def _parser() -> Parser:
    parser = Parser("python -m dim_ray.results", __doc__ or "")
    parser.add_argument("command", choices=(*_SHOWN, *UPKEEP), help="one of those above")
    parser.add_argument("operands", nargs="*", metavar="...", help="operands of the command")
    parser.add_storage()
    parser.add_argument(
        "--dataset", metavar="NAME", help="dataset (default for best: the only one; verify DIR: where the data are)"
    )
    parser.add_argument(
        "--ipc",
        type=int,
        metavar="N",
        help=f"images per class (default for best: {StudyConfig().selection_images_per_class[0]}, else the largest)",
    )
    parser.add_argument("--architecture", metavar="NAME", help="the students' architecture, for example convnet3")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="how students get images (default for best: on_the_fly)")
    parser.add_argument("--study", metavar="NAME", help="pareto: the study (default: the only one)")
    parser.add_argument(
        "--objectives",
        nargs="+",
        choices=OBJECTIVES,
        metavar="NAME",
        help=f"pareto: out of {', '.join(OBJECTIVES)} (default: the study's, else all)",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="verify DIR: new students for each cell of its card")
    parser.add_argument("--quota", type=int, metavar="BYTES", help="prune: maximum size of the whole storage")
    parser.add_argument("--delete", action="store_true", help="prune: delete instead of only listing")
    parser.add_hub()
    for name, what in (("label", "IOR against HLR"), ("augmentation", "students with augmentation against without")):
        parser.add_argument(
            f"--{name}-weight", type=float, metavar="X", help=f"ranking: weight of {what}, 0 to 1 (default: 0.5)"
        )
    return parser


def _list(reader: Reader, arguments: argparse.Namespace) -> None:
    from dim_ray.store.analysis.selection import no_evaluations, none_chosen, summarise

    columns = ("dataset", "ipc", "architecture", "protocol")
    filters = {column: value for column in columns if (value := getattr(arguments, column)) is not None}
    rows, trials = reader.evaluations(**filters), reader.trials()
    if rows.empty and len(every := reader.measured()):
        raise none_chosen(reader.root, every, filters)
    if rows.empty and trials.empty:
        raise no_evaluations(reader.root)
    if not rows.empty:
        _print(_table(summarise(rows)))
    counts = f"evaluations: {len(rows)}; "
    if not filters:  # trials have neither dataset nor IPC
        counts += f"studies: {trials['study'].nunique()}; trials: {len(trials)}"
        states = [f"{count} {state}" for state, count in trials["state"].value_counts().sort_index().items()]
        counts += f" ({', '.join(states)}); " if states else "; "
    _print(f"{counts}under {reader.root}")


def _best(reader: Reader, arguments: argparse.Namespace) -> None:
    from dim_ray.store.analysis.selection import summarise
    from dim_ray.store.artifacts import ArtifactStore

    asked = {name: getattr(arguments, name) for name in ("dataset", "ipc", "architecture")}
    cell = reader.best_cell(**asked, protocol=arguments.protocol or "on_the_fly")
    dataset, best = cell["dataset"], str(cell["generator"])
    store = ArtifactStore(reader.root)
    uri = store.uri("generators", best)
    rows = reader.measured(dataset=dataset, generator=best)
    if arguments.architecture is not None:
        rows = rows[rows["architecture"] == arguments.architecture]
    _print(
        f"best generator of {dataset} at IPC {cell['ipc']}, {cell['protocol']}, {cell['architecture']}: "
        f"mean validation accuracy {100 * cell['validation_mean']:.2f} %"
    )
    _print(f"  fingerprint  {best}")
    _print(f"  path         {uri}")
    _print(_table(summarise(rows)))
    if store.exists("generators", best):
        _print("load it in Python:")
        weights = ", weights='raw'" if cell["weights"] == "raw" and (rows["weights"] == "average").any() else ""
        _print(f"  import dim_ray; generator = dim_ray.load_generator({uri!r}{weights})")
    else:
        _print("its files are gone; only its rows are left")


def _ranking(reader: Reader, arguments: argparse.Namespace) -> None:
    from dim_ray.store.analysis.ranking import ranking
    from dim_ray.store.analysis.selection import only_dataset, usual_ipc

    if arguments.protocol not in (None, "fixed"):
        raise UsageError(f"--protocol is {arguments.protocol!r}; the scores compare sets of equal size, so only fixed.")
    every = reader.evaluations()
    dataset = arguments.dataset or only_dataset(reader.root, every)
    ipc = usual_ipc(every, dataset=dataset, protocol="fixed") if arguments.ipc is None else arguments.ipc
    names = ("architecture", "label_weight", "augmentation_weight")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    scores = ranking(every, dataset=dataset, ipc=ipc, **given)
    if scores.empty:
        raise StorageError(
            f"no generator was evaluated on {dataset!r} at IPC {ipc} with the protocol fixed in {reader.root}; run "
            f"python -m dim_ray.evaluate PATH --protocol fixed real_fixed --ipc {ipc}."
        )
    _print(_scores_table(scores))
    commands = dict.fromkeys(
        _missing_command(reader.root, cell, missing)
        for cell in scores.to_dict("records")
        for missing in cell["missing"]
    )
    if commands:
        _print("commands for missing rows; add the flags that select your data:")
    for command in commands:
        _print(f"  {command}")


def _pareto(reader: Reader, arguments: argparse.Namespace) -> None:
    from dim_ray.cli.summary import pareto_table
    from dim_ray.store.analysis.pareto import study_objectives

    trials = reader.trials()
    names = sorted(trials["study"].unique())
    if arguments.study is None and len(names) > 1:
        raise UsageError(f"there are several studies; choose one with --study: {listed(names, 20)}.")
    study = arguments.study or next(iter(names), "")
    objectives = arguments.objectives or study_objectives(trials[trials["study"] == study])
    _print(f"study {study}")
    _print(pareto_table(reader.pareto(study=study, objectives=objectives), objectives))
    _print(f"generators are folders in {reader.root}/generators")


def _scores_table(scores: pd.DataFrame) -> Table:
    from dim_ray.cli.summary import new_table
    from dim_ray.store.analysis.selection import terms

    texts = ("generator", "architecture", "students")
    table = new_table(*texts, "n", "HLR", "IOR", "LRS", "ARS", left=texts)
    for score in scores.to_dict("records"):
        numbers = (
            "-" if math.isnan(score[name]) else f"{100 * score[name]:.1f}" for name in ("hlr", "ior", "lrs", "ars")
        )
        how = ", ".join(part for part in (score["augmentation"], terms(score)) if part)
        table.add_row(score["generator"][:_FINGERPRINT_SHOWN], score["architecture"], how, str(score["n"]), *numbers)
    return table


def _missing_command(root: str, cell: Mapping[Any, Any], missing: Missing) -> str:
    """Return the command that measures missing rows, with flags where their recipe isn't that of the digits."""
    import shlex

    from dim_ray.cli.flags import DEFAULT_STUDY
    from dim_ray.cli.settings import make_config, read_settings
    from dim_ray.config import to_dict
    from dim_ray.store.artifacts import ArtifactStore

    usual = to_dict(make_config(read_settings(DEFAULT_STUDY)).evaluation)
    fields = []
    for name, value in missing.recipe.items():
        if value != usual.get(name):
            fields += [f"--evaluation.{name}", *map(str, value if isinstance(value, list) else [value])]
    if cell["dataset"] != "digits":  # which has this recipe anyway
        fields += ["--config", DEFAULT_STUDY.stem, "--dataset", cell["dataset"]]
    path = ArtifactStore(root).uri("generators", cell["generator"])
    return shlex.join(
        ["python", "-m", "dim_ray.evaluate", path, "--storage", root, "--protocol", missing.protocol]
        + ([] if missing.protocol == "real_full" else ["--ipc", str(cell["ipc"])])
        + ["--architecture", cell["architecture"], "--num-seeds", str(cell["n"]), *fields]
    )


def _table(cells: pd.DataFrame) -> Table:
    from dim_ray.cli.summary import new_table
    from dim_ray.store.analysis.selection import terms

    has_terms = any(terms(cell) for cell in cells.to_dict("records"))
    texts = ("dataset", "protocol", "architecture", "generator", *(["quirks, labels"] if has_terms else []))
    table = new_table(*texts, "IPC", "steps", "test accuracy in %", left=texts)
    order = {protocol: place for place, protocol in enumerate(PROTOCOLS)}
    cells = cells.assign(place=cells["protocol"].map(order))
    cells = cells.sort_values(["dataset", "place", "architecture", "generator", "weights", "ipc"])
    averaged = set(cells[cells["weights"] == "average"]["generator"])
    for cell in cells.to_dict("records"):
        generator = cell["generator"][:_FINGERPRINT_SHOWN] if isinstance(cell["generator"], str) else "-"
        if cell["generator"] in averaged and cell["weights"] == "raw":
            generator += ", raw"
        table.add_row(
            cell["dataset"],
            cell["protocol"],
            cell["architecture"],
            generator,
            *([terms(cell)] if has_terms else []),
            str(cell["ipc"]),
            str(cell["optimiser_steps"]),
            f"{format_percent(cell['mean'], cell['std'], digits=2)} ({cell['n']})",
        )
    return table


def _print(what: str | Table) -> None:
    from dim_ray.cli.summary import make_console, print_lines

    console = make_console()
    if isinstance(what, str):
        print_lines(console, what)
    else:
        console.print(what)


_SHOWN: Mapping[str, Callable[[Reader, argparse.Namespace], None]] = {
    "list": _list,
    "best": _best,
    "ranking": _ranking,
    "pareto": _pareto,
}


if __name__ == "__main__":
    from dim_ray.cli.main import run_main

    sys.exit(run_main(main))
