"""Read small objects by ``obstore``, after boto3 has read one of the same bucket.

boto3 reads every object for whose request it would send more headers, and every one that obstore
fails to read.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from ...reporting.logs import logger
from ...reporting.reasons import reason
from .bucket import Bucket
from .by_obstore import (
    NOT_KEPT,
    REST,
    SCOPE,
    UNEXPECTED,
    Credentials,
    connects_as_usual,
    has_equal_clients,
    is_ready_for,
    store_at,
)
from .small import SeenRequest, Watch

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Headers of a GET that do not change which bytes are returned
HARMLESS = {*NOT_KEPT, "x-amz-checksum-mode"}


class _Own(threading.local):
    """The fetchers of this thread: S3Storage has one client per thread."""

    def __init__(self) -> None:
        self.of_clients: Fetchers = WeakKeyDictionary()


Fetchers = WeakKeyDictionary[Any, "Fetcher"]
_own = _Own()
_of_storages: Fetchers = WeakKeyDictionary()


def fetch(bucket: Bucket, name: str, size: int, by_boto: Callable[[], bytes]) -> bytes:
    """Return a small object's bytes, by obstore if it is known to send boto3's requests."""
    fetcher, key = fetcher_for(bucket), bucket.key(name)
    data = fetcher.fetch(bucket, key, size)
    if data is not None:
        return data
    if fetcher.knows(bucket):
        return by_boto()
    with Watch(bucket.client, "GetObject") as request:
        data = by_boto()
    fetcher.learn(bucket, key, request)
    return data


def fetcher_for(bucket: Bucket) -> "Fetcher":
    """Return what may read instead of the client of this thread."""
    storage: Any = bucket.storage
    if has_equal_clients(storage):
        return _of_storages.setdefault(storage, Fetcher())
    return _own.of_clients.setdefault(bucket.client, Fetcher())


class Fetcher:
    """Reads small objects of the buckets of one storage."""

    def __init__(self) -> None:
        self._stores: dict[str, Any] = {}  # by bucket; None for one that boto3 must read
        self._get: Any = None
        self._failures: tuple[type[Exception], ...] = ()
        self._rest = 0  # objects that boto3 reads after one that obstore could not read

    def knows(self, bucket: Bucket) -> bool:
        return bucket.name in self._stores

    def fetch(self, bucket: Bucket, key: str, size: int) -> bytes | None:
        """Return an object of this size; None if boto3 must read it."""
        store = self._stores.get(bucket.name)
        if store is None or not is_ready_for(key):
            return None
        if self._rest:
            self._rest -= 1
            return None
        try:
            found = self._get(store, key)
            return bytes(found.bytes()) if found.meta["size"] == size else None
        except FileNotFoundError:
            return None  # boto3 reports it
        except self._failures:
            self._rest = REST
            return None

    def learn(self, bucket: Bucket, key: str, request: SeenRequest) -> None:
        """Record how boto3 read an object."""
        try:
            # Imported late, because children of a process that has imported it cannot use it.
            from obstore import get
            from obstore.exceptions import BaseError

            self._get, self._failures = get, (BaseError, OSError, TypeError, ValueError)
            self._stores[bucket.name] = self._store(bucket, key, request)
        except UNEXPECTED as error:
            logger.info("Small files are read without obstore: %s", reason(error))
            self._stores[bucket.name] = None

    @staticmethod
    def _store(bucket: Bucket, key: str, request: SeenRequest) -> Any:
        """Return obstore's store, or None if it would send another request."""
        headers = request.plain_headers()
        scope = SCOPE.match(headers.get("authorization", ""))
        suffix = f"/{quote(key)}"
        url = request.url.removesuffix("?x-id=GetObject")
        client: S3Client = bucket.client
        if not (scope and url.endswith(suffix) and headers.keys() <= HARMLESS):
            return None
        credentials = Credentials(request)
        is_same = connects_as_usual(bucket.storage, client) and (
            credentials()["access_key_id"] == scope[1]
        )
        place = url.removesuffix(suffix)
        config = client.meta.config
        return store_at(place, scope[2], {}, credentials, config) if is_same else None
