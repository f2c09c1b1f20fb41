"""A remote that renames files as Dropbox does with ``autorename``."""

import itertools
from pathlib import PurePosixPath
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import Storage
from django.utils import timezone


class NotFound(Exception):
    """An error like Dropbox's ``ApiError``, which is not a ``FileNotFoundError``."""


class RenamingStorage(Storage):
    """A storage that ignores case, never overwrites, and renames the second file to "name (1)".

    Deleting a file that does not exist raises an error.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[str, bytes, Any]] = {}

    def save(self, name: str | None, content: Any, max_length: int | None = None) -> str:
        data = b"".join(content.chunks())
        free = next(each for each in _candidates(str(name)) if each.lower() not in self._files)
        self._files[free.lower()] = (free, data, timezone.now())
        return free

    def delete(self, name: str) -> None:
        self._found(name)
        del self._files[name.lower()]

    def exists(self, name: str) -> bool:
        return name.lower() in self._files

    def size(self, name: str) -> int:
        return len(self._found(name)[1])

    def get_modified_time(self, name: str) -> Any:
        return self._found(name)[2]

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        inside = [PurePosixPath(name) for name, _data, _time in self._files.values()]
        here = [each.relative_to(path) for each in inside if each.is_relative_to(path)]
        directories = {each.parts[0] for each in here if len(each.parts) > 1}
        return sorted(directories), [str(each) for each in here if len(each.parts) == 1]

    def url(self, name: str | None) -> str:
        return f"https://far.example/{name}"

    def _open(self, name: str, mode: str = "rb") -> ContentFile:
        return ContentFile(self._found(name)[1], name)

    def _found(self, name: str) -> tuple[str, bytes, Any]:
        try:
            return self._files[name.lower()]
        except KeyError:
            raise NotFound("path_lookup/not_found") from None


def _candidates(name: str) -> Any:
    path = PurePosixPath(name)
    yield name
    for number in itertools.count(1):
        yield str(path.with_name(f"{path.stem} ({number}){path.suffix}"))
