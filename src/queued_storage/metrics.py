"""Prometheus metrics."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from . import signals
from .exceptions import MissingLibrary, TransferStalled
from .health import outside_transactions
from .ledger import measures
from .ledger.aliases import known_storages
from .ledger.availability import Availability, availabilities, beside_them, unclaimed
from .ledger.copy_counts import Lack, lacks
from .ledger.measures import Overdue, Settled, Unsettled
from .ledger.models import QueuedFile
from .ledger.preparations import Counted, PreparationState, counts
from .ledger.remotes import RemoteState
from .ledger.sql.clock import seconds_between
from .ledger.states import State
from .operations.space import Space, spaces
from .reporting.logs import logger
from .reporting.reasons import reason

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector
except ImportError as error:
    raise MissingLibrary("prometheus-client", "prometheus", "Exporting metrics") from error

TIMEOUT = 5.0  # seconds to wait for the ledger; Prometheus waits ten seconds for a scrape
SETTLED_EVERY = 300.0  # seconds between two counts of the transferred files

# Usually a moment, but as long as an outage of the remote
BUCKETS = (1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600)

GAUGES = {
    "files": ("Number of files in the ledger", ("storage", "state", "host")),
    "bytes": ("Size of these files", ("storage", "state", "host")),
    "local_bytes": ("Size of the transferred files that still have a local copy", ("storage",)),
    "oldest_pending_age_seconds": (
        "Time since the oldest pending or transferring file was saved",
        ("storage", "host"),
    ),
    "oldest_due_age_seconds": (
        "Age of the oldest due file that no worker has claimed",
        ("storage", "host"),
    ),
    "stuck_deletes": (
        "Number of deletes that failed more often than RETRIES allows for a transfer",
        ("storage",),
    ),
    "unpublished_files": (
        "Number of files whose steps have not all passed: waiting, held, rejected",
        ("storage", "state"),
    ),
    "oldest_step_age_seconds": (
        "Time since the oldest file that waits for its steps was saved",
        ("storage",),
    ),
    "remote_up": ("Whether files are uploaded to the remote; 0 while it is closed", ("storage",)),
    "remote_state": (
        "1 for the state that the remote is in, 0 for the others",
        ("storage", "state"),
    ),
    "other_remote_up": (
        "Whether a mirror or previous remote can be used; 0 while it is closed",
        ("storage", "place", "role"),
    ),
    "copies": ("Number of copies that mirrors lack", ("storage", "place", "state")),
    "local_side_bytes": (
        "Size of the local copies of a storage with limits: all, pending, evictable, and why "
        "others were not evicted",
        ("storage", "host", "kind"),
    ),
    "local_limit_bytes": ("max_bytes and max_pending_bytes", ("storage", "limit")),
    "local_disk_bytes": ("Size of the disk of a storage with limits", ("storage", "host")),
    "local_disk_free_bytes": ("Free space of that disk", ("storage", "host")),
    "local_full_seconds": ("Time since the local storage became full", ("storage", "host")),
    "refused_saves": ("Saves that were refused for lack of room", ("storage", "host")),
    "remote_saves": ("Files that were saved to the remote for lack of room", ("storage", "host")),
    "ledger_up": ("Whether the ledger responded to this scrape", ()),
    "ledger_query_seconds": ("Time that the ledger took to respond", ()),
}


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
            found = measures.in_time(_questions, self._timeout)
        except Exception as error:
            logger.error("The metrics of the ledger are not available: %s", reason(error))
            families["ledger_up"].add_metric((), 0)
            return [families["ledger_up"]]
        families["ledger_up"].add_metric((), 1)
        families["ledger_query_seconds"].add_metric((), time.monotonic() - started)
        known = _known_aliases()
        for alias in known:
            self._expect(alias)
        _add_unsettled(families, found.unsettled, known)
        _add_overdue(families, found.overdue, known)
        _add_remotes(families, found.remotes)
        _add_copies(families, found.lacking)
        _add_spaces(families, found.spaces)
        _add_unpublished(families, found.unpublished, known)
        _add_settled(families, self._settled_files())
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


Lacking = list[tuple[Availability, Lack]]


class _Answers(NamedTuple):
    unsettled: list[Unsettled]
    overdue: list[Overdue]
    remotes: list[Availability]
    lacking: Lacking
    spaces: list[Space]
    unpublished: list[Counted]


def _questions() -> _Answers:
    remotes = availabilities()
    in_use = [each for each in remotes if each.is_configured]
    return _Answers(
        measures.unsettled(), unclaimed(in_use), remotes, lacks(remotes), spaces(), counts()
    )


Families = dict[str, GaugeMetricFamily]


def _families() -> Families:
    return {
        name: GaugeMetricFamily(f"queued_storage_{name}", help_text, labels=labels)
        for name, (help_text, labels) in GAUGES.items()
    }


def _known_aliases() -> list[str]:
    """Return the aliases that have samples of zero, so that alerts notice the first file."""
    with suppress(Exception):
        return [storage.alias for storage in known_storages()]
    return []


def _add_unsettled(families: Families, rows: list[Unsettled], known: list[str]) -> None:
    ages: dict[tuple[str, str], float] = dict.fromkeys(((alias, "") for alias in known), 0.0)
    stuck = dict.fromkeys(known, 0)
    counts = {(alias, state, ""): (0, 0) for alias in known for state in measures.UNSETTLED}
    for row in rows:
        counts[row.alias, row.state, row.host] = (row.files, row.bytes)
        stuck[row.alias] = stuck.get(row.alias, 0) + row.stuck
        if row.state in (State.PENDING, State.TRANSFERRING):
            place = (row.alias, row.host)
            ages[place] = max(ages.get(place, 0.0), row.age)
    for labels, (files, size) in counts.items():
        families["files"].add_metric(labels, files)
        families["bytes"].add_metric(labels, size)
    for place, age in ages.items():
        families["oldest_pending_age_seconds"].add_metric(place, age)
    for alias, count in stuck.items():
        families["stuck_deletes"].add_metric((alias,), count)


def _add_overdue(families: Families, rows: list[Overdue], known: list[str]) -> None:
    ages = dict.fromkeys(((alias, "") for alias in known), 0.0)
    ages |= {(row.alias, row.host): row.age for row in rows}
    for place, age in ages.items():
        families["oldest_due_age_seconds"].add_metric(place, age)


def _add_remotes(families: Families, remotes: list[Availability]) -> None:
    for remote in beside_them(remotes):
        role = "mirror" if remote.is_mirror else "previous"
        labels = (remote.alias, remote.place, role)
        families["other_remote_up"].add_metric(labels, int(remote.is_open))
    for remote in remotes:
        if not remote.is_configured:
            continue
        families["remote_up"].add_metric((remote.alias,), int(remote.is_open))
        for state in {*RemoteState.values, remote.state}:
            families["remote_state"].add_metric((remote.alias, state), int(state == remote.state))


def _add_unpublished(families: Families, rows: list[Counted], known: list[str]) -> None:
    files = dict.fromkeys(((alias, state) for alias in known for state in PreparationState), 0)
    ages = dict.fromkeys(known, 0.0)
    for row in rows:
        files[row.alias, PreparationState(row.state)] = row.files
        if row.state == PreparationState.WAITING:
            ages[row.alias] = row.age
    for (alias, state), count in files.items():
        families["unpublished_files"].add_metric((alias, str(state)), count)
    for alias, age in ages.items():
        families["oldest_step_age_seconds"].add_metric((alias,), age)


def _add_copies(families: Families, lacking: Lacking) -> None:
    for mirror, lack in lacking:
        counts = {"due": lack.due, "waiting": lack.waiting, "failed": lack.failed}
        for state, count in counts.items():
            families["copies"].add_metric((mirror.alias, mirror.place, state), count)


def _add_spaces(families: Families, found: list[Space]) -> None:
    for space in found:
        labels = (space.alias, space.host)
        kinds = {"local": space.local, "pending": space.pending, "evictable": space.evictable}
        for kind, size in {**kinds, **space.kept}.items():
            families["local_side_bytes"].add_metric((*labels, kind), size)
        for limit in ("max_bytes", "max_pending_bytes"):
            if (most := getattr(space, limit)) is not None:
                families["local_limit_bytes"].add_metric((space.alias, limit), most)
        if space.disk is not None and space.free is not None:
            families["local_disk_bytes"].add_metric(labels, space.disk)
            families["local_disk_free_bytes"].add_metric(labels, space.free)
        families["local_full_seconds"].add_metric(labels, space.full_for)
        families["refused_saves"].add_metric(labels, space.refused)
        families["remote_saves"].add_metric(labels, space.written_through)


def _add_settled(families: Families, rows: list[Settled]) -> None:
    for row in rows:
        labels = (row.alias, str(State.TRANSFERRED), "")
        families["files"].add_metric(labels, row.files)
        families["bytes"].add_metric(labels, row.bytes)
        families["local_bytes"].add_metric((row.alias,), row.local_bytes)


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
        self.scraped.register(LedgerCollector(timeout, every, self._expect))
        if is_multiprocess:  # reads the counters of all processes from files
            MultiProcessCollector(self.scraped)
        self.counters = Counters(registry)
        self.counters.connect()

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
    if _exporter is None:
        raise ImproperlyConfigured(
            "The metrics are not installed. Call queued_storage.metrics.install() in the ready() "
            "method of an app, so that every process counts from its start."
        )
    return _exporter.scraped


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
