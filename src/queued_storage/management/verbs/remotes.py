"""``remotes``: the state of all remotes, and what an operator can do about it."""

import shlex
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError

from ...exceptions import UnknownAlias
from ...ledger.availability import (
    Availability,
    availabilities,
    availability_of,
    left,
    sentence,
    what_waits,
)
from ...ledger.copies import copies
from ...ledger.copy_counts import waiting_for
from ...operations import rebinding, remotes, tiers
from ...operations.remotes import Probed, UnknownRemote
from ...operations.writers import accept_writer
from ...reporting.counts import about, counted
from ...reporting.reasons import reason
from ...transfers.parts import storage_of
from .base import RepeatableVerb
from .forgetting import forget_place
from .selection import add_dry_run, add_yes
from .typos import misspelled, unknown

TIME = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class _Target:
    """The remote that an action is for."""

    alias: str
    place: int | None = None  # the digest; None for the present remote

    @property
    def remote(self) -> Availability | None:
        """The remote as it is now."""
        return availability_of(self.alias, self.place)

    @property
    def title(self) -> str:
        """What it is, for the beginning of a sentence."""
        remote = None if self.place is None else self.remote
        return remote.title if remote else f"The remote of {self.alias!r}"

    @property
    def steered_by(self) -> str:
        """The arguments that name it."""
        return remote.steered_by if (remote := self.remote) else shlex.quote(self.alias)

    @property
    def waiting(self) -> str:
        """How much waits for it, for the end of a sentence; "" if nothing can."""
        remote = self.remote
        waits = what_waits(remote, waiting_for(remote)) if remote else ""
        return f" {waits} for it." if waits else ""


class Remotes(RepeatableVerb):
    name = "remotes"
    help = "show the state of all remotes; pause, resume, probe, accept or forget one"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "action",
            nargs="?",
            choices=sorted([*ACTIONS, "accept", "forget"]),
            help="what to do with one remote",
        )
        parser.add_argument("alias", nargs="?", help="alias of the storage whose remote it is")
        parser.add_argument(
            "place",
            nargs="?",
            help="which of its remotes, if it is not the one that new files go to: the alias of a "
            "mirror or previous remote, or its place as 'remotes' shows it",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object per remote")
        add_dry_run(parser)
        add_yes(parser)
        parser.add_argument(
            "--lose-files",
            action="store_true",
            help="with 'forget': mark files as failed that have no other copy",
        )

    def run(self, options: dict[str, Any]) -> None:
        action, alias, place = options["action"], options["alias"], options["place"]
        _require_options_of(action, options)
        if action is None:
            self._list(is_json=options["json"])
            return
        if alias is None:
            there_is = sorted({each.alias for each in availabilities()})
            raise unknown(f"Give the alias of the storage to {action}.", there_is)
        if action == "accept" and place is not None:
            raise CommandError(
                "'remotes accept' is for the remote that new files go to, so it takes no place.",
                returncode=2,
            )
        try:
            if action == "accept":
                self.accept(alias, dry_run=options["dry_run"])
            elif action == "forget":
                forget_place(self, _remote_to_forget(alias, place), options)
            else:
                ACTIONS[action](self, _target(alias, place))
        except UnknownAlias:
            there_is = sorted({each.alias for each in availabilities()})
            raise misspelled(f"No storage has the alias {alias!r}.", alias, there_is) from None
        except UnknownRemote as error:
            problem = f"The storage {alias!r} has no remote {place!r}."
            raise misspelled(problem, place, error.names) from None

    # The list

    def _list(self, *, is_json: bool) -> None:
        found = availabilities()
        chains = tiers.chains()
        if not found and not is_json:
            self.stdout.write("There is no queued storage.")
        for remote in found:
            files = _files_of(remote)
            chain = tiers.handed_on(remote, chains)
            if is_json:
                answer = as_json(remote, files) | ({"tiers": asdict(chain)} if chain else {})
                self.stdout.write_json(answer, default=datetime.isoformat)
            else:
                self._show(remote, files)
                if chain:
                    self._show_chain(chain, found)

    def _show(self, remote: Availability, files: int) -> None:
        since = f"since {remote.since:{TIME}}" if remote.since else "not used yet"
        named = f"{remote.name}: {remote.place}" if remote.name else remote.place
        details = [named, since, *_details(remote)]
        if remote.is_mirror:
            details.append("a mirror")
            details.append(counted(files, "{} copy is missing", "{} copies are missing"))
        elif remote.is_configured:
            details.append(counted(files, "{} file waits", "{} files wait"))
        else:
            elsewhere = "the storage uploads to another place now"
            details.append("a previous remote" if remote.is_previous else elsewhere)
            details.append(counted(files, "{} file is left", "{} files are left"))
            details.append(counted(_copies_at(remote), "{} old copy", "{} old copies"))
        line = f"{remote.alias:<24} {remote.state:<8} {', '.join(details)}"
        self.stdout.write(line, None if remote.is_open else self.style.ERROR)
        if remote.last_error:
            self.stdout.write(f"{'':<24} {remote.last_error}")

    def _show_chain(self, chain: tiers.Chain, found: list[Availability]) -> None:
        """Say to which place another storage uploads the files, and how many are missing there."""
        last = next((each for each in found if _is_last(each, chain)), None)
        state = f" ({last.state})" if last else ""
        through = ", ".join(map(repr, chain.through))
        self.stdout.write(
            f"{'':<24} handed on by {through} to {chain.place}{state}, {chain.sentence}"
        )

    # The actions

    def accept(self, alias: str, *, dry_run: bool) -> None:
        """Bind the files of the storage to its place, where an operator has copied the objects, and
        let them be overwritten and removed there whatever the marker of the writer says."""
        count = rebinding.rebind(alias, dry_run=dry_run)
        files = counted(count, "{} file", "{} files")
        remote = availability_of(alias)
        place = remote.place if remote else ""
        if dry_run:
            self.stdout.write(f"{files} of {alias!r} would be bound to {place}.")
            return
        self.stdout.write(f"{files} of {alias!r} {counted(count, 'is', 'are')} bound to {place}.")
        if count:
            self.stdout.write(
                f"Run 'manage.py queued_storage verify --storage {shlex.quote(alias)}' to find "
                f"those whose objects are not there."
            )
        self._accept_writer(alias)
        if left := rebinding.elsewhere(alias):
            files = counted(left, "{} file is", "{} files are")
            raise CommandError(
                f"{files} in the hands of a worker. Restart the workers that have the old "
                f"configuration, and run the command again.",
                returncode=1,
            )

    def _accept_writer(self, alias: str) -> None:
        try:
            writer = accept_writer(storage_of(alias, ""))
        except Exception as error:
            raise CommandError(
                f"The marker of the writer could not be read, so none was accepted: "
                f"{reason(error)}",
                returncode=1,
            ) from error
        if writer:
            self.stdout.write(
                f"{writer} has its marker there and is accepted: this site overwrites and removes "
                f"files there, too."
            )

    def pause(self, target: _Target) -> None:
        if not remotes.pause(target.alias, target.place):
            self.stdout.write(f"{target.title} is paused already.")
            return
        remote = target.remote
        if remote and remote.is_mirror:
            meanwhile = "Files are read from other places; their copies"
        elif remote and not remote.is_configured:
            meanwhile = "Moves from there and deletes there"
        else:
            meanwhile = "Files can be saved and read; their transfers"
        self.stdout.write(
            f"{target.title} is paused. {meanwhile} wait until you run 'manage.py queued_storage "
            f"remotes resume {target.steered_by}'."
        )

    def resume(self, target: _Target) -> None:
        if remotes.resume(target.alias, target.place):
            self.stdout.write(f"{target.title} is open.{target.waiting}")
            return
        remote = target.remote
        if remote is not None and not remote.is_open:
            raise CommandError(
                f"{target.title} is not paused, but {remote.state}. It opens when a probe "
                f"succeeds: run 'manage.py queued_storage remotes probe {target.steered_by}'.",
                returncode=1,
            )
        self.stdout.write(f"{target.title} is not paused.")

    def probe(self, target: _Target) -> None:
        known = target.remote
        if known and target.place is not None and not known.is_known:
            raise CommandError(
                f"{target.title} cannot be probed, because the storage has no remote at this "
                f"place now.",
                returncode=1,
            )
        before = remotes.probe(target.alias, target.place)
        remote = target.remote
        if before is Probed.WAS_OPEN or remote is None:
            tested = remote.tested_by if remote else shlex.quote(target.alias)
            command = f"'manage.py queued_storage check-remote {tested}'"
            advice = f" To test it, run {command}." if tested else ""
            self.stdout.write(f"{target.title} is open, so there is nothing to find out.{advice}")
        elif remote.is_open:
            self.stdout.write(f"{target.title} works again.{target.waiting}")
        else:
            raise CommandError(sentence(remote, waiting_for(remote)), returncode=1)


# One method for each action on a remote. An action that needs options of its own adds them in
# ``add_arguments()``.
ACTIONS: dict[str, Callable[[Remotes, _Target], None]] = {
    "pause": Remotes.pause,
    "resume": Remotes.resume,
    "probe": Remotes.probe,
}


def _require_options_of(action: str | None, options: dict[str, Any]) -> None:
    if options["dry_run"] and action not in ("accept", "forget"):
        raise CommandError(
            "--dry-run is for 'remotes accept' and 'remotes forget' only.", returncode=2
        )
    if (options["yes"] or options["lose_files"]) and action != "forget":
        raise CommandError("--yes and --lose-files are for 'remotes forget' only.", returncode=2)


def _remote_to_forget(alias: str, place: str | None) -> Availability:
    storage_of(alias, "")  # raises UnknownAlias
    if place is None:
        its = (each for each in availabilities() if each.alias == alias)
        there_is = [each.name or each.place for each in its if not each.is_configured]
        raise unknown(f"Give the remote of {alias!r} to forget.", there_is)
    return remotes.named(alias, place)


def _target(alias: str, place: str | None) -> _Target:
    if place is None:
        return _Target(alias)
    remote = remotes.named(alias, place)
    return _Target(alias, None if remote.is_configured else remote.digest)


def _is_last(remote: Availability, chain: tiers.Chain) -> bool:
    return remote.is_configured and remote.alias == chain.through[-1]


def as_json(remote: Availability, files: int) -> dict[str, Any]:
    """What programs get to know of a remote that so many files wait for."""
    found = asdict(remote)
    del found["digest"]
    if remote.is_configured or remote.is_mirror:
        return {**found, "waiting": files}
    return {**found, "waiting": 0, "left": files, "copies": _copies_at(remote)}


def _files_of(remote: Availability) -> int:
    """Count the files that wait for a remote, or that are left there."""
    return waiting_for(remote) if remote.is_configured or remote.is_mirror else left(remote)


def _copies_at(remote: Availability) -> int:
    """Count the further copies of files at a place."""
    return copies().filter(file__alias=remote.alias, place=remote.digest).count()


def _details(remote: Availability) -> list[str]:
    """What is known of the probes of a remote that is closed until one succeeds."""
    if remote.next_probe_in is None:
        return []
    probes = counted(remote.probes, "{} probe failed", "{} probes failed")
    return [probes, f"next probe in {about(remote.next_probe_in)}"]
