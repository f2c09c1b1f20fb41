"""``transfer``, ``retry``, ``cancel`` and ``flush``: transfers of single files and of many."""

from argparse import ArgumentParser
from datetime import timedelta
from time import monotonic, sleep
from typing import Any

from django.core.management.base import CommandError

from ...ledger.database import QueuedFileQuerySet, ledger
from ...ledger.priorities import NAMES, priority_of
from ...ledger.states import State, is_reachable_from_here
from ...operations import mirrors, steering, unpublished
from ...operations.passes import Step
from ...reporting.counts import counted
from ...storage.results import obstacle
from ...transfers import work
from ...transfers.probing import probe_closed
from ..quantities import parse_duration
from .base import RepeatableVerb, Verb
from .selection import (
    add_dry_run,
    add_error,
    add_one_file,
    add_selection,
    of_storage,
    one_file,
    selected,
    total,
)

POLL_EVERY = 0.5  # seconds


class Transfer(Verb):
    name = "transfer"
    help = "transfer one file immediately, in this process"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_one_file(parser)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        row = one_file(options["name"], options["storage"])
        if options["dry_run"]:
            is_moved = ledger().filter(pk=row.pk).untransferred().exists()
            would = "would be transferred" if is_moved else "would not be changed"
            self.stdout.write(f"{row} is {row.get_state_display()}. It {would}.")
            return
        if ledger().filter(pk=row.pk).make_due():
            probe_closed([row.alias])
            work.run(row.pk)
        row = ledger().filter(pk=row.pk).first() or row
        if row.state == State.PENDING and not is_reachable_from_here(row.host):
            raise CommandError(
                f"The only copy of {row} is on host {row.host!r}. Run this command there."
            )
        if row.state != State.TRANSFERRED:
            why = obstacle(row) if row.state == State.PENDING else f" {row.last_error}"
            raise CommandError(f"{row} is {row.get_state_display()}.{why}")
        self.stdout.write(f"{row} is {row.get_state_display()}.")


class Retry(RepeatableVerb):
    name = "retry"
    help = "retry failed and waiting files now"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=True)
        add_error(parser)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        chosen = selected(options)
        rows, steps = chosen.retriable(), unpublished.of_files(chosen)
        copies = mirrors.of_files(chosen)
        if options["dry_run"]:
            counts = total(rows)[0], steps.retriable().count(), copies.retriable().count()
            self._say("would", *counts)
            return
        with self.progress(rows) as progress:
            count = steering.retry(rows, progress)
        self._say("will", count, unpublished.retry(steps), copies.retry())

    def _say(self, verb: str, files: int, steps: int, copies: int) -> None:
        self.stdout.write(f"{counted(files, '{} file', '{} files')} {verb} be retried.")
        if steps:
            text = counted(steps, "The steps of {} file", "The steps of {} files")
            self.stdout.write(f"{text} {verb} be run again.")
        if copies:
            text = counted(copies, "{} copy on a mirror", "{} copies on mirrors")
            self.stdout.write(f"{text} {verb} be retried.")


class Prioritize(RepeatableVerb):
    name = "prioritize"
    help = "give files that aren't transferred yet another priority"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("priority", choices=NAMES, help="which files are transferred first")
        add_selection(parser, required=True)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        name = options["priority"]
        priority = priority_of(name)
        rows = selected(options).prioritizable().exclude(priority=priority)
        if options["dry_run"]:
            files = counted(total(rows)[0], "{} file", "{} files")
            self.stdout.write(f"{files} would get the priority '{name}'.")
            return
        with self.progress(rows) as progress:
            count = steering.prioritize(rows, priority, progress)
        have = counted(count, "{} file has", "{} files have")
        self.stdout.write(f"{have} the priority '{name}' now.")


class Cancel(RepeatableVerb):
    name = "cancel"
    help = "cancel pending and running transfers; files are held and keep their local copies"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=True)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options).cancellable()
        if options["dry_run"]:
            files = counted(total(rows)[0], "{} file", "{} files")
            self.stdout.write(f"{files} would be held.")
            return
        with self.progress(rows) as progress:
            count = steering.cancel(rows, progress)
        files = counted(count, "{} file is held.", "{} files are held.")
        self.stdout.write(f"{files} Use 'transfer' to transfer a held file.")


class Flush(RepeatableVerb):
    name = "flush"
    help = "transfer everything saved so far and, with --wait, wait for completion"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--storage", metavar="ALIAS", help="only files of this storage")
        parser.add_argument(
            "--wait", action="store_true", help="wait until all files are on the remote"
        )
        parser.add_argument(
            "--timeout",
            type=parse_duration,
            metavar="TIME",
            help="with --wait, the maximum time to wait, for example 10m",
        )
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = of_storage(options["storage"])
        newest = rows.order_by("-pk").values_list("pk", flat=True).first() or 0
        rows = rows.filter(pk__lte=newest)
        unfinished = rows.filter(state__in=[State.PENDING, State.TRANSFERRING])
        if options["dry_run"]:
            files = counted(total(unfinished)[0], "{} file", "{} files")
            self.stdout.write(f"{files} would be transferred.")
            return
        steering.retry(rows.filter(state=State.PENDING))
        if options["wait"]:
            self._wait(unfinished, options["timeout"])
        self._report(rows, unfinished, waited=options["wait"])

    def _wait(self, rows: QueuedFileQuerySet, timeout: timedelta | None) -> None:
        deadline = None if timeout is None else monotonic() + timeout.total_seconds()
        left = total(rows)
        with self.progress(rows, by_bytes=True) as progress:
            while left[0]:
                if deadline is not None and monotonic() >= deadline:
                    files = counted(left[0], "{} file is", "{} files are")
                    row = rows.exclude(last_error="").first() or rows.first()
                    text = f"{files} not transferred yet.{obstacle(row) if row else ''}"
                    raise CommandError(text, returncode=1)
                sleep(POLL_EVERY)
                before, left = left, total(rows)
                progress(Step(before[0] - left[0], before[1] - left[1]))

    def _report(
        self, rows: QueuedFileQuerySet, unfinished: QueuedFileQuerySet, *, waited: bool
    ) -> None:
        failed = rows.filter(state=State.FAILED).count()
        left = unfinished.count()
        if left and not waited:
            self.stdout.write(
                counted(left, "{} file is being transferred.", "{} files are being transferred.")
            )
        if failed:
            files = counted(failed, "{} file has", "{} files have")
            raise CommandError(
                f"{files} failed. Run 'manage.py queued_storage status' to see the reasons.",
                returncode=1,
            )
        if unknown := rows.in_unknown_state().count():
            text = (
                counted(unknown, "{} file is", "{} files are")
                + " in a state that this version of queued_storage does not know. Run "
                "'manage.py queued_storage status' to see the states."
            )
            if waited:
                raise CommandError(text, returncode=1)
            self.stdout.write(text)
        elif not left:
            self.stdout.write("All files are on the remote, except for held files.")
