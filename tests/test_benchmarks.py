"""The page of the benchmarks matches the results of its run."""

import importlib
import json
import re
from pathlib import Path

import pytest
from benchmarks import GROUPS, SLOW, reasons, report
from benchmarks.rows import Row

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]


def test_page_matches_the_rows() -> None:
    found = json.loads(report.ROWS.read_text())
    assert report.PAGE.read_text() == report.page(found), "python -m benchmarks.report"
    text = report.COMPARISON.read_text()
    assert text == report.compared(text, found), "python -m benchmarks.report"


def test_figures_of_the_comparison_are_rows() -> None:
    rows = {row["what"] for row in json.loads(report.ROWS.read_text())["rows"]}
    text = report.COMPARISON.read_text()
    figures = re.findall(r"^\| (.+) \| [\d.,]+ x \|$", text, re.M)
    assert len(figures) > 5
    assert set(figures) <= rows


def test_each_plot_of_the_page_exists() -> None:
    plots = re.findall(r"\((_static/[^)]+)\)", report.PAGE.read_text())
    assert plots
    for plot in plots:
        assert (report.DOCS / plot).is_file(), plot


def test_each_plot_of_the_page_is_generated() -> None:
    drawing = (Path(report.__file__).parent / "plots.py").read_text()
    for name in report.PLOTS:
        assert f'    "{name}": ' in drawing, name


@pytest.mark.parametrize("group", [*GROUPS, *SLOW])
def test_each_group_is_a_module(group: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{group}").rows)


def test_reason_applies_to_rows_with_its_prefix() -> None:
    row = Row("workers.s5cmd.8.30ms", "far", goal=2, is_at_most=False, ratio=1)
    found = {"run": {"date": "", "cores": 2, "versions": {}}, "rows": [vars(row)]}
    assert f"far\n: {reasons.REASONS['workers.s5cmd']}" in report.page(found)


def test_each_missed_goal_has_a_reason() -> None:
    row = Row("unheard-of", "far", goal=2, is_at_most=False, ratio=1)
    found = {"run": {"date": "", "cores": 2, "versions": {}}, "rows": [vars(row)]}
    assert reasons.UNKNOWN in report.page(found)
    assert reasons.UNKNOWN not in report.PAGE.read_text(), "Add a reason to benchmarks.reasons"


def test_method_of_a_group_that_ran_is_told() -> None:
    run = {"date": "", "cores": 2, "versions": {}}
    rows = [vars(Row(key, key, goal=1, is_at_most=False, ratio=1)) for key in report.MORE_METHODS]
    page = report.page({"run": run, "rows": rows})
    assert all(text in page for text in report.MORE_METHODS.values())
    page = report.page({"run": run, "rows": [row | {"key": "servings"} for row in rows]})
    assert not any(text in page for text in report.MORE_METHODS.values())


@pytest.mark.parametrize(
    ("goal", "is_at_most", "ratio", "is_met"),
    [
        (2, True, 2.0, True),
        (2, True, 2.1, False),
        (2, False, 2.0, True),
        (2, False, 1.9, False),
        (2, True, None, False),
    ],
)
def test_a_goal_is_met(goal: float, is_at_most: bool, ratio: float | None, is_met: bool) -> None:
    assert Row("key", "what", goal, is_at_most, ratio).is_met is is_met
