"""``manage.py queued_storage <verb>``: see the files on their way, and steer them."""

import gc
import json
import signal
import threading
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections
from django.template.defaultfilters import filesizeformat

from ... import maintenance
from ...conf import settings
from ...ledger.aliases import known_storages
from ...ledger.database import ledger, ledger_database
from ...ledger.models import QueuedFile
from ...ledger.names import can_be_recorded
from ...ledger.states import State, is_reachable_from_here
from ...operations import status
from ...reporting.reasons import one_line
from ...transfers import work
from ...transfers.executor import Executor
from ..verbs import VERBS
from ..verbs.base import age, size

TIME = "%Y-%m-%d %H:%M:%S"
COLLECTIONS = (10_000, 20, 50)  # thresholds of the garbage collector in a worker


class Command(BaseCommand):
    help = "Shows the files on their way to remote storage, and moves them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")

        status = verbs.add_parser("status", help="how many files are where, and what failed")
        status.add_argument("--json", action="store_true", help="for programs")
        status.add_argument(
            "--exact", action="store_true", help="count all transferred files, however many"
        )
        status.add_argument(
            "--check",
            action="store_true",
            help="exit with 1 if files have failed or belong to no storage, or a limit is passed",
        )
        status.add_argument(
            "--max-age", type=age, metavar="AGE", help="of the oldest pending file, say 15m or 2h"
        )
        status.add_argument(
            "--max-bytes", type=size, metavar="SIZE", help="that are pending, say 500M or 20G"
        )
        status.add_argument(
            "--max-failures", type=int, default=0, metavar="NUMBER", help="default: 0"
        )

        worker = verbs.add_parser("worker", help="move files, until told to stop by a signal")
        worker.add_argument("--threads", type=int, default=4, help="default: 4")
        worker.add_argument(
            "--poll", type=float, default=1, help="seconds between looks for due files; default: 1"
        )
        worker.add_argument(
            "--until-empty", action="store_true", help="end as soon as no file is due"
        )
        worker.add_argument(
            "--metrics",
            metavar="[ADDRESS:]PORT",
            type=_address,
            help="answer Prometheus there; the address left out is 127.0.0.1",
        )

        sweep = verbs.add_parser("sweep", help="tell the queues of every file that is due")
        sweep.add_argument("--storage", metavar="ALIAS", help="of this storage only")
        sweep.add_argument("--dry-run", action="store_true", help="only count the files")

        transfer = verbs.add_parser("transfer", help="transfer one file now, in this process")
        transfer.add_argument("name")
        transfer.add_argument("--storage", metavar="ALIAS", help="if several have the name")
        transfer.add_argument("--dry-run", action="store_true", help="only say what it would do")

        give_up = verbs.add_parser(
            "give-up",
            help="take the disk of a host for lost: files that only it had are parked as failed",
        )
        give_up.add_argument("host", help="as 'status' names it")
        give_up.add_argument("--dry-run", action="store_true", help="only count the files")

        for verb in VERBS:
            own = verbs.add_parser(verb.name, help=verb.help, description=verb.help)
            verb.add_arguments(own)
            own.set_defaults(run=verb)

    def handle(self, *args: Any, **options: Any) -> None:
        run = options.get("run")
        if run is None or run.needs_ledger:
            _require_table()
        if run:
            run(self.stdout, self.stderr)(options)
            return
        getattr(self, f"_{options['verb'].replace('-', '_')}")(options)

    def _status(self, options: dict[str, Any]) -> None:
        tallies = status.tallies(exact=options["exact"])
        backlogs = status.backlogs()
        failures = status.last_failures()
        activity = status.activity()
        troubles = status.troubles(options["max_failures"], tallies)
        troubles += status.excesses(
            status.Limits(age=options["max_age"], bytes=options["max_bytes"])
        )
        if options["json"]:
            self._print_json(tallies, backlogs, activity, failures, troubles)
        else:
            self._print_status(tallies, backlogs, activity, failures, troubles)
        if options["check"] and troubles:
            raise CommandError("\n".join(troubles), returncode=1)

    def _print_json(
        self, tallies: Any, backlogs: Any, activity: Any, failures: Any, troubles: list[str]
    ) -> None:
        answer = {
            "files": [asdict(tally) for tally in tallies],
            "hosts": [asdict(backlog) for backlog in backlogs],
            "workers": asdict(activity),
            "errors": [dict(zip(("alias", "name", "error"), row, strict=True)) for row in failures],
            "troubles": troubles,
        }
        self.stdout.write(json.dumps(answer, default=lambda time: time.isoformat()))

    def _print_status(
        self, tallies: Any, backlogs: Any, activity: Any, failures: Any, troubles: list[str]
    ) -> None:
        if not tallies:
            self.stdout.write("The ledger is empty.")
        for tally in tallies:
            since = f"oldest {tally.oldest:{TIME}}"
            if tally.is_cut:
                since = "the newest of them; --exact counts all"
            self.stdout.write(
                f"{tally.alias:<24} {tally.state:<12} {tally.files:>9} {_size(tally.bytes):>12}  "
                f"{since}"
            )
        for backlog in backlogs:
            overdue = f"  due since {backlog.overdue:{TIME}}" if backlog.overdue else ""
            self.stdout.write(
                f"only on {backlog.host:<29} {backlog.files:>9} {_size(backlog.bytes):>12}{overdue}"
            )
        if tallies:
            self.stdout.write(_of_workers(activity))
        for alias, name, error in failures:
            self.stdout.write(f"{alias}: {one_line(name)}: {error}")
        for trouble in troubles:
            self.stdout.write(self.style.ERROR(trouble))

    def _worker(self, options: dict[str, Any]) -> None:
        is_pause = 0 < options["poll"] <= threading.TIMEOUT_MAX  # as "nan" is not
        if options["threads"] < 1 or not is_pause:
            raise CommandError(
                "--threads must be 1 or more, and --poll above 0 and no longer than a thread waits."
            )
        with self._signals() as signals, _rare_collections():
            if options["metrics"]:
                self._serve_metrics(*options["metrics"])
            self._move(options, signals)
        self.stdout.write("Stopped.")

    def _move(self, options: dict[str, Any], signals: SimpleQueue[int]) -> None:
        executor = Executor(options["threads"], options["poll"], _aliases)
        executor.start()
        is_empty = False
        try:
            self.stdout.write(f"Moving files of {', '.join(_aliases()) or 'no storage'}.")
            while not is_empty and not _has_come(signals, options["poll"]):
                is_empty = options["until_empty"] and executor.is_idle() and not self._is_due()
                connections.close_all()
        except Exception:  # the ledger may be out of reach: what runs is brought to its end
            executor.stop()
            raise
        # A look may have claimed some in this very moment.
        executor.stop(gives_back=not is_empty)

    def _serve_metrics(self, address: str, port: int) -> None:
        metrics = import_module("queued_storage.metrics")  # whose library not everybody has
        metrics.install()
        try:
            server, _thread = metrics.serve(port, address)
        except OSError as error:
            raise CommandError(f"Metrics cannot be served at {address}:{port}: {error}") from error
        self.stdout.write(f"Metrics at http://{address}:{server.server_port}/metrics.")

    @staticmethod
    @contextmanager
    def _signals() -> Iterator[SimpleQueue[int]]:
        """Where the signal comes that ends the work after the transfers that run. The second one
        ends it at once. When all is over, they are the caller's again."""
        # A signal may come anywhere, also while somebody waits here: no other primitive of
        # threading is safe then.
        signals: SimpleQueue[int] = SimpleQueue()
        is_stopping = False

        def handle(number: int, frame: Any) -> None:
            nonlocal is_stopping
            if is_stopping:
                raise SystemExit(128 + number)
            is_stopping = True
            signals.put(number)

        before: dict[signal.Signals, Any] = {}
        try:
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGTERM, signal.SIGINT):
                    before[number] = signal.signal(number, handle)
            yield signals
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    @staticmethod
    def _is_due() -> bool:
        return ledger().due().workable_here().filter(alias__in=_aliases()).exists()

    def _sweep(self, options: dict[str, Any]) -> None:
        if options["dry_run"]:
            due = ledger().due()
            if options["storage"] is not None:
                due = due.filter(alias=options["storage"])
            self.stdout.write(f"{due.count()} files are due.")
            return
        count = maintenance.sweep(options["storage"])
        self.stdout.write(f"{count} files were due.")

    def _transfer(self, options: dict[str, Any]) -> None:
        row = self._find(options["name"], options["storage"])
        if options["dry_run"]:
            would = "would be transferred" if _is_to_be_transferred(row) else "stays as it is"
            self.stdout.write(f"{row}: {row.get_state_display()}; it {would}.")
            return
        if ledger().filter(pk=row.pk).make_due():
            work.run(row.pk)
        row = ledger().filter(pk=row.pk).first() or row
        if row.state == State.PENDING and not is_reachable_from_here(row.host):
            raise CommandError(f"{row}: its only copy is on the host {row.host!r}. Run this there.")
        if row.state != State.TRANSFERRED:
            raise CommandError(f"{row}: {row.get_state_display()}. {row.last_error}")
        self.stdout.write(f"{row}: {row.get_state_display()}.")

    def _give_up(self, options: dict[str, Any]) -> None:
        host = options["host"]
        if not settings.local_per_host:
            raise CommandError(
                "All hosts share the local storage, so none is missed. Where each has its own, set "
                "QUEUED_STORAGE['LOCAL_PER_HOST']."
            )
        if host == settings.host:
            raise CommandError(f"{host!r} is this host, so its disk is here.")
        lost = ledger().with_local_copy_on(host)
        if options["dry_run"]:
            self.stdout.write(f"{lost.count()} files would be given up.")
            return
        count = ledger().give_up(host)
        self.stdout.write(f"{count} files were given up.")
        if left := ledger().filter(host=host, is_local=True).exclude(state=State.FAILED).count():
            self.stdout.write(f"{left} are being worked on at this moment, so {host!r} lives.")

    @staticmethod
    def _find(name: str, alias: str | None) -> QueuedFile:
        rows = ledger().filter(name__in=[name] if can_be_recorded(name) else [])
        if alias is not None:
            rows = rows.filter(alias=alias)
        found = list(rows[:2])
        if not found:
            raise CommandError(f"The ledger has no file {name!r}.")
        if len(found) > 1:
            raise CommandError(f"Several storages have {name!r}; choose one with --storage.")
        return found[0]


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Have Python look for garbage less often, unless it does so already.

    boto3's resources are made of a new class each, which is garbage in a cycle after a moment. By
    Python's own thresholds it grows old before that, so that every look goes through all that the
    clients of all threads hold, and takes up to half of a worker's time.
    """
    before = gc.get_threshold()
    if before[0]:  # else it never does
        gc.set_threshold(*map(max, before, COLLECTIONS))
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _require_table() -> None:
    """Say what to do where a newcomer would see a traceback of the database's library."""
    database = ledger_database()
    try:
        tables = connections[database].introspection.table_names()
    except DatabaseError:  # out of reach: a worker waits for it, and any other verb says so
        return
    if QueuedFile._meta.db_table not in tables:
        option = "" if database == "default" else f" --database {database}"
        raise CommandError(
            f"The database {database!r} has no table of the ledger yet. "
            f"Run 'manage.py migrate{option}'."
        )


def _is_to_be_transferred(row: QueuedFile) -> bool:
    return ledger().filter(pk=row.pk).untransferred().exists()


def _of_workers(activity: status.Activity) -> str:
    parts = [f"workers have {activity.moving} files"]
    if activity.silent:
        parts.append(f"were not heard of again with {activity.silent}")
    if activity.last:
        parts.append(f"last brought one at {activity.last:{TIME}}")
    if activity.waiting_since:
        parts.append(f"leave some waiting since {activity.waiting_since:{TIME}}")
    return ", ".join(parts)


def _has_come(signals: SimpleQueue[int], timeout: float) -> bool:
    try:
        signals.get(timeout=timeout)
    except Empty:
        return False
    return True


def _size(count: int) -> str:
    return filesizeformat(count).replace("\xa0", " ")


def _address(text: str) -> tuple[str, int]:
    address, _colon, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ArgumentTypeError(f"{text!r} is no [ADDRESS:]PORT.")
    return address.strip("[]") or "127.0.0.1", int(port)


def _aliases() -> list[str]:
    return sorted(storage.alias for storage in known_storages())
