"""Which texts can be names of files."""

import posixpath
import re
from functools import lru_cache
from os import PathLike
from typing import NamedTuple, NoReturn, Self

from ..exceptions import InvalidName
from .models import NAME_MAX_BYTES, NAME_MAX_LENGTH

COMPONENT_MAX_BYTES = 255  # on the file systems in use
RESERVED_PREFIX = ".queued-"  # of files that are still being written
# The marker of a local root; what the package keeps at the root of either side begins with it.
RESERVED = ".queued-storage"
WRITER_NAME = f"{RESERVED}-writer"  # says which ledger overwrites and removes files of a remote
GATE_PREFIX = f"{RESERVED}-gate-"  # of bytes that are not published, or in quarantine
PROBE_NAME = f"{RESERVED}-probe"  # written to find out whether a remote takes files
# As remotes may spell them that drop the dot at the beginning, and with what Django adds to a name
# that is taken.
_DOTLESS = re.compile(r"queued-storage-(probe|writer)(_[a-z0-9]{7})?", re.IGNORECASE)
LEADS_OUT = "it leads out of the storage; use a relative name without '..'"

Name = str | PathLike[str]


class StoredName(NamedTuple):
    """The name of a file, validated once for one operation."""

    text: str  # in its one spelling
    problem: str  # why the ledger cannot have a row of this name, or ""

    @classmethod
    def of(cls, name: Name) -> Self:
        """Return the name of a file that may exist; nothing is refused."""
        return _stored(str(name))  # type: ignore[return-value]  # nobody subclasses it

    @classmethod
    def new(cls, name: Name | None, *, on_file_system: bool) -> Self:
        """Return the name of a file to be written.

        Raises ``InvalidName`` for a name that cannot be kept, and for one whose tidied spelling
        would hide a mistake.
        """
        # The name of a temporary file may be a number or bytes.
        if name is None or isinstance(name, int | bytes):
            _refuse(name, "it is not a string; give the file a name")
        given = str(name).replace("\\", "/")
        if ".." in given.split("/"):
            _refuse(given, LEADS_OUT)
        if given.endswith("/"):
            _refuse(given, "it is the name of a directory; add the name of the file")
        stored = cls.of(given)
        problem = stored.problem
        if not problem and on_file_system:
            problem = _problem_of_parts(stored.text)
        if not problem and is_reserved(stored.text):
            problem = (
                f"names starting with {RESERVED_PREFIX!r} are reserved for unfinished files and "
                f"markers; choose another name"
            )
        if problem:
            _refuse(stored.text, problem)
        return stored

    @property
    def can_be_recorded(self) -> bool:
        """Whether the ledger can have a row of this name; any other never reaches the database."""
        return not self.problem


def tidy(name: Name) -> str:
    """Return the one spelling of a name: forward slashes, no ``./`` and no ``//``."""
    text = str(name).replace("\\", "/")
    return posixpath.normpath(text) if text else text


@lru_cache(1000)  # a page shows the same files again and again
def _stored(name: str) -> StoredName:
    """Return a name in its one spelling, and why the ledger cannot have it."""
    text = tidy(name)
    return StoredName(text, _problem(text))


def can_be_recorded(name: str) -> bool:
    """Return whether a row can have this (tidied) name; any other never reaches the database."""
    return not _problem(name)


def is_reserved(name: str) -> bool:
    """Return whether no file of a user can have this name: the package uses it."""
    return is_own(name) or posixpath.basename(name).startswith(RESERVED_PREFIX)


@lru_cache(1000)  # for the same reason
def is_own(name: str) -> bool:
    """Return whether the (tidied) name is that of a marker or of a probe, or of what is below one.

    These are in the root of a storage, which may be a directory of another one. No method gives,
    lists or deletes them. A file system may ignore case, and Azure drops a dot in its own root.
    """
    return f"/{RESERVED}" in f"/{name}".casefold() or bool(_DOTLESS.fullmatch(name))


def extension_of(file_name: str) -> str:
    """Return the extension for a hidden name; "" for one that would make it too long."""
    extension = posixpath.splitext(file_name)[1]
    return extension if len(extension.encode()) <= 32 else ""


def _problem(name: str) -> str:
    if not name or name == ".":
        return "it is empty; give the file a name"
    if "\0" in name:
        return "it contains a NUL character; remove it"
    if name.startswith("/") or ".." in name.split("/"):
        return LEADS_OUT
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode; decode it properly first"
    if len(name) > NAME_MAX_LENGTH or size > NAME_MAX_BYTES:
        return f"it has {len(name)} characters, but the ledger takes at most {NAME_MAX_LENGTH}"
    return ""


def _problem_of_parts(name: str) -> str:
    longest = max(len(part.encode()) for part in name.split("/"))
    if longest <= COMPONENT_MAX_BYTES:
        return ""
    return (
        f"one part has {longest} bytes in UTF-8, but file systems take at most "
        f"{COMPONENT_MAX_BYTES}; shorten it"
    )


def _refuse(name: object, problem: str) -> NoReturn:
    shown = repr(name)
    shown = shown if len(shown) <= 80 else shown[:77] + "…"
    raise InvalidName(f"{shown} cannot be the name of a stored file: {problem}.")
