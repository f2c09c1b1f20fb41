"""Prometheus metrics."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from . import signals
from .exceptions import MissingLibrary, TransferStalled
from .health import outside_transactions
from .ledger import measures
from .ledger.measures import Settled
from .ledger.models import QueuedFile
from .ledger.sql.clock import seconds_between
from .operations.gauges import GAUGES, ask, known_aliases, samples, settled
from .reporting.logs import logger
from .reporting.reasons import reason

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
except ImportError as error:
    raise MissingLibrary("prometheus-client", "prometheus", "Exporting metrics") from error

TIMEOUT = 5.0  # seconds to wait for the ledger; Prometheus waits ten seconds for a scrape
SETTLED_EVERY = 300.0  # seconds between two counts of the transferred files

# Usually a moment, but as long as an outage of the remote
BUCKETS = (1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)


class LedgerCollector:
    """Queries the ledger when it is scraped.

    All processes return the same numbers, so scrape only one of them. Transferred files are counted
    every ``settled_every`` seconds, or never if that is ``None``; all others at each scrape. If the
    ledger fails, or takes longer than ``timeout`` seconds, the scrape lacks these gauges only.
    """

    def __init__(
        self,
        timeout: float = TIMEOUT,
        settled_every: float | None = SETTLED_EVERY,
        expect: Callable[[str], object] = str,
    ) -> None:
        self._timeout = timeout
        self._settled_every = settled_every
        self._expect = expect  # called with each alias of this process
        self._settled: list[Settled] = []
        self._settled_due = 0.0
        self._counting = threading.Lock()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the metrics without samples, and without a query."""
        return _families().values()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        families = _families()
        started = time.monotonic()
        try:
            found = measures.in_time(ask, self._timeout)
        except Exception as error:
            logger.error("The metrics of the ledger are not available: %s", reason(error))
            families["ledger_up"].add_metric((), 0)
            return [families["ledger_up"]]
        families["ledger_up"].add_metric((), 1)
        families["ledger_query_seconds"].add_metric((), time.monotonic() - started)
        known = known_aliases()
        for alias in known:
            self._expect(alias)
        for name, labels, value in chain(samples(found, known), settled(self._settled_files())):
            families[name].add_metric(labels, value)
        return families.values()

    def _settled_files(self) -> list[Settled]:
        """Return the last counts, which are updated by one scrape at a time."""
        if self._settled_every is None or time.monotonic() < self._settled_due:
            return self._settled
        if self._counting.acquire(blocking=False):
            try:
                self._settled_due = time.monotonic() + self._settled_every
                self._settled = measures.in_time(measures.settled, self._timeout)
            except Exception as error:
                logger.warning("The transferred files could not be counted: %s", reason(error))
            finally:
                self._counting.release()
        return self._settled


Families = dict[str, GaugeMetricFamily]


def _families() -> Families:
    return {
        name: GaugeMetricFamily(f"queued_storage_{name}", help_text, labels=labels)
        for name, (help_text, labels) in GAUGES.items()
    }


class Counters:
    """Count the signals of this process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.transfers = self._counter("transfers", "Files transferred")
        self.transferred_bytes = self._counter("transferred_bytes", "Size of the files transferred")
        self.failures = self._counter("transfer_failures", "Failed attempts", "outcome")
        self.stalls = self._counter("stalls", "Attempts that hung until STALL_TIMEOUT")
        self.rejections = self._counter("rejections", "Files rejected by a step")
        self.evictions = self._counter("evictions", "Local copies evicted")
        self.evicted_bytes = self._counter("evicted_bytes", "Size of the local copies evicted")
        self.deletes = self._counter("deletes", "Files deleted, including both copies")
        self.durations = Histogram(
            "queued_storage_transfer_duration_seconds",
            "Time from a save until the file was transferred, including the time spent waiting",
            ("storage",),
            buckets=BUCKETS,
            registry=registry,
        )

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        names = ("storage", *labels)
        return Counter(f"queued_storage_{name}", help_text, names, registry=self._registry)

    def expect(self, alias: str) -> None:
        """Add samples of zero. Otherwise, the first count would be no increase for Prometheus."""
        for metric in (
            self.transfers,
            self.transferred_bytes,
            self.stalls,
            self.rejections,
            self.evictions,
            self.evicted_bytes,
            self.deletes,
            self.durations,
        ):
            metric.labels(alias)
        for outcome in ("retried", "parked"):
            self.failures.labels(alias, outcome)

    def connect(self) -> None:
        signals.file_transferred.connect(self._transferred, weak=False)
        signals.transfer_failed.connect(self._failed, weak=False)
        signals.file_rejected.connect(self._rejected, weak=False)
        signals.file_evicted.connect(self._evicted, weak=False)
        signals.file_deleted.connect(self._deleted, weak=False)

    def disconnect(self) -> None:
        signals.file_transferred.disconnect(self._transferred)
        signals.transfer_failed.disconnect(self._failed)
        signals.file_rejected.disconnect(self._rejected)
        signals.file_evicted.disconnect(self._evicted)
        signals.file_deleted.disconnect(self._deleted)

    def _transferred(self, queued_file: QueuedFile, **kwargs: Any) -> None:
        alias = queued_file.alias
        self.transfers.labels(alias).inc()
        self.transferred_bytes.labels(alias).inc(queued_file.size)
        if queued_file.transferred_at:
            taken = seconds_between(queued_file.saved_at, queued_file.transferred_at)
            self.durations.labels(alias).observe(max(taken, 0))

    def _failed(
        self, queued_file: QueuedFile, error: BaseException, will_retry: bool, **kwargs: Any
    ) -> None:
        outcome = "retried" if will_retry else "parked"
        self.failures.labels(queued_file.alias, outcome).inc()
        if isinstance(error, TransferStalled):
            self.stalls.labels(queued_file.alias).inc()

    def _rejected(self, queued_file: QueuedFile, **kwargs: Any) -> None:
        self.rejections.labels(queued_file.alias).inc()

    def _evicted(self, queued_file: QueuedFile, **kwargs: Any) -> None:
        self.evictions.labels(queued_file.alias).inc()
        self.evicted_bytes.labels(queued_file.alias).inc(queued_file.size)

    def _deleted(self, queued_file: QueuedFile, **kwargs: Any) -> None:
        self.deletes.labels(queued_file.alias).inc()


class _Exporter:
    """The collectors that ``install()`` has registered in this process."""

    def __init__(self, registry: CollectorRegistry, timeout: float, every: float | None) -> None:
        self.scraped = registry
        is_multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ  # as prometheus-client checks it
        if is_multiprocess:
            self.scraped = CollectorRegistry()
        # The ledger comes first, so that its storages have zeros in the same scrape.
        self.ledger = LedgerCollector(timeout, every, self._expect)
        self.scraped.register(self.ledger)
        if is_multiprocess:  # reads the counters of all processes from files
            MultiProcessCollector(self.scraped)
        self.counters = Counters(registry)
        self.counters.connect()

    def expect_known(self) -> None:
        for alias in known_aliases():
            self._expect(alias)

    def _expect(self, alias: str) -> None:
        self.counters.expect(alias)


_exporter: _Exporter | None = None


def install(
    registry: CollectorRegistry = REGISTRY,
    *,
    timeout: float = TIMEOUT,
    settled_every: float | None = SETTLED_EVERY,
) -> None:
    """Export the metrics of this process. Call it once, in the ``ready()`` method of an app.

    ``timeout`` and ``settled_every`` are those of ``LedgerCollector``.
    """
    global _exporter
    if _exporter is None:
        _exporter = _Exporter(registry, timeout, settled_every)


def scraped_registry() -> CollectorRegistry:
    """Return the registry to scrape.

    It is the registry of ``install()``. If ``PROMETHEUS_MULTIPROC_DIR`` is set, it is another one,
    with the counters of all processes.
    """
    return _installed().scraped


def _installed() -> _Exporter:
    if _exporter is None:
        raise ImproperlyConfigured(
            "The metrics are not installed. Call queued_storage.metrics.install() in the ready() "
            "method of an app, so that every process counts from its start."
        )
    return _exporter


@require_safe
@never_cache
@outside_transactions
def view(request: HttpRequest) -> HttpResponse:
    """Respond to a scrape. It requires no authentication, so only Prometheus may reach it."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(scraped_registry()), content_type=content_type)


def serve(port: int, address: str = "127.0.0.1") -> Any:
    """Serve the metrics at a port, in a thread. For workers, which have no web server.

    Return the server and its thread.
    """
    return start_http_server(port, address, scraped_registry())


# For ``worker --processes``


def serve_children(port: int, address: str, directory: str) -> Any:
    """Serve the ledger's metrics, with the counters of the processes that have this directory.

    These processes were started with ``PROMETHEUS_MULTIPROC_DIR``, which this one need not have.
    """
    registry = CollectorRegistry()
    registry.register(_installed().ledger)
    MultiProcessCollector(registry, directory)
    return start_http_server(port, address, registry)


def expect_known() -> None:
    """Add zeros for all storages of this process, which another process serves."""
    _installed().expect_known()


def forget_gauges(pid: int, directory: str) -> None:
    """Forget the gauges of a process that has ended. Its counters still count."""
    mark_process_dead(pid, directory)
