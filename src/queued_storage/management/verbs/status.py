"""``status``: the state of all files and workers."""

from argparse import ArgumentParser
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError

from ...ledger import measures
from ...ledger.preparations import counts
from ...operations import failures, mirrors, neglect, space, status, tiers, unpublished
from ..quantities import parse_count, parse_duration, parse_size
from ..terminal import Lines
from .base import Verb
from .remotes import as_json
from .sections import Report, Sections
from .troubled import as_json as error_as_json

ERRORS = 100  # groups of files with the same error
# What programs get to know of a job
JOB_FIELDS = (
    *("id", "action", "alias", "host", "state", "requested_by", "requested_at"),
    *("files", "position", "succeeded", "failed"),
)


class Status(Verb):
    name = "status"
    help = "show file counts by storage and state, and recent errors"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--exact",
            action="store_true",
            help=f"count all transferred files; by default only the newest {status.LIMIT:,} of "
            f"each storage are counted",
        )
        parser.add_argument(
            "--check", action="store_true", help="exit with code 1 if anything needs attention"
        )
        parser.add_argument(
            "--max-age",
            type=parse_duration,
            metavar="AGE",
            help="maximum age of the oldest file that isn't on its remote yet, for example 15m",
        )
        parser.add_argument(
            "--max-bytes",
            type=parse_size,
            metavar="SIZE",
            help="maximum total size of files that aren't on their remote yet, for example 20G",
        )
        parser.add_argument(
            "--max-away",
            type=parse_duration,
            default=status.MAX_AWAY,
            metavar="TIME",
            help="maximum time for which a remote may be closed, for example 30m (default: 5m)",
        )
        parser.add_argument(
            "--max-failures",
            type=parse_count,
            default=0,
            metavar="NUMBER",
            help="number of failed files to tolerate (default: 0)",
        )
        parser.add_argument(
            "--max-held",
            type=parse_count,
            default=0,
            metavar="NUMBER",
            help="number of files to tolerate that are held, because a step could not be run "
            "(default: 0)",
        )
        parser.add_argument(
            "--max-idle",
            type=parse_duration,
            default=neglect.MAX_IDLE,
            metavar="TIME",
            help="maximum time for which files may be due while no worker processes any "
            "(default: 5m)",
        )
        parser.add_argument(
            "--max-failing",
            type=parse_count,
            default=neglect.MAX_FAILING,
            metavar="NUMBER",
            help="number of files that may fail while none is transferred "
            f"(default: {neglect.MAX_FAILING})",
        )

    def run(self, options: dict[str, Any]) -> None:
        tallies = status.tallies(exact=options["exact"])
        remotes = status.remotes()
        waiting = counts()
        report = Report(
            remotes=remotes,
            tallies=tallies,
            backlogs=status.backlogs(),
            errors=failures.groups(measures.aliases(), with_due=True),
            activity=status.activity(),
            mirrors=mirrors.tallies(),
            tiers=tiers.chains(),
            spaces=space.spaces(),
            unpublished=waiting,
            jobs=status.unfinished_jobs(),
            priorities=measures.due_by_priority(),
            places=status.share_of_places(),
            troubles=[
                *status.outages(remotes, options["max_away"]),
                *neglect.idle(options["max_idle"]),
                *neglect.failing(options["max_failing"]),
                *status.troubles(options["max_failures"], tallies),
                *unpublished.troubles(waiting, options["max_held"]),
                *status.excesses(options["max_age"], options["max_bytes"]),
                *unpublished.excesses(options["max_age"]),
            ],
        )
        if options["json"]:
            self._print_json(report)
        else:
            Sections(self.stdout, self.style, report).write()
        if options["check"] and report.troubles:
            raise CommandError(Lines.of(report.troubles), returncode=1)

    def _print_json(self, report: Report) -> None:
        answer = {
            "remotes": [as_json(*each) for each in report.remotes],
            "files": [asdict(tally) for tally in report.tallies],
            "mirrors": [asdict(mirror) for mirror in report.mirrors],
            "tiers": [asdict(chain) for chain in report.tiers],
            "local": [asdict(each) for each in report.spaces],
            "unpublished": [each._asdict() for each in report.unpublished],
            "hosts": [asdict(backlog) for backlog in report.backlogs],
            "workers": asdict(report.activity),
            "jobs": [{name: getattr(job, name) for name in JOB_FIELDS} for job in report.jobs],
            "due": [
                {"alias": alias, "priority": priority, "files": files}
                for (alias, priority), files in report.priorities.items()
            ],
            "places": report.places,
            "errors": [error_as_json(group) for group in report.errors[:ERRORS]],
            "troubles": report.troubles,
        }
        self.stdout.write_json(answer, default=datetime.isoformat)
