"""The file in the root of a local storage that names the ledgers which keep files there."""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from ..conf import settings
from ..ledger.names import RESERVED
from .flushing import flush_directories, flush_file
from .localfiles import unfinished_name

MARKER = RESERVED
IDS_MAX = 100  # the newest: the databases of test runs leave one each
_HEAD = (
    "# django-queued-storage: the ledgers that keep files in this directory. Do not delete this "
    "file:\n# without it, the directory is taken for a mount point whose volume is not mounted.\n"
)


class Stamp(NamedTuple):
    """What differs if another marker, or a newer one, is there."""

    device: int
    inode: int
    modified: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns)


def path_in(root: str) -> str:
    return os.path.join(root, MARKER)


def look(root: str) -> Stamp:
    """Return the stamp of the marker, with one system call; raise ``OSError`` without one."""
    return Stamp.of(os.stat(path_in(root)))


def read(root: str) -> tuple[Stamp, list[str]]:
    """Return the marker's stamp and the ids in it; raise ``OSError`` without one."""
    with open(path_in(root), encoding="ascii", errors="replace") as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        lines = [line.strip() for line in file]
    return stamp, [line for line in lines if line and not line.startswith("#")]


def add(root: str, ledger: str, directory_mode: int | None = None) -> None:
    """Add the id of a ledger, and make the directory if need be.

    A marker is complete whenever it is visible. If another ledger adds its id at the same moment,
    one of the two ids may be lost; the process that misses it adds it again.
    """
    _make_directory(root, directory_mode)
    known: list[str] = []
    with suppress(FileNotFoundError):
        known = read(root)[1]
    _write(root, [*(each for each in known if each != ledger), ledger][-IDS_MAX:])


def _write(root: str, ids: Iterable[str]) -> None:
    draft = os.path.join(root, unfinished_name(MARKER))
    try:
        with open(draft, "x", encoding="ascii") as file:
            file.write(_HEAD + "".join(f"{each}\n" for each in ids))
        os.chmod(draft, 0o644)  # it holds no secret, and workers may run as another user
        if settings.fsync:
            flush_file(draft)
        os.replace(draft, path_in(root))
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise
    if settings.fsync:
        flush_directories(path_in(root), levels=1)


def _make_directory(path: str, mode: int | None) -> None:
    """Make a directory and its parents with the mode that the storage gives to new ones."""
    if os.path.isdir(path):
        return
    _make_directory(os.path.dirname(path), mode)
    with suppress(FileExistsError):
        os.mkdir(path)
        if mode is not None:
            os.chmod(path, mode)
