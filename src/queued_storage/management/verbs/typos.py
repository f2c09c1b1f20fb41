"""Errors for what does not exist, each with a list of what does."""

import difflib
import posixpath
import re
from collections.abc import Iterable, Iterator
from itertools import islice

from django.core.management.base import CommandError

from ...files import localfiles
from ...ledger.aliases import known_storages
from ...ledger.database import QueuedFileQuerySet, ledger
from ...ledger.measures import aliases
from ...ledger.names import can_be_recorded
from ...operations import inventory
from ...operations.storages import OperableStorage

COMPARED = 1000  # names that a wrong one is compared with
LISTED = 5  # names in an error
FOR_EXAMPLE = "It has, for example"
# The error of argparse, which quotes the choices in some versions of Python, and suggests one of
# them itself since Python 3.14
_INVALID_CHOICE = re.compile(
    r"(.*invalid choice: (.+?))(?:, maybe you meant .+\?)? \(choose from (.+)\)", re.S
)


def unknown(problem: str, there_is: Iterable[str], advice: str = "Choose one of") -> CommandError:
    """The error for a wrong argument; its exit code is 2, as that of a wrong option."""
    listed = ", ".join(map(repr, there_is))
    return CommandError(
        f"{problem} {advice}: {listed}." if listed else f"{problem} There is none.", returncode=2
    )


def misspelled(
    problem: str, given: str, there_is: Iterable[str], advice: str = "Choose one of"
) -> CommandError:
    """Do the same; name the one that is meant, if one is like it."""
    names = list(there_is)
    if near := _meant(given, names):
        return CommandError(f"{problem} Did you mean {near!r}?", returncode=2)
    return unknown(problem, names, advice)


def with_suggestion(message: str) -> str:
    """Name the choice that is meant in an error of argparse, in place of all of them."""
    if not (found := _INVALID_CHOICE.fullmatch(message)):
        return message
    head, given, choices = found.groups()
    near = _meant(given.strip("'\""), re.findall(r"[\w-]+", choices))
    return f"{head}. Did you mean {near!r}?" if near else message


def _meant(given: str, names: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(given, names, n=1, cutoff=0.6)), None)


def require_alias(alias: str | None) -> None:
    """Raise ``CommandError`` unless a storage, or a row of the ledger, has the alias."""
    if alias is None:
        return
    there = {storage.alias for storage in known_storages()}
    if alias not in there and alias not in (there := there | set(aliases())):
        raise misspelled(f"No storage has the alias {alias!r}.", alias, sorted(there))


def require_host(host: str) -> None:
    """Raise ``CommandError`` unless a row of the ledger has the host."""
    if not ledger().filter(host=host).exists():
        hosts = ledger().values_list("host", flat=True).order_by("host").distinct()
        problem = f"The ledger has no files of the host {host!r}."
        raise misspelled(problem, host, filter(None, hosts))


def require_recorded(names: Iterable[str], rows: QueuedFileQuerySet) -> None:
    """Raise ``CommandError`` unless these rows have all of the names."""
    names = list(names)
    asked = [name for name in names if can_be_recorded(name)]
    found = set(rows.filter(name__in=asked).values_list("name", flat=True))
    if missing := [name for name in names if name not in found]:
        raise unknown(
            f"The ledger has no file {missing[0]!r}.",
            _near(missing[0], _recorded(rows)),
            FOR_EXAMPLE,
        )


def require_stored(names: Iterable[str], storage: OperableStorage, side: str) -> None:
    """Raise ``CommandError`` unless this side of the storage, or the ledger, has all the names."""
    known = ledger().entries(storage.alias, [name for name in names if can_be_recorded(name)])
    for name in names:
        if name not in known and not _is_stored(storage, side, name):
            stored = _stored(storage, side, posixpath.dirname(name))
            problem = f"The {side} storage has no file {name!r}."
            raise unknown(problem, _near(name, stored), FOR_EXAMPLE)


def require_directory(storage: OperableStorage, side: str, under: str) -> None:
    """Raise ``CommandError`` unless this side has the directory, or files in it."""
    place = getattr(storage, side)
    is_there = not under or localfiles.is_directory(place, under)
    if is_there or next(inventory.names_of(storage, side, under), None) is not None:
        return
    names = _stored(storage, side, posixpath.dirname(under))
    directories = {posixpath.dirname(name) for name in names} - {""}
    problem = f"The {side} storage has no directory {under!r}."
    raise unknown(problem, _near(under, iter(directories)), FOR_EXAMPLE)


def _is_stored(storage: OperableStorage, side: str, name: str) -> bool:
    try:
        return bool(getattr(storage, side).exists(name))
    except Exception:  # the pass reports it for this name
        return True


def _recorded(rows: QueuedFileQuerySet) -> Iterator[str]:
    return iter(rows.order_by("-pk").values_list("name", flat=True)[:COMPARED])


def _stored(storage: OperableStorage, side: str, under: str) -> Iterator[str]:
    try:
        yield from islice(inventory.names_of(storage, side, under), COMPARED)
    except Exception:  # it cannot be listed, and this is only advice
        return


def _near(name: str, there_is: Iterator[str]) -> list[str]:
    """The names that are most like this one, or else the first ones."""
    names = list(there_is)
    return difflib.get_close_matches(name, names, n=LISTED, cutoff=0.6) or sorted(names[:LISTED])
