"""``flush`` and ``prune``: what is to come to an end."""

from argparse import ArgumentParser
from time import monotonic, sleep
from typing import Any

from django.core.management.base import CommandError

from ...ledger.database import QueuedFileQuerySet, ledger
from ...ledger.states import State
from ...operations import pruning, steering
from ...operations.passes import Step
from .base import Verb, add_at_most, add_dry_run, add_selection, age, selected, too_many, total

LOOK_EVERY = 0.5  # seconds


class Flush(Verb):
    name = "flush"
    help = "have all files transferred that were saved up to now, and wait for that"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--storage", metavar="ALIAS", help="files of this storage only")
        parser.add_argument("--wait", action="store_true", help="end when all are on the remote")
        parser.add_argument(
            "--timeout", type=age, metavar="TIME", help="with --wait: for so long at most, say 10m"
        )
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = ledger().all()
        if options["storage"]:
            rows = rows.filter(alias=options["storage"])
        newest = rows.order_by("-pk").values_list("pk", flat=True).first() or 0
        rows = rows.filter(pk__lte=newest)
        pending = rows.filter(state=State.PENDING)
        under_way = rows.filter(state__in=[State.PENDING, State.TRANSFERRING])
        files, _bytes = total(under_way)
        if options["dry_run"]:
            self.stdout.write(f"{files} files would be transferred.")
            return
        steering.retry(pending)
        if options["wait"]:
            self._wait(under_way, options["timeout"])
        self._report(rows, under_way, waited=options["wait"])

    def _wait(self, rows: QueuedFileQuerySet, timeout: Any) -> None:
        deadline = None if timeout is None else monotonic() + timeout.total_seconds()
        left = total(rows)
        with self.progress(rows, by_bytes=True) as progress:
            while left[0]:
                if deadline is not None and monotonic() >= deadline:
                    raise CommandError(f"{left[0]} files are still on their way.", returncode=1)
                sleep(LOOK_EVERY)
                before, left = left, total(rows)
                progress(Step(before[0] - left[0], before[1] - left[1]))

    def _report(self, rows: QueuedFileQuerySet, under_way: Any, *, waited: bool) -> None:
        failed = rows.filter(state=State.FAILED).count()
        left = under_way.count()
        if left and not waited:
            self.stdout.write(f"{left} files are on their way.")
        if failed:
            raise CommandError(f"{failed} files have failed. See 'status'.", returncode=1)
        if not left:
            self.stdout.write("All files are on the remote, apart from held ones.")


class Prune(Verb):
    name = "prune"
    help = "remove from the ledger files of which there is no copy anywhere"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, demanded=True)
        add_at_most(parser)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options).prunable()
        is_dry = options["dry_run"]
        count = 0
        is_cut = False

        def is_enough() -> bool:
            nonlocal is_cut
            is_cut = not is_dry and count >= options["at_most"]
            return is_cut

        with self.progress(rows) as progress:
            for name in pruning.prune(rows, progress, dry_run=is_dry, until=is_enough):
                count += 1
                progress.clear()
                self.stdout.write(name)
        if is_cut:
            raise too_many(options)
        what = "would be removed" if options["dry_run"] else "are removed"
        self.stdout.write(f"{count} files {what} from the ledger.")
        if progress.failed:
            raise CommandError(f"{progress.failed} files could not be looked at.", returncode=1)
