"""What the sections are made of, and what is left out of them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dim_ray.config import Config, DataConfig, StudyConfig, to_dict
from dim_ray.errors import StorageError
from dim_ray.reporting.cells import best_generators, measured_cells
from dim_ray.reporting.cost_figures import costs
from dim_ray.reporting.gallery import samples
from dim_ray.reporting.sections import _measured_fronts, make_report
from dim_ray.reporting.tables import leaderboard
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation, trial

GENERATORS = ("feed000011112222", "beef000011112222")


def test_every_group_is_in_the_leaderboard_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dim_ray.reporting.tables._MOST_ROWS", 3)
    names = [f"set{number}" for number in range(5)]
    Writer(str(tmp_path)).append_evaluations([evaluation(dataset=name, ipc=10) for name in names])
    [on_the_fly] = leaderboard(measured_cells(Reader(str(tmp_path)).evaluations()))
    assert [row[0] for row in on_the_fly.rows] == names


def test_fronts_have_only_generators_on_the_terms_of_the_best(tmp_path: Path) -> None:
    sizes = {GENERATORS[0]: 9000, GENERATORS[1]: 6000}
    rows = [evaluation(generator=name, stored_bytes=size) for name, size in sizes.items()]
    others = ({"architecture": "mlp"}, {"budget_fingerprint": "e" * 16}, {"quirks": "train_mode"}, {"labels": "soft"})
    rows += [evaluation(generator=f"{n:016x}", stored_bytes=7, **own) for n, own in enumerate([*others] * 3)]
    rows += [evaluation(generator=GENERATORS[0], weights="raw", stored_bytes=500, validation_accuracy=0.8)]
    Writer(str(tmp_path)).append_evaluations(rows)
    evaluations = Reader(str(tmp_path)).evaluations()
    best = replace(
        best_generators(evaluations)[0], architecture="convnet3", budget_fingerprint="b" * 4 + "000011112222"
    )
    [figure] = _measured_fronts(evaluations, [best])
    assert "2 of 3" in figure.caption
    assert [row[0] for row in figure.table.rows] == ["feed0000, raw", "beef0000"]


@pytest.mark.parametrize("text", [b"{", b"7", b'[["a"]]', b'{"a": 1}', b'["teachers/' + b"a" * 16 + b'"]'])
def test_damaged_list_of_networks_leaves_them_out_of_the_cost(tmp_path: Path, text: bytes) -> None:
    root = str(tmp_path)
    Writer(root).append_trial(trial())
    artifacts = ArtifactStore(root)
    artifacts.write("teachers", "a" * 16, {"x": b"1"}, {"of": "another version"})
    artifacts.write_bytes("studies/digits-small/networks.json", text)
    reader = Reader(root)
    [row] = costs(artifacts, reader.trials(), reader.evaluations(), reader.validations()).to_dict("records")
    assert (row["networks"], row["total"]) == (0.0, 12.0)


@pytest.mark.parametrize("filters", [{"ipc": 10}, {"architecture": "convnet3"}, {"protocol": "on_the_fly"}])
def test_cost_is_left_out_where_a_filter_limits_evaluations_and_not_trials(
    tmp_path: Path, filters: dict[str, object]
) -> None:
    Writer(str(tmp_path)).append_evaluations([evaluation(), evaluation(ipc=50, wall_seconds=100.0)])
    Writer(str(tmp_path)).append_trial(trial())
    reader, artifacts = Reader(str(tmp_path)), ArtifactStore(str(tmp_path))
    assert "cost" not in [section.key for section in make_report(reader, artifacts, filters).sections]
    assert "cost" in [section.key for section in make_report(reader, artifacts, {"dataset": "digits"}).sections]


def test_trials_of_a_data_set_make_a_page_before_it_has_evaluations(tmp_path: Path) -> None:
    config = json.dumps(to_dict(Config(data=DataConfig(dataset="mnist"))))
    Writer(str(tmp_path)).append_evaluations([evaluation()])
    Writer(str(tmp_path)).append_trial(trial(config_json=config))
    reader, artifacts = Reader(str(tmp_path)), ArtifactStore(str(tmp_path))
    report = make_report(reader, artifacts, {"dataset": "mnist"})
    assert (report.num_evaluations, report.num_trials) == (0, 1)
    for filters in ({"dataset": "mnist", "ipc": 10}, {"dataset": "svhn"}):
        with pytest.raises(StorageError, match="no evaluations with dataset"):
            make_report(reader, artifacts, filters)


def test_study_of_several_objectives_says_how_its_pareto_set_grew(tmp_path: Path) -> None:
    several = to_dict(Config(study=StudyConfig(objectives=("accuracy", "generator_bytes"), scheduler="none")))
    for number, (accuracy, size_bytes) in enumerate([(0.5, 10), (0.9, 30), (0.7, 20), (0.6, 30)]):
        own = {"number": number, "objective": accuracy, "generator_bytes": size_bytes, "generator": f"{number:016x}"}
        Writer(str(tmp_path)).append_trial(trial(config_json=json.dumps(several), **own))
    Writer(str(tmp_path)).append_evaluations([evaluation()])
    report = make_report(Reader(str(tmp_path)), ArtifactStore(str(tmp_path)), {})
    [section] = [section for section in report.sections if section.key == "pareto"]
    assert "the best values: 0 % after 1, 0 % after 2, 25 % after 4 completed trials." in str(section.text)


def test_damaged_picture_is_left_out(tmp_path: Path) -> None:
    Writer(str(tmp_path)).append_evaluations([evaluation()])
    [best] = best_generators(Reader(str(tmp_path)).evaluations())
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, format="PNG")
    artifacts, data = ArtifactStore(str(tmp_path)), whole.getvalue()
    for place in range(8, len(data), 37):
        damaged = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        artifacts.write_bytes(f"generators/{best.generator}/samples.png", damaged)
        samples(artifacts, best)  # Pillow raises errors of several kinds
    artifacts.write_bytes(f"generators/{best.generator}/samples.png", data[:33] + b"\0\0\0\1IDAT" + data[33:])
    assert samples(artifacts, best) is None
