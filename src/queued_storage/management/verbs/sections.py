"""What ``status`` prints: sections with titles, each only if there is something to say."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.core.management.color import Style

from ...ledger.availability import Availability, sentence
from ...ledger.database import ledger, ledger_database
from ...ledger.jobs import Job
from ...ledger.preparations import Counted
from ...ledger.priorities import name_of
from ...ledger.sql.clock import database_time
from ...operations import failures, mirrors, space, status, tiers
from ...reporting.counts import counted
from ..quantities import format_size
from ..terminal import Terminal
from .troubled import commands_for
from .troubled import sentence as sentence_of_errors

TIME = "%Y-%m-%d %H:%M:%S"
ERRORS = 10  # groups of files with the same error
COMMAND = "manage.py queued_storage"


@dataclass(frozen=True)
class Report:
    """All that ``status`` knows."""

    remotes: list[tuple[Availability, int]]  # with the number of files that wait
    tallies: list[status.Tally]
    backlogs: list[status.Backlog]
    activity: status.Activity
    errors: list[failures.Group]
    mirrors: list[mirrors.Mirror]
    tiers: list[tiers.Chain]
    spaces: list[space.Space]
    unpublished: list[Counted]
    jobs: list[Job]
    priorities: dict[tuple[str, int], int]  # the due files
    places: float  # the share of the ledger in which they are filled in
    troubles: list[str]

    @property
    def banners(self) -> list[str]:
        """What is the matter with the remotes that are closed."""
        return [sentence(*each) for each in self.remotes if not each[0].is_open]


class Sections:
    """Writes them, with an empty line between two."""

    def __init__(self, out: Terminal, style: Style, report: Report) -> None:
        self._out = out
        self._style = style
        self._report = report
        self._is_first = True

    def write(self) -> None:
        report = self._report
        banners = report.banners
        self._section("Closed remotes", iter(banners), self._style.ERROR)
        if not report.tallies:
            self._out.write("The ledger is empty.")
        self._section("Files", self._files())
        self._section("Local storage", map(_of_space, report.spaces))
        self._section("Hosts", map(_of_host, report.backlogs))
        if report.tallies:
            self._section("Workers", self._workers())
        self._section("Jobs", map(_of_job, report.jobs))
        self._section("Errors", self._errors())
        troubles = [each for each in report.troubles if each not in banners]
        self._section("Needs attention", iter(troubles), self._style.ERROR)
        if report.tallies and not banners and not troubles:
            self._out.write()
            self._out.write("Nothing needs attention.", self._style.SUCCESS)

    def _section(self, title: str, lines: Iterator[str], style: object = None) -> None:
        is_new = True
        for line in lines:
            if is_new and not self._is_first:
                self._out.write()
            if is_new:
                self._out.write(title, self._style.MIGRATE_HEADING)
            is_new = self._is_first = False
            self._out.write(f"  {line}", style if callable(style) else None)

    def _files(self) -> Iterator[str]:
        report = self._report
        for tally in report.tallies:
            yield f"{tally.alias:<24} {tally.state:<12} {_numbers(tally)}  {_since(tally)}"
        for mirror in report.mirrors:
            yield (
                f"{mirror.alias:<24} mirror {mirror.place}: {mirror.pending:,} pending, "
                f"{mirror.failed:,} failed"
            )
        for chain in report.tiers:
            through = ", ".join(chain.through)
            yield f"{chain.alias:<24} by {through} to {chain.place}: {chain.sentence}"
        for group in report.unpublished:
            since = f"oldest {group.oldest:{TIME}}"
            yield f"{group.alias:<24} steps {group.state}: {group.files:,} ({since})"
        if report.places < 1:
            done = int(report.places * 100)
            yield f"Recording the places of files saved by earlier versions: {done}% done."

    def _workers(self) -> Iterator[str]:
        report = self._report
        yield _of_workers(report.activity)
        if len({priority for _alias, priority in report.priorities}) < 2:
            return
        for (alias, priority), files in report.priorities.items():
            due = counted(files, "{} file is due", "{} files are due")
            yield f"{alias:<24} {due} with the priority '{name_of(priority)}'"

    def _errors(self) -> Iterator[str]:
        """Each error once, with its files and the commands that help.

        What waits for a closed remote is left out: its outage is said already.
        """
        report = self._report
        closed = {each.alias for each, _files in report.remotes if not each.is_open}
        groups = [each for each in report.errors if each.is_failed or each.alias not in closed]
        if not groups:
            return
        now = database_time(ledger_database())
        newest = ledger().filter(pk__in=[max(group.pks) for group in groups[:ERRORS]])
        names = dict(newest.values_list("pk", "name"))
        for group in groups[:ERRORS]:
            yield sentence_of_errors(group, now, names.get(max(group.pks), ""))
            yield f"  {group.error}"
            for command in commands_for(group):
                yield f"  {COMMAND} {command}"
        if len(groups) > ERRORS:
            more = counted(len(groups) - ERRORS, "{} more error.", "{} more errors.")
            yield f"{more} To see all, use --json."


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


def _of_host(backlog: status.Backlog) -> str:
    overdue = f"  due since {backlog.overdue:{TIME}}" if backlog.overdue else ""
    return f"only on {backlog.host:<29} {_numbers(backlog)}{overdue}"


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
