"""Everything that is wrong with a storage is found, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.upkeep.compaction import compact
from dim_ray.store.upkeep.verification import Verification, verify
from dim_ray.store.writer import Writer
from tests.helpers.altered_cards import edit_card
from tests.helpers.made_rows import evaluation, real_evaluation, trial

GENERATOR = evaluation()["generator"]


def fill(root: str) -> None:
    Writer(root).append_evaluations([evaluation(seed=seed) for seed in range(3)] + [real_evaluation()])
    Writer(root).append_trial(trial())
    ArtifactStore(root).write("generators", GENERATOR, {"generator.safetensors": b"weights"}, {"dataset": "digits"})
    ArtifactStore(root).write("teachers", "bbbb000011112222", {"snapshots.safetensors": b"more"}, {})
    ArtifactStore(root).write("datasets", "数据", {}, {"name": "数据", "digest": "dddd000011112222"})


def first_pack(root: Path) -> Path:
    return next((root / "evaluations").rglob("rows-*.parquet"))


def first_row(root: Path) -> Path:
    return min((root / "evaluations").rglob("*.parquet"))


def test_sound_storage_has_no_problems(root: str) -> None:
    fill(root)
    assert verify(root) == Verification(num_files=5, num_rows=5, num_artifacts=2, problems=())
    compact(root, settled_seconds=0)
    assert verify(root) == Verification(num_files=2, num_rows=5, num_artifacts=2, problems=())


def test_storage_that_is_not_there_has_no_problems(tmp_path: Path) -> None:
    assert verify(str(tmp_path / "nowhere")).num_files == 0


def test_generator_that_rows_name_and_that_is_gone_is_named_once(root: str) -> None:
    fill(root)
    Writer(root).append_evaluations([evaluation(seed=9, generator="ffff000011112222")])
    ArtifactStore(root).delete(f"generators/{GENERATOR}/card.json")
    ArtifactStore(root).delete(f"generators/{GENERATOR}/generator.safetensors")
    problems = verify(root).problems
    assert sum("generators/ffff000011112222 is missing in " in problem for problem in problems) == 1
    assert sum(GENERATOR in problem for problem in problems) == 1


def _flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
def test_any_bit_that_flips_in_a_pack_is_found(tmp_path: Path, place: float) -> None:
    fill(str(tmp_path))
    compact(str(tmp_path))
    pack = first_pack(tmp_path)
    _flip(pack, place)
    [problem] = verify(str(tmp_path)).problems
    assert str(pack) in problem


def test_bit_that_flips_in_the_values_of_a_row_is_found(tmp_path: Path) -> None:
    fill(str(tmp_path))
    path = first_row(tmp_path)
    column = pq.read_metadata(path).row_group(0).column(pq.read_schema(path).names.index("accuracy"))
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    [problem] = verify(str(tmp_path)).problems
    assert str(path) in problem


def _swap_rows(root: Path) -> None:
    first, second, *_ = sorted((root / "evaluations").rglob("*.parquet"))
    first.write_bytes(second.read_bytes())


def _truncate_artifact(root: Path) -> None:
    path = root / "generators" / GENERATOR / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _alter_artifact(root: Path) -> None:
    (root / "teachers/bbbb000011112222/snapshots.safetensors").write_bytes(b"mare")


def _rename_pack(root: Path) -> None:
    compact(str(root))
    pack = first_pack(root)
    os.rename(pack, pack.with_name("rows-4-0123456789abcdef.parquet"))


def _rewrite_name(root: Path) -> None:
    edit_card(root / "datasets/数据", lambda card: card.update(digest="0123456789abcdef"), is_sealed=False)


def _rewrite_version(root: Path) -> None:
    edit_card(root / "datasets/数据", lambda card: card.update(format_version=99))


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (_swap_rows, "doesn't hold the row of its name"),
        (_truncate_artifact, "generator.safetensors in .* is truncated"),
        (_alter_artifact, "snapshots.safetensors in .* was altered"),
        (_rename_pack, "its SHA-256 isn't the one in its name"),
        (lambda root: (root / "teachers/bbbb000011112222/card.json").unlink(), "there is no .*/teachers/bbbb"),
        (_rewrite_name, "card.json of .*/datasets/数据 was altered"),
        (_rewrite_version, "datasets/数据 was made by a newer version"),
        (lambda root: (root / "datasets/数据/card.json").write_text("{"), "card.json of .*/datasets/数据 isn't JSON"),
        (lambda root: (root / "trials/stray.parquet").write_bytes(b""), "stray.parquet isn't where rows"),
    ],
)
def test_each_kind_of_harm_is_named_and_the_rest_still_looked_at(
    tmp_path: Path, harm: Callable[[Path], object], problem: str
) -> None:
    fill(str(tmp_path))
    harm(tmp_path)
    Writer(str(tmp_path)).append_evaluations([evaluation(seed=9, generator="ffff000011112222")])
    problems = verify(str(tmp_path)).problems
    assert len(problems) == 2
    assert re.search(problem, problems[0])
    assert "ffff000011112222 is missing" in problems[1]


def test_what_a_killed_writer_or_compaction_leaves_is_no_problem(tmp_path: Path) -> None:
    fill(str(tmp_path))
    row = first_row(tmp_path)
    row.with_name(f".{row.name}.{'0' * 32}.tmp").write_bytes(b"PAR1")
    row.with_name(f"{row.stem}.aside-{'0' * 32}.parquet").write_bytes(row.read_bytes())
    assert verify(str(tmp_path)).problems == ()
