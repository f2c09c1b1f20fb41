"""Spans, exported by OpenTelemetry's SDK."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.files.base import ContentFile

from queued_storage.steps import LATER, REJECT, REPLACE
from queued_storage.tasks import TransferAndDelete
from tests.support.scripted import Step, file, make, make_due, row
from tests.support.stepping import Scanning, Scripted, gated, hurry, run

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from queued_storage import tracing
from queued_storage.ledger.database import ledger
from queued_storage.ledger.preparations import preparations
from queued_storage.reporting import spans
from queued_storage.transfers import leases

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]


class Failing(ContentFile):
    def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
        raise OSError("The source failed.")


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.instrument(provider)
    yield exporter
    tracing.uninstrument()
    provider.shutdown()


def named(exported: InMemorySpanExporter, name: str) -> ReadableSpan:
    [found] = [span for span in exported.get_finished_spans() if span.name == name]
    return found


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_save_attempt_evict_and_purge(exported: Any) -> None:
    storage = make(task=TransferAndDelete())
    name = storage.save("secret-name.txt", file(b"12345"))
    pk = row(storage, name).pk
    storage.queue.deliver()
    storage.delete(name)
    storage.queue.deliver()
    common = {"queued_storage.storage": storage.alias, "queued_storage.file": pk}
    work = {"queued_storage.attempt": 1, "queued_storage.bytes": 5}
    assert [(span.name, facts(span)) for span in exported.get_finished_spans()] == [
        ("queued_storage.save", common),
        ("queued_storage.attempt", common | work),
        ("queued_storage.evict", common | work),
        ("queued_storage.purge", common | work),
    ]
    assert all(span.status.is_unset for span in exported.get_finished_spans())
    assert all(span.parent is None for span in exported.get_finished_spans())
    assert "secret-name" not in "".join(span.to_json() for span in exported.get_finished_spans())


def test_a_failed_attempt_has_only_the_class(exported: Any) -> None:
    storage = make()
    storage.save("a.txt", file())
    storage.remote.refuses = True
    storage.queue.deliver()
    span = named(exported, "queued_storage.attempt")
    assert not span.status.is_ok
    assert not span.status.is_unset
    assert span.status.description is None
    assert facts(span)["error.type"] == "ConnectionError"
    assert not span.events


def test_a_failed_eviction_is_no_failed_attempt(exported: Any) -> None:
    storage = make(task=TransferAndDelete())
    name = storage.save("a.txt", file())

    def refuse(name: str) -> None:
        raise PermissionError("no")

    storage.local.delete = refuse
    try:
        storage.queue.deliver()
    finally:
        del storage.local.delete
    assert named(exported, "queued_storage.attempt").status.is_unset
    assert facts(named(exported, "queued_storage.evict"))["error.type"] == "PermissionError"
    assert row(storage, name).is_remote
    make_due(storage, name)
    storage.queue.deliver()


def test_a_superseded_attempt_is_no_error(exported: Any) -> None:
    storage = make(task=Step(lambda *sides: ledger().update(lease_token="another")))
    storage.save("a.txt", file())
    storage.queue.deliver()
    span = named(exported, "queued_storage.attempt")
    assert span.status.is_unset
    assert facts(span)["error.type"] == "LeaseLost"


def test_a_failed_save(exported: Any) -> None:
    storage = make()
    with pytest.raises(OSError, match="source"):
        storage.save("a.txt", Failing(b"abc"))
    span = named(exported, "queued_storage.save")
    assert facts(span)["error.type"] == "OSError"
    assert "queued_storage.file" not in facts(span)


def test_a_save_is_part_of_the_current_span(exported: Any) -> None:
    provider = TracerProvider()
    with provider.get_tracer("project").start_as_current_span("request") as request:
        make().save("a.txt", file())
    parent = named(exported, "queued_storage.save").parent
    assert parent
    assert parent.span_id == request.get_span_context().span_id


def test_each_run_of_a_step_is_a_span(exported: Any) -> None:
    outcomes = [OSError("no scanner"), LATER(0), REPLACE(b"other bytes")]
    storage = gated(Scripted(*outcomes), Scanning())
    name = storage.save("secret-name.txt", file(b"12345"))
    for _run in outcomes:
        hurry(storage)
        run(storage)
    first = {
        "queued_storage.storage": storage.alias,
        "queued_storage.file": row(storage, name).pk,
        "queued_storage.step": "tests.support.stepping.Scripted",
        "queued_storage.attempt": 1,
        "queued_storage.bytes": 5,
    }
    second = first | {"queued_storage.step": "tests.support.stepping.Scanning"}
    found = [each for each in exported.get_finished_spans() if each.name == "queued_storage.step"]
    assert [facts(each) for each in found] == [
        first | {"error.type": "OSError"},
        first | {"queued_storage.attempt": 2, "queued_storage.outcome": "later"},
        first | {"queued_storage.attempt": 2, "queued_storage.outcome": "replace"},
        second | {"queued_storage.bytes": 11, "queued_storage.outcome": "pass"},
    ]
    assert [each.status.is_unset for each in found] == [False, True, True, True]
    assert "secret-name" not in "".join(each.to_json() for each in found)


def test_a_superseded_step_is_no_error(exported: Any) -> None:
    def lose(given: Any) -> None:
        preparations().update(lease_token="another")
        for lease in leases._heart.leases():  # type: ignore[union-attr]  # beats, so there is one
            lease.beat()
        given.progress()

    storage = gated(Scripted(lose))
    storage.save("a.txt", file())
    run(storage)
    span = named(exported, "queued_storage.step")
    assert span.status.is_unset
    assert facts(span)["error.type"] == "LeaseLost"


def test_the_reason_of_a_rejection_stays_private(exported: Any) -> None:
    storage = gated(Scripted(REJECT("secret reason")))
    storage.save("a.txt", file())
    run(storage)
    span = named(exported, "queued_storage.step")
    assert facts(span)["queued_storage.outcome"] == "reject"
    assert "secret reason" not in span.to_json()


def test_it_works_without_an_sdk() -> None:
    tracing.instrument()
    try:
        storage = make()
        name = storage.save("a.txt", file())
        storage.queue.deliver()
        assert row(storage, name).is_remote
    finally:
        tracing.uninstrument()


def test_without_a_tracer_there_are_no_spans(exported: Any) -> None:
    tracing.uninstrument()
    make().save("a.txt", file())
    assert exported.get_finished_spans() == ()
    assert spans.span("one") is spans.span("another", storage="x")


def test_optional_libraries_are_not_imported() -> None:
    code = (
        "import django, sys; django.setup()\n"
        "from queued_storage import backends, serving, urls, testing, health\n"
        "doors = ('tracing', 'metrics', 'health_check')\n"
        "print('opentelemetry' in sys.modules,"
        " [door for door in doors if f'queued_storage.{door}' in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout == "False []\n"


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("tracing", "opentelemetry", "opentelemetry"),
        ("metrics", "prometheus_client", "prometheus"),
        ("health_check", "health_check", "health-check"),
    ],
)
def test_a_missing_library_names_its_extra(module: str, library: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "import django; django.setup()\n"
        f"import queued_storage.{module}"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MissingLibrary" in out.stderr
    assert f"pip install 'django-queued-storage[{extra}]'" in out.stderr
