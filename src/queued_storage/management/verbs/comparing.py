"""``verify``, ``reconcile`` and ``orphans``: the ledger against what is there."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError

from ...ledger.database import ledger
from ...operations import comparison, inventory, reconciliation
from ...reporting.reasons import one_line
from ..progress import size as in_words
from .base import (
    Verb,
    add_at_most,
    add_dry_run,
    add_selection,
    age,
    directory,
    looking,
    one_storage,
    selected,
    too_many,
)


def _add_content(parser: ArgumentParser) -> None:
    parser.add_argument("--content", action="store_true", help="read every byte of both copies")


class Verify(Verb):
    name = "verify"
    help = "compare the ledger with both storages; changes nothing"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, demanded=False)
        _add_content(parser)
        parser.add_argument(
            "--json", action="store_true", help="for programs: a line with one object a finding"
        )

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options)
        count = 0
        with self.progress(rows, by_bytes=options["content"]) as progress:
            for finding in comparison.verify(rows, content=options["content"], tell=progress):
                count += 1
                progress.clear()
                if options["json"]:
                    self.stdout.write(json.dumps(asdict(finding)))
                else:
                    self.stdout.write(_line(finding))
        if not options["json"]:
            self.stdout.write(f"{progress.files} files were compared.")
        if count:
            raise CommandError(f"{count} copies are not as they should be.", returncode=1)


def _line(finding: comparison.Finding) -> str:
    file = one_line(f"{finding.name} ({finding.alias})")
    return f"{file}: {finding.kind} {finding.side} copy. {finding.details}"


class Reconcile(Verb):
    name = "reconcile"
    help = "repair what 'verify' finds, each kind as it is asked for"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, demanded=False)
        parser.add_argument(
            "--repair",
            action="append",
            required=True,
            choices=sorted(reconciliation.REPAIRS),
            help="a kind of finding to repair; may be given several times",
        )
        _add_content(parser)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options)
        repaired = failed = 0
        with self.progress(rows, by_bytes=options["content"]) as progress:
            for finding, error in reconciliation.reconcile(
                rows,
                options["repair"],
                content=options["content"],
                dry_run=options["dry_run"],
                tell=progress,
            ):
                failed += bool(error)
                repaired += not error
                progress.clear()
                end = f" Not repaired: {error}" if error else ""
                self.stdout.write(f"{_line(finding)}{end}")
        what = "would be repaired" if options["dry_run"] else "were repaired"
        self.stdout.write(f"{repaired} copies {what}.")
        if failed:
            raise CommandError(f"{failed} copies could not be repaired.", returncode=1)


class Orphans(Verb):
    name = "orphans"
    help = "list files that neither the ledger nor a model knows, or delete them"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("side", choices=["local", "remote"], help="where to look")
        parser.add_argument("--storage", metavar="ALIAS", help="if there are several")
        parser.add_argument("--under", default="", metavar="DIRECTORY", help="only there")
        parser.add_argument(
            "--older-than",
            type=age,
            default=timedelta(days=1),
            metavar="AGE",
            help="changed so long ago, say 2h or 30d; default: 1d",
        )
        parser.add_argument("--delete", action="store_true", help="delete them; list them first!")
        add_at_most(parser)
        add_dry_run(parser)
        parser.add_argument(
            "--json", action="store_true", help="for programs: a line with one object a file"
        )

    def run(self, options: dict[str, Any]) -> None:
        storage = one_storage(options["storage"])
        deletes = options["delete"] and not options["dry_run"]
        if options["delete"] and not ledger().filter(alias=storage.alias).exists():
            raise CommandError(
                f"The ledger has no file of {storage.alias!r}, so all of them would be orphans. Is "
                f"this the right database?"
            )
        older_than, under = options["older_than"], directory(options["under"])
        count = bytes_ = 0
        with looking():
            for orphan in inventory.orphans(storage, options["side"], older_than, under):
                if deletes and count >= options["at_most"]:
                    raise too_many(options)
                if deletes and not inventory.delete_orphan(storage, orphan, older_than):
                    continue
                count += 1
                bytes_ += orphan.bytes
                if options["json"]:
                    self.stdout.write(json.dumps(asdict(orphan), default=str))
                else:
                    name, at = one_line(orphan.name), f"{orphan.modified:%Y-%m-%d %H:%M}"
                    self.stdout.write(f"{name}  {in_words(orphan.bytes)}  {at}")
        if not options["json"]:
            what = "were deleted" if deletes else "are orphans"
            self.stdout.write(f"{count} files {what}, {in_words(bytes_)}.")
