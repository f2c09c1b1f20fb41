"""The keys, parameters and client that ``S3Storage.save()`` uses."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from boto3.s3.transfer import TransferConfig
from storages.utils import clean_name

from ...remotes.refusals_s3 import KEY_MAX_BYTES, require_short

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3Remote(Protocol):
    """What is used of django-storages' ``S3Storage``."""

    bucket_name: str
    connection: Any
    endpoint_url: str | None
    location: str
    region_name: str | None
    session_profile: str | None
    transfer_config: TransferConfig
    verify: bool | str | None

    def get_object_parameters(self, name: str) -> dict[str, Any]: ...

    # S3Storage has no public methods for the key of a name and the parameters of save(). Computed
    # here, they would differ from those of a subclass that overrides them.
    def _normalize_name(self, name: str) -> str: ...
    def _get_write_parameters(self, name: str, content: object = None) -> dict[str, Any]: ...


class Place(TypedDict):
    """The parameters that name an object."""

    Bucket: str
    Key: str


MISSING = ("NoSuchKey", "NoSuchVersion")  # error codes by which the bucket has no such object
SEEN_FOR = 60.0  # seconds for which a bucket that the server has named is taken to exist
_seen: dict[tuple[str | None, str], float] = {}  # when the server has last named a bucket


class Bucket:
    """The objects of one storage. Creating an instance is cheap.

    It is for the work on one file, since the keys of a storage may depend on the thread.
    """

    def __init__(self, storage: S3Remote) -> None:
        self.storage = storage
        self._last = ("", "")  # the name that was asked for last, and its key

    @property
    def name(self) -> str:
        return self.storage.bucket_name

    @property
    def client(self) -> "S3Client":
        """The client of this thread."""
        client: S3Client = self.storage.connection.meta.client
        return client

    @property
    def was_seen(self) -> bool:
        """Whether it existed a short while ago, so that an answer is about the object."""
        at = _seen.get((self.storage.endpoint_url, self.name))
        return at is not None and time.monotonic() - at < SEEN_FOR

    def note_seen(self) -> None:
        _seen[self.storage.endpoint_url, self.name] = time.monotonic()

    def key(self, name: str) -> str:
        known, key = self._last
        if not key or name != known:
            key = self.storage._normalize_name(clean_name(name))
            self._last = name, key
        return key

    def place(self, name: str) -> Place:
        """Return the parameters that name an object; raise ``NameTooLong`` if S3 allows no such
        key."""
        key = self.key(name)
        require_short(key)
        return {"Bucket": self.name, "Key": key}

    def allows(self, name: str) -> bool:
        """Return whether an object of this name can exist."""
        return len(self.key(name).encode()) <= KEY_MAX_BYTES

    def parameters(self, name: str, content: object = None) -> dict[str, Any]:
        """Return the parameters that ``save()`` sends, except those that name the object."""
        return self.storage._get_write_parameters(self.key(name), content)

    def customer_key(self, name: str) -> dict[str, Any]:
        """Return the parameters that reading requires if the project has its own key."""
        parameters = self.storage.get_object_parameters(name)
        return {key: value for key, value in parameters.items() if key.startswith("SSECustomer")}

    def names(self, under: str = "") -> Iterator[str]:
        """Yield the names page by page, while ``listdir()`` keeps a directory in memory."""
        root, prefix = self._directory(""), self._directory(under)
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        for key in (each["Key"] for page in pages for each in page.get("Contents", ())):
            if not key.endswith("/"):
                yield key[len(root) :]

    def _directory(self, name: str) -> str:
        key = self.key(name).strip("/")
        return f"{key}/" if key else ""
