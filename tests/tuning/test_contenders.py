from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from dim_ray.pipeline.contenders import plan_validations
from dim_ray.pipeline.rows import planned_id
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.schema import VALIDATION_TABLE
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import validation
from tests.helpers.small import make_work
from tests.tuning.test_record import PARAMETERS, result, with_study
from tuning.contenders import contender_students, decide
from tuning.intervals import paired_interval
from tuning.record import StudyRecord

OBJECTIVES = (0.90, 0.93, 0.92, 0.80)  # of trials 0 to 3
FIRST, SECOND, THIRD = 1, 2, 0  # the three best, in order


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    """A workspace whose study has four completed trials, and students that are not run here."""
    work = with_study(make_work(tmp_path), contenders=3, contender_seeds=3)
    record = StudyRecord(work)
    for number, objective in enumerate(OBJECTIVES):
        add_trial(record, number, objective)
    return work


def add_trial(record: StudyRecord, number: int, objective: float, **more: Any) -> None:
    record.write_trial(number, parameters(number), result(objective, **more))
    artifacts = record._work.artifacts
    artifacts.write("generators", record.generator_of(parameters(number)), {"weights": b""}, {"wall_seconds": 1.0})


def parameters(number: int) -> dict[str, Any]:
    return {**PARAMETERS, "matching.weight": 0.1 + 0.1 * number}


def generator(work: Workspace, number: int) -> str:
    return StudyRecord(work).generator_of(parameters(number))


def trials(work: Workspace) -> Any:
    return StudyRecord(work).trials()


def measure(work: Workspace, accuracies: Mapping[int, Sequence[float]]) -> None:
    """Writes the rows of students, by the number of their trial."""
    rows = []
    for number, own in accuracies.items():
        plans = plan_validations(work, [generator(work, number)])
        for plan, accuracy in zip(plans, own, strict=False):
            known = {
                "id": planned_id(work, VALIDATION_TABLE, plan),
                "dataset": work.dataset.name,
                "ipc": plan.images_per_class,
                "generator": plan.generator,
                "seed": plan.seed,
                "study": work.study,
            }
            rows.append(validation(**known, accuracy=accuracy))
    Writer(work.artifacts.root).append_validations(rows)


def contending(work: Workspace) -> list[int]:
    numbers = {generator(work, number): number for number in range(9)}
    return list(dict.fromkeys(numbers[str(plan.generator)] for plan in contender_students(work, trials(work))))


def test_contenders_are_the_best_completed_trials_with_as_many_students_each(work: Workspace) -> None:
    record = StudyRecord(work)
    record.write_trial(4, parameters(4), result(0.99, epoch=1))  # stopped
    record.write_trial(5, parameters(5), result(0.99, diverged="nan"))
    assert contending(work) == [FIRST, SECOND, THIRD]
    assert len(contender_students(work, trials(work))) == 3 * 3


def test_trials_of_the_same_generator_contend_once(work: Workspace) -> None:
    StudyRecord(work).write_trial(4, parameters(FIRST), result(0.93, reused_trial=FIRST))
    assert contending(work) == [FIRST, SECOND, THIRD]


def test_there_is_nothing_to_decide_where_one_trial_is_left_or_asked_for(work: Workspace) -> None:
    alone = replace(work, study="alone")
    add_trial(StudyRecord(alone), 0, 0.5)
    for own in (alone, with_study(work, contenders=1)):
        assert contender_students(own, trials(own)) == []
        assert decide(own, trials(own)) is None
    assert StudyRecord(with_study(work, contenders=1)).best()["number"] == FIRST


def test_highest_mean_of_the_students_wins_and_not_the_luckiest_of_the_search(work: Workspace) -> None:
    measure(work, {FIRST: [0.90, 0.90, 0.90], SECOND: [0.93, 0.92, 0.94], THIRD: [0.91, 0.93, 0.92]})
    verdict = decide(work, trials(work))
    assert verdict is not None
    assert (verdict.winner, verdict.runner_up, verdict.num_seeds) == (SECOND, THIRD, 3)
    assert (verdict.accuracy, verdict.std) == (pytest.approx(0.93), pytest.approx(0.01))
    assert StudyRecord(work).best()["number"] == SECOND
    assert StudyRecord(work).best()["objective"] == OBJECTIVES[SECOND], "a row stays what the search saw"


def test_of_equal_means_the_higher_objective_wins(work: Workspace) -> None:
    measure(work, {number: [0.9, 0.91, 0.92] for number in (THIRD, SECOND, FIRST)})
    verdict = decide(work, trials(work))
    assert verdict is not None
    assert (verdict.winner, verdict.runner_up) == (FIRST, SECOND)
    assert verdict.lead.mean == verdict.lead.low == verdict.lead.high == 0
    assert not verdict.lead.is_above_zero


def test_nothing_is_decided_before_the_last_student(work: Workspace) -> None:
    measure(work, {FIRST: [0.5, 0.5, 0.5], SECOND: [0.9, 0.9, 0.9], THIRD: [0.5, 0.5]})
    assert decide(work, trials(work)) is None
    assert StudyRecord(work).best()["number"] == FIRST
    measure(work, {THIRD: [0.5, 0.5, 0.5]})
    assert StudyRecord(work).best()["number"] == SECOND


def test_more_seeds_or_contenders_open_the_decision_again(work: Workspace) -> None:
    measure(work, {FIRST: [0.9, 0.9, 0.9], SECOND: [0.9, 0.9, 0.8], THIRD: [0.9, 0.8, 0.8]})
    assert decide(work, trials(work)) is not None
    for more in (with_study(work, contender_seeds=4), with_study(work, contenders=4)):
        assert decide(more, trials(more)) is None


def test_contender_whose_files_were_deleted_counts_with_the_rows_that_it_has(work: Workspace) -> None:
    measure(work, {FIRST: [0.9, 0.9, 0.9], SECOND: [0.8, 0.8, 0.8]})
    for number in (SECOND, THIRD):
        work.artifacts.remove("generators", generator(work, number))
    assert contending(work) == [FIRST, SECOND, 3]


def test_verdict_says_whether_the_winner_is_ahead(work: Workspace) -> None:
    measure(work, {FIRST: [0.951, 0.949, 0.95], SECOND: [0.921, 0.92, 0.919], THIRD: [0.5, 0.5, 0.5]})
    verdict = decide(work, trials(work))
    assert verdict is not None
    assert verdict.text() == "95.0 ± 0.1 % (n = 3), ahead of trial 2 by 3.0 [2.8, 3.2] points"
    other = replace(work, study="other")
    for number, objective in enumerate((0.9, 0.8)):
        record = StudyRecord(other)
        record.write_trial(number, parameters(5 + number), result(objective))
        name = record.generator_of(parameters(5 + number))
        other.artifacts.write("generators", name, {"weights": b""}, {"wall_seconds": 1.0})
    measure(other, {5: [0.95, 0.94, 0.93], 6: [0.92, 0.95, 0.92]})
    verdict = decide(other, trials(other))
    assert verdict is not None
    assert verdict.text() == "94.0 ± 1.0 % (n = 3), not told apart from trial 1: 1.0 [-4.0, 6.0] points"


def test_interval_is_that_of_students_t_over_pairs() -> None:
    first, second = [0.95, 0.94, 0.93, 0.96], [0.92, 0.95, 0.92, 0.93]
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    interval = paired_interval([a - b for a, b in zip(first, second, strict=True)])
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.mean == pytest.approx(0.015)


def test_students_of_contenders_are_a_cost_of_their_study(work: Workspace) -> None:
    before = StudyRecord(work).cost()
    measure(work, {FIRST: [0.9, 0.9, 0.9], SECOND: [0.9, 0.9]})
    measure(replace(work, study="another"), {THIRD: [0.9]})
    after = StudyRecord(work).cost()
    assert before.contenders_seconds == 0.0
    assert after.contenders_seconds == 5 * 2.5
    assert after.spent_seconds == before.spent_seconds + 12.5
    assert after.saved_seconds == before.saved_seconds


def test_winner_stays_the_best_when_the_others_are_deleted_and_would_be_measured_anew(work: Workspace) -> None:
    measure(work, {FIRST: [0.8, 0.8, 0.8], SECOND: [0.9, 0.9, 0.9], THIRD: [0.7, 0.7, 0.7]})
    assert StudyRecord(work).best()["number"] == SECOND
    for number in (FIRST, THIRD, 3):
        work.artifacts.remove("generators", generator(work, number))
    more = with_study(work, contender_seeds=4)
    assert decide(more, trials(more)) is None
    assert StudyRecord(more).best()["number"] == SECOND


def test_a_few_equal_differences_prove_nothing() -> None:
    assert not paired_interval([0.007, 0.007]).is_above_zero
    assert paired_interval([0.007, 0.008, 0.007]).is_above_zero
