"""``give-up`` and ``prune``: files whose copies are lost."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction

from ...conf import settings
from ...files import volumes
from ...ledger.database import ledger, ledger_database
from ...ledger.states import State
from ...operations import pruning
from ...operations.unpublished import give_up, lost_with
from ...reporting.counts import counted
from .base import RepeatableVerb, Verb
from .selection import (
    add_at_most,
    add_dry_run,
    add_selection,
    add_yes,
    one_storage,
    selected,
    too_many,
)
from .typos import require_host


class GiveUp(Verb):
    name = "give-up"
    help = "declare a host's local disk lost; files stored only there become failed"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("host", help="name of the host, as shown by 'status'")
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        host = options["host"]
        if not settings.local_per_host:
            raise CommandError(
                "All hosts share one local storage, so no host's disk can be given up. If each "
                "host has its own, set QUEUED_STORAGE['LOCAL_PER_HOST'] to True.",
                returncode=2,
            )
        if host == settings.host:
            raise CommandError(
                f"{host!r} is the host that runs this command, so its disk is not lost.",
                returncode=2,
            )
        require_host(host)
        if options["dry_run"]:
            unpublished = lost_with(host).filter(file__is_local=False)
            count = ledger().with_local_copy_on(host).count() + unpublished.count()
            self.stdout.write(f"{counted(count, '{} file', '{} files')} would be given up.")
            return
        # Both are about a file that is published before its steps.
        with transaction.atomic(using=ledger_database()):
            hidden = lost_with(host).filter(file__is_local=False).count()
            count = ledger().give_up(host) + hidden
            give_up(host)
        self.stdout.write(counted(count, "{} file was given up.", "{} files were given up."))
        if left := ledger().filter(host=host, is_local=True).exclude(state=State.FAILED).count():
            files = counted(
                left, "{} file was not, because it is", "{} files were not, because they are"
            )
            self.stdout.write(f"{files} in progress: a worker on the host {host!r} is running.")


class AcceptRoot(Verb):
    name = "accept-root"
    help = "declare the files of a local storage lost whose volume is not mounted any more"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("alias", help="alias of the storage")
        add_dry_run(parser)
        add_yes(parser)

    def run(self, options: dict[str, Any]) -> None:
        storage = one_storage(options["alias"])
        problem = volumes.problem_of(storage.alias, storage.local)
        if not problem:
            raise CommandError(
                f"The directory of the local storage of {storage.alias!r} is not missing.",
                returncode=1,
            )
        self.require_yes(
            options,
            f"{problem} This marks the directory as it is now, so files that are not in it count "
            f"as lost.",
        )
        if options["dry_run"]:
            self.stdout.write("The directory would be marked.")
            return
        volumes.accept(storage.alias, storage.local)
        self.stdout.write("The directory was marked.")


class Prune(RepeatableVerb):
    name = "prune"
    help = "remove files from the ledger that have no copy left"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=True)
        add_at_most(parser)
        add_dry_run(parser)
        add_yes(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options).prunable()
        self.require_yes(
            options,
            f"This removes files from the ledger whose copies cannot be found, at most "
            f"{options['at_most']:,}. Check that all volumes are mounted.",
        )
        budget = _Budget(None if options["dry_run"] else options["at_most"])
        with self.progress(rows) as progress:
            for name in pruning.prune(
                rows, progress, dry_run=options["dry_run"], until=budget.is_exceeded
            ):
                budget.used += 1
                progress.clear()
                self.stdout.write(name)
        if budget.was_exceeded:
            raise too_many(options)
        files = counted(budget.used, "{} file", "{} files")
        if options["dry_run"]:
            self.stdout.write(f"{files} would be removed from the ledger.")
        else:
            verb = counted(budget.used, "was", "were")
            self.stdout.write(f"{files} {verb} removed from the ledger.")
        if progress.failed:
            files = counted(progress.failed, "{} file", "{} files")
            raise CommandError(f"{files} could not be checked.", returncode=1)


class _Budget:
    """The number of files that a pass may remove; None for all."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.used = 0
        self.was_exceeded = False

    def is_exceeded(self) -> bool:
        """Whether one more file would be too much."""
        if self.limit is not None and self.used >= self.limit:
            self.was_exceeded = True
        return self.was_exceeded
