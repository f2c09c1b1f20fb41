"""``worker`` and ``sweep``: get due files transferred."""

import gc
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

from django.core.management.base import CommandError
from django.db import connections

from ... import maintenance
from ...ledger import measures
from ...ledger.aliases import known_storages
from ...ledger.database import ledger
from ...ledger.jobs import are_available, jobs
from ...queues.jobs import JobThreads
from ...reporting.counts import counted
from ...runtime import ending, hung
from ...runtime.channels import Parent
from ...runtime.stopping import Signals
from ...transfers import copying, preparing, probing, surplus
from ...transfers.executor import Executor
from ...transfers.gates import gates
from ...transfers.pacing import limited_to
from ..quantities import parse_rate
from .base import Verb, require_ledger
from .processes import explained, follow, run_processes
from .selection import add_dry_run
from .typos import require_alias

OLD_COPIES = 100  # whose objects are removed at once
JOB_WAIT = 10.0  # seconds for which a worker that stops waits for the file of a job
COLLECTIONS = (10_000, 20, 50)  # thresholds of the garbage collector in a worker


class Worker(Verb):
    name = "worker"
    help = "upload due files until interrupted"
    needs_ledger = False  # waits for the migrations
    _prefix = ""  # of what it says

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--threads",
            type=int,
            default=4,
            help="number of files to process in parallel, per storage (default: 4)",
        )
        parser.add_argument(
            "--processes",
            type=int,
            default=1,
            help="number of processes; with more than one, a parent process replaces those that "
            "end, and each has the threads of --threads (default: 1)",
        )
        parser.add_argument(
            "--poll",
            type=float,
            default=1,
            help="seconds to wait before querying the ledger again when there is nothing to do "
            "(default: 1)",
        )
        parser.add_argument(
            "--exit-wait",
            type=float,
            default=20,
            help="seconds that transfers in progress may take after a signal; then they are "
            "returned to the ledger (default: 20)",
        )
        parser.add_argument(
            "--max-rate",
            metavar="SIZE",
            type=parse_rate,
            help="upload at most so many bytes per second, for example 10M, in all threads of this "
            "worker together; of several processes, each gets an equal share (default: the setting "
            "MAX_RATE, which is for each process)",
        )
        parser.add_argument(
            "--until-empty", action="store_true", help="exit as soon as no file is due"
        )
        parser.add_argument(
            "--metrics",
            metavar="[ADDRESS:]PORT",
            type=_address,
            help="serve Prometheus metrics there; the IP address defaults to 127.0.0.1",
        )

    def run(self, options: dict[str, Any]) -> None:
        _require_valid(options)
        parent = Parent.of_this_process()
        if parent is None and options["processes"] > 1:
            run_processes(options, self.stdout)
            return
        if options["until_empty"]:
            require_ledger()
        stops: SimpleQueue[None] = SimpleQueue()
        rate = options["max_rate"] and options["max_rate"] / options["processes"]
        with Signals(lambda: stops.put(None)), _rare_collections(), limited_to(rate):
            if parent:
                follow(parent, lambda: stops.put(None))
                self._prefix = f"Process {parent.number}: "
            if options["metrics"]:
                self._export_metrics(parent, *options["metrics"])
            self._transfer(options, stops, parent)
        self._say("Stopped.")

    def _say(self, text: str) -> None:
        self.stdout.write(f"{self._prefix}{text}")
        self.stdout.flush()  # a log would have it only when the worker ends

    def _transfer(
        self, options: dict[str, Any], stops: "SimpleQueue[None]", parent: Parent | None
    ) -> None:
        if options["until_empty"]:
            probing.probe_closed(_aliases())
        executor = Executor(options["threads"], options["poll"], _aliases)
        executor.start()
        job_threads = JobThreads(options["poll"], _aliases)
        job_threads.start()
        is_empty = False
        try:
            self._say(f"Transferring files of {', '.join(_aliases()) or 'no storage'}.")
            if parent:
                parent.tell_begun()
            while not (is_empty or executor.is_exhausted or _wait(stops, options["poll"])):
                # What was claimed at the first question may make something else due by the last.
                is_empty = (
                    options["until_empty"]
                    and not self.is_due()
                    and executor.is_idle()
                    and job_threads.is_idle()
                    and not self.is_due()
                )
                connections.close_all()
            while is_empty and surplus.dispose_due(OLD_COPIES, stops.empty):
                pass
        finally:  # the ledger may be unreachable; running transfers are finished
            # The executor may have claimed files since it was idle.
            timeout = None if is_empty else options["exit_wait"]
            _stop(executor, job_threads, timeout, gives_back=not is_empty)
        if executor.is_exhausted:
            raise CommandError(
                "Too many threads hang. The log names their files. Restart the worker.",
                returncode=1,
            )

    @staticmethod
    def is_due() -> bool:
        """Whether a file or a job is due that this process can process."""
        aliases = gates.open_of(_aliases())
        due = ledger().due().claimable().workable_here()
        # One alias each. For many in one query, SQLite would read the whole table.
        is_due = any(rows.exists() for alias in aliases for rows in due.ranges([alias]))
        is_due = is_due or copying.is_due(_aliases()) or preparing.is_due(_aliases())
        return is_due or (are_available() and bool(jobs().due_keys(aliases)))

    def _export_metrics(self, parent: Parent | None, address: str, port: int) -> None:
        metrics = import_module("queued_storage.metrics")  # needs an optional library
        metrics.install()
        if parent:  # which serves them
            metrics.expect_known()
            return
        with explained(address, port):
            server, _thread = metrics.serve(port, address)
        self._say(f"Metrics at http://{address}:{server.server_port}/metrics.")


def _require_valid(options: dict[str, Any]) -> None:
    is_pause = 0 < options["poll"] <= threading.TIMEOUT_MAX  # False for "nan"
    if options["threads"] < 1 or not is_pause:
        raise CommandError(
            "--threads must be at least 1 and --poll must be greater than 0.", returncode=2
        )
    if options["processes"] < 1:
        raise CommandError("--processes must be at least 1.", returncode=2)
    if not 0 <= options["exit_wait"] <= threading.TIMEOUT_MAX:
        raise CommandError("--exit-wait must be a number of seconds, 0 or more.", returncode=2)


def _wait(stops: "SimpleQueue[None]", seconds: float) -> bool:
    """Wait for a request to stop; return whether there was one."""
    try:
        stops.get(timeout=seconds)
    except Empty:
        return False
    return True


def _stop(
    executor: Executor, job_threads: JobThreads, timeout: float | None, *, gives_back: bool
) -> None:
    """Stop all threads within ``timeout``, and make sure that the process can end without them."""
    has_ended = False
    deadline = time.monotonic() + (JOB_WAIT if timeout is None else timeout)
    job_threads.ask_to_stop()
    # The database may hang as well.
    bound = nullcontext() if timeout is None else ending.bounded(timeout + ending.PATIENCE)
    try:
        with bound:
            has_ended = executor.stop(timeout, gives_back=gives_back)
            if not has_ended:
                executor.let_go()
            has_ended &= job_threads.stop(max(deadline - time.monotonic(), 0))
    finally:  # there may be a second signal
        if not has_ended or hung.count():
            ending.require_end()


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Let Python's garbage collector run less often, unless it is configured that way already.

    Each resource of boto3 is an instance of a new class, which soon is garbage in a reference
    cycle. With Python's own thresholds, these classes get old before they are collected, so each
    collection examines everything that the clients of all threads hold, and takes up to half of a
    worker's time.
    """
    before = gc.get_threshold()
    if before[0]:  # otherwise the collector is off
        gc.set_threshold(*map(max, before, COLLECTIONS))
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _address(text: str) -> tuple[str, int]:
    address, _colon, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ArgumentTypeError(f"{text!r} is not a valid [ADDRESS:]PORT")
    return address.strip("[]") or "127.0.0.1", int(port)


def _aliases() -> list[str]:
    return sorted(storage.alias for storage in known_storages())


class Sweep(Verb):
    name = "sweep"
    help = "enqueue every file that is due"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--storage", metavar="ALIAS", help="only files of this storage")
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        require_alias(options["storage"])
        if options["dry_run"]:
            chosen = options["storage"]
            due = ledger().due().ranges(measures.aliases() if chosen is None else [chosen])
            count = sum(rows.count() for rows in due)
            self.stdout.write(counted(count, "{} file is due.", "{} files are due."))
            return
        count = maintenance.sweep(options["storage"])
        self.stdout.write(counted(count, "{} file was enqueued.", "{} files were enqueued."))
