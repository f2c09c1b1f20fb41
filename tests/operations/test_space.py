"""How full local storages are, in every place that shows it."""

import json
from typing import Any

import pytest
from django.core.management import CommandError
from django.test import Client

from queued_storage import health
from queued_storage.health import Limits
from queued_storage.ledger.localsides import local_sides
from queued_storage.operations import space
from queued_storage.transfers import evicting
from tests.admin.pages import staff
from tests.support.command import run
from tests.support.scripted import file, make

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A storage whose pending files have reached their limit a minute ago."""
    monkeypatch.setattr(evicting, "EVERY", 0.0)
    monkeypatch.setattr(evicting, "COST", 0)
    storage = make(
        alias="photos",
        keep_local={"max_bytes": "4k", "min_age": "1h"},
        max_pending_bytes="1k",
    )
    storage.save("young.bin", file(b"y" * 4000))
    storage.queue.deliver()
    storage.save("pending.bin", file(b"p" * 1024))
    evicting.keep_within_limits(storage)
    local_sides().add("photos", "refused", 2)
    local_sides().add("photos", "written_through", 1)
    return storage


@pytest.fixture(autouse=True)
def large_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the first file although it is larger than the limit."""
    from queued_storage.storage import sums

    sums._sums.clear()
    monkeypatch.setattr(sums.Sum, "take", lambda self, size, limit: 0)


def test_status_says_how_full_and_of_what(full: Any) -> None:
    out = run("status")
    [line] = [line for line in out.splitlines() if " local: " in line]
    assert line.startswith("  photos ")
    assert "4.9 KB of 4.0 KB in local copies" in line
    assert "1.0 KB of 1.0 KB pending" in line
    assert "0 bytes evictable" in line
    assert "3.9 KB read or saved within min_age" in line
    assert "1 file saved to the remote" in line
    assert "2 saves refused" in line
    assert "The local storage of 'photos' has been full since" in out


def test_status_as_json(full: Any) -> None:
    [found] = json.loads(run("status", "--json"))["local"]
    assert (found["local"], found["pending"], found["evictable"]) == (5024, 1024, 0)
    assert found["kept"] == {"young": 4000, "uncopied": 0, "open": 0, "failed": 0}
    assert found["full_since"]
    assert (found["refused"], found["written_through"]) == (2, 1)


def test_a_full_local_storage_fails_the_check(full: Any) -> None:
    with pytest.raises(CommandError, match="max_pending_bytes is 1,024") as raised:
        run("status", "--check")
    assert raised.value.returncode == 1
    full.queue.deliver()
    full.delete("young.bin")
    full.queue.deliver()
    evicting.keep_within_limits(full)
    run("status", "--check")


def test_the_health_check_has_a_limit(full: Any) -> None:
    local_sides().update(full_since="2001-01-01T00:00Z")
    assert health.check().is_well
    [problem] = health.check(Limits(max_full=60)).problems
    assert problem.startswith("A local storage has been full for")
    assert "photos" not in problem
    assert Client().get("/queued/health/?max_full=60").status_code == 503
    local_sides().update(measured_at="2001-01-01T00:00Z")  # the limits were removed
    assert health.check(Limits(max_full=60)).is_well


def test_metrics(full: Any) -> None:
    pytest.importorskip("prometheus_client")
    from queued_storage.metrics import LedgerCollector

    local_sides().update(full_since="2001-01-01T00:00Z")
    samples = {
        (sample.name.removeprefix("queued_storage_"), *sample.labels.values()): sample.value
        for family in LedgerCollector(settled_every=None).collect()
        for sample in family.samples
    }
    assert samples["local_side_bytes", "photos", "", "pending"] == 1024
    assert samples["local_side_bytes", "photos", "", "young"] == 4000
    assert samples["local_limit_bytes", "photos", "max_bytes"] == 4096
    assert samples["local_limit_bytes", "photos", "max_pending_bytes"] == 1024
    assert samples["local_full_seconds", "photos", ""] > 1e8
    assert samples["local_disk_bytes", "photos", ""] > 0
    assert samples["refused_saves", "photos", ""] == 2
    assert samples["remote_saves", "photos", ""] == 1


def test_the_dashboard_shows_it(full: Any) -> None:
    page = staff("view_queuedfile").get("/admin/queued_storage/queuedfile/dashboard/")
    html = page.content.decode().replace("\xa0", " ")
    assert "The local storage of photos has been full for less than a minute." in html
    assert "1.0 KB of 1.0 KB" in html
    assert "3.9 KB too young" in html


def test_storages_without_limits_are_not_shown() -> None:
    make()
    assert space.spaces() == []
    assert " local: " not in run("status")
