"""``unpublished`` and ``release``: files that wait for their steps, are held, or were rejected."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError

from ...ledger.preparations import Preparation, preparations
from ...operations import unpublished
from ...reporting.counts import counted
from ..quantities import format_size
from .base import RepeatableVerb, Verb
from .selection import add_at_most, add_dry_run, add_selection, add_yes, selected, too_many

TIME = "%Y-%m-%d %H:%M:%S"


class Unpublished(Verb):
    name = "unpublished"
    help = "list the files that are held or were rejected by a step, with the reasons"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=False)
        parser.add_argument("--waiting", action="store_true", help="list files that wait, too")
        parser.add_argument("--json", action="store_true", help="print one JSON object per file")

    def run(self, options: dict[str, Any]) -> None:
        found, none = unpublished.stopped(selected(options)), "No file is held or rejected."
        if options["waiting"]:
            rows = selected(options).values("pk")
            found = preparations().current().filter(file__in=rows).order_by("saved_at", "pk")
            found = found.select_related("file")
            none = "No file waits for its steps, is held or rejected."
        is_empty = True
        for each in found.iterator(500):
            is_empty = False
            if options["json"]:
                self.stdout.write_json(_as_json(each), default=datetime.isoformat)
            else:
                self.stdout.write(_line(each))
        if is_empty and not options["json"]:
            self.stdout.write(none)


def _line(each: Preparation) -> str:
    why = each.reason or each.last_error
    return (
        f"{each.file.alias}: {each.file.name}: {each.get_state_display()} since "
        f"{each.saved_at:{TIME}}, {format_size(each.size)}{f': {why}' if why else ''}"
    )


def _as_json(each: Preparation) -> dict[str, Any]:
    return {
        "storage": each.file.alias,
        "name": each.file.name,
        "state": each.state,
        "reason": each.reason,
        "error": each.last_error,
        "steps_passed": each.step,
        "attempts": each.attempts,
        "bytes": each.size,
        "saved_at": each.saved_at,
        "host": each.host,
    }


class Release(RepeatableVerb):
    name = "release"
    help = "publish and transfer files that are held or were rejected, whatever their steps say"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        add_selection(parser, required=True)
        add_at_most(parser)
        add_yes(parser)
        add_dry_run(parser)

    def run(self, options: dict[str, Any]) -> None:
        found = unpublished.stopped(selected(options))
        count = found.count()
        if options["dry_run"]:
            files = counted(count, "{} file", "{} files")
            self.stdout.write(f"{files} would be published.")
            return
        if not count:
            raise CommandError("None of the selected files is held or rejected.", returncode=1)
        files = counted(count, "{} file", "{} files")
        self.require_yes(options, f"This publishes {files} that did not pass all steps.")
        limit = options["at_most"]
        pks = list(found.values_list("pk", flat=True)[:limit])
        released = unpublished.release(preparations().filter(pk__in=pks))
        self.stdout.write(
            counted(released, "{} file will be published.", "{} files will be published.")
        )
        if count > limit:
            raise too_many(options)
