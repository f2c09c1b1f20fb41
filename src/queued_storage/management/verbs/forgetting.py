"""``remotes forget``: a place that is lost for good."""

import shlex
from collections import Counter
from typing import Any

from django.core.management.base import CommandError

from ...exceptions import LocalStorageMissing
from ...ledger.availability import Availability
from ...ledger.forgetting import files_at
from ...operations.forgetting import Fate, NotForgettable, forget, require_forgettable
from ...reporting.counts import counted
from .base import RepeatableVerb
from .selection import one_storage


def forget_place(verb: RepeatableVerb, remote: Availability, options: dict[str, Any]) -> None:
    """Ask, forget the place of a remote, and say what became of the files."""
    _Forgetting(verb, remote, options).run()


class _Forgetting:
    def __init__(self, verb: RepeatableVerb, remote: Availability, options: dict[str, Any]) -> None:
        self._verb = verb
        self._remote = remote
        self._options = options
        self._storage = one_storage(remote.alias)

    def run(self) -> None:
        try:
            require_forgettable(self._remote)
            if not (self._options["yes"] or self._options["dry_run"]):
                plan = " ".join(self._sentences(self._pass(dry_run=True), would=True))
                self._verb.require_yes(
                    self._options,
                    f"The ledger forgets {self._remote.place}, and what lies there is never read "
                    f"again. {plan}",
                )
            is_dry = bool(self._options["dry_run"])
            counts = self._pass(dry_run=is_dry, tells=True)
        except (NotForgettable, LocalStorageMissing) as error:
            raise CommandError(str(error), returncode=1) from None
        for sentence in self._sentences(counts, would=is_dry):
            self._verb.stdout.write(sentence)
        self._require_nothing_left(counts, is_dry=is_dry)

    def _pass(self, *, dry_run: bool, tells: bool = False) -> Counter[Fate]:
        rows = files_at(self._remote.alias, self._remote.digest)
        with self._verb.progress(rows) as progress:

            def tell(name: str, fate: Fate) -> None:
                if tells:
                    progress.clear()
                    self._verb.stdout.write(name)

            return forget(
                self._storage,
                self._remote,
                progress,
                tell=tell,
                dry_run=dry_run,
                loses_files=self._options["lose_files"],
            )

    def _sentences(self, counts: Counter[Fate], *, would: bool) -> list[str]:
        """Say what became of the files, or would."""
        loses = self._options["lose_files"]
        texts = {
            Fate.SWITCHED: ("be read from another copy", "read from another copy now"),
            Fate.UPLOADED: ("be uploaded again", "uploaded again from the local copy"),
            Fate.LEFT: ("be bound to the present remote", "bound to the present remote"),
            Fate.LOST: (("become failed", "marked as failed") if loses else ("be kept", "kept")),
        }
        found = []
        for fate, (later, now) in texts.items():
            if not (count := counts[fate]):
                continue
            files = counted(count, "{} file", "{} files")
            why = ", because no other copy is left" if fate is Fate.LOST else ""
            verb = f"would {later}" if would else f"{counted(count, 'is', 'are')} {now}"
            found.append(f"{files} {verb}{why}.")
        if count := counts[Fate.DROPPED]:
            verb = "would be" if would else counted(count, "is", "are")
            found.append(f"{counted(count, '{} copy', '{} copies')} {verb} forgotten.")
        return found or ["Nothing lies there."]

    def _require_nothing_left(self, counts: Counter[Fate], *, is_dry: bool) -> None:
        if count := counts[Fate.BUSY]:
            files = counted(count, "{} file is", "{} files are")
            raise CommandError(
                f"{files} in the hands of a worker, or cannot be checked. Run the command again.",
                returncode=1,
            )
        if counts[Fate.LOST] and not self._options["lose_files"] and not is_dry:
            raise CommandError(
                "The files above would lose their last copy. If you have their content elsewhere, "
                "save it again. To mark them as failed, add --lose-files; 'prune' then removes "
                "them from the ledger.",
                returncode=1,
            )
        if (left := self._at_mirrors()) and not is_dry:
            files = counted(left, "{} file has", "{} files have")
            self._verb.stdout.write(
                f"{files} no copy at the present remote. Run 'manage.py queued_storage move "
                f"--storage {shlex.quote(self._remote.alias)}'."
            )

    def _at_mirrors(self) -> int:
        digests = [each.remote_place.digest for each in self._storage.with_each_mirror]
        return sum(files_at(self._remote.alias, digest).count() for digest in digests)
