"""A storage for each thread, if its class has a single connection."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol, cast

from django.core.files.storage import Storage

from .classes import dotted_path

# FTP and SFTP storages share one connection between threads, which mixes up replies: with FTP, a
# thread reads the reply to another thread's command; with SFTP, a reply that the wrong thread reads
# is dropped, and its own thread waits forever. By name, so that a library is imported only if it is
# used.
ONE_CONNECTION = frozenset(
    {"storages.backends.ftp.FTPStorage", "storages.backends.sftpstorage.SFTPStorage"}
)
_KEPT_AS = "_queued_storage_per_thread"


def for_threads(storage: Storage) -> Storage:
    """Return the storage, or what several threads can use instead."""
    cls: Any = type(storage)
    if not _has_one_connection(cls):
        return storage
    kept = vars(storage)
    return cast(Storage, kept.get(_KEPT_AS) or kept.setdefault(_KEPT_AS, PerThread(storage)))


@lru_cache(100)
def _has_one_connection(cls: type[Storage]) -> bool:
    return any(dotted_path(base) in ONE_CONNECTION for base in cls.__mro__)


class Deconstructible(Protocol):
    """A storage that tells with which arguments it was created."""

    def deconstruct(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]: ...


class _Connected:
    """The storage of one thread. It is closed when the thread ends or replaces it."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.process = os.getpid()

    def is_ours(self) -> bool:
        """Return whether this process opened it, and not the one that it was forked from."""
        return self.process == os.getpid()

    def __del__(self) -> None:
        if self.is_ours():
            # SFTPStorage has close(). FTPStorage has only disconnect(), which waits for the server.
            connection = vars(self.storage).get("_connection") or self.storage
            with suppress(Exception):
                connection.close()


class _Own(threading.local):
    connected: _Connected | None = None


class PerThread(Storage):
    """Passes each call on to a storage of the calling thread, with the arguments of ``storage``.

    After an error that storage is dropped along with its connection, because replies to the
    interrupted call could follow.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._threads = _Own()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connections: a copy opens its own."""
        return {"storage": self.storage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _threads=_Own())

    def __getattr__(self, attribute: str) -> Any:
        if attribute in {"storage", "_threads"}:  # they do not exist yet, while this is copied
            raise AttributeError(attribute)
        return getattr(self._own(), attribute)

    def open(self, name: str, mode: str = "rb") -> Any:
        file = self._passed_on("open", name, mode)
        for method in ("read", "readlines", "close"):  # some storages send requests only now
            with suppress(AttributeError):  # a property, which forwards to the file that is read
                setattr(file, method, self._guarded(getattr(file, method)))
        return file

    def _own(self) -> Any:
        connected = self._threads.connected
        if connected is None or not connected.is_ours():
            _path, args, options = cast(Deconstructible, self.storage).deconstruct()
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
                raise  # complete replies
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
