"""Checks of what a remote does that transfers, reads and deletes rely on."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from django.conf import settings
from django.core.files.storage import Storage
from django.utils.timezone import is_aware

from ..exceptions import VerificationError
from ..files.streams import MeasuredFile
from ..ledger.states import Content
from ..remotes.perthread import for_threads
from ..reporting.reasons import reason
from ..uploaders import Uploader, uploader_for
from .sockets import watched_sockets
from .trial import SMALL, Problem, Trial, data_of, in_threads, on_disk

LARGE = 9 * 2**20  # bytes, more than the libraries of S3 and Google send in one request
ROUNDS = 5  # files that each of the concurrent threads uploads


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: a fact about the remote, or a problem."""

    check: str
    outcome: str
    details: str = ""
    is_problem: bool = False

    def __str__(self) -> str:
        kind = "problem" if self.is_problem else "fact"
        return f"{kind:<8} {self.check}: {self.outcome}{self.details and '. '}{self.details}"


class Fact(NamedTuple):
    """What a check has found out if there is no problem."""

    outcome: str
    details: str = ""


# The checks: each returns a fact or raises an error, such as Problem.


def _name(trial: Trial) -> Fact:
    trial.first = trial.send("small.bin")
    path = trial.path("small.bin")
    if trial.small.name == path:
        return Fact("exact")
    return Fact("mapped", f"{path!r} became {trial.small.name!r}; the ledger stores both")


def _exists(trial: Trial) -> Fact:
    if not trial.uploader.exists(trial.small.name):
        raise Problem("returns False for a stored file", "other files would be overwritten")
    if trial.uploader.exists(trial.path("never-stored.bin")):
        raise Problem("returns True for a file that was never stored")
    return Fact("correct")


def _size(trial: Trial) -> Fact:
    found, sent = trial.remote.size(trial.small.name), len(trial.small.data)
    if found == sent:
        return Fact("correct")
    if getattr(trial.remote, "gzip", False):
        return Fact("of the compressed file")
    raise Problem("wrong", f"{found:,} instead of {sent:,} bytes")


def _content(trial: Trial) -> Fact:
    trial.require_whole(trial.small)
    return Fact("correct")


def _large_file(trial: Trial) -> Fact:
    trial.require_whole(trial.send("large.bin", trial.large))
    return Fact("correct")


def _empty_file(trial: Trial) -> Fact:
    trial.require_whole(trial.send("empty.bin", 0))
    return Fact("correct")


def _verification(trial: Trial) -> Fact:
    sent = trial.small
    false = Content(sent.content.size, "crc32:00000000", sent.content.content_type)
    reached = trial.uploader.verify(sent.name, sent.content, "checksum")
    for level in {reached, "content"} - {"size"}:
        with suppress(VerificationError):
            trial.uploader.verify(sent.name, false, level)
            raise Problem(f"{level} accepts different bytes")
    return Fact(reached)


def _wrong_checksum(trial: Trial) -> Fact:
    name = trial.path("damaged.bin")
    trial.note(name)
    match trial.uploader.refuses_wrong_checksum(name):
        case None:
            return Fact("not sent")
        case True:
            return Fact("refused")
    raise Problem("accepted", "damaged uploads are stored; set VERIFY to 'content'")


def _create(trial: Trial) -> Fact:
    """Upload to a name that another upload has used in the meantime."""
    theirs = trial.send("raced.bin")
    try:
        ours = trial.put(theirs.name, data_of(SMALL), trial.uploader.upload_new)
    except FileExistsError:
        trial.require_whole(theirs)
        return Fact("refuses an existing name")
    trial.require_whole(ours)
    if ours.name == theirs.name:
        return Fact("overwrites", "if two uploads use the same name, the later one wins")
    trial.require_whole(theirs)
    return Fact("uses another name")


def _second_save(trial: Trial) -> Fact:
    """Use the remote's own ``save()``, as other code does."""
    name = trial.send("saved.bin").name
    second = trial.put(name, data_of(SMALL), trial.remote.save)
    trial.require_whole(second)
    return Fact("overwrites" if second.name == name else "renames")


def _retry(trial: Trial) -> Fact:
    name = trial.send("retried.bin").name
    again = trial.send_again(name, SMALL // 2)
    trial.require_whole(again)
    if again.name == name:
        return Fact("overwrites the earlier attempt")
    if trial.remote.exists(name):
        raise Problem("leaves a second file", f"{name!r} in addition to {again.name!r}")
    return Fact("uses another name", "the file of the earlier attempt is deleted")


class _Interrupted(Exception):
    """The upload is stopped, as if the worker had lost its lease."""


class _Interruption:
    """Stops an upload after a number of bytes."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise _Interrupted


def _interrupted_upload(trial: Trial) -> Fact:
    path = trial.path("interrupted.bin")
    trial.note(path)
    with on_disk(data_of(trial.large)) as file:
        try:
            outgoing = MeasuredFile(file, path, _Interruption(after=trial.large // 2))
            trial.uploader.upload_new(path, outgoing)
        except Exception:
            pass  # a library may replace our exception with its own
        else:
            raise Problem("counts as complete")
    is_left = trial.remote.exists(path)
    trial.require_whole(trial.send_again(path))
    return Fact("leaves a partial file, which the retry replaces" if is_left else "leaves nothing")


def _delete(trial: Trial) -> Fact:
    sent = trial.send("deleted.bin")
    trial.remote.delete(sent.name)
    if trial.remote.exists(sent.name):
        raise Problem("doesn't delete the file")
    try:
        trial.remote.delete(sent.name)
    except Exception as error:
        trial.uploader.remove(sent.name)
        kind = type(error).__name__
        return Fact("cannot be repeated", f"the second delete raises {kind}, which is ignored")
    return Fact("can be repeated")


def _listing(trial: Trial) -> Fact:
    sent = trial.send("listed/file.bin")
    try:
        found = set(trial.uploader.names(trial.directory))
    except NotImplementedError:  # Django does not require a storage to list files
        return Fact("not supported", "'orphans' and 'adopt --under' don't work")
    if sent.name in found:
        return Fact("correct")
    raise Problem("doesn't include a stored file", "'orphans' and 'adopt --under' don't work")


def _times(trial: Trial) -> Fact:
    try:
        modified: datetime = trial.remote.get_modified_time(trial.small.name)
    except NotImplementedError:  # Django does not require a storage to support times
        return Fact("not supported", "'orphans' doesn't work")
    if is_aware(modified) != settings.USE_TZ:
        raise Problem("aware" if is_aware(modified) else "naive", f"USE_TZ is {settings.USE_TZ}")
    return Fact("aware" if settings.USE_TZ else "naive")


def _url(trial: Trial) -> Fact:
    with watched_sockets() as calls:
        try:
            url = trial.remote.url(trial.small.name)
        except (NotImplementedError, ValueError) as error:  # ValueError: it has no base URL
            return Fact("not supported", reason(error, trial.remote))
    if calls:
        raise Problem("sends a request", "each page that shows a URL waits for it")
    if not url:
        raise Problem("empty")
    keys = " ".join(key.lower() for key, _value in parse_qsl(urlsplit(url).query))
    return Fact(f"{'signed' if 'sig' in keys else 'unsigned'}, without a request")


def _round_trip(name: str, trial: Trial) -> Fact:
    sent = trial.send(name)
    if not trial.remote.exists(sent.name):
        raise Problem("not found after the upload")
    trial.require_whole(sent)
    return Fact("exact" if sent.name == trial.path(name) else "mapped")


def _case_sensitivity(trial: Trial) -> Fact:
    sent = trial.send("case.bin")
    other = sent.name.removesuffix("case.bin") + "CASE.bin"
    return Fact("case-insensitive" if trial.remote.exists(other) else "case-sensitive")


def _concurrent_uploads(trial: Trial) -> Fact:
    jobs: list[Callable[[], None]] = [partial(_upload_some, trial, label) for label in "ab"]
    if errors := in_threads(jobs):
        raise Problem("fail", reason(errors[0], trial.remote))
    return Fact("safe")


def _upload_some(trial: Trial, label: str) -> None:
    for number in range(ROUNDS):
        trial.require_whole(trial.send(f"thread-{label}/{number}.bin", SMALL + number))


CHECKS: dict[str, Callable[[Trial], Fact]] = {
    "name": _name,
    "exists": _exists,
    "size": _size,
    "content": _content,
    "large file": _large_file,
    "empty file": _empty_file,
    "verification": _verification,
    "wrong checksum": _wrong_checksum,
    "create": _create,
    "second save": _second_save,
    "retry": _retry,
    "interrupted upload": _interrupted_upload,
    "delete": _delete,
    "listing": _listing,
    "times": _times,
    "url": _url,
    "spaces": partial(_round_trip, "a name with spaces.bin"),
    "non-ASCII names": partial(_round_trip, "Größe-猫.bin"),
    "directories": partial(_round_trip, "a/b/c/d.bin"),
    "case sensitivity": _case_sensitivity,
    "concurrent uploads": _concurrent_uploads,  # last: the connection may be unusable afterwards
}
CLEAN_UP = "clean-up"


def check_remote(
    remote: Storage, uploader: Uploader | None = None, *, large: int = LARGE
) -> Iterator[Finding]:
    """Run all checks in a temporary directory of the remote; yield each finding as it is known.

    Without ``uploader``, the remote is used as a queued storage would use it. ``large`` is the
    size of the large files in bytes. At the end all files are deleted, also after an error.
    """
    uploader = uploader or uploader_for(for_threads(remote))
    trial = Trial(uploader.remote, uploader, large)
    try:
        for name, check in CHECKS.items():
            yield _run(name, check, trial)
            if trial.first is None:
                break  # nothing can be stored, so nothing can be checked
    finally:
        left = trial.clean_up()
    if left:
        details = f"Delete these files yourself if they are there: {', '.join(left)}"
        yield Finding(CLEAN_UP, "incomplete", details, True)
    else:
        yield Finding(CLEAN_UP, "complete")


def _run(name: str, check: Callable[[Trial], Fact], trial: Trial) -> Finding:
    try:
        return Finding(name, *check(trial))
    except Problem as problem:
        return Finding(name, problem.outcome, problem.details, True)
    except Exception as error:
        return Finding(name, "fails", reason(error, trial.remote), True)
