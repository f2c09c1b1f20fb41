"""What a remote must do, tried on a real one."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
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
from .trial import SMALL, Problem, Trial, data_of, in_threads, on_disk, watched_sockets

LARGE = 9 * 2**20  # more than the libraries of S3 and Google send in one request
ROUNDS = 5  # files that each of the two threads sends


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found out: a fact about the remote, or a problem."""

    check: str
    outcome: str
    details: str = ""
    is_problem: bool = False

    def __str__(self) -> str:
        kind = "problem" if self.is_problem else "fact"
        return f"{kind:<8} {self.check}: {self.outcome}{self.details and '. '}{self.details}"


# The checks: each returns the outcome, or outcome and details, or raises.

Answer = str | tuple[str, str]


def _name(trial: Trial) -> Answer:
    trial.first = trial.send("small.bin")
    path = trial.path("small.bin")
    if trial.small.name == path:
        return "exact"
    return "mapped", f"{path!r} became {trial.small.name!r}; the ledger keeps both"


def _exists(trial: Trial) -> Answer:
    if not trial.remote.exists(trial.small.name):
        raise Problem("says no of a stored file", "files of others would be overwritten")
    if trial.remote.exists(trial.path("never-stored.bin")):
        raise Problem("says yes of a file that was never stored")
    return "right"


def _size(trial: Trial) -> Answer:
    found, sent = trial.remote.size(trial.small.name), len(trial.small.data)
    if found == sent:
        return "right"
    if getattr(trial.remote, "gzip", False):
        return "of the compressed file"
    raise Problem("wrong", f"{found} instead of {sent} bytes")


def _content(trial: Trial) -> Answer:
    trial.require_whole(trial.small)
    return "right"


def _large_file(trial: Trial) -> Answer:
    trial.require_whole(trial.send("large.bin", trial.large))
    return "right"


def _empty_file(trial: Trial) -> Answer:
    trial.require_whole(trial.send("empty.bin", 0))
    return "right"


def _verification(trial: Trial) -> Answer:
    sent = trial.small
    false = Content(sent.content.size, "crc32:00000000", sent.content.content_type)
    reached = trial.uploader.verify(sent.name, sent.content, "checksum")
    for level in {reached, "content"} - {"size"}:
        with suppress(VerificationError):
            trial.uploader.verify(sent.name, false, level)
            raise Problem(f"{level} passes other bytes")
    return reached


def _wrong_checksum(trial: Trial) -> Answer:
    name = trial.path("damaged.bin")
    trial.note(name)
    match trial.uploader.refuses_wrong_checksum(name):
        case None:
            return "none is sent"
        case True:
            return "refused"
    raise Problem("accepted", "what is damaged on the way is stored; use VERIFY = 'content'")


def _create(trial: Trial) -> Answer:
    """What happens to a file that somebody else stores after we found its name to be free."""
    theirs = trial.send("raced.bin")
    try:
        ours = trial.put(theirs.name, data_of(SMALL), trial.uploader.upload_new)
    except FileExistsError:
        trial.require_whole(theirs)
        return "refuses a taken name"
    trial.require_whole(ours)
    if ours.name == theirs.name:
        return "overwrites", "who is second in a race for a name wins"
    trial.require_whole(theirs)
    return "takes another name"


def _second_save(trial: Trial) -> Answer:
    """The remote's own ``save()``, as others use it."""
    name = trial.send("saved.bin").name
    second = trial.put(name, data_of(SMALL), trial.remote.save)
    trial.require_whole(second)
    return "overwrites" if second.name == name else "renames"


def _retry(trial: Trial) -> Answer:
    name = trial.send("retried.bin").name
    again = trial.send_again(name, SMALL // 2)
    trial.require_whole(again)
    if again.name == name:
        return "overwrites its own remains"
    if trial.remote.exists(name):
        raise Problem("leaves its own remains", f"{name!r} beside {again.name!r}")
    return "takes another name", "its own remains are removed"


class _CutOff(Exception):
    """The upload ends here, as when a worker has lost its lease."""


def _broken_upload(trial: Trial) -> Answer:
    path = trial.path("broken.bin")
    trial.note(path)

    left = trial.large // 2

    def cut_off(count: int) -> None:
        nonlocal left
        left -= count
        if left < 0:
            raise _CutOff

    with on_disk(data_of(trial.large)) as file:
        try:
            trial.uploader.upload_new(path, MeasuredFile(file, path, cut_off))
        except Exception:
            pass  # also what a library makes of ours
        else:
            raise Problem("is taken for a whole one")
    remains = trial.remote.exists(path)
    trial.require_whole(trial.send_again(path))
    return "leaves a part, which the retry replaces" if remains else "leaves nothing"


def _delete(trial: Trial) -> Answer:
    sent = trial.send("deleted.bin")
    trial.remote.delete(sent.name)
    if trial.remote.exists(sent.name):
        raise Problem("leaves the file")
    try:
        trial.remote.delete(sent.name)
    except Exception as error:
        trial.uploader.remove(sent.name)
        return "once", f"a second one raises {type(error).__name__}, which is put up with"
    return "any number of times"


def _listing(trial: Trial) -> Answer:
    sent = trial.send("listed/file.bin")
    try:
        found = set(trial.uploader.names(trial.directory))
    except NotImplementedError:  # as Django's Storage has it where a backend cannot list
        return "none", "'orphans' and 'adopt --under' cannot look there"
    if sent.name in found:
        return "right"
    raise Problem("without a stored file", "'orphans' and 'adopt --under' cannot be used")


def _times(trial: Trial) -> Answer:
    try:
        modified: datetime = trial.remote.get_modified_time(trial.small.name)
    except NotImplementedError:  # as it has it where a backend knows no times
        return "none", "'orphans' cannot tell how old a file is"
    if is_aware(modified) != settings.USE_TZ:
        raise Problem("aware" if is_aware(modified) else "naive", f"USE_TZ is {settings.USE_TZ}")
    return "aware" if settings.USE_TZ else "naive"


def _url(trial: Trial) -> Answer:
    with watched_sockets() as calls:
        try:
            url = trial.remote.url(trial.small.name)
        except (NotImplementedError, ValueError) as error:  # ValueError: it has no base URL
            return "none", reason(error, trial.remote)
    if calls:
        raise Problem("asks the remote", "each page that shows it waits for that")
    if not url:
        raise Problem("empty")
    keys = " ".join(key.lower() for key, _value in parse_qsl(urlsplit(url).query))
    return "signed, without a call" if "sig" in keys else "plain, without a call"


def _sent_and_read(name: str) -> Callable[[Trial], Answer]:
    def check(trial: Trial) -> Answer:
        sent = trial.send(name)
        if not trial.remote.exists(sent.name):
            raise Problem("not found again")
        trial.require_whole(sent)
        return "exact" if sent.name == trial.path(name) else "mapped"

    return check


def _letter_case(trial: Trial) -> Answer:
    sent = trial.send("case.bin")
    other = sent.name.removesuffix("case.bin") + "CASE.bin"
    return "one and the same" if trial.remote.exists(other) else "told apart"


def _two_threads(trial: Trial) -> Answer:
    def work(label: str) -> Callable[[], None]:
        def job() -> None:
            for number in range(ROUNDS):
                trial.require_whole(trial.send(f"thread-{label}/{number}.bin", SMALL + number))

        return job

    if errors := in_threads([work("a"), work("b")]):
        raise Problem("in each other's way", reason(errors[0], trial.remote))
    return "safe"


CHECKS: dict[str, Callable[[Trial], Answer]] = {
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
    "broken upload": _broken_upload,
    "delete": _delete,
    "listing": _listing,
    "times": _times,
    "url": _url,
    "spaces": _sent_and_read("a name with spaces.bin"),
    "other letters": _sent_and_read("Größe-猫.bin"),
    "directories": _sent_and_read("a/b/c/d.bin"),
    "letter case": _letter_case,
    "two threads": _two_threads,  # last: it may leave the connection confused
}
CLEAN_UP = "clean-up"


def check_remote(
    remote: Storage, uploader: Uploader | None = None, *, large: int = LARGE
) -> Iterator[Finding]:
    """Try all that a transfer, a reader and a delete rely on, in a scratch directory.

    Without an uploader, the remote is used as a queued storage would use it.
    Each finding comes as soon as it is known. Whatever happens, all that was stored is deleted.
    """
    uploader = uploader or uploader_for(for_threads(remote))
    trial = Trial(uploader.remote, uploader, large)
    try:
        for name, check in CHECKS.items():
            finding = _tried(name, check, trial)
            yield finding
            if trial.first is None:
                break  # nothing can be stored, so there is nothing to look at
    finally:
        left = trial.clean_up()
    if left:
        yield Finding(CLEAN_UP, "not complete", f"Delete {', '.join(left)}", True)
    else:
        yield Finding(CLEAN_UP, "complete")


def _tried(name: str, check: Callable[[Trial], Answer], trial: Trial) -> Finding:
    try:
        answer = check(trial)
    except Problem as problem:
        return Finding(name, problem.outcome, problem.details, True)
    except Exception as error:
        return Finding(name, "fails", reason(error, trial.remote), True)
    return Finding(name, answer) if isinstance(answer, str) else Finding(name, *answer)
