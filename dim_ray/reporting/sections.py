"""Make the report's sections from a storage: what is best, how it compares, how it was found, and what it cost.

report = make_report(Reader(root), ArtifactStore(root), {"dataset": "digits"})
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dim_ray.errors import StorageError
from dim_ray.progress.stages import format_percent
from dim_ray.reporting.accuracy_figures import answer_figure, ipc_figures
from dim_ray.reporting.cells import REAL, Best, best_generators, curve, measured_cells
from dim_ray.reporting.content import Answer, Figure, Section
from dim_ray.reporting.cost_figures import cost_figure, costs
from dim_ray.reporting.gallery import gallery, samples
from dim_ray.reporting.search_figures import importance_figure, parallel_figure, pareto_figure, pool_figure
from dim_ray.reporting.searches import Study, datasets_of, studies
from dim_ray.reporting.tables import failure_tables, leaderboard
from dim_ray.store.analysis.pareto import AXES, hypervolumes
from dim_ray.store.analysis.selection import may_choose, no_evaluations, none_chosen, rank
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.reader import Reader
from tuning.control import compare_rows, control_of

__all__ = ["Report", "make_report"]

_OF_TRIALS = {"dataset"}  # filters that also limit trials
_MOST_DATASETS = 6  # with figures
_MOST_STUDIES = 3
_FEWEST_OF_PROGRESS = 4
_LEADERBOARD = (
    "Accuracy is that of the last epoch on the test split, which chose nothing, unless a row's terms say otherwise. "
    "Rows of a dataset, IPC and student are ordered by validation accuracy. Best in training is the best of several "
    "tests on the test split, which much of the literature reports and which is inflated. On the fly and fixed answer "
    "different questions; don't compare them."
)
_CHOSEN_ON = ("dataset", "protocol", "ipc", "architecture", "data_fingerprint", "budget_fingerprint")


@dataclass(frozen=True, kw_only=True)
class Report:
    """The contents of a page."""

    root: str
    chosen: str
    """Filters in words."""
    num_evaluations: int
    num_trials: int
    num_studies: int
    answers: Sequence[Answer]
    num_datasets: int
    """Datasets with a best generator; only some of them have an answer if there are many."""
    sections: Sequence[Section]


def make_report(
    reader: Reader,
    artifacts: ArtifactStore,
    filters: Mapping[str, Any],
    *,
    data_root: str | None = None,
    shows_own: bool = False,
) -> Report:
    """Read the rows and artefacts of one storage, and draw them.

    Filters are values of dataset, ipc, architecture and protocol. A protocol of generated images includes that of the
    real images beside it. Only the dataset limits trials, so with other filters there is no section of costs. The other
    arguments are those of `gallery`.

    Raises:
        StorageError: There are no such rows; the message says what there is.
    """
    evaluations, trials = _read(reader, filters)
    cells = measured_cells(evaluations)
    bests = best_generators(evaluations)
    most = evaluations["dataset"].value_counts().reindex([best.dataset for best in bests]).nlargest(_MOST_DATASETS)
    drawn = [best for best in bests if best.dataset in most.index]
    sections = [
        Section(key="leaderboard", title="Leaderboard", text=_LEADERBOARD, tables=leaderboard(cells)),
        _against_ipc(cells, drawn, len(bests)),
        gallery(artifacts, drawn, data_root=data_root, shows_own=shows_own),
        *_of_studies(evaluations, trials, drawn),
        _failures(trials),
    ]
    if not filters.keys() - _OF_TRIALS:
        spent = costs(artifacts, trials, evaluations, reader.validations(**filters))
        sections.insert(-1, Section(key="cost", title="Cost", figures=[] if spent.empty else [cost_figure(spent)]))
    return Report(
        root=reader.root,
        chosen=", ".join(f"{name} {value}" for name, value in filters.items()),
        num_evaluations=len(evaluations),
        num_trials=len(trials),
        num_studies=int(trials["study"].nunique()),
        answers=[_answer(cells, best, artifacts, _matching(reader, best, artifacts)) for best in drawn],
        num_datasets=len(bests),
        sections=[section for section in sections if section.figures or section.pictures or section.tables],
    )


def _read(reader: Reader, filters: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    wanted = dict(filters)
    if (protocol := str(filters.get("protocol"))) in REAL:
        wanted["protocol"] = [protocol, REAL[protocol]]
    evaluations, trials = reader.evaluations(**wanted), reader.trials()
    if "dataset" in filters and len(trials):
        trials = trials[datasets_of(trials) == filters["dataset"]]
    is_refused = trials.empty or filters.keys() - _OF_TRIALS
    if evaluations.empty and filters and is_refused and len(every := reader.measured()):
        raise none_chosen(reader.root, every, filters)
    if evaluations.empty and trials.empty:
        raise no_evaluations(reader.root)
    return evaluations, trials


def _answer(cells: pd.DataFrame, best: Best, artifacts: ArtifactStore, matching: str) -> Answer:
    points = curve(cells, best, best.protocol)
    point = points[points["ipc"] == best.ipc].iloc[0]
    mean, real = 100 * point["mean"], 100 * point["real_mean"]
    spread = f", ± {100 * point['std']:.1f}" if point["n"] > 1 else ""
    how = "new ones in every epoch" if best.protocol == "on_the_fly" else "the same in every epoch"
    seeds = f"mean of {point['n']} seeds" if point["n"] > 1 else "one seed"
    comparison = "Real images weren't measured at this budget."
    if pd.notna(real):
        apart = mean - real
        than = "the same" if abs(apart) < 0.05 else f"{abs(apart):.1f} points {'less' if apart > 0 else 'more'}"
        reached = format_percent(point["real_mean"], point["real_std"])
        comparison = f"Real images at the same budget reach {reached} %: {than}."
    return Answer(
        dataset=best.dataset,
        headline=f"{mean:.1f} %",
        sentence="of real test images are classified correctly by networks trained only on generated images, "
        f"{best.ipc} per class, {how} ({best.architecture}, {seeds}{spread}).",
        comparison=f"{comparison} {_chosen_from(best.num_compared)}{matching}",
        generator=best.generator,
        load=_load_line(artifacts, best),
        figure=answer_figure(cells, best),
        picture=samples(artifacts, best),
    )


def _matching(reader: Reader, best: Best, artifacts: ArtifactStore) -> str:
    """Return a sentence on what matching brought the best generator; nothing if it has no measured control."""
    with suppress(StorageError):
        control = control_of(artifacts.read_card("generators", best.generator)) or best.generator
        rows = reader.validations(dataset=best.dataset, generator=[best.generator, control])
        if control != best.generator and (comparison := compare_rows(rows, best.generator, control)):
            text = comparison.text()
            return f" {text[0].upper()}{text[1:]}."
    return ""


def _load_line(artifacts: ArtifactStore, best: Best) -> str:
    if not artifacts.exists("generators", best.generator):
        return ""
    weights = ", weights='raw'" if best.weights == "raw" else ""
    return f"dim_ray.load_generator({artifacts.uri('generators', best.generator)!r}{weights})"


def _chosen_from(num_compared: int) -> str:
    if num_compared == 1:
        return "It's the only generator measured on these terms."
    return f"It's the best by validation accuracy of {num_compared:,} generators measured on these terms."


def _against_ipc(cells: pd.DataFrame, bests: Sequence[Best], num_all: int) -> Section:
    left_out = f" The {len(bests)} datasets of {num_all} with the most rows." if len(bests) < num_all else ""
    return Section(
        key="ipc",
        title="Accuracy against images per class",
        text=f"The best generator of each dataset at every IPC where it was measured.{left_out}",
        figures=[figure for best in bests for figure in ipc_figures(cells, best)],
    )


def _of_studies(evaluations: pd.DataFrame, trials: pd.DataFrame, bests: Sequence[Best]) -> Iterator[Section]:
    searched, num_all = studies(trials, _MOST_STUDIES), trials["study"].nunique()
    names = ", ".join(study.name for study in searched)
    left_out = f" The {len(searched)} of {num_all:,} studies with the most trials." if len(searched) < num_all else ""
    figures = [draw(study) for study in searched for draw in (pool_figure, importance_figure, parallel_figure)]
    yield Section(
        key="search",
        title="Search",
        text=f"Studies: {names}. Accuracies are of the validation split.{left_out}",
        figures=[figure for figure in figures if figure is not None],
    )
    yield Section(
        key="pareto",
        title="Accuracy for size and time",
        text=f"A generator is undominated if none that is as small or as cheap is more accurate.{_progress(searched)}",
        figures=[*_measured_fronts(evaluations, bests), *_trial_fronts(searched)],
    )


def _measured_fronts(evaluations: pd.DataFrame, bests: Sequence[Best]) -> Iterator[Figure]:
    """Draw the evaluated generators of each dataset by stored bytes, on the terms that chose the best one."""
    may = evaluations[may_choose(evaluations)]
    for best in bests:
        rows = may[(may[list(_CHOSEN_ON)] == [getattr(best, name) for name in _CHOSEN_ON]).all(axis="columns")]
        sizes = rows.drop_duplicates(["generator", "weights"], keep="last")[["generator", "weights", "stored_bytes"]]
        ranked = rank(rows).merge(sizes, on=["generator", "weights"])
        points = ranked.assign(
            label=ranked["generator"].str[:8] + ranked["weights"].map({"raw": ", raw"}).fillna(""),
            cost=ranked["stored_bytes"] / 1000,
            accuracy=ranked["validation_mean"],
        )
        title = f"Evaluated generators of {best.dataset}"
        if figure := pareto_figure(points, name=f"size-{best.dataset}", title=title, axis="stored kilobytes"):
            yield figure


def _progress(searched: Sequence[Study]) -> str:
    """Return how the Pareto set of each study with several objectives grew with its trials, as text."""
    lines = []
    for study in searched:
        objectives = _objectives(study)
        measured = study.trials.dropna(subset=[AXES[name].column for name in objectives])
        if len(objectives) < 2 or len(measured) < _FEWEST_OF_PROGRESS:
            continue
        counts = [-(-len(measured) // 4), -(-len(measured) // 2), len(measured)]
        shares = hypervolumes(measured, objectives, counts)
        grown = ", ".join(f"{100 * share:.0f} % after {count}" for share, count in zip(shares, counts, strict=True))
        lines.append(
            f" Hypervolume of {', '.join(objectives)} in {study.name}, of the space between the worst and the best "
            f"values: {grown} completed trials."
        )
    return "".join(lines)


def _objectives(study: Study) -> list[str]:
    """Return the objectives of a study; none if its configuration isn't readable."""
    try:
        found = json.loads(study.trials.iloc[-1]["config_json"])["study"]["objectives"]
    except (ValueError, KeyError, TypeError):
        return []
    return [name for name in found if name in AXES]


def _trial_fronts(searched: Sequence[Study]) -> Iterator[Figure]:
    """Draw the completed trials of each study by generator size and by time."""
    for study in searched:
        ended = study.trials
        points = ended.assign(label="trial " + ended["number"].astype(str), accuracy=ended["objective"])
        for key, word, cost, axis in (
            ("bytes", "size", ended["generator_bytes"] / 1000, "kilobytes of the generator"),
            ("seconds", "time", ended["alone_device_seconds"], "device seconds without reuse"),
        ):
            title = f"Trials of {study.name}, by {word}"
            figure = pareto_figure(points.assign(cost=cost), name=f"{key}-{study.name}", title=title, axis=axis)
            if figure is not None:
                yield figure


def _failures(trials: pd.DataFrame) -> Section:
    num_bad = int(trials["state"].isin(["failed", "diverged"]).sum())
    return Section(
        key="failures",
        title="Failures",
        text=f"{num_bad or 'None'} of {len(trials):,} trials failed or diverged.",
        tables=[] if trials.empty else failure_tables(trials),
    )
