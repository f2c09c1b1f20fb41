"""A storage for each thread, where a class has one connection that they must not share."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast

from django.core.files.storage import Storage

from .classes import dotted_path

# By name, so that no library is imported for a remote that is not used. FTP: the answer to one
# command is read by who sent another one, in a directory that a third one chose. SFTP: an answer
# that another thread has read is dropped, and who waits for it waits for ever.
ONE_CONNECTION = frozenset(
    {"storages.backends.ftp.FTPStorage", "storages.backends.sftpstorage.SFTPStorage"}
)
_KEPT_AS = "_queued_storage_per_thread"


def for_threads(storage: Storage) -> Storage:
    """The storage, or what several threads can use in its place."""
    cls: Any = type(storage)
    if not _has_one_connection(cls):
        return storage
    kept = vars(storage)
    return cast(Storage, kept.get(_KEPT_AS) or kept.setdefault(_KEPT_AS, PerThread(storage)))


@lru_cache(100)
def _has_one_connection(cls: type[Storage]) -> bool:
    return any(dotted_path(base) in ONE_CONNECTION for base in cls.__mro__)


class _Connected:
    """The storage of one thread. It is closed when the thread has ended, or drops it."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.process = os.getpid()

    def is_ours(self) -> bool:
        """Not of the process that this one was forked from."""
        return self.process == os.getpid()

    def __del__(self) -> None:
        if self.is_ours():
            # FTP's connection; SFTP has a close() of its own
            connection = vars(self.storage).get("_connection") or self.storage
            with suppress(Exception):
                connection.close()


class _Own(threading.local):
    connected: _Connected | None = None


class PerThread(Storage):
    """Passes each call on to a storage of the calling thread, made as ``storage`` was.

    After an error that storage is dropped with its connection: what was cut off in the middle
    would be in the way of the next call.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._threads = _Own()

    def __getstate__(self) -> dict[str, Any]:
        """A copy has connections of its own."""
        return {"storage": self.storage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _threads=_Own())

    def __getattr__(self, attribute: str) -> Any:
        if attribute in {"storage", "_threads"}:  # not there yet: while this is copied
            raise AttributeError(attribute)
        return getattr(self._own(), attribute)

    def open(self, name: str, mode: str = "rb") -> Any:
        file = self._passed_on("open", name, mode)
        for method in ("read", "readlines", "close"):  # some ask the remote only now
            with suppress(AttributeError):  # a property, which passes on to what is read
                setattr(file, method, self._guarded(getattr(file, method)))
        return file

    def _own(self) -> Any:
        connected = self._threads.connected
        if connected is None or not connected.is_ours():
            args, options = cast(Any, self.storage)._constructor_args
            connected = _Connected(type(self.storage)(*args, **options))
            self._threads.connected = connected
        return connected.storage

    def _passed_on(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._guarded(getattr(self._own(), method))(*args, **kwargs)

    def _guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except (FileNotFoundError, NotImplementedError):
                raise  # answers like others
            except BaseException:
                self._threads.connected = None
                raise

        return guarded


def _method(name: str) -> Callable[..., Any]:
    def method(self: PerThread, *args: Any, **kwargs: Any) -> Any:
        return self._passed_on(name, *args, **kwargs)

    method.__name__ = name
    return method


for _name in ("delete", "exists", "listdir", "path", "save", "size", "url"):
    setattr(PerThread, _name, _method(_name))
for _name in ("get_accessed_time", "get_created_time", "get_modified_time"):
    setattr(PerThread, _name, _method(_name))
for _name in ("generate_filename", "get_alternative_name", "get_available_name", "get_valid_name"):
    setattr(PerThread, _name, _method(_name))
