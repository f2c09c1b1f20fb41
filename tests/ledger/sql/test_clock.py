"""The database's clock, whatever the clock of the host and the time zones are."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.lookups import GreaterThan
from django.utils import timezone

from queued_storage.admin.overview import overview
from queued_storage.health import Limits, check
from queued_storage.ledger import measures
from queued_storage.ledger.database import ledger
from queued_storage.ledger.sql.clock import (
    DatabaseNow,
    database_time,
    in_utc,
    seconds_between,
    seconds_from_now,
)
from queued_storage.models import QueuedFile
from queued_storage.testing import drain
from tests.admin.pages import LIST, listed, staff
from tests.support.clocks import database_at, host_ahead, zones
from tests.support.command import run
from tests.support.rows import OLD, new_row
from tests.support.scripted import file, make, row

pytestmark = pytest.mark.django_db(transaction=True)

ZONES = {
    "UTC": {},
    "Kathmandu": {"django": "Asia/Kathmandu"},
    "naive": {"django": "Asia/Kathmandu", "use_tz": False},
    "naive west": {"django": "America/St_Johns", "use_tz": False},
    "database": {"django": "Europe/Berlin", "database": "Asia/Tokyo"},
    "database west": {"database": "America/Los_Angeles"},
}


@pytest.fixture(params=ZONES.values(), ids=ZONES)
def zone(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    with zones(**request.param):
        yield request.param


def test_the_database_and_django_agree_on_times(zone: dict[str, Any]) -> None:
    new_row()
    found = QueuedFile.objects.get()
    assert timezone.is_aware(found.saved_at) == zone.get("use_tz", True)
    assert abs(timezone.now() - found.saved_at) < timedelta(seconds=30)
    assert abs(in_utc(timezone.now()) - database_time("default")) < timedelta(seconds=30)
    assert ledger().due().exists()
    ledger().update(due_at=seconds_from_now(10))
    assert not ledger().due().exists()
    ledger().update(due_at=seconds_from_now(-0.5))
    assert ledger().due().exists()


def test_no_seconds_from_now_is_now() -> None:
    new_row()
    is_later = GreaterThan(seconds_from_now(0), DatabaseNow())  # time stands still in a statement
    assert not ledger().filter(is_later).exists()


def test_times_survive_the_database(zone: dict[str, Any]) -> None:
    new_row()
    later = timezone.now() + timedelta(days=1, microseconds=-timezone.now().microsecond)
    ledger().update(transferred_at=later)
    assert ledger().filter(transferred_at=later, transferred_at__gt=timezone.now()).count() == 1
    found = QueuedFile.objects.get()
    assert found.transferred_at == later
    found.save()
    assert QueuedFile.objects.get().transferred_at == later
    pk = ledger().record_local("one", "b.txt", OLD, later)
    assert QueuedFile.objects.get(pk=pk).saved_at == later


# What goes by the time


def ages() -> dict[str, Any]:
    """What users see of a few files, by the clock."""
    o = overview()
    page = staff("view_queuedfile").get(LIST).content.decode()
    dashboard = staff("view_queuedfile").get(f"{LIST}dashboard/").content.decode()
    return {
        "minutes": [minute.files for minute in o.total.minutes][:3],
        "oldest": re.findall(r'queued-age.*?queued-value">([^<]*)<', dashboard, re.S),
        "listed": {text.replace("\xa0", " ") for text in re.findall(r"<time.*?>(.*?)<", page)},
        "unsettled": [round(found.age / 600) for found in measures.unsettled()],
        "overdue": [round(found.age / 600) for found in measures.overdue()],
        "healthy": check(Limits(max_age=3600, max_overdue=3600)).is_well,
        "unhealthy": check(Limits(max_age=60)).is_well,
    }


CHOICES = [
    ["evict", "--older-than", "{}", "--dry-run"],
    ["cancel", "--older-than", "{}", "--dry-run"],
    ["retry", "--older-than", "{}", "--dry-run"],
    ["prune", "--older-than", "{}", "--dry-run"],
    ["status", "--check", "--max-age", "{}"],
]


def chosen(age: str) -> list[str]:
    found = []
    for verb in CHOICES:
        try:
            found.append(run(*(argument.format(age) for argument in verb)))
        except Exception as error:
            found.append(str(error))
    return found


def files() -> Any:
    storage = make()
    for name in ("a.txt", "b.txt"):
        storage.save(name, file())
    drain(storage)
    storage.save("pending.txt", file())
    return storage


EXPECTED = {
    "minutes": [2, 0, 0],
    "oldest": ["less than a minute"],
    "listed": {"less than a minute", "next now"},
    "unsettled": [0],
    "overdue": [0],
    "healthy": True,
    "unhealthy": True,
}


@pytest.mark.parametrize("hours", [-3, 3])
def test_the_clock_of_the_host_does_not_matter(hours: int) -> None:
    with host_ahead(hours=hours):
        storage = files()
        assert ages() == EXPECTED
        assert not any("1 file" in text or "2 files" in text for text in chosen("1h"))
        ledger().update(saved_at=seconds_from_now(-7200))
        assert [re.sub(r"\D*(\d).*", r"\1", text, flags=re.S) for text in chosen("1h")][:3] == [
            "2",
            "1",
            "1",
        ]
        assert "1 file has been pending" in chosen("1h")[-1]
        assert row(storage, "pending.txt").state == "pending"


@pytest.mark.parametrize(("ahead", "age"), [(-3, "1h"), (3, "1h"), (3, "0s")])
def test_new_file_is_no_orphan_despite_wrong_clock(ahead: int, age: str) -> None:
    storage = make()
    storage.local.save("new.txt", file())
    with host_ahead(hours=ahead):
        found = run("orphans", "local", "--older-than", age, "--storage", storage.alias)
    assert ("new.txt" in found) == (age == "0s")


def test_ages_and_choices_in_any_zone(zone: dict[str, Any]) -> None:
    files()
    assert ages() == EXPECTED
    assert not any("1 file" in text or "2 files" in text for text in chosen("1h"))
    assert "2 files would be evicted" in chosen("0s")[0]


# Summer and winter time

AUTUMN = datetime(2026, 10, 25, 1, tzinfo=UTC)  # 03:00 becomes 02:00 in Berlin
SPRING = datetime(2026, 3, 29, 1, tzinfo=UTC)  # 02:00 becomes 03:00
BERLIN = {
    "naive": {"django": "Europe/Berlin", "use_tz": False},
    "database": {"django": "UTC", "database": "Europe/Berlin"},
}


@pytest.fixture(params=BERLIN.values(), ids=BERLIN)
def berlin(request: pytest.FixtureRequest) -> Iterator[None]:
    with zones(**request.param):
        yield


change = pytest.mark.parametrize("moment", [AUTUMN, SPRING], ids=["autumn", "spring"])


def after(moment: datetime, seconds: float) -> Any:
    return database_at(moment + timedelta(seconds=seconds))


@change
def test_a_lease_lasts_as_long_as_ever(berlin: None, moment: datetime) -> None:
    with after(moment, -20):
        pk = new_row().pk
        first = ledger().claim(pk)
        assert first
    with after(moment, 30):
        assert ledger().claim(pk) is None
        assert ledger().renew(first, 1) == 1
    with after(moment, 85):
        assert ledger().claim(pk) is None
    with after(moment, 95):
        assert ledger().claim(pk)


@change
def test_a_retry_is_due_when_it_should_be(berlin: None, moment: datetime) -> None:
    with after(moment, -20):
        claimed = ledger().claim(new_row().pk)
        assert claimed
        ledger().postpone(claimed, 600, "away")
    with after(moment, 570):
        assert ledger().claim_due(1, ["one"]) == []
    with after(moment, 590):
        assert len(ledger().claim_due(1, ["one"])) == 1


@change
def test_ages_are_right_across_the_change(berlin: None, moment: datetime) -> None:
    with after(moment, -1200):
        storage = files()
    with after(moment, 1200):
        assert [round(found.age) for found in measures.unsettled()] == [2400]
        assert [round(found.age) for found in measures.overdue()] == [2400]
        assert check(Limits(max_age=2410)).is_well
        assert not check(Limits(max_age=2390)).is_well
        assert "2 files would be evicted" in chosen("39m")[0]
        assert "0 files would be evicted" in chosen("41m")[0]
    with after(moment, -600):
        assert [minute.files for minute in overview().total.minutes].index(2) in (9, 10)
    with after(moment, -400):
        assert [minute.files for minute in overview().total.minutes].index(2) == 13
    assert row(storage, "a.txt").transferred_at


def test_hours_that_come_twice_are_told_apart(berlin: None) -> None:
    if connection.vendor == "postgresql":
        pytest.skip("without USE_TZ, the driver returns naive times that do not say which it was")
    new_row()
    for seconds in (-1800, 1800):
        moment = AUTUMN + timedelta(seconds=seconds)
        ledger().update(saved_at=moment)
        found = QueuedFile.objects.get().saved_at
        assert in_utc(found) == moment
        ledger().update(saved_at=found)
        assert in_utc(QueuedFile.objects.get().saved_at) == moment
        assert seconds_between(found, found) == 0


def test_days_are_those_of_django(zone: dict[str, Any]) -> None:
    new_row()
    new_row("b.txt")
    today = timezone.localdate(database_time("default"))
    begin = datetime(today.year, today.month, today.day, 0, 0, 1)
    for name, time in (("a.txt", begin), ("b.txt", begin - timedelta(seconds=2))):
        moment = timezone.make_aware(time) if zone.get("use_tz", True) else time
        ledger().filter(name=name).update(saved_at=moment)
    day = {f"saved_at__{part}": getattr(today, part) for part in ("year", "month", "day")}
    assert listed(staff("view_queuedfile"), **day) == ["a.txt"]
