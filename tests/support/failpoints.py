"""Named points in the life cycle of a file at which a process of a test is killed or held.

A child gets the point from forks.py or from its settings, and this app wraps functions of the
package. Only the first process that reaches the point is killed or held.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings

AWAIT_RELEASE = 60  # seconds

# The place of a point: before or after the Nth call of a function
BEFORE, AFTER = "before", "after"
_LEDGER = "queued_storage.ledger.database:QueuedFileQuerySet"
_COPIES = "queued_storage.ledger.copies:Copies"
_CLAIMS = "queued_storage.ledger.copy_claims:CopyClaims"
_FORGETTING = "queued_storage.ledger.forgetting"
_PREPARATIONS = "queued_storage.ledger.preparations:Preparations"
_STEPS = "queued_storage.ledger.preparation_claims:PreparationClaims"
_DELETE = "django.core.files.storage:FileSystemStorage.delete"
POINTS: dict[str, tuple[str, str, int]] = {
    # A transfer
    "claiming": (f"{_LEDGER}._take", AFTER, 1),  # not committed on every database
    "claimed": ("queued_storage.transfers.work:run_claimed", BEFORE, 1),
    "reserved": (f"{_LEDGER}.reserve_remote_name", AFTER, 1),
    "copying": ("queued_storage.transfers.proxies:WatchedFile.read", AFTER, 3),
    "read for S3": (
        "queued_storage.transfers.proxies:WatchedFile.read",
        AFTER,
        1,
    ),  # a small file, in one read
    "sending parts to S3": ("queued_storage.transfers.proxies:WatchedFile.read", AFTER, 2),
    "written": ("queued_storage.uploaders.generic:GenericUploader.upload", AFTER, 1),
    "written to S3": ("queued_storage.uploaders.s3.uploader:S3Uploader._upload", AFTER, 1),
    "verified": (f"{_LEDGER}.promote", BEFORE, 1),
    "promoted": (f"{_LEDGER}.promote", AFTER, 1),
    # An eviction
    "evicting": (f"{_LEDGER}.mark_evicted", AFTER, 1),  # not committed
    "local copy freed": (_DELETE, AFTER, 1),  # not committed
    "evicted": ("queued_storage.transfers.copies:free_local", AFTER, 1),
    # A delete in the process of its caller
    "buried": ("queued_storage.transfers.copies:drop_local", BEFORE, 1),
    # A purge of a file with both copies
    "purging": ("queued_storage.transfers.disposal:Removal.run", BEFORE, 1),
    "remote copy removed": ("queued_storage.transfers.copies:drop_local", BEFORE, 1),
    "dropping": (f"{_LEDGER}.mark_local_dropped", AFTER, 1),  # not committed
    "local copy removed": (_DELETE, AFTER, 2),  # not committed
    "both removed": (f"{_LEDGER}.remove_tombstone", BEFORE, 1),
    "purged": (f"{_LEDGER}.remove_tombstone", AFTER, 1),
    # A save in the process of its caller
    "saved locally": (f"{_LEDGER}.record", BEFORE, 1),
    "recorded": (f"{_LEDGER}.record", AFTER, 1),
    # A save to the remote, in the process of its caller
    "name reserved": (f"{_LEDGER}.unreserve", AFTER, 1),
    "object verified": ("queued_storage.transfers.copies:verify_upload", AFTER, 1),
    "filling remotely": (f"{_LEDGER}.fill_remotely", BEFORE, 1),
    "filled remotely": (f"{_LEDGER}.fill_remotely", AFTER, 1),
    # The verbs of the command
    "retried": (f"{_LEDGER}.retry", AFTER, 1),  # not committed
    "cancelled": (f"{_LEDGER}.cancel", AFTER, 1),
    "second claimed": (f"{_LEDGER}.claim_settled", AFTER, 2),
    "restored": (f"{_LEDGER}.mark_restored", AFTER, 1),  # not committed
    "put in place": ("queued_storage.files.newfiles:_Draft.take", AFTER, 1),  # not committed
    "sent again": (f"{_LEDGER}.retransfer", AFTER, 1),
    "orphan deleted": ("queued_storage.operations.inventory:delete_orphan", AFTER, 1),
    "second adopted": (f"{_LEDGER}.record_remote", AFTER, 2),
    "second backfilled": (f"{_LEDGER}.record_local", AFTER, 2),  # not committed
    "pruned": (f"{_LEDGER}.mark_deleting_if_unchanged", AFTER, 1),
    # Moving a file to another remote
    "files claimed": (f"{_LEDGER}.claim_all_settled", AFTER, 1),
    "copy begun": (f"{_COPIES}.begin", AFTER, 1),
    "copy reserved": (f"{_COPIES}.reserve", AFTER, 1),
    "copy sent": ("queued_storage.transfers.sending:verify_upload", BEFORE, 1),
    "moving": ("queued_storage.transfers.moving:exchange_all", BEFORE, 1),
    "rows moved": ("queued_storage.ledger.exchanges:_move_rows", AFTER, 1),  # not committed
    "moved": ("queued_storage.transfers.moving:exchange_all", AFTER, 1),
    # Of many files to an S3 server; the first one is moved alone
    "batch begun": (f"{_COPIES}.begin", AFTER, 2),
    "batch sent": ("queued_storage.transfers.moving:exchange_all", BEFORE, 2),
    "batch moved": ("queued_storage.transfers.moving:exchange_all", AFTER, 2),
    "moving one": ("queued_storage.transfers.moving:exchange", BEFORE, 1),
    "moved one": ("queued_storage.transfers.moving:exchange", AFTER, 1),
    "old copies claimed": (f"{_COPIES}.claim_old", AFTER, 1),
    "removing the old copy": ("queued_storage.transfers.disposal:Removal.run", BEFORE, 1),
    "removing the third": ("queued_storage.transfers.disposal:Removal.run", BEFORE, 3),
    "third removed": ("queued_storage.transfers.disposal:Removal.run", AFTER, 3),
    "removed together": ("queued_storage.uploaders.s3.removing:remove", AFTER, 1),
    "old copies removed": (f"{_COPIES}.drop_all", BEFORE, 1),
    "old copies dropped": (f"{_COPIES}.drop_all", AFTER, 1),
    # Copying a file to a mirror
    "copy wanted": (f"{_COPIES}.want", AFTER, 1),
    "copy claimed": (f"{_COPIES}.claim_to_make", AFTER, 1),
    "mirror reserved": (f"{_CLAIMS}.reserve_remote_name", AFTER, 1),
    "finishing": (f"{_CLAIMS}.finish", BEFORE, 1),
    "finished": (f"{_CLAIMS}.finish", AFTER, 1),
    # Forgetting a place that is lost
    "switching": (f"{_FORGETTING}:switch", BEFORE, 1),
    "binding": (f"{_LEDGER}.update", AFTER, 1),  # not committed
    "switched": (f"{_FORGETTING}:switch", AFTER, 1),
    "sent again from here": (f"{_FORGETTING}:upload_again", AFTER, 1),
    "left": (f"{_FORGETTING}:leave", AFTER, 1),
    "lost": (f"{_FORGETTING}:lose", AFTER, 1),
    "copies wanted": (f"{_COPIES}.add", AFTER, 1),
    "copies dropped": (f"{_FORGETTING}:drop", AFTER, 1),
    # A probe of a closed remote
    "probe taken": ("queued_storage.ledger.remotes:Remotes.take_probe", AFTER, 1),
    "probe written": ("queued_storage.transfers.trials:try_out", AFTER, 1),
    "probed by file": ("queued_storage.transfers.work:run_claimed", AFTER, 1),
    "probe postponed": ("queued_storage.ledger.remotes:Remotes.postpone_probe", AFTER, 1),
    "reopened": ("queued_storage.ledger.remotes:Remotes.reopen", AFTER, 1),
    "opening announced": ("queued_storage.transfers.announcing:announce", AFTER, 1),
    "place filled": (f"{_LEDGER}.fill_place", AFTER, 1),
    # The steps of a file
    "gate recorded": (f"{_PREPARATIONS}.begin", AFTER, 1),  # not committed
    "step claimed": (f"{_PREPARATIONS}.claim", AFTER, 1),
    "step run": ("queued_storage.transfers.preparing:_Preparing._run_step", AFTER, 1),
    "second step run": ("queued_storage.transfers.preparing:_Preparing._run_step", AFTER, 2),
    "bytes written": ("queued_storage.files.quarantine:save", AFTER, 1),
    "bytes recorded": (f"{_STEPS}.replace_hidden", AFTER, 1),
    "bytes replaced": ("queued_storage.transfers.gatekeeping:replace_published", AFTER, 1),
    "old bytes removed": ("queued_storage.files.quarantine:remove", AFTER, 1),
    "publishing": ("queued_storage.files.quarantine:publish", AFTER, 1),  # not committed
    "published": ("queued_storage.transfers.gatekeeping:publish", AFTER, 1),
    "put in its place": ("queued_storage.files.successors:put_in_place", BEFORE, 1),
    "rejecting": (f"{_STEPS}.reject", BEFORE, 1),
    "rejected": (f"{_STEPS}.reject", AFTER, 1),
    "put away": ("queued_storage.files.quarantine:put_away", AFTER, 1),  # not committed
    "settled": (f"{_STEPS}.settle", AFTER, 1),  # not committed
    "discarding": ("queued_storage.transfers.gatekeeping:discard", BEFORE, 1),
    "hidden removed": ("queued_storage.files.quarantine:remove", AFTER, 1),
    # New content of a file
    "overwriting": (f"{_LEDGER}.overwrite", AFTER, 1),  # not committed
}


class FailPoint:
    """The point as the test sees it: whether a process reached it, and which one."""

    def __init__(self, name: str, report: Path) -> None:
        self.name = name
        self.report = report

    @property
    def reached(self) -> bool:
        return self.report.exists()

    @property
    def pid(self) -> int:
        return int(self.report.read_text())

    def release(self) -> None:
        """Let a held process continue."""
        self.report.with_suffix(".released").touch()

    def setting(self, *, hold: bool = False) -> dict[str, Any]:
        """Return the value of the setting FAIL_POINT for a child."""
        return {"name": self.name, "report": str(self.report), "hold": hold}


class FailPoints(AppConfig):
    """The app for a child with the setting FAIL_POINT."""

    name = "tests.support.failpoints"

    def ready(self) -> None:
        arm(settings.FAIL_POINT)


def arm(setting: dict[str, Any]) -> None:
    where, when, count = POINTS[setting["name"]]
    act = _hold if setting["hold"] else _die
    _wrap(where, when, count, lambda: act(Path(setting["report"])))
    _guard_beats()


def _die(report: Path) -> None:
    if _is_first(report):
        os.kill(os.getpid(), signal.SIGKILL)


def _hold(report: Path) -> None:
    """Wait for the release. Meanwhile, the leases of this process are not renewed.

    Without the lock, the test could stop the process while it executes a statement.
    """
    with _no_beat:
        if not _is_first(report):
            return
        deadline = time.monotonic() + AWAIT_RELEASE
        while not report.with_suffix(".released").exists():
            if time.monotonic() > deadline:
                sys.exit("the process was not released")
            time.sleep(0.01)


def _is_first(report: Path) -> bool:
    draft = report.with_suffix(f".{os.getpid()}")
    draft.write_text(str(os.getpid()))
    try:
        os.link(draft, report)
    except FileExistsError:
        return False
    return True


_no_beat = threading.RLock()


def _wrap(where: str, when: str, count: int, act: Callable[[], None]) -> None:
    module, _colon, path = where.partition(":")
    owner: Any = import_module(module)
    *classes, attribute = path.split(".")
    for name in classes:
        owner = getattr(owner, name)
    original = getattr(owner, attribute)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        is_here = calls == count
        if is_here and when == BEFORE:
            act()
        answer = original(*args, **kwargs)
        if is_here and when == AFTER:
            act()
        return answer

    setattr(owner, attribute, wrapped)


def _guard_beats() -> None:
    heart = import_module("queued_storage.transfers.leases")._Heart
    beat = heart._beat

    def guarded_beat(lease: Any) -> None:
        with _no_beat:
            beat(lease)

    heart._beat = staticmethod(guarded_beat)
