"""Lists the directories and files of both storages."""

from django.core.files.storage import Storage

from ..files import localfiles
from ..ledger.database import ledger
from ..ledger.names import Name, is_own, tidy
from ..ledger.states import State, is_unpublished


class Listing:
    """One directory of a queued storage."""

    def __init__(self, alias: str, path: Name | None, *, shows_unpublished: bool = True) -> None:
        self._alias = alias
        self._shows_unpublished = shows_unpublished
        self._path = path
        directory = tidy(path or "")
        self._directory = "" if directory == "." else directory
        self._prefix = f"{self._directory}/" if self._directory else ""
        self._directories: set[str] = set()
        self._files: set[str] = set()

    def read(self, *storages: Storage) -> tuple[list[str], list[str]]:
        """Return the directories and files of these storages, and those of the ledger."""
        exists = [self._add(storage) for storage in storages]
        self._apply_ledger()
        if not any(exists) and not self._directories and not self._files:
            raise FileNotFoundError(f"The directory {self._path!r} does not exist.")
        directories = {name for name in self._directories if not is_own(self._prefix + name)}
        visible = {name for name in self._files if not localfiles.is_unfinished(name)}
        return sorted(directories), sorted(visible)

    def _add(self, storage: Storage) -> bool:
        """Add what a storage has; return whether the directory exists there."""
        try:
            directories, files = storage.listdir(self._directory)
        except FileNotFoundError:
            return False
        self._directories.update(directories)
        self._files.update(files)
        return True

    def _apply_ledger(self) -> None:
        """Drop deleted files and the other names of files on the remote; add what only the ledger
        knows."""
        found = ledger().filter(alias=self._alias, name__startswith=self._prefix)
        rows = list(found.values_list("name", "remote_name", "state", "is_local"))
        names = {name.removeprefix(self._prefix) for name, *_others in rows}
        for name, remote_name, state, is_local in rows:
            if not name.startswith(self._prefix):  # SQLite compares without case
                continue
            first, _slash, rest = name.removeprefix(self._prefix).partition("/")
            is_hidden = is_unpublished(state, is_local) and not self._shows_unpublished
            if state == State.DELETING or is_hidden:
                self._files.discard(first if not rest else "")
            else:
                (self._directories if rest else self._files).add(first)
            other = remote_name.removeprefix(self._prefix)
            if remote_name and remote_name != name and other not in names:
                self._files.discard(other)
