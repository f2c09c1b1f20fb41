"""``manage.py queued_storage <verb>``: see the files on their way, and steer them."""

import json
import signal
import threading
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from django.template.defaultfilters import filesizeformat

from ... import maintenance, transfers
from ...aliases import known_storages
from ...executor import Executor
from ...models import QueuedFile, State, ledger


class Command(BaseCommand):
    help = "Shows the files on their way to remote storage, and moves them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")

        status = verbs.add_parser("status", help="how many files are where, and what failed")
        status.add_argument("--json", action="store_true", help="for programs")
        status.add_argument(
            "--check",
            action="store_true",
            help="exit with 1 if files have failed or belong to no storage",
        )

        worker = verbs.add_parser("worker", help="move files, until told to stop by a signal")
        worker.add_argument("--threads", type=int, default=4, help="default: 4")
        worker.add_argument(
            "--poll", type=float, default=1, help="seconds between looks for due files; default: 1"
        )
        worker.add_argument(
            "--until-empty", action="store_true", help="end as soon as no file is due"
        )

        sweep = verbs.add_parser("sweep", help="tell the queues of every file that is due")
        sweep.add_argument("--storage", metavar="ALIAS", help="of this storage only")

        transfer = verbs.add_parser("transfer", help="transfer one file now, in this process")
        transfer.add_argument("name")
        transfer.add_argument("--storage", metavar="ALIAS", help="if several have the name")

    def handle(self, *args: Any, **options: Any) -> None:
        getattr(self, f"_{options['verb']}")(options)

    def _status(self, options: dict[str, Any]) -> None:
        tallies = maintenance.tallies()
        failures = maintenance.last_failures()
        troubles = maintenance.troubles()
        if options["json"]:
            self._print_json(tallies, failures, troubles)
        else:
            self._print_status(tallies, failures, troubles)
        if options["check"] and troubles:
            raise CommandError("\n".join(troubles), returncode=1)

    def _print_json(self, tallies: Any, failures: Any, troubles: list[str]) -> None:
        answer = {
            "files": [asdict(tally) for tally in tallies],
            "errors": [dict(zip(("alias", "name", "error"), row, strict=True)) for row in failures],
            "troubles": troubles,
        }
        self.stdout.write(json.dumps(answer, default=lambda time: time.isoformat()))

    def _print_status(self, tallies: Any, failures: Any, troubles: list[str]) -> None:
        if not tallies:
            self.stdout.write("The ledger is empty.")
        for tally in tallies:
            size = filesizeformat(tally.bytes).replace("\xa0", " ")
            self.stdout.write(
                f"{tally.alias:<24} {tally.state:<12} {tally.files:>9} {size:>12}  "
                f"oldest {tally.oldest:%Y-%m-%d %H:%M:%S}"
            )
        for alias, name, error in failures:
            self.stdout.write(f"{alias}: {name}: {error}")
        for trouble in troubles:
            self.stdout.write(self.style.ERROR(trouble))

    def _worker(self, options: dict[str, Any]) -> None:
        if options["threads"] < 1 or options["poll"] <= 0:
            raise CommandError("--threads must be 1 or more, and --poll above 0.")
        stop = threading.Event()
        self._stop_on_signals(stop)
        executor = Executor(options["threads"], options["poll"], _aliases)
        executor.start()
        self.stdout.write(f"Moving files of {', '.join(_aliases()) or 'no storage'}.")
        while not stop.wait(options["poll"]):
            if options["until_empty"] and executor.is_idle() and not self._is_due():
                break
            connections.close_all()
        executor.stop()
        self.stdout.write("Stopped.")

    @staticmethod
    def _stop_on_signals(stop: threading.Event) -> None:
        """End after the transfers that run; at once at the second signal."""

        def handle(number: int, frame: Any) -> None:
            if stop.is_set():
                raise SystemExit(128 + number)
            stop.set()

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handle)
            signal.signal(signal.SIGINT, handle)

    @staticmethod
    def _is_due() -> bool:
        return ledger().due().filter(alias__in=_aliases()).exists()

    def _sweep(self, options: dict[str, Any]) -> None:
        count = maintenance.sweep(options["storage"])
        self.stdout.write(f"{count} files were due.")

    def _transfer(self, options: dict[str, Any]) -> None:
        row = self._find(options["name"], options["storage"])
        if ledger().filter(pk=row.pk).release():
            transfers.run(row.pk)
        row = ledger().filter(pk=row.pk).first() or row
        if row.state != State.TRANSFERRED:
            raise CommandError(f"{row}: {row.get_state_display()}. {row.last_error}")
        self.stdout.write(f"{row}: {row.get_state_display()}.")

    @staticmethod
    def _find(name: str, alias: str | None) -> QueuedFile:
        rows = ledger().filter(name=name)
        if alias is not None:
            rows = rows.filter(alias=alias)
        found = list(rows[:2])
        if not found:
            raise CommandError(f"The ledger has no file {name!r}.")
        if len(found) > 1:
            raise CommandError(f"Several storages have {name!r}; choose one with --storage.")
        return found[0]


def _aliases() -> list[str]:
    return sorted(storage.alias for storage in known_storages())
