"""Tells where a storage really keeps its files, and whether two storages share a place."""

import getpass
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from inspect import getattr_static
from itertools import takewhile
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage
from django.utils.functional import LazyObject

from ..reporting.descriptions import describe, is_describable
from .classes import dotted_path, known_of
from .expiry import AZURE, GCLOUD, S3
from .layers import itself

FILE_SYSTEM = "file system"
MEMORY = "memory"
OTHER = "other"
UNKNOWN = "unknown"
QUEUED = "queued"  # the final places of a queued storage
IN_PROCESS = frozenset({FILE_SYSTEM, MEMORY, OTHER, UNKNOWN})  # kinds that need no library
SFTP = "storages.backends.sftpstorage.SFTPStorage"
FTP = "storages.backends.ftp.FTPStorage"
AMAZON = "amazonaws.com"
_KEPT_AS = "_queued_storage_endpoint"  # the endpoint of the environment, in the storage itself
_PROBE = "queued-storage"  # a name, to see where a storage would put a file
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS = {"http": 80, "https": 443}
# As FTPStorage reads its option location, which also holds the password
_FTP_URL = re.compile(r"^[^:]+://([^:]+):.+@(.+):(\d+)/(.*)$")


class Place(NamedTuple):
    """Where a storage keeps its files, without secrets.

    It is read from the storage as it was made: options, settings and defaults may differ and yet
    lead to one bucket.
    """

    kind: str  # such as "s3" or FILE_SYSTEM
    home: str  # what holds the root: a host and a bucket, or an account and a container
    root: str = ""  # the path of all files in it
    only: int = 0  # the storage's id(), if nothing else tells it from others of its class

    @property
    def description(self) -> str:
        """The place in one line."""
        if self.kind == FILE_SYSTEM:
            return self.root
        if self.kind == QUEUED:
            return self.home
        return f"{self.kind}://{self.home}/{self.root.lstrip('/')}".rstrip("/")

    @property
    def digest(self) -> int:
        """A positive number of 63 bits that the ledger knows the place by; 0 if nothing tells the
        place from others in another process."""
        return 0 if self.only else _digest_of(self)


@lru_cache(1000)  # each save asks for it
def _digest_of(place: Place) -> int:
    text = "\0".join((place.kind, place.home, place.root))
    found = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(found) >> 1 or 1


def place_of(storage: Storage) -> Place:
    """Return the place of a storage that is not a queued one.

    It is computed in a few microseconds and makes no request.
    """
    if isinstance(storage, LazyObject) or hasattr(storage, "storage"):
        storage = itself(storage)
    given = getattr(storage, "queued_storage_place", None)
    if given is not None:
        return Place(OTHER, str(given))
    cls: Any = type(storage)
    if rule := _rule_of(cls):
        return rule(storage)
    if isinstance(storage, InMemoryStorage):
        return _of_this_process(MEMORY, storage)
    if isinstance(storage, FileSystemStorage):
        return Place(FILE_SYSTEM, "", _directory_of(storage))
    if is_describable(storage):
        return Place(OTHER, json.dumps(describe(storage), sort_keys=True, default=repr))
    return _of_this_process(UNKNOWN, storage)


@lru_cache(1000)
def _rule_of(cls: type) -> Callable[[Any], Place] | None:
    return next(known_of(cls, _RULES), None)


def has_fixed_place(storage: Storage) -> bool:
    """Return whether the place of a storage is certainly the same in every thread.

    Nothing is known of the methods and properties of other classes: one may return the directory
    of the tenant whose request the thread processes.
    """
    storage = itself(storage)
    given = getattr_static(storage, "queued_storage_place", None)
    if given is not None:
        return not hasattr(type(given), "__get__")
    classes = type(storage).__mro__
    own = list(takewhile(lambda cls: not _is_known(cls), classes))
    return len(own) < len(classes) and all(map(_only_sets_attributes, own))


def _is_known(cls: type) -> bool:
    return cls is FileSystemStorage or cls is InMemoryStorage or dotted_path(cls) in _RULES


def _only_sets_attributes(cls: type) -> bool:
    return not any(
        hasattr(type(value), "__get__") and not name.startswith("__annotat")  # of Python 3.14
        for name, value in vars(cls).items()
    )


def same_place(one: Place, other: Place) -> bool:
    """Return whether both places have the same files under the same names."""
    if one.kind == other.kind == FILE_SYSTEM:
        return _is_same_directory(one.root, other.root)
    return one == other


def holds(one: Place, other: Place) -> bool:
    """Return whether the files of ``other`` are among those of ``one``: the same, or below it."""
    if (one.kind, one.home, one.only) != (other.kind, other.home, other.only):
        return False
    if one.kind == FILE_SYSTEM:
        return any(_is_same_directory(one.root, path) for path in _with_parents(other.root))
    return _slashed(other.root).startswith(_slashed(one.root))


def path_inside(one: Place, other: Place) -> str:
    """Return the path from the root of ``one`` to that of ``other``; "" if it is not below."""
    if same_place(one, other) or not holds(one, other):
        return ""
    if one.kind != FILE_SYSTEM:
        return other.root.removeprefix(_slashed(one.root)).strip("/")
    root = next(path for path in _with_parents(other.root) if _is_same_directory(one.root, path))
    return os.path.relpath(os.path.realpath(other.root), root)


@lru_cache(1000)  # each attempt to transfer a file asks for it
def are_apart(one: Place, other: Place) -> bool:
    """Return whether no file of one place is a file of the other.

    The answer is kept: a directory that becomes a link later is noticed by the process that starts
    next, and by the comparison of the two files before an eviction.
    """
    return not holds(one, other) and not holds(other, one)


def _of_this_process(kind: str, storage: Storage) -> Place:
    cls = type(storage)
    return Place(kind, f"{cls.__module__}.{cls.__qualname__}", only=id(storage))


def _slashed(root: str) -> str:
    return f"{root.rstrip('/')}/" if root else ""


# Directories


def _directory_of(storage: FileSystemStorage) -> str:
    if type(storage).path is not FileSystemStorage.path:
        with suppress(Exception):  # it may require a name of its own kind
            directory, found = os.path.split(storage.path(_PROBE))
            if found == _PROBE:
                return os.path.abspath(directory)
    return os.path.abspath(storage.location)


def _is_same_directory(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one does not exist yet
        return os.path.realpath(one) == os.path.realpath(other)


def _with_parents(path: str) -> Iterator[str]:
    path = os.path.realpath(path)
    while True:
        yield path
        parent = os.path.dirname(path)
        if parent == path:
            return
        path = parent


# Clouds and servers


def _of_s3(storage: Any) -> Place:
    url = storage.endpoint_url or getattr(storage, _KEPT_AS, None)
    if url is None:
        url = _endpoint_of_environment(storage)
    return _s3_place(url, storage.bucket_name, storage.location)


@lru_cache(1000)  # each url() asks for it
def _s3_place(url: str, bucket_name: str, location: str | None) -> Place:
    host = _s3_host(url) if url else AMAZON
    return Place("s3", f"{host}/{bucket_name}", _path_of(location))


def _endpoint_of_environment(storage: Storage) -> str:
    """Return the endpoint that boto3 reads from the environment. The storage connects once, so what
    was there at the first look is kept."""
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    url = next(filter(None, map(os.environ.get, variables)), "")
    return str(vars(storage).setdefault(_KEPT_AS, url))


def _s3_host(url: str) -> str:
    host = _host(url)
    # A bucket has the same name at every endpoint of Amazon's.
    is_amazon = host.removesuffix(".cn").endswith(f".{AMAZON}")
    return AMAZON if is_amazon else host


def _of_gcloud(storage: Any) -> Place:
    return Place("google", str(storage.bucket_name), _folder(storage))


def _of_azure(storage: Any) -> Place:
    parts = (part.partition("=") for part in (storage.connection_string or "").split(";"))
    given = {key.strip().lower(): value.strip() for key, _equals, value in parts}
    account = given.get("accountname") or storage.account_name
    suffix = given.get("endpointsuffix") or storage.endpoint_suffix
    host = f"{account}.blob.{suffix}"
    if endpoint := given.get("blobendpoint"):
        host = f"{_host(endpoint)}{urlsplit(endpoint).path.rstrip('/')}"
    elif given.get("usedevelopmentstorage", "").lower() == "true":
        host = "localhost:10000/devstoreaccount1"
    return Place("azure", f"{host.lower()}/{storage.azure_container}", _folder(storage))


def _of_sftp(storage: Any) -> Place:
    params = storage.params or {}
    user = params.get("username") or getpass.getuser()  # as the storage does
    home = f"{user}@{_plain_host(storage.host)}:{params.get('port') or 22}"
    return Place("sftp", home, _on_server(storage.root_path))


def _of_ftp(storage: Any) -> Place:
    found = _FTP_URL.search(str(storage.location))
    user, host, port, path = found.groups() if found else ("", "", "", "")
    return Place("ftp", f"{user}@{_plain_host(host)}:{port}", _on_server(path))


def _host(url: str) -> str:
    """Return the host and the port of a URL, the port only if it is not that of the scheme."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    host = _plain_host(parts.hostname or "")
    is_usual = parts.port is None or parts.port == _PORTS.get(parts.scheme)
    return host if is_usual else f"{host}:{parts.port}"


def _plain_host(host: object) -> str:
    name = str(host).lower().rstrip(".")
    return "localhost" if name in _LOOPBACK else name


def _folder(storage: Any) -> str:
    return _path_of(storage.location)


def _path_of(location: str | None) -> str:
    """Return the option ``location`` as a path without slashes around it."""
    return posixpath.normpath(f"/{location or ''}").strip("/")


def _on_server(path: object) -> str:
    """Return a directory on a server; ``~`` is the one in which the user's session begins."""
    return posixpath.normpath(posixpath.join("~", str(path or ""))).replace("//", "/")


_RULES: dict[str, Callable[[Any], Place]] = {
    S3: _of_s3,
    GCLOUD: _of_gcloud,
    AZURE: _of_azure,
    SFTP: _of_sftp,
    FTP: _of_ftp,
}
