"""The metrics, exported and parsed by prometheus-client."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from queued_storage.exceptions import TransferError, TransferStalled
from queued_storage.ledger import measures
from queued_storage.ledger.database import ledger
from queued_storage.ledger.priorities import PRIORITIES
from queued_storage.ledger.remotes import RemoteState
from queued_storage.ledger.sql.clock import DatabaseNow
from queued_storage.ledger.states import State
from queued_storage.signals import transfer_failed
from queued_storage.tasks import TransferAndDelete
from tests.support.outages import close, registered
from tests.support.scripted import LONG_AGO, file, make, make_due, row
from tests.support.waiting import until

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from queued_storage import metrics

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

Labels = dict[str, str]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[CollectorRegistry]:
    """A registry with the metrics installed, which counts transferred files at each scrape."""
    monkeypatch.setattr(metrics, "_exporter", None)
    registry = CollectorRegistry(auto_describe=True)
    metrics.install(registry, settled_every=0)
    assert metrics._exporter
    yield registry
    metrics._exporter.counters.disconnect()


Value = Callable[..., float | None]


@pytest.fixture
def value(registry: CollectorRegistry) -> Value:
    """The current value of a sample."""

    def value(name: str, **labels: str) -> float | None:
        found: float | None = registry.get_sample_value(f"queued_storage_{name}", labels)
        return found

    return value


def test_files_and_bytes(value: Value) -> None:
    storage = make()
    storage.save("a.txt", file(b"12345"))
    storage.save("b.txt", file(b"123"))
    place = {"storage": storage.alias, "host": ""}
    assert value("files", state="pending", **place) == 2
    assert value("bytes", state="pending", **place) == 8
    assert value("files", state="failed", **place) == 0
    storage.queue.deliver()
    assert value("files", state="pending", **place) == 0
    assert value("files", state="transferred", **place) == 2
    assert value("bytes", state="transferred", **place) == 8
    assert value("local_bytes", storage=storage.alias) == 8


def test_ages(value: Value) -> None:
    storage = make()
    place = {"storage": storage.alias, "host": ""}
    assert storage.alias
    assert value("oldest_pending_age_seconds", **place) == 0
    assert value("oldest_due_age_seconds", **place) == 0
    name = storage.save("a.txt", file())
    ledger().update(saved_at=DatabaseNow() - timedelta(hours=1))
    assert 3600 <= (value("oldest_pending_age_seconds", **place) or 0) < 3660
    ledger().update(due_at=DatabaseNow() - timedelta(minutes=1))
    assert 60 <= (value("oldest_due_age_seconds", **place) or 0) < 120
    ledger().update(state=State.FAILED, due_at=None)
    assert value("oldest_pending_age_seconds", **place) == 0
    assert row(storage, name)


def test_hosts(value: Value, settings: Any) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"LOCAL_PER_HOST": True, "HOST": "web-1"}
    storage = make()
    storage.save("a.txt", file())
    make_due(storage, "a.txt")
    place = {"storage": storage.alias, "host": "web-1"}
    assert value("files", state="pending", **place) == 1
    assert (value("oldest_due_age_seconds", **place) or 0) > 1000
    assert value("oldest_due_age_seconds", storage=storage.alias, host="") == 0


def test_stuck_deletes(value: Value) -> None:
    storage = make()
    assert storage.alias
    assert value("stuck_deletes", storage=storage.alias) == 0
    storage.save("a.txt", file())
    ledger().update(state=State.DELETING, attempts=99)
    assert value("stuck_deletes", storage=storage.alias) == 1


@pytest.mark.parametrize("state", [RemoteState.AWAY, RemoteState.REFUSED, RemoteState.PAUSED])
def test_remotes(value: Value, state: str) -> None:
    storage = make()
    label = {"storage": storage.alias}
    assert value("remote_up", **label) == 1
    assert value("remote_state", state="open", **label) == 1
    assert value("remote_state", state=state, **label) == 0
    storage.save("a.txt", file())
    ledger().update(due_at=LONG_AGO)
    close(storage, state)
    assert value("remote_up", **label) == 0
    assert value("remote_state", state="open", **label) == 0
    assert value("remote_state", state=state, **label) == 1
    # Nobody can work on its files, so nobody neglects them.
    assert value("oldest_due_age_seconds", host="", **label) == 0
    registered(storage).resume() or registered(storage).reopen()
    assert value("remote_up", **label) == 1
    assert (value("oldest_due_age_seconds", host="", **label) or 0) < 60


def test_an_unknown_alias_is_counted(value: Value) -> None:
    storage = make()
    storage.save("a.txt", file())
    ledger().update(alias="gone", due_at=LONG_AGO)
    assert value("files", storage="gone", state="pending", host="") == 1
    assert (value("oldest_due_age_seconds", storage="gone", host="") or 0) > 1000
    assert value("stuck_deletes", storage="gone") == 0


def test_counters_of_this_process(value: Value) -> None:
    storage = make(task=TransferAndDelete())
    name = storage.save("a.txt", file(b"12345"))
    ledger().update(saved_at=DatabaseNow() - timedelta(seconds=45))
    storage.queue.deliver()
    label = {"storage": storage.alias}
    assert value("transfers_total", **label) == 1
    assert value("transferred_bytes_total", **label) == 5
    assert value("evictions_total", **label) == 1
    assert value("evicted_bytes_total", **label) == 5
    assert value("deletes_total", **label) == 0
    assert value("transfer_duration_seconds_count", **label) == 1
    assert value("transfer_duration_seconds_bucket", **label, le="30.0") == 0
    assert value("transfer_duration_seconds_bucket", **label, le="60.0") == 1
    storage.delete(name)
    storage.queue.deliver()
    assert value("deletes_total", **label) == 1
    assert value("transfers_total", **label) == 1


def test_stalls(value: Value) -> None:
    storage = make()
    storage.save("a.txt", file())
    label = {"storage": storage.alias}
    for error in (TransferStalled("hangs"), TransferError("fails")):
        transfer_failed.send(
            type(storage), queued_file=ledger().get(), error=error, will_retry=True
        )
    assert value("stalls_total", **label) == 1
    assert value("transfer_failures_total", **label, outcome="retried") == 2


def test_failures(value: Value, settings: Any) -> None:
    settings.QUEUED_STORAGE = settings.QUEUED_STORAGE | {"RETRIES": 1}
    storage = make()
    storage.remote.rejects = True
    storage.save("a.txt", file())
    storage.queue.deliver()
    label = {"storage": storage.alias}
    assert value("transfer_failures_total", **label, outcome="retried") == 1
    assert value("transfer_failures_total", **label, outcome="parked") == 0
    make_due(storage, "a.txt")
    storage.queue.enqueue([row(storage, "a.txt").pk])
    storage.queue.deliver()
    assert value("transfer_failures_total", **label, outcome="parked") == 1


def test_counters_start_at_zero(value: Value) -> None:
    label = {"storage": make().alias}
    value("ledger_up")
    for name in ("transfers", "transferred_bytes", "evictions", "evicted_bytes", "deletes"):
        assert value(f"{name}_total", **label) == 0
    assert value("transfer_duration_seconds_count", **label) == 0


# Failures


def test_an_unavailable_ledger_costs_its_gauges_only(
    registry: Any, value: Value, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OperationalError("postgres://app:hush@db.internal/x is away")

    storage = make()
    storage.save("a.txt", file())
    assert value("ledger_up") == 1
    storage.queue.deliver()
    monkeypatch.setattr(measures, "unsettled", refuse)
    text = generate_latest(registry).decode()
    assert value("ledger_up") == 0
    assert "queued_storage_files{" not in text
    assert value("transfers_total", storage=storage.alias) == 1
    assert "hush" not in text + caplog.text
    assert "are not available" in caplog.text


def test_a_scrape_does_not_wait_for_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(measures, "overdue", lambda: released.wait(30))
    try:
        [up] = metrics.LedgerCollector(timeout=0.05).collect()
    finally:
        released.set()
    assert [(sample.name, sample.value) for sample in up.samples] == [
        ("queued_storage_ledger_up", 0)
    ]


def counted(collector: Any) -> float:
    """The number of transferred files of all storages."""
    families = {family.name: family for family in collector.collect()}
    return sum(
        sample.value
        for sample in families["queued_storage_files"].samples
        if sample.labels["state"] == "transferred"
    )


def test_transferred_files_are_counted_rarely() -> None:
    storage = make()
    collector = metrics.LedgerCollector()
    storage.save("a.txt", file())
    storage.queue.deliver()
    assert counted(collector) == 1
    storage.save("b.txt", file())
    storage.queue.deliver()
    assert counted(collector) == 1
    collector._settled_due = 0
    assert counted(collector) == 2
    assert counted(metrics.LedgerCollector(settled_every=None)) == 0


def test_a_failed_count_keeps_the_last_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = make()
    storage.save("a.txt", file())
    storage.queue.deliver()
    collector = metrics.LedgerCollector(settled_every=0)
    assert counted(collector) == 1

    def refuse() -> None:
        raise OperationalError("canceling statement due to statement timeout")

    monkeypatch.setattr(measures, "settled", refuse)
    assert counted(collector) == 1
    assert "could not be counted" in caplog.text


def test_registering_makes_no_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "in_time", None)
    CollectorRegistry(auto_describe=True).register(metrics.LedgerCollector())


def test_queries_of_a_scrape() -> None:
    storage = make()
    storage.save("a.txt", file())
    with CaptureQueriesContext(connection) as captured:
        measures.unsettled()
        measures.overdue()
    # The first alias, no second one, unsettled files; the same for due files, of each priority
    assert len(captured) == 3 + 2 + len(PRIORITIES)


# Output


def families(registry: Any) -> list[Any]:
    return list(text_string_to_metric_families(generate_latest(registry).decode()))


def test_names_and_labels_follow_the_conventions(registry: Any) -> None:
    storage = make(task=TransferAndDelete())
    storage.save("private-name.txt", file())
    storage.queue.deliver()
    text = generate_latest(registry).decode()
    assert "private" not in text
    for family in registry.collect():
        assert re.fullmatch(r"queued_storage_[a-z_]+", family.name)
        assert family.documentation
        is_total = any(sample.name.endswith("_total") for sample in family.samples)
        assert is_total == (family.type == "counter")
        for sample in family.samples:
            assert set(sample.labels) <= {"storage", "state", "host", "outcome", "le"}


def test_promtool_has_no_complaints(registry: Any) -> None:
    promtool = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed")
    make().save("a.txt", file())
    answer = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True
    )
    assert (answer.returncode, answer.stderr) == (0, b"")


def test_labels_are_escaped(registry: Any) -> None:
    alias = 'odd "one"\n\\'
    make(alias=alias).save("a.txt", file())
    found = {
        sample.labels["storage"]
        for family in families(registry)
        for sample in family.samples
        if family.name == "queued_storage_files"
    }
    assert alias in found


def test_the_view(registry: Any, client: Client, settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.support.metrics_urls"
    storage = make()
    storage.save("a.txt", file())
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    names = [family.name for family in text_string_to_metric_families(answer.content.decode())]
    assert "queued_storage_files" in names
    assert client.post("/metrics").status_code == 405
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    names = [family.name for family in openmetrics(answer.content.decode())]
    assert "queued_storage_transfers" in names


def test_a_scrape_of_a_worker(registry: Any) -> None:
    storage = make()
    storage.save("a.txt", file())
    server, thread = metrics.serve(0)
    try:
        with urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    assert f'queued_storage_files{{host="",state="pending",storage="{storage.alias}"}} 1.0' in text


def test_a_scrape_of_the_worker_command(child_environment: Any, spawn: Any) -> None:
    command = [sys.executable, "-m", "django", "queued_storage", "worker", "--poll", "0.05"]
    worker = spawn(
        [*command, "--metrics", "0"], env=child_environment, stdout=subprocess.PIPE, text=True
    )
    address = worker.stdout.readline().removeprefix("Metrics at ").strip(".\n")

    def scrape() -> str:
        with urlopen(address, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    done = 'queued_storage_transfers_total{storage="default"}'
    assert f"{done} 0.0" in scrape()
    name = storages["default"].save("a.txt", file())
    until(lambda: f"{done} 1.0" in scrape())
    assert storages["default"].using_remote(name)
    worker.terminate()
    assert worker.wait(30) == 0


@pytest.mark.parametrize("wrong", ["nine", "localhost:", "1:99999", ":-1"])
def test_an_invalid_address_is_an_error(wrong: str) -> None:
    with pytest.raises(CommandError, match=r"is not a valid \[ADDRESS:\]PORT"):
        call_command("queued_storage", "worker", "--metrics", wrong)


def test_an_address_in_use_is_an_error(registry: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match="cannot be served"):
            call_command("queued_storage", "worker", "--until-empty", "--metrics", str(port))


def test_metrics_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_exporter", None)
    with pytest.raises(Exception, match=r"Call queued_storage\.metrics\.install\(\)"):
        metrics.scraped_registry()


def test_a_second_install_changes_nothing(registry: Any, value: Value) -> None:
    metrics.install()
    metrics.install(registry)
    storage = make()
    storage.save("a.txt", file())
    storage.queue.deliver()
    assert value("transfers_total", storage=storage.alias) == 1


# Several processes

WORKER = """
import sys, django
django.setup()
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from queued_storage import metrics
from queued_storage.transfers import work
metrics.install()
if sys.argv[1] == "work":
    storage = storages["default"]
    name = storage.save("a.txt", ContentFile(b"12345"))
    work.run(storage.queued_file(name).pk)
else:
    from prometheus_client import generate_latest
    print(generate_latest(metrics.scraped_registry()).decode())
"""


def test_the_counters_of_all_processes(child_environment: dict[str, str], tmp_path: Path) -> None:
    environment = child_environment | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(what: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", WORKER, what],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    for _process in range(2):
        run("work")
    text = run("scrape")
    assert 'queued_storage_transfers_total{storage="default"} 2.0' in text
    assert 'queued_storage_transferred_bytes_total{storage="default"} 10.0' in text
    assert 'queued_storage_files{host="",state="transferred",storage="default"} 2.0' in text
    assert text.count("# TYPE queued_storage_files ") == 1
