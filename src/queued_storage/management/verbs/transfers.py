"""``retry`` and ``cancel``: the transfers themselves."""

from argparse import ArgumentParser
from typing import Any

from ...operations import steering
from .base import Verb, add_dry_run, add_selection, selected, total


class Retry(Verb):
    name = "retry"
    help = "have files worked on now that failed or wait for their next try"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, demanded=True)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options).retriable()
        if options["dry_run"]:
            self.stdout.write(f"{total(rows)[0]} files would be tried again.")
            return
        with self.progress(rows) as progress:
            count = steering.retry(rows, progress)
        self.stdout.write(f"{count} files are tried again.")


class Cancel(Verb):
    name = "cancel"
    help = (
        "stop transfers that are to come or that run; the files are held, with their local copies"
    )

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, demanded=True)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        rows = selected(options).cancellable()
        if options["dry_run"]:
            self.stdout.write(f"{total(rows)[0]} files would be held.")
            return
        with self.progress(rows) as progress:
            count = steering.cancel(rows, progress)
        self.stdout.write(f"{count} files are held. 'transfer' sends one of them off.")
