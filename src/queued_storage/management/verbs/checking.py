"""``check-remote``: what a remote does, found out by trying."""

import json
from argparse import ArgumentParser
from contextlib import closing
from dataclasses import asdict
from typing import Any, cast

from django.core.files.storage import Storage, storages
from django.core.management.base import CommandError

from ...ledger.aliases import known_storages
from ...operations.contract import check_remote
from ...remotes.perthread import for_threads
from ...storage.composition import ComposedStorage
from ...uploaders import Uploader, uploader_for
from .base import Verb


class CheckRemote(Verb):
    name = "check-remote"
    help = "store, read and delete scratch files on a remote, and say what it can do"
    needs_ledger = False

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("alias", help="of a queued storage, or any other of STORAGES")
        parser.add_argument(
            "--json", action="store_true", help="for programs: a line with one object a finding"
        )

    def run(self, options: dict[str, Any]) -> None:
        remote, uploader = _remote_of(options["alias"])
        if not options["json"]:
            carrier = type(uploader).__qualname__
            self.stdout.write(f"{type(remote).__qualname__}, by {carrier}:")
        problems = 0
        with closing(cast(Any, check_remote(remote, uploader))) as findings:
            for finding in findings:
                problems += finding.is_problem
                self.stdout.write(json.dumps(asdict(finding)) if options["json"] else str(finding))
        if problems:
            raise CommandError(f"{problems} problems were found.", returncode=1)


def _remote_of(alias: str) -> tuple[Storage, Uploader]:
    """The remote side of a queued storage, with what carries its files; or a storage itself."""
    queued: dict[str, Any] = {storage.alias: storage for storage in known_storages()}
    storage = queued.get(alias)
    if storage is None and alias in storages.backends:
        storage = storages[alias]
    if storage is None:
        known = ", ".join(sorted({*queued, *storages.backends}))
        raise CommandError(f"There is no storage {alias!r}, only {known}.")
    if isinstance(storage, ComposedStorage):
        return storage.remote, storage.uploader
    return storage, uploader_for(for_threads(storage))
