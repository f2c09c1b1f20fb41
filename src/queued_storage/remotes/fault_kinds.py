"""The kinds of faults, and what a rule about the errors of one library may say."""

import enum
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from django.core.files.storage import Storage

SMALL = 1024 * 1024  # bytes; every remote stores as many before a usual time-out


class Fault(enum.Enum):
    """What an error is the fault of."""

    AWAY = "away"  # the remote: it cannot be reached, or asks to come back later
    REFUSED = "refused"  # the remote: a key, a permission, a bucket or room is missing
    FILE = "file"  # the file, or something else that the remote has no part in
    UNCLEAR = "unclear"


class Case(NamedTuple):
    """What was going on."""

    remote: Storage
    size: int | None = None  # bytes of the file that was transferred; None if it is not known


Rule = Callable[[Any, Case], Fault | None]
# By dotted path, so that no library is imported to sort errors. A rule that returns None leaves
# the decision to the base classes, and then to the error that was the cause.
Rules = dict[str, Fault | Rule]


def timed_out(error: object, case: Case) -> Fault:
    """A time-out while the remote was to answer: a large file may just take its time."""
    return Fault.AWAY if case.size is not None and case.size <= SMALL else Fault.UNCLEAR


def broken_off(error: BaseException, case: Case) -> Fault | None:
    """A broken connection, unless the cause says otherwise.

    HTTP libraries read the file while they send it, and take an error of the file for one of the
    connection.
    """
    return None if _cause_of(error) else Fault.AWAY


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then what it was raised from: some storages hide every error in their own."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = _cause_of(each)


def _cause_of(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    for attribute in ("inner_exception", "last_exception"):  # of Azure's libraries, of s3transfer
        if isinstance(found := getattr(error, attribute, None), BaseException):
            return found
    return None if error.__suppress_context__ else error.__context__
