"""``status``: the state of all files and workers."""

from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError

from ...ledger import measures
from ...ledger.availability import Availability, sentence
from ...ledger.jobs import Job
from ...ledger.preparations import Counted, counts
from ...ledger.priorities import name_of
from ...operations import mirrors, space, status, tiers, unpublished
from ...reporting.counts import counted
from ..quantities import format_size, parse_count, parse_duration, parse_size
from ..terminal import Lines
from .base import Verb
from .remotes import as_json

# What programs get to know of a job
JOB_FIELDS = (
    *("id", "action", "alias", "host", "state", "requested_by", "requested_at"),
    *("files", "position", "succeeded", "failed"),
)
TIME = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class _Report:
    remotes: list[tuple[Availability, int]]  # with the number of files that wait
    tallies: list[status.Tally]
    backlogs: list[status.Backlog]
    activity: status.Activity
    failures: list[tuple[str, str, str]]
    mirrors: list[mirrors.Mirror]
    tiers: list[tiers.Chain]
    spaces: list[space.Space]
    unpublished: list[Counted]
    jobs: list[Job]
    priorities: dict[tuple[str, int], int]  # the due files
    places: float  # the share of the ledger in which they are filled in
    troubles: list[str]


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

    def run(self, options: dict[str, Any]) -> None:
        tallies = status.tallies(exact=options["exact"])
        remotes = status.remotes()
        waiting = counts()
        report = _Report(
            remotes=remotes,
            tallies=tallies,
            backlogs=status.backlogs(),
            failures=status.last_failures(),
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
                *status.troubles(options["max_failures"], tallies),
                *unpublished.troubles(waiting, options["max_held"]),
                *status.excesses(options["max_age"], options["max_bytes"]),
                *unpublished.excesses(options["max_age"]),
            ],
        )
        if options["json"]:
            self._print_json(report)
        else:
            self._print(report)
        if options["check"] and report.troubles:
            raise CommandError(Lines.of(report.troubles), returncode=1)

    def _print_json(self, report: _Report) -> None:
        keys = ("alias", "name", "error")
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
            "errors": [dict(zip(keys, failure, strict=True)) for failure in report.failures],
            "troubles": report.troubles,
        }
        self.stdout.write_json(answer, default=datetime.isoformat)

    def _print(self, report: _Report) -> None:
        banners = [sentence(*each) for each in report.remotes if not each[0].is_open]
        for banner in banners:
            self.stdout.write(banner, self.style.ERROR)
        if not report.tallies:
            self.stdout.write("The ledger is empty.")
        for tally in report.tallies:
            self.stdout.write(
                f"{tally.alias:<24} {tally.state:<12} {_numbers(tally)}  {_since(tally)}"
            )
        for mirror in report.mirrors:
            self.stdout.write(
                f"{mirror.alias:<24} mirror {mirror.place}: {mirror.pending:,} pending, "
                f"{mirror.failed:,} failed"
            )
        for chain in report.tiers:
            through = ", ".join(chain.through)
            self.stdout.write(f"{chain.alias:<24} by {through} to {chain.place}: {chain.sentence}")
        for each in report.spaces:
            self.stdout.write(_of_space(each))
        for group in report.unpublished:
            since = f"oldest {group.oldest:{TIME}}"
            self.stdout.write(f"{group.alias:<24} steps {group.state}: {group.files:,} ({since})")
        for backlog in report.backlogs:
            overdue = f"  due since {backlog.overdue:{TIME}}" if backlog.overdue else ""
            self.stdout.write(f"only on {backlog.host:<29} {_numbers(backlog)}{overdue}")
        if report.tallies:
            self.stdout.write(_of_workers(report.activity))
        if len({priority for _alias, priority in report.priorities}) > 1:
            self._print_priorities(report.priorities)
        for job in report.jobs:
            self.stdout.write(_of_job(job))
        if report.places < 1:
            done = int(report.places * 100)
            self.stdout.write(
                f"Recording the places of files saved by earlier versions: {done}% done."
            )
        for alias, name, error in report.failures:
            self.stdout.write(f"{alias}: {name}: {error}")
        for trouble in report.troubles:
            if trouble in banners:  # it is shown already
                continue
            self.stdout.write(trouble, self.style.ERROR)

    def _print_priorities(self, due: dict[tuple[str, int], int]) -> None:
        for (alias, priority), files in due.items():
            self.stdout.write(
                f"{alias:<24} {counted(files, '{} file is due', '{} files are due')} with the "
                f"priority '{name_of(priority)}'"
            )


def _of_space(its: space.Space) -> str:
    """How full a local storage is, in one line."""
    parts = [
        f"{format_size(its.local)}{_of(its.max_bytes)} in local copies",
        f"{format_size(its.pending)}{_of(its.max_pending_bytes)} pending",
        f"{format_size(its.evictable)} evictable",
    ]
    kept = [f"{format_size(size)} {space.WORDS[why]}" for why, size in its.kept.items() if size]
    if its.disk is not None and its.free is not None:
        kept.append(f"{format_size(its.free)} of the disk's {format_size(its.disk)} free")
    if its.written_through:
        kept.append(
            counted(
                its.written_through, "{} file saved to the remote", "{} files saved to the remote"
            )
        )
    if its.refused:
        kept.append(counted(its.refused, "{} save refused", "{} saves refused"))
    label = f"{its.alias} on {its.host}" if its.host else its.alias
    return f"{label:<24} local: {', '.join(parts + kept)}"


def _of(limit: int | None) -> str:
    return "" if limit is None else f" of {format_size(limit)}"


def _of_job(job: Job) -> str:
    host = f" on {job.host}" if job.host else ""
    by = f", requested by {job.requested_by}" if job.requested_by else ""
    return (
        f"job {job.pk}: {job.action} files of {job.alias}{host}, {job.state}: {job.position:,} of "
        f"{job.files:,} processed, {job.failed:,} failed{by}"
    )


def _numbers(files: status.Tally | status.Backlog) -> str:
    return f"{files.files:>11,} {format_size(files.bytes):>12}"


def _since(tally: status.Tally) -> str:
    if tally.is_cut:
        return "only the newest were counted; use --exact to count all"
    return f"oldest {tally.oldest:{TIME}}"


def _of_workers(activity: status.Activity) -> str:
    now = [f"{activity.moving:,} in progress"]
    if activity.silent:
        now.append(f"{activity.silent:,} with an expired lease (worker may be dead)")
    parts = [", ".join(now)]
    if activity.last:
        parts.append(f"last transfer at {activity.last:{TIME}}")
    if activity.waiting_since:
        parts.append(f"oldest unclaimed file due since {activity.waiting_since:{TIME}}")
    return "; ".join(parts)
