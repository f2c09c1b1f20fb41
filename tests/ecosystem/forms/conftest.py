import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.files.storage import storages
from django.test import Client
from PIL import Image

from queued_storage.backends import QueuedStorage
from queued_storage.ledger.aliases import registry
from queued_storage.testing import FaultyStorage


def pytest_configure() -> None:
    # An earlier run with the same process id may have left the directory.
    shutil.rmtree(settings.BASE, ignore_errors=True)
    (settings.BASE / "uploads").mkdir(mode=0o700, parents=True)


def pytest_unconfigure() -> None:
    shutil.rmtree(settings.BASE, ignore_errors=True)


@pytest.fixture(autouse=True)
def clean_slate(transactional_db: None) -> Iterator[None]:
    """Isolate the files, storages and call counts of each test, which commits for real."""
    before = registry.living_storages()
    yield
    registry.reset(keep=before)
    cache.clear()
    for directory in ("disk", "far"):
        shutil.rmtree(settings.BASE / directory, ignore_errors=True)
    storages["far"].calls.clear()
    storages["far"].fault = None
    assert not list((settings.BASE / "uploads").iterdir()), "an upload was left there"


@pytest.fixture
def storage() -> QueuedStorage:
    return storages["default"]


@pytest.fixture
def far(storage: QueuedStorage) -> FaultyStorage:
    """The remote. ``calls`` counts the calls of its methods."""
    return storage.remote


@pytest.fixture
def disk() -> Path:
    return settings.BASE / "disk"


@pytest.fixture
def admin(client: Client) -> Client:
    client.force_login(get_user_model().objects.create_superuser("admin"))
    return client


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(params=["MemoryFileUploadHandler", "TemporaryFileUploadHandler"])
def upload_handler(request: Any, settings: Any) -> str:
    """Django's two upload handlers: in memory and in a temporary file."""
    settings.FILE_UPLOAD_HANDLERS = [f"django.core.files.uploadhandler.{request.param}"]
    return request.param
