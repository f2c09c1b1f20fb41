"""The periods of the charts on the dashboard."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from pytest_django import Settings

from queued_storage.admin import plots
from queued_storage.admin.overview import Overview
from queued_storage.admin.plots import RANGES, Plot, range_of
from queued_storage.ledger.states import State
from queued_storage.ledger.throughput import (
    KEPT,
    MINUTE,
    QUARTER,
    Moment,
    Numbers,
    throughput,
)
from tests.admin.pages import text_of

pytestmark = pytest.mark.django_db

DASHBOARD = "/admin/queued_storage/queuedfile/dashboard/"
NOW = datetime(2026, 10, 25, 12, 7, 30, tzinfo=UTC)
NUMBERS = Numbers(files=2, bytes=2048, failures=1, pending=7)


def record(ago: float, numbers: Numbers = NUMBERS, alias: str = "default") -> None:
    moment = Moment(NOW - timedelta(seconds=ago), alias)
    throughput().start([moment])
    throughput().add(moment, numbers)


def drawn(key: str) -> list[Plot]:
    return plots.plots(Overview(NOW), range_of(key))


def values(plot: Plot) -> list[str]:
    return [bar.title.rpartition(": ")[2] for bar in plot.bars]


def test_fifteen_minutes_have_failures_and_pending_files() -> None:
    record(0)
    record(60)
    record(60, alias="archive")
    files, sizes, failures, pending = drawn("15m")
    assert (files.title, sizes.title) == ("Files per minute", "Bytes per minute")
    assert values(failures) == ["1", "2", *["0"] * 13]
    assert values(pending) == ["7", "14", *["0"] * 13]
    assert (failures.highest, failures.kind, pending.kind) == ("2", "failed", "pending")


@pytest.mark.parametrize("key", ["15m", "1w"])
def test_the_last_bar_has_the_files_that_are_pending_now(key: str) -> None:
    found = Overview(NOW)
    found.total.piles[State.PENDING].files = 8
    found.total.piles[State.TRANSFERRING].files = 1
    assert values(plots.plots(found, range_of(key))[3])[:2] == ["9", "0"]
    record(0, Numbers(pending=12))  # of which workers have finished some since
    assert values(plots.plots(found, range_of(key))[3])[:2] == ["12", "0"]


@pytest.mark.parametrize("key", ["3h", "1d", "1w"])
def test_longer_periods_add_up_what_was_recorded(key: str, settings: Settings) -> None:
    settings.TIME_ZONE = "UTC"
    period = range_of(key)
    record(0)
    record(period.seconds)
    record(period.seconds)
    record(period.seconds * period.bars + 900)  # before the period
    files, sizes, failures, pending = drawn(key)
    assert values(files)[:3] == ["2", "4", "0"]
    assert [title.replace("\xa0", " ") for title in values(sizes)[:2]] == ["2.0 KB", "4.0 KB"]
    assert values(failures)[:3] == ["1", "2", "0"]
    assert values(pending)[:3] == ["7", "7", "0"]
    assert {len(plot.bars) for plot in (files, sizes, failures, pending)} == {period.bars}
    assert sum(map(int, values(files))) == 6


def test_bars_name_their_time(settings: Settings) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    record(0)
    titles = [drawn(key)[2].bars[0].title.replace("\xa0", " ") for key in ("15m", "3h", "1w")]
    assert titles == ["1:07 p.m.: 1", "1:05 p.m.: 1", "10/25/2026 1 p.m.: 1"]


def test_what_is_kept_is_enough_for_each_period() -> None:
    for period in RANGES:
        kept = KEPT[MINUTE if period.seconds < QUARTER else QUARTER]
        assert kept.total_seconds() > period.seconds * period.bars


def test_an_unknown_period_is_the_shortest(viewer: Client) -> None:
    for query in ("", "?range=1w", "?range=%00", "?range=x&range=1w"):
        html = viewer.get(DASHBOARD + query).content.decode()
        [chosen] = re.findall(r'id="queued-range-(\w+)" aria-current="true"', html)
        assert chosen == ("1w" if query.endswith("1w") else "15m")
        assert f'data-url="{DASHBOARD}numbers/?range={chosen}"' in html


def test_without_the_table_only_the_rows_are_drawn(viewer: Client) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("queued_storage.ledger.throughput.schema.has_table", lambda model: False)
        assert [plot.title for plot in drawn("15m")] == ["Files per minute", "Bytes per minute"]
        assert drawn("1d") == []
        shown = text_of(viewer, f"{DASHBOARD}?range=1d")
        assert "Longer periods are recorded once manage.py migrate was run." in shown
