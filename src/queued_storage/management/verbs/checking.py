"""``check-remote``: the behavior of a remote."""

from argparse import ArgumentParser
from contextlib import closing
from dataclasses import asdict
from typing import Any, cast

from django.core.files.storage import Storage, storages
from django.core.management.base import CommandError

from ...ledger.aliases import known_storages
from ...operations.contract import check_remote
from ...remotes.perthread import for_threads
from ...reporting.counts import counted
from ...storage.composition import ComposedStorage
from ...uploaders import Uploader, uploader_for
from .base import RepeatableVerb
from .typos import misspelled


class CheckRemote(RepeatableVerb):
    name = "check-remote"
    help = "test the behavior of a remote by storing, reading, and deleting temporary files"
    needs_ledger = False

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "alias", help="alias of a queued storage, or any other alias in STORAGES"
        )
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object per line and finding"
        )

    def run(self, options: dict[str, Any]) -> None:
        remote, uploader = _remote_of(options["alias"])
        if not options["json"]:
            names = (type(each).__qualname__ for each in (remote, uploader))
            self.stdout.write("{} with {}:".format(*names))
        problems = 0
        with closing(cast(Any, check_remote(remote, uploader))) as findings:
            for finding in findings:
                problems += finding.is_problem
                if options["json"]:
                    self.stdout.write_json(asdict(finding))
                else:
                    self.stdout.write(str(finding))
        if problems:
            found = counted(problems, "{} problem was found.", "{} problems were found.")
            raise CommandError(found, returncode=1)


def _remote_of(alias: str) -> tuple[Storage, Uploader]:
    """The remote of a queued storage with its uploader, or any other storage."""
    queued: dict[str, Any] = {storage.alias: storage for storage in known_storages()}
    storage = queued.get(alias)
    if storage is None and alias in storages.backends:
        storage = storages[alias]
    if storage is None:
        there = sorted({*queued, *storages.backends})
        raise misspelled(f"No storage has the alias {alias!r}.", alias, there)
    if isinstance(storage, ComposedStorage):
        return storage.remote, storage.uploader
    return storage, uploader_for(for_threads(storage))
