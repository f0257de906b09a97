from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import results
from dim_ray.pipeline.evaluations import plan_evaluations
from tests.helpers.small import build_networks, distil, make_work
from tests.helpers.small import evaluate as evaluate_plan


def test_page_has_the_tables_of_the_recorded_rows() -> None:
    assert f"\n\n{results.tables(pd.read_parquet(results.RESULTS))}\n\n" in results.PAGE.read_text(encoding="utf-8")


def test_storage_is_added_to_the_rows_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(tmp_path / "storage")
    build_networks(work)
    generator = distil(work)
    for plan in plan_evaluations(work, generator):
        evaluate_plan(work, plan)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.parquet")
    monkeypatch.setattr(results, "PAGE", page)
    for _ in range(2):  # twice: rows are added once
        results.main(["add", str(tmp_path / "storage")])
    rows = pd.read_parquet(results.RESULTS)
    assert rows["id"].is_unique
    cards = [
        work.artifacts.read_card(kind, name)
        for kind in ("generators", "priors", "teachers")
        for name in work.artifacts.list(kind)
    ]
    assert rows["making_seconds"].dropna().unique() == pytest.approx(sum(card["wall_seconds"] for card in cards))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "### tiny\n\nGenerator: paper" in text
    number = r"\d+\.\d ± \d+\.\d"
    lines = re.findall(rf"\| (on the fly|fixed) \| \S+ \| (\d) \| [\d,]+ \| 2 \| {number} \| {number} \|", text)
    assert lines == [("on the fly", "1"), ("on the fly", "2"), ("fixed", "1"), ("fixed", "2")]
