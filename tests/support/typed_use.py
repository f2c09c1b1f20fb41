"""Code of a project with type annotations. `make types` checks this file. It is never run."""

from typing import Any, assert_type

from django.core.files.storage import Storage

from queued_storage.backends import QueuedStorage
from queued_storage.fields import QueuedFieldFile, QueuedImageFieldFile
from queued_storage.models import QueuedFile
from queued_storage.tasks import Transfer
from tests.support.testapp.models import Paper, Photo


class Mine(Transfer):
    def transfer(self, name: str, local: Storage, remote: Storage, **kwargs: Any) -> bool:
        return super().transfer(name, local, remote, **kwargs)


def use_fields(paper: Paper, photo: Photo) -> bool:
    assert_type(paper.file, QueuedFieldFile)
    assert_type(photo.image, QueuedImageFieldFile)
    assert_type(photo.image.queued_file, QueuedFile | None)
    return paper.file.is_remote and paper.file.transfer().get(timeout=3, propagate=False)


def use_a_storage(name: str) -> str:
    storage = QueuedStorage("disk", "s3", alias="typed", delayed=True, task=Mine)
    assert_type(storage.queued_file(name), QueuedFile | None)
    assert_type(storage.transfer(name).state, str | None)
    storage.wait([name], timeout=5)
    with storage.local_path(name) as path:
        assert_type(path, str)
    return storage.urls([name])[name]
