from typing import Any

import pytest

from tests.support.lanes import is_for, keep_those_for

pytestmark = [pytest.mark.one_database, pytest.mark.one_lane]

LANES = ["mariadb", "sqlite", "postgres"]


class Item:
    def __init__(self, name: str, *marks: str) -> None:
        self.nodeid = f"tests/test_names.py::{name}"
        self._marks = [getattr(pytest.mark, mark)(True, reason="x").mark for mark in marks]

    def iter_markers(self) -> Any:
        return iter(self._marks)


def lanes_of(name: str, *marks: str) -> list[str]:
    item: Any = Item(name, *marks)
    return [lane for lane in LANES if is_for(item, lane, LANES)]


def test_a_new_test_runs_in_every_lane() -> None:
    assert lanes_of("test_new") == LANES
    assert lanes_of("test_new", "one_database") == LANES  # of which "make" leaves some out


def test_others_are_spread() -> None:
    found = [lanes_of(f"test_{number}", "one_lane") for number in range(50)]
    assert {len(each) for each in found} == {1}
    assert {each[0] for each in found} == set(LANES)


def test_those_for_one_database_run_where_these_do() -> None:
    marks = ("one_lane", "one_database")
    found = [lanes_of(f"test_{number}", *marks) for number in range(50)]
    assert {len(each) for each in found} == {1}
    assert {each[0] for each in found} == {"sqlite", "postgres"}


def test_a_test_that_may_be_skipped_runs_in_every_lane() -> None:
    assert lanes_of("test_lock", "one_lane", "skipif") == LANES


def test_cases_of_a_test_stay_together() -> None:
    found = [lanes_of(f"test_each[{number}]", "one_lane") for number in range(50)]
    assert found == [found[0]] * 50


def test_the_others_are_returned() -> None:
    items: Any = [Item(f"test_{number}", "one_lane") for number in range(50)]
    all_items = list(items)
    others = keep_those_for("sqlite", LANES, items)
    assert sorted([*items, *others], key=all_items.index) == all_items
    assert len(items) < len(others)
